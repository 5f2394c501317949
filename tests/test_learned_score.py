"""The learned score of a flow's noise: Tweedie's sign and size, marginals, who trains it, checkpoints."""

import math

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from ogpo_sb3.common.policies import FlowPolicy, ShortcutPolicy
from ogpo_sb3.gcp import FlowGCP, ShortcutGCP
from ogpo_sb3.gcp.networks import VelocityNet

F, D = 3, 6
SPREAD = 0.1


def make(family=FlowGCP, **kwargs):
    th.manual_seed(0)
    return family(F, D, net_arch=(32, 32), **{"denoising_steps": 4, "noise_std": 0.1, "sde_correction": "learned", **kwargs})


class _Exact(VelocityNet):
    """What is known in closed form of the path to modes of width 0.1: one number in, one out."""

    def __init__(self, modes, sigma=None):
        super().__init__()
        self.modes, self.sigma = modes, sigma

    def condition(self, features):
        return features

    def embed_times(self, t):
        return t[:, None]

    def posterior(self, time, x, smoothing):
        """Of the modes given x, and the variance of the path smoothed by so much."""
        variance = (1 - time) ** 2 + (time * SPREAD) ** 2 + smoothing**2
        logits = th.cat([-0.5 * (x - time * m) ** 2 / variance for m in self.modes], dim=1)
        return logits.softmax(dim=1).T[..., None], variance


class Velocity(_Exact):
    def forward(self, condition, time, x):
        weights, variance = self.posterior(time, x, 0.0)
        gain = (time * SPREAD**2 - (1 - time)) / variance
        return sum(w * (m + gain * (x - time * m)) for w, m in zip(weights, self.modes, strict=True))


class Noise(_Exact):
    """E[z | x + s z] = - s times the score of the smoothed path."""

    factor = 1.0

    def forward(self, condition, time, x):
        s = self.sigma * (1 - time).sqrt()
        weights, variance = self.posterior(time, x, s)
        score = sum(-w * (x - time * m) / variance for w, m in zip(weights, self.modes, strict=True))
        return -self.factor * s * score


def width_of(samples, modes):
    """Standard deviation around the nearest mode."""
    distance = samples - th.tensor(modes)
    return distance.gather(1, distance.abs().argmin(dim=1, keepdim=True)).std().item()


def widths(std, steps, modes=(-0.5, 0.5), score=None):
    """Of the modes that each correction leaves, with the exact velocity; and the ODE's."""
    found = {}
    features = th.zeros(10_000, 1)
    for correction in ("exact", "official", "none", "learned"):
        th.manual_seed(1)
        gcp = FlowGCP(1, 1, (), steps, noise_std=std, sde_correction=correction)
        gcp.velocity_net = Velocity(modes)
        if correction == "learned":
            gcp.score_net = Noise(modes, std) if score is None else score
        with th.no_grad():
            found[correction] = width_of(gcp.sample_chain(features).states[-1], modes)
            found["ode"] = width_of(gcp.sample(features), modes)
    return found


@pytest.mark.parametrize("std, steps", [(0.05, 50), (0.2, 10), (0.2, 50)])
def test_the_smoothed_score_keeps_the_marginals(std, steps):
    """With the exact noise prediction the modes stay almost as narrow as with the exact score, far narrower than without."""
    found = widths(std, steps)
    assert found["learned"] == pytest.approx(found["exact"], rel=0.09)
    assert abs(found["learned"] - found["ode"]) < 0.5 * abs(found["none"] - found["ode"])


def test_the_loss_is_least_at_the_negative_score():
    """Tweedie: among multiples of the closed form the regression prefers the form itself, not its half, double or negative."""
    gcp = FlowGCP(1, 1, (), 10, noise_std=0.2, sde_correction="learned")
    gcp.score_net = Noise((-0.5, 0.5), 0.2)
    th.manual_seed(0)
    n = 200_000
    actions = SPREAD * th.randn(n, 1) + 0.5 * (th.randint(2, (n, 1)) * 2.0 - 1.0)
    t = th.rand(n)
    x = th.lerp(th.randn(n, 1), actions, t[:, None])
    losses = {}
    for factor in (-1.0, 0.0, 0.8, 1.0, 1.2, 2.0):
        th.manual_seed(1)
        gcp.score_net.factor = factor
        losses[factor] = gcp.score_loss(th.zeros(n, 1), x, t).item()
    assert min(losses, key=losses.get) == 1.0, losses


