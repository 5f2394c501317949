"""Flow policy optimisation: a ratio made of cloning errors in place of likelihoods (OGPO H.3-H.4)."""

import torch as th

from ogpo_sb3.extraction.ppo_clip import ppo_clip_loss


def fpo_error(residual: th.Tensor, huber: bool = False, limit: float | None = None) -> th.Tensor:
    """
    Cloning error l of each action at each draw of time and noise.

    :param residual: (T, n, D), see :meth:`ogpo_sb3.gcp.GenerativeControlPolicy.cloning_residual`
    :param huber: d^2 only up to abs(d) = 1 and 2 abs(d) - 1 beyond, instead of d^2
    :param limit: l is clamped to this, beyond which it has no gradient; None for not at all
    :return: (T, n), summed over dimensions
    """
    size = residual.abs()
    error = th.where(size <= 1.0, residual.square(), 2.0 * size - 1.0) if huber else residual.square()
    error = error.sum(dim=-1)
    return error if limit is None else error.clamp_max(limit)


def fpo_log_ratio(error: th.Tensor, old_error: th.Tensor, per_sample: bool = False, limit: float | None = 5.0) -> th.Tensor:
    """
    Log of the surrogate ratio (equation H.3): r = exp(l_old - l), both at the same times and noise.

    :param error: (T, n) under the current policy, with gradient
    :param old_error: (T, n) under the policy that drew the actions
    :param per_sample: one ratio per draw (FPO++) instead of one of the mean errors (FPO)
    :param limit: the log-ratio is clamped to +- this, beyond which it has no gradient; None for not at all
    :return: (T, n), or (1, n)
    """
    difference = old_error.detach() - error
    if not per_sample:
        difference = difference.mean(dim=0, keepdim=True)
    return difference if limit is None else difference.clamp(-limit, limit)


def aspo_loss(log_ratio: th.Tensor, advantage: th.Tensor, clip_range: float | th.Tensor) -> th.Tensor:
    """
    The clipped objective for A >= 0, and for A < 0 a quadratic restoring force outside the trust region (equation H.4).

    For A < 0 the objective is r A - abs(A) e^2 / (4 eps) with e = max(0, r - 1 - eps) + max(0, 1 - eps - r): inside the
    trust region that is the policy gradient, and outside it a ratio that fell too far is pulled back, where the clipped
    objective leaves it alone.

    :param log_ratio: any shape, with gradient
    :param advantage: broadcastable to it, no gradient
    :param clip_range: eps; where a schedule has come to 0 nothing is pulled back
    :return: scalar, the negative of the mean objective
    """
    advantage = advantage.detach().expand_as(log_ratio)
    ratio = log_ratio.exp()
    outside = (ratio - 1.0 - clip_range).clamp_min(0.0) + (1.0 - clip_range - ratio).clamp_min(0.0)
    eps = clip_range if isinstance(clip_range, th.Tensor) else ratio.new_full((), clip_range)
    pull = th.where(eps > 0, outside.square() / (4.0 * eps.clamp_min(th.finfo(eps.dtype).tiny)), 0.0)
    restored = ratio * advantage - advantage.abs() * pull
    clipped = th.min(ratio * advantage, ratio.clamp(1.0 - clip_range, 1.0 + clip_range) * advantage)  # type: ignore[arg-type]
    return -th.where(advantage < 0, restored, clipped).mean()


def fpo_loss(log_ratio: th.Tensor, advantage: th.Tensor, clip_range: float | th.Tensor, aspo: bool = False) -> th.Tensor:
    """
    The clipped objective on the surrogate ratio; the mean over draws is taken of the clipped terms.

    :param log_ratio: (T, n), or (1, n), of :func:`fpo_log_ratio`, with gradient
    :param advantage: (n,), no gradient
    :param clip_range: eps
    :param aspo: :func:`aspo_loss` instead of :func:`ogpo_sb3.extraction.ppo_clip_loss`
    :return: scalar
    """
    if aspo:
        return aspo_loss(log_ratio, advantage, clip_range)
    return ppo_clip_loss(log_ratio, th.zeros_like(log_ratio), advantage.expand_as(log_ratio), clip_range)
