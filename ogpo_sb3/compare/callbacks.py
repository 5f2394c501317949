"""Callbacks of a run: evaluation and checkpoints with their times, and a sign of life."""

import pathlib
import time
from typing import Any

from stable_baselines3.common.callbacks import BaseCallback

from ogpo_sb3.common.checkpoint import FullCheckpointCallback
from ogpo_sb3.common.files import write_json
from ogpo_sb3.compare.timing import Timer
from ogpo_sb3.evaluation import EvaluateCallback, EvaluationResult


class Watch(EvaluateCallback):
    """
    As :class:`ogpo_sb3.EvaluateCallback`; the time it takes is kept apart.

    :param timer: of the run
    :param kwargs: as there
    """

    def __init__(self, timer: Timer, **kwargs: Any):
        super().__init__(**kwargs)
        self.timer = timer

    def evaluate(self) -> EvaluationResult:
        """Evaluate now, log and append."""
        with self.timer.evaluating():
            return super().evaluate()


class Checkpoints(FullCheckpointCallback):
    """
    As :class:`FullCheckpointCallback`; environments are restarted after each one, as they are in a run that goes on from it:
    a comparison that was interrupted gives the numbers of one that was not.

    :param timer: of the run, saved along
    :param kwargs: as there
    """

    def __init__(self, timer: Timer, **kwargs: Any):
        super().__init__(**kwargs)
        self.timer = timer

    def _save_if_due(self) -> None:
        due = self._next
        super()._save_if_due()
        if self._next != due:
            self.timer.save()
            self.model.restart_env()  # type: ignore[attr-defined]


class Heartbeat(BaseCallback):
    """
    Writes how far the run is, every few seconds, for the display.

    :param path: file, replaced each time
    :param total: environment steps of the run
    :param seconds: between two writes
    """

    def __init__(self, path: pathlib.Path, total: int, seconds: float = 2.0):
        super().__init__()
        self.path, self.total, self.seconds, self._last = path, total, seconds, 0.0

    def _on_step(self) -> bool:
        if time.monotonic() - self._last >= self.seconds:
            self._last = time.monotonic()
            write_json(self.path, dict(stage="fine-tuning", steps=self.model.num_timesteps, total=self.total))
        return True
