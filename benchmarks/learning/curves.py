"""Numbers that describe a learning curve, and interquartile means with bootstrap intervals. Plain numpy."""

from collections.abc import Mapping, Sequence

import numpy as np

GAIN = 0.30


def best(success: Sequence[float]) -> float:
    """
    :param success: rate at each evaluation; the first belongs to the cloned policy
    :return: the highest
    """
    return float(max(success))


def dip(success: Sequence[float]) -> float | None:
    """
    Lowest success after the start relative to the cloned policy: negative where fine-tuning made it worse.

    :param success: as in :func:`best`
    :return: None while there is no evaluation after the start
    """
    return float(min(success[1:]) - success[0]) if len(success) > 1 else None


def steps_to_gain(steps: Sequence[float], success: Sequence[float], gain: float = GAIN) -> int | None:
    """
    Environment steps at the first evaluation that is ``gain`` above the cloned policy.

    :param steps: at each evaluation
    :param success: as in :func:`best`
    :param gain: in the unit of success
    :return: None if there was none
    """
    for step, rate in zip(steps[1:], success[1:], strict=True):
        if rate >= success[0] + gain - 1e-9:
            return int(step)
    return None


def interquartile_mean(values: np.ndarray, axis: int = -1) -> np.ndarray:
    """
    Mean without the lowest and the highest quarter, rounded down, as in rliable.

    :param values: (..., n)
    :param axis: over which
    """
    ordered = np.sort(values, axis=axis)
    n = ordered.shape[axis]
    cut = int(0.25 * n)
    return np.take(ordered, range(cut, n - cut), axis=axis).mean(axis=axis)


def bootstrap(
    scores: Mapping[str, Sequence[float]], repetitions: int = 5000, confidence: float = 0.95, seed: int = 0
) -> tuple[float, float, float]:
    """
    Interquartile mean over all runs of all tasks, and its percentile interval where runs are drawn anew within each task.

    Tasks may have different numbers of runs, so that unfinished studies can be looked at.

    :param scores: runs of each task
    :param repetitions: bootstrap samples
    :param confidence: of the interval
    :param seed: of the draws
    :return: estimate, lower and upper end (both nan with a single run)
    """
    rng = np.random.default_rng(seed)
    arrays = [np.asarray(runs, dtype=float) for runs in scores.values() if len(runs)]
    if not arrays:
        return np.nan, np.nan, np.nan
    estimate = float(interquartile_mean(np.concatenate(arrays)))
    if all(len(array) == 1 for array in arrays):
        return estimate, np.nan, np.nan  # drawing one of one says nothing about its spread
    drawn = [array[rng.integers(len(array), size=(repetitions, len(array)))] for array in arrays]
    samples = interquartile_mean(np.concatenate(drawn, axis=1))
    low, high = np.quantile(samples, [(1 - confidence) / 2, (1 + confidence) / 2])
    return estimate, float(low), float(high)
