"""PA-RL: policy-agnostic improvement by optimised actions."""

from typing import Any, ClassVar

import torch as th
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import GymEnv

from ogpo_sb3.common.buffers import ChunkReplaySamples
from ogpo_sb3.common.off_policy import GCPOffPolicyAlgorithm
from ogpo_sb3.common.optimization import polyak
from ogpo_sb3.common.options import check_at_least, check_positive
from ogpo_sb3.common.policies import by_name
from ogpo_sb3.common.schedules import Schedule
from ogpo_sb3.critics import aggregate
from ogpo_sb3.pa_rl.policies import OptimisedActionPolicy, POLICIES


class PARL(GCPOffPolicyAlgorithm):
    """
    Policy-Agnostic RL (Mark et al. 2024, arXiv 2412.06685).

    Actions are optimised instead of the policy: the best of N samples by the critics, moved along the critics' gradient. The
    optimised action is executed, makes the TD target, and is what the generative policy is trained on by flow matching.

    :param policy: "FlowPolicy" or the name of another family, or a policy class derived from ``OptimisedActionPolicy``
    :param env: environment, its id or a chunked vectorised environment
    :param learning_rate: of the generative policy
    :param best_of_n: samples per decision (N)
    :param keep: of these the best, which are moved
    :param ascent_steps: gradient steps on each
    :param ascent_rate: their size, in actions scaled to [-1, 1]
    :param success_bc: clone successful episodes as well, with ``bc_coef``
    :param tau: Polyak rate of the target critics
    :param kwargs: see :class:`ogpo_sb3.common.off_policy.GCPOffPolicyAlgorithm`
    :raises ValueError: unknown or contradictory options
    """

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = by_name(POLICIES)
    policy_base = OptimisedActionPolicy
    policy_settings: ClassVar[tuple[str, ...]] = ("best_of_n", "keep", "ascent_steps", "ascent_rate")
    counts: ClassVar[tuple[str, ...]] = (*GCPOffPolicyAlgorithm.counts, "best_of_n", "keep", "ascent_steps")
    policy: OptimisedActionPolicy

    def __init__(
        self,
        policy: str | type[OptimisedActionPolicy],
        env: GymEnv | str | None,
        learning_rate: float | str | Schedule = 3e-4,
        best_of_n: int = 32,
        keep: int = 10,
        ascent_steps: int = 10,
        ascent_rate: float = 3e-4,
        tau: float = 0.005,
        **kwargs: Any,
    ):
        self.best_of_n, self.keep = best_of_n, keep
        self.ascent_steps, self.ascent_rate = ascent_steps, ascent_rate
        super().__init__(policy, env, learning_rate=learning_rate, tau=tau, **kwargs)

    def _check_options(self) -> None:
        super()._check_options()
        check_at_least(best_of_n=(self.best_of_n, 1), keep=(self.keep, 1), ascent_steps=(self.ascent_steps, 0))
        check_positive("ascent_rate", self.ascent_rate)

    def _next_value(self, batch: ChunkReplaySamples) -> th.Tensor:
        """Q_target of the optimised next action."""
        best = self.policy.explore(batch.next_observations)
        return aggregate(self.critic_target(batch.next_observations, best), self.q_agg)

    def _update_actor(self) -> None:
        self._run(self._actor_step, self._sample(self.actor_batch_size), self._success_batch())

    def _actor_step(self, batch: ChunkReplaySamples, successes: ChunkReplaySamples | None) -> dict[str, th.Tensor]:
        """Flow matching on optimised actions, and on successful ones where there are any."""
        with th.no_grad():
            best = self.policy.explore(batch.observations)
        loss = self.actor.gcp.bc_loss(self.actor.features(batch.observations), best)
        cloning = {}
        if successes is not None:
            bc_loss = self._cloning_loss(successes)
            loss, cloning = loss + self.bc_coef * bc_loss, dict(bc_loss=bc_loss)
        grad_norm = self._optimise(self.actor, loss, "actor_loss")
        polyak(self.actor, self.actor_ema, self.actor_tau)
        return dict(actor_loss=loss, actor_grad_norm=grad_norm, **cloning)
