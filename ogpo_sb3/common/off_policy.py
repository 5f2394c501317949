"""What every off-policy algorithm of the package shares: chunks, counting, rates, updates owed, saving."""

import pathlib
from collections import defaultdict
from typing import Any, ClassVar, TypeVar

import gymnasium as gym
import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.callbacks import BaseCallback, CallbackList, ConvertCallback
from stable_baselines3.common.noise import ActionNoise
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import GymEnv, MaybeCallback, RolloutReturn, TrainFreq, TrainFrequencyUnit
from stable_baselines3.common.utils import get_device
from stable_baselines3.common.vec_env import VecEnv

from ogpo_sb3.common.async_collection import AsyncCollectionMixin
from ogpo_sb3.common.buffers import ChunkReplayBuffer
from ogpo_sb3.common.captured import CapturedStep
from ogpo_sb3.common.chunked_env import chunk_env, chunk_like
from ogpo_sb3.common.errors import TrainingDivergedError
from ogpo_sb3.common.options import check_at_least, check_pretraining, check_shared
from ogpo_sb3.common.features import GCPActor
from ogpo_sb3.common.policies import DiffusionPolicy, FlowPolicy, GCPPolicy
from ogpo_sb3.common.precision import check_precision
from ogpo_sb3.common.pretraining import PretrainingMixin, adopt_checkpoint
from ogpo_sb3.common.progress import StepProgressBar
from ogpo_sb3.common.saving import SavingMixin
from ogpo_sb3.common.schedules import Schedule, as_schedule
from ogpo_sb3.common.updates import UpdatesMixin
from ogpo_sb3.envs.chunking import chunk_size_of, steps_in

SelfGCP = TypeVar("SelfGCP", bound="GCPOffPolicyAlgorithm")


