"""Progress in environment steps, and environments wrapped to the model's chunks."""

import gymnasium as gym
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback, CallbackList, ConvertCallback
from stable_baselines3.common.type_aliases import GymEnv, MaybeCallback

from ogpo_sb3.common.chunked_env import chunk_like
from ogpo_sb3.common.progress import StepProgressBar
from ogpo_sb3.envs.chunking import chunk_size_of


class ChunkedMixin(BaseAlgorithm):
    """What follows from acting in chunks, whatever the algorithm."""

    @property
    def chunk_size(self) -> int:
        """Environment steps per decision, read off the action space."""
        return chunk_size_of(self.action_space)

    def set_env(self, env: GymEnv, force_reset: bool = True) -> None:
        """
        As SB3's; a per-step environment is wrapped with the model's chunk size.

        :param env: environment with the model's spaces
        :param force_reset: reset it before training goes on
        """
        if isinstance(env, gym.Env):
            env = chunk_like(env, self.chunk_size)
        super().set_env(env, force_reset=force_reset)

    def _init_callback(self, callback: MaybeCallback, progress_bar: bool = False) -> BaseCallback:
        if progress_bar:
            given = callback if isinstance(callback, list) else [] if callback is None else [callback]
            as_callbacks = [c if isinstance(c, BaseCallback) else ConvertCallback(c) for c in given]
            callback = CallbackList([*as_callbacks, StepProgressBar()])
        return super()._init_callback(callback, False)

    def _update_current_progress_remaining(self, num_timesteps: int, total_timesteps: int) -> None:
        super()._update_current_progress_remaining(num_timesteps, total_timesteps)
        # A chunk may overshoot the total; a negative remainder would make a user's schedule return a negative rate.
        self._current_progress_remaining = min(max(self._current_progress_remaining, 0.0), 1.0)
