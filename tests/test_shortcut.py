"""ShortcutGCP: step sizes and self-consistency, one likelihood for sampling and scoring, cloning, OGPO on it."""

import copy
import math

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from ogpo_sb3 import dppo
from ogpo_sb3.common.policies import FlowPolicy, ShortcutPolicy
from ogpo_sb3.gcp import FlowGCP, ShortcutGCP

from tests.toys import bandit_learner

F, D = 3, 6


def make(**kwargs):
    th.manual_seed(0)
    return ShortcutGCP(F, D, net_arch=(32, 32), **kwargs)


@pytest.mark.parametrize("norm", ["mean", "sum"])
@pytest.mark.parametrize("correction", ["exact", "none"])
@pytest.mark.parametrize("schedule, steps", [("tapered", 1), ("tapered", 4), ("constant", 2), ("learned", 8)])
def test_scoring_equals_sampling(schedule, steps, correction, norm):
    """At equal parameters the ratio is one, whatever the number of steps."""
    gcp = make(noise_schedule=schedule, denoising_steps=steps, sde_correction=correction, ratio_norm=norm, noise_std=0.1)
    features = th.randn(64, F)
    with th.no_grad():
        chain = gcp.sample_chain(features, 2)
        scored = gcp.log_prob_of(gcp.condition(features), chain.states, th.arange(64).repeat_interleave(2))
    assert chain.states.shape == (steps + 1, 128, D)
    th.testing.assert_close(scored, chain.log_prob, rtol=0, atol=1e-5 if norm == "mean" else 2e-3)


@pytest.mark.parametrize("steps", [1, 2, 4, 8])
def test_log_prob_against_a_slow_loop(steps):
    """Steps of size d = 1/K, of which the network is told, number by number in float64."""
    gcp = make(denoising_steps=steps, ratio_norm="sum", noise_std=0.1).double()
    features, states = th.randn(3, F, dtype=th.float64), th.randn(steps + 1, 3, D, dtype=th.float64)
    found, d = gcp.step_log_prob(features, states), 1 / steps
    for b in range(3):
        for k in range(steps):
            t, size = th.tensor([k * d], dtype=th.float64), th.tensor([d], dtype=th.float64)
            v = gcp.velocity(features[b : b + 1], states[k, b : b + 1], t, size)[0]
            std, total = 0.1 * math.sqrt(1 - k * d), 0.0
            for j in range(D):
                x = states[k, b, j].item()
                mean = x + d * v[j].item() + 0.5 * 0.1**2 * (k * d * v[j].item() - x)
                total -= 0.5 * ((states[k + 1, b, j].item() - mean) / std) ** 2 + math.log(std * math.sqrt(2 * math.pi))
            assert found[k, b].item() == pytest.approx(total, rel=1e-5, abs=1e-5)
    th.testing.assert_close(gcp.chain_log_prob(features, states), found.sum(0))


@pytest.mark.parametrize("steps", [1, 4])
def test_deterministic_sampler_takes_steps_of_one_size(steps):
    gcp = make(denoising_steps=steps)
    features, noise = th.randn(8, F), th.randn(8, D)
    with th.no_grad():
        x = noise
        for k in range(steps):
            x = x + gcp.velocity(features, x, th.full((8,), k / steps), th.full((8,), 1 / steps)) / steps
        th.testing.assert_close(gcp.sample(features, noise), x.clamp(-1, 1))
        other = gcp.velocity(features, x, th.zeros(8), th.full((8,), 0.5))
    assert not th.allclose(gcp.velocity(features, x, th.zeros(8)), other), "the network knows the size"


