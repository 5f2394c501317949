"""What OGPO's actor update starts from: actions drawn in imagination, their advantages, and terms beside the objective."""

from typing import TYPE_CHECKING

import torch as th

from ogpo_sb3.common.buffers import ChunkReplaySamples
from ogpo_sb3.common.features import GCPActor
from ogpo_sb3.common.updates import UpdatesMixin
from ogpo_sb3.extraction import agreement, group_advantage, penalise_q
from ogpo_sb3.gcp import Chain
from ogpo_sb3.ogpo.objectives import Objective, Update


class ImaginationMixin(UpdatesMixin):
    """The part of :class:`ogpo_sb3.OGPO` between a batch of states and its objective."""

    actor_slow: GCPActor | None
    group_size: int
    group_latents: int | None
    advantage: str
    baseline: str
    q_agg: str
    chi2_coef: float
    kl_coef: float
    pessimism: float
    entropy_coef: float
    forward_kl_coef: float
    ratio_steps: int | None
    _next_pessimism: th.Tensor
    if TYPE_CHECKING:

        @property
        def penalty(self) -> str | None:
            """See :class:`ogpo_sb3.OGPO`."""

        @property
        def _objective(self) -> Objective:
            """See :class:`ogpo_sb3.OGPO`."""

    @property
    def _first_scored_step(self) -> int:
        """First denoising step that counts in the ratio of chains."""
        return 0 if self.ratio_steps is None else self.actor.gcp.stochastic_steps - self.ratio_steps

    def _imagine(self, batch: ChunkReplaySamples, clip_range: th.Tensor) -> tuple[Update, dict[str, th.Tensor]]:
        """What the objective needs: G actions of the EMA policy per state where it wants any, judged by the target critics."""
        draws, begin, old = self._objective.draws, self._first_scored_step, self.actor_ema
        chain: Chain | None = None
        actions = advantage = batch.actions.new_empty(0)
        logged: dict[str, th.Tensor] = {}
        with th.no_grad():
            old_features = old.features(batch.observations)
            if draws == "chains":
                chain = old.gcp.sample_scored(old_features, self.group_size, begin, self.group_latents)
                actions = chain.actions
            elif draws == "actions":
                actions = old.gcp.sample(old_features.repeat_interleave(self.group_size, dim=0))
            if draws is not None:
                q = self.critic_target(batch.observations, actions.unflatten(0, (-1, self.group_size)))  # (M, B, G)
                advantage, logged = self._advantage(q, batch, chain)
                logged = dict(agreement=agreement(self._compared(q)), advantage_std=advantage.std(), **logged)
        if self.baseline == "value":
            logged |= self._value_step(batch, q)
        update = Update(
            gcp=self.actor.gcp,
            features=self.actor.features(batch.observations),
            old_gcp=old.gcp,
            old_features=old_features,
            values=lambda own: self.critic_target(batch.observations, own),
            q_agg=self.q_agg,
            clip_range=clip_range,
            begin=begin,
            chain=chain,
            actions=actions,
            advantage=advantage,
        )
        return update, logged

    def _advantage(
        self, q: th.Tensor, batch: ChunkReplaySamples, chain: Chain | None
    ) -> tuple[th.Tensor, dict[str, th.Tensor]]:
        """(B, G) advantages; the penalised variants mix and penalise Q first (4.6) and have something to log."""
        if self.penalty is None or self.actor_slow is None or chain is None:
            value = self.policy.state_value if self.baseline == "value" else None
            baseline = None if value is None else value(batch.observations)
            return group_advantage(self._compared(q), self.advantage, self.q_agg, baseline).view(q.shape[1:]), {}
        log_prob, slow_log_prob = (
            actor.chain_log_prob(batch.observations, chain.states, self._first_scored_step).view(q.shape[1:])
            for actor in (self.actor, self.actor_slow)
        )
        penalised = penalise_q(q, log_prob - slow_log_prob, self.penalty, self.chi2_coef + self.kl_coef, self.pessimism)
        self._next_pessimism.copy_(penalised.next_pessimism)
        logged = dict(penalty_beta=penalised.beta, next_pessimism=penalised.next_pessimism)
        return group_advantage(self._compared(penalised.q[None]), self.advantage).view(q.shape[1:]), logged

    def _compared(self, q: th.Tensor) -> th.Tensor:
        """(M, B, G) values as (M, B * L, G / L), by ``group_latents`` L: in rows, what is compared with one another."""
        return q if self.group_latents is None else q.reshape(len(q), -1, self.group_size // self.group_latents)

    def _value_step(self, batch: ChunkReplaySamples, q: th.Tensor) -> dict[str, th.Tensor]:
        """Regression of each head's V(s) on the group's mean of its Q: without bootstrap, hence without target network."""
        assert self.policy.state_value is not None
        loss = (self.policy.state_value(batch.observations) - q.mean(dim=-1)).square().mean()
        grad_norm = self._optimise(self.policy.state_value, loss, "value_loss")
        return dict(value_loss=loss, value_grad_norm=grad_norm)

    def _value_warm_up(self, batch: ChunkReplaySamples) -> dict[str, th.Tensor]:
        """A step of V(s) alone, while the critics warm up."""
        with th.no_grad():
            actions = self.actor_ema.sample_chain(batch.observations, self.group_size).actions
            q = self.critic_target(batch.observations, actions.unflatten(0, (-1, self.group_size)))
        return self._value_step(batch, q)

    def _regularisers(self, batch: ChunkReplaySamples, successes: ChunkReplaySamples | None) -> dict[str, th.Tensor]:
        """Terms beside the objective, by name and without their coefficients."""
        terms: dict[str, th.Tensor] = {}
        if successes is not None:
            terms |= dict(bc_loss=self._cloning_loss(successes))
        if self.entropy_coef > 0:
            gcp = self.actor.gcp
            terms |= dict(entropy=gcp.entropy(gcp.condition(self.actor.features(batch.observations))).mean())
        if self.forward_kl_coef > 0 and self.actor_slow is not None:
            with th.no_grad():
                actions = self.actor_slow.sample_chain(batch.observations).actions
            terms |= dict(forward_kl_loss=self.actor.gcp.bc_loss(self.actor.features(batch.observations), actions))
        return terms
