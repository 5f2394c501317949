"""DSRL: SAC over the initial latent of a frozen generative policy."""

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import torch as th
from stable_baselines3.common.noise import ActionNoise
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.preprocessing import get_action_dim
from stable_baselines3.common.type_aliases import GymEnv

from ogpo_sb3.common.buffers import ChunkReplaySamples
from ogpo_sb3.common.off_policy import GCPOffPolicyAlgorithm
from ogpo_sb3.common.optimization import without_gradient_of
from ogpo_sb3.common.options import check_at_least, check_choice, check_positive
from ogpo_sb3.common.policies import by_name
from ogpo_sb3.common.schedules import Schedule
from ogpo_sb3.common.soft_actor import SoftActorMixin
from ogpo_sb3.critics import Regression, aggregate
from ogpo_sb3.dsrl.policies import NoisePolicy, POLICIES


def check_sources(values: Mapping[str, Any], noise_aliasing: bool) -> None:
    """
    :param values: arguments of :class:`DSRL` by name
    :param noise_aliasing: critics are those of actions
    :raises ValueError: demonstrations are to be learned from, where latents are
    """
    offline = {name: values[name] for name in ("offline_ratio", "critic_pretrain_updates") if values.get(name)}
    if offline and not noise_aliasing:
        raise ValueError(f"{offline} needs noise_aliasing=True: demonstrations have actions, but no latents")
    if values.get("bc_offline_ratio"):
        found = values["bc_offline_ratio"]
        raise ValueError(f"bc_offline_ratio={found} clones demonstrations, and success_bc of DSRL latents: they have none")


