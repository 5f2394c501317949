"""SteerResidual: DSRL and EXPO combined."""

from typing import Any, ClassVar

import torch as th
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import GymEnv

from ogpo_sb3.common.buffers import ChunkReplaySamples
from ogpo_sb3.common.edits import EditMixin
from ogpo_sb3.common.options import check_at_least
from ogpo_sb3.critics import aggregate
from ogpo_sb3.common.policies import by_name
from ogpo_sb3.dsrl.dsrl import DSRL
from ogpo_sb3.steer_residual.policies import POLICIES, SteerResidualPolicy


class SteerResidual(EditMixin, DSRL):
    """
    Steering and residual together (the OGPO paper's S/R): the latent of a frozen policy is chosen as in DSRL with noise
    aliasing, and the action that becomes of it is edited as in EXPO.

        y = R + gamma^k (1 - done) [ Q_target(s', a') - alpha log pi_w(w') ]

    with w' and a' chosen as in acting. The residual is trained in every update; in the official code only where a success
    buffer is used. Entropy targets are -D/2 of the unscaled variables; the official 0 cannot be reached by a scaled edit.

    :param policy: "FlowPolicy" or the name of another family, or a policy class derived from ``SteerResidualPolicy``
    :param env: environment, its id or a chunked vectorised environment
    :param action_magnitude: latents lie within +- this
    :param edit_scale: largest edit of an action in [-1, 1], in (0, 2]
    :param noise_candidates: latents drawn per decision, ranked by the noise critic
    :param n_edits: edits drawn per decision, ranked with the unedited action by the target critics
    :param distillation_steps: steps of the noise critic per actor update
    :param entropy_backup: the entropy of the noise actor in the TD target
    :param success_bc: latents and edited actions are drawn to those of successful episodes
    :param edit_bc_coef: coefficient of the latter
    :param kwargs: see :class:`ogpo_sb3.DSRL` and :class:`ogpo_sb3.common.off_policy.GCPOffPolicyAlgorithm`
    :raises ValueError: unknown or contradictory options
    """

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = by_name(POLICIES)
    policy_base = SteerResidualPolicy
    policy_settings: ClassVar[tuple[str, ...]] = ("action_magnitude", "edit_scale", "noise_candidates", "n_edits")
    counts: ClassVar[tuple[str, ...]] = (*DSRL.counts, "noise_candidates", "n_edits")
    success_coefs: ClassVar[tuple[str, ...]] = (*DSRL.success_coefs, "edit_bc_coef")
    policy: SteerResidualPolicy

    def __init__(
        self,
        policy: str | type[SteerResidualPolicy],
        env: GymEnv | str | None,
        action_magnitude: float = 1.5,
        edit_scale: float = 0.5,
        noise_candidates: int = 16,
        n_edits: int = 8,
        distillation_steps: int = 10,
        entropy_backup: bool = True,
        success_bc: bool = False,
        edit_bc_coef: float = 1.0,
        **kwargs: Any,
    ):
        self.edit_scale, self.noise_candidates, self.n_edits = edit_scale, noise_candidates, n_edits
        self.entropy_backup, self.edit_bc_coef = entropy_backup, edit_bc_coef
        if "noise_aliasing" in kwargs:
            raise TypeError("SteerResidual always aliases the noise: its edits need critics of actions, found noise_aliasing")
        super().__init__(
            policy,
            env,
            action_magnitude=action_magnitude,
            noise_aliasing=True,
            distillation_steps=distillation_steps,
            success_bc=success_bc,
            **kwargs,
        )

    def _check_options(self) -> None:
        super()._check_options()
        check_at_least(noise_candidates=(self.noise_candidates, 1), n_edits=(self.n_edits, 1))

    def _next_value(self, batch: ChunkReplaySamples) -> th.Tensor:
        """Q_target of the next decision, and by ``entropy_backup`` what its latent adds in entropy."""
        latents, log_prob = self.policy.draw(batch.next_observations)
        actions = self.policy.act(batch.next_observations, latents)
        value = aggregate(self.critic_target(batch.next_observations, actions), self.q_agg)
        return value - self.policy.noise_temperature.value() * log_prob if self.entropy_backup else value

    def _update_actor(self) -> None:
        super()._update_actor()
        self._run(self._edit_step, self._sample(self.actor_batch_size), self._success_batch())

    def _base_actions(self, batch: ChunkReplaySamples) -> th.Tensor:
        """The ODE's action from the latent that would be chosen."""
        return self.policy.decode(batch.observations, self.policy.latents(batch.observations))
