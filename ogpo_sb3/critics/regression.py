"""What critics are regressed on, and the squared error."""

from collections.abc import Sequence
from typing import NamedTuple

import torch as th


class Regression(NamedTuple):
    """
    Values that a critic shall have at a batch of states and actions.

    :param target: (B,), or (M, B) for a target per head; no gradient
    :param weights: (B,) non-negative weights whose sum the mean over samples is over; None for equal ones
    :param coefficient: of this loss, where it is not the first
    """

    target: th.Tensor
    weights: th.Tensor | None = None
    coefficient: float = 1.0


class Fit(NamedTuple):
    """
    :param loss: scalar, with gradient
    :param values: (M, B) values at the batch; with gradient where that costs nothing
    :param logged: further scalars by name
    """

    loss: th.Tensor
    values: th.Tensor
    logged: dict[str, th.Tensor]


def weighted_sum(regressions: Sequence[Regression], losses: Sequence[th.Tensor]) -> th.Tensor:
    """
    :param regressions: whose coefficients weigh all losses but the first
    :param losses: scalars
    :return: scalar
    """
    total = losses[0]
    for regression, loss in zip(regressions[1:], losses[1:], strict=True):
        total = total + regression.coefficient * loss
    return total


def td_loss(q: th.Tensor, target: th.Tensor, weights: th.Tensor | None = None) -> th.Tensor:
    """
    Mean squared TD error over heads and samples; every head has the same target, unless each is given its own.

    :param q: (M, B)
    :param target: (B,), or (M, B) for a target per head; no gradient
    :param weights: (B,) non-negative weights whose sum the mean is over
    :return: scalar
    """
    error = (q - target.detach()).square()
    return error.mean() if weights is None and target.dim() == 2 else weighted_mean(error, weights)


def weighted_mean(error: th.Tensor, weights: th.Tensor | None) -> th.Tensor:
    """
    :param error: (M, B)
    :param weights: (B,) non-negative weights whose sum the mean over samples is over; None for equal ones
    :return: scalar
    """
    per_sample = error.mean(dim=0)
    if weights is None:
        return per_sample.mean()
    return (weights * per_sample).sum() / weights.sum().clamp_min(1e-8)
