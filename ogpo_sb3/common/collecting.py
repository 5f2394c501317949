"""Collecting decisions, counted in the environment steps that they executed."""

import warnings
from typing import Any

import numpy as np
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.noise import ActionNoise
from stable_baselines3.common.type_aliases import RolloutReturn, TrainFreq, TrainFrequencyUnit
from stable_baselines3.common.vec_env import VecEnv

from ogpo_sb3.common.async_collection import AsyncCollectionMixin
from ogpo_sb3.common.buffers import ChunkReplayBuffer
from ogpo_sb3.common.errors import TrainingDivergedError, is_finite
from ogpo_sb3.common.policies import GCPPolicy
from ogpo_sb3.envs.chunking import steps_in, success_of


class CollectingMixin(AsyncCollectionMixin):
    """The collecting side of :class:`ogpo_sb3.common.off_policy.GCPOffPolicyAlgorithm`."""

    policy: GCPPolicy
    pretrained: bool
    success_bc: bool
    _success_told = False

    def _sample_action(
        self, learning_starts: int, action_noise: ActionNoise | None = None, n_envs: int = 1
    ) -> tuple[np.ndarray, np.ndarray]:
        """Before ``learning_starts``: the pre-trained policy alone, without what untrained critics would add to it."""
        if not (self.pretrained and self.num_timesteps < learning_starts):
            return super()._sample_action(learning_starts, action_noise, n_envs)
        self.policy.base_only = True
        try:
            return super()._sample_action(0, action_noise, n_envs)
        finally:
            self.policy.base_only = False

    def collect_rollouts(
        self,
        env: VecEnv,
        callback: BaseCallback,
        train_freq: TrainFreq,
        replay_buffer: ChunkReplayBuffer,  # type: ignore[override]
        action_noise: ActionNoise | None = None,
        learning_starts: int = 0,
        log_interval: int | None = None,
    ) -> RolloutReturn:
        """
        SB3's loop, counting the environment steps that each decision executed.

        :param env: vectorised environment
        :param callback: called once per decision
        :param train_freq: at least this many environment steps (times n_envs) or episodes are collected
        :param replay_buffer: where windows are stored
        :param action_noise: added to the behaviour policy's actions
        :param learning_starts: environment steps before the policy is used (if it is not pre-trained)
        :param log_interval: log every so many episodes
        :return: environment steps (in ``episode_timesteps``), episodes, whether to go on
        """
        self.policy.set_training_mode(False)
        assert isinstance(env, VecEnv), "You must pass a VecEnv"
        assert train_freq.frequency > 0, "Should at least collect one step or episode."
        by_episode = train_freq.unit == TrainFrequencyUnit.EPISODE
        assert not (by_episode and env.num_envs > 1), "You must use only one env when doing episodic training."
        wanted = train_freq.frequency if by_episode else train_freq.frequency * env.num_envs
        steps = episodes = 0

        callback.on_rollout_start()
        if self._last_obs is None:
            self._begin_anew(env, replay_buffer)
        while (episodes if by_episode else steps) < wanted:
            actions, buffer_actions = self._sample_action(learning_starts, action_noise, env.num_envs)
            if not np.isfinite(actions).all():
                culprit = "the policy's action" if is_finite(self._last_obs) else "the observation after a reset"
                raise TrainingDivergedError(culprit, self.num_timesteps)
            new_obs, rewards, dones, infos = self._step_environments(env, actions)
            executed = sum(steps_in(info) for info in infos)
            self.num_timesteps += executed
            self._num_decisions += env.num_envs
            steps += executed

            callback.update_locals(locals())
            if not callback.on_step():
                # This chunk was executed and is not stored: what follows begins behind it and does not join what came before.
                replay_buffer.cut()
                if self._last_obs is not None:  # else the callback used the environment for something else
                    self._last_obs = new_obs  # type: ignore[assignment]
                    self._note_original_obs()
                return RolloutReturn(steps, episodes, continue_training=False)
            if self._last_obs is None:  # nor is this one
                self._begin_anew(env, replay_buffer)
                continue
            self._update_info_buffer(infos, dones)
            self._notice_missing_success(dones, infos)
            self._store_transition(replay_buffer, buffer_actions, new_obs, rewards, dones, infos)  # type: ignore[arg-type]
            self._update_current_progress_remaining(self.num_timesteps, self._total_timesteps)
            self._on_step()
            for idx in np.flatnonzero(dones):
                episodes += 1
                self._episode_num += 1
                if action_noise is not None:
                    action_noise.reset(**(dict(indices=[int(idx)]) if env.num_envs > 1 else {}))
                if log_interval is not None and self._episode_num % log_interval == 0:
                    self.dump_logs()
        callback.on_rollout_end()
        return RolloutReturn(steps, episodes, continue_training=True)

    def _notice_missing_success(self, dones: np.ndarray, infos: list[dict[str, Any]]) -> None:
        """Cloning of successes has nothing to clone for ever where the environment does not tell of any: said once."""
        if self.success_bc and not self._success_told and dones.any():
            self._success_told = True
            if success_of(infos[int(np.flatnonzero(dones)[0])]) is None:
                warnings.warn(
                    "success_bc=True, but the environment's infos have no is_success at an episode's end: none counts as a "
                    "success, and nothing is cloned",
                    stacklevel=2,
                )

    def _begin_anew(self, env: VecEnv, replay_buffer: ChunkReplayBuffer) -> None:
        """A callback used the environment for something else, an evaluation say: its episodes are interrupted."""
        replay_buffer.cut()
        self._last_obs = env.reset()  # type: ignore[assignment]
        self._note_original_obs()

    def _note_original_obs(self) -> None:
        """Observations are stored as they were before VecNormalize."""
        if self._vec_normalize_env is not None:
            self._last_original_obs = self._vec_normalize_env.get_original_obs()
