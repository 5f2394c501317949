"""The round of updates, how many are owed, at which rates, on which batches, and what is logged of them."""

import logging
import math
import time
from collections.abc import Callable
from typing import Any

import torch as th
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.type_aliases import TrainFreq, TrainFrequencyUnit
from torch import nn

from ogpo_sb3.common.buffers import ChunkReplayBuffer, ChunkReplaySamples
from ogpo_sb3.common.captured import CapturedStep, signature
from ogpo_sb3.common.errors import TrainingDivergedError
from ogpo_sb3.common.features import ChunkCritic, GCPActor
from ogpo_sb3.common.optimization import check_step, guarded_step, has_fused, polyak, set_rate
from ogpo_sb3.common.policies import GCPPolicy
from ogpo_sb3.common.precision import matmul_precision
from ogpo_sb3.common.progress import progress
from ogpo_sb3.common.sampling import concatenate_samples
from ogpo_sb3.common.schedules import Schedule, schedule_value
from ogpo_sb3.critics import Fit, Regression, td_target

# On a GPU metrics are read at logs, and after this many updates where logs are rarer.
_UPDATES_BETWEEN_READS = 200
# Seconds of updates ahead from which on a CPU's user is told how many there are.
_LONG = 1200


class UpdatesMixin(OffPolicyAlgorithm):
    """The update side of :class:`ogpo_sb3.common.off_policy.GCPOffPolicyAlgorithm`."""

    policy: GCPPolicy
    actor: GCPActor
    actor_ema: GCPActor
    critic: ChunkCritic
    critic_target: ChunkCritic
    replay_buffer: ChunkReplayBuffer
    demonstration_buffer: ChunkReplayBuffer | None
    critic_lr_schedule: Schedule
    critic_warmup_updates: int
    actor_batch_size: int
    actor_tau: float
    success_bc: bool
    bc_coef: float
    bc_offline_ratio: float
    success_critic: bool
    mc_coef: float
    target_range: tuple[float, float] | None
    utd_critic: float | None
    utd_actor: float
    offline_ratio: float
    max_grad_norm: float
    precision: str
    pretrained: bool
    _critic_debt: float
    _actor_debt: float
    _n_actor_updates: int
    _n_warmup_updates: int
    _n_critic_pretrain_updates: int
    _show_progress: bool
    _duration_announced: bool
    _metrics: dict[str, list[th.Tensor]]
    _captured: dict[Any, CapturedStep]
    _diverged: dict[str, th.Tensor]

    # -- one round of updates, in the order of the paper's pseudocode ---------------------------------------------

    def train(self, gradient_steps: int, batch_size: int = 256) -> None:
        """
        Critic updates, each followed by the actor updates that are due; every update draws a batch of its own.

        :param gradient_steps: critic updates
        :param batch_size: windows per critic update
        """
        self.policy.set_training_mode(True)
        self._prepare_first_update(batch_size)
        started = time.perf_counter()
        for _ in range(gradient_steps):
            self._update_rates()
            self._update_critic(batch_size)
            self._n_updates += 1
            for _ in range(self._actor_updates_due()):
                self._update_actor()
                self._n_actor_updates += 1
        self._record_metrics(gradient_steps, started)

    def _update_critic(self, batch_size: int) -> None:
        """
        One critic update; counted by the caller.

        :param batch_size: windows
        """
        self._run(self._critic_step, self._sample(batch_size))
        if self.success_critic and self.replay_buffer.n_success >= batch_size:
            self._run(self._critic_step, self._sample(batch_size, success_only=True))

    def _critic_step(self, batch: ChunkReplaySamples) -> dict[str, th.Tensor]:
        """TD learning over chunks (OGPO A.1): y = R + gamma^k (1 - done) V(s'), V by the algorithm's :meth:`_next_value`."""
        target = self._target(batch)
        fit = self.critic.loss(batch.observations, self._criticised(batch), *self._regressions(target, batch))
        return self._apply_critic_loss(fit, target)

    def _target(self, batch: ChunkReplaySamples) -> th.Tensor:
        """(B,) TD targets, without gradient, within ``target_range``."""
        with th.no_grad():
            target = td_target(self._rewards(batch), batch.discounts[:, 0], batch.dones[:, 0], self._next_value(batch))
        return target if self.target_range is None else target.clamp(*self.target_range)

    def _regressions(self, target: th.Tensor, batch: ChunkReplaySamples) -> list[Regression]:
        """TD targets and, by ``mc_coef``, Monte-Carlo returns of finished episodes (OGPO 2.6)."""
        regressions = [Regression(target)]
        if self.mc_coef > 0:
            regressions.append(Regression(batch.mc_returns[:, 0], batch.mc_valid[:, 0], self.mc_coef))
        return regressions

    def _apply_critic_loss(self, fit: Fit, target: th.Tensor) -> dict[str, th.Tensor]:
        """A gradient step on the critics, the targets' step towards them, and what is logged."""
        grad_norm = self._optimise(self.critic, fit.loss, "critic_loss")
        polyak(self.critic, self.critic_target, self.tau)
        q = fit.values.detach()
        return dict(
            critic_loss=fit.loss,
            q_mean=q.mean(),
            q_std=q.std(dim=0, unbiased=False).mean(),
            target_mean=target.mean(),
            critic_grad_norm=grad_norm,
            **fit.logged,
        )

    def _criticised(self, batch: ChunkReplaySamples) -> th.Tensor:
        """(B, D) what the critics see of a decision: the executed chunk."""
        return batch.actions

    def _rewards(self, batch: ChunkReplaySamples) -> th.Tensor:
        """(B,) reward of a window: the discounted sum over its executed steps."""
        return batch.rewards[:, 0]

    def _next_value(self, batch: ChunkReplaySamples) -> th.Tensor:
        """(B,) value of the state after each window, called without gradient."""
        raise NotImplementedError

    def _update_actor(self) -> None:
        """One update of what acts; counted by the caller."""
        raise NotImplementedError

    def _success_batch(self) -> ChunkReplaySamples | None:
        """
        Windows of successful episodes and, by ``bc_offline_ratio``, of demonstrations; None without ``success_bc`` and until
        there is a batch of them.
        """
        size = self.actor_batch_size
        n_offline = round(self.bc_offline_ratio * size) if self.success_bc else 0
        if n_offline > 0:  # demonstrations are there from the beginning
            return self._mixed(size, n_offline if self.replay_buffer.n_success >= size else size, success_only=True)
        if not (self.success_bc and self.replay_buffer.n_success >= size):
            return None
        return self._sample(size, success_only=True)

    def _cloning_loss(self, batch: ChunkReplaySamples) -> th.Tensor:
        """Flow-matching loss over the steps of the windows that exist."""
        return self.actor.gcp.bc_loss(self.actor.features(batch.observations), batch.actions, batch.action_weights)

    def _cloning_step(self, batch: ChunkReplaySamples) -> dict[str, th.Tensor]:
        """A gradient step of the generative actor on executed chunks alone, and the EMA actor's step towards it."""
        loss = self.bc_coef * self._cloning_loss(batch)
        grad_norm = self._optimise(self.actor, loss, "actor_loss")
        polyak(self.actor, self.actor_ema, self.actor_tau)
        return dict(actor_loss=loss, actor_grad_norm=grad_norm)

    # -- how many, at which rates, on what -------------------------------------------------------------------------

    @property
    def critic_updates_per_step(self) -> float | None:
        """Critic updates per environment step; None where SB3's episodic train_freq leaves it open."""
        if self.utd_critic is not None:
            return self.utd_critic
        if self.gradient_steps < 0:  # as in Stable-Baselines3: as many as steps
            return 1.0
        assert isinstance(self.train_freq, TrainFreq)
        if self.train_freq.unit == TrainFrequencyUnit.EPISODE:
            return None
        return self.gradient_steps / (self.train_freq.frequency * self.n_envs)

    def _updates_owed(self, executed: int) -> int:
        """
        Whole critic updates owed after a rollout; the fraction is carried over.

        :param executed: environment steps of the rollout
        """
        rate = self.critic_updates_per_step
        if rate is None:
            return self.gradient_steps
        self._critic_debt += rate * executed
        owed = math.floor(self._critic_debt + 1e-9)
        self._critic_debt -= owed
        return owed

    def _actor_updates_due(self) -> int:
        """Actor updates due after one critic update, so that there are ``utd_actor`` per environment step."""
        self._actor_debt += self.utd_actor / (self.critic_updates_per_step or 1.0)
        due = math.floor(self._actor_debt + 1e-9)
        self._actor_debt -= due
        return due

    def _prepare_first_update(self, batch_size: int) -> None:
        """
        Observation statistics where no demonstrations gave any, then the critic-only warm-up, if still due.

        :param batch_size: windows per update
        """
        self._fit_observations(self.replay_buffer)
        due = self.critic_warmup_updates - self._n_warmup_updates
        if due <= 0:
            return
        for _ in progress(range(due), "critic warm-up", due, self._show_progress):
            self._update_rates()
            self._warm_up(batch_size)
            self._n_warmup_updates += 1

    def _fit_observations(self, buffer: ChunkReplayBuffer) -> None:
        """
        Observation statistics, once: what has been trained on them must not see others.

        :param buffer: of what is trained on first
        """
        if self.policy.normalize_observations and not self.pretrained and self._all_critic_updates == 0:
            seen = buffer.sample(min(10_000, buffer.size()), env=self._vec_normalize_env).observations
            arrays = {k: v.cpu().numpy() for k, v in seen.items()} if isinstance(seen, dict) else seen.cpu().numpy()
            self.policy.fit_normalizer(arrays)

    @property
    def _all_critic_updates(self) -> int:
        """Those before the first actor update included."""
        return self._n_updates + self._n_warmup_updates + self._n_critic_pretrain_updates

    def _warm_up(self, batch_size: int) -> None:
        """
        One update before the first actor update.

        :param batch_size: windows
        """
        self._update_critic(batch_size)
        self._update_beside_critics(self._sample)

    def _update_beside_critics(self, sample: Callable[[int], ChunkReplaySamples]) -> None:
        """
        Before the actor's first update: what makes the critics' targets and has not been cloned, if there is such a policy.

        :param sample: so many windows of what the critics are trained on
        """

    def _sample(self, batch_size: int, success_only: bool = False) -> ChunkReplaySamples:
        """
        Windows from replay and, by ``offline_ratio``, from the demonstrations.

        :param batch_size: windows
        :param success_only: of successful online episodes only
        """
        return self._mixed(batch_size, 0 if success_only else self._offline_windows(batch_size), success_only)

    def _mixed(self, batch_size: int, n_offline: int, success_only: bool = False) -> ChunkReplaySamples:
        """
        Windows from replay and from the demonstrations.

        :param batch_size: windows
        :param n_offline: those from the demonstrations
        :param success_only: the others are of successful episodes
        """
        if n_offline == 0:
            return self.replay_buffer.sample(batch_size, env=self._vec_normalize_env, success_only=success_only)
        if self.demonstration_buffer is None:
            raise ValueError("batches with demonstrations need them at hand: pass them to load(..., demonstrations=)")
        offline = self.demonstration_buffer.sample(n_offline, env=self._vec_normalize_env)
        if n_offline == batch_size:
            return offline
        online = self.replay_buffer.sample(batch_size - n_offline, env=self._vec_normalize_env, success_only=success_only)
        return concatenate_samples(online, offline)

    def _offline_windows(self, batch_size: int) -> int:
        """Windows of a batch that come from the demonstrations."""
        return round(self.offline_ratio * batch_size)

    def _update_rates(self) -> None:
        """Write the scheduled learning rates into the optimisers."""
        progress = self._current_progress_remaining
        rates = {
            "learning_rate": (self.policy.actor_names, self.lr_schedule, self._n_actor_updates),
            "critic_learning_rate": (self.policy.critic_names, self.critic_lr_schedule, self._all_critic_updates),
        }
        for name, (networks, schedule, n_updates) in rates.items():
            rate = schedule_value(name, schedule, progress, n_updates)
            for network in networks:
                set_rate(getattr(self.policy, network).optimizer, rate)
            self._metrics[f"train/{name}"] = [th.tensor(rate)]

    def _run(self, step: Callable[..., dict[str, th.Tensor]], *inputs: Any) -> None:
        """
        Do one update in the precision chosen and keep its scalars for the log; on a GPU as a captured graph.

        :param step: function of tensors that updates a network, without asking the host for anything
        :param inputs: batches and numbers on the device
        """
        on_device = self.device.type == "cuda" and self.actor.gcp.on_device
        if not on_device or not all(has_fused(m.optimizer) for m in self.policy.trained):  # type: ignore[arg-type]
            with matmul_precision(self.policy, self.precision):
                self._log(**step(*inputs))
            return
        key = (step.__name__, signature(inputs))
        if key not in self._captured:
            self._captured[key] = CapturedStep(step)
        with matmul_precision(self.policy, self.precision):
            self._log(**self._captured[key](*inputs))

    def _optimise(self, model: nn.Module, loss: th.Tensor, name: str) -> th.Tensor:
        """
        One clipped gradient step; nothing is changed if loss or gradient is not finite.

        :param model: network with an ``optimizer``
        :param loss: scalar
        :param name: of the loss, for the error
        :return: gradient norm before clipping
        """
        model.optimizer.zero_grad(set_to_none=True)  # type: ignore[union-attr]
        loss.backward()
        return self._apply_gradient(model, loss, name)

    def _apply_gradient(self, model: nn.Module, loss: th.Tensor, name: str) -> th.Tensor:
        """
        As :meth:`_optimise`, with the gradient that has been accumulated.

        :param model: network with an ``optimizer``
        :param loss: scalar
        :param name: of the loss, for the error
        :return: gradient norm before clipping
        """
        norm, bad = guarded_step(model.optimizer, loss, self.max_grad_norm)  # type: ignore[arg-type]
        if not bad.is_cuda:
            check_step(bad, loss, name, self.num_timesteps)
            return norm
        # The step was left out on the device; whether that happened is read together with the metrics.
        self._diverged.setdefault(name, th.zeros_like(bad)).logical_or_(bad)
        return norm

    def _log(self, **values: th.Tensor) -> None:
        """
        Keep values of this update; their means are logged.

        :param values: scalars by name, logged as train/<name>
        """
        for name, value in values.items():
            self._metrics[f"train/{name}"].append(value.detach())

    def _announce_duration(self, n_updates: int, seconds: float) -> None:
        """
        On a CPU with networks of the paper's width: say once, from the first measured rate, how long a long run will take.

        :param n_updates: critic updates just done, with the actor updates that belonged to them
        :param seconds: their duration
        """
        if self._duration_announced or n_updates == 0:
            return
        self._duration_announced = True
        widest = max((p.shape[-1] for p in self.policy.parameters() if p.dim() > 1), default=0)
        if self.device.type != "cpu" or widest < 512:
            return
        steps = max(self._total_timesteps - self.num_timesteps, 0)
        left = steps * (self.critic_updates_per_step or 1.0) * seconds / n_updates
        if left < _LONG:
            return
        logging.getLogger("ogpo_sb3").warning(
            "%.2g updates per second on this CPU: the remaining %d environment steps need about %.1f hours; "
            "ogpo_sb3.presets.quick() is sized for two cores",
            n_updates / max(seconds, 1e-9),
            steps,
            left / 3600,
        )

    def _check_options(self) -> None:
        """See :class:`ogpo_sb3.common.off_policy.GCPOffPolicyAlgorithm`."""
        raise NotImplementedError

    def _record_metrics(self, n_updates: int, started: float) -> None:
        """
        Hand the means of this round of updates to SB3's logger.

        :param n_updates: critic updates done
        :param started: time.perf_counter() at their beginning
        """
        seconds = time.perf_counter() - started
        self._announce_duration(n_updates, seconds)
        if hasattr(self, "_logger"):
            self.logger.record("train/n_updates", self._n_updates, exclude="tensorboard")
            self.logger.record("train/n_actor_updates", self._n_actor_updates, exclude="tensorboard")
            self.logger.record_mean("time/updates_per_second", n_updates / max(seconds, 1e-9))
        pending = max((len(values) for values in self._metrics.values()), default=0)
        if self.device.type == "cpu" or pending >= _UPDATES_BETWEEN_READS:
            self._read_metrics()

    def _read_metrics(self) -> None:
        """Fetch what was kept from the device, in one go, and hand the means to SB3's logger."""
        for name, bad in self._diverged.items():
            if bool(bad):
                raise TrainingDivergedError(name, self.num_timesteps)
        names = list(self._metrics)
        values = [value.float() for name in names for value in self._metrics[name]]
        numbers = iter(_to_floats(values))
        if hasattr(self, "_logger"):
            for name in names:
                own = [next(numbers) for _ in self._metrics[name]]
                self.logger.record_mean(name, sum(own) / len(own))
        self._metrics.clear()


def _to_floats(values: list[th.Tensor]) -> list[float]:
    """Scalars as numbers; those of a GPU in one transfer."""
    on_gpu = [value for value in values if value.is_cuda]
    fetched = iter(th.stack(on_gpu).tolist() if on_gpu else [])
    return [next(fetched) if value.is_cuda else value.item() for value in values]
