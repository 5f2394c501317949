"""From the folders of a comparison to its numbers, finished or not. Only what is measured in seconds and bytes may differ
between an interrupted comparison and one that was not; it is kept apart, under "cost"."""

import json
import pathlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ogpo_sb3.compare.plan import Plan, Run
from ogpo_sb3.evaluation import statistics
from ogpo_sb3.evaluation.callback import read_rows

THRESHOLDS = (0.5, 0.8, 0.9)
SCORES = ("final_success", "area_success", "final_return", "area_return")
MEASURES = {"success": "success_rate", "return": "mean_return"}  # column of curve.csv


@dataclass(frozen=True)
class Record:
    """
    One run.

    :param run: cell of the plan
    :param status: finished, unfinished, failed or waiting
    :param results: of a finished run
    :param curve: its evaluations, the cloned policy first
    :param error: why it failed
    """

    run: Run
    status: str
    results: dict[str, Any] | None
    curve: list[dict[str, float]]
    error: str | None = None

    @property
    def contestant(self) -> str:
        """What is compared: an algorithm with its fixed or its tuned settings, or a variant of it."""
        return label(self.run.algo, self.run.mode)

    def scores(self) -> list[float]:
        """Of a finished run, ``SCORES``: final success and return, areas under both curves; nan where there is none."""
        assert self.results is not None
        final = self.results["final"]
        success, reward = (statistics.area(self.curve, MEASURES[name]) for name in ("success", "return"))
        return [np.nan if final["success"] is None else final["success"], success, final["mean_return"], reward]


def label(algo: str, mode: str) -> str:
    """
    :param algo: zoo id
    :param mode: fixed, tuned or a variant's name
    """
    return algo if mode == "fixed" else f"{algo} ({mode})"


def contestants(plan: Plan, env: str | None = None) -> list[str]:
    """
    :param plan: of the comparison
    :param env: on this environment; anywhere when None
    """
    envs = plan.envs if env is None else [env]
    found = [label(algo, mode) for algo in plan.algos for e in envs for mode in plan.settings[e][algo]]
    return list(dict.fromkeys(found))


def collect(plan: Plan, out: pathlib.Path) -> list[Record]:
    """
    :param plan: of the comparison
    :param out: its folder
    :return: one record per run of the plan
    """
    records = []
    for run in plan.runs():
        folder = out / run.name
        results = json.loads(p.read_text()) if (p := folder / "results.json").exists() else None
        failure = json.loads(p.read_text())["error"] if results is None and (p := folder / "failure.json").exists() else None
        curve = read_rows(p) if (p := folder / "curve.csv").exists() else []
        status = "finished" if results else "failed" if failure else "unfinished" if curve else "waiting"
        records.append(Record(run, status, results, curve, failure))
    return records


def summarise(plan: Plan, records: Sequence[Record]) -> dict[str, Any]:
    """
    Everything that the report says, as numbers that JSON can hold.

    :param plan: of the comparison
    :param records: of its runs
    """
    finished = [r for r in records if r.status == "finished"]
    names = contestants(plan)
    tasks = {env: {name: _task(_of(finished, name, env)) for name in contestants(plan, env)} for env in plan.envs}
    scores = {name: _matrix(plan, finished, name) for name in names}
    aggregate = {
        name: dict(runs=len(by_run), **_estimates(statistics.interquartile_means(by_run))) for name, by_run in scores.items()
    }
    improvement = [
        dict(x=x, y=y, **_estimates(statistics.probabilities_of_improvement(scores[x], scores[y])))
        for i, x in enumerate(names)
        for y in names[i + 1 :]
    ]
    status = [dict(run=r.run.name, status=r.status, error=r.error) for r in records]
    cost = {env: {name: _cost(_of(finished, name, env)) for name in contestants(plan, env)} for env in plan.envs}
    return dict(aggregate=aggregate, improvement=improvement, tasks=tasks, runs=status, cost=cost)


def _of(records: Sequence[Record], name: str, env: str) -> list[Record]:
    return [r for r in records if r.contestant == name and r.run.env == env]


def _matrix(plan: Plan, finished: Sequence[Record], name: str) -> np.ndarray:
    """(runs, tasks, scores) of the seeds that a contestant has finished on every task of the comparison."""
    by_seed: dict[int, dict[str, list[float]]] = {}
    for record in finished:
        if record.contestant == name:
            by_seed.setdefault(record.run.seed, {})[record.run.env] = record.scores()
    complete = [[row[env] for env in plan.envs] for row in by_seed.values() if len(row) == len(plan.envs)]
    return np.array(complete, dtype=float).reshape(-1, len(plan.envs), len(SCORES))


def _estimates(found: Sequence[statistics.Estimate]) -> dict[str, list[float | None]]:
    return {n: [None if np.isnan(v) else v for v in estimate] for n, estimate in zip(SCORES, found, strict=True)}


def _task(records: Sequence[Record]) -> dict[str, Any]:
    """One contestant on one task."""
    scores = np.array([record.scores() for record in records], dtype=float).reshape(-1, 1, len(SCORES))
    found: dict[str, Any] = dict(runs=len(records), **_estimates(statistics.interquartile_means(scores)))
    for key, source in (("bc_success", "success"), ("bc_return", "mean_return")):
        values = np.array([r.results["bc"][source] for r in records if r.results and r.results["bc"][source] is not None])
        found[key] = float(values.mean()) if len(values) else None
    found["steps_to"] = {}
    for threshold in THRESHOLDS:
        steps = [statistics.steps_to(r.curve, MEASURES["success"], threshold) for r in records]
        reached = sorted(s for s in steps if s is not None)
        middle = statistics.median_reached(reached, len(steps))
        found["steps_to"][str(threshold)] = dict(median=middle, reached=len(reached))
    return found


def _cost(records: Sequence[Record]) -> dict[str, Any]:
    results = [record.results for record in records if record.results is not None]
    if not results:
        return dict(runs=0)
    training = [r["training_seconds"] for r in results]
    return dict(
        runs=len(results),
        minutes=float(np.mean([r["seconds"] for r in results])) / 60,
        evaluation_minutes=float(np.mean([r["evaluation_seconds"] for r in results])) / 60,
        cloning_minutes=float(np.mean([r["bc"]["seconds"] for r in results])) / 60,
        updates=dict(
            critic=float(np.mean([r["updates"]["critic"] for r in results])),
            actor=float(np.mean([r["updates"]["actor"] for r in results])),
        ),
        updates_per_second=float(np.mean([r["updates"]["critic"] / t for r, t in zip(results, training, strict=True)])),
        steps_per_second=float(np.mean([r["final"]["timesteps"] / t for r, t in zip(results, training, strict=True)])),
        peak_mib=max(r["peak_bytes"] for r in results) / 2**20,
        peak_gpu_mib=max(r["peak_gpu_bytes"] for r in results) / 2**20,
    )
