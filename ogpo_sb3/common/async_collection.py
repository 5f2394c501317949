"""Updates that run while the environments' workers step: nothing but another order of sending, updating and reading."""

import contextlib
import time
import warnings

import numpy as np
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv
from stable_baselines3.common.vec_env.base_vec_env import VecEnvStepReturn

from ogpo_sb3.common.buffers import ChunkReplayBuffer
from ogpo_sb3.envs.chunking import steps_in


class AsyncCollectionMixin(OffPolicyAlgorithm):
    """
    When the updates of :class:`ogpo_sb3.common.off_policy.GCPOffPolicyAlgorithm` are run.

    Synchronously: right after the rollout that owes them. With ``async_collection``: during the first decision of the next
    rollout, between sending its actions to the workers and reading what came of them. These actions, and no others, are by
    the updates of one rollout older than the policy at the time they are stored. There are no threads: the order of all
    random draws is fixed.
    """

    replay_buffer: ChunkReplayBuffer
    _num_decisions: int

    def _init_async_collection(self, async_collection: bool) -> None:
        self.async_collection = async_collection
        self._pending_updates = 0  # critic updates owed and not yet run; saved in the zip
        self._waited = self._clock_started = 0.0  # seconds of waiting for the environments, and since when they are counted
        self._overlap_checked = False

    def _prepare_overlap(self) -> None:
        """At the beginning of ``learn``: start the clock, and say once if there is nothing to overlap."""
        self._waited, self._clock_started = 0.0, time.perf_counter()
        if self.async_collection and not self._overlap_checked and isinstance(self.env, VecEnv):
            self._overlap_checked = True
            if isinstance(self.env.unwrapped, DummyVecEnv):
                warnings.warn(
                    "async_collection=True gains nothing with a DummyVecEnv, which steps only when it is read: make the "
                    "environment with make_vec_env(..., vec_env_cls=SubprocVecEnv)",
                    stacklevel=4,  # the caller of learn
                )

    def _owe_updates(self, n_updates: int) -> None:
        """
        After a rollout.

        :param n_updates: critic updates it owes
        """
        self._pending_updates += n_updates
        if not self.async_collection:
            self._run_pending_updates()

    def _run_pending_updates(self) -> None:
        # A model loaded without its replay buffer has nothing to learn from before its first decision is stored.
        if self._pending_updates > 0 and self.replay_buffer.size() > 0:
            # Taken off first: what an error interrupts is not tried again.
            owed, self._pending_updates = self._pending_updates, 0
            self.train(batch_size=self.batch_size, gradient_steps=owed)

    def _step_environments(self, env: VecEnv, actions: np.ndarray) -> VecEnvStepReturn:
        """
        Execute one decision; pending updates are run meanwhile.

        :param env: vectorised environment
        :param actions: one chunk per environment
        :return: as of ``VecEnv.step``
        """
        if not self.async_collection:
            return env.step(actions)
        n_updates = self._n_updates
        env.step_async(actions)
        try:
            self._run_pending_updates()
        except BaseException:
            self._abandon_step(env)
            raise
        self.policy.set_training_mode(False)
        self.logger.record_mean("rollout/policy_lag", self._n_updates - n_updates)
        started = time.perf_counter()
        result = env.step_wait()
        self._waited += time.perf_counter() - started
        return result

    def _abandon_step(self, env: VecEnv) -> None:
        """Leave the environment readable after an error in the updates; what was executed is counted, not stored."""
        # The cause is worth more than a second error here: an interrupt from the keyboard ends the workers too.
        with contextlib.suppress(Exception):
            *_, infos = env.step_wait()
            self.num_timesteps += sum(steps_in(info) for info in infos)
            self._num_decisions += env.num_envs
        self._last_obs = None  # learn resets the environments, and nothing joins the steps that are missing

    def dump_logs(self) -> None:
        """SB3's log table, with the share of time that was spent on waiting for the environments."""
        if self.async_collection:
            now = time.perf_counter()
            self.logger.record("time/env_wait_share", self._waited / max(now - self._clock_started, 1e-9))
            self._waited, self._clock_started = 0.0, now
        super().dump_logs()

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "_waited", "_clock_started", "_overlap_checked"]
