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
    gains: dict[tuple[str, str], dict[int, list[float]]] = {}
    clones: dict[tuple[str, str], dict[int, float]] = {}
    factors: dict[str, str] = {}
    for record in records:
        row = record.row()
        if row.get("gain") is not None:
            key, seed = (row["task"], row["variant"]), row["seed"]
            gains.setdefault(key, {}).setdefault(seed, []).append(row["gain"])
            clones.setdefault(key, {})[seed] = row["bc_success"]
            factors.setdefault(row["variant"], row["factor"])
    bases = {task: (runs, clones[task, variant]) for (task, variant), runs in gains.items() if factors[variant] == "base"}
    found: dict[tuple[str, str], np.ndarray] = {}
    same: dict[tuple[str, str], bool] = {}
    for (task, variant), runs in gains.items():
        of_base, its_clones = bases.get(task, ({}, {}))
        seeds = sorted(runs.keys() & of_base.keys())
        if seeds and factors[variant] != "base":
            found[task, variant] = np.array([np.mean(runs[seed]) - np.mean(of_base[seed]) for seed in seeds])
            same[task, variant] = all(clones[task, variant][seed] == its_clones[seed] for seed in seeds)
    spread = _pooled_spread(list(found.values()))
    rows = []
    for variant in dict.fromkeys(variant for _, variant in found):
        mine = {task: values for (task, name), values in found.items() if name == variant}
        parts = {task: [values] for task, values in mine.items()}
        if len(mine) > 1:
            parts["all"] = list(mine.values())
        for task, part in parts.items():
            variance = sum(1 / len(values) for values in part) / len(part) ** 2
            rows.append(
                dict(
                    task=task,
                    variant=variant,
                    factor=factors[variant],
                    runs=sum(len(values) for values in part),
                    difference=float(np.mean([values.mean() for values in part])),
                    reach=None if spread is None else 1.96 * spread * math.sqrt(variance),
                    same_clone=all(same[name, variant] for name in (mine if task == "all" else [task])),
                )
            )
    return rows, spread


def _pooled_spread(groups: list[np.ndarray]) -> float | None:
    freedom = sum(len(values) - 1 for values in groups)
    return math.sqrt(sum(((values - values.mean()) ** 2).sum() for values in groups) / freedom) if freedom else None