class GCPOffPolicyAlgorithm(PretrainingMixin, UpdatesMixin, AsyncCollectionMixin, SavingMixin):
    """
    SB3's off-policy algorithm for generative control policies over action chunks.

    ``num_timesteps`` and everything derived from it (``learn``'s total, ``learning_starts``, update ratios, schedules,
    log axes) count *environment steps*, summed over environments; a decision executes up to ``chunk_size`` of them.
    Arguments are documented in the algorithms.
    """

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {"FlowPolicy": FlowPolicy, "DiffusionPolicy": DiffusionPolicy}
    policy: GCPPolicy
    actor: GCPActor
    replay_buffer: ChunkReplayBuffer

    def __init__(
        self,
        policy: str | type[GCPPolicy],
        env: GymEnv | str | None,
        learning_rate: float | str | Schedule,
        critic_learning_rate: float | str | Schedule,
        bc_learning_rate: float | str | Schedule,
        buffer_size: int,
        learning_starts: int,
        critic_warmup_updates: int,
        batch_size: int,
        tau: float,
        actor_tau: float,
        gamma: float,
        train_freq: int | tuple[int, str],
        gradient_steps: int | None,
        utd_critic: float | None,
        utd_actor: float,
        chunk_size: int | None,
        demonstrations: Any,
        bc_steps: int,
        clip_bc: float | None,
        pretrained_policy: str | pathlib.Path | None,
        offline_ratio: float,
        max_grad_norm: float,
        precision: str,
        async_collection: bool,
        action_noise: ActionNoise | None,
        replay_buffer_class: type[ChunkReplayBuffer] | None,
        replay_buffer_kwargs: dict[str, Any] | None,
        optimize_memory_usage: bool,
        n_steps: int,
        policy_kwargs: dict[str, Any] | None,
        stats_window_size: int,
        tensorboard_log: str | None,
        verbose: int,
        device: th.device | str,
        seed: int | None,
        _init_setup_model: bool,
    ):
        if utd_critic is not None and gradient_steps is not None:
            raise ValueError(
                f"utd_critic={utd_critic} and gradient_steps={gradient_steps} both set the critic's rate: give one"
            )
        check_precision(precision, get_device(device))
        check_shared(tau, actor_tau, gamma, utd_critic, utd_actor, offline_ratio, max_grad_norm)
        check_at_least(
            buffer_size=(buffer_size, 1),
            batch_size=(batch_size, 1),
            learning_starts=(learning_starts, 0),
            critic_warmup_updates=(critic_warmup_updates, 0),
        )
        check_pretraining(demonstrations, bc_steps, clip_bc, pretrained_policy, offline_ratio)
        if optimize_memory_usage:
            raise NotImplementedError("optimize_memory_usage is not needed: the chunk buffer stores each observation once")
        if n_steps != 1:
            raise ValueError(f"n_steps={n_steps} is not supported: a chunk of {chunk_size or 'h'} steps is the n-step return")
        if replay_buffer_class is not None and not issubclass(replay_buffer_class, ChunkReplayBuffer):
            raise ValueError(
                f"replay_buffer_class must be a subclass of ChunkReplayBuffer, found {replay_buffer_class.__name__}: other "
                "buffers store decisions, not environment steps"
            )
        pretrained_chunk_size = None
        if pretrained_policy is not None:
            pretrained_chunk_size, policy_kwargs = adopt_checkpoint(pretrained_policy, policy_kwargs)
        if env is not None and _init_setup_model:
            env = chunk_env(env, chunk_size, pretrained_chunk_size, verbose)

        super().__init__(
            policy,
            env,  # type: ignore[arg-type]  # None is right when loading
            learning_rate,  # type: ignore[arg-type]
            buffer_size=buffer_size,
            learning_starts=learning_starts,
            batch_size=batch_size,
            tau=tau,
            gamma=gamma,
            train_freq=train_freq,
            gradient_steps=1 if gradient_steps is None else gradient_steps,
            action_noise=action_noise,
            replay_buffer_class=replay_buffer_class,
            replay_buffer_kwargs=replay_buffer_kwargs,
            policy_kwargs=policy_kwargs,
            stats_window_size=stats_window_size,
            tensorboard_log=tensorboard_log,
            verbose=verbose,
            device=device,
            support_multi_env=True,
            seed=seed,
            sde_support=False,
            supported_action_spaces=(spaces.Box,),
        )
        self.critic_learning_rate, self.bc_learning_rate = critic_learning_rate, bc_learning_rate
        self.actor_tau = actor_tau
        self.critic_warmup_updates = critic_warmup_updates
        self.utd_critic, self.utd_actor = utd_critic, utd_actor
        self.demonstrations, self.bc_steps, self.clip_bc = demonstrations, bc_steps, clip_bc
        self.pretrained_policy = pretrained_policy
        self.offline_ratio = offline_ratio
        self.max_grad_norm = max_grad_norm
        self.precision = precision
        # Counters that a run needs to go on (saved in the zip)
        self._num_decisions = 0
        self._n_actor_updates = 0
        self._n_warmup_updates = 0
        self._critic_debt = 0.0  # fraction of a critic update owed
        self._actor_debt = 0.0  # fraction of an actor update owed
        self._show_progress = False
        self._duration_announced = False
        self._init_async_collection(async_collection)
        self._init_pretraining()
        self._metrics: dict[str, list[th.Tensor]] = defaultdict(list)
        self._captured: dict[Any, CapturedStep] = {}  # recorded updates (GPU)
        self._diverged: dict[str, th.Tensor] = {}  # by loss: whether a step was left out (GPU)
        if _init_setup_model:
            self._setup_model()

    # -- construction ---------------------------------------------------------------------------------------------

    @property
    def chunk_size(self) -> int:
        """Environment steps per decision, read off the action space."""
        return chunk_size_of(self.action_space)

    def _setup_lr_schedule(self) -> None:
        self.lr_schedule = as_schedule(self.learning_rate, "learning_rate")
        self.critic_lr_schedule = as_schedule(self.critic_learning_rate, "critic_learning_rate")
        self.bc_lr_schedule = as_schedule(self.bc_learning_rate, "bc_learning_rate")

    def _setup_model(self) -> None:
        self.buffer_size = int(self.buffer_size)
        if self.replay_buffer_class is None:
            self.replay_buffer_class = ChunkReplayBuffer
        self.replay_buffer_kwargs = {**self.replay_buffer_kwargs, "chunk_size": self.chunk_size, "gamma": self.gamma}
        super()._setup_model()
        self._create_aliases()
        self._prepare_optimizers()
        self._setup_pretraining()

    def _create_aliases(self) -> None:
        self.actor, self.actor_ema, self.actor_slow = self.policy.actor, self.policy.actor_ema, self.policy.actor_slow
        self.critic, self.critic_target = self.policy.critic, self.policy.critic_target

    def set_env(self, env: GymEnv, force_reset: bool = True) -> None:
        """
        As SB3's; a per-step environment is wrapped with the model's chunk size.

        :param env: environment with the model's spaces
        :param force_reset: reset it before training goes on
        """
        if isinstance(env, gym.Env):
            env = chunk_like(env, self.chunk_size)
        super().set_env(env, force_reset=force_reset)

    # -- collecting -----------------------------------------------------------------------------------------------

    def _setup_learn(
        self,
        total_timesteps: int,
        callback: MaybeCallback = None,
        reset_num_timesteps: bool = True,
        tb_log_name: str = "run",
        progress_bar: bool = False,
    ) -> tuple[int, BaseCallback]:
        if (reset_num_timesteps or self._last_obs is None) and self.replay_buffer is not None:
            # The environment is about to be reset without a done flag: nothing after may join what came before.
            self.replay_buffer.cut()
        if reset_num_timesteps:
            self._num_decisions = 0
        self._prepare_overlap()
        return super()._setup_learn(int(total_timesteps), callback, reset_num_timesteps, tb_log_name, progress_bar)

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

    def _sample_action(
        self, learning_starts: int, action_noise: ActionNoise | None = None, n_envs: int = 1
    ) -> tuple[np.ndarray, np.ndarray]:
        """Before ``learning_starts``: the pre-trained behaviour policy without best-of-N (its critic knows nothing yet)."""
        if not (self.pretrained and self.num_timesteps < learning_starts):
            return super()._sample_action(learning_starts, action_noise, n_envs)
        best_of_n, self.policy.best_of_n = self.policy.best_of_n, 1
        try:
            return super()._sample_action(0, action_noise, n_envs)
        finally:
            self.policy.best_of_n = best_of_n

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
            # A callback used the environment for something else, an evaluation say: its episodes are interrupted.
            replay_buffer.cut()
            self._last_obs = env.reset()  # type: ignore[assignment]
            self._note_original_obs()
        while (episodes if by_episode else steps) < wanted:
            actions, buffer_actions = self._sample_action(learning_starts, action_noise, env.num_envs)
            if not np.isfinite(actions).all():
                culprit = "the policy's action" if _is_finite(self._last_obs) else "the observation after a reset"
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
                self._last_obs = new_obs  # type: ignore[assignment]
                self._note_original_obs()
                return RolloutReturn(steps, episodes, continue_training=False)
            self._update_info_buffer(infos, dones)
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

    def _note_original_obs(self) -> None:
        """Observations are stored as they were before VecNormalize."""
        if self._vec_normalize_env is not None:
            self._last_original_obs = self._vec_normalize_env.get_original_obs()

    def learn(
        self: SelfGCP,
        total_timesteps: int,
        callback: MaybeCallback = None,
        log_interval: int = 4,
        tb_log_name: str | None = None,
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> SelfGCP:
        """
        Pre-train where that is due, then collect and update in turn.

        :param total_timesteps: environment steps, summed over environments; a float such as 3e6 works
        :param callback: as in SB3, called once per decision
        :param log_interval: episodes between two logs
        :param tb_log_name: TensorBoard run name, the class name by default
        :param reset_num_timesteps: begin counting anew
        :param progress_bar: show progress in environment steps
        """
        assert self.env is not None, "You must set the environment before calling learn()"
        if self.pretraining_due:
            self.pretrain(progress_bar=progress_bar or self.verbose > 0)
        self._show_progress = progress_bar
        # The stock progress bar looks for this name among the local variables.
        total_timesteps, callback = self._setup_learn(
            total_timesteps, callback, reset_num_timesteps, tb_log_name or type(self).__name__, progress_bar
        )
        callback.on_training_start(locals(), globals())
        assert isinstance(self.train_freq, TrainFreq)
        while self.num_timesteps < total_timesteps:
            rollout = self.collect_rollouts(
                self.env,
                callback,
                self.train_freq,
                self.replay_buffer,
                action_noise=self.action_noise,
                learning_starts=self.learning_starts,
                log_interval=log_interval,
            )
            if not rollout.continue_training:
                break
            if self.num_timesteps > self.learning_starts:
                self._owe_updates(self._updates_owed(rollout.episode_timesteps))
        else:  # no callback stopped it
            self._run_pending_updates()
        self._read_metrics()
        callback.on_training_end()
        return self

    def dump_logs(self) -> None:
        """SB3's log table, with the number of decisions beside that of environment steps."""
        self._read_metrics()
        self.logger.record("time/decisions", self._num_decisions, exclude="tensorboard")
        super().dump_logs()

    # -- saving ---------------------------------------------------------------------------------------------------

    def _excluded_save_params(self) -> list[str]:
        aliases = ["actor", "actor_ema", "actor_slow", "critic", "critic_target"]
        sources = [] if isinstance(self.demonstrations, str) else ["demonstrations"]
        passing = ["_metrics", "_captured", "_diverged"]
        return [*super()._excluded_save_params(), *aliases, *sources, *self._pretraining_excluded(), *passing]

    def _get_torch_save_params(self) -> tuple[list[str], list[str]]:
        return ["policy", "actor.optimizer", "critic.optimizer"], []


def _is_finite(observation: Any) -> bool:
    values = observation.values() if isinstance(observation, dict) else [observation]
    return all(bool(np.isfinite(value).all()) for value in values)
