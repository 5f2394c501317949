"""Shortcuts of the update that must not change its numbers: rows left out, blocks, shared first layers, precision."""

import copy
import math

import numpy as np
import pytest
import torch as th
from ogpo_sb3 import OGPO, OGPOCA
from ogpo_sb3.common.captured import copy_tree, leaves, signature
from ogpo_sb3.common.optimization import guarded_step, polyak, prepare_optimizer, set_rate
from ogpo_sb3.common.precision import matmul_precision
from ogpo_sb3.common.threads import free_cores
from ogpo_sb3.critics import CriticEnsemble, ensemble
from ogpo_sb3.extraction import ppo_clip_backward, ppo_clip_loss
from ogpo_sb3.gcp import FlowGCP, base, row_blocks
from ogpo_sb3.gcp.networks import VelocityMLP, VelocityNet

from tests.test_ogpo import filled, reseed, state_of

S, G, F, D = 6, 5, 3, 4


def gcp(seed=0, **kwargs):
    th.manual_seed(seed)
    return FlowGCP(F, D, net_arch=(16, 12), **{"denoising_steps": 4, "noise_std": 0.1, **kwargs})


def chains(policy, seed=1):
    """Features, chains drawn from ``policy`` and the state that each belongs to."""
    th.manual_seed(seed)
    features = th.randn(S, F)
    with th.no_grad():
        chain = policy.sample_chain(features, G)
    return features, chain, th.arange(S).repeat_interleave(G)


def gradient(module):
    return {name: p.grad.clone() for name, p in module.named_parameters()}


# -- rows without a gradient ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
@pytest.mark.parametrize(
    "kwargs",
    [
        {},
        dict(activation_fn=th.nn.Tanh),
        dict(activation_fn=th.nn.PReLU),  # has parameters: left to autograd
        dict(noise_schedule="constant"),
        dict(noise_schedule="learned"),
        dict(clip_intermediate=True),
    ],
)
def test_sparse_backward_equals_autograd(kwargs, share, monkeypatch):
    """Whatever the share of chains with a gradient: the same gradient as the plain network's, features included."""
    policy = gcp(**kwargs)
    features, chain, owner = chains(gcp(1, **kwargs))
    weights = (th.arange(S * G) < share * S * G).float() * th.randn(S * G)

    def backward():
        policy.zero_grad(set_to_none=True)
        leaf = features.clone().requires_grad_()
        log_prob = policy.log_prob_of(policy.condition(leaf), chain.states, owner)
        (log_prob * weights).sum().backward()
        return log_prob.detach(), {"features": leaf.grad, **gradient(policy)}

    sparse, sparse_grad = backward()
    monkeypatch.setattr(VelocityMLP, "chains", VelocityNet.chains)
    dense, dense_grad = backward()
    th.testing.assert_close(sparse, dense, rtol=1e-5, atol=1e-6)
    scale = max(float(g.abs().max()) for g in dense_grad.values())
    assert (scale > 0) == (share > 0)
    for name, value in dense_grad.items():
        th.testing.assert_close(sparse_grad[name], value, rtol=1e-5, atol=1e-5 * scale, msg=name)


def test_chains_without_gradient_are_not_visited(monkeypatch):
    """The point of it: the wide products of the backward pass have only the rows of the chains that count."""
    policy = gcp()
    features, chain, owner = chains(gcp(1))
    rows = []
    gelu_backward = base.th.ops.aten.gelu_backward

    def spy(activation, pre, grad):
        rows.append(len(pre))
        return gelu_backward(grad, pre, approximate="none")

    monkeypatch.setattr("ogpo_sb3.gcp.sparse_rows.activation_backward", spy)
    weights = th.zeros(S * G)
    weights[[3, 17]] = 1.0
    (policy.log_prob_of(policy.condition(features), chain.states, owner) * weights).sum().backward()
    assert rows == [2 * 4, 2 * 4]


