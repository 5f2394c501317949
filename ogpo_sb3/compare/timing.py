"""Time and memory of a run, summed over its interruptions."""

import json
import pathlib
import resource
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch as th

from ogpo_sb3.common.files import write_json


class Timer:
    """
    Wall-clock seconds of fine-tuning and of evaluation, and the largest memory.

    Saved with each checkpoint: what was done behind the last one is done again, and counted once.

    :param path: where they are kept between interruptions
    """

    def __init__(self, path: pathlib.Path):
        self.path, self.started = path, time.perf_counter()
        self.before = dict(seconds=0.0, evaluation=0.0, peak_bytes=0, peak_gpu_bytes=0)
        if path.exists():
            self.before.update(json.loads(path.read_text()))
        self.evaluation = 0.0

    def reset(self) -> None:
        """Forget earlier attempts: the run begins anew."""
        self.before = dict(seconds=0.0, evaluation=0.0, peak_bytes=0, peak_gpu_bytes=0)

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Time that is spent inside counts as evaluation."""
        started = time.perf_counter()
        yield
        self.evaluation += time.perf_counter() - started

    def _now(self) -> dict[str, Any]:
        # Linux counts in KiB, macOS in bytes.
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
        gpu = th.cuda.max_memory_allocated() if th.cuda.is_available() else 0
        return dict(
            seconds=self.before["seconds"] + time.perf_counter() - self.started,
            evaluation=self.before["evaluation"] + self.evaluation,
            peak_bytes=max(self.before["peak_bytes"], peak),
            peak_gpu_bytes=max(self.before["peak_gpu_bytes"], gpu),
        )

    def save(self) -> None:
        """Write down what was spent until now."""
        write_json(self.path, self._now())

    def summary(self) -> dict[str, Any]:
        """
        ``seconds`` in all but cloning, ``evaluation_seconds`` of them, ``training_seconds`` the rest; ``peak_bytes`` resident,
        ``peak_gpu_bytes`` allocated by torch.
        """
        now = self._now()
        return dict(
            seconds=now["seconds"],
            evaluation_seconds=now["evaluation"],
            training_seconds=now["seconds"] - now["evaluation"],
            peak_bytes=now["peak_bytes"],
            peak_gpu_bytes=now["peak_gpu_bytes"],
        )
