"""Backpropagation through the deterministic sampler."""

from collections.abc import Callable

import torch as th

from ogpo_sb3.critics import aggregate


def bptt_loss(
    sample: Callable[[th.Tensor], th.Tensor],
    values: Callable[[th.Tensor], th.Tensor],
    noise: th.Tensor,
    q_agg: str = "mean",
) -> th.Tensor:
    """
    The reparameterised policy gradient (OGPO section 3, H.1): L = - mean_n Agg_m Q_m(s, ODE(s, z_n)).

    The gradient runs through the critics and all K steps of the sampler; the paper finds that it explodes.

    :param sample: (B * n, D) initial noise, n per state and adjacent, to actions in [-1, 1], with gradient
    :param values: (B, n, D) actions to (M, B, n) values, differentiable
    :param noise: (B, n, D) standard normal
    :param q_agg: how heads are combined, see :func:`ogpo_sb3.critics.aggregate`
    :return: scalar
    :raises ValueError: the sampler's actions have no gradient
    """
    actions = sample(noise.flatten(0, 1))
    if not actions.requires_grad:
        raise ValueError("extraction='bptt' differentiates through the sampler, found one whose actions have no gradient")
    return -aggregate(values(actions.view(noise.shape)), q_agg).mean()
