"""One-step distillation of a generative policy (FQL)."""

import torch as th

from ogpo_sb3.critics import aggregate


def distillation_loss(
    actions: th.Tensor, sampled: th.Tensor, q: th.Tensor, alpha: float, q_agg: str, q_weight: float | th.Tensor = 1.0
) -> tuple[th.Tensor, th.Tensor, th.Tensor]:
    """
    FQL (Park, Li and Levine 2025): L = alpha mean_d (mu(s, z) - ODE(s, z))^2 - Agg_m Q_m(s, clip mu(s, z)).

    :param actions: (B, D) mu(s, z), with gradient
    :param sampled: (B, D) of the generative policy from the same latents
    :param q: (M, B) values of the clamped ``actions``, with gradient
    :param alpha: coefficient of the distillation
    :param q_agg: how heads are combined, see :func:`ogpo_sb3.critics.aggregate`
    :param q_weight: factor on the second term
    :return: three scalars: loss, distance to the generative policy, value
    """
    distance = (actions - sampled.detach()).square().mean()
    value = aggregate(q, q_agg).mean()
    return alpha * distance - q_weight * value, distance, value
