"""The package's update against the straightforward one that benchmarks compare it with, at equal draws."""

import numpy as np
import pytest
import torch as th
from ogpo_sb3 import OGPO, OGPOCA, OGPOChi2, OGPOPlus
from ogpo_sb3.extraction import group_advantage, penalise_q, ppo_clip_loss

from benchmarks.update.states import TOLERANCE, Probe, set_agreement, set_clip_share
from benchmarks.update.straightforward import Straightforward, Velocity
from tests.contract.models import DEVICES
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


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("advantage", ["mean", "conservative", "positive"])
def test_actor_update(advantage, device, monkeypatch):
    model = typical(advantage=advantage, learning_rate=0.0, device=device)
    reference = Straightforward(model)
    batches = record(model.replay_buffer, "sample", monkeypatch)
    chains = record(model.actor_ema.gcp, "sample_scored", monkeypatch)
    model._update_actor()
    repeated = batches[0].observations.repeat_interleave(model.group_size, dim=0)
    loss, gradient = reference.loss_and_gradient(batches[0].observations, *draws_of(reference, repeated, chains[0]))
    close(gradient, [p.grad for p in model.actor.parameters()])
    q = reference.target(repeated, chains[0].actions).view(model.policy.n_critics, -1, model.group_size)
    scale = float(reference.group_advantage(q).abs().mean())  # a mean of terms that nearly cancel
    assert float(loss) == pytest.approx(float(model._metrics["train/actor_loss"][0]), abs=1e-5 * scale)
    assert 0.0 < float(reference.shares["gradient_share"]) < 1.0
    assert 0.0 < float(reference.shares["clip_share"]) < 1.0


VARIANTS = [
    (OGPO, dict(advantage="std")),
    (OGPO, dict(advantage="penultimate")),
    (OGPO, dict(q_agg="min")),
    (OGPO, dict(kl_coef=0.5)),
    (OGPOPlus, {}),
    (OGPOCA, {}),
    (OGPOChi2, {}),
]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(("algorithm", "kwargs"), VARIANTS)
def test_actor_gradient_of_every_variant(algorithm, kwargs, device, monkeypatch):
    """Shortcuts against one pass over all chains, step by step, with the penalty and the cloning of each variant."""
    model = filled(algorithm, steps=400, chunk_size=2, clip_range=0.002, learning_rate=0.0, device=device, **kwargs)
    generator = th.cuda if device == "cuda" else th
    th.manual_seed(3)
    np.random.seed(3)
    with th.no_grad():  # heads that agree on some chains, an actor that has left some of them beyond the clip
        for parameter in model.critic_target.ensemble.parameters():
            parameter[1:] = parameter[:1] + 0.3 * (parameter[1:] - parameter[:1])
        for parameter in model.actor.parameters():
            parameter += 0.02 * th.randn_like(parameter)
    reference = Straightforward(model)
    slow = Velocity(model.actor_slow.gcp.velocity_net).to(device) if model.penalty else None
    batches = record(model.replay_buffer, "sample", monkeypatch)
    chains = record(model.actor_ema.gcp, "sample_scored", monkeypatch)
    bc_loss, states_of_generator = model.actor.gcp.bc_loss, []

    def cloning(*args):
        states_of_generator.append(generator.get_rng_state())
        return bc_loss(*args)

    monkeypatch.setattr(model.actor.gcp, "bc_loss", cloning)
    model._update_actor()

    rows, chain = batches[0].observations.repeat_interleave(model.group_size, dim=0), chains[0]
    states = list(chain.states)
    log_prob = reference.score(reference.actor, rows, states)
    with th.no_grad():
        q = reference.target(rows, chain.actions).view(model.policy.n_critics, -1, model.group_size)
        if slow is None:
            advantage = group_advantage(q, model.advantage, model.q_agg)
        else:
            away = (log_prob - reference.score(slow, rows, states)).view(q.shape[1:])
            penalised = penalise_q(q, away, model.penalty, model.chi2_coef + model.kl_coef, model.pessimism)
            advantage = group_advantage(penalised.q[None], model.advantage)
    loss = ppo_clip_loss(log_prob, chain.log_prob, advantage.flatten(), 0.002)
    assert (len(states_of_generator) == 1) == model.success_bc
    assert 0.0 < model._metrics["train/gradient_fraction"][0] < 1.0
    if model.success_bc:
        generator.set_rng_state(states_of_generator[0])
        clones = batches[1]
        x0, t = th.randn_like(clones.actions), th.rand(len(clones.actions), device=device)
        x_t = (1 - t[:, None]) * x0 + t[:, None] * clones.actions
        error = (reference.actor(clones.observations, x_t, t) - (clones.actions - x0)) ** 2
        weights = clones.valid.repeat_interleave(error.shape[1] // clones.valid.shape[1], dim=1)
        loss = loss + model.bc_coef * (weights * error).sum() / weights.sum()
    wanted = th.autograd.grad(loss, list(reference.actor.parameters()))
    close([p.grad for p in model.actor.parameters()], wanted)


def test_shares_are_as_wanted():
    probe = Probe(typical(), 256)
    assert probe.agreement() == pytest.approx(0.5, abs=2 * TOLERANCE)
    assert probe.clip_share() == pytest.approx(0.5, abs=4 * TOLERANCE)


@pytest.mark.parametrize("device", DEVICES)
def test_critic_update(device, monkeypatch):
    model = filled(chunk_size=2, critic_learning_rate=0.0, device=device)
    reference = Straightforward(model)
    batches = record(model.replay_buffer, "sample", monkeypatch)
    chains = record(model.actor_ema, "sample_chain", monkeypatch)
    model._update_critic(model.batch_size)
    reference.critic_step(batches[0], draws_of(reference, batches[0].next_observations, chains[0]))
    close([p.grad for p in reference.critic.parameters()], [p.grad for p in model.critic.parameters()])
