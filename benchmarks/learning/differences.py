"""What each variant changes against its task's base, from runs of the same seeds, and how far equal settings come apart."""

import math
from typing import Any

import numpy as np

from benchmarks.learning.collect import Record

COLUMNS = ("task", "variant", "factor", "runs", "difference", "reach", "same_clone")


def differences(records: list[Record]) -> tuple[list[dict[str, Any]], float | None]:
    """
    Gain of a variant minus the base's gain from the same seed, so that what the cloned policy was worth drops out: the mean
    over seeds for each task, and over tasks, each counting once, where there are several ("all").

    The spread of a difference from seed to seed is pooled over all variants and tasks that have several: it holds what the
    draw of an evaluation's episodes does and what training itself leaves to chance. ``reach`` is the half width of the 95 %
    interval that follows for as many runs as there are. One run of a base is behind all differences of its seed; they are
    not independent of one another. ``same_clone`` is False where a run began from another cloned policy than its base, as
    with another chunk size: then more separates the two than the variant's name says.

    :param records: of a study; unfinished runs, and tasks without a base, are left out
    :return: rows by ``COLUMNS``, in the order of the runs; the spread of a single difference, None where no variant has two
        seeds (``reach`` is then None too)
    """
    factors: dict[str, str] = {}
    runs: dict[tuple[str, str], dict[int, list[dict[str, Any]]]] = {}  # by task and variant, then by seed
    for row in (record.row() for record in records):
        if row.get("gain") is not None:
            factors.setdefault(row["variant"], row["factor"])
            runs.setdefault((row["task"], row["variant"]), {}).setdefault(row["seed"], []).append(row)
    bases = {task: seeds for (task, variant), seeds in runs.items() if factors[variant] == "base"}
    found: dict[str, dict[str, tuple[np.ndarray, bool]]] = {}  # by variant, then by task: its differences, and same_clone
    for (task, variant), seeds in runs.items():
        base = bases.get(task, {})
        pairs = [(seeds[seed], base[seed]) for seed in sorted(seeds.keys() & base.keys())]
        if pairs and factors[variant] != "base":
            values = np.array([_gain(own) - _gain(others) for own, others in pairs])
            same = all(own[-1]["bc_success"] == others[-1]["bc_success"] for own, others in pairs)
            found.setdefault(variant, {})[task] = values, same
    spread = _pooled_spread([values for tasks in found.values() for values, _ in tasks.values()])
    rows = []
    for variant, tasks in found.items():
        parts = {task: [part] for task, part in tasks.items()}
        if len(tasks) > 1:
            parts["all"] = list(tasks.values())
        for task, part in parts.items():
            counts = np.array([len(values) for values, _ in part])
            rows.append(
                dict(
                    task=task,
                    variant=variant,
                    factor=factors[variant],
                    runs=int(counts.sum()),
                    difference=float(np.mean([values.mean() for values, _ in part])),
                    reach=None if spread is None else 1.96 * spread * math.sqrt((1 / counts).sum()) / len(part),
                    same_clone=all(same for _, same in part),
                )
            )
    return rows, spread


def _gain(rows: list[dict[str, Any]]) -> float:
    return float(np.mean([row["gain"] for row in rows]))


def _pooled_spread(groups: list[np.ndarray]) -> float | None:
    freedom = sum(len(values) - 1 for values in groups)
    return math.sqrt(sum(((values - values.mean()) ** 2).sum() for values in groups) / freedom) if freedom else None
