"""Policies: a generative actor with its slow copies, a critic ensemble with its target."""

import copy
import inspect
import os
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor, get_actor_critic_arch
from stable_baselines3.common.type_aliases import PyTorchObs, Schedule
from torch import nn

from ogpo_sb3.common.features import (
    BoundedPolicy,
    ChunkCritic,
    ChunkValue,
    GCPActor,
    ObservationNormalizer,
    batch_size,
    default_features_extractor,
    frozen_copy,
)
from ogpo_sb3.common.files import atomic_write
from ogpo_sb3.common.gaussian import TanhGaussian, Temperature
from ogpo_sb3.common.options import check_choice, check_class, whole
from ogpo_sb3.common.policy_files import pretrained_actor_state
from ogpo_sb3.critics import aggregate
from ogpo_sb3.gcp import GenerativeControlPolicy

ROLLOUT_SAMPLERS = ("sde", "ode")


class GCPPolicy(BoundedPolicy):
    """
    Actor, EMA actor (the behaviour and old policy), optional slow actor, critic ensemble and target.

    One class serves Box, image and Dict observations: the features extractor follows from the observation space.

    :param observation_space: observation space
    :param action_space: (chunked) Box action space
    :param lr_schedule: learning rate at construction
    :param net_arch: hidden layers: a list for both, or dict(pi=[...], qf=[...]); default four of 512
    :param critic_net_arch: hidden layers of the critic, in place of ``net_arch``'s
    :param activation_fn: activation of actor and critics
    :param n_critics: M, heads of the ensemble
    :param critic_layer_norm: LayerNorm in the critics
    :param critic_head: what the critics learn by: "mse", squared errors; "hl_gauss", histograms of values; "mip_q", regression
        in two steps
    :param critic_head_kwargs: its options, see :class:`ogpo_sb3.critics.HLGaussEnsemble` and
        :class:`ogpo_sb3.critics.MIPQEnsemble`
    :param features_extractor_class: chosen from the observation space when None
    :param features_extractor_kwargs: its arguments
    :param normalize_images: divide uint8 images by 255
    :param normalize_observations: standardise vector observations; statistics, stored in the policy, come from the
        demonstrations where these are cloned or critics are trained on them first, else from the steps before
        ``learning_starts``
    :param actor_keys: entries of a Dict observation the actor sees
    :param critic_keys: entries of a Dict observation the critic sees
    :param optimizer_class: AdamW by default
    :param optimizer_kwargs: for both optimisers; default weight decay 0 (actor) and 1e-5 (critic)
    :param best_of_n: candidates of the behaviour policy, ranked by the target critic (OGPO 4.4); 1 for none
    :param rollout_sampler: what they are drawn by, see :meth:`rollout_samples`
    :param subsample_bon: rank by the minimum of two random heads per candidate, else of all heads
    :param slow_actor: keep a slow copy of the actor (for the chi2 and KL penalties)
    :param state_value: have an ensemble of state values, one for each head of the critic
    :param gcp_kwargs: everything else goes to the generative policy: denoising_steps, noise_std, noise_schedule,
        sde_correction, ratio_norm, clip_intermediate, ... (see :class:`ogpo_sb3.gcp.FlowGCP`)
    :raises TypeError: an argument that neither the policy nor its generative family knows
    :raises ValueError: candidates of a policy that chooses among none, or a way to rank them that it does not have
    """

    gcp_class: ClassVar[type[GenerativeControlPolicy]]
    critic_class: ClassVar[type[Any]] = ChunkCritic
    # The algorithm makes different actions from different latents: of no use with a family that has none.
    needs_latent: ClassVar[bool] = False
    # Why nothing is chosen among candidates that critics rank, the rest of a sentence; None where it is, with ``best_of_n``.
    no_candidates: ClassVar[str | None] = None
    # ``subsample_bon`` has a say in how it explores.
    has_subsample_bon: ClassVar[bool] = True
    # Networks with an ``optimizer``, by the learning rate they follow; an algorithm's own policy may have more of them.
    actor_names: tuple[str, ...] = ("actor",)
    critic_names: tuple[str, ...] = ("critic",)
    # Arguments of an algorithm's own policy that decide how it acts, with their defaults: saved with the policy.
    settings: ClassVar[dict[str, Any]] = dict(rollout_sampler="sde")
    rollout_sampler: str = "sde"  # of policies whose own settings leave it out
    actor: GCPActor
    actor_ema: GCPActor
    actor_slow: GCPActor | None
    critic: ChunkCritic
    critic_target: ChunkCritic

    def __init__(
        self,
        observation_space: spaces.Space,
        action_space: spaces.Box,
        lr_schedule: Schedule,
        net_arch: list[int] | dict[str, list[int]] | None = None,
        critic_net_arch: list[int] | None = None,
        activation_fn: type[nn.Module] = nn.GELU,
        n_critics: int = 10,
        critic_layer_norm: bool = True,
        critic_head: str = "mse",
        critic_head_kwargs: dict[str, Any] | None = None,
        features_extractor_class: type[BaseFeaturesExtractor] | None = None,
        features_extractor_kwargs: dict[str, Any] | None = None,
        normalize_images: bool = True,
        normalize_observations: bool = False,
        actor_keys: Sequence[str] | None = None,
        critic_keys: Sequence[str] | None = None,
        optimizer_class: type[th.optim.Optimizer] = th.optim.AdamW,
        optimizer_kwargs: dict[str, Any] | None = None,
        best_of_n: int = 1,
        subsample_bon: bool = True,
        slow_actor: bool = False,
        state_value: bool = False,
        **gcp_kwargs: Any,
    ):
        if best_of_n != 1 and self.no_candidates is not None:
            raise ValueError(f"best_of_n={best_of_n} ranks candidates by critics, {self.no_candidates}")
        if not subsample_bon and not self.has_subsample_bon:
            raise ValueError(
                f"subsample_bon={subsample_bon} is about candidates ranked by two random heads, and this policy has none: "
                "leave it out"
            )
        check_class("activation_fn", activation_fn, nn.Module, "torch.nn")
        check_class("optimizer_class", optimizer_class, th.optim.Optimizer, "torch.optim")
        own = {name: gcp_kwargs.pop(name, default) for name, default in self.settings.items()}
        given_by_policy = {"features_dim", "action_dim", "chunk_size", "net_arch", "activation_fn"}
        known = set(inspect.signature(self.gcp_class).parameters) - given_by_policy
        unknown = sorted(set(gcp_kwargs) - known)
        if unknown:
            raise TypeError(f"policy_kwargs {unknown} are unknown to {type(self).__name__} and {self.gcp_class.__name__}")
        if features_extractor_class is None:
            features_extractor_class = default_features_extractor(observation_space)
        super().__init__(
            observation_space,
            action_space,
            features_extractor_class,
            copy.deepcopy(features_extractor_kwargs),
            normalize_images=normalize_images,
            optimizer_class=optimizer_class,
            optimizer_kwargs=optimizer_kwargs,
            squash_output=True,
        )
        self.net_arch = [512, 512, 512, 512] if net_arch is None else net_arch
        self.critic_net_arch = critic_net_arch
        self.activation_fn = activation_fn
        self.n_critics = whole("n_critics", n_critics)
        self.critic_layer_norm = critic_layer_norm
        self.critic_head, self.critic_head_kwargs = critic_head, critic_head_kwargs
        self.normalize_observations = normalize_observations
        self.actor_keys, self.critic_keys = actor_keys, critic_keys
        self.best_of_n, self.subsample_bon = best_of_n, subsample_bon
        self.slow_actor = slow_actor
        if "denoising_steps" in gcp_kwargs:
            gcp_kwargs["denoising_steps"] = whole("denoising_steps", gcp_kwargs["denoising_steps"])
        self.gcp_kwargs = gcp_kwargs
        for name, value in own.items():
            setattr(self, name, value)
        check_choice("rollout_sampler", self.rollout_sampler, ROLLOUT_SAMPLERS)
        self.base_only = False  # explore with the generative actor alone, whatever an algorithm adds to it
        self._build(lr_schedule)
        self.state_value: ChunkValue | None = self.make_critic(ChunkValue) if state_value else None
        if self.state_value is not None:
            self.state_value.optimizer = self.make_optimizer(self.state_value, lr_schedule(1), weight_decay=1e-5)
            self.critic_names = (*self.critic_names, "state_value")

    def _build(self, lr_schedule: Schedule) -> None:
        self.actor = self.make_actor()
        self.actor_ema = frozen_copy(self.actor)
        self.actor_slow = frozen_copy(self.actor) if self.slow_actor else None
        self.actor.gcp.take_teacher(self.actor_ema.gcp)
        self.critic = self.make_critic()
        self.critic_target = frozen_copy(self.critic)
        self.actor.optimizer = self.make_optimizer(self.actor, lr_schedule(1), weight_decay=0.0)
        self.critic.optimizer = self.make_optimizer(self.critic, lr_schedule(1), weight_decay=1e-5)

    def _model_kwargs(self) -> dict[str, Any]:
        return dict(
            observation_space=self.observation_space,
            action_space=self.action_space,
            features_extractor_class=self.features_extractor_class,
            features_extractor_kwargs=self.features_extractor_kwargs,
            normalize_images=self.normalize_images,
            normalize_observations=self.normalize_observations,
        )

    def make_actor(self) -> GCPActor:
        """A new actor with fresh parameters."""
        net_arch, _ = get_actor_critic_arch(self.net_arch)
        gcp_kwargs = dict(net_arch=net_arch, activation_fn=self.activation_fn, **self.gcp_kwargs)
        return GCPActor(**self._model_kwargs(), keys=self.actor_keys, gcp_class=self.gcp_class, gcp_kwargs=gcp_kwargs)

    def make_critic(self, critic_class: type[Any] | None = None) -> Any:
        """
        A new critic with fresh parameters.

        :param critic_class: the policy's own by default
        """
        cls = critic_class or self.critic_class
        _, net_arch = get_actor_critic_arch(self.net_arch)
        # State values have no choice of heads.
        head = dict(head=self.critic_head, head_kwargs=self.critic_head_kwargs) if issubclass(cls, ChunkCritic) else {}
        return cls(
            **self._model_kwargs(),
            keys=self.critic_keys,
            n_critics=self.n_critics,
            net_arch=net_arch if self.critic_net_arch is None else self.critic_net_arch,
            layer_norm=self.critic_layer_norm,
            activation_fn=self.activation_fn,
            **head,
        )

    @property
    def n_heads(self) -> int:
        """Values that the critics give of an action: ``n_critics``, times the noises of an implicit ensemble."""
        return self.critic.ensemble.n_heads

    def make_gaussian(self, context_dim: int = 0) -> TanhGaussian:
        """
        A Gaussian actor with the flow's observations and hidden layers, for algorithms that add one to it.

        :param context_dim: width of its further input
        """
        net_arch, _ = get_actor_critic_arch(self.net_arch)
        return TanhGaussian(
            **self._model_kwargs(),
            keys=self.actor_keys,
            net_arch=net_arch,
            activation_fn=self.activation_fn,
            context_dim=context_dim,
        )

    def make_temperature(self, initial: float, lr_schedule: Schedule) -> Temperature:
        """
        An entropy coefficient with its optimiser.

        :param initial: value before training
        :param lr_schedule: learning rate at construction
        """
        temperature = Temperature(initial)
        temperature.optimizer = self.make_optimizer(temperature, lr_schedule(1), weight_decay=0.0)
        return temperature

    def make_optimizer(self, module: nn.Module, lr: float, **defaults: Any) -> th.optim.Optimizer:
        """
        :param module: whose parameters are trained
        :param lr: learning rate
        :param defaults: arguments that ``optimizer_kwargs`` overrides
        """
        return self.optimizer_class(module.parameters(), lr=lr, **{**defaults, **(self.optimizer_kwargs or {})})  # type: ignore[call-arg]

    @property
    def trained(self) -> list[nn.Module]:
        """The networks that have an optimiser."""
        return [getattr(self, name) for name in (*self.actor_names, *self.critic_names)]

    @classmethod
    def family(cls) -> str:
        """Name of the policy's family: policies of one family can start from each other's BC checkpoints."""
        return next(c.__name__ for c in cls.__mro__ if "gcp_class" in vars(c))

    def add_slow_actor(self) -> None:
        """Begin to keep a slow actor, equal to the EMA actor now."""
        self.slow_actor = True
        if self.actor_slow is None:
            self.actor_slow = frozen_copy(self.actor_ema)

    def actor_copies(self) -> list[GCPActor]:
        """The actor and whatever follows it."""
        return [self.actor, self.actor_ema] + ([self.actor_slow] if self.actor_slow is not None else [])

    def synchronise_actors(self) -> None:
        """Make the online actor and the slow actor equal to the EMA actor (after pre-training, before RL)."""
        state = self.actor_ema.state_dict()
        for actor in (self.actor, self.actor_slow):
            if actor is not None:
                actor.load_state_dict(state)

    def fit_normalizer(self, observations: np.ndarray | dict[str, np.ndarray]) -> None:
        """
        Set the observation statistics of every network.

        :param observations: (n, ...) raw observations, or a dict of them
        """
        for normalizer in self._normalizers():
            normalizer.fit(observations)

    def fit_actions(self, windows: np.ndarray) -> None:
        """
        Adapt every actor to the demonstrated actions before cloning: what a :class:`FASTPolicy` makes its tokens of. Without
        effect on other families.

        :param windows: (n, D) action chunks in [-1, 1]
        """
        self.actor.gcp.fit_actions(windows)
        for actor in self.actor_copies()[1:]:
            for ours, theirs in zip(actor.gcp.buffers(), self.actor.gcp.buffers(), strict=True):
                ours.copy_(theirs)

    def _normalizers(self) -> list[ObservationNormalizer]:
        return [module for module in self.modules() if isinstance(module, ObservationNormalizer)]

    def save(self, path: str | os.PathLike[str]) -> None:
        """
        Write the policy alone, atomically: with ``pretrained_policy=path`` every algorithm can start from it.

        :param path: file name
        """
        content = {
            "state_dict": self.state_dict(),
            "data": self._get_constructor_parameters(),
            "policy_class": self.family(),
            "gcp_names": sorted(self.gcp_kwargs),
        }
        with atomic_write(path) as file:
            th.save(content, file)

    def load_pretrained(self, path: str | os.PathLike[str]) -> None:
        """
        Start from a BC checkpoint: its EMA actor becomes actor, EMA actor and slow actor; critics keep their parameters and
        take over the observation statistics.

        :param path: file written by :meth:`save`
        :raises ValueError: another family of policies, other spaces or another architecture
        """
        self.actor_ema.load_state_dict(pretrained_actor_state(path, self))
        self.synchronise_actors()
        if self.actor_ema.normalizer is not None:
            for normalizer in self._normalizers():
                normalizer.load_state_dict(self.actor_ema.normalizer.state_dict())

    def _get_constructor_parameters(self) -> dict[str, Any]:
        data = super()._get_constructor_parameters()
        data.update(
            lr_schedule=self._dummy_schedule,
            net_arch=self.net_arch,
            critic_net_arch=self.critic_net_arch,
            activation_fn=self.activation_fn,
            n_critics=self.n_critics,
            critic_layer_norm=self.critic_layer_norm,
            critic_head=self.critic_head,
            critic_head_kwargs=self.critic_head_kwargs,
            features_extractor_class=self.features_extractor_class,
            features_extractor_kwargs=self.features_extractor_kwargs,
            normalize_observations=self.normalize_observations,
            actor_keys=self.actor_keys,
            critic_keys=self.critic_keys,
            optimizer_class=self.optimizer_class,
            optimizer_kwargs=self.optimizer_kwargs,
            best_of_n=self.best_of_n,
            subsample_bon=self.subsample_bon,
            slow_actor=self.slow_actor,
            state_value=self.state_value is not None,
            **{name: getattr(self, name) for name in self.settings},
            **self.gcp_kwargs,
        )
        return data

    def forward(self, obs: PyTorchObs, deterministic: bool = False) -> th.Tensor:
        return self._predict(obs, deterministic=deterministic)

    def _predict(self, observation: PyTorchObs, deterministic: bool = False) -> th.Tensor:
        """
        Deterministic: :meth:`decide` from stored latents. Otherwise the behaviour policy, :meth:`explore`.
        """
        if deterministic:
            return self.decide(observation, self._stored_latents(observation))
        return self.rollout_samples(observation, 1)[:, 0] if self.base_only else self.explore(observation)

    @property
    def n_latents(self) -> int:
        """Latents that one deployed decision is made from."""
        return 1

    def _stored_latents(self, observation: PyTorchObs) -> th.Tensor:
        """(B, n_latents, D): the actor's stored latent, and further ones that are the same in every process."""
        latents = self.actor_ema.latent[None]
        if self.n_latents > 1:
            more = th.randn(self.n_latents - 1, latents.shape[1], generator=th.Generator().manual_seed(0))
            latents = th.cat([latents, more.to(latents.device)])
        return latents.expand(batch_size(observation), -1, -1)

    def fresh_latents(self, observation: PyTorchObs, n: int | None = None) -> th.Tensor:
        """
        :param observation: observations (B)
        :param n: latents per observation; those of one deployed decision when None
        :return: (B, n, D) standard normal
        """
        latent = self.actor_ema.latent
        return th.randn(batch_size(observation), self.n_latents if n is None else n, len(latent), device=latent.device)

    def decide(self, observation: PyTorchObs, latents: th.Tensor) -> th.Tensor:
        """
        The deployed policy, deterministic given its latents: here one ODE sample of the EMA actor.

        :param observation: observations (B)
        :param latents: (B, n_latents, D) standard normal
        :return: (B, D) in [-1, 1]
        """
        return self.actor_ema.sample(observation, latents[:, 0])

    def explore(self, observation: PyTorchObs) -> th.Tensor:
        """
        The behaviour policy: a sample of the EMA actor, the best of N by the target critic with ``best_of_n`` above 1.

        :param observation: observations (B)
        :return: (B, D) in [-1, 1]
        """
        candidates = self.rollout_samples(observation, self.best_of_n)
        return candidates[:, 0] if self.best_of_n == 1 else self.best_candidate(observation, candidates)

    def rollout_samples(self, observation: PyTorchObs, n: int) -> th.Tensor:
        """
        What the EMA actor proposes in rollouts, by ``rollout_sampler``: draws of its SDE (OGPO A.1), or of its ODE from
        fresh latents, which are as different from each other as the policy is but have none of the SDE's noise.

        :param observation: observations (B)
        :param n: samples per observation
        :return: (B, n, D) in [-1, 1]
        """
        if self.rollout_sampler == "sde":
            return self.actor_ema.sample_chain(observation, n).actions.unflatten(0, (-1, n))
        return self.actor_ema.sample_each(observation, self.fresh_latents(observation, n))

    def best_candidate(
        self, observation: PyTorchObs, candidates: th.Tensor, critic: ChunkCritic | None = None, how: str | None = None
    ) -> th.Tensor:
        """
        :param observation: observations (B)
        :param candidates: (B, N, D)
        :param critic: which ranks them; the target critic by default
        :param how: aggregation of its heads; by default "subsample" with ``subsample_bon``, else "min"
        :return: (B, D), the candidate that the critic ranks first
        """
        q = (self.critic_target if critic is None else critic)(observation, candidates)
        if how is None:
            how = "subsample" if self.subsample_bon and len(q) > 1 else "min"
        # Flattened, so that the random pair of heads is independent per candidate (OGPO 4.4).
        score = aggregate(q.flatten(1), how).view(q.shape[1:])
        return candidates[th.arange(len(candidates), device=candidates.device), score.argmax(dim=1)]

    def set_training_mode(self, mode: bool) -> None:
        """Targets, the EMA and the slow actor always stay in evaluation mode."""
        for network in self.trained:
            network.train(mode)
        self.training = mode
