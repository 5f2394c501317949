"""Temporal-difference targets over chunks."""

import torch as th

from ogpo_sb3.critics.ensemble import aggregate


def next_value(q: th.Tensor, how: str = "mean", pessimism_weight: float | None = None) -> th.Tensor:
    """
    Value of the next state from n sampled next actions (n > 1 is OGPO's Q-variance reduction, section 4.1).

    Each head is averaged over the n actions first, then the heads are aggregated.

    :param q: (M, B, n) target-critic values
    :param how: aggregation over heads, see :func:`ogpo_sb3.critics.aggregate`
    :param pessimism_weight: w in [0, 1] for (1 - w) mean + w min over heads instead of ``how`` (the penalised variants)
    :return: (B,)
    """
    per_head = q.mean(dim=-1)
    if pessimism_weight is None:
        return aggregate(per_head, how)
    return th.lerp(aggregate(per_head, "mean"), aggregate(per_head, "min"), pessimism_weight)


def td_target(rewards: th.Tensor, discounts: th.Tensor, dones: th.Tensor, next_values: th.Tensor) -> th.Tensor:
    """
    y = R + gamma^k (1 - done) V(s_{t+k}) for a chunk of which k steps were executed (OGPO A.1).

    ``dones`` is true for terminations only: a time limit, or a cut of the stream, bootstraps.

    :param rewards: (B,) discounted reward sum of the k executed steps
    :param discounts: (B,) gamma^k
    :param dones: (B,) in {0, 1}
    :param next_values: (B,)
    :return: (B,)
    """
    return rewards + discounts * (1.0 - dones) * next_values