@pytest.mark.parametrize("block", [1, 7, 100, None])
@pytest.mark.parametrize("silent", [0.0, 0.6, 1.0])
def test_ppo_clip_backward_equals_the_plain_loss(block, silent):
    """Zero advantages left out, blocks of any size: loss and gradient of one pass over all chains."""
    policy, old = gcp(), gcp()
    with th.no_grad():
        for parameter in policy.parameters():
            parameter += 0.05 * th.randn_like(parameter)
    features, chain, owner = chains(old)
    advantage = th.randn(S * G) * (th.rand(S * G) >= silent)
    clip_range = 0.02
    sizes = []

    def log_prob_of(condition, numbers):
        sizes.append(len(numbers))
        return policy.log_prob_of(condition, chain.states[:, numbers], owner[numbers])

    def blocks(n):
        return [slice(i, i + block) for i in range(0, n, block)]

    surrogate = ppo_clip_backward(
        log_prob_of, policy.condition(features), chain.log_prob, advantage, clip_range, blocks if block else None
    )
    found = {name: th.zeros_like(p) if p.grad is None else p.grad.clone() for name, p in policy.named_parameters()}
    policy.zero_grad()
    log_prob = policy.chain_log_prob(features.repeat_interleave(G, dim=0), chain.states)
    loss = ppo_clip_loss(log_prob, chain.log_prob, advantage, clip_range)
    loss.backward()
    th.testing.assert_close(surrogate.loss, loss.detach(), rtol=1e-5, atol=1e-7)
    for name, value in gradient(policy).items():
        th.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-7, msg=name)
    if block:
        assert sum(sizes) == int((advantage != 0).sum()), "only chains with an advantage are scored"
    ratio = (log_prob.detach() - chain.log_prob).exp()
    beyond = ((ratio > 1 + clip_range) & (advantage > 0)) | ((ratio < 1 - clip_range) & (advantage < 0))
    statistics = surrogate.statistics(S * G, clip_range)
    if silent < 1:
        assert 0 < int(beyond.sum()) < int((advantage != 0).sum())
        scored = advantage != 0
        assert statistics["ratio_mean"].item() == pytest.approx(ratio[scored].mean().item(), rel=1e-5)
        assert statistics["ratio_std"].item() == pytest.approx(ratio[scored].std(unbiased=False).item(), rel=1e-3)
        assert statistics["gradient_fraction"].item() == pytest.approx(((scored & ~beyond).sum() / (S * G)).item())
    assert all(math.isfinite(float(value)) for value in statistics.values())


def test_a_value_that_is_not_finite_is_not_left_out():
    policy = gcp()
    features, chain, owner = chains(policy)
    advantage = th.zeros(S * G)
    advantage[4] = float("nan")
    surrogate = ppo_clip_backward(
        lambda condition, n: policy.log_prob_of(condition, chain.states[:, n], owner[n]),
        policy.condition(features),
        chain.log_prob,
        advantage,
        0.01,
        lambda n: [slice(0, n)],
    )
    assert th.isnan(surrogate.loss)


def test_an_update_without_any_advantage_steps_as_with_a_gradient_of_zeros():
    """Adam goes on with its momentum; leaving the step out would make the shortcut visible."""
    model = filled(OGPOCA, learning_rate=1e-2)
    model._update_rates()
    model._update_actor()  # momentum
    with th.no_grad():  # critics that agree on nothing: one head is the opposite of the others
        last = model.critic_target.ensemble.net[-1]
        for parameter in model.critic_target.ensemble.parameters():
            parameter[1:] = parameter[:1]
        last.weight[1] *= -1.0
    before = state_of(model.actor)
    model._update_actor()
    assert model._metrics["train/gradient_fraction"][-1] == 0 and model._metrics["train/policy_loss"][-1] == 0
    assert any(not th.equal(value, before[name]) for name, value in model.actor.named_parameters())


# -- blocks and shared parts ------------------------------------------------------------------------------------------


