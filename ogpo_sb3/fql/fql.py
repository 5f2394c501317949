"""FQL: a one-step policy distilled from a cloned flow and improved by the critics' gradient."""

from collections.abc import Callable
from typing import Any, ClassVar

import torch as th
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import GymEnv

from ogpo_sb3.common.buffers import ChunkReplaySamples
from ogpo_sb3.common.off_policy import GCPOffPolicyAlgorithm
from ogpo_sb3.common.one_step import OneStepMixin
from ogpo_sb3.common.options import check_at_least
from ogpo_sb3.common.policies import by_name
from ogpo_sb3.common.schedules import Schedule
from ogpo_sb3.fql.policies import OneStepPolicy, POLICIES


class FQL(OneStepMixin, GCPOffPolicyAlgorithm):
    """
    Flow Q-Learning (Park, Li and Levine 2025, arXiv 2502.02538) over chunks; with it the FQL form of Q-chunking.

    A flow only clones. A one-step policy mu(s, z), which acts and makes the TD targets by its EMA, minimises

        E [ alpha (mu(s, z) - ODE(s, z))^2 / D - Q_target(s, clip mu(s, z)) ].

    Updates of the critics before the actor's (``critic_warmup_updates``, ``critic_pretrain_updates``) train the one-step
    policy too, on the distillation alone: it makes their targets and acts from ``learning_starts`` on, and would do so from
    random parameters otherwise.

    :param policy: "FlowPolicy" or the name of another family, or a policy class derived from ``OneStepPolicy``
    :param env: environment, its id or a chunked vectorised environment
    :param learning_rate: of flow and one-step policy
    :param alpha: coefficient of the distillation
    :param best_of_n: latents per decision in rollouts, ranked by the target critics (FQL+ of the OGPO paper: 8)
    :param success_bc: the flow clones successful episodes only (FQL+)
    :param tau: Polyak rate of the target critics
    :param actor_tau: Polyak rate of the EMAs of flow and one-step policy
    :param kwargs: see :class:`ogpo_sb3.common.off_policy.GCPOffPolicyAlgorithm`; ``bc_coef=0`` leaves the flow as it is
    :raises ValueError: unknown or contradictory options
    """

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = by_name(POLICIES)
    policy_base = OneStepPolicy
    policy_settings: ClassVar[tuple[str, ...]] = ("best_of_n",)
    counts: ClassVar[tuple[str, ...]] = (*GCPOffPolicyAlgorithm.counts, "best_of_n")
    policy: OneStepPolicy

    def __init__(
        self,
        policy: str | type[OneStepPolicy],
        env: GymEnv | str | None,
        learning_rate: float | str | Schedule = 3e-4,
        alpha: float = 10.0,
        best_of_n: int = 1,
        success_bc: bool = False,
        tau: float = 0.05,
        actor_tau: float = 0.05,
        **kwargs: Any,
    ):
        self.alpha, self.best_of_n = alpha, best_of_n
        super().__init__(
            policy, env, learning_rate=learning_rate, success_bc=success_bc, tau=tau, actor_tau=actor_tau, **kwargs
        )

    def _check_options(self) -> None:
        super()._check_options()
        check_at_least(alpha=(self.alpha, 0), best_of_n=(self.best_of_n, 1))

    def _next_value(self, batch: ChunkReplaySamples) -> th.Tensor:
        """See :meth:`ogpo_sb3.common.one_step.OneStepMixin._one_step_value`."""
        return self._one_step_value(batch)

    def _update_beside_critics(self, sample: Callable[[int], ChunkReplaySamples]) -> None:
        self._update_one_step(sample(self.actor_batch_size), q_weight=0.0)

    def _update_actor(self) -> None:
        self._update_one_step_and_flow()
