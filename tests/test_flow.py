"""FlowGCP: one likelihood for sampling and scoring, marginals under noise, behaviour cloning."""

import math

import pytest
import torch as th
from ogpo_sb3.gcp import FlowGCP
from ogpo_sb3.gcp.networks import NoiseMLP, TimeEmbedding, VelocityNet

F, D = 3, 6


def make(**kwargs):
    th.manual_seed(0)
    return FlowGCP(F, D, net_arch=(32, 32), **{"denoising_steps": 5, **kwargs})


@pytest.mark.parametrize("clip", [False, True])
@pytest.mark.parametrize("norm", ["mean", "sum"])
@pytest.mark.parametrize("correction", ["exact", "official", "none"])
@pytest.mark.parametrize("schedule", ["tapered", "constant", "learned"])
@pytest.mark.parametrize("noise_std", [0.005, 0.05, 0.2])
def test_scoring_equals_sampling(schedule, correction, norm, clip, noise_std):
    """ALGORITHM T1: at equal parameters the ratio is one, whatever the noise, clipping or normalisation."""
    gcp = make(
        noise_schedule=schedule, sde_correction=correction, ratio_norm=norm, clip_intermediate=clip, noise_std=noise_std
    )
    features = th.randn(64, F)
    with th.no_grad():
        chain = gcp.sample_chain(features)
        scored = gcp.chain_log_prob(features, chain.states)
    assert chain.states.shape == (6, 64, D)
    th.testing.assert_close(scored, chain.log_prob, rtol=0, atol=1e-5 if norm == "mean" else 2e-3)


@pytest.mark.parametrize("schedule", ["tapered", "constant", "learned"])
def test_log_prob_against_a_slow_loop(schedule):
    """The likelihood is the product of the transitions' Gaussian densities, computed here number by number in float64."""
    gcp = make(noise_schedule=schedule, sde_correction="exact", ratio_norm="sum", noise_std=0.1).double()
    features = th.randn(4, F, dtype=th.float64)
    states = th.randn(6, 4, D, dtype=th.float64)
    steps = gcp.step_log_prob(features, states)
    for b in range(4):
        for k in range(5):
            t = k / 5
            v = gcp.velocity(features[b : b + 1], states[k, b : b + 1], th.tensor([t], dtype=th.float64))[0]
            if schedule == "tapered":
                std = th.full((D,), 0.1 * math.sqrt(1 - t), dtype=th.float64)
            elif schedule == "constant":
                std = th.full((D,), 0.1 if k < 4 else 0.0, dtype=th.float64)
            else:
                std = gcp.noise_net(features[b : b + 1], th.tensor([t], dtype=th.float64))[0]
            total = 0.0
            for d in range(D):
                x, sigma = states[k, b, d].item(), std[d].item()
                if sigma == 0.0:
                    continue
                mean = x + v[d].item() / 5 + 0.5 * sigma**2 * (t * v[d].item() - x) / (1 - t)
                total += -0.5 * ((states[k + 1, b, d].item() - mean) / sigma) ** 2
                total -= math.log(sigma) + 0.5 * math.log(2 * math.pi)
            assert steps[k, b].item() == pytest.approx(total, rel=1e-5, abs=1e-6)
    th.testing.assert_close(gcp.chain_log_prob(features, states), steps.sum(0))


def test_mean_normalisation_divides_by_stochastic_steps_and_dimensions():
    for schedule, n in (("tapered", 5), ("constant", 4)):
        mean, total = (make(noise_schedule=schedule, ratio_norm=norm) for norm in ("mean", "sum"))
        features, states = th.randn(4, F), th.randn(6, 4, D)
        expected = total.chain_log_prob(features, states) / (n * D)
        th.testing.assert_close(mean.chain_log_prob(features, states), expected)


class _Mixture(VelocityNet):
    """The exact velocity of the path from N(0, I) to two narrow modes at -0.5 and 0.5 (one dimension)."""

    modes, spread = (-0.5, 0.5), 0.1

    def condition(self, features):
        return features

    def embed_times(self, t):
        return t[:, None]

    def forward(self, condition, time, x):
        variance = (1 - time) ** 2 + (time * self.spread) ** 2
        logits = th.cat([-0.5 * (x - time * m) ** 2 / variance for m in self.modes], dim=1)
        weights = logits.softmax(dim=1)
        gain = (time * self.spread**2 - (1 - time)) / variance
        return sum(w[:, None] * (m + gain * (x - time * m)) for w, m in zip(weights.T, self.modes, strict=True))


def _spread(samples):
    """Standard deviation within the nearer mode."""
    return (samples - 0.5 * samples.sign()).std().item()


@pytest.mark.parametrize("steps", [10, 100])
def test_exact_correction_keeps_the_marginals(steps):
    """ALGORITHM T2: noise widens the modes; only the exact correction takes that back (closest to the ODE of all)."""
    th.manual_seed(1)
    width = {}
    features = th.zeros(20_000, 1)
    for correction in ("exact", "official", "none"):
        gcp = FlowGCP(1, 1, net_arch=(), denoising_steps=steps, noise_std=0.2, sde_correction=correction)
        gcp.velocity_net = _Mixture()
        with th.no_grad():
            width[correction] = _spread(gcp.sample_chain(features).states[-1])
            ode = _spread(gcp.sample(features))
    assert abs(width["exact"] - ode) < 0.5 * abs(width["official"] - ode) < 0.5 * abs(width["none"] - ode) + 1e-3
    if steps == 100:
        assert width["exact"] == pytest.approx(ode, rel=0.04)


