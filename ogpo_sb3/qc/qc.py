"""Q-chunking: best of N samples of a cloned policy."""

from typing import Any, ClassVar

import torch as th
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import GymEnv

from ogpo_sb3.common.buffers import ChunkReplaySamples
from ogpo_sb3.common.off_policy import GCPOffPolicyAlgorithm
from ogpo_sb3.common.options import check_at_least
from ogpo_sb3.common.policies import by_name
from ogpo_sb3.common.schedules import Schedule
from ogpo_sb3.critics import aggregate
from ogpo_sb3.qc.policies import BestOfNPolicy, POLICIES


class QC(GCPOffPolicyAlgorithm):
    """
    Q-chunking (Li, Zhou and Levine 2025, arXiv 2507.07969), its best-of-N form.

    The policy only clones: all of replay (QC), or the successful episodes with ``success_bc`` (QC+ of the OGPO paper). What
    improves the behaviour is the choice among N of its samples by the critics, in acting and in the TD target

        y = R + gamma^k (1 - done) Q_target(s', argmax_n Q(s', a'_n)).

    :param policy: "FlowPolicy" or the name of another family, or a policy class derived from ``BestOfNPolicy``
    :param env: environment, its id or a chunked vectorised environment
    :param best_of_n: candidates per decision (N)
    :param learning_rate: of the cloned policy during RL
    :param tau: Polyak rate of the target critics
    :param actor_tau: Polyak rate of the weights that act; 1: the trained ones, as in the paper
    :param success_bc: clone successful episodes only, and nothing before there is a batch of them
    :param kwargs: see :class:`ogpo_sb3.common.off_policy.GCPOffPolicyAlgorithm`
    :raises ValueError: unknown or contradictory options
    """

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = by_name(POLICIES)
    policy_base = BestOfNPolicy
    policy_settings: ClassVar[tuple[str, ...]] = ("best_of_n",)
    counts: ClassVar[tuple[str, ...]] = (*GCPOffPolicyAlgorithm.counts, "best_of_n")

    def __init__(
        self,
        policy: str | type[BestOfNPolicy],
        env: GymEnv | str | None,
        learning_rate: float | str | Schedule = 3e-4,
        best_of_n: int = 32,
        tau: float = 0.005,
        actor_tau: float = 1.0,
        success_bc: bool = False,
        **kwargs: Any,
    ):
        self.best_of_n = best_of_n
        super().__init__(
            policy, env, learning_rate=learning_rate, tau=tau, actor_tau=actor_tau, success_bc=success_bc, **kwargs
        )

    def _check_options(self) -> None:
        super()._check_options()
        check_at_least(best_of_n=(self.best_of_n, 1))

    def _next_value(self, batch: ChunkReplaySamples) -> th.Tensor:
        """Q_target of the next action that the online critics choose."""
        best = self.policy.explore(batch.next_observations)
        return aggregate(self.critic_target(batch.next_observations, best), self.q_agg)

    def _update_actor(self) -> None:
        batch = self._success_batch() if self.success_bc else self._sample(self.actor_batch_size)
        if batch is not None:
            self._run(self._cloning_step, batch)