def test_chains_do_not_depend_on_the_blocks(monkeypatch):
    policy = gcp(noise_schedule="learned")
    whole = chains(policy)[1]
    monkeypatch.setattr(base, "CPU_ROWS", 7)
    pieces = chains(policy)[1]
    th.testing.assert_close(pieces.states, whole.states, rtol=1e-5, atol=1e-6)
    th.testing.assert_close(pieces.log_prob, whole.log_prob, rtol=1e-5, atol=1e-5)


def test_blocks_cover_everything_once():
    for n in (0, 1, 6, 7, 8, 100):
        covered = [i for rows in row_blocks(n, th.zeros(1), rows_per_item=300) for i in range(rows.start, rows.stop)]
        assert covered == list(range(n))


@pytest.mark.parametrize("grouped", [False, True])
@pytest.mark.parametrize("kwargs", [{}, dict(layer_norm=False), dict(net_arch=()), dict(activation_fn=th.nn.SiLU)])
def test_critics_in_blocks_equal_critics_at_once(kwargs, grouped, monkeypatch):
    th.manual_seed(0)
    critics = CriticEnsemble(F, D, **{"n_critics": 3, "net_arch": (8, 7), **kwargs})
    for parameter in critics.parameters():
        parameter.data += 0.1 * th.randn_like(parameter)
    features = th.randn(S, F)
    actions = th.randn(S, G, D) if grouped else th.randn(S, D)
    whole = critics(features, actions)
    assert whole.requires_grad and whole.shape == (3, *actions.shape[:-1])
    monkeypatch.setattr(ensemble, "CPU_ROWS", 4)
    called = []
    monkeypatch.setattr(critics, "_evaluate", lambda *args: called.append(args))
    with th.no_grad():
        pieces = critics(features, actions)
    assert not called
    th.testing.assert_close(pieces, whole.detach(), rtol=1e-5, atol=1e-6)
    repeated = features.repeat_interleave(G, dim=0) if grouped else features
    x = th.cat([repeated, actions.reshape(-1, D)], dim=1)
    monkeypatch.undo()
    plain = critics.net(x.expand(3, *x.shape)).view(whole.shape)
    th.testing.assert_close(whole, plain, rtol=1e-5, atol=1e-6)


def test_the_observation_is_looked_at_once_per_state(monkeypatch):
    """Not once per chain, and not once per denoising step."""
    model = filled(OGPO)
    rows = []
    condition = VelocityMLP.condition

    def spy(self, features):
        rows.append(len(features))
        return condition(self, features)

    monkeypatch.setattr(VelocityMLP, "condition", spy)
    model._update_actor()
    assert rows == [8, 8], "one per state for the old policy, one for the new"


# -- precision --------------------------------------------------------------------------------------------------------


def test_bfloat16_leaves_the_likelihood_alone():
    """Chains and their scores are those of float32, to the last bit."""
    policy = gcp(noise_std=0.05)
    found = []
    for precision in ("fp32", "bf16"):
        with matmul_precision(policy, precision):
            features, chain, owner = chains(policy)
            found.append((chain.states, policy.log_prob_of(policy.condition(features), chain.states, owner).detach()))
    assert th.equal(found[0][0], found[1][0]) and th.equal(found[0][1], found[1][1])


def test_full_bfloat16_is_consistent_and_close():
    """At equal parameters the ratio stays one, to rounding; against float64 the error is that of eight bits of mantissa."""
    policy = gcp(noise_std=0.05)
    with matmul_precision(policy, "bf16_full"):
        features, chain, owner = chains(policy)
        scored = policy.log_prob_of(policy.condition(features), chain.states, owner).detach()
    assert scored.dtype == chain.log_prob.dtype == th.float32
    th.testing.assert_close(scored, chain.log_prob, rtol=0, atol=2e-3)
    exact = copy.deepcopy(policy).double()
    reference = exact.log_prob_of(exact.condition(features.double()), chain.states.double(), owner)
    error = (scored - reference).abs().max().item()
    assert 1e-5 < error < 2e-2, "it is another precision, and not far away"


