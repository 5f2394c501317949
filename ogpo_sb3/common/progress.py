"""Progress that is counted in environment steps or updates."""

from collections.abc import Iterable

from stable_baselines3.common.callbacks import BaseCallback, EventCallback, ProgressBarCallback
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


def check_counts_itself(callback: BaseCallback, frequency: str) -> None:
    """
    Refuse a place inside Stable-Baselines3's ``EveryNTimesteps``, which tells of steps alone: a callback that acts between
    rollouts would never act there.

    :param callback: whose parent is looked at
    :param frequency: name of its argument that counts steps
    :raises ValueError: it is in the hands of another callback that triggers it
    """
    if isinstance(callback.parent, EventCallback):
        raise ValueError(
            f"{type(callback).__name__} counts its own steps ({frequency}): give it to learn(callback=...) itself, not inside "
            f"{type(callback.parent).__name__}"
        )


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
