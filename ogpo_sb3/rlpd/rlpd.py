"""RLPD and SAC from demonstrations, over chunks."""

from typing import Any, ClassVar

import torch as th
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import GymEnv, TensorDict

from ogpo_sb3.common.buffers import ChunkReplaySamples
from ogpo_sb3.common.off_policy import GCPOffPolicyAlgorithm
from ogpo_sb3.common.optimization import without_gradient_of
from ogpo_sb3.common.policies import by_name
from ogpo_sb3.common.schedules import Schedule
from ogpo_sb3.common.soft_actor import SoftActorMixin
from ogpo_sb3.critics import aggregate
from ogpo_sb3.rlpd.policies import GaussianPolicy, POLICIES


class RLPD(SoftActorMixin, GCPOffPolicyAlgorithm):
    """
    Reinforcement Learning with Prior Data (Ball et al. 2023, arXiv 2302.02948) over chunks: SAC with an ensemble of critics
    under LayerNorm, the minimum of two random ones in the target, and half of every batch from the demonstrations.

        y = R + gamma^k (1 - done) [ Q_target(s', a') - alpha log pi(a' | s') ]

    A reference without a generative policy: a BC checkpoint only explores before ``learning_starts``.

    :param policy: "FlowPolicy" or the name of another family, or a policy class derived from ``GaussianPolicy``
    :param env: environment, its id or a chunked vectorised environment
    :param learning_rate: of actor and temperature
    :param q_agg: how heads are combined in targets
    :param target_entropy: minus half the dimension of a chunk when None or "auto"
    :param initial_temperature: alpha before training; it falls by learning_rate per update at most, so that values on a small
        scale want a small one
    :param entropy_backup: the entropy in the TD target
    :param offline_ratio: share of demonstration windows in every batch; one half where there are demonstrations when None
    :param success_bc: regress the mode on actions of successful episodes, with ``bc_coef``
    :param tau: Polyak rate of the target critics
    :param kwargs: see :class:`ogpo_sb3.common.off_policy.GCPOffPolicyAlgorithm`
    :raises ValueError: unknown or contradictory options
    """

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = by_name(POLICIES)
    policy_base = GaussianPolicy
    policy: GaussianPolicy

    def __init__(
        self,
        policy: str | type[GaussianPolicy],
        env: GymEnv | str | None,
        learning_rate: float | str | Schedule = 3e-4,
        q_agg: str = "subsample",
        target_entropy: float | str | None = None,
        initial_temperature: float = 1.0,
        entropy_backup: bool = True,
        offline_ratio: float | None = None,
        tau: float = 0.005,
        demonstrations: Any = None,
        **kwargs: Any,
    ):
        if offline_ratio is None:
            offline_ratio = 0.0 if demonstrations is None else 0.5
        self.initial_temperature = initial_temperature
        self.target_entropy, self.entropy_backup = target_entropy, entropy_backup
        super().__init__(
            policy,
            env,
            learning_rate=learning_rate,
            q_agg=q_agg,
            offline_ratio=offline_ratio,
            tau=tau,
            demonstrations=demonstrations,
            **kwargs,
        )

    def _next_value(self, batch: ChunkReplaySamples) -> th.Tensor:
        """Q_target of a next action and by ``entropy_backup`` its entropy."""
        actions, log_prob = self.policy.gaussian.sample(batch.next_observations)
        value = aggregate(self.critic_target(batch.next_observations, actions), self.q_agg)
        return value - self.policy.temperature.value() * log_prob if self.entropy_backup else value

    def _update_actor(self) -> None:
        self._run(self._actor_step, self._sample(self.actor_batch_size), self._success_batch())

    def _actor_step(self, batch: ChunkReplaySamples, successes: ChunkReplaySamples | None) -> dict[str, th.Tensor]:
        """SAC with the mean over heads, as in RLPD."""
        actions, log_prob = self.policy.gaussian.sample(batch.observations)
        with without_gradient_of(self.critic):
            q = self.critic(batch.observations, actions).mean(dim=0)
        imitation = None
        if successes is not None:
            imitation = self.bc_coef * successes.squared_error(self.policy.gaussian.mode(successes.observations))
        return self._improve("actor", self.policy.gaussian, self.policy.temperature, log_prob, q, imitation)

    def _policy_actions(self, observations: th.Tensor | TensorDict, n: int) -> th.Tensor:
        """Cal-QL's proposals are the Gaussian's."""
        return self.policy.gaussian.sample(observations, n=n)[0]


class SACfD(RLPD):
    """
    SAC whose replay begins with the demonstrations (Vecerik et al. 2017, arXiv 1707.08817, with SAC): two critics without
    LayerNorm, their minimum, and windows drawn uniformly over demonstrations and own experience together.

    :param args: as :class:`RLPD`
    :param q_agg: how heads are combined in targets, "min"
    :param policy_kwargs: as everywhere, with ``n_critics=2, critic_layer_norm=False`` where not given
    :param kwargs: as :class:`RLPD`
    """

    def __init__(self, *args: Any, **kwargs: Any):
        if kwargs.get("offline_ratio"):
            raise ValueError(
                "SACfD draws demonstrations by their share in all that is known, found "
                f"offline_ratio={kwargs['offline_ratio']}: leave it out, or use RLPD"
            )
        policy_kwargs = {"n_critics": 2, "critic_layer_norm": False, **(kwargs.pop("policy_kwargs", None) or {})}
        super().__init__(*args, **{"q_agg": "min", **kwargs, "policy_kwargs": policy_kwargs})

    def _offline_windows(self, batch_size: int) -> int:
        """As many as their share in all that is known."""
        if self.demonstration_buffer is None:
            return super()._offline_windows(batch_size)
        offline, online = self.demonstration_buffer.n_stored, self.replay_buffer.n_stored
        return round(batch_size * offline / (offline + online))
