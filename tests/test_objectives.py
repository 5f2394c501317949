"""OGPO's objectives: their functions against tables and loops, whole updates against slow references."""

import math

import numpy as np
import pytest
import torch as th
from ogpo_sb3 import OGPO
from ogpo_sb3.extraction import (
    aspo_loss,
    awr_loss,
    awr_weights,
    backward_in_blocks,
    best_of_group,
    bptt_loss,
    centred_clip_backward,
    distillation_loss,
    fpo_error,
    fpo_log_ratio,
    fpo_loss,
    group_advantage,
    ppo_clip_backward,
)
from ogpo_sb3.gcp import DiffusionGCP, FlowGCP, owners, row_blocks
from ogpo_sb3.ogpo.objectives import OBJECTIVES

from tests.toys import Reach

B, G, K, D = 6, 4, 3, 2


def reseed(seed=7):
    th.manual_seed(seed)
    np.random.seed(seed)


# -- the cloning error per sample -----------------------------------------------------------------------------------


def gcp_of(family, **kwargs):
    th.manual_seed(0)
    return family(3, 4, net_arch=(16, 16), denoising_steps=5, **kwargs)


def residual_by_hand(gcp, features, action, noise, time):
    """The error of one action at one draw."""
    if isinstance(gcp, FlowGCP):
        x = (1 - time) * noise + time * action
        return gcp.velocity(features[None], x[None], time[None])[0] - (action - noise)
    share = gcp.signal_table[time]
    x = share * action + math.sqrt(1 - share.item() ** 2) * noise
    return gcp.predicted_noise(features[None], x[None], gcp.times[time][None])[0] - noise


FAMILIES = {
    "flow": (FlowGCP, {}),
    "learned noise": (FlowGCP, dict(noise_schedule="learned")),
    "diffusion": (DiffusionGCP, {}),
}


