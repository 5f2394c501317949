"""MIPGCP: two regressions, one likelihood for sampling and scoring, what cloning finds, OGPO on it."""

import math

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from ogpo_sb3.common.policies import DiffusionPolicy, FlowPolicy, MIPPolicy
from ogpo_sb3.gcp import MIPGCP

from tests.toys import bandit_learner

F, D = 3, 6


def make(**kwargs):
    th.manual_seed(0)
    return MIPGCP(F, D, net_arch=(32, 32), **kwargs)


@pytest.mark.parametrize("norm", ["mean", "sum"])
@pytest.mark.parametrize("std", [0.005, 0.2])
def test_scoring_equals_sampling(std, norm):
    """At equal parameters the ratio is one."""
    gcp = make(ratio_norm=norm, noise_std=std)
    features = th.randn(64, F)
    with th.no_grad():
        chain = gcp.sample_chain(features, 2)
        scored = gcp.log_prob_of(gcp.condition(features), chain.states, th.arange(64).repeat_interleave(2))
    assert chain.states.shape == (3, 128, D)
    th.testing.assert_close(scored, chain.log_prob, rtol=0, atol=1e-5 if norm == "mean" else 2e-3)


def test_log_prob_against_a_slow_loop():
    """Two Gaussians around the network's outputs at t = 0 and t = t*, number by number in float64."""
    gcp = make(noise_std=0.2, t_star=0.9, ratio_norm="sum").double()
    net = gcp.regression_net
    features, states = th.randn(4, F, dtype=th.float64), th.randn(3, 4, D, dtype=th.float64)
    found = gcp.step_log_prob(features, states)
    for b in range(4):
        for k, t in enumerate((0.0, 0.9)):
            time = net.embed_times(th.tensor([t], dtype=th.float64))
            mean = net(net.condition(features[b : b + 1]), time, states[k, b : b + 1])[0]
            total = 0.0
            for d in range(D):
                total -= 0.5 * ((states[k + 1, b, d].item() - mean[d].item()) / 0.2) ** 2
                total -= math.log(0.2 * math.sqrt(2 * math.pi))
            assert found[k, b].item() == pytest.approx(total, rel=1e-5, abs=1e-5)
    th.testing.assert_close(gcp.chain_log_prob(features, states), found.sum(0))
    mean_normalised = make(noise_std=0.2, t_star=0.9).double().chain_log_prob(features, states)
    th.testing.assert_close(mean_normalised, found.sum(0) / (2 * D))


def test_the_deterministic_sampler_refines_once():
    """f(f(x_0, 0), t*), clamped only at the end."""
    gcp = make()
    features, noise = th.randn(8, F), th.randn(8, D)
    with th.no_grad():
        gcp.regression_net.trunk[-1].bias[:3] = 3.0
        first = gcp.regression(features, noise, 0)
        second = gcp.regression(features, first, 1)
        assert (first.abs() > 1).any() and not th.allclose(gcp.regression(features, noise, 1), first)
        th.testing.assert_close(gcp.sample(features, noise), second.clamp(-1, 1))
        th.testing.assert_close(gcp.sample(features, noise, end=1), first)


def test_noise_is_bounded_and_constant():
    gcp = make(noise_std=0.3, noise_clip=0.5)
    features = th.randn(256, F)
    with th.no_grad():
        states = gcp.sample_chain(features).states
        for step in (0, 1):
            moved = (states[step + 1] - gcp.regression(features, states[step], step)).abs()
            assert (moved <= 0.15 + 1e-6).all() and moved.max() > 0.14
    assert gcp.entropy(features).item() == pytest.approx(math.log(0.3 * math.sqrt(2 * math.pi * math.e)), abs=1e-5)


def test_bc_loss_against_a_slow_loop():
    """|f(x_0, 0) - a|^2 + |f((1 - t*) x_0 + a, t*) - a|^2 with one x_0 per sample; weights select."""
    gcp, features, actions, weights = make(t_star=0.8), th.randn(5, F), th.rand(5, D) * 2 - 1, th.rand(5, D)
    th.manual_seed(3)
    loss = gcp.bc_loss(features, actions, weights)
    th.manual_seed(3)
    x0, total, net = th.randn(5, D), 0.0, gcp.regression_net
    for b in range(5):
        for t, x in ((0.0, x0[b]), (0.8, 0.2 * x0[b] + actions[b])):
            found = net(net.condition(features[b : b + 1]), net.embed_times(th.tensor([t])), x[None])[0]
            total += (weights[b] * (found - actions[b]) ** 2).sum()
    th.testing.assert_close(loss, total / weights.sum(), rtol=1e-5, atol=1e-5)
    assert gcp.bc_loss(features, actions, th.zeros(5)).item() == 0.0


def cloned(actions_of, updates=500):
    th.manual_seed(0)
    gcp = MIPGCP(1, 2, net_arch=(64, 64), noise_std=0.1)
    optimizer = th.optim.Adam(gcp.parameters(), lr=5e-3)
    schedule = th.optim.lr_scheduler.CosineAnnealingLR(optimizer, updates)
    for _ in range(updates):
        features = th.rand(256, 1) - 0.5
        optimizer.zero_grad()
        gcp.bc_loss(features, actions_of(features)).backward()
        optimizer.step()
        schedule.step()
    return gcp


