"""The package's update against the straightforward one that benchmarks compare it with, at equal draws."""

import numpy as np
import pytest
import torch as th

from benchmarks.update.states import TOLERANCE, Probe, set_agreement, set_clip_share
from benchmarks.update.straightforward import Straightforward
from tests.test_ogpo import filled


def typical(**kwargs):
    """A model about half of whose chains are clipped and agreed upon, with nothing learnt yet."""
    model = filled(chunk_size=2, clip_range=0.002, **kwargs)
    th.manual_seed(3)
    np.random.seed(3)
    set_agreement(model, 0.5)
    set_clip_share(model, 0.5)
    return model


def record(target, name, monkeypatch):
    """Keep what a method returns."""
    results, method = [], getattr(target, name)

    def recording(*args, **kwargs):
        results.append(method(*args, **kwargs))
        return results[-1]

    monkeypatch.setattr(target, name, recording)
    return results


def draws_of(reference, observations, chain):
    """The noise that a chain was made of."""
    states, noises = list(chain.states.detach().float()), []
    with th.no_grad():
        for i in range(reference.steps):
            mean = reference.mean(reference.ema, observations, states[i], i)
            noises.append((states[i + 1] - mean) / reference.stds[i])
    return states[0], noises


def close(found, wanted, rtol=1e-5):
    """Relative to the norm of all that is wanted."""
    found, wanted = (th.cat([g.detach().flatten() for g in side]) for side in (found, wanted))
    assert float((found - wanted).norm()) <= rtol * float(wanted.norm())


@pytest.mark.parametrize("advantage", ["mean", "conservative", "positive"])
def test_actor_update(advantage, monkeypatch):
    model = typical(advantage=advantage, learning_rate=0.0)
    reference = Straightforward(model)
    batches = record(model.replay_buffer, "sample", monkeypatch)
    chains = record(model.actor_ema, "sample_chain", monkeypatch)
    model._update_actor()
    repeated = batches[0].observations.repeat_interleave(model.group_size, dim=0)
    loss, gradient = reference.loss_and_gradient(batches[0].observations, *draws_of(reference, repeated, chains[0]))
    close(gradient, [p.grad for p in model.actor.parameters()])
    q = reference.target(repeated, chains[0].actions).view(model.policy.n_critics, -1, model.group_size)
    scale = float(reference.group_advantage(q).abs().mean())  # a mean of terms that nearly cancel
    assert float(loss) == pytest.approx(float(model._metrics["train/actor_loss"][0]), abs=1e-5 * scale)
    assert 0.0 < float(reference.shares["gradient_share"]) < 1.0
    assert 0.0 < float(reference.shares["clip_share"]) < 1.0


def test_shares_are_as_wanted():
    probe = Probe(typical(), 256)
    assert probe.agreement() == pytest.approx(0.5, abs=2 * TOLERANCE)
    assert probe.clip_share() == pytest.approx(0.5, abs=4 * TOLERANCE)


def test_critic_update(monkeypatch):
    model = filled(chunk_size=2, critic_learning_rate=0.0)
    reference = Straightforward(model)
    batches = record(model.replay_buffer, "sample", monkeypatch)
    chains = record(model.actor_ema, "sample_chain", monkeypatch)
    model._update_critic(model.batch_size)
    reference.critic_step(batches[0], draws_of(reference, batches[0].next_observations, chains[0]))
    close([p.grad for p in reference.critic.parameters()], [p.grad for p in model.critic.parameters()])
