"""
Parameters with a wanted share of agreeing heads and a wanted share of clipped chains.

The cost of an update that leaves out what cannot matter depends on both, so that they are set, and reported, rather
than left to the initialisation: independent heads agree on almost nothing, and an actor that equals its average clips
nothing.
"""

from __future__ import annotations

import copy
import pathlib
from collections.abc import Callable, Iterable
from typing import Any

import torch as th

from benchmarks.update.straightforward import Straightforward, agree

AGREEMENTS = (0.2, 0.5)
CLIP_SHARES = (0.0, 0.5)
TOLERANCE = 0.03
_PROBE_CHAINS = 2048  # for each trial of a bisection: the share's error is about a hundredth


def prepare(model: Any, folder: pathlib.Path) -> None:
    """
    Write the policy's parameters for each agreement and clip share.

    :param model: a fresh model; its parameters are changed
    :param folder: gets ``<agreement>-<clip share>.pt``
    """
    th.manual_seed(0)
    fresh = copy.deepcopy(model.critic.state_dict())
    actors = {}
    for clip_share in CLIP_SHARES:
        set_clip_share(model, clip_share)
        actors[clip_share] = copy.deepcopy(model.actor.state_dict())
    for agreement in AGREEMENTS:
        model.critic.load_state_dict(fresh)
        set_agreement(model, agreement)
        for clip_share in CLIP_SHARES:
            model.actor.load_state_dict(actors[clip_share])
            th.save(model.policy.state_dict(), folder / f"{agreement}-{clip_share}.pt")


class Probe:
    """
    Chains of the EMA actor, drawn once, on which critics and online actor are tried.

    :param model: whose parameters are copied and whose replay buffer is sampled
    :param states: how many
    """

    @th.no_grad()
    def __init__(self, model: Any, states: int):
        self.run = Straightforward(model)
        observations = model.replay_buffer.sample(states).observations
        self.observations = observations.repeat_interleave(model.group_size, dim=0)
        self.states, self.old_log_prob = self.run.sample(
            self.observations, *self.run.noise(len(self.observations), model.device)
        )

    @th.no_grad()
    def agreement(self) -> float:
        """Share of chains on whose advantage sign all heads of the target critics agree."""
        q = self.run.target(self.observations, self.states[-1].clamp(-1.0, 1.0))
        return float(agree(q.view(len(q), -1, self.run.group)).float().mean())

    @th.no_grad()
    def clip_share(self) -> float:
        """Share of chains whose ratio is outside the clip range."""
        ratio = th.exp(self.run.score(self.run.actor, self.observations, self.states) - self.old_log_prob)
        return float(((ratio - 1.0).abs() > self.run.clip_range).float().mean())


def set_agreement(model: Any, wanted: float) -> None:
    """
    Move critics from one shared head (all agree) towards independent ones (none do) until the share is as wanted.

    :param model: whose critics and target critics are made so, both alike
    :param wanted: share of chains on whose advantage sign all heads agree
    :raises RuntimeError: the share of other chains is not, within ``TOLERANCE``
    """
    independent = [p.detach().clone() for p in model.critic.ensemble.parameters()]
    probe = Probe(model, _PROBE_CHAINS // model.group_size)

    def trial(weight: float) -> float:
        _copy([th.lerp(q[:1].expand_as(q), q, weight) for q in independent], probe.run.target)
        return -probe.agreement()

    _bisect(trial, -wanted, 0.0, 1.0)
    for ensemble in (model.critic.ensemble, model.critic_target.ensemble):
        _copy(probe.run.target.parameters(), ensemble)
    found = Probe(model, 2 * _PROBE_CHAINS // model.group_size).agreement()
    if abs(found - wanted) > TOLERANCE:
        raise RuntimeError(f"heads agree on a share of {found:.3f} of the chains, wanted {wanted} within {TOLERANCE}")


def set_clip_share(model: Any, wanted: float) -> None:
    """
    Displace the online actor from its average in a random direction until so many ratios leave the clip range.

    :param model: whose actor is displaced
    :param wanted: share of clipped chains; 0 stands for a quarter of the displacement that clips half of them, which clips
        next to none and still leaves no ratio at one
    """
    probe = Probe(model, _PROBE_CHAINS // model.group_size)
    average = [p.detach().clone() for p in probe.run.ema.parameters()]
    directions = [p.square().mean().sqrt() * th.randn_like(p) for p in average]

    def displaced(amount: float) -> list[th.Tensor]:
        return [p + amount * direction for p, direction in zip(average, directions, strict=True)]

    def trial(log_amount: float) -> float:
        _copy(displaced(10.0**log_amount), probe.run.actor)
        return probe.clip_share()

    amount = 10.0 ** _bisect(trial, wanted or 0.5, -5.0, 0.0)
    _copy(displaced(amount if wanted else 0.25 * amount), model.actor.gcp.velocity_net)


@th.no_grad()
def _copy(source: Iterable[th.Tensor], module: th.nn.Module) -> None:
    for p, q in zip(source, module.parameters(), strict=True):
        q.copy_(p)


def _bisect(function: Callable[[float], float], wanted: float, low: float, high: float) -> float:
    """Where an increasing function, known up to its sampling noise, takes a value; evaluated there last."""
    for _ in range(14):
        middle = 0.5 * (low + high)
        value = function(middle)
        if abs(value - wanted) < 0.25 * TOLERANCE:
            break
        low, high = (middle, high) if value < wanted else (low, middle)
    return middle
