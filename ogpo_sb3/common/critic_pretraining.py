"""Critics before RL: TD learning or Cal-QL on the demonstrations, as a phase that any off-policy algorithm can switch on."""

import torch as th
from stable_baselines3.common.type_aliases import TensorDict

from ogpo_sb3.common.buffers import ChunkReplayBuffer, ChunkReplaySamples
from ogpo_sb3.common.progress import progress
from ogpo_sb3.common.updates import UpdatesMixin
from ogpo_sb3.critics import calibrated_gap

_PROPOSALS = 10  # random and policy actions per state in the conservative term, as in CQL
_UPDATES_BETWEEN_CHECKS = 200


class CriticPretrainingMixin(UpdatesMixin):
    """
    The phase between behaviour cloning and the first environment step (OGPO 2.6).

    With ``calql_coef`` it is Cal-QL (Nakamoto et al. 2023, arXiv 2303.05479). Together with ``learning_starts`` explored by
    the pre-trained policy and no demonstrations in the later batches it is WSRL (Zhou et al. 2024, arXiv 2412.07762).
    """

    demonstration_buffer: ChunkReplayBuffer | None
    batch_size: int
    critic_pretrain_updates: int
    calql_coef: float
    _n_critic_pretrain_updates: int

    @property
    def critic_pretraining_due(self) -> bool:
        """Critic pre-training was asked for and has not been finished."""
        return self._n_critic_pretrain_updates < self.critic_pretrain_updates

    def pretrain_critic(self, progress_bar: bool = True) -> "CriticPretrainingMixin":
        """
        Train the critics on the demonstrations alone; called by ``learn`` where it is due, after behaviour cloning. Goes on
        where it was interrupted.

        :param progress_bar: show rate and remaining time
        :raises ValueError: there are no demonstrations with rewards
        """
        if self.demonstration_buffer is None:
            raise ValueError(
                "pretrain_critic() needs demonstrations and an environment, found none: pass demonstrations= and "
                "critic_pretrain_updates="
            )
        self._fit_observations(self.demonstration_buffer)
        self.policy.set_training_mode(True)
        done, total = self._n_critic_pretrain_updates, self.critic_pretrain_updates
        for _ in progress(range(done, total), "critic pre-training", total, progress_bar, done):
            self._update_rates()
            self._run(self._pretraining_critic_step, self._demonstrated(self.batch_size))
            self._update_beside_critics(self._demonstrated)
            self._n_critic_pretrain_updates += 1
            if self._n_critic_pretrain_updates % _UPDATES_BETWEEN_CHECKS == 0:
                self._read_metrics()
        self._read_metrics()
        return self

    def _demonstrated(self, batch_size: int) -> ChunkReplaySamples:
        """
        Windows from the demonstrations alone.

        :param batch_size: windows
        """
        return self._mixed(batch_size, n_offline=batch_size)

    def _pretraining_critic_step(self, batch: ChunkReplaySamples) -> dict[str, th.Tensor]:
        """A critic step, with Cal-QL's term where that is switched on."""
        target = self._target(batch)
        fit = self.critic.loss(batch.observations, batch.actions, *self._regressions(target, batch))
        if self.calql_coef > 0:
            q = fit.values if fit.values.requires_grad else self.critic(batch.observations, batch.actions)
            fit = fit._replace(loss=fit.loss + self.calql_coef * self._conservative_gap(batch, q))
        return self._apply_critic_loss(fit, target)

    def _conservative_gap(self, batch: ChunkReplaySamples, q: th.Tensor) -> th.Tensor:
        """Cal-QL's term with uniform actions and actions of the policy at this state and at the next."""
        rows, dim = batch.actions.shape
        with th.no_grad():
            random = 2.0 * th.rand(rows, _PROPOSALS, dim, device=batch.actions.device) - 1.0
            states = (batch.observations, batch.next_observations)
            own = th.cat([self._policy_actions(obs, _PROPOSALS) for obs in states], dim=1)
            unknown = th.full_like(batch.mc_returns, -th.inf)
            floor = th.where(batch.mc_valid > 0, batch.mc_returns, unknown)[:, 0]
        proposed = self.critic(batch.observations, th.cat([random, own], dim=1))
        return calibrated_gap(q, proposed[..., :_PROPOSALS], proposed[..., _PROPOSALS:], floor)

    def _policy_actions(self, observations: th.Tensor | TensorDict, n: int) -> th.Tensor:
        """(B, n, D) actions of the pre-trained policy, without gradient."""
        return self.actor_ema.sample_chain(observations, n).actions.unflatten(0, (-1, n))
