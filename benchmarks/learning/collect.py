"""From the folders of a study to one record per run, whether it is finished, under way or failed."""

import csv
import json
import pathlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.learning import curves
from benchmarks.learning.watch import read

COLUMNS = (
    "task",
    "variant",
    "factor",
    "seed",
    "status",
    "bc_success",
    "final_success",
    "gain",
    "best",
    "dip",
    "steps_to_plus30",
    "bc_return",
    "final_return",
    "overestimation",
    "agreement",
    "clip_fraction",
    "bc_share",
    "minutes",
    "steps",
    "eval_episodes",
)


@dataclass
class Record:
    """
    One run.

    :param run: what identifies it: task, variant, factor, seed, steps, settings, ...
    :param status: finished, unfinished or failed
    :param results: of a finished run
    :param curve: evaluations, the cloned policy first
    :param training: metrics at each evaluation
    :param calibration: bins at each evaluation
    :param minutes: spent
    """

    run: dict[str, Any]
    status: str
    results: dict[str, Any] | None
    curve: list[dict[str, float]]
    training: list[dict[str, float]]
    calibration: list[dict[str, float]]
    minutes: float | None

    @property
    def success(self) -> list[float]:
        """At each evaluation; empty where the environment reports none."""
        return [row["success_rate"] for row in self.curve if "success_rate" in row]

    def row(self) -> dict[str, Any]:
        """
        Its line in summary.csv. ``bc_success``, ``final_success`` and ``gain`` are those of the large evaluations and stay
        empty until it is finished; ``best``, ``dip`` and ``steps_to_plus30`` are read off the curve.
        """
        row: dict[str, Any] = {key: self.run[key] for key in ("task", "variant", "factor", "seed")}
        row.update(status=self.status, minutes=self.minutes, steps=self.curve[-1]["timesteps"] if self.curve else 0)
        row["eval_episodes"] = self.run["final_episodes"]
        if self.results is not None:
            before, after = self.results["bc"], self.results["final"]
            row.update(bc_success=before["success"], final_success=after["success"], steps=after["timesteps"])
            row.update(bc_return=before["mean_return"], final_return=after["mean_return"])
            if before["success"] is not None:
                row["gain"] = after["success"] - before["success"]
        if self.success:
            steps = [r["timesteps"] for r in self.curve]
            row.update(best=curves.best(self.success), dip=curves.dip(self.success))
            row["steps_to_plus30"] = curves.steps_to_gain(steps, self.success)
        for name in ("overestimation", "agreement", "clip_fraction", "bc_share"):
            values = [r[name] for r in self.training if name in r]
            row[name] = values[-1] if values else None
        return row


class RecordedRun(Record):
    """
    A run of which a line of summary.csv is left.

    :param row: that line, by column
    """

    def __init__(self, row: dict[str, Any]):
        run = {key: row[key] for key in ("task", "variant", "factor", "seed")}
        super().__init__({**run, "final_episodes": row["eval_episodes"]}, row["status"], None, [], [], [], row["minutes"])
        self.line = row

    def row(self) -> dict[str, Any]:
        """See the base class."""
        return dict(self.line)


def recorded(files: Iterable[pathlib.Path]) -> list[Record]:
    """
    :param files: as ``summary`` writes summary.csv
    :return: a run per line
    :raises ValueError: a file does not exist, or has other columns
    """
    records: list[Record] = []
    for path in files:
        if not path.is_file():
            raise ValueError(f"--recorded must be files like summary.csv, found no file {path}")
        with path.open(newline="") as file:
            reader = csv.DictReader(file)
            if tuple(reader.fieldnames or ()) != COLUMNS:
                raise ValueError(
                    f"--recorded must be files like summary.csv, found other columns in {path}: {reader.fieldnames}"
                )
            records += [RecordedRun({name: _value(name, text) for name, text in row.items()}) for row in reader]
    return records


def _value(name: str, text: str) -> Any:
    if name in ("task", "variant", "factor", "status"):
        return text
    if text == "":
        return None
    return int(text) if name in ("seed", "steps", "steps_to_plus30", "eval_episodes") else float(text)


def collect(out: pathlib.Path, may_be_empty: bool = False) -> list[Record]:
    """
    :param out: of the study
    :param may_be_empty: a folder without runs, or none at all, is no error
    :return: every run that was begun, by task, variant and seed
    """
    if not may_be_empty and not out.is_dir():
        raise ValueError(f"--out must be the folder of a study, found no folder {out}")
    records = []
    for path in sorted(out.glob("*/*/seed*/settings.json")):
        folder, run = path.parent, json.loads(path.read_text())
        results = json.loads(p.read_text()) if (p := folder / "results.json").exists() else None
        status = "finished" if results else "failed" if (folder / "failure.json").exists() else "unfinished"
        seconds = sum(json.loads(p.read_text()).values()) if (p := folder / "seconds.json").exists() else None
        records.append(
            Record(
                run,
                status,
                results,
                read(folder / "curve.csv"),
                read(folder / "training.csv"),
                read(folder / "calibration.csv"),
                None if seconds is None else seconds / 60,
            )
        )
    if not records and not may_be_empty:
        raise ValueError(f"--out must be the folder of a study, found no runs in {out}")
    return records


def estimates(records: list[Record], key: str) -> list[dict[str, Any]]:
    """
    Interquartile mean and interval of a column per task and variant, and per variant over all tasks it ran on.

    :param records: of a study; runs without the value are left out
    :param key: column, "gain" for instance
    """
    scores: dict[str, dict[str, list[float]]] = {}
    for record in records:
        value = record.row().get(key)
        if value is not None:
            scores.setdefault(record.run["variant"], {}).setdefault(record.run["task"], []).append(value)
    rows = []
    for variant, by_task in scores.items():
        parts = {task: {task: runs} for task, runs in by_task.items()}
        if len(by_task) > 1:
            parts["all"] = by_task
        for task, part in parts.items():
            mean, low, high = curves.bootstrap(part)
            n = sum(len(runs) for runs in part.values())
            rows.append(dict(task=task, variant=variant, runs=n, iqm=mean, low=low, high=high))
    return sorted(rows, key=lambda row: (row["task"], -row["iqm"]))


def on_grid(records: list[Record], key: str = "success_rate") -> tuple[np.ndarray, np.ndarray]:
    """
    Curves of one variant and task on common steps: a chunk may overshoot an evaluation's step by a few.

    :param records: runs of equal ``eval_freq``
    :param key: column of curve.csv
    :return: steps (n,), values (runs, n) with nan where a run has not come so far
    """
    freq = records[0].run["eval_freq"]
    by_step = [{int(r["timesteps"]) // freq * freq: r[key] for r in record.curve if key in r} for record in records]
    steps = sorted({step for values in by_step for step in values})
    return np.array(steps), np.array([[values.get(step, np.nan) for step in steps] for values in by_step])