def test_a_trained_score_keeps_the_marginals():
    """From the loss alone, one mode (two take longer to learn): close to exact, much better than none."""
    th.manual_seed(0)
    gcp = FlowGCP(1, 1, (32, 32), 10, noise_std=0.2, sde_correction="learned", time_scale=10.0)
    optimizer = th.optim.Adam(gcp.score_net.parameters(), lr=1e-2)
    schedule = th.optim.lr_scheduler.CosineAnnealingLR(optimizer, 600)
    features = th.zeros(1024, 1)
    for _ in range(600):
        t = th.rand(1024)
        x = th.lerp(th.randn(1024, 1), 0.3 + SPREAD * th.randn(1024, 1), t[:, None])
        optimizer.zero_grad()
        gcp.score_loss(features, x, t).backward()
        optimizer.step()
        schedule.step()

    class Trained(Noise):
        def forward(self, condition, time, x):
            net = gcp.score_net
            return net(net.condition(condition), net.embed_times(time[:, 0]), x)

    found = widths(0.2, 10, modes=(0.3,), score=Trained((0.3,), 0.2))
    assert found["learned"] == pytest.approx(found["exact"], rel=0.1)
    assert abs(found["learned"] - found["exact"]) < 0.3 * abs(found["none"] - found["exact"])


@pytest.mark.parametrize("norm", ["mean", "sum"])
@pytest.mark.parametrize("schedule", ["tapered", "constant", "learned"])
@pytest.mark.parametrize("family", [FlowGCP, ShortcutGCP])
def test_scoring_equals_sampling(family, schedule, norm):
    gcp = make(family, noise_schedule=schedule, ratio_norm=norm)
    features = th.randn(64, F)
    with th.no_grad():
        chain = gcp.sample_chain(features, 2)
        scored = gcp.log_prob_of(gcp.condition(features), chain.states, th.arange(64).repeat_interleave(2))
    th.testing.assert_close(scored, chain.log_prob, rtol=0, atol=1e-5 if norm == "mean" else 2e-3)


@pytest.mark.parametrize("schedule", ["tapered", "constant", "learned"])
def test_log_prob_against_a_slow_loop(schedule):
    """x + v/K - sigma_i^2 / (2 s) z with s = sigma sqrt(1 - t), number by number in float64; sigma_i/2 z for tapered noise."""
    gcp = make(noise_schedule=schedule, ratio_norm="sum").double()
    features, states = th.randn(4, F, dtype=th.float64), th.randn(5, 4, D, dtype=th.float64)
    steps = gcp.step_log_prob(features, states)
    for b in range(4):
        for k in range(4):
            t, s = k / 4, 0.1 * math.sqrt(1 - k / 4)
            time, row, x = th.tensor([t], dtype=th.float64), features[b : b + 1], states[k, b : b + 1]
            v = gcp.velocity(row, x, time)[0]
            z = gcp.score_net(gcp.score_net.condition(row), gcp.score_net.embed_times(time), x)[0]
            std = {"tapered": th.full((D,), s), "constant": th.full((D,), 0.1 if k < 3 else 0.0)}.get(schedule)
            std = gcp.noise_net(row, time)[0] if std is None else std
            total = 0.0
            for d in range(D):
                sigma = std[d].item()
                if sigma == 0.0:
                    continue
                pull = 0.5 * sigma if schedule == "tapered" else sigma**2 / (2 * s)
                mean = x[0, d].item() + v[d].item() / 4 - pull * z[d].item()
                total -= 0.5 * ((states[k + 1, b, d].item() - mean) / sigma) ** 2
                total -= math.log(sigma) + 0.5 * math.log(2 * math.pi)
            assert steps[k, b].item() == pytest.approx(total, rel=1e-4, abs=1e-4)


