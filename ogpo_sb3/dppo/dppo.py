"""Diffusion Policy Policy Optimization."""

import math
from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import numpy as np
import torch as th
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import GymEnv
from stable_baselines3.common.utils import explained_variance

from ogpo_sb3.common.actor_value_policies import ActorValuePolicy
from ogpo_sb3.common.on_policy import GCPOnPolicyAlgorithm
from ogpo_sb3.common.options import check_at_least
from ogpo_sb3.common.policies import by_name
from ogpo_sb3.common.rollout_buffer import ChunkRolloutBuffer, ChunkRolloutSamples
from ogpo_sb3.common.schedules import Schedule, as_schedule, schedule_value
from ogpo_sb3.dppo.policies import POLICIES
from ogpo_sb3.extraction import ppo_clip_loss
from ogpo_sb3.gcp import owners

RATIOS = ("step", "chain")


class DPPO(GCPOnPolicyAlgorithm):
    """
    Diffusion Policy Policy Optimization (arXiv 2409.00588), for diffusion and flow policies.

    PPO on two levels: the environment's decisions have advantages (GAE, gamma^k for k executed steps), and every denoising
    step of a decision's chain is an action with that advantage, its own likelihood ratio and its own clip range.

    All step counts are environment steps. Official values are in ``zoo_configs/dppo.yml``.

    :param policy: "DiffusionPolicy" or the name of another family, or a policy class
    :param env: environment, its id or a chunked vectorised environment; a plain one is wrapped in ``chunk_size``
    :param learning_rate: of the actor; number, "lin_<number>", SB3 schedule or ``WarmupCosine``
    :param critic_learning_rate: of the value network
    :param bc_learning_rate: of behaviour cloning before RL
    :param n_steps: environment steps per environment and rollout, rounded up to whole decisions
    :param batch_size: decisions per minibatch, each with all its trained denoising steps (the official count is of pairs of
        the two)
    :param n_epochs: passes over a rollout
    :param gamma: discount per environment step
    :param gae_lambda: lambda of the advantages, per decision
    :param clip_range: epsilon of the last denoising step, on the ratio as normalised by the policy's ``ratio_norm``; number or
        callable of remaining progress
    :param clip_range_base: epsilon of the first denoising step; between the two it grows exponentially. Tokens of a
        "FASTPolicy" all have ``clip_range``, and no discount
    :param clip_range_rate: how steeply
    :param denoising_discount: gamma_d; the advantage of a step counts gamma_d to the number of steps that follow it
    :param ratio: "step": a ratio per denoising step (DPPO); "chain": one per chain, with ``clip_range`` alone (ReinFlow)
    :param log_prob_clip: bounds on the log-density, None for none; of each number with "step" (official: (-5, 2)), of the
        normalised chain with "chain". Beyond them there is no gradient
    :param finetuned_steps: the last so many denoising steps are trained, the others are made by a frozen copy of the
        pre-trained policy; None for all, as without a pre-trained policy and for tokens
    :param normalize_advantage: to mean 0 and standard deviation 1 in each minibatch
    :param ent_coef: weight of the chain's entropy; without effect unless noise is learned or tokens are drawn
    :param vf_coef: factor on the value loss
    :param clip_range_vf: values move by no more than this per round of updates; None for any
    :param target_kl: end a round of updates when a minibatch's approximate KL divergence exceeds this; None for never
    :param critic_warmup_rollouts: first rollouts that train the value network only
    :param reward_scaling: divide rewards by the running standard deviation of returns
    :param max_grad_norm: gradient norms are clipped to this
    :param chunk_size: environment steps per decision; None: the wrapper's, the checkpoint's, the recommended one, or 1
    :param demonstrations: file, ``minari:<id>``, ``shipped:<name>`` or ``DemonstrationSet``
    :param bc_steps: updates of behaviour cloning before RL
    :param bc_batch_size: windows per update of behaviour cloning
    :param clip_bc: stop behaviour cloning at this success rate, judged by the deterministic sampler
    :param pretrained_policy: BC checkpoint written by ``model.policy.save`` of any algorithm, in place of ``bc_steps``
    :param actor_tau: Polyak rate of the average that behaviour cloning results in
    :param rollout_buffer_class: a subclass of ``ChunkRolloutBuffer``
    :param rollout_buffer_kwargs: its further arguments
    :param policy_kwargs: see :class:`ogpo_sb3.common.actor_value_policies.ActorValuePolicy`
    :param stats_window_size: episodes that rollout statistics average over
    :param tensorboard_log: TensorBoard folder
    :param verbose: 0 silent, 1 information, 2 debugging
    :param seed: seed of every random draw
    :param device: "cpu", "cuda", "auto"
    :param _init_setup_model: build networks at construction
    :raises ValueError: unknown or contradictory options
    """

    # The method's own family comes first.
    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = by_name(sorted(POLICIES, key=lambda policy: policy.__name__))
    counts: ClassVar[tuple[str, ...]] = (*GCPOnPolicyAlgorithm.counts, "critic_warmup_rollouts")

    def __init__(
        self,
        policy: str | type[ActorValuePolicy],
        env: GymEnv | str | None,
        learning_rate: float | str | Schedule = 1e-4,
        critic_learning_rate: float | str | Schedule = 1e-3,
        bc_learning_rate: float | str | Schedule = 3e-4,
        n_steps: int = 2048,
        batch_size: int = 256,
        n_epochs: int = 10,
        gamma: float = 0.99,
        gae_lambda: float = 0.95,
        clip_range: float | Callable[[float], float] = 0.01,
        clip_range_base: float = 0.001,
        clip_range_rate: float = 3.0,
        denoising_discount: float = 0.99,
        ratio: str = "step",
        log_prob_clip: tuple[float, float] | None = None,
        finetuned_steps: int | None = 10,
        normalize_advantage: bool = True,
        ent_coef: float = 0.0,
        vf_coef: float = 0.5,
        clip_range_vf: float | None = None,
        target_kl: float | None = 1.0,
        critic_warmup_rollouts: int = 0,
        reward_scaling: bool = True,
        max_grad_norm: float = 10.0,
        chunk_size: int | None = None,
        demonstrations: Any = None,
        bc_steps: int = 0,
        bc_batch_size: int = 256,
        clip_bc: float | None = None,
        pretrained_policy: str | None = None,
        actor_tau: float = 0.005,
        rollout_buffer_class: type[ChunkRolloutBuffer] | None = None,
        rollout_buffer_kwargs: dict[str, Any] | None = None,
        policy_kwargs: dict[str, Any] | None = None,
        stats_window_size: int = 100,
        tensorboard_log: str | None = None,
        verbose: int = 0,
        seed: int | None = None,
        device: th.device | str = "auto",
        _init_setup_model: bool = True,
    ):
        self.clip_range, self.clip_range_base, self.clip_range_rate = clip_range, clip_range_base, clip_range_rate
        self.denoising_discount = denoising_discount
        self.ratio, self.log_prob_clip = ratio, log_prob_clip
        self.normalize_advantage = normalize_advantage
        self.clip_range_vf, self.target_kl = clip_range_vf, target_kl
        self.critic_warmup_rollouts = critic_warmup_rollouts
        super().__init__(
            policy=policy,
            env=env,
            learning_rate=learning_rate,
            critic_learning_rate=critic_learning_rate,
            bc_learning_rate=bc_learning_rate,
            n_steps=n_steps,
            batch_size=batch_size,
            n_epochs=n_epochs,
            gamma=gamma,
            gae_lambda=gae_lambda,
            ent_coef=ent_coef,
            vf_coef=vf_coef,
            max_grad_norm=max_grad_norm,
            finetuned_steps=finetuned_steps,
            reward_scaling=reward_scaling,
            chunk_size=chunk_size,
            demonstrations=demonstrations,
            bc_steps=bc_steps,
            bc_batch_size=bc_batch_size,
            clip_bc=clip_bc,
            pretrained_policy=pretrained_policy,
            actor_tau=actor_tau,
            rollout_buffer_class=rollout_buffer_class,
            rollout_buffer_kwargs=rollout_buffer_kwargs,
            policy_kwargs=policy_kwargs,
            stats_window_size=stats_window_size,
            tensorboard_log=tensorboard_log,
            verbose=verbose,
            seed=seed,
            device=device,
            _init_setup_model=_init_setup_model,
        )

    def _check_options(self) -> None:
        if self.ratio not in RATIOS:
            raise ValueError(f"ratio must be one of {RATIOS}, found {self.ratio!r}")
        if not 0.0 < self.denoising_discount <= 1.0:
            raise ValueError(f"denoising_discount must lie in (0, 1], found {self.denoising_discount}")
        for name in ("clip_range_base", "clip_range_rate", "clip_range_vf", "target_kl"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ValueError(f"{name} must be positive, found {value}")
        bounds = self.log_prob_clip
        if bounds is not None and (len(bounds) != 2 or not bounds[0] < bounds[1]):
            raise ValueError(f"log_prob_clip must be None or a pair (low, high), found {bounds}")
        check_at_least(critic_warmup_rollouts=(self.critic_warmup_rollouts, 0))

    def _setup_model(self) -> None:
        self._check_options()  # ``load`` may have replaced some
        super()._setup_model()
        self.clip_schedule = as_schedule(self.clip_range, "clip_range")
        if self.log_prob_clip is not None:
            low, high = self.log_prob_clip  # a list where it comes from a file
            self.log_prob_clip = (low, high)

    def chain_log_prob(self, condition: th.Tensor, states: th.Tensor) -> th.Tensor:
        """Per denoising step (F, B), or of the chain (1, B). See the base class."""
        gcp = self.policy.actor.gcp
        owner = owners(len(condition), 1, condition.device)
        density = gcp.transition_log_prob(condition, states, owner, self.policy.frozen_steps)  # (F, B, D)
        if self.ratio == "step" and self.log_prob_clip is not None:
            density = density.clamp(*self.log_prob_clip)
        log_prob = density.mean(dim=-1) if gcp.ratio_norm == "mean" else density.sum(dim=-1)
        if self.ratio == "step":
            return log_prob
        if not gcp.has_parts:  # every sequence of tokens has a length of its own
            chain = gcp.log_prob_of(condition, states, owner)[None]
            return chain if self.log_prob_clip is None else chain.clamp(*self.log_prob_clip)
        chain = log_prob.mean(dim=0, keepdim=True) if gcp.ratio_norm == "mean" else log_prob.sum(dim=0, keepdim=True)
        return chain if self.log_prob_clip is None else chain.clamp(*self.log_prob_clip)

    def _step_weights(self, n: int) -> tuple[th.Tensor, th.Tensor]:
        """
        What denoising steps differ in (DPPO 4.3 and appendix): discounts of the advantage, and clip ranges, both (n, 1).
        Tokens do not differ: none of them removes noise of those before it.

        :param n: rows of the ratio, in generation order
        """
        clip_range = schedule_value("clip_range", self.clip_schedule, self._current_progress_remaining, 0)
        left = th.arange(n - 1, -1, -1, device=self.device)[:, None]
        if n == 1 or not self.actor.gcp.has_parts:
            return th.ones(n, 1, device=self.device), th.full((n, 1), clip_range, device=self.device)
        u, rate = 1.0 - left / (n - 1), self.clip_range_rate
        growth = th.expm1(rate * u) / math.expm1(rate)
        return self.denoising_discount**left, self.clip_range_base + (clip_range - self.clip_range_base) * growth

    # -- one round of updates -------------------------------------------------------------------------------------

    def train(self) -> None:
        """Passes over the rollout; each minibatch is a step of the value network and one of the actor."""
        if self._fit_statistics():
            return
        self.policy.set_training_mode(True)
        self._update_rates()
        metrics: dict[str, list[th.Tensor]] = defaultdict(list)
        warming_up = self._n_rollouts <= self.critic_warmup_rollouts
        for batch in self._minibatches():
            statistics = self._update_value(batch)
            if not warming_up:
                statistics |= self._update_actor(batch)
                self._n_actor_updates += 1
            self._n_updates += 1
            for name, value in statistics.items():
                metrics[name].append(value.detach())
            if not warming_up and self.target_kl is not None and statistics["approx_kl"].item() > self.target_kl:
                break
        self.policy.renew_old_policy()
        self._record(metrics)

    def _minibatches(self) -> Iterator[ChunkRolloutSamples]:
        """Those of ``n_epochs`` passes."""
        for _ in range(self.n_epochs):
            yield from self.rollout_buffer.get(self.batch_size)

    def _update_value(self, batch: ChunkRolloutSamples) -> dict[str, th.Tensor]:
        """Regression of every head on the returns."""
        values = self.critic(batch.observations)  # (M, B)
        if self.clip_range_vf is not None:
            old = batch.returns - batch.advantages
            values = old + (values - old).clamp(-self.clip_range_vf, self.clip_range_vf)
        loss = 0.5 * (values - batch.returns).square().mean()
        return dict(value_loss=loss, value_grad_norm=self._optimise(self.critic, self.vf_coef * loss, "value_loss"))

    def _update_actor(self, batch: ChunkRolloutSamples) -> dict[str, th.Tensor]:
        """Clipped objective over denoising steps, each with the advantage of its decision."""
        advantages = batch.advantages
        if self.normalize_advantage and len(advantages) > 1:
            advantages = (advantages - advantages.mean()) / (advantages.std() + 1e-8)
        condition = self.actor.gcp.condition(self.actor.features(batch.observations))
        log_prob = self.chain_log_prob(condition, batch.states)
        discounts, clip_ranges = self._step_weights(len(log_prob))
        policy_loss = ppo_clip_loss(log_prob, batch.old_log_prob, discounts * advantages, clip_ranges)
        gcp, loss, bonus = self.actor.gcp, policy_loss, {}
        if self.ent_coef > 0:
            entropy = gcp.entropy(condition, self.policy.frozen_steps).mean()
            loss, bonus = loss - self.ent_coef * entropy, dict(entropy_loss=-entropy)
        grad_norm = self._optimise(self.actor, loss, "policy_gradient_loss")
        log_ratio = log_prob.detach() - batch.old_log_prob
        ratio = log_ratio.exp()
        return dict(
            policy_gradient_loss=policy_loss,
            actor_grad_norm=grad_norm,
            approx_kl=(ratio - 1.0 - log_ratio).mean(),
            clip_fraction=((ratio - 1.0).abs() > clip_ranges).float().mean(),
            **bonus,
        )

    def _record(self, metrics: dict[str, list[th.Tensor]]) -> None:
        """Hand the means of this round of updates to SB3's logger."""
        for name, values in metrics.items():
            if values:
                self.logger.record(f"train/{name}", th.stack(values).mean().item())
        buffer = self.rollout_buffer
        explained = explained_variance(buffer.values.flatten(), buffer.returns.flatten())
        if np.isfinite(explained):  # undefined where all returns are equal
            self.logger.record("train/explained_variance", explained)
        self.logger.record("train/clip_range", self.clip_schedule(self._current_progress_remaining))
        self.logger.record("train/n_updates", self._n_updates, exclude="tensorboard")
