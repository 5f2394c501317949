"""What is said about several runs: interquartile means, intervals and probabilities through rliable, areas and thresholds."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

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


def require_rliable() -> Any:
    """
    :return: ``rliable.library``
    :raises ImportError: it is not installed
    """
    try:
        from rliable import library
    except ImportError as error:
        raise ImportError('reports of comparisons need rliable: pip install "ogpo_sb3[compare]"') from error
    return library


def interquartile_mean(scores: np.ndarray) -> Estimate:
    """
    IQM over all runs and tasks with the interval of a bootstrap that draws runs anew within each task (rliable).

    :param scores: (runs, tasks)
    :return: an interval only with two runs or more: drawing one of one says nothing about its spread
    """
    if scores.size == 0:
        return NOTHING
    from rliable import metrics

    value, low, high = _bootstrap([scores], lambda x: np.array([metrics.aggregate_iqm(x)]))
    return Estimate(float(value[0]), float(low[0]), float(high[0]))


def curve(values: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """
    Interquartile mean of several runs at each of several points, with intervals as in :func:`interquartile_mean`.

    :param values: (runs, points), nan where a run has not come so far
    :return: estimates, lower and upper ends (points,); nan where no run has come so far
    """
    parts = [np.full(values.shape[1], np.nan) for _ in range(3)]
    masks = ~np.isnan(values)
    for mask in np.unique(masks, axis=1).T:
        if not mask.any():
            continue
        columns = (masks == mask[:, None]).all(axis=0)
        found = _bootstrap([values[mask][:, None, columns]], _iqm_of_points)
        for whole, piece in zip(parts, found, strict=True):
            whole[columns] = piece
    return parts[0], parts[1], parts[2]


def _iqm_of_points(x: np.ndarray) -> np.ndarray:
    """(runs, tasks, points) to (points,): rliable's aggregate_iqm at each point at once."""
    ordered = np.sort(x.reshape(-1, x.shape[-1]), axis=0)
    cut = int(0.25 * len(ordered))
    return ordered[cut : len(ordered) - cut].mean(axis=0)


def probability_of_improvement(x: np.ndarray, y: np.ndarray) -> Estimate:
    """
    Probability that a run of one algorithm is better than one of another on a task, averaged over tasks; ties count half.

    :param x: (runs, tasks) of the one
    :param y: (runs, tasks) of the other
    """
    if x.size == 0 or y.size == 0:
        return NOTHING
    value, low, high = _bootstrap([x, y], lambda a, b: np.array([_improvement(a, b)]))
    return Estimate(float(value[0]), float(low[0]), float(high[0]))


def _improvement(x: np.ndarray, y: np.ndarray) -> float:
    """As rliable's, which asks scipy for each task and is a hundred times slower within a bootstrap."""
    return float(((x[:, None] > y[None]) + 0.5 * (x[:, None] == y[None])).mean())


def _bootstrap(
    scores: Sequence[np.ndarray], statistic: Callable[..., np.ndarray]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    library = require_rliable()
    estimate = np.atleast_1d(statistic(*scores))
    if any(len(s) < 2 for s in scores):
        return estimate, np.full_like(estimate, np.nan), np.full_like(estimate, np.nan)
    with _seeded():
        key = "x" if len(scores) == 1 else "x,y"
        given = scores[0] if len(scores) == 1 else tuple(scores)
        _, intervals = library.get_interval_estimates({key: given}, statistic, reps=REPETITIONS)
    low, high = intervals[key]
    return estimate, low, high


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
