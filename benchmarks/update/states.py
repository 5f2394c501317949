"""
Parameters with a wanted share of agreeing heads and a wanted share of clipped chains.

The cost of an update that leaves out what cannot matter depends on both, so that they are set, and reported, rather
than left to the initialisation: independent heads agree on almost nothing, and an actor that equals its average clips
nothing.
"""

from __future__ import annotations

import copy
import pathlib
from collections.abc import Callable
from typing import Any

import torch as th

from benchmarks.update.straightforward import Straightforward

AGREEMENTS = (0.2, 0.5)
CLIP_SHARES = (0.0, 0.5)
TOLERANCE = 0.03
_PROBE_STATES = 64  # of the replay buffer, for each trial of a bisection


def prepare(model: Any, folder: pathlib.Path) -> None:
    """
    Write the policy's parameters for each agreement and clip share.

    :param model: a fresh model; its parameters are changed
    :param folder: gets ``<agreement>-<clip share>.pt``
    """
    th.manual_seed(0)
    fresh = copy.deepcopy(model.policy.state_dict())
    for agreement in AGREEMENTS:
        model.policy.load_state_dict(fresh)
        set_agreement(model, agreement)
        for clip_share in CLIP_SHARES:
            set_clip_share(model, clip_share)
            th.save(model.policy.state_dict(), folder / f"{agreement}-{clip_share}.pt")


def measure(model: Any, states: int) -> dict[str, float]:
    """
    Shares of agreeing, clipped, scored and differentiated chains, by the straightforward update.

    :param model: as it is
    :param states: of the replay buffer
    """
    reference = Straightforward(model)
    observations = model.replay_buffer.sample(states).observations
    with th.no_grad():
        reference.actor_loss(observations, *reference.noise(states * model.group_size, model.device))
    return {name: float(share) for name, share in reference.shares.items()}


def set_agreement(model: Any, wanted: float) -> None:
    """
    Move critics from one shared head (all agree) towards independent ones (none do) until the share is as wanted.

    :param model: whose critics and target critics are made so, both alike
    :param wanted: share of chains on whose advantage sign all heads agree
    """
    ensembles = (model.critic.ensemble, model.critic_target.ensemble)
    independent = [p.detach().clone() for p in ensembles[0].parameters()]

    def trial(weight: float) -> float:
        with th.no_grad():
            for ensemble in ensembles:
                for p, q in zip(ensemble.parameters(), independent, strict=True):
                    p.copy_(th.lerp(q[:1].expand_as(q), q, weight))
        return -measure(model, _PROBE_STATES)["agreement"]

    _bisect(trial, -wanted, 0.0, 1.0)
    found = measure(model, 4 * _PROBE_STATES)["agreement"]
    if abs(found - wanted) > TOLERANCE:
        raise RuntimeError(f"heads agree on a share of {found:.3f} of the chains, wanted {wanted} within {TOLERANCE}")


def set_clip_share(model: Any, wanted: float) -> None:
    """
    Displace the online actor from its average in a random direction until so many ratios leave the clip range.

    :param model: whose actor is displaced
    :param wanted: share of clipped chains; 0 stands for a quarter of the displacement that clips half of them, which clips
        next to none and still leaves no ratio at one
    """
    average = [p.detach().clone() for p in model.actor_ema.parameters()]
    directions = [p.square().mean().sqrt() * th.randn_like(p) for p in average]

    def trial(log_amount: float) -> float:
        _displace(model.actor, average, directions, 10.0**log_amount)
        return measure(model, _PROBE_STATES)["clip_share"]

    log_amount = _bisect(trial, wanted or 0.5, -5.0, 0.0)
    if wanted == 0.0:
        _displace(model.actor, average, directions, 0.25 * 10.0**log_amount)


def _displace(actor: th.nn.Module, origin: list[th.Tensor], directions: list[th.Tensor], amount: float) -> None:
    with th.no_grad():
        for p, q, direction in zip(actor.parameters(), origin, directions, strict=True):
            p.copy_(q + amount * direction)


def _bisect(function: Callable[[float], float], wanted: float, low: float, high: float) -> float:
    """Where an increasing function, known up to its sampling noise, takes a value; evaluated there last."""
    for _ in range(14):
        middle = 0.5 * (low + high)
        value = function(middle)
        if abs(value - wanted) < 0.25 * TOLERANCE:
            break
        low, high = (middle, high) if value < wanted else (low, middle)
    return middle