@pytest.mark.parametrize("precision", ["bf16", "bf16_full"])
def test_bfloat16_gradient_points_the_same_way(precision):
    features, chain, owner = chains(gcp(1))
    weights = th.randn(S * G)
    found = []
    for chosen in ("fp32", precision):
        policy = gcp()
        with matmul_precision(policy, chosen):
            (policy.log_prob_of(policy.condition(features), chain.states, owner) * weights).mean().backward()
        assert all(p.dtype == p.grad.dtype == th.float32 for p in policy.parameters())
        found.append(th.cat([p.grad.flatten() for p in policy.parameters()]))
    assert not th.equal(*found)
    assert th.cosine_similarity(*found, dim=0) > 0.999


def test_precision_is_in_force_for_updates_alone():
    """Predictions, and what is saved, are those of float32 parameters."""
    model = filled(OGPOCA, precision="bf16")
    seen = []
    net = model.actor.gcp.velocity_net
    original = net.chains
    net.chains = lambda *args: (seen.append(net.backward_dtype), original(*args))[1]
    before = th.get_default_dtype(), th.backends.cuda.matmul.fp32_precision, th.get_num_threads()
    model.train(gradient_steps=1, batch_size=16)
    assert seen and set(seen) == {th.bfloat16}
    assert net.backward_dtype is None and model.critic_target.ensemble.matmul_dtype is None
    assert before == (th.get_default_dtype(), th.backends.cuda.matmul.fp32_precision, th.get_num_threads())
    del net.chains
    assert all(p.dtype == th.float32 for p in model.policy.parameters())


def test_tensorfloat_is_switched_on_for_the_block_alone():
    products = th.backends.cuda.matmul
    before = products.fp32_precision
    with matmul_precision(gcp(), "tf32"):
        assert products.fp32_precision == "tf32" != before
    assert products.fp32_precision == before


def test_precision_ends_with_an_error_too():
    policy = gcp()
    with pytest.raises(RuntimeError, match="in between"), matmul_precision(policy, "bf16"):
        raise RuntimeError("in between")
    assert policy.velocity_net.backward_dtype is None


def test_bfloat16_critics_are_close(monkeypatch):
    th.manual_seed(0)
    critics = CriticEnsemble(F, D, n_critics=3, net_arch=(32, 32))
    features, actions = th.randn(S, F), th.randn(S, G, D)
    exact = critics(features, actions).detach()
    for rows in (4, 10_000):
        monkeypatch.setattr(ensemble, "CPU_ROWS", rows)
        with th.no_grad(), matmul_precision(critics, "bf16"):
            rough = critics(features, actions)
        assert rough.dtype == th.float32
        assert 0 < (rough - exact).abs().max() < 0.05 * exact.std() + 0.05


def test_a_processor_without_bfloat16_is_told(monkeypatch):
    monkeypatch.setattr("ogpo_sb3.common.precision.cpu_has_bf16", lambda: False)
    with pytest.warns(UserWarning, match="no bfloat16 instructions"):
        filled(OGPO, precision="bf16", steps=1)


# -- steps ------------------------------------------------------------------------------------------------------------


def test_prepared_optimiser_steps_like_the_plain_one():
    th.manual_seed(0)
    nets = [th.nn.Linear(3, 3)]
    nets.append(copy.deepcopy(nets[0]))
    optimizers = [th.optim.AdamW(net.parameters(), lr=1e-2, weight_decay=0.1) for net in nets]
    prepare_optimizer(optimizers[1], th.device("cpu"))
    assert optimizers[1].param_groups[0]["fused"]
    for i in range(5):
        for net, optimizer in zip(nets, optimizers, strict=True):
            set_rate(optimizer, 1e-2 / (i + 1))
            optimizer.zero_grad()
            loss = net(th.ones(2, 3)).square().sum()
            loss.backward()
            norm, bad = guarded_step(optimizer, loss, max_norm=1.0)
            assert not bad and norm > 0
    for a, b in zip(nets[0].parameters(), nets[1].parameters(), strict=True):
        th.testing.assert_close(a, b)
    # What was saved by one can be loaded into the other.
    optimizers[1].load_state_dict(optimizers[0].state_dict())
    prepare_optimizer(optimizers[1], th.device("cpu"))
    optimizers[1].step()


