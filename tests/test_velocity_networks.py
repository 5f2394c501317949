"""The networks of generative policies: by hand, in every family, what they share between rows, what their checkpoints say."""

import math

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from ogpo_sb3.common.policies import DiffusionPolicy, FlowPolicy, MIPPolicy, ShortcutPolicy
from ogpo_sb3.envs.chunking import ChunkBox
from ogpo_sb3.gcp import MIPGCP, DiffusionGCP, FlowGCP, ShortcutGCP
from ogpo_sb3.gcp.backbones import NETWORKS, make_network

F, H, D = 3, 3, 6
FAMILIES = [FlowGCP, DiffusionGCP, ShortcutGCP, MIPGCP]


def perturbed(module):
    """No parameter at zero, where the transformer's gates begin."""
    with th.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.1 * th.randn_like(parameter))
    return module


def network(name, net_arch=(16, 16), **kwargs):
    th.manual_seed(0)
    options = dict(unet_channels=(8,), attention_heads=2, chunk_size=H)
    return perturbed(make_network(name, F, D, net_arch, **{**options, **kwargs}))


def make(family, name, **kwargs):
    th.manual_seed(0)
    gcp = family(
        F, D, (16, 16), denoising_steps=2, network=name, chunk_size=H, unet_channels=(8,), attention_heads=2, **kwargs
    )
    return perturbed(gcp)


@pytest.mark.parametrize("norm", ["mean", "sum"])
@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("family", FAMILIES)
def test_scoring_equals_sampling(family, name, norm):
    """At equal parameters the ratio is one, whatever the network."""
    gcp = make(family, name, ratio_norm=norm)
    features = th.randn(32, F)
    with th.no_grad():
        chain = gcp.sample_chain(features, 2)
        scored = gcp.log_prob_of(gcp.condition(features), chain.states, th.arange(32).repeat_interleave(2))
    th.testing.assert_close(scored, chain.log_prob, rtol=0, atol=1e-5 if norm == "mean" else 2e-3)


@pytest.mark.parametrize("inputs", [1, 2])
@pytest.mark.parametrize("name", NETWORKS)
def test_chains_are_rows(name, inputs):
    """Condition and time are shared, every row sees its own; features, time, size and x all change the result."""
    net = network(name, time_inputs=inputs).double()
    features, owner = th.randn(4, F, dtype=th.float64), th.tensor([0, 0, 1, 3, 3])
    t, x = th.rand(2, inputs, dtype=th.float64).squeeze(1), th.randn(2, 5, D, dtype=th.float64)
    condition, time = net.condition(features), net.embed_times(t)
    together = net.chains(condition, owner, time, x)
    for k in range(2):
        for b in range(5):
            row = net(condition[owner[b]][None], time[k][None], x[k, b][None])
            th.testing.assert_close(together[k, b], row[0])
            others = [
                net(net.condition(features + 1)[owner[b]][None], time[k][None], x[k, b][None]),
                net(condition[owner[b]][None], net.embed_times(t + 0.1)[k][None], x[k, b][None]),
                net(condition[owner[b]][None], time[k][None], x[k, b][None] + 1),
            ]
            if inputs == 2:
                larger = t + th.tensor([0.0, 0.1], dtype=th.float64)
                others.append(net(condition[owner[b]][None], net.embed_times(larger)[k][None], x[k, b][None]))
            assert not any(th.allclose(row, other) for other in others)


def gelu(x):
    return 0.5 * x * (1 + th.erf(x / math.sqrt(2)))


def norm(x):
    return (x - x.mean()) / (x.var(unbiased=False) + 1e-5).sqrt()


def test_residual_network_by_hand():
    """One row of the concatenation, block by block."""
    net = network("residual").double()
    features, t, x = th.randn(F, dtype=th.float64), th.tensor([0.3], dtype=th.float64), th.randn(D, dtype=th.float64)
    h = net.first.weight @ th.cat([features, x, net.time_embedding(t)[0]]) + net.first.bias
    for layer_norm, first, _, second in net.blocks:
        inside = gelu(first.weight @ (norm(h) * layer_norm.weight + layer_norm.bias) + first.bias)
        assert len(inside) == 4 * 16
        h = h + second.weight @ inside + second.bias
    layer_norm, last = net.last
    wanted = last.weight @ (norm(h) * layer_norm.weight + layer_norm.bias) + last.bias
    found = net(net.condition(features[None]), net.embed_times(t), x[None])[0]
    th.testing.assert_close(found, wanted)


