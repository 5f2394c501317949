"""Progress that is counted in environment steps or updates."""

from collections.abc import Iterable

from stable_baselines3.common.callbacks import ProgressBarCallback
from tqdm import tqdm


class StepProgressBar(ProgressBarCallback):
    """SB3's bar advances by one per decision and environment; this one by the environment steps executed."""

    def _on_training_start(self) -> None:
        super()._on_training_start()
        self._shown = self.num_timesteps

    def _on_step(self) -> bool:
        self.pbar.update(self.num_timesteps - self._shown)
        self._shown = self.num_timesteps
        return True


def progress(iterable: Iterable[int], description: str, total: int, enabled: bool, initial: int = 0) -> "tqdm[int]":
    """
    A bar with rate and remaining time.

    :param iterable: what is iterated over
    :param description: shown before the bar
    :param total: number of items of the whole task
    :param enabled: draw it
    :param initial: items done before
    """
    return tqdm(iterable, desc=description, total=total, initial=initial, disable=not enabled, dynamic_ncols=True)