def test_an_optimiser_of_another_kind_is_left_alone():
    net = th.nn.Linear(2, 2)
    optimizer = th.optim.RMSprop(net.parameters(), lr=1e-2)
    groups = copy.deepcopy(optimizer.state_dict())
    prepare_optimizer(optimizer, th.device("cpu"))
    assert optimizer.state_dict() == groups
    net(th.ones(1, 2)).sum().backward()
    before = net.weight.detach().clone()
    guarded_step(optimizer, th.zeros(()), 1.0)
    assert not th.equal(net.weight, before)


def test_frozen_parameters_stay_frozen():
    """A pre-trained backbone has no gradient, and a gradient of zeros would let weight decay move it."""
    net = th.nn.Linear(2, 2)
    net.weight.requires_grad_(False)
    optimizer = th.optim.AdamW(net.parameters(), lr=0.1, weight_decay=0.5)
    before = net.weight.clone()
    guarded_step(optimizer, th.zeros(()), 1.0)
    assert th.equal(net.weight, before) and net.bias.grad is not None


def test_polyak():
    th.manual_seed(0)
    source, target = th.nn.Linear(3, 2), th.nn.Linear(3, 2)
    expected = [0.3 * s + 0.7 * t for s, t in zip(source.parameters(), target.parameters(), strict=True)]
    polyak(source, target, 0.3)
    for found, wanted in zip(target.parameters(), expected, strict=True):
        th.testing.assert_close(found, wanted)


def test_trees_of_inputs():
    """What a recorded update is handed: batches with Dict observations, absent batches, numbers."""
    model = filled(OGPO)
    batch = model._sample(8)
    nested = (batch._replace(observations={"a": batch.observations, "b": batch.actions}), None, th.tensor(0.1))
    copied = copy_tree(nested)
    assert type(copied[0]) is type(batch) and copied[1] is None
    assert signature(nested) == signature(copied) != signature((model._sample(9),))
    for old, new in zip(leaves(nested), leaves(copied), strict=True):
        assert th.equal(old, new) and old.data_ptr() != new.data_ptr()
    assert len(leaves(nested)) == 12


@pytest.mark.parametrize("algorithm", [OGPO, OGPOCA])
def test_fixed_shapes_give_the_same_update(algorithm, monkeypatch):
    """The update that a GPU records, every chain in one block, run on a CPU."""
    updated = []
    for fixed in (False, True):
        model = filled(algorithm, learning_rate=1e-2)
        with th.no_grad():
            for parameter in model.actor.parameters():
                parameter += 0.02 * th.randn_like(parameter)
            for parameter in model.critic_target.ensemble.parameters():  # heads that agree on most
                parameter[1:] = parameter[:1] + 0.1 * (parameter[1:] - parameter[:1])
        if fixed:
            monkeypatch.setattr("ogpo_sb3.ogpo.objectives.Update.blocks", lambda self, rows: None)
        model._update_rates()
        reseed()
        np.random.seed(0)
        model._update_actor()
        updated.append(th.cat([p.grad.flatten() for p in model.actor.parameters()]))
    scale = updated[0].abs().max().item()
    assert scale > 0
    th.testing.assert_close(updated[1], updated[0], rtol=1e-4, atol=1e-5 * scale)


def test_free_cores(monkeypatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: set(range(8)), raising=False)
    monkeypatch.setattr("os.getloadavg", lambda: (1.2, 7.0, 7.0), raising=False)
    assert [free_cores(workers) for workers in (0, 3, 7, 20)] == [7, 4, 1, 1]