class DSRL(SoftActorMixin, GCPOffPolicyAlgorithm):
    """
    Diffusion Steering via Reinforcement Learning (Wagenmaker et al. 2025, arXiv 2506.15799).

    The cloned policy is frozen; a SAC policy chooses the latent w that its ODE starts from. The critics are Q(s, w), learned
    from whole decisions with the latents that were really denoised (each once), R the discounted reward of the k steps that
    were executed:

        y = R + gamma^k (1 - done) Q_target(s', w'),  w' from the noise actor, no entropy.

    With ``noise_aliasing`` the critics are Q(s, a), learned from windows at any step, and a noise critic is regressed on
    Q(s, ODE(s, w)), which the noise actor follows.

    :param policy: "FlowPolicy" or the name of another family, or a policy class derived from ``NoisePolicy``
    :param env: environment, its id or a chunked vectorised environment
    :param learning_rate: of noise actor and temperature
    :param action_magnitude: latents lie within +- this (c)
    :param noise_aliasing: learn Q(s, a) and distil it
    :param distillation_steps: steps of the noise critic per actor update
    :param target_entropy: of w / c; minus half the dimension of a chunk when None or "auto"
    :param initial_temperature: alpha before training; it falls by learning_rate per update at most, so that values on a small
        scale want a small one
    :param chunk_reward: "sum"; "max": the largest reward within a decision, as the official code has it (not with aliasing)
    :param success_bc: draw the noise actor's mode to the latents of successful episodes (DSRL+)
    :param latent_bc_coef: coefficient of the latter
    :param tau: Polyak rate of the target critics
    :param max_grad_norm: gradient norms are clipped to this
    :param target_range: TD targets are clamped to this interval
    :param kwargs: see :class:`ogpo_sb3.common.off_policy.GCPOffPolicyAlgorithm`
    :raises ValueError: unknown or contradictory options
    """

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = by_name(POLICIES)
    policy_base = NoisePolicy
    policy_settings: ClassVar[tuple[str, ...]] = ("action_magnitude",)
    counts: ClassVar[tuple[str, ...]] = (*GCPOffPolicyAlgorithm.counts, "distillation_steps")
    success_coefs: ClassVar[tuple[str, ...]] = ("latent_bc_coef",)  # of what success_bc adds
    policy: NoisePolicy

    def __init__(
        self,
        policy: str | type[NoisePolicy],
        env: GymEnv | str | None,
        learning_rate: float | str | Schedule = 3e-4,
        action_magnitude: float = 1.0,
        noise_aliasing: bool = False,
        distillation_steps: int = 1,
        target_entropy: float | str | None = None,
        initial_temperature: float = 1.0,
        chunk_reward: str = "sum",
        success_bc: bool = False,
        latent_bc_coef: float = 0.1,
        tau: float = 0.05,
        max_grad_norm: float = 1.0,
        target_range: tuple[float, float] | None = (-500.0, 500.0),
        policy_kwargs: dict[str, Any] | None = None,
        **kwargs: Any,
    ):
        check_sources(kwargs, noise_aliasing)  # before the lack of demonstrations is named, which would not help
        if policy_kwargs and policy_kwargs.get("noise_aliasing", noise_aliasing) != noise_aliasing:
            raise ValueError(f"noise_aliasing is an argument of {type(self).__name__} itself, found in policy_kwargs")
        self.action_magnitude, self.noise_aliasing = action_magnitude, noise_aliasing
        self.distillation_steps = distillation_steps
        self.initial_temperature = initial_temperature
        self.target_entropy, self.chunk_reward = target_entropy, chunk_reward
        self.latent_bc_coef = latent_bc_coef
        self._latents: np.ndarray | None = None  # (n_envs, D), of the decision under way
        super().__init__(
            policy,
            env,
            learning_rate=learning_rate,
            success_bc=success_bc,
            tau=tau,
            max_grad_norm=max_grad_norm,
            target_range=target_range,
            policy_kwargs={**(policy_kwargs or {}), "noise_aliasing": noise_aliasing},
            **kwargs,
        )

    def _check_options(self) -> None:
        super()._check_options()
        check_positive("action_magnitude", self.action_magnitude)
        check_choice("chunk_reward", self.chunk_reward, ("sum", "max"))
        check_at_least(distillation_steps=(self.distillation_steps, 1), latent_bc_coef=(self.latent_bc_coef, 0))
        if self.noise_aliasing != self.policy_kwargs["noise_aliasing"]:
            raise ValueError(
                f"noise_aliasing={self.noise_aliasing} wants other networks than the saved model has, which was made with "
                f"noise_aliasing={self.policy_kwargs['noise_aliasing']}"
            )
        if self.noise_aliasing and self.chunk_reward == "max":
            raise ValueError("chunk_reward='max' belongs to whole decisions, noise_aliasing learns from windows: choose one")
        check_sources(vars(self), self.noise_aliasing)
        if self.bc_coef != 1.0:
            raise ValueError(
                f"bc_coef={self.bc_coef} weighs cloning, and {type(self).__name__} leaves the cloned policy as it is: what "
                f"success_bc adds has {' and '.join(self.success_coefs)}"
            )

    def _setup_model(self) -> None:
        self.replay_buffer_kwargs = {
            **self.replay_buffer_kwargs,
            "decision_arrays": {"latent": get_action_dim(self.action_space)},
        }
        super()._setup_model()

    # -- decisions, with the latents they came from ---------------------------------------------------------------

    def _sample_action(
        self, learning_starts: int, action_noise: ActionNoise | None = None, n_envs: int = 1
    ) -> tuple[np.ndarray, np.ndarray]:
        """Before ``learning_starts`` standard normal latents: the cloned policy where there is one."""
        observation, _ = self.policy.obs_to_tensor(self._last_obs)  # type: ignore[arg-type]
        with th.no_grad():
            if self.num_timesteps < learning_starts:
                latents = self.policy.fresh_latents(observation)[:, 0]
                chosen = self.policy.decode(observation, latents)
            else:
                latents = self.policy.latents(observation)
                chosen = self.policy.act(observation, latents)
        self._latents = latents.cpu().numpy()
        scaled = chosen.cpu().numpy().reshape(-1, *self.action_space.shape)  # type: ignore[misc]
        if action_noise is not None:
            scaled = np.clip(scaled + action_noise(), -1.0, 1.0)
        return self.policy.unscale_action(scaled), scaled

    def _store_transition(
        self, replay_buffer: Any, buffer_action: Any, new_obs: Any, reward: Any, dones: Any, infos: Any
    ) -> None:
        """As SB3's, with the latents."""
        assert self._latents is not None
        infos = [{**info, "decision": {"latent": latent}} for info, latent in zip(infos, self._latents, strict=True)]
        super()._store_transition(replay_buffer, buffer_action, new_obs, reward, dones, infos)

    # -- updates --------------------------------------------------------------------------------------------------

    def _sample(self, batch_size: int, success_only: bool = False) -> ChunkReplaySamples:
        """In latent space only windows that begin at a decision, whose latent is known."""
        if self.noise_aliasing:
            return super()._sample(batch_size, success_only)
        return self._sample_decisions(batch_size, success_only)

    def _sample_decisions(self, batch_size: int, success_only: bool) -> ChunkReplaySamples:
        return self.replay_buffer.sample(batch_size, self._vec_normalize_env, success_only=success_only, aligned=True)

    def _criticised(self, batch: ChunkReplaySamples) -> th.Tensor:
        if self.noise_aliasing:
            return batch.actions
        assert batch.decision is not None
        return batch.decision["latent"]

    def _rewards(self, batch: ChunkReplaySamples) -> th.Tensor:
        if self.chunk_reward == "sum":
            return super()._rewards(batch)
        return batch.step_rewards.masked_fill(batch.valid == 0, -th.inf).max(dim=1).values

    def _next_value(self, batch: ChunkReplaySamples) -> th.Tensor:
        """Q_target of the noise actor's next latent, or of the action it becomes."""
        chosen = self.policy.latents(batch.next_observations)
        if self.noise_aliasing:
            chosen = self.policy.decode(batch.next_observations, chosen)
        return aggregate(self.critic_target(batch.next_observations, chosen), self.q_agg)

    def _update_actor(self) -> None:
        if self.noise_aliasing:
            for _ in range(self.distillation_steps):
                self._run(self._distillation_step, self._sample(self.batch_size))
        successes = None
        if self.success_bc and self.replay_buffer.n_success >= self.actor_batch_size:
            successes = self._sample_decisions(self.actor_batch_size, success_only=True)
        self._run(self._noise_step, self._sample(self.actor_batch_size), successes)

    def _distillation_step(self, batch: ChunkReplaySamples) -> dict[str, th.Tensor]:
        """Noise aliasing: Q_noise(s, w) to Q(s, ODE(s, w)) at w = c tanh(xi), xi ~ N(0, I), head by head."""
        with th.no_grad():
            latents = self.action_magnitude * th.randn_like(batch.actions).tanh()
            target = self.critic(batch.observations, self.policy.decode(batch.observations, latents))  # (M, B)
        loss = self.policy.noise_critic.loss(batch.observations, latents, Regression(target)).loss
        grad_norm = self._optimise(self.policy.noise_critic, loss, "noise_critic_loss")
        return dict(noise_critic_loss=loss, noise_critic_grad_norm=grad_norm)

    def _noise_step(self, batch: ChunkReplaySamples, successes: ChunkReplaySamples | None) -> dict[str, th.Tensor]:
        """SAC on latents, drawn to those of successful decisions where there are any."""
        critic = self.policy.noise_critic if self.noise_aliasing else self.critic
        unscaled, log_prob = self.policy.noise_actor.sample(batch.observations)
        with without_gradient_of(critic):
            q = aggregate(critic(batch.observations, self.action_magnitude * unscaled), self.q_agg)
        imitation, logged = None, {}
        if successes is not None:
            assert successes.decision is not None
            mode = self.policy.latents(successes.observations, deterministic=True)
            # Latents from before learning_starts can lie where the noise actor cannot reach.
            wanted = successes.decision["latent"].clamp(-self.action_magnitude, self.action_magnitude)
            error = (mode - wanted).square().mean()
            imitation, logged = self.latent_bc_coef * error, dict(latent_bc_loss=error)
        improved = self._improve("noise", self.policy.noise_actor, self.policy.noise_temperature, log_prob, q, imitation)
        return dict(**improved, **logged, latent_size=unscaled.detach().abs().mean() * self.action_magnitude)

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "_latents"]
