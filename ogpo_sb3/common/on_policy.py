"""What on-policy algorithms of the package share: rollouts of chunk decisions, counting, pre-training, saving."""

import pathlib
from abc import abstractmethod
from typing import Any, ClassVar, TypeVar

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.type_aliases import GymEnv, MaybeCallback
from stable_baselines3.common.utils import obs_as_tensor
from stable_baselines3.common.vec_env import VecEnv
from torch import nn

from ogpo_sb3.common.actor_value_policies import ActorValuePolicy, ChunkValue
from ogpo_sb3.common.chunked_env import chunk_env
from ogpo_sb3.common.counting import ChunkedMixin
from ogpo_sb3.common.errors import TrainingDivergedError, is_finite
from ogpo_sb3.common.features import GCPActor
from ogpo_sb3.common.optimization import check_step, guarded_step, set_rate
from ogpo_sb3.common.options import check_demonstrations, check_horizon, check_on_policy, check_policy, make_whole
from ogpo_sb3.common.pretraining import PretrainingMixin, adopt_checkpoint
from ogpo_sb3.common.rollout_buffer import ChunkRolloutBuffer, RewardScaling
from ogpo_sb3.common.saving import ModelSavingMixin
from ogpo_sb3.common.schedules import Schedule, schedule_value
from ogpo_sb3.common.step_reader import check_sum
from ogpo_sb3.envs.chunking import steps_in

SelfOnPolicy = TypeVar("SelfOnPolicy", bound="GCPOnPolicyAlgorithm")


