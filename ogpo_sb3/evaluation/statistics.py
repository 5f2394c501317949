"""What is said about several runs: interquartile means, intervals and probabilities through rliable, areas and thresholds."""

import importlib.util
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np

REPETITIONS = 2000


class Estimate(NamedTuple):
    """
    A number with its 95 % interval; nan where there is none.

    :param value: point estimate
    :param low: lower end
    :param high: upper end
    """

    value: float
    low: float
    high: float


NOTHING = Estimate(np.nan, np.nan, np.nan)


def require_rliable() -> None:
    """
    Asked before anything runs, without importing it: it brings pandas and statsmodels.

    :raises ImportError: it is not installed
    """
    if importlib.util.find_spec("rliable") is None:
        raise ImportError('reports of comparisons need rliable: pip install "ogpo_sb3[compare]"')


def interquartile_means(scores: np.ndarray) -> list[Estimate]:
    """
    IQM over all runs and tasks with the interval of a bootstrap that draws runs anew within each task (rliable).

    :param scores: (runs, tasks, measures); a measure with nan has no estimate
    :return: one per measure; with intervals only where there are two runs or more: drawing one of one says nothing about its
        spread
    """
    return _bootstrap([scores], _iqm)


def _iqm(x: np.ndarray) -> np.ndarray:
    """(runs, tasks, measures) to (measures,): rliable's aggregate_iqm of each, at once."""
    ordered = np.sort(x.reshape(-1, x.shape[-1]), axis=0)
    cut = int(0.25 * len(ordered))
    return ordered[cut : len(ordered) - cut].mean(axis=0)


def curve(values: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """
    Interquartile mean of several runs at each of several points, with intervals as in :func:`interquartile_means`.

    :param values: (runs, points), nan where a run has not come so far
    :return: estimates, lower and upper ends (points,); nan where no run has come so far
    """
    found = np.full((3, values.shape[1]), np.nan)
    masks = ~np.isnan(values)
    for mask in np.unique(masks, axis=1).T:
        columns = (masks == mask[:, None]).all(axis=0)
        found[:, columns] = np.array(interquartile_means(values[mask][:, None, columns])).T
    return found[0], found[1], found[2]


def probabilities_of_improvement(x: np.ndarray, y: np.ndarray) -> list[Estimate]:
    """
    Probability that a run of one algorithm is better than one of another on a task, averaged over tasks; ties count half.

    :param x: (runs, tasks, measures) of the one
    :param y: (runs, tasks, measures) of the other
    :return: one per measure, see :func:`interquartile_means`
    """
    return _bootstrap([x, y], _improvement)


def _improvement(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """As rliable's, which asks scipy for each task and is a hundred times slower within a bootstrap."""
    found: np.ndarray = ((x[:, None] > y[None]) + 0.5 * (x[:, None] == y[None])).mean(axis=(0, 1, 2))
    return found


def _bootstrap(scores: Sequence[np.ndarray], statistic: Callable[..., np.ndarray]) -> list[Estimate]:
    measures = scores[0].shape[-1]
    if any(len(s) == 0 for s in scores):
        return [NOTHING] * measures
    known = ~np.any([np.isnan(s).any(axis=(0, 1)) for s in scores], axis=0)
    scores = [s[..., known] for s in scores]
    found = np.full((measures, 3), np.nan)
    found[known, 0] = statistic(*scores)
    if known.any() and all(len(s) > 1 for s in scores):
        require_rliable()
        from rliable import library

        with _seeded():
            given = scores[0] if len(scores) == 1 else tuple(scores)
            key = "x" if len(scores) == 1 else "x,y"  # how rliable tells pairs from single ones
            _, intervals = library.get_interval_estimates({key: given}, statistic, reps=REPETITIONS)
        found[known, 1:] = intervals[key].T
    return [Estimate(*map(float, row)) for row in found]


@contextmanager
def _seeded() -> Iterator[None]:
    """rliable draws from NumPy's global generator: the same numbers every time, and nobody else's are touched."""
    state = np.random.get_state()
    np.random.seed(0)
    try:
        yield
    finally:
        np.random.set_state(state)


def on_grid(curves: Sequence[Sequence[Mapping[str, float]]], key: str, grid: np.ndarray) -> np.ndarray:
    """
    Curves at common steps, interpolated: a chunk may overshoot an evaluation's step by a few, a rollout by many.

    :param curves: rows of each run, in order of ``timesteps``
    :param key: column
    :param grid: (points,) environment steps
    :return: (runs, points); nan beyond a run's last evaluation and where the column is missing
    """
    found = np.full((len(curves), len(grid)), np.nan)
    for row, rows in zip(found, curves, strict=True):
        known = [(r["timesteps"], r[key]) for r in rows if key in r]
        if known:
            steps, values = np.array(known).T
            row[:] = np.interp(grid, steps, values, right=np.nan)
    return found


def area(rows: Sequence[Mapping[str, float]], key: str) -> float:
    """
    Mean height of a curve: its area (trapezoids) over its length, from its first to its last evaluation.

    :param rows: of one run, in order of ``timesteps``
    :param key: column
    :return: nan for a curve of less than two evaluations
    """
    known = np.array([(r["timesteps"], r[key]) for r in rows if key in r])
    if len(known) < 2:
        return float("nan")
    return float(np.trapezoid(known[:, 1], known[:, 0]) / (known[-1, 0] - known[0, 0]))


def steps_to(rows: Sequence[Mapping[str, float]], key: str, threshold: float) -> float | None:
    """
    Environment steps of the first evaluation at or above a threshold.

    :param rows: of one run, in order of ``timesteps``
    :param key: column
    :param threshold: in the column's unit
    :return: None if there was none
    """
    return next((r["timesteps"] for r in rows if key in r and r[key] >= threshold - 1e-9), None)


def median_reached(reached: Sequence[float], runs: int) -> float | None:
    """
    Lower median over all runs, where those that never got there count as later than any that did.

    :param reached: steps of those that did, ascending
    :param runs: number of all
    :return: None if more than half of them never did
    """
    middle = (runs - 1) // 2
    return reached[middle] if 0 <= middle < len(reached) else None
