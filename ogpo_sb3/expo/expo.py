"""EXPO: the best of a cloned policy's samples and of small edits of them."""

from typing import Any, ClassVar

import torch as th
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import GymEnv

from ogpo_sb3.common.buffers import ChunkReplaySamples
from ogpo_sb3.common.edits import EditMixin, EditPolicy
from ogpo_sb3.common.off_policy import GCPOffPolicyAlgorithm
from ogpo_sb3.common.options import check_at_least
from ogpo_sb3.common.policies import by_name
from ogpo_sb3.common.schedules import Schedule
from ogpo_sb3.critics import aggregate
from ogpo_sb3.expo.policies import POLICIES


class EXPO(EditMixin, GCPOffPolicyAlgorithm):
    """
    Expressive Policy Optimization (Dong et al. 2025, arXiv 2507.07986).

    A base policy that only clones, a Gaussian policy that edits its actions within +- ``edit_scale``, and the best of N base
    actions and their N edits, by the target critics, in acting and in the TD target. The edit policy minimises

        E [ alpha log pi_e(u | s, a) - Q(s, clip(a + edit_scale u)) ],  a from the base policy.

    The entropy is that of u. With that of the scaled edit, as in the official code, the largest possible entropy
    D log(2 edit_scale) lies below the target -D/2 for small scales and alpha grows without bound.

    :param policy: "FlowPolicy" or the name of another family, or a policy class derived from ``EditPolicy``
    :param env: environment, its id or a chunked vectorised environment
    :param learning_rate: of base policy, edit policy and temperature
    :param best_of_n: base candidates per decision, each of which has an edit (N)
    :param edit_scale: largest edit of an action in [-1, 1], in (0, 2]
    :param target_entropy: of u; minus half the dimension of a chunk when None or "auto"
    :param initial_temperature: alpha before training; it falls by learning_rate per update at most, so that values on a small
        scale want a small one
    :param success_bc: the base clones successful episodes only, and the edited action is drawn to theirs (EXPO+)
    :param edit_bc_coef: coefficient of the latter
    :param tau: Polyak rate of the target critics
    :param kwargs: see :class:`ogpo_sb3.common.off_policy.GCPOffPolicyAlgorithm`
    :raises ValueError: unknown or contradictory options
    """

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = by_name(POLICIES)
    policy_base = EditPolicy
    policy_settings: ClassVar[tuple[str, ...]] = ("best_of_n", "edit_scale")
    counts: ClassVar[tuple[str, ...]] = (*GCPOffPolicyAlgorithm.counts, "best_of_n")
    policy: EditPolicy

    def __init__(
        self,
        policy: str | type[EditPolicy],
        env: GymEnv | str | None,
        learning_rate: float | str | Schedule = 3e-4,
        best_of_n: int = 8,
        edit_scale: float = 0.05,
        target_entropy: float | str | None = None,
        initial_temperature: float = 1.0,
        success_bc: bool = False,
        edit_bc_coef: float = 1.0,
        tau: float = 0.05,
        **kwargs: Any,
    ):
        self.best_of_n, self.edit_scale = best_of_n, edit_scale
        self.initial_temperature = initial_temperature
        self.target_entropy, self.edit_bc_coef = target_entropy, edit_bc_coef
        super().__init__(policy, env, learning_rate=learning_rate, success_bc=success_bc, tau=tau, **kwargs)

    def _check_options(self) -> None:
        super()._check_options()
        check_at_least(best_of_n=(self.best_of_n, 1))

    def _next_value(self, batch: ChunkReplaySamples) -> th.Tensor:
        """Q_target of the next action that would be executed."""
        best = self.policy.explore(batch.next_observations)
        return aggregate(self.critic_target(batch.next_observations, best), self.q_agg)

    def _update_actor(self) -> None:
        batch, successes = self._sample(self.actor_batch_size), self._success_batch()
        self._run(self._edit_step, batch, successes)
        cloned = successes if self.success_bc else batch
        if cloned is not None:
            self._run(self._cloning_step, cloned)

    def _base_actions(self, batch: ChunkReplaySamples) -> th.Tensor:
        """An SDE sample of the EMA actor per state."""
        return self.actor_ema.sample_chain(batch.observations).actions