@pytest.mark.parametrize("name", FAMILIES)
def test_cloning_residual_against_a_loop(name):
    family, kwargs = FAMILIES[name]
    gcp = gcp_of(family, **kwargs)
    features, actions, noise = th.randn(3, 3), th.rand(6, 4) * 2 - 1, th.randn(2, 6, 4)
    times, owner = gcp.cloning_times(2, actions), owners(3, 2, actions.device)
    found = gcp.cloning_residual(gcp.cloning_condition(features), owner, actions, noise, times)
    for t in range(2):
        for n in range(6):
            expected = residual_by_hand(gcp, features[n // 2], actions[n], noise[t, n], times[t])
            th.testing.assert_close(found[t, n], expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", FAMILIES)
def test_its_mean_square_is_the_cloning_loss(name):
    """At the draws that the loss makes itself, whose order differs between the families."""
    family, kwargs = FAMILIES[name]
    gcp = gcp_of(family, **kwargs)
    features, actions = th.randn(6, 3), th.rand(6, 4) * 2 - 1
    reseed()
    loss = gcp.bc_loss(features, actions)
    reseed()
    draws = [lambda: th.randn_like(actions), lambda: gcp.cloning_times(6, actions)]
    noise, times = (draws[0](), draws[1]()) if family is FlowGCP else (draws[1](), draws[0]())[::-1]
    # One time per sample: every action at every time, of which the diagonal is meant.
    each = gcp.cloning_residual(gcp.cloning_condition(features), th.arange(6), actions, noise.expand(6, -1, -1), times)
    th.testing.assert_close(loss, th.stack([each[i, i] for i in range(6)]).square().mean())


# -- functions --------------------------------------------------------------------------------------------------------


def test_awr_weights_table():
    """H.1, its ceiling, the asymmetric form by the strategy "positive", and the mask before the exponential."""
    advantage = th.tensor([[-2.0, 0.0, 1.0, 1e6]])
    expected = [math.exp(-1.0), 1.0, math.exp(0.5), 20.0]
    th.testing.assert_close(awr_weights(advantage, 2.0), th.tensor([expected]))
    th.testing.assert_close(awr_weights(advantage, 2.0, 1.2), th.tensor([[expected[0], 1.0, 1.2, 1.2]]))
    th.testing.assert_close(awr_weights(advantage.clamp_min(0), 2.0), th.tensor([[1.0, *expected[1:]]]))
    th.testing.assert_close(awr_weights(advantage, 2.0, positive_only=True), th.tensor([[0.0, 0.0, *expected[2:]]]))


def test_awr_loss_and_gradient_against_a_loop():
    th.manual_seed(0)
    residual, weights = th.randn(5, 7, 3, requires_grad=True), th.rand(7)
    awr_loss(residual, weights).backward()
    for t in range(5):
        for n in range(7):
            expected = weights[n] * 2 * residual[t, n].detach() / (5 * 7)
            th.testing.assert_close(residual.grad[t, n], expected, atol=1e-6, rtol=1e-5)
    total = sum(
        weights[n].item() * sum(residual[t, n, d].item() ** 2 for d in range(3)) / 35 for t in range(5) for n in range(7)
    )
    assert awr_loss(residual, weights).item() == pytest.approx(total, rel=1e-5)


def test_fpo_error_table():
    residual = th.tensor([[[0.5, -1.0], [3.0, 0.0], [-1.5, 1.5]]])
    th.testing.assert_close(fpo_error(residual), th.tensor([[1.25, 9.0, 4.5]]))
    th.testing.assert_close(fpo_error(residual, huber=True), th.tensor([[1.25, 5.0, 4.0]]))
    th.testing.assert_close(fpo_error(residual, huber=True, limit=4.0), th.tensor([[1.25, 4.0, 4.0]]))


def test_fpo_ratio_of_means_and_per_draw():
    error, old = th.tensor([[1.0, 20.0], [3.0, 2.0]], requires_grad=True), th.tensor([[2.0, 2.0], [2.5, 2.5]])
    th.testing.assert_close(fpo_log_ratio(error, old, per_sample=True), th.tensor([[1.0, -5.0], [-0.5, 0.5]]))
    th.testing.assert_close(fpo_log_ratio(error, old, limit=None), th.tensor([[0.25, -8.75]]))
    fpo_log_ratio(error, old, per_sample=True).sum().backward()
    th.testing.assert_close(error.grad, th.tensor([[-1.0, 0.0], [-1.0, -1.0]]))


@pytest.mark.parametrize("advantage", [1.5, -1.5])
@pytest.mark.parametrize("ratio", [0.5, 0.85, 0.95, 1.05, 1.4])
def test_aspo_against_its_definition(ratio, advantage):
    """H.4: PPO's objective for a positive advantage; else the plain one, with a quadratic beyond the trust region."""
    eps = 0.1
    log_ratio = th.tensor([math.log(ratio)], requires_grad=True)
    loss = aspo_loss(log_ratio, th.tensor([advantage]), eps)
    loss.backward()
    if advantage > 0:
        objective = min(ratio, 1 + eps) * advantage
        slope = advantage if ratio < 1 + eps else 0.0
    else:
        outside = max(0.0, ratio - 1 - eps) + max(0.0, 1 - eps - ratio)
        objective = ratio * advantage - abs(advantage) * outside**2 / (4 * eps)
        slope = advantage - abs(advantage) * outside * (1 if ratio > 1 else -1) / (2 * eps)
    assert loss.item() == pytest.approx(-objective, rel=1e-5)
    assert log_ratio.grad.item() == pytest.approx(-slope * ratio, rel=1e-4, abs=1e-6)


def test_aspo_pulls_back_where_ppo_lets_go():
    """Below 1 - eps PPO has no gradient for a negative advantage; ASPO balances at 1 - 3 eps."""
    for ratio, sign in ((0.9, 1.0), (0.7, 0.0), (0.6, -1.0)):
        log_ratio = th.tensor([math.log(ratio)], requires_grad=True)
        aspo_loss(log_ratio, th.tensor([-1.0]), 0.1).backward()
        assert log_ratio.grad.item() == pytest.approx(0.0, abs=1e-5) if sign == 0 else log_ratio.grad.item() * sign > 0
    log_ratio = th.tensor([[math.log(0.6)]], requires_grad=True)
    fpo_loss(log_ratio, th.tensor([-1.0]), 0.1).backward()
    assert log_ratio.grad.item() == 0.0


def test_aspo_where_a_clip_schedule_has_come_to_its_end():
    """With eps = 0 nothing pulls: the plain objective, finite, where the formula divides by zero."""
    for eps in (0.0, th.tensor(0.0)):
        log_ratio = th.tensor([-0.2, 0.0, 0.3], requires_grad=True)
        loss = aspo_loss(log_ratio, th.tensor([-1.0]), eps)
        loss.backward()
        th.testing.assert_close(loss, log_ratio.exp().mean())
        th.testing.assert_close(log_ratio.grad, log_ratio.exp().detach() / 3)


def test_best_of_group_table():
    actions = th.arange(16.0).view(2, 4, 2)
    advantage = th.tensor([[0.0, 3.0, -1.0, 2.0], [-2.0, 0.0, -1.0, 0.0]])
    best, weights = best_of_group(actions, advantage)
    assert best[0].tolist() == [2.0, 3.0] and weights.tolist() == [1.0, 0.0]
    best, weights = best_of_group(actions, advantage, top=2)
    assert best[:2].tolist() == [[2.0, 3.0], [6.0, 7.0]] and weights.tolist() == [1.0, 1.0, 0.0, 0.0]


def test_bptt_is_the_chain_rule():
    """A linear sampler and linear critics: the gradient is the product of the two slopes, and that of a mean."""
    slope = th.tensor([0.5, -0.25], requires_grad=True)
    noise, heads = th.randn(3, 2, 2), th.tensor([[1.0, 2.0], [3.0, 4.0]])
    loss = bptt_loss(lambda z: z * slope, lambda a: th.einsum("md,bnd->mbn", heads, a), noise)
    loss.backward()
    th.testing.assert_close(slope.grad, -(noise.mean(dim=(0, 1)) * heads.mean(0)))
    with pytest.raises(ValueError, match="no gradient"):
        bptt_loss(lambda z: z, lambda a: a.sum(-1)[None], noise)


def test_distillation_against_a_loop():
    th.manual_seed(0)
    actions, sampled, q = th.randn(4, 3, requires_grad=True), th.randn(4, 3), th.randn(2, 4)
    loss, distance, value = distillation_loss(actions, sampled, q, alpha=3.0, q_agg="min", q_weight=0.5)
    by_hand = sum((actions[b, d] - sampled[b, d]).item() ** 2 for b in range(4) for d in range(3)) / 12
    least = sum(min(q[0, b].item(), q[1, b].item()) for b in range(4)) / 4
    assert distance.item() == pytest.approx(by_hand, rel=1e-5) and value.item() == pytest.approx(least, rel=1e-5)
    assert loss.item() == pytest.approx(3.0 * by_hand - 0.5 * least, rel=1e-5)


def test_blocks_change_nothing():
    weight = th.randn(3, 5, dtype=th.float64, requires_grad=True)
    layer, features = th.nn.Linear(2, 3).double(), th.randn(4, 2, dtype=th.float64)
    chains = th.arange(40)

    def share(condition, rows):
        return (condition[rows % 4] @ weight).tanh().sum()

    gradients = []
    for blocks in (None, lambda n: row_blocks(n, features, 500)):
        for parameter in (weight, *layer.parameters()):
            parameter.grad = None
        loss = backward_in_blocks(share, layer(features), chains, blocks)
        gradients.append([loss, weight.grad, *(p.grad for p in layer.parameters())])
    for whole, parts in zip(*gradients, strict=True):
        th.testing.assert_close(whole, parts)


# -- whole updates against slow references ------------------------------------------------------------------------------


def filled(extraction, options=None, policy="FlowPolicy", **kwargs):
    """A model with replay and no update done, current and EMA policy apart."""
    model = OGPO(
        policy,
        Reach(),
        learning_starts=10_000,
        batch_size=B,
        actor_batch_size=B,
        group_size=G,
        chunk_size=2,
        clip_range=0.05,
        max_grad_norm=1e9,
        policy_kwargs=dict(net_arch=[16], n_critics=3, denoising_steps=K, **kwargs.pop("policy_kwargs", {})),
        seed=0,
        device="cpu",
        extraction=extraction,
        extraction_kwargs=options,
        **kwargs,
    ).learn(40)
    with th.no_grad():
        for parameter in model.actor.parameters():
            parameter += 0.03 * th.randn_like(parameter)
    return model


def advantages(model, obs, actions):
    """(G,) of one state, by the mean over heads."""
    q = th.stack([model.critic_target(obs, a.clamp(-1, 1)[None])[:, 0] for a in actions], dim=1).mean(dim=0)
    return q - q.mean()


def ode(gcp, obs, z):
    """One Euler path, step by step, with gradient."""
    x = z
    for i in range(K):
        x = x + gcp.velocity(obs, x[None], th.tensor([i / K]))[0] / K
    return x.clamp(-1, 1)


def chains_reference(model, batch, weigh, centred=False):
    """The clipped ratio of chains, chain by chain; ``weigh`` turns a group's advantages into what multiplies it."""
    chain = model.actor_ema.sample_chain(batch.observations, G)
    total = 0.0
    for b in range(B):
        obs, rows = batch.observations[b : b + 1], slice(G * b, G * b + G)
        weights = weigh(advantages(model, obs, chain.states[-1, rows]))
        new, old = (net.gcp.chain_log_prob(obs.expand(G, -1), chain.states[:, rows]) for net in (model.actor, model.actor_ema))
        common = sum(new[g] - old[g].detach() for g in range(G)) / G if centred else 0.0
        for g in range(G):
            ratio = (new[g] - old[g].detach() - common).exp()
            total = total - th.min(ratio * weights[g], ratio.clamp(0.95, 1.05) * weights[g]) / (B * G)
    return total


def regression_reference(model, batch, temperature, positive_only=False, samples=5):
    z = th.randn(B * G, D)
    actions = th.stack([ode(model.actor_ema.gcp, batch.observations[n // G][None], z[n]) for n in range(B * G)]).detach()
    noise, times = th.randn(samples, B * G, D), th.rand(samples)
    weights = []
    for b in range(B):
        for a in advantages(model, batch.observations[b : b + 1], actions[G * b : G * b + G]):
            weights.append(0.0 if positive_only and a <= 0 else min(math.exp(a / temperature), 20.0))
    total = 0.0
    for n in range(B * G):
        for t in range(samples):
            error = residual_by_hand(model.actor.gcp, batch.observations[n // G], actions[n], noise[t, n], times[t])
            total = total + weights[n] / np.mean(weights) * error.square().sum() / (samples * B * G)
    return total


def fpo_reference(model, batch, plus, samples=5):
    actions = model.actor_ema.sample_chain(batch.observations, G).actions
    noise, times = th.randn(samples, B * G, D), th.rand(samples)

    def error(gcp, n, t):
        d = residual_by_hand(gcp, batch.observations[n // G], actions[n], noise[t, n], times[t])
        if not plus:
            return d.square().sum()
        return th.stack([x**2 if abs(x) <= 1 else 2 * abs(x) - 1 for x in d]).sum().clamp_max(4.0)

    total = 0.0
    for b in range(B):
        advantage = advantages(model, batch.observations[b : b + 1], actions[G * b : G * b + G])
        for g in range(G):
            n, a = G * b + g, advantage[g].item()
            differences = [error(model.actor_ema.gcp, n, t).detach() - error(model.actor.gcp, n, t) for t in range(samples)]
            for difference in differences if plus else [sum(differences) / samples]:
                ratio = difference.exp()
                outside = (ratio - 1.05).clamp_min(0) + (0.95 - ratio).clamp_min(0)
                if plus and a < 0:
                    objective = ratio * a - abs(a) * outside**2 / (4 * 0.05)
                else:
                    objective = th.min(ratio * a, ratio.clamp(0.95, 1.05) * a)
                total = total - objective / (B * G * (samples if plus else 1))
    return total


def sft_reference(model, batch):
    chain = model.actor_ema.sample_chain(batch.observations, G)
    best = []
    for b in range(B):
        actions = chain.states[-1, G * b : G * b + G].clamp(-1, 1)
        best.append(actions[advantages(model, batch.observations[b : b + 1], actions).argmax()])
    noise, times = th.randn(B, D), th.rand(B)
    errors = [residual_by_hand(model.actor.gcp, batch.observations[b], best[b], noise[b], times[b]) for b in range(B)]
    return th.stack(errors).square().mean()


def bptt_reference(model, batch):
    z, total = th.randn(B, 3, D), 0.0
    for b in range(B):
        obs = batch.observations[b : b + 1]
        for n in range(3):
            total = total - model.critic_target(obs, ode(model.actor.gcp, obs, z[b, n])[None]).mean() / (B * 3)
    return total


def exponential(temperature, positive_only=False):
    return lambda a: (a / temperature).exp().clamp_max(20.0) * ((a > 0) if positive_only else 1.0)


REFERENCES = {
    "ppo": ("ppo", {}, lambda m, b: chains_reference(m, b, lambda a: a)),
    "ppo, centred": ("ppo", dict(centred=True), lambda m, b: chains_reference(m, b, lambda a: a, centred=True)),
    "aw_ogpo": ("aw_ogpo", dict(temperature=0.05), lambda m, b: chains_reference(m, b, exponential(0.05))),
    "aw_ogpo, positive": (
        "aw_ogpo",
        dict(temperature=0.05, positive_only=True),
        lambda m, b: chains_reference(m, b, exponential(0.05, positive_only=True)),
    ),
    "awr_fm": ("awr_fm", dict(temperature=0.05, samples=5), lambda m, b: regression_reference(m, b, 0.05)),
    "awr_fm, positive": (
        "awr_fm",
        dict(temperature=0.05, samples=5, positive_only=True),
        lambda m, b: regression_reference(m, b, 0.05, positive_only=True),
    ),
    "fpo": ("fpo", dict(samples=5), lambda m, b: fpo_reference(m, b, plus=False)),
    "fpo++": ("fpo++", dict(samples=5), lambda m, b: fpo_reference(m, b, plus=True)),
    "best_of_n_sft": ("best_of_n_sft", {}, sft_reference),
    "bptt": ("bptt", dict(samples=3), bptt_reference),
}


@pytest.mark.parametrize("name", REFERENCES)
def test_update_against_loops(name):
    """Loss and every parameter's gradient, on the draws that the update makes."""
    extraction, options, reference = REFERENCES[name]
    model = filled(extraction, options)
    parameters = list(model.actor.parameters())
    reseed()
    loss = reference(model, model._sample(B))
    expected = th.autograd.grad(loss, parameters)
    reseed()
    model._update_actor()
    assert model._metrics["train/policy_loss"][0].item() == pytest.approx(loss.item(), rel=1e-4, abs=1e-6)
    for parameter, gradient in zip(parameters, expected, strict=True):
        th.testing.assert_close(parameter.grad, gradient, atol=1e-5, rtol=1e-3)
    assert any(gradient.abs().max() > 1e-3 for gradient in expected)


def test_one_step_update_against_a_loop():
    """Of "fql": loss and every gradient of the one-step policy, sample by sample."""
    model = filled("fql", dict(alpha=3.0), bc_coef=0.0)
    parameters = list(model.policy.one_step.parameters())
    reseed()
    batch = model._sample(B)
    z, loss = th.randn(B, D), 0.0
    for b in range(B):
        obs = batch.observations[b : b + 1]
        action, sampled = model.policy.one_step(obs, z[b : b + 1])[0], ode(model.actor_ema.gcp, obs, z[b]).detach()
        loss = loss + 3.0 * sum((action[d] - sampled[d]) ** 2 for d in range(D)) / (B * D)
        loss = loss - sum(model.critic_target(obs, action.clamp(-1, 1)[None])[m, 0] for m in range(3)) / (3 * B)
    expected = th.autograd.grad(loss, parameters)
    reseed()
    model._update_actor()
    assert model._metrics["train/one_step_loss"][0].item() == pytest.approx(loss.item(), rel=1e-4, abs=1e-6)
    for parameter, gradient in zip(parameters, expected, strict=True):
        th.testing.assert_close(parameter.grad, gradient, atol=1e-5, rtol=1e-3)
    assert any(gradient.abs().max() > 1e-3 for gradient in expected)


@pytest.mark.parametrize("name", ["ppo, centred", "aw_ogpo, positive", "awr_fm, positive", "fpo", "fpo++"])
def test_fixed_shapes_give_the_same_update(name, monkeypatch):
    """What a GPU does, every action in one block, those without a gradient too; against blocks of a few."""
    extraction, options, _ = REFERENCES[name]
    found = []
    for fixed in (False, True):
        model = filled(extraction, options)
        monkeypatch.setattr("ogpo_sb3.gcp.base.CPU_ROWS", 20)
        if fixed:
            monkeypatch.setattr("ogpo_sb3.ogpo.objectives.Update.blocks", lambda self, rows: None)
        reseed()
        model._update_actor()
        found.append([model._metrics["train/policy_loss"][0], *(p.grad for p in model.actor.parameters())])
    for blocks, whole in zip(*found, strict=True):
        th.testing.assert_close(blocks, whole, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("extraction", [name for name in OBJECTIVES if name != "fql"])
def test_diffusion_policies_have_every_objective(extraction):
    model = filled(extraction, policy="DiffusionPolicy")
    before = [p.clone() for p in model.actor.parameters()]
    model._update_rates()
    model._update_actor()
    assert np.isfinite(model._metrics["train/actor_loss"][0].item())
    assert any(not th.equal(a, b) for a, b in zip(before, model.actor.parameters(), strict=True))


def test_a_factor_common_to_a_group_changes_nothing_where_ratios_are_centred():
    """
    The current policy is far less likely to make any of the chains of a state. As the paper has it, negative advantages then
    have no gradient left; centred, it is the one without that factor, and nothing makes all chains more or less likely.
    """
    th.manual_seed(0)
    advantage = group_advantage(th.randn(3, 8, G))
    scores = (0.05 * th.randn(8 * G)).requires_grad_()
    common = th.linspace(-0.5, 0.3, 8).repeat_interleave(G)
    condition, old = th.zeros(8, 1), th.zeros(8 * G)

    def gradient(shift, centred):
        scores.grad = None
        log_prob_of = lambda _, chains: (scores + shift)[chains]  # noqa: E731
        blocks = lambda n: [slice(i, min(i + 5, n)) for i in range(0, n, 5)]  # noqa: E731
        arguments = log_prob_of, condition, old, advantage if centred else advantage.flatten(), 0.05, blocks
        known = centred_clip_backward(*arguments)[0] if centred else ppo_clip_backward(*arguments)
        return scores.grad.clone(), known

    (alone, known), (shifted, known_shifted) = gradient(0.0, centred=True), gradient(common, centred=True)
    th.testing.assert_close(shifted, alone, atol=1e-7, rtol=1e-5)
    th.testing.assert_close(known_shifted.loss, known.loss)
    assert th.equal(known_shifted.clipped, known.clipped) and known.clipped.any() and not known.clipped.all()
    th.testing.assert_close(shifted.view(8, G).sum(dim=1), th.zeros(8), atol=1e-7, rtol=0.0)
    lowered, (paper, _) = (common < -0.3) & (advantage.flatten() < 0), gradient(common, centred=False)
    assert lowered.any() and (paper[lowered] == 0).all() and (shifted[lowered] != 0).all()