def test_bc_loss_is_flow_matching_plus_denoising():
    """Same draws: the velocity's part is that of a flow without a score, the rest is one prediction of z per sample."""
    learned, plain = make(), make(sde_correction="exact")
    plain.velocity_net = learned.velocity_net
    features, actions = th.randn(16, F), th.rand(16, D) * 2 - 1
    th.manual_seed(3)
    loss = learned.bc_loss(features, actions)
    th.manual_seed(3)
    velocity_part = plain.bc_loss(features, actions)
    z = th.randn(16, D)
    th.manual_seed(3)
    x0, t = th.randn(16, D), th.rand(16)
    total = 0.0
    for b in range(16):
        noisy = (1 - t[b]) * x0[b] + t[b] * actions[b] + 0.1 * math.sqrt(1 - t[b]) * z[b]
        row, net = features[b : b + 1], learned.score_net
        total += (net(net.condition(row), net.embed_times(t[b : b + 1]), noisy[None])[0] - z[b]).square().mean()
    th.testing.assert_close(loss - velocity_part, total / 16, rtol=1e-5, atol=1e-5)


def test_only_behaviour_cloning_trains_the_score():
    gcp = make()
    features = th.randn(8, F)
    with th.no_grad():
        states = gcp.sample_chain(features).states
    gcp.chain_log_prob(features, states).sum().backward()
    assert all(p.grad is None for p in gcp.score_net.parameters())
    assert any(p.grad.abs().sum() > 0 for p in gcp.velocity_net.parameters() if p.grad is not None)
    gcp.bc_loss(features, th.zeros(8, D)).backward()
    assert all(p.grad is not None for p in gcp.score_net.parameters())


def test_the_deterministic_sampler_does_without():
    learned, plain = make(), make(sde_correction="none")
    plain.velocity_net = learned.velocity_net
    features, noise = th.randn(8, F), th.randn(8, D)
    th.testing.assert_close(learned.sample(features, noise), plain.sample(features, noise))
    assert not th.allclose(learned.sample(features), learned.sample(features))


def test_a_score_needs_its_option():
    with pytest.raises(ValueError, match="sde_correction='learned', found 'none'"):
        make(sde_correction="none").score_loss(th.zeros(1, F), th.zeros(1, D), th.zeros(1))


class TestCheckpoints:
    space, action = spaces.Box(-1.0, 1.0, (3,), np.float32), spaces.Box(-1.0, 1.0, (4,), np.float32)

    def policy(self, cls=FlowPolicy, **kwargs):
        sizes = dict(net_arch=[16], n_critics=2, denoising_steps=2)
        return cls(self.space, self.action, lambda _: 1e-3, **{**sizes, "sde_correction": "learned", **kwargs})

    @pytest.mark.parametrize("cls", [FlowPolicy, ShortcutPolicy])
    def test_the_smoothing_travels(self, cls, tmp_path):
        """Trained for 0.1, used with 0.05: the score is still that of what it was trained on."""
        policy = self.policy(cls, noise_std=0.1)
        policy.save(tmp_path / "bc.zip")
        other = self.policy(cls, noise_std=0.05)
        other.load_pretrained(tmp_path / "bc.zip")
        gcp = other.actor.gcp
        assert gcp.score_smoothing.item() == pytest.approx(0.1) and gcp.std_table[0].item() == pytest.approx(0.05)
        _, (_, _, correction) = gcp._split(th.zeros(1, 32))
        wanted = [0.05**2 * (1 - t) / (2 * 0.1 * math.sqrt(1 - t)) for t in (0, 0.5)]
        assert correction.flatten().tolist() == pytest.approx(wanted)

    def test_a_score_that_is_not_wanted_is_left_out(self, tmp_path):
        policy, plain = self.policy(), self.policy(sde_correction="exact")
        policy.save(tmp_path / "bc.zip")
        plain.load_pretrained(tmp_path / "bc.zip")
        own, theirs = plain.actor.gcp.velocity_net.parameters(), policy.actor.gcp.velocity_net.parameters()
        assert all(th.equal(a, b) for a, b in zip(own, theirs, strict=True))
        self.policy(sde_correction="exact").save(tmp_path / "plain.zip")
        with pytest.raises(ValueError, match=r"score_net.* is nothing"):
            self.policy().load_pretrained(tmp_path / "plain.zip")
