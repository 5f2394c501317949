"""Off-Policy Generative Policy Optimization."""

import warnings
from collections.abc import Callable
from typing import Any, ClassVar

import torch as th
from stable_baselines3.common.noise import ActionNoise
from stable_baselines3.common.save_util import load_from_zip_file
from stable_baselines3.common.type_aliases import GymEnv, TensorDict

from ogpo_sb3.common.buffers import ChunkReplayBuffer, ChunkReplaySamples
from ogpo_sb3.common.off_policy import GCPOffPolicyAlgorithm
from ogpo_sb3.common.one_step import OneStepMixin
from ogpo_sb3.common.optimization import polyak
from ogpo_sb3.common.policies import GCPPolicy
from ogpo_sb3.common.schedules import Schedule, WarmupCosine, as_schedule, schedule_value
from ogpo_sb3.critics import next_value
from ogpo_sb3.fql import FQL
from ogpo_sb3.ogpo.imagination import ImaginationMixin
from ogpo_sb3.ogpo.objectives import Objective, make_objective
from ogpo_sb3.ogpo.options import check_options, check_policy


class OGPO(ImaginationMixin, OneStepMixin, GCPOffPolicyAlgorithm):
    """
    Off-Policy Generative Policy Optimization (arXiv 2605.03065).

    Learns an ensemble of action-chunk critics off-policy and improves the whole generative process with a clipped objective
    over denoising chains: for each replayed state G chains are drawn from the EMA policy, scored by the target critics, and
    the likelihood ratio of each chain, current over EMA policy, is moved by its advantage over the group.

    All step counts are environment steps. Defaults are the paper's with its code's errors mended.

    :param policy: "FlowPolicy" or the name of another family, or a policy class
    :param env: environment, its id or a chunked vectorised environment; a plain one is wrapped in ``chunk_size``
    :param learning_rate: of the online actor; number, "lin_<number>", SB3 schedule or ``WarmupCosine`` (the default)
    :param critic_learning_rate: of the critics (the official code ignores its own and uses the actor's)
    :param bc_learning_rate: of behaviour cloning before RL
    :param buffer_size: replay size, environment steps
    :param learning_starts: environment steps before the first update; explored by the pre-trained policy where there is one,
        uniformly otherwise
    :param critic_warmup_updates: critic-only updates before the first actor update, not counted in ``n_updates``
    :param critic_pretrain_updates: critic updates on the demonstrations alone, at the end of ``pretrain``
    :param calql_coef: Cal-QL's alpha in them; 0 for plain TD learning
    :param batch_size: windows per critic step
    :param actor_batch_size: states per actor step (B)
    :param tau: Polyak rate of the target critics
    :param actor_tau: Polyak rate of the EMA actor, which is both the behaviour and the old policy of the ratio
    :param slow_tau: Polyak rate of the slow actor
    :param gamma: discount per environment step
    :param train_freq: as in SB3, in environment steps
    :param gradient_steps: critic updates per ``train_freq`` (per env step with -1); owed per executed step, 1 when None
    :param utd_critic: critic updates per environment step, in place of ``gradient_steps``; fractions accrue
    :param utd_actor: actor updates per environment step; fractions accrue
    :param chunk_size: environment steps per decision; None: the wrapper's, the checkpoint's, the recommended one, or 1
    :param group_size: chains per state (G)
    :param group_latents: initial latents per state, each shared by G / L chains, which are compared with one another alone.
        None: each chain its own and all are compared, as in the paper. The ratio knows a chain's noise and not its latent, so
        that what latents do to Q is noise in the gradient: most of it where noise_std is small (docs/modules/ogpo.md)
    :param clip_range: epsilon on the normalised chain ratio; number or callable of remaining progress
    :param advantage: "mean", "conservative", "penultimate", "positive" or "std" (see ``group_advantage``)
    :param q_agg: how heads are combined in targets and advantages: "mean", "min" or "subsample"
    :param best_of_n: candidates in rollouts, ranked by the target critics
    :param rollout_sampler: what collects experience: "sde" (the paper's, A.1) or "ode", as the policy is deployed (ours): the
        noise that likelihood ratios need stays in imagination
    :param success_bc: clone successful episodes beside the policy gradient; silent until enough of them exist
    :param bc_coef: its coefficient (lambda)
    :param bc_offline_ratio: share of demonstration windows among those cloned; 0: successes alone, as in the paper; 1:
        demonstrations alone. A flow policy that clones its own samples does not stay what it was, see "What matters"
    :param chi2_coef: chi-squared penalty towards the slow policy (beta_0)
    :param kl_coef: the same with the KL divergence
    :param pessimism: sensitivity alpha of the penalised variants' mean-minimum mixture
    :param q_variance_samples: next actions averaged in the TD target
    :param success_critic: a second critic step per update on windows of successful episodes
    :param mc_coef: coefficient of regression on Monte-Carlo returns of finished episodes (2.6); a time limit ends them like a
        termination, so that their last 1 / (1 - gamma) steps miss what would have followed
    :param target_range: TD targets are clamped to this interval (low, high)
    :param demonstrations: file, ``minari:<id>``, ``shipped:<name>`` or ``DemonstrationSet``
    :param bc_steps: updates of behaviour cloning before RL
    :param clip_bc: stop behaviour cloning at this success rate, judged by the ODE sampler
    :param pretrained_policy: BC checkpoint written by ``model.policy.save``, in place of ``bc_steps``
    :param offline_ratio: share of demonstration windows in every batch
    :param max_grad_norm: gradient norms are clipped to this
    :param extraction: objective that improves the policy: "ppo" (the paper's), "aw_ogpo", "awr_fm", "fpo", "fpo++", "bptt",
        "fql" or "best_of_n_sft" (docs/guide/extraction.md)
    :param extraction_kwargs: its options, the fields of its class in :mod:`ogpo_sb3.ogpo.objectives`
    :param baseline: what advantages are taken over: "group_mean", or "value", an ensemble V(s) regressed on the group's mean Q
    :param ratio_steps: only the last so many denoising steps with noise count in the ratio of chains; None for all
    :param entropy_coef: bonus on the mean entropy of the chain's steps; for learned noise
    :param forward_kl_coef: coefficient of cloning chains of the slow policy
    :param precision: of an update's matrix products: "fp32"; "bf16" for critics and backward passes, where the processor or
        GPU has it; "bf16_full" for sampling and scoring too; "tf32" (GPU). Parameters and predictions are always float32
    :param async_collection: run a rollout's updates while the workers of a ``SubprocVecEnv`` execute the next decision, which
        was then chosen before them
    :param action_noise: added to the behaviour policy's actions
    :param replay_buffer_class: a subclass of ``ChunkReplayBuffer``
    :param replay_buffer_kwargs: its further arguments
    :param optimize_memory_usage: refused: observations are stored once anyway
    :param n_steps: refused unless 1: the chunk is the n-step return
    :param policy_kwargs: see :class:`ogpo_sb3.common.policies.GCPPolicy`
    :param stats_window_size: episodes that rollout statistics average over
    :param tensorboard_log: TensorBoard folder
    :param verbose: 0 silent, 1 information, 2 debugging
    :param seed: seed of every random draw
    :param device: "cpu", "cuda", "auto"
    :param _init_setup_model: build networks at construction
    :raises ValueError: unknown or contradictory options
    """

    policy_settings: ClassVar[tuple[str, ...]] = ("best_of_n", "rollout_sampler")
    rollout_sampler: str = "sde"  # of models saved before it was an argument
    counts: ClassVar[tuple[str, ...]] = (
        *GCPOffPolicyAlgorithm.counts,
        "group_size",
        "group_latents",
        "best_of_n",
        "q_variance_samples",
        "ratio_steps",
    )

    def __init__(
        self,
        policy: str | type[GCPPolicy],
        env: GymEnv | str | None,
        learning_rate: float | str | Schedule | None = None,
        critic_learning_rate: float | str | Schedule = 3e-4,
        bc_learning_rate: float | str | Schedule = 3e-4,
        buffer_size: int = 1_000_000,
        learning_starts: int = 20_000,
        critic_warmup_updates: int = 0,
        critic_pretrain_updates: int = 0,
        calql_coef: float = 0.0,
        batch_size: int = 256,
        actor_batch_size: int = 256,
        tau: float = 0.05,
        actor_tau: float = 0.005,
        slow_tau: float = 5e-4,
        gamma: float = 0.99,
        train_freq: int | tuple[int, str] = 1,
        gradient_steps: int | None = None,
        utd_critic: float | None = None,
        utd_actor: float = 1.0,
        chunk_size: int | None = None,
        group_size: int = 32,
        group_latents: int | None = None,
        clip_range: float | Callable[[float], float] = 0.01,
        advantage: str = "mean",
        q_agg: str = "mean",
        best_of_n: int = 1,
        rollout_sampler: str = "sde",
        success_bc: bool = False,
        bc_coef: float = 1.0,
        bc_offline_ratio: float = 0.0,
        chi2_coef: float = 0.0,
        kl_coef: float = 0.0,
        pessimism: float = 5.0,
        q_variance_samples: int = 1,
        success_critic: bool = False,
        mc_coef: float = 0.0,
        target_range: tuple[float, float] | None = None,
        demonstrations: Any = None,
        bc_steps: int = 0,
        clip_bc: float | None = None,
        pretrained_policy: str | None = None,
        offline_ratio: float = 0.0,
        max_grad_norm: float = 10.0,
        extraction: str = "ppo",
        extraction_kwargs: dict[str, Any] | None = None,
        baseline: str = "group_mean",
        ratio_steps: int | None = None,
        entropy_coef: float = 0.0,
        forward_kl_coef: float = 0.0,
        precision: str = "fp32",
        async_collection: bool = False,
        action_noise: ActionNoise | None = None,
        replay_buffer_class: type[ChunkReplayBuffer] | None = None,
        replay_buffer_kwargs: dict[str, Any] | None = None,
        optimize_memory_usage: bool = False,
        n_steps: int = 1,
        policy_kwargs: dict[str, Any] | None = None,
        stats_window_size: int = 100,
        tensorboard_log: str | None = None,
        verbose: int = 0,
        seed: int | None = None,
        device: th.device | str = "auto",
        _init_setup_model: bool = True,
    ):
        self.group_size, self.group_latents = group_size, group_latents
        self.slow_tau = slow_tau
        self.clip_range = clip_range
        self.advantage = advantage
        self.best_of_n, self.rollout_sampler = best_of_n, rollout_sampler
        self.chi2_coef, self.kl_coef, self.pessimism = chi2_coef, kl_coef, pessimism
        self.q_variance_samples = q_variance_samples
        self.extraction, self.extraction_kwargs = extraction, extraction_kwargs
        self.baseline, self.ratio_steps = baseline, ratio_steps
        self.entropy_coef, self.forward_kl_coef = entropy_coef, forward_kl_coef
        # Weight of the minimum in the next TD target of penalised variants, a tensor that _setup_model makes
        self._next_pessimism: Any = None
        if baseline == "value":
            policy_kwargs = {**(policy_kwargs or {}), "state_value": True}
        if extraction == "fql":  # which acts by a network of its own
            self.policy_aliases, self.policy_base = FQL.policy_aliases, FQL.policy_base  # type: ignore[misc]
        super().__init__(
            policy=policy,
            env=env,
            learning_rate=WarmupCosine() if learning_rate is None else learning_rate,
            critic_learning_rate=critic_learning_rate,
            bc_learning_rate=bc_learning_rate,
            buffer_size=buffer_size,
            learning_starts=learning_starts,
            critic_warmup_updates=critic_warmup_updates,
            critic_pretrain_updates=critic_pretrain_updates,
            calql_coef=calql_coef,
            batch_size=batch_size,
            actor_batch_size=actor_batch_size,
            tau=tau,
            actor_tau=actor_tau,
            gamma=gamma,
            train_freq=train_freq,
            gradient_steps=gradient_steps,
            utd_critic=utd_critic,
            utd_actor=utd_actor,
            chunk_size=chunk_size,
            q_agg=q_agg,
            success_bc=success_bc,
            bc_coef=bc_coef,
            bc_offline_ratio=bc_offline_ratio,
            success_critic=success_critic,
            mc_coef=mc_coef,
            target_range=target_range,
            demonstrations=demonstrations,
            bc_steps=bc_steps,
            clip_bc=clip_bc,
            pretrained_policy=pretrained_policy,
            offline_ratio=offline_ratio,
            max_grad_norm=max_grad_norm,
            precision=precision,
            async_collection=async_collection,
            action_noise=action_noise,
            replay_buffer_class=replay_buffer_class,
            replay_buffer_kwargs=replay_buffer_kwargs,
            optimize_memory_usage=optimize_memory_usage,
            n_steps=n_steps,
            policy_kwargs=policy_kwargs,
            stats_window_size=stats_window_size,
            tensorboard_log=tensorboard_log,
            verbose=verbose,
            device=device,
            seed=seed,
            _init_setup_model=_init_setup_model,
        )

    @property
    def _objective(self) -> Objective:
        """What ``extraction`` names, with its options; it has no state of its own."""
        return make_objective(self.extraction, self.extraction_kwargs)

    @property
    def alpha(self) -> float:  # type: ignore[override]
        """FQL's coefficient of the distillation."""
        return getattr(self._objective, "alpha", 0.0)

    @property
    def penalty(self) -> str | None:
        """Divergence from the slow policy that is penalised: "chi2", "kl" or None."""
        return "chi2" if self.chi2_coef > 0 else "kl" if self.kl_coef > 0 else None

    def set_parameters(
        self, load_path_or_dict: str | TensorDict, exact_match: bool = True, device: th.device | str = "auto"
    ) -> None:
        """
        As SB3's; a slow actor that ``load(..., chi2_coef=...)`` and its like ask for begins at the EMA actor, one that they
        switch off is left out.

        :param load_path_or_dict: file, or parameters by name
        :param exact_match: every name and tensor must be given
        :param device: where tensors are read to
        """
        if not isinstance(load_path_or_dict, dict):
            load_path_or_dict = load_from_zip_file(load_path_or_dict, device=device)[1]
        if "policy" in load_path_or_dict:
            given: Any = load_path_or_dict["policy"]
            state = {name: value for name, value in given.items() if not name.startswith("actor_slow.")}
            if self.actor_slow is not None:
                ema = "actor_ema."
                state = {"actor_slow." + k.removeprefix(ema): v for k, v in given.items() if k.startswith(ema)} | dict(given)
            load_path_or_dict = {**load_path_or_dict, "policy": state}  # type: ignore[dict-item]
        super().set_parameters(load_path_or_dict, exact_match, device)

    def _check_options(self) -> None:
        super()._check_options()
        check_options(self, self._objective)

    @property
    def _trained_actors(self) -> tuple[str, ...]:
        """By "fql" a one-step policy too. See the base class."""
        return (FQL if self.extraction == "fql" else type(self)).policy_base.actor_names

    @property
    def _described(self) -> str:
        return f"{super()._described} with extraction={self.extraction!r}"

    def _setup_model(self) -> None:
        super()._setup_model()
        self.clip_schedule = as_schedule(self.clip_range, "clip_range")
        check_policy(self, self._objective)
        if self.penalty is not None or self.forward_kl_coef > 0:
            self.policy.add_slow_actor()
            self._create_aliases()
        self._next_pessimism = th.full((), 0.5, device=self.device)  # no distance from the slow policy yet
        by_ratio = self._objective.chain_ratio
        if by_ratio and self.policy.actor.gcp.ratio_norm == "sum" and self.clip_range == 0.01:
            warnings.warn(
                "clip_range=0.01 is meant for ratio_norm='mean'; on the joint ratio of ratio_norm='sum' nearly every chain is "
                f"clipped: about {0.01 * self.policy.actor.gcp.likelihood_terms:.2g} "
                "is the same trust region",
                stacklevel=3,
            )

    # -- the updates, in the order of the paper's pseudocode; the round of them is common to all algorithms ------------

    def _next_value(self, batch: ChunkReplaySamples) -> th.Tensor:
        """V(s') = Q_target(s', a') with a' from the EMA policy's SDE (A.1), averaged over several of them (4.1)."""
        if self.extraction == "fql":
            return self._one_step_value(batch)
        n = self.q_variance_samples
        next_actions = self.actor_ema.sample_chain(batch.next_observations, n).actions
        next_q = self.critic_target(batch.next_observations, next_actions.unflatten(0, (-1, n)))
        return next_value(next_q, self.q_agg, self._next_pessimism if n == 1 and self.penalty is not None else None)

    def _update_beside_critics(self, sample: Callable[[int], ChunkReplaySamples]) -> None:
        if self.extraction == "fql":  # it acts from the first update on
            self._update_one_step(sample(self.actor_batch_size), q_weight=0.0)

    def _warm_up(self, batch_size: int) -> None:
        super()._warm_up(batch_size)
        if self.baseline == "value":  # advantages over an untrained one would all have one sign
            self._run(self._value_warm_up, self._sample(self.actor_batch_size))

    def _update_actor(self) -> None:
        if self.extraction == "fql":
            return self._update_one_step_and_flow()
        value = schedule_value("clip_range", self.clip_schedule, self._current_progress_remaining, 0)
        clip_range = th.full((), value, device=self.device)
        self._run(self._actor_step, self._sample(self.actor_batch_size), self._success_batch(), clip_range)

    def _actor_step(
        self, batch: ChunkReplaySamples, successes: ChunkReplaySamples | None, clip_range: th.Tensor
    ) -> dict[str, th.Tensor]:
        """The objective on chains drawn in imagination (3.2-3.3), success cloning (4.2-4.3) and what else is asked for."""
        update, logged = self._imagine(batch, clip_range)
        self.actor.optimizer.zero_grad(set_to_none=True)
        improved = self._objective.backward(update)
        loss = improved["policy_loss"]
        terms = self._regularisers(batch, successes)
        for name, term in terms.items():
            coef = dict(bc_loss=self.bc_coef, entropy=-self.entropy_coef, forward_kl_loss=self.forward_kl_coef)[name]
            (coef * term).backward()
            loss = loss + coef * term.detach()
        grad_norm = self._apply_gradient(self.actor, loss, "actor_loss")
        polyak(self.actor, self.actor_ema, self.actor_tau)
        if self.actor_slow is not None:
            polyak(self.actor, self.actor_slow, self.slow_tau)
        return dict(actor_loss=loss, actor_grad_norm=grad_norm, clip_range=clip_range, **logged, **improved, **terms)

    def _get_torch_save_params(self) -> tuple[list[str], list[str]]:
        state_dicts, tensors = super()._get_torch_save_params()
        return state_dicts, [*tensors, "_next_pessimism"]
