"""The clipped surrogate over denoising chains."""

from collections.abc import Callable, Iterable
from typing import NamedTuple

import torch as th

from ogpo_sb3.extraction.blocks import backward_in_blocks


def ppo_clip_loss(
    log_prob: th.Tensor, old_log_prob: th.Tensor, advantage: th.Tensor, clip_range: float | th.Tensor
) -> th.Tensor:
    """
    OGPO's objective (equations 3.2-3.3): one ratio per *chain*, current over EMA policy.

    L = - mean min( r A, clip(r, 1 - eps, 1 + eps) A ),  r = exp(log_prob - old_log_prob)

    :param log_prob: (B, G) (or any shape) chain log-likelihood under the current policy, with gradient
    :param old_log_prob: same shape, under the policy that drew the chains
    :param advantage: same shape, no gradient
    :param clip_range: eps, on the ratio as normalised by the policy's ``ratio_norm``
    :return: scalar
    """
    ratio = th.exp(log_prob - old_log_prob.detach())
    advantage = advantage.detach()
    clipped = th.clamp(ratio, 1.0 - clip_range, 1.0 + clip_range)  # type: ignore[arg-type]  # numbers or tensors
    return -th.min(ratio * advantage, clipped * advantage).mean()


class Surrogate(NamedTuple):
    """
    What is known of an update after :func:`ppo_clip_backward`.

    :param loss: scalar, :func:`ppo_clip_loss` over all chains
    :param log_ratio: (n',) current minus old log-likelihood of the chains that were scored
    :param clipped: (n',) true where a scored chain's ratio left the interval on its advantage's side: it has no gradient
    :param moved: (n',) true where a scored chain has an advantage; of fixed shapes (a GPU) all are scored
    """

    loss: th.Tensor
    log_ratio: th.Tensor
    clipped: th.Tensor
    moved: th.Tensor

    def statistics(self, n: int, clip_range: float | th.Tensor) -> dict[str, th.Tensor]:
        """
        What is logged of the ratios r of the chains that have an advantage; zeros where none has.

        :param n: number of chains drawn
        :param clip_range: eps
        """
        moved = self.moved.float()
        count = moved.sum().clamp(min=1.0)
        ratio = self.log_ratio.exp()
        mean = (ratio * moved).sum() / count
        return dict(
            ratio_mean=mean,
            ratio_std=((ratio - mean).square() * moved).sum().div(count).sqrt(),
            approx_kl=((ratio - 1.0 - self.log_ratio) * moved).sum() / count,
            clip_fraction=(((ratio - 1.0).abs() > clip_range) * moved).sum() / count,
            gradient_fraction=(~self.clipped & self.moved).sum() / n,
        )


def ppo_clip_backward(
    log_prob_of: Callable[[th.Tensor, th.Tensor], th.Tensor],
    condition: th.Tensor,
    old_log_prob: th.Tensor,
    advantage: th.Tensor,
    clip_range: float | th.Tensor,
    blocks: Callable[[int], Iterable[slice]] | None = None,
) -> Surrogate:
    """
    :func:`ppo_clip_loss` and its gradient, at the cost of the chains that have one.

    Chains whose advantage is zero (with conservative advantages most of them) neither change the loss nor have a gradient:
    they are not scored. The others are scored block by block, each block's gradient being added to the parameters' at once,
    so that no more than one block's activations are held. The result is that of one pass over all chains, to rounding.

    :param log_prob_of: (condition, chains) to the (n',) log-likelihoods of the chains with these numbers, with gradient
    :param condition: (S, C) what all chains of a state share; its own backward pass is done once, at the end
    :param old_log_prob: (n,) under the policy that drew the chains
    :param advantage: (n,), no gradient
    :param clip_range: eps, on the ratio as normalised by the policy's ``ratio_norm``
    :param blocks: cuts a number of chains into blocks; None for a fixed shape: all chains at once, those without advantage too
    """
    n = len(advantage)
    scored = th.arange(n, device=advantage.device) if blocks is None else advantage.nonzero()[:, 0]
    log_ratios = []

    def share(shared: th.Tensor, chains: th.Tensor) -> th.Tensor:
        log_prob = log_prob_of(shared, chains)
        log_ratios.append(log_prob.detach() - old_log_prob[chains])
        return ppo_clip_loss(log_prob, old_log_prob[chains], advantage[chains], clip_range) * (len(chains) / n)

    loss = backward_in_blocks(share, condition, scored, blocks)
    log_ratio = th.cat(log_ratios) if log_ratios else advantage.new_zeros(0)
    beyond = (log_ratio.exp() - 1.0) * advantage[scored].sign()
    return Surrogate(loss, log_ratio, beyond > clip_range, advantage[scored] != 0)


def centred_clip_backward(
    log_prob_of: Callable[[th.Tensor, th.Tensor], th.Tensor],
    condition: th.Tensor,
    old_log_prob: th.Tensor,
    advantage: th.Tensor,
    clip_range: float | th.Tensor,
    blocks: Callable[[int], Iterable[slice]] | None = None,
) -> tuple[Surrogate, th.Tensor]:
    """
    :func:`ppo_clip_loss` of ratios that are divided by their group's geometric mean, and its gradient. Ours, not the paper's.

    log r~_g = log r_g - mean_h log r_h. With w_g = r~_g A_g where the clip leaves a gradient and 0 elsewhere, the gradient is
    that of - mean_g (w_g - mean_h w_h) log r_g: within a state the factors sum to zero. What makes all of its chains more or
    less likely is neither clipped nor asked for. (Were the mean taken for a constant, all could be made less likely without
    end: the centred ratios do not show it.)

    :param log_prob_of: as of :func:`ppo_clip_backward`
    :param condition: (S, C)
    :param old_log_prob: (S * G,) under the policy that drew the chains, those of a state adjacent
    :param advantage: (S, G), no gradient; the chains of states without any are not scored, those of the others all
    :param clip_range: eps, on the centred ratio
    :param blocks: as of :func:`ppo_clip_backward`
    :return: what is known of the update, with centred ratios; (S,) the means, 0 for states that are not scored
    """
    scored = th.arange(advantage.numel(), device=advantage.device)
    shown = scored
    if blocks is not None:
        scored = scored[(advantage != 0).any(dim=1).repeat_interleave(advantage.shape[1])]
        shown = advantage.flatten().nonzero()[:, 0]
    log_ratio = th.zeros_like(old_log_prob)
    with th.no_grad():
        for block in [slice(0, len(scored))] if blocks is None else blocks(len(scored)):
            log_ratio[scored[block]] = log_prob_of(condition, scored[block]) - old_log_prob[scored[block]]
    centre = log_ratio.view_as(advantage).mean(dim=1)
    centred = log_ratio.view_as(advantage) - centre[:, None]
    ratio = centred.exp()
    clipped = (ratio - 1.0) * advantage.sign() > clip_range
    weight = (ratio * advantage).masked_fill(clipped, 0.0)
    factor = ((weight - weight.mean(dim=1, keepdim=True)) / advantage.numel()).flatten()

    def share(shared: th.Tensor, chains: th.Tensor) -> th.Tensor:
        return -(factor[chains] * log_prob_of(shared, chains)).sum()

    backward_in_blocks(share, condition, scored, blocks)
    loss = ppo_clip_loss(centred, th.zeros_like(centred), advantage, clip_range)
    moved = (advantage != 0).flatten()[shown]
    return Surrogate(loss, centred.flatten()[shown], clipped.flatten()[shown], moved), centre
