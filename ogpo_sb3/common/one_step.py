"""The updates of a one-step policy that is distilled from a generative one: FQL's."""

from typing import Any

import torch as th

from ogpo_sb3.common.buffers import ChunkReplaySamples
from ogpo_sb3.common.optimization import polyak
from ogpo_sb3.common.updates import UpdatesMixin
from ogpo_sb3.critics import aggregate
from ogpo_sb3.extraction import distillation_loss


class OneStepMixin(UpdatesMixin):
    """For algorithms whose policy may be a :class:`ogpo_sb3.fql.policies.OneStepPolicy`."""

    policy: Any
    q_agg: str
    alpha: float  # coefficient of the distillation

    def _one_step_value(self, batch: ChunkReplaySamples) -> th.Tensor:
        """Q_target of the EMA one-step policy's action from one latent."""
        next_actions = self.policy.one_step_ema(batch.next_observations, th.randn_like(batch.actions)).clamp(-1.0, 1.0)
        return aggregate(self.critic_target(batch.next_observations, next_actions), self.q_agg)

    def _update_one_step_and_flow(self) -> None:
        """The one-step policy by distillation and value, the generative one by cloning."""
        batch = self._sample(self.actor_batch_size)
        self._update_one_step(batch, q_weight=1.0)
        cloned = self._success_batch() if self.success_bc else batch
        if cloned is not None and self.bc_coef > 0:
            self._run(self._cloning_step, cloned)

    def _update_one_step(self, batch: ChunkReplaySamples, q_weight: float) -> None:
        self._run(self._one_step_step, batch, th.full((), q_weight, device=self.device))

    def _one_step_step(self, batch: ChunkReplaySamples, q_weight: th.Tensor) -> dict[str, th.Tensor]:
        """Value and distance to the generative policy, from the same latents."""
        latents = th.randn_like(batch.actions)
        with th.no_grad():
            sampled = self.actor_ema.sample(batch.observations, latents)
        actions = self.policy.one_step(batch.observations, latents)
        q = self.critic_target(batch.observations, actions.clamp(-1.0, 1.0))
        loss, distance, value = distillation_loss(actions, sampled, q, self.alpha, self.q_agg, q_weight)
        grad_norm = self._optimise(self.policy.one_step, loss, "one_step_loss")
        polyak(self.policy.one_step, self.policy.one_step_ema, self.actor_tau)
        return dict(one_step_loss=loss, distillation_loss=distance, one_step_q=value, one_step_grad_norm=grad_norm)
