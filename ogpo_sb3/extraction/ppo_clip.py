"""The clipped surrogate over denoising chains."""

import torch as th


def ppo_clip_loss(log_prob: th.Tensor, old_log_prob: th.Tensor, advantage: th.Tensor, clip_range: float) -> th.Tensor:
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
    clipped = ratio.clamp(1.0 - clip_range, 1.0 + clip_range)
    return -th.min(ratio * advantage, clipped * advantage).mean()