class GCPOnPolicyAlgorithm(PretrainingMixin, ChunkedMixin, ModelSavingMixin, OnPolicyAlgorithm):
    """
    SB3's on-policy algorithm for generative control policies over action chunks.

    All step counts are environment steps, as in :class:`ogpo_sb3.common.off_policy.GCPOffPolicyAlgorithm`. Arguments are
    documented in the algorithms.
    """

    # Arguments of the policy that are the algorithm's own: not taken over from a BC checkpoint.
    own_policy_kwargs: ClassVar[tuple[str, ...]] = ()
    # Arguments that count something, and may be written 4e4
    counts: ClassVar[tuple[str, ...]] = ("n_steps", "batch_size", "n_epochs", "bc_batch_size", "bc_steps", "finetuned_steps")
    policy: ActorValuePolicy  # type: ignore[assignment]
    actor: GCPActor
    critic: ChunkValue
    rollout_buffer: ChunkRolloutBuffer
    offline_ratio = 0.0  # demonstrations are cloned, never part of a rollout

    def __init__(
        self,
        policy: str | type[ActorValuePolicy],
        env: GymEnv | str | None,
        learning_rate: float | str | Schedule,
        critic_learning_rate: float | str | Schedule,
        bc_learning_rate: float | str | Schedule,
        n_steps: int,
        batch_size: int,
        n_epochs: int,
        gamma: float,
        gae_lambda: float,
        ent_coef: float,
        vf_coef: float,
        max_grad_norm: float,
        finetuned_steps: int | None,
        reward_scaling: bool,
        chunk_size: int | None,
        demonstrations: Any,
        bc_steps: int,
        bc_batch_size: int,
        clip_bc: float | None,
        pretrained_policy: str | pathlib.Path | None,
        actor_tau: float,
        rollout_buffer_class: type[ChunkRolloutBuffer] | None,
        rollout_buffer_kwargs: dict[str, Any] | None,
        policy_kwargs: dict[str, Any] | None,
        stats_window_size: int,
        tensorboard_log: str | None,
        verbose: int,
        seed: int | None,
        device: th.device | str,
        _init_setup_model: bool,
    ):
        check_on_policy(locals())
        check_policy(type(self).__name__, policy, ActorValuePolicy, self.policy_aliases)
        check_demonstrations(locals())
        if rollout_buffer_class is not None and not issubclass(rollout_buffer_class, ChunkRolloutBuffer):
            raise ValueError(
                f"rollout_buffer_class must be a subclass of ChunkRolloutBuffer, found {rollout_buffer_class.__name__}: other "
                "buffers do not keep the chains"
            )
        pretrained_chunk_size = None
        if pretrained_policy is not None:
            given = policy_kwargs or {}
            pretrained_chunk_size, adopted = adopt_checkpoint(pretrained_policy, policy, policy_kwargs)
            policy_kwargs = {k: v for k, v in adopted.items() if k in given or k not in self.own_policy_kwargs}
        if env is not None and _init_setup_model:
            env = chunk_env(env, chunk_size, pretrained_chunk_size, verbose)
        super().__init__(
            policy,  # type: ignore[arg-type]  # not an ActorCriticPolicy, but what this class asks of one
            env,  # type: ignore[arg-type]  # None is right when loading
            learning_rate,  # type: ignore[arg-type]
            n_steps=n_steps,
            gamma=gamma,
            gae_lambda=gae_lambda,
            ent_coef=ent_coef,
            vf_coef=vf_coef,
            max_grad_norm=max_grad_norm,
            use_sde=False,
            sde_sample_freq=-1,
            rollout_buffer_class=rollout_buffer_class,
            rollout_buffer_kwargs=rollout_buffer_kwargs,
            stats_window_size=stats_window_size,
            tensorboard_log=tensorboard_log,
            policy_kwargs=policy_kwargs,
            verbose=verbose,
            seed=seed,
            device=device,
            _init_setup_model=False,
            supported_action_spaces=(spaces.Box,),
        )
        self.critic_learning_rate, self.bc_learning_rate = critic_learning_rate, bc_learning_rate
        self.batch_size, self.n_epochs, self.bc_batch_size = batch_size, n_epochs, bc_batch_size
        self.finetuned_steps = finetuned_steps
        self.reward_scaling = reward_scaling
        self.demonstrations, self.bc_steps, self.clip_bc = demonstrations, bc_steps, clip_bc
        self.pretrained_policy = pretrained_policy
        self.actor_tau = actor_tau
        # What a run needs to go on (saved in the zip)
        self._num_decisions = 0
        self._n_rollouts = 0
        self._n_actor_updates = 0
        self._reward_scaling = RewardScaling(self.n_envs if env is not None else 1)
        self._init_pretraining()
        if _init_setup_model:
            self._setup_model()

    # -- construction ---------------------------------------------------------------------------------------------

    def _setup_model(self) -> None:
        make_whole(self, self.counts)
        check_on_policy(vars(self))  # ``load`` may have replaced some
        if self.rollout_buffer_class is None:
            self.rollout_buffer_class = ChunkRolloutBuffer
        super()._setup_model()
        self.actor, self.critic = self.policy.actor, self.policy.critic
        self._prepare_optimizers()
        self._setup_pretraining()
        saved = vars(self).get("_frozen_steps")  # where a model is being loaded
        self._freeze()
        if saved is not None and (saved > 0) != (self._frozen_steps > 0):
            raise ValueError(
                f"finetuned_steps={self.finetuned_steps} leaves {self._frozen_steps} denoising steps to a frozen copy of the "
                f"pre-trained policy, the saved model has left {saved} to one: load it with the value that it was made with"
            )

    def _freeze(self) -> None:
        """Leave the first denoising steps to the pre-trained policy; without one there is nothing worth keeping."""
        gcp = self.policy.actor.gcp
        kept = 0 if self.finetuned_steps is None else max(gcp.denoising_steps - self.finetuned_steps, 0)
        self.policy.freeze_steps(kept if self.pretrained and gcp.has_parts else 0)
        self._frozen_steps = self.policy.frozen_steps

    def pretrain(self, *args: Any, **kwargs: Any) -> "GCPOnPolicyAlgorithm":
        """As :meth:`ogpo_sb3.common.pretraining.PretrainingMixin.pretrain`."""
        self.policy.freeze_steps(0)  # while it is cloned, the whole policy is what is evaluated
        super().pretrain(*args, **kwargs)
        self._freeze()
        return self

    # -- collecting -----------------------------------------------------------------------------------------------

    def _setup_learn(
        self,
        total_timesteps: int,
        callback: MaybeCallback = None,
        reset_num_timesteps: bool = True,
        tb_log_name: str = "run",
        progress_bar: bool = False,
    ) -> tuple[int, BaseCallback]:
        if reset_num_timesteps:
            self._num_decisions = 0
        return super()._setup_learn(int(total_timesteps), callback, reset_num_timesteps, tb_log_name, progress_bar)

    @abstractmethod
    def chain_log_prob(self, condition: th.Tensor, states: th.Tensor) -> th.Tensor:
        """
        What the likelihood ratio is formed of, by the same function for the old policy and the current one.

        :param condition: (B, C) of the generative policy, from which gradients flow into it
        :param states: (F+1, B, D) the trained part of each chain
        :return: (F, B) per step, or (1, B)
        """

    def collect_rollouts(
        self,
        env: VecEnv,
        callback: BaseCallback,
        rollout_buffer: ChunkRolloutBuffer,  # type: ignore[override]
        n_rollout_steps: int,
    ) -> bool:
        """
        SB3's loop over decisions, counting the environment steps that each executed.

        :param env: vectorised environment
        :param callback: called once per decision
        :param rollout_buffer: filled
        :param n_rollout_steps: environment steps per environment; the buffer has been made for them
        :return: whether to go on
        """
        self.policy.set_training_mode(False)
        rollout_buffer.reset()
        callback.on_rollout_start()
        if self._last_obs is None:  # a callback used the environment for something else, an evaluation say
            self._last_obs = env.reset()  # type: ignore[assignment]
        while not rollout_buffer.full:
            obs: Any = self._last_obs
            actions, states, log_prob, values = self._decide(obs)
            new_obs, rewards, dones, infos = env.step(actions)
            step_rewards = self._step_rewards(rewards, infos)
            self.num_timesteps += sum(steps_in(info) for info in infos)
            self._num_decisions += env.num_envs
            self._last_obs, self._last_episode_starts = new_obs, dones  # type: ignore[assignment]
            callback.update_locals(locals())
            if not callback.on_step():
                return False
            self._update_info_buffer(infos, dones)
            final_values = self._final_values(dones, infos)
            if self._last_obs is None:  # the callback interrupted these episodes: they end here, bootstrapped
                final_values = np.where(dones, final_values, self._values(new_obs))
                dones = np.ones_like(dones)
                self._last_obs, self._last_episode_starts = env.reset(), dones  # type: ignore[assignment]
            rollout_buffer.add(obs, states, log_prob, values, step_rewards, dones, final_values)
        rollout_buffer.compute_returns_and_advantage(
            self._values(self._last_obs), self._reward_scaling if self.reward_scaling else None
        )
        self._n_rollouts += 1
        callback.update_locals(locals())
        callback.on_rollout_end()
        return True

    @th.no_grad()
    def _values(self, obs: Any) -> np.ndarray:
        """(N,) values of observations."""
        return self.policy.predict_values(obs_as_tensor(obs, self.device)).cpu().numpy()

    @th.no_grad()
    def _decide(self, obs: Any) -> tuple[np.ndarray, ...]:
        """Actions in the environment's scale, chains, their log-likelihoods, values."""
        obs_tensor = obs_as_tensor(obs, self.device)
        scaled, states = self.policy.draw(obs_tensor)
        old = self.policy.actor_ema
        log_prob = self.chain_log_prob(old.gcp.condition(old.features(obs_tensor)), states)
        values = self.policy.predict_values(obs_tensor)
        assert isinstance(self.action_space, spaces.Box)
        actions = self.policy.unscale_action(scaled.cpu().numpy().reshape(-1, *self.action_space.shape))
        if not np.isfinite(actions).all():
            raise TrainingDivergedError("the policy's action" if is_finite(obs) else "the observation", self.num_timesteps)
        actions = actions.astype(self.action_space.dtype, copy=False)
        return actions, *(x.cpu().numpy() for x in (states, log_prob, values))

    def _step_rewards(self, rewards: np.ndarray, infos: list[dict[str, Any]]) -> list[np.ndarray]:
        """The rewards of the steps that each decision executed; VecNormalize's scale is applied to each of them."""
        if self.chunk_size == 1:
            return [np.array([reward]) for reward in rewards]
        chunks = [info["chunk"]["rewards"] for info in infos]
        normalizer = self._vec_normalize_env
        given = rewards if normalizer is None else normalizer.get_original_reward()
        for i, (reward, chunk) in enumerate(zip(given, chunks, strict=True)):
            check_sum(i, float(reward), chunk)
        if normalizer is None or not normalizer.norm_reward:
            return chunks
        return [normalizer.normalize_reward(chunk) for chunk in chunks]

    @th.no_grad()
    def _final_values(self, dones: np.ndarray, infos: list[dict[str, Any]]) -> np.ndarray:
        """(N,) value of the last observation of an episode that a time limit cut; zero elsewhere."""
        values = np.zeros(len(dones), dtype=np.float32)
        for i in np.flatnonzero(dones):
            if infos[i].get("TimeLimit.truncated", False) and infos[i].get("terminal_observation") is not None:
                last_obs, _ = self.policy.obs_to_tensor(infos[i]["terminal_observation"])
                values[i] = self.policy.predict_values(last_obs).item()
        return values

    def learn(
        self: SelfOnPolicy,
        total_timesteps: int,
        callback: MaybeCallback = None,
        log_interval: int = 1,
        tb_log_name: str | None = None,
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> SelfOnPolicy:
        """
        Pre-train where that is due, then collect and update in turn.

        :param total_timesteps: environment steps, summed over environments; a float such as 3e6 works
        :param callback: as in SB3, called once per decision
        :param log_interval: rollouts between two logs
        :param tb_log_name: TensorBoard run name, the class name by default
        :param reset_num_timesteps: begin counting anew
        :param progress_bar: show progress in environment steps
        """
        assert self.env is not None, "You must set the environment before calling learn()"
        check_horizon(total_timesteps, log_interval)
        if self.pretraining_due:
            self.pretrain(progress_bar=progress_bar or self.verbose > 0)
        self.policy.actor.gcp.check_ready()
        return super().learn(
            total_timesteps, callback, log_interval, tb_log_name or type(self).__name__, reset_num_timesteps, progress_bar
        )

    def dump_logs(self, iteration: int = 0) -> None:
        """
        SB3's log table, with the number of decisions beside that of environment steps.

        :param iteration: rollouts in this call of ``learn``
        """
        self.logger.record("time/decisions", self._num_decisions, exclude="tensorboard")
        super().dump_logs(iteration)

    # -- updating -------------------------------------------------------------------------------------------------

    def _update_rates(self) -> None:
        """Write the scheduled learning rates into the optimisers."""
        progress = self._current_progress_remaining
        rates = {
            "learning_rate": (self.actor, self.lr_schedule, self._n_actor_updates),
            "critic_learning_rate": (self.critic, self.critic_lr_schedule, self._n_updates),
        }
        for name, (model, schedule, n_updates) in rates.items():
            rate = schedule_value(name, schedule, progress, n_updates)
            set_rate(model.optimizer, rate)
            self.logger.record(f"train/{name}", rate)

    def _fit_statistics(self) -> bool:
        """
        Observation statistics where no demonstrations gave any: of the first rollout, which then trains nothing, since its
        likelihoods are those of a policy that saw other inputs.

        :return: whether that is what happened
        """
        if not self.policy.normalize_observations or self.pretrained or self._n_rollouts != 1 or self._n_updates > 0:
            return False
        self.policy.fit_normalizer(self.rollout_buffer.flat_observations())
        return True

    def _optimise(self, model: nn.Module, loss: th.Tensor, name: str) -> th.Tensor:
        """
        One clipped gradient step; nothing is changed if loss or gradient is not finite.

        :param model: network with an ``optimizer``
        :param loss: scalar
        :param name: of the loss, for the error
        :return: gradient norm before clipping
        """
        model.optimizer.zero_grad(set_to_none=True)  # type: ignore[union-attr]
        loss.backward()
        norm, bad = guarded_step(model.optimizer, loss, self.max_grad_norm)  # type: ignore[arg-type]
        check_step(bad, loss, name, self.num_timesteps)
        return norm

    # -- saving ---------------------------------------------------------------------------------------------------

    def _excluded_save_params(self) -> list[str]:
        sources = [] if isinstance(self.demonstrations, str) else ["demonstrations"]
        return [*super()._excluded_save_params(), "actor", "critic", *sources, *self._pretraining_excluded()]

    def _get_torch_save_params(self) -> tuple[list[str], list[str]]:
        return ["policy", "actor.optimizer", "critic.optimizer"], []
