"""A callback that writes full checkpoints, and how to find them again."""

import os
import pathlib
import re

from stable_baselines3.common.callbacks import BaseCallback

from ogpo_sb3.common.files import check_folder
from ogpo_sb3.common.progress import check_counts_itself
from ogpo_sb3.common.saving import CHECKPOINT_SUFFIX


class FullCheckpointCallback(BaseCallback):
    """
    A full checkpoint every ``save_freq`` environment steps; older ones of the same run are removed only after the new one
    is complete.

    :param save_freq: environment steps between two checkpoints
    :param save_path: folder
    :param name_prefix: files are called <prefix>_<steps>_steps.ckpt
    :param keep: how many of the newest to keep; None for all
    :param verbose: 2 prints each file
    """

    def __init__(
        self,
        save_freq: int,
        save_path: str | os.PathLike[str],
        name_prefix: str = "run",
        keep: int | None = 2,
        verbose: int = 0,
    ):
        super().__init__(verbose)
        if save_freq < 1 or (keep is not None and keep < 1):
            raise ValueError(f"save_freq and keep must be at least 1, found {save_freq} and {keep}")
        check_folder(save_path, "save_path")
        self.save_freq, self.keep = int(save_freq), keep
        self.save_path, self.name_prefix = pathlib.Path(save_path), name_prefix
        self._next = 0

    def _on_training_start(self) -> None:
        check_counts_itself(self, "save_freq")
        self._next = self.num_timesteps + self.save_freq

    def _on_step(self) -> bool:
        return True

    def _on_rollout_start(self) -> None:
        # Between rollouts everything collected is stored and all owed updates are done,
        # or pending and saved as such (async_collection): nothing is half-way.
        self._save_if_due()

    def _on_training_end(self) -> None:
        self._save_if_due()

    def _save_if_due(self) -> None:
        if self.model.num_timesteps < self._next:
            return
        self._next = self.model.num_timesteps + self.save_freq
        path = self.save_path / f"{self.name_prefix}_{self.model.num_timesteps}_steps{CHECKPOINT_SUFFIX}"
        self.model.save_checkpoint(path)  # type: ignore[attr-defined]
        if self.verbose >= 2:
            print(f"Saved the checkpoint {path}")
        if self.keep is not None:
            found = checkpoints(self.save_path, self.name_prefix)
            # Those with more steps were left by another run, beside which this one must not lose its own.
            for old in found[: found.index(path) + 1][: -self.keep]:
                old.unlink(missing_ok=True)


def checkpoints(folder: str | os.PathLike[str], name_prefix: str = "run") -> list[pathlib.Path]:
    """
    :param folder: of a :class:`FullCheckpointCallback`
    :param name_prefix: its prefix
    :return: its files, oldest (fewest steps) first
    """
    # Not a glob pattern: that of "ogpo" would match the files of "ogpo_ca" too.
    pattern = re.compile(rf"{re.escape(name_prefix)}_(\d+)_steps{re.escape(CHECKPOINT_SUFFIX)}")
    folder = pathlib.Path(folder)
    matches = [pattern.fullmatch(name) for name in os.listdir(folder)] if folder.is_dir() else []
    return [folder / match[0] for match in sorted((m for m in matches if m), key=lambda match: int(match[1]))]