def test_a_step_is_held_to_two_halves():
    """Down to the smallest, whose halves are steps of the flow; the state between them is bounded."""
    gcp = make(max_steps=4)
    features, x = th.randn(6, F), th.randn(6, D)
    size = th.tensor([1.0, 1.0, 0.5, 0.5, 0.25, 0.25])
    t = th.tensor([0.0, 0.0, 0.0, 0.5, 0.25, 0.75])
    with th.no_grad():
        found = gcp.two_half_steps(features, x, t, size)
        for b, (start, whole, known) in enumerate(
            zip(t.tolist(), size.tolist(), [0.5, 0.5, 0.25, 0.25, 0.0, 0.0], strict=True)
        ):
            half, told, row = whole / 2, th.tensor([known]), slice(b, b + 1)
            first = gcp.velocity(features[row], x[row], th.tensor([start]), told)
            second = gcp.velocity(features[row], x[row] + half * first, th.tensor([start + half]), told)
            th.testing.assert_close(found[row], (first + second) / 2)
        gcp.velocity_net.trunk[-1].bias.fill_(100.0)
        halfway = gcp.velocity(features, th.full_like(x, 4.0), t + size / 2, th.where(size > 0.3, size / 2, 0.0))
        first = gcp.velocity(features, x, t, th.where(size > 0.3, size / 2, 0.0))
        th.testing.assert_close(gcp.two_half_steps(features, x, t, size), (first + halfway) / 2)


