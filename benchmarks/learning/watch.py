"""Evaluation of a run with its diagnostics."""

import csv
import pathlib
import time
from collections.abc import Sequence
from typing import Any

from ogpo_sb3.common.files import atomic_write
from ogpo_sb3.evaluation import EvaluateCallback, EvaluationResult

from benchmarks.learning.diagnostics import METRICS, calibration, calibration_summary, gradient_shares, training_metrics

DIAGNOSTICS = (
    "replay_q",
    "replay_return",
    "overestimation",
    "heads_std",
    "pg_grad_norm",
    "bc_grad_norm",
    "bc_share",
    "bc_cosine",
)
FIELDS = ("timesteps", "seconds", "n_updates", "n_actor_updates", *METRICS, "rollout_success", "rollout_return", *DIAGNOSTICS)
BIN_FIELDS = ("timesteps", "bin", "q", "mc_return", "heads_std", "n")


class Watch(EvaluateCallback):
    """
    As :class:`ogpo_sb3.EvaluateCallback`, which writes ``curve.csv``; beside it ``training.csv`` and ``calibration.csv``.

    :param folder: of the run
    :param kwargs: as there
    """

    def __init__(self, folder: pathlib.Path, **kwargs: Any):
        super().__init__(csv_path=folder / "curve.csv", **kwargs)
        self.folder, self.started = folder, time.perf_counter()

    def evaluate(self) -> EvaluationResult:
        """Evaluate and look at the training now."""
        result = super().evaluate()
        steps = self.model.num_timesteps
        bins = calibration(self.model)
        row = {**training_metrics(self.model), **calibration_summary(bins), **gradient_shares(self.model)}
        row.update(timesteps=steps, seconds=round(time.perf_counter() - self.started, 1))
        append(self.folder / "training.csv", FIELDS, [row])
        append(self.folder / "calibration.csv", BIN_FIELDS, [{"timesteps": steps, "bin": i, **b} for i, b in enumerate(bins)])
        return result


def append(path: pathlib.Path, fields: Sequence[str], rows: Sequence[dict[str, Any]]) -> None:
    """
    Add rows; the file is replaced as a whole, so that an interruption leaves no half a line.

    :param path: CSV file
    :param fields: columns; absent values stay empty
    :param rows: by column
    """
    before = path.read_bytes() if path.exists() else (",".join(fields) + "\r\n").encode()
    with atomic_write(path) as file:
        file.write(before)
        text = _Lines()
        csv.DictWriter(text, fields).writerows([{k: _short(v) for k, v in row.items()} for row in rows])
        file.write("".join(text).encode())


class _Lines(list[str]):
    """A list that a CSV writer can write to."""

    def write(self, line: str) -> None:
        self.append(line)


def _short(value: Any) -> Any:
    return f"{value:.6g}" if isinstance(value, float) else value


def read(path: pathlib.Path) -> list[dict[str, float]]:
    """
    :param path: file written by :func:`append`
    :return: its rows in order; of rows that a continued run wrote twice, the last
    """
    if not path.exists():
        return []
    with path.open(newline="") as file:
        rows = [{k: float(v) for k, v in row.items() if v not in ("", None)} for row in csv.DictReader(file)]
    return [row for _, row in sorted({(row["timesteps"], row.get("bin", 0)): row for row in rows}.items())]
