"""
OGPO's update as one would first write it from its equations: eager PyTorch, single precision.

The same mathematics as the package's update and none of its care about speed: observations are repeated for every chain,
one loop over the denoising steps samples, another scores with gradient, every chain takes part in everything, Polyak
averages are a loop over parameters. It is what ratios are taken against, and by equal draws the package's update is
tested against it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch as th
import torch.nn.functional as F
from torch import nn


class Velocity(nn.Module):
    """
    v(s, x, t), an MLP with a sinusoidal time embedding.

    :param source: the package's velocity network, whose parameters are copied
    """

    def __init__(self, source: nn.Module):
        super().__init__()
        parameters = [p.detach() for p in source.parameters()]
        layers = [_linear(w, b) for w, b in zip(parameters[::2], parameters[1::2], strict=True)]
        frequencies = next(b for name, b in source.named_buffers() if name.endswith("frequencies"))
        self.register_buffer("frequencies", frequencies.clone())
        self.time = nn.Sequential(layers[0], nn.GELU(), layers[1])
        self.trunk = nn.Sequential(*(part for layer in layers[2:-1] for part in (layer, nn.GELU())), layers[-1])

    def forward(self, observations: th.Tensor, x: th.Tensor, t: th.Tensor) -> th.Tensor:
        """
        :param observations: (N, S)
        :param x: (N, D)
        :param t: (N,)
        :return: (N, D)
        """
        angles = t[:, None] * self.frequencies
        time = self.time(th.cat([th.sin(angles), th.cos(angles)], dim=-1))
        return self.trunk(th.cat([observations, x, time], dim=-1))


class Critics(nn.Module):
    """
    M critics as batched products: linear, LayerNorm, GELU per layer.

    :param source: the package's ensemble, whose parameters are copied
    """

    def __init__(self, source: nn.Module):
        super().__init__()
        self.parts = nn.ParameterList(p.detach().clone() for p in source.parameters())

    def forward(self, observations: th.Tensor, actions: th.Tensor) -> th.Tensor:
        """
        :param observations: (N, S)
        :param actions: (N, D)
        :return: (M, N)
        """
        parts = list(self.parts)
        x = th.cat([observations, actions], dim=-1).expand(len(parts[0]), -1, -1)
        for i in range(0, len(parts) - 2, 4):
            weight, bias, scale, shift = parts[i : i + 4]
            x = th.bmm(x, weight) + bias
            x = F.gelu(F.layer_norm(x, x.shape[-1:]) * scale + shift)
        return (th.bmm(x, parts[-2]) + parts[-1]).squeeze(-1)


class Straightforward:
    """
    The networks and optimisers of one run.

    :param model: an OGPO model on vector observations, from which parameters (copied) and settings are taken
    """

    def __init__(self, model: Any):
        gcp = model.actor.gcp
        self.actor, self.ema = Velocity(gcp.velocity_net), Velocity(model.actor_ema.gcp.velocity_net)
        self.critic, self.target = Critics(model.critic.ensemble), Critics(model.critic_target.ensemble)
        for net in (self.ema, self.target):
            net.requires_grad_(False)
        for net in (self.actor, self.ema, self.critic, self.target):
            net.to(model.device)
        rates = [net.optimizer.param_groups[0]["lr"] for net in (model.actor, model.critic)]
        self.actor_optimizer = th.optim.AdamW(self.actor.parameters(), lr=rates[0], weight_decay=0.0)
        self.critic_optimizer = th.optim.AdamW(self.critic.parameters(), lr=rates[1], weight_decay=1e-5)
        self.times, self.stds = gcp.times.tolist(), gcp.std_table.tolist()
        self.corrections, self.noise_clip = gcp.correction_table.tolist(), gcp.noise_clip
        self.steps, self.group, self.action_dim = len(self.times), model.group_size, gcp.action_dim
        self.clip_range, self.advantage = float(model.clip_schedule(1.0)), model.advantage
        self.tau, self.actor_tau, self.max_grad_norm = model.tau, model.actor_tau, model.max_grad_norm
        self.lap: Callable[[str], None] = lambda name: None  # called at the end of each part, for measurements
        self.shares: dict[str, th.Tensor] = {}

    def noise(self, rows: int, device: th.device) -> tuple[th.Tensor, list[th.Tensor]]:
        """
        :param rows: chains
        :param device: where
        :return: the initial noise and that of each step, standard normal
        """
        draws = [th.randn(rows, self.action_dim, device=device) for _ in range(self.steps + 1)]
        return draws[0], draws[1:]

    def mean(self, net: Velocity, observations: th.Tensor, x: th.Tensor, i: int) -> th.Tensor:
        """Mean of one step of the SDE."""
        t = self.times[i]
        v = net(observations, x, th.full((len(x),), t, device=x.device))
        return x + v / self.steps + self.corrections[i] * (t * v - x)

    def log_density(self, x: th.Tensor, mean: th.Tensor, i: int) -> th.Tensor:
        """One step's share of the chain's mean log-likelihood, (N,)."""
        std = self.stds[i]
        density = -0.5 * ((x - mean) / std) ** 2 - math.log(std) - 0.5 * math.log(2 * math.pi)
        return density.sum(dim=-1) / (self.steps * self.action_dim)

    @th.no_grad()
    def sample(
        self, observations: th.Tensor, initial: th.Tensor, noises: list[th.Tensor]
    ) -> tuple[list[th.Tensor], th.Tensor]:
        """Chains of the EMA actor: K + 1 states (N, D) and the log-likelihood (N,)."""
        x = initial
        states, log_prob = [x], th.zeros(len(x), device=x.device)
        for i, noise in enumerate(noises):
            mean = self.mean(self.ema, observations, x, i)
            x = mean + self.stds[i] * noise.clamp(-self.noise_clip, self.noise_clip)
            log_prob = log_prob + self.log_density(x, mean, i)
            states.append(x)
        return states, log_prob

    def score(self, net: Velocity, observations: th.Tensor, states: list[th.Tensor]) -> th.Tensor:
        """Log-likelihood (N,) of chains."""
        log_prob = th.zeros(len(observations), device=observations.device)
        for i in range(self.steps):
            log_prob = log_prob + self.log_density(states[i + 1], self.mean(net, observations, states[i], i), i)
        return log_prob

    def actor_loss(self, observations: th.Tensor, initial: th.Tensor, noises: list[th.Tensor]) -> th.Tensor:
        """The clipped objective at B states with B x G chains drawn from the given noise."""
        observations = observations.repeat_interleave(self.group, dim=0)
        states, old_log_prob = self.sample(observations, initial, noises)
        self.lap("sampling")
        with th.no_grad():
            q = self.target(observations, states[-1].clamp(-1.0, 1.0)).view(-1, len(observations) // self.group, self.group)
            advantage = self.group_advantage(q).flatten()
        self.lap("target_critics")
        ratio = th.exp(self.score(self.actor, observations, states) - old_log_prob)
        clipped = ratio.clamp(1.0 - self.clip_range, 1.0 + self.clip_range)
        loss = -th.min(ratio * advantage, clipped * advantage).mean()
        self.lap("scoring")
        self._keep_shares(q, ratio.detach(), advantage)
        return loss

    def group_advantage(self, q: th.Tensor) -> th.Tensor:
        """(B, G) from (M, B, G)."""
        if self.advantage == "conservative":
            advantage = q - q.mean(dim=-1, keepdim=True)
            return F.relu(advantage.min(dim=0).values) - F.relu(-advantage.max(dim=0).values)
        value = q.mean(dim=0)
        advantage = value - value.mean(dim=-1, keepdim=True)
        return F.relu(advantage) if self.advantage == "positive" else advantage

    def loss_and_gradient(
        self, observations: th.Tensor, initial: th.Tensor, noises: list[th.Tensor]
    ) -> tuple[th.Tensor, list[th.Tensor]]:
        """Actor loss at given draws and its gradient, clipped as in the update, in the order of the actor's parameters."""
        self.actor_optimizer.zero_grad()
        loss = self.actor_loss(observations, initial, noises)
        loss.backward()
        nn.utils.clip_grad_norm_(self.actor.parameters(), self.max_grad_norm)
        self.lap("backward")
        return loss.detach(), [p.grad for p in self.actor.parameters()]

    def actor_step(self, observations: th.Tensor, draws: tuple[th.Tensor, list[th.Tensor]] | None = None) -> th.Tensor:
        """One actor update; the loss before it."""
        draws = self.noise(len(observations) * self.group, observations.device) if draws is None else draws
        loss, _ = self.loss_and_gradient(observations, *draws)
        self.actor_optimizer.step()
        _polyak(self.actor, self.ema, self.actor_tau)
        self.lap("optimiser")
        return loss

    def critic_step(self, batch: Any, draws: tuple[th.Tensor, list[th.Tensor]] | None = None) -> th.Tensor:
        """One critic update on a batch of the package's replay buffer; the loss before it."""
        draws = self.noise(len(batch.rewards), batch.rewards.device) if draws is None else draws
        with th.no_grad():
            states, _ = self.sample(batch.next_observations, *draws)
            next_q = self.target(batch.next_observations, states[-1].clamp(-1.0, 1.0)).mean(dim=0)
            target = batch.rewards[:, 0] + batch.discounts[:, 0] * (1.0 - batch.dones[:, 0]) * next_q
        loss = ((self.critic(batch.observations, batch.actions) - target) ** 2).mean()
        self.critic_optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.critic.parameters(), self.max_grad_norm)
        self.critic_optimizer.step()
        _polyak(self.critic, self.target, self.tau)
        return loss.detach()

    def _keep_shares(self, q: th.Tensor, ratio: th.Tensor, advantage: th.Tensor) -> None:
        """What the cost of an update that skips work depends on, for the report."""
        high, low = ratio > 1.0 + self.clip_range, ratio < 1.0 - self.clip_range
        inert = (advantage == 0) | (high & (advantage > 0)) | (low & (advantage < 0))
        masks = {
            "agreement": agree(q),
            "clip_share": high | low,
            "scored_share": advantage != 0,
            "gradient_share": ~inert,
        }
        self.shares = {name: mask.float().mean() for name, mask in masks.items()}


def agree(q: th.Tensor) -> th.Tensor:
    """Which chains (B, G) have advantages of one sign under all heads of (M, B, G)."""
    centred = q - q.mean(dim=-1, keepdim=True)
    return (centred > 0).all(dim=0) | (centred < 0).all(dim=0)


def _linear(weight: th.Tensor, bias: th.Tensor) -> nn.Linear:
    layer = nn.Linear(weight.shape[1], weight.shape[0])
    layer.weight.data.copy_(weight)
    layer.bias.data.copy_(bias)
    return layer


def _polyak(source: nn.Module, average: nn.Module, tau: float) -> None:
    with th.no_grad():
        for p, q in zip(source.parameters(), average.parameters(), strict=True):
            q.copy_(tau * p + (1.0 - tau) * q)