def test_transformer_by_hand():
    """One chunk, token by token and head by head; entry t * d + j of a flat chunk is number j of step t."""
    net, width, heads = network("transformer", (8, 8)).double(), 8, 2
    features, t, x = th.randn(F, dtype=th.float64), th.tensor([0.3], dtype=th.float64), th.randn(D, dtype=th.float64)
    c = gelu(net.of_features(features) + net.of_time(net.time_embedding(t))[0])
    tokens = [net.of_step(x[2 * step : 2 * step + 2]) + net.positions[step] for step in range(H)]
    for block in net.blocks:
        shift, scale, gate, late_shift, late_scale, late_gate = block.modulation(c).split(width)
        q, k, v = zip(
            *[block.queries_keys_values((1 + scale) * norm(token) + shift).split(width) for token in tokens], strict=True
        )
        mixed = []
        for step in range(H):
            parts = []
            for head in range(heads):
                own = slice(head * width // heads, (head + 1) * width // heads)
                scores = th.stack([q[step][own] @ k[other][own] for other in range(H)]) / math.sqrt(width / heads)
                parts.append(sum(w * v[other][own] for other, w in enumerate(scores.softmax(0))))
            mixed.append(block.mix(th.cat(parts)))
        tokens = [token + gate * m for token, m in zip(tokens, mixed, strict=True)]
        tokens = [token + late_gate * block.feed_forward((1 + late_scale) * norm(token) + late_shift) for token in tokens]
    shift, scale = net.modulation(c).split(width)
    wanted = th.cat([net.last((1 + scale) * norm(token) + shift) for token in tokens])
    th.testing.assert_close(net(net.condition(features[None]), net.embed_times(t), x[None])[0], wanted)


def test_a_new_transformer_returns_zeros_and_learns_from_there():
    th.manual_seed(0)
    net = make_network("transformer", F, D, (8,), chunk_size=H)
    out = net(net.condition(th.randn(4, F)), net.embed_times(th.rand(4)), th.randn(4, D))
    assert (out == 0).all()
    (out - 1).square().mean().backward()
    assert net.last.bias.grad.abs().sum() > 0


def test_steps_of_a_chunk_differ_by_their_positions_alone():
    net = network("transformer")
    condition, time, x = net.condition(th.randn(4, F)), net.embed_times(th.rand(4)), th.randn(4, D)

    def reversed_steps(y):
        return y.unflatten(1, (H, -1)).flip(1).flatten(1)

    with th.no_grad():
        assert not th.allclose(net(condition, time, reversed_steps(x)), reversed_steps(net(condition, time, x)), atol=1e-4)
        net.positions.zero_()
        th.testing.assert_close(net(condition, time, reversed_steps(x)), reversed_steps(net(condition, time, x)))


@pytest.mark.parametrize("name", ["residual", "transformer", "unet"])
def test_a_flow_learns_two_modes(name):
    """Cloning +-0.4 around a mean that the features set, the same sign at both steps of a chunk."""
    th.manual_seed(0)
    gcp = FlowGCP(1, 2, (32, 32), 10, network=name, chunk_size=2, unet_channels=(16,))
    updates = 250 if name == "transformer" else 400
    optimizer = th.optim.Adam(gcp.parameters(), lr=5e-3)
    schedule = th.optim.lr_scheduler.CosineAnnealingLR(optimizer, updates)
    for _ in range(updates):
        features = th.rand(256, 1) - 0.5
        actions = (features + 0.4 * (th.randint(2, (256, 1)).float() * 2 - 1)).expand(-1, 2)
        optimizer.zero_grad()
        gcp.bc_loss(features, actions).backward()
        optimizer.step()
        schedule.step()
    for mean in (-0.3, 0.3):
        with th.no_grad():
            residual = gcp.sample(th.full((1000, 1), mean)) - mean
        assert (residual.abs() - 0.4).abs().median() < 0.12
        assert 0.35 < (residual > 0).float().mean() < 0.65
        assert (residual[:, 0].sign() == residual[:, 1].sign()).float().mean() > 0.9, "both steps belong to one mode"


@pytest.mark.parametrize(
    ("name", "kwargs", "named"),
    [
        ("lstm", dict(), "network must be one of .*'transformer', 'unet'.*found 'lstm'"),
        (
            "residual",
            dict(net_arch=()),
            r"network='residual' needs one width for each of its blocks, all equal, found net_arch=\[\]",
        ),
        ("residual", dict(net_arch=(8, 16)), r"found net_arch=\[8, 16\]"),
        ("transformer", dict(net_arch=(8, 16)), "network='transformer' needs one width for each"),
        (
            "transformer",
            dict(net_arch=(8, 8), attention_heads=3),
            "attention_heads must divide the width 8 of net_arch, found 3",
        ),
        ("transformer", dict(attention_heads=0), "attention_heads"),
        ("transformer", dict(chunk_size=4), "6 numbers cannot have 4 steps"),
        ("unet", dict(chunk_size=1, unet_channels=(8, 8)), "chunk_size=1"),
    ],
)
def test_bad_options_are_named(name, kwargs, named):
    with pytest.raises(ValueError, match=named):
        network(name, **kwargs)


class TestPolicy:
    vector = spaces.Box(-1.0, 1.0, (3,), np.float32)
    action = ChunkBox(spaces.Box(-1.0, 1.0, (2,), np.float32), H)

    def policy(self, cls=FlowPolicy, **kwargs):
        sizes = dict(net_arch=[16, 16], n_critics=2, denoising_steps=2)
        return cls(self.vector, self.action, lambda _: 1e-3, **{**sizes, **kwargs})

    @pytest.mark.parametrize("name", ["residual", "transformer", "unet"])
    @pytest.mark.parametrize("cls", [FlowPolicy, DiffusionPolicy, ShortcutPolicy, MIPPolicy])
    def test_every_family_has_every_network(self, cls, name, tmp_path):
        """The policy tells a network the length of a chunk, and finds the network again when it is loaded."""
        policy = self.policy(cls, network=name)
        net = policy.actor.gcp.network
        assert getattr(net, "chunk_size", H) == H
        policy.save(tmp_path / "p.zip")
        loaded, obs = cls.load(tmp_path / "p.zip", device="cpu"), np.ones((2, 3), np.float32)
        assert type(loaded.actor.gcp.network) is type(net)
        np.testing.assert_array_equal(*(p.predict(obs, deterministic=True)[0] for p in (policy, loaded)))

    def test_checkpoints_of_another_network_are_refused(self, tmp_path):
        self.policy(network="transformer").save(tmp_path / "bc.zip")
        with pytest.raises(ValueError, match="trained with network=transformer, policy_kwargs want mlp"):
            self.policy().load_pretrained(tmp_path / "bc.zip")
        with pytest.raises(ValueError, match="trained with attention_heads=4, policy_kwargs want 2"):
            self.policy(network="transformer", attention_heads=2).load_pretrained(tmp_path / "bc.zip")
        self.policy(network="transformer", noise_std=0.2).load_pretrained(tmp_path / "bc.zip")