def test_cloning_finds_the_mean_and_the_way_back_to_the_actions():
    """
    Actions on a line through the plane, one direction known, the other free: the first step finds the conditional mean; the
    second returns an action as it is. Noise has no say in either.
    """
    gcp = cloned(lambda features: th.cat([th.sin(3 * features), 0.3 * th.randn_like(features)], dim=1))
    features = th.linspace(-0.4, 0.4, 9)[:, None].repeat(200, 1)
    with th.no_grad():
        mean = th.cat([th.sin(3 * features), th.zeros_like(features)], dim=1)
        first = gcp.regression(features, th.randn(1800, 2), 0)
        assert (first - mean).abs().mean() < 0.05
        action = th.cat([th.sin(3 * features), 0.3 * th.randn_like(features)], dim=1)
        assert (gcp.regression(features, action, 1) - action).abs().mean() < 0.03
        assert (gcp.sample(features) - mean).abs().mean() < 0.06
        assert gcp.sample_chain(features).states[-1].std() > gcp.sample(features).std()


def test_two_modes_meet_in_their_mean():
    """What a regression can do with them: the noise that it is given says nothing about the mode."""
    gcp = cloned(lambda features: features + 0.4 * (th.randint(2, features.shape) * 2.0 - 1.0) * th.ones(1, 2), 400)
    features = th.full((500, 1), 0.2)
    with th.no_grad():
        assert (gcp.regression(features, th.randn(500, 2), 0) - 0.2).abs().mean() < 0.1
        for mode in (-0.4, 0.4):
            action = th.full((500, 2), 0.2 + mode)
            assert (gcp.regression(features, action + 0.001 * th.randn(500, 2), 1) - action).abs().mean() < 0.05


def test_parts_of_chains():
    gcp = make(ratio_norm="sum")
    features = th.randn(16, F)
    with th.no_grad():
        first = gcp.sample_chain(features, end=1)
        second = gcp.sample_chain(features, start=first.states[-1], begin=1)
        states = th.cat([first.states, second.states[1:]])
        th.testing.assert_close(gcp.chain_log_prob(features, states), first.log_prob + second.log_prob, rtol=0, atol=2e-3)
        condition, owner = gcp.condition(features), th.arange(16)
        late = gcp.transition_log_prob(condition, states[1:], owner, 1)
        th.testing.assert_close(late, gcp.transition_log_prob(condition, states, owner)[1:])


@pytest.mark.parametrize(
    ("kwargs", "named"),
    [
        (dict(denoising_steps=3), "denoising_steps of a minimal iterative policy must be 2, found 3"),
        (dict(noise_std=0.0), "noise_std"),
        (dict(noise_std=float("nan")), "noise_std"),
        (dict(t_star=1.0), "t_star"),
        (dict(noise_clip=0.0), "noise_clip"),
        (dict(network="lstm"), "network"),
    ],
)
def test_bad_options_are_named(kwargs, named):
    with pytest.raises(ValueError, match=named):
        make(**kwargs)


class TestPolicy:
    action = spaces.Box(-1.0, 1.0, (4,), np.float32)
    vector = spaces.Box(-1.0, 1.0, (3,), np.float32)

    def policy(self, cls=MIPPolicy, **kwargs):
        th.manual_seed(0)
        return cls(self.vector, self.action, lambda _: 1e-3, net_arch=[16], n_critics=2, **kwargs)

    def test_checkpoints(self, tmp_path):
        """Another noise is the user's to choose; another t* or family is refused by name."""
        self.policy().save(tmp_path / "bc.zip")
        other = self.policy(noise_std=0.2)
        with th.no_grad():
            for parameter in other.parameters():
                parameter.zero_()
        other.load_pretrained(tmp_path / "bc.zip")
        assert all(th.equal(a, b) for a, b in zip(other.actor.parameters(), self.policy().actor.parameters(), strict=True))
        with pytest.raises(ValueError, match=r"t_star=0\.999, policy_kwargs want 0\.9"):
            self.policy(t_star=0.9).load_pretrained(tmp_path / "bc.zip")
        for cls in (FlowPolicy, DiffusionPolicy):
            with pytest.raises(ValueError, match=f"holds a MIPPolicy, wanted a {cls.__name__}"):
                self.policy(cls).load_pretrained(tmp_path / "bc.zip")

    def test_save_and_load(self, tmp_path):
        policy = self.policy(t_star=0.9, noise_std=0.3)
        policy.save(tmp_path / "policy.zip")
        loaded, observation = MIPPolicy.load(tmp_path / "policy.zip", device="cpu"), np.ones((2, 3), np.float32)
        assert loaded.actor.gcp.t_star == 0.9 and loaded.actor.gcp.std_table.tolist() == pytest.approx([0.3, 0.3])
        np.testing.assert_array_equal(*(p.predict(observation, deterministic=True)[0] for p in (policy, loaded)))

    def test_flow_options_do_not_exist(self):
        with pytest.raises(TypeError, match="sde_correction"):
            self.policy(sde_correction="exact")

    def test_ogpo_reaches_the_optimum_of_a_bandit(self):
        model = bandit_learner("MIPPolicy", noise_std=0.2).learn(600)
        actions, _ = model.predict(np.zeros((200, 1), np.float32))
        assert np.abs(actions.mean(axis=0) - 0.5).max() < 0.12
        assert model.policy.gcp_class is MIPGCP