def test_ode_is_euler_and_only_the_result_is_clamped():
    gcp = make()
    with th.no_grad():
        gcp.velocity_net.trunk[-1].bias.fill_(3.0)  # drives every number beyond 1
        features, noise = th.randn(8, F), th.randn(8, D)
        x = noise
        for k in range(5):
            x = x + gcp.velocity(features, x, th.full((8,), k / 5)) / 5
        assert (x.abs() > 1).any()
        th.testing.assert_close(gcp.sample(features, noise), x.clamp(-1, 1))


def test_chain_keeps_the_unclamped_action():
    gcp = make(noise_std=0.3)
    with th.no_grad():
        gcp.velocity_net.trunk[-1].bias.fill_(3.0)
        chain = gcp.sample_chain(th.randn(16, F))
    assert (chain.states[-1].abs() > 1).any()
    assert chain.actions.abs().max() <= 1


def test_noise_clip_bounds_each_transition():
    gcp = make(noise_std=0.1, noise_clip=0.5)
    features = th.randn(256, F)
    with th.no_grad():
        states = gcp.sample_chain(features).states
        for k in range(5):
            v = gcp.velocity(features, states[k], th.full((256,), k / 5))
            mean = gcp.drift(states[k], v, k / 5, gcp.correction_table[k])
            assert ((states[k + 1] - mean).abs() <= 0.5 * gcp.std_table[k] + 1e-6).all()


def test_bc_loss_weights():
    """Weights select: (B,) and (B, D) agree, a zero weight removes a sample, all zero gives zero."""
    gcp, features, actions = make(), th.randn(8, F), th.rand(8, D) * 2 - 1

    def loss(features, actions, weights=None):
        th.manual_seed(3)
        return gcp.bc_loss(features, actions, weights)

    th.testing.assert_close(loss(features, actions), loss(features, actions, th.ones(8)))
    th.testing.assert_close(loss(features, actions, th.ones(8)), loss(features, actions, th.full((8, D), 0.3)))
    half = th.tensor([1.0] * 4 + [0.0] * 4)
    poisoned = actions.clone()
    poisoned[4:] = 0.77
    changed = loss(features, poisoned, half)
    th.testing.assert_close(loss(features, actions, half), changed)
    assert loss(features, actions, th.zeros(8)).item() == 0.0


def test_bc_learns_a_conditional_bimodal_distribution():
    """Cloning +-0.5 around a mean that the features set: the ODE's samples lie in both modes, at the right place."""
    th.manual_seed(0)
    gcp = FlowGCP(1, 1, net_arch=(64, 64, 64), denoising_steps=10)
    optimizer = th.optim.Adam(gcp.parameters(), lr=2e-3)
    for _ in range(1500):
        features = th.rand(256, 1) - 0.5
        actions = features + 0.4 * (th.randint(2, (256, 1)).float() * 2 - 1)
        optimizer.zero_grad()
        gcp.bc_loss(features, actions).backward()
        optimizer.step()
    for mean in (-0.3, 0.3):
        with th.no_grad():
            residual = gcp.sample(th.full((2000, 1), mean)) - mean
        assert (residual.abs() - 0.4).abs().median() < 0.1
        assert 0.35 < (residual > 0).float().mean() < 0.65


def test_learned_noise_stays_in_its_bounds_and_trains():
    net = NoiseMLP(F, D, min_std=0.02, max_std=0.2)
    std = net(100 * th.randn(50, F), th.rand(50))
    assert std.min() >= 0.02 - 1e-6 and std.max() <= 0.2 + 1e-6
    gcp = make(noise_schedule="learned")
    features = th.randn(8, F)
    with th.no_grad():
        states = gcp.sample_chain(features).states
    gcp.chain_log_prob(features, states).sum().backward()
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in gcp.noise_net.parameters())


def test_time_embedding_distinguishes_neighbouring_steps():
    """The reason for scaling t: unscaled, most features hardly move between denoising steps."""
    moved = []
    for scale in (1000.0, 1.0):
        embedding = TimeEmbedding(32, scale)
        angles = th.tensor([[0.4], [0.5]]) * embedding.frequencies
        features = th.cat([angles.sin(), angles.cos()], dim=-1)
        moved.append(((features[0] - features[1]).abs() > 0.05).sum().item())
    assert moved[0] > 2 * moved[1]


@pytest.mark.parametrize(
    ("kwargs", "named"),
    [
        (dict(noise_schedule="linear"), "noise_schedule"),
        (dict(sde_correction="half"), "sde_correction"),
        (dict(ratio_norm="max"), "ratio_norm"),
        (dict(noise_std=0.0), "noise_std"),
        (dict(denoising_steps=0), "denoising_steps"),
        (dict(noise_schedule="constant", denoising_steps=1), "denoising_steps=1"),
        (dict(noise_clip=-1.0), "noise_clip"),
        (dict(time_embed_dim=3), "time_embed_dim"),
        (dict(noise_schedule="learned", min_noise_std=0.3), "min_noise_std"),
    ],
)
def test_bad_options_are_named(kwargs, named):
    with pytest.raises(ValueError, match=named):
        make(**kwargs)
