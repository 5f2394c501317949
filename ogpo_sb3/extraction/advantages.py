"""Advantages of a group of chains drawn for the same state."""

import torch as th

from ogpo_sb3.critics import aggregate

STRATEGIES = ("mean", "conservative", "penultimate", "positive", "std")


def group_advantage(q: th.Tensor, strategy: str = "mean", q_agg: str = "mean", baseline: th.Tensor | None = None) -> th.Tensor:
    """
    Advantage of each chain over its group, (OGPO 3.2-3.3, 4.5; H for the ablations).

    Adding a constant to all Q-values changes none of the strategies, as long as the baseline is the group's mean.

    :param q: (M, B, G) values of G chains at B states under M heads
    :param strategy: "mean": Q minus the group's mean; "conservative": the head nearest to zero where all heads agree on
        the sign, else zero (OGPO+CA); "penultimate": the second nearest, so that one outlying head does not set the
        magnitude (M >= 3); "positive": negative advantages set to zero; "std": divided by the group's standard deviation
        (GRPO; the paper finds it harmful)
    :param q_agg: how heads are aggregated; the two agreement strategies look at every head and ignore it
    :param baseline: (M, B) values of the states, subtracted head by head in place of the group's mean (3.2's baseline)
    :return: (B, G)
    """
    if strategy in ("conservative", "penultimate"):
        return _agreeing_advantage(q - (q.mean(dim=-1) if baseline is None else baseline)[..., None], strategy)
    if strategy not in STRATEGIES:
        raise ValueError(f"advantage must be one of {STRATEGIES}, found {strategy!r}")
    if baseline is None:
        value = aggregate(q, q_agg)
        advantage = value - value.mean(dim=-1, keepdim=True)
    else:
        # Aggregated together, so that a random pair of heads is the same for both.
        value, state_value = aggregate(th.cat([q, baseline[..., None]], dim=-1), q_agg).split([q.shape[-1], 1], dim=-1)
        advantage = value - state_value
    if strategy == "positive":
        return advantage.clamp_min(0.0)
    if strategy == "std":
        return advantage / (value.std(dim=-1, keepdim=True, unbiased=False) + 1e-8)
    return advantage


def agreement(q: th.Tensor) -> th.Tensor:
    """
    Share of chains on whose advantage sign all heads agree (psi in the paper's figures).

    :param q: (M, B, G)
    :return: scalar in [0, 1]
    """
    advantage = q - q.mean(dim=-1, keepdim=True)
    return ((advantage > 0).all(dim=0) | (advantage < 0).all(dim=0)).float().mean()


def _agreeing_advantage(advantage: th.Tensor, strategy: str) -> th.Tensor:
    lowest, highest = advantage.min(dim=0).values, advantage.max(dim=0).values
    if strategy == "conservative":
        return lowest.clamp_min(0.0) + highest.clamp_max(0.0)
    if len(advantage) < 3:
        raise ValueError(f"advantage='penultimate' needs n_critics >= 3, found {len(advantage)}")
    ordered = advantage.sort(dim=0).values
    zero = th.zeros_like(lowest)
    return th.where(lowest > 0, ordered[1], zero) + th.where(highest < 0, ordered[-2], zero)