@pytest.mark.parametrize("max_steps", [1, 2, 8])
def test_bc_loss_against_a_slow_loop(max_steps):
    """The same draws, sample by sample: half are flow matching at d = 0, half self-consistency on the grid of a drawn size."""
    gcp, n = make(max_steps=max_steps, denoising_steps=1), 7
    features, actions, weights = th.randn(n, F), th.rand(n, D) * 2 - 1, th.rand(n)
    th.manual_seed(5)
    loss = gcp.bc_loss(features, actions, weights)
    th.manual_seed(5)
    order = th.rand(n).argsort().tolist()
    x0, t = th.randn(n, D), th.rand(n)
    levels = th.randint(int(math.log2(max_steps)) + 1, (n // 2,)).tolist()
    total = 0.0
    for place, b in enumerate(order):
        row, start, size = features[b : b + 1], t[place].item(), 0.0
        if place < n // 2:
            size = 0.5 ** levels[place]
            start = math.floor(start / size) * size
        x = ((1 - start) * x0[place] + start * actions[b])[None]
        wanted = (actions[b] - x0[place])[None]
        if place < n // 2:
            half = size / 2
            known = th.tensor([half if size > 1 / max_steps else 0.0])
            with th.no_grad():
                first = gcp.velocity(row, x, th.tensor([start]), known)
                middle = (x + half * first).clamp(-4, 4)
                wanted = (first + gcp.velocity(row, middle, th.tensor([start + half]), known)) / 2
        error = (gcp.velocity(row, x, th.tensor([start]), th.tensor([size])) - wanted).square().mean()
        total += weights[b] * error
    th.testing.assert_close(loss, total / weights.sum(), rtol=1e-5, atol=1e-5)
    grads = th.autograd.grad(loss, list(gcp.velocity_net.parameters()))
    same = th.autograd.grad(total / weights.sum(), list(gcp.velocity_net.parameters()))
    for a, b in zip(grads, same, strict=True):
        th.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_the_teacher_sets_the_targets_and_stays_itself():
    """Its steps instead of the network's own, without becoming a part of the policy; copies keep theirs."""
    gcp, teacher, features, actions = make(), make(), th.randn(16, F), th.rand(16, D) * 2 - 1
    parameters = dict(gcp.named_parameters()).keys()

    def loss(policy):
        th.manual_seed(3)
        return policy.bc_loss(features, actions)

    own = loss(gcp)
    gcp.take_teacher(teacher)
    assert loss(gcp) == own and dict(gcp.named_parameters()).keys() == parameters == gcp.state_dict().keys()
    with th.no_grad():
        teacher.velocity_net.trunk[-1].bias.add_(0.5)
    taught = loss(gcp)
    assert taught != own
    taught.backward()
    assert all(p.grad is None for p in teacher.parameters()) and gcp.velocity_net.trunk[0].weight.grad is not None
    pair = copy.deepcopy((gcp, teacher))
    assert loss(pair[0]) == taught
    with th.no_grad():
        pair[1].velocity_net.trunk[-1].bias.sub_(0.5)
    assert loss(pair[0]) == own and loss(gcp) == taught
    with pytest.raises(ValueError, match="max_steps=8"):
        gcp.take_teacher(make(max_steps=4))


def test_bc_loss_weights_select():
    gcp, features, actions = make(), th.randn(8, F), th.rand(8, D) * 2 - 1

    def loss(actions, weights):
        th.manual_seed(3)
        return gcp.bc_loss(features, actions, weights).item()

    half = th.tensor([1.0] * 4 + [0.0] * 4)
    poisoned = actions.clone()
    poisoned[4:] = 0.77
    assert loss(actions, half) == pytest.approx(loss(poisoned, half)) and loss(actions, th.zeros(8)) == 0.0
    assert loss(actions, th.ones(8)) == pytest.approx(loss(actions, th.full((8, D), 0.3)))


@pytest.fixture(scope="module")
def cloned():
    """Two actions, 0.4 apart from a mean that the features set: a flow that a single Euler step would average."""
    th.manual_seed(0)
    gcp = ShortcutGCP(1, 1, net_arch=(64, 64, 64), denoising_steps=8)
    optimizer = th.optim.Adam(gcp.parameters(), lr=1e-2)
    schedule = th.optim.lr_scheduler.CosineAnnealingLR(optimizer, 800)
    for _ in range(800):
        features = th.rand(512, 1) - 0.5
        actions = features + 0.4 * (th.randint(2, (512, 1)).float() * 2 - 1)
        optimizer.zero_grad()
        gcp.bc_loss(features, actions).backward()
        optimizer.step()
        schedule.step()
    return gcp


def with_steps(gcp, steps, family=ShortcutGCP):
    other = family(1, 1, net_arch=(64, 64, 64), denoising_steps=steps)
    other.load_state_dict(gcp.state_dict())
    return other


@pytest.mark.parametrize("steps", [1, 2, 4, 8])
def test_bc_learns_both_modes_at_every_number_of_steps(cloned, steps):
    gcp = with_steps(cloned, steps)
    for mean in (-0.3, 0.3):
        with th.no_grad():
            residual = gcp.sample(th.full((2000, 1), mean), th.randn(2000, 1)) - mean
        assert (residual.abs() - 0.4).abs().median() < 0.13
        assert 0.35 < (residual > 0).float().mean() < 0.65


def test_one_step_is_a_shortcut_not_an_euler_step(cloned):
    """The flow's own velocity at t = 0 leads to the mean of the two modes; knowing the size, the same network finds them."""
    features, noise = th.zeros(1000, 1), th.randn(1000, 1)
    with th.no_grad():
        euler = noise + cloned.velocity(features, noise, th.zeros(1000))
        shortcut = with_steps(cloned, 1).sample(features, noise)
    assert euler.abs().median() < 0.15 and shortcut.abs().median() > 0.27


def test_parts_of_chains():
    """A chain drawn in two parts is a chain: same draws, same likelihood, whose parts add up."""
    gcp = make(ratio_norm="sum")
    features = th.randn(16, F)
    with th.no_grad():
        first = gcp.sample_chain(features, end=2)
        second = gcp.sample_chain(features, start=first.states[-1], begin=2)
        states = th.cat([first.states, second.states[1:]])
        th.testing.assert_close(gcp.chain_log_prob(features, states), first.log_prob + second.log_prob, rtol=0, atol=2e-3)
        noise = th.randn(16, D)
        middle = gcp.sample(features, noise, end=1)
        th.testing.assert_close(gcp.sample(features, middle, begin=1), gcp.sample(features, noise))


@pytest.mark.parametrize(
    ("kwargs", "named"),
    [
        (dict(denoising_steps=3), "denoising_steps of a shortcut policy must be a power of two, found 3"),
        (dict(denoising_steps=0), "denoising_steps"),
        (dict(max_steps=6), "max_steps of a shortcut policy must be a power of two, found 6"),
        (dict(denoising_steps=16), "at most max_steps=8, found 16"),
        (dict(noise_std=0.0), "noise_std"),
        (dict(noise_schedule="constant", denoising_steps=1), "denoising_steps=1"),
    ],
)
def test_bad_options_are_named(kwargs, named):
    with pytest.raises(ValueError, match=named):
        make(**kwargs)


class TestPolicy:
    action = spaces.Box(-1.0, 1.0, (4,), np.float32)
    vector = spaces.Box(-1.0, 1.0, (3,), np.float32)

    def policy(self, cls=ShortcutPolicy, **kwargs):
        th.manual_seed(0)
        return cls(self.vector, self.action, lambda _: 1e-3, net_arch=[16], n_critics=2, **kwargs)

    def test_checkpoints_serve_any_number_of_steps(self, tmp_path):
        """But not another smallest step, nor another family."""
        self.policy(denoising_steps=4).save(tmp_path / "bc.zip")
        one = self.policy(denoising_steps=1)
        with th.no_grad():
            for parameter in one.parameters():
                parameter.zero_()
        one.load_pretrained(tmp_path / "bc.zip")
        assert all(th.equal(a, b) for a, b in zip(one.actor.parameters(), self.policy().actor.parameters(), strict=True))
        with pytest.raises(ValueError, match="max_steps=8, policy_kwargs want 16"):
            self.policy(max_steps=16).load_pretrained(tmp_path / "bc.zip")
        with pytest.raises(ValueError, match="holds a ShortcutPolicy, wanted a FlowPolicy"):
            self.policy(FlowPolicy).load_pretrained(tmp_path / "bc.zip")
        self.policy(FlowPolicy).save(tmp_path / "flow.zip")
        with pytest.raises(ValueError, match="holds a FlowPolicy, wanted a ShortcutPolicy"):
            self.policy().load_pretrained(tmp_path / "flow.zip")

    @pytest.mark.parametrize("cls", [ShortcutPolicy, dppo.ShortcutPolicy])
    def test_the_ema_actor_teaches(self, cls, tmp_path):
        """In new and in loaded policies."""
        policy = self.policy(cls) if cls is ShortcutPolicy else cls(self.vector, self.action, lambda _: 1e-3, net_arch=[16])
        policy.save(tmp_path / "policy.zip")
        for p in (policy, cls.load(tmp_path / "policy.zip", device="cpu")):
            assert p.actor.gcp._teacher == (p.actor_ema.gcp,) and p.actor_ema.gcp._teacher == ()
            assert len(p.actor.optimizer.param_groups[0]["params"]) == len(list(p.actor.parameters()))
            assert p.actor_ema.gcp.state_dict().keys() == p.actor.gcp.state_dict().keys()

    def test_save_and_load(self, tmp_path):
        policy = self.policy(denoising_steps=2, max_steps=4)
        policy.save(tmp_path / "policy.zip")
        observation = np.ones((2, 3), np.float32)
        loaded = ShortcutPolicy.load(tmp_path / "policy.zip", device="cpu")
        assert loaded.actor.gcp.max_steps == 4 and loaded.actor.gcp.denoising_steps == 2
        np.testing.assert_array_equal(*(p.predict(observation, deterministic=True)[0] for p in (policy, loaded)))

    def test_ogpo_reaches_the_optimum_of_a_bandit(self):
        model = bandit_learner("ShortcutPolicy", denoising_steps=2, noise_std=0.2).learn(600)
        actions, _ = model.predict(np.zeros((200, 1), np.float32))
        assert np.abs(actions.mean(axis=0) - 0.5).max() < 0.12
        assert model.policy.gcp_class is ShortcutGCP and issubclass(ShortcutGCP, FlowGCP)
