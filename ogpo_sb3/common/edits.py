"""Small Gaussian edits of a generative policy's actions: the policy and the update that two algorithms share."""

from typing import Any, ClassVar

import torch as th
from stable_baselines3.common.preprocessing import get_action_dim
from stable_baselines3.common.type_aliases import PyTorchObs, Schedule

from ogpo_sb3.common.buffers import ChunkReplaySamples
from ogpo_sb3.common.gaussian import TanhGaussian, Temperature
from ogpo_sb3.common.optimization import without_gradient_of
from ogpo_sb3.common.options import check_at_least, check_positive
from ogpo_sb3.common.policies import GCPPolicy
from ogpo_sb3.common.soft_actor import SoftActorMixin


class EditPolicy(GCPPolicy):
    """
    Acts by the best, by the target critics, of ``best_of_n`` samples of the EMA actor and an edit of each.

    An edit of a is clip(a + ``edit_scale`` u), with u in (-1, 1)^D from a squashed Gaussian that sees the observation and a.
    """

    actor_names: tuple[str, ...] = ("actor", "edit_actor", "edit_temperature")
    settings: ClassVar[dict[str, Any]] = dict(edit_scale=0.05)
    edit_actor: TanhGaussian
    edit_temperature: Temperature
    edit_scale: float

    def _build(self, lr_schedule: Schedule) -> None:
        super()._build(lr_schedule)
        self.edit_actor = self.make_gaussian(context_dim=get_action_dim(self.action_space))
        self.edit_actor.optimizer = self.make_optimizer(self.edit_actor, lr_schedule(1), weight_decay=0.0)
        self.edit_temperature = self.make_temperature(1.0, lr_schedule)

    @property
    def n_latents(self) -> int:
        return self.best_of_n

    def edited(self, base: th.Tensor, edit: th.Tensor) -> th.Tensor:
        """
        :param base: actions (..., D)
        :param edit: (..., D) in (-1, 1)
        :return: (..., D) in [-1, 1]
        """
        return (base + self.edit_scale * edit).clamp(-1.0, 1.0)

    def decide(self, observation: PyTorchObs, latents: th.Tensor) -> th.Tensor:
        """ODE samples and the edit policy's mode, ranked by the minimum over heads. See the base class."""
        base = self.actor_ema.sample_each(observation, latents)
        edited = self.edited(base, self.edit_actor.mode(observation, base))
        return self.best_candidate(observation, th.cat([base, edited], dim=1), how="min")

    def explore(self, observation: PyTorchObs) -> th.Tensor:
        """SDE samples and drawn edits. See the base class."""
        base = self.actor_ema.sample_chain(observation, self.best_of_n).actions.unflatten(0, (-1, self.best_of_n))
        edited = self.edited(base, self.edit_actor.sample(observation, base)[0])
        return self.best_candidate(observation, th.cat([base, edited], dim=1))


class EditMixin(SoftActorMixin):
    """The update of an :class:`EditPolicy`'s edits."""

    policy: EditPolicy
    edit_scale: float
    edit_bc_coef: float

    def _check_options(self) -> None:
        super()._check_options()
        check_positive("edit_scale", self.edit_scale, 2.0)
        check_at_least(edit_bc_coef=(self.edit_bc_coef, 0))

    def _base_actions(self, batch: ChunkReplaySamples) -> th.Tensor:
        """(B, D) actions that are edited in the update, without gradient."""
        raise NotImplementedError

    def _edit_step(self, batch: ChunkReplaySamples, successes: ChunkReplaySamples | None) -> dict[str, th.Tensor]:
        """SAC on edits of the base policy's actions; edited actions are drawn to successful ones where there are any."""
        edit, log_prob, edited = self._edits(batch)
        with without_gradient_of(self.critic):
            q = self.critic(batch.observations, edited).mean(dim=0)
        imitation, logged = None, {}
        if successes is not None:
            *_, own = self._edits(successes)
            error = successes.squared_error(own)
            imitation, logged = self.edit_bc_coef * error, dict(edit_bc_loss=error)
        improved = self._improve("edit", self.policy.edit_actor, self.policy.edit_temperature, log_prob, q, imitation)
        return dict(**improved, **logged, edit_size=edit.detach().abs().mean() * self.policy.edit_scale)

    def _edits(self, batch: ChunkReplaySamples) -> tuple[th.Tensor, th.Tensor, th.Tensor]:
        """An edit u (B, D) of one base action per state, its log-density (B,) and the edited action (B, D)."""
        with th.no_grad():
            base = self._base_actions(batch)
        edit, log_prob = self.policy.edit_actor.sample(batch.observations, base)
        return edit, log_prob, self.policy.edited(base, edit)
