"""DiffusionGCP: one likelihood for sampling and scoring, closed forms, behaviour cloning, parts of chains; OGPO on it."""

import math

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from ogpo_sb3.common.policies import DiffusionPolicy
from ogpo_sb3.gcp import DiffusionGCP, FlowGCP
from ogpo_sb3.gcp.diffusion import cosine_signal
from ogpo_sb3.gcp.networks import VelocityNet

from tests.toys import bandit_learner

F, D = 3, 6


def make(family=DiffusionGCP, **kwargs):
    th.manual_seed(0)
    return family(F, D, net_arch=(32, 32), **{"denoising_steps": 5, **kwargs})


VARIANTS = {
    "ddpm": dict(),
    "ddim": dict(eta=0.0),
    "half": dict(eta=0.5, min_noise_std=0.02),
    "no floor": dict(min_noise_std=0.0),
    "unclamped": dict(denoised_clip=None),
    "unet": dict(network="unet", chunk_size=3, unet_channels=(8, 16)),
}


@pytest.mark.parametrize("norm", ["mean", "sum"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_scoring_equals_sampling(variant, norm):
    """At equal parameters the ratio is one."""
    gcp = make(ratio_norm=norm, **VARIANTS[variant])
    features = th.randn(64, F)
    with th.no_grad():
        chain = gcp.sample_chain(features, 2)
        scored = gcp.log_prob_of(gcp.condition(features), chain.states, th.arange(64).repeat_interleave(2))
    assert chain.states.shape == (6, 128, D)
    th.testing.assert_close(scored, chain.log_prob, rtol=0, atol=1e-5 if norm == "mean" else 2e-3)


def signal_by_hand(steps):
    """abar_n, number by number."""
    bar, out = 1.0, [1.0]
    for n in range(1, steps + 1):
        f = [math.cos((m / steps + 0.008) / 1.008 * math.pi / 2) ** 2 for m in (n - 1, n)]
        bar *= 1 - min(1 - f[1] / f[0], 0.999)
        out.append(bar)
    return out


def ddpm_step_by_hand(x, eps, n, bars, floor):
    """The posterior of q(x_{n-1} | x_n, x_0) in its textbook form, for one number (eta = 1)."""
    bar, previous = bars[n], bars[n - 1]
    beta = 1 - bar / previous
    x0 = min(max((x - math.sqrt(1 - bar) * eps) / math.sqrt(bar), -1.0), 1.0)
    mean = (math.sqrt(previous) * beta * x0 + math.sqrt(1 - beta) * (1 - previous) * x) / (1 - bar)
    return mean, max(math.sqrt(beta * (1 - previous) / (1 - bar)), floor)


def ddim_step_by_hand(x, eps, n, bars):
    bar, previous = bars[n], bars[n - 1]
    x0 = min(max((x - math.sqrt(1 - bar) * eps) / math.sqrt(bar), -1.0), 1.0)
    direction = (x - math.sqrt(bar) * x0) / math.sqrt(1 - bar)
    return math.sqrt(previous) * x0 + math.sqrt(1 - previous) * direction


def test_schedule_is_the_cosine():
    np.testing.assert_allclose(cosine_signal(20).numpy(), signal_by_hand(20), rtol=1e-12)
    assert (cosine_signal(20).diff() < 0).all()


def test_log_prob_against_a_slow_loop():
    """The likelihood is the product of the textbook posterior's densities, computed number by number in float64."""
    gcp = make(ratio_norm="sum", min_noise_std=0.2).double()
    features, states = th.randn(4, F, dtype=th.float64), th.randn(6, 4, D, dtype=th.float64)
    steps, bars = gcp.step_log_prob(features, states), signal_by_hand(5)
    for b in range(4):
        for i in range(5):
            n = 5 - i
            t = th.tensor([n / 5], dtype=th.float64)
            eps = gcp.predicted_noise(features[b : b + 1], states[i, b : b + 1], t)[0]
            total = 0.0
            for d in range(D):
                mean, std = ddpm_step_by_hand(states[i, b, d].item(), eps[d].item(), n, bars, 0.2)
                total += -0.5 * ((states[i + 1, b, d].item() - mean) / std) ** 2 - math.log(std * math.sqrt(2 * math.pi))
            assert steps[i, b].item() == pytest.approx(total, rel=1e-4, abs=1e-4)
    th.testing.assert_close(gcp.chain_log_prob(features, states), steps.sum(0))


def test_deterministic_sampler_is_ddim():
    """Against a loop in float64, from the same noise; only the result is clamped."""
    gcp = make().double()
    features, noise, bars = th.randn(4, F, dtype=th.float64), th.randn(4, D, dtype=th.float64), signal_by_hand(5)
    with th.no_grad():
        sampled = gcp.sample(features, noise)
        x = noise.clone()
        for n in range(5, 0, -1):
            eps = gcp.predicted_noise(features, x, th.full((4,), n / 5, dtype=th.float64))
            for b in range(4):
                for d in range(D):
                    x[b, d] = ddim_step_by_hand(x[b, d].item(), eps[b, d].item(), n, bars)
    th.testing.assert_close(sampled, x.clamp(-1, 1), rtol=0, atol=1e-5)
    assert th.equal(gcp.sample(features, noise), gcp.sample(features, noise))


class _Gaussian(VelocityNet):
    """The exact noise prediction for data N(mean, std^2), one dimension; the time tells abar."""

    mean, std = 0.2, 0.3

    def __init__(self, steps):
        super().__init__()
        self.signal = cosine_signal(steps).float()
        self.steps = steps

    def condition(self, features):
        return features

    def embed_times(self, t):
        return self.signal[(t * self.steps).round().long()][:, None]

    def forward(self, condition, time, x):
        return (1 - time).sqrt() * (x - time.sqrt() * self.mean) / (time * self.std**2 + 1 - time)


def moments_by_hand(steps, eta):
    """Mean and standard deviation that each sampler reaches with the exact denoiser: every step is linear in x."""
    bars, m, v = signal_by_hand(steps), 0.0, 1.0
    data_mean, data_var = _Gaussian.mean, _Gaussian.std**2
    for n in range(steps, 0, -1):
        bar, previous = bars[n], bars[n - 1]
        spread = bar * data_var + 1 - bar
        # eps = sqrt(1 - bar) (x - sqrt(bar) data_mean) / spread, hence x0 = p x + q
        p = (1 - (1 - bar) / spread) / math.sqrt(bar)
        q = (1 - bar) / spread * data_mean
        std = eta * math.sqrt((1 - previous) / (1 - bar) * (1 - bar / previous))
        along = math.sqrt(max(1 - previous - std**2, 0.0) / (1 - bar))
        gain = math.sqrt(previous) * p + along * (1 - math.sqrt(bar) * p)
        shift = (math.sqrt(previous) - along * math.sqrt(bar)) * q
        m, v = gain * m + shift, gain**2 * v + std**2
    return m, math.sqrt(v)


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("steps", [10, 100])
def test_gaussian_data_in_closed_form(steps, eta):
    """With the exact denoiser of Gaussian data every step is linear: the marginals are known, and right for many steps."""
    th.manual_seed(0)
    gcp = DiffusionGCP(1, 1, (), steps, min_noise_std=0.0, eta=max(eta, 1e-3), denoised_clip=None, noise_clip=10.0)
    gcp.denoiser_net = _Gaussian(steps)
    features = th.zeros(40_000, 1)
    with th.no_grad():
        drawn = gcp.sample_chain(features).states[-1]
        mean, std = moments_by_hand(steps, max(eta, 1e-3))
        assert drawn.mean().item() == pytest.approx(mean, abs=0.006) and drawn.std().item() == pytest.approx(std, rel=0.015)
        if steps == 100:
            assert mean == pytest.approx(0.2, abs=0.02) and std == pytest.approx(0.3, rel=0.06)
        noise = th.randn(40_000, 1)
        sampled, (mean, std) = gcp.sample(features, noise), moments_by_hand(steps, 0.0)
        kept = sampled.abs() < 1  # the sampler clamps its result, at more than 2.6 standard deviations
        assert sampled[kept].mean().item() == pytest.approx(mean, abs=0.01) and kept.float().mean() > 0.98
        assert np.corrcoef(sampled[kept], noise[kept])[0, 1] > 0.999  # the flow of the marginals is monotone


@pytest.mark.parametrize("family", [FlowGCP, DiffusionGCP])
def test_parts_of_chains(family):
    """A chain drawn in two parts is a chain: same draws, same likelihood, whose parts add up."""
    gcp = make(family, ratio_norm="sum")
    features = th.randn(16, F)
    with th.no_grad():
        whole = gcp.sample_chain(features)
        first = gcp.sample_chain(features, end=2)
        second = gcp.sample_chain(features, start=first.states[-1], begin=2)
        states = th.cat([first.states, second.states[1:]])
        assert states.shape == whole.states.shape
        th.testing.assert_close(gcp.chain_log_prob(features, states), first.log_prob + second.log_prob, rtol=0, atol=2e-3)
        condition, owner = gcp.condition(features), th.arange(16)
        parts = [
            gcp.transition_log_prob(condition, states[:3], owner),
            gcp.transition_log_prob(condition, states[2:], owner, 2),
        ]
        th.testing.assert_close(th.cat(parts), gcp.transition_log_prob(condition, states, owner), rtol=1e-5, atol=1e-4)
        noise = th.randn(16, D)
        middle = gcp.sample(features, noise, end=2)
        th.testing.assert_close(gcp.sample(features, middle, begin=2), gcp.sample(features, noise))
        assert (middle.abs() > 1).any(), "a state on the way is not clamped"


def test_the_last_step_has_no_density_without_a_floor():
    gcp = make(min_noise_std=0.0, ratio_norm="sum")
    features = th.randn(8, F)
    with th.no_grad():
        states = gcp.sample_chain(features).states
        steps = gcp.step_log_prob(features, states)
    assert gcp.stochastic_steps == 4 and (steps[-1] == 0).all() and (steps[:-1] != 0).all()


@pytest.mark.parametrize("family, std", [(FlowGCP, [0.05 * math.sqrt(1 - k / 5) for k in range(5)]), (DiffusionGCP, None)])
def test_entropy_is_the_expected_information(family, std):
    gcp = make(family)
    std = gcp.std_table.tolist() if std is None else std
    wanted = [math.log(s * math.sqrt(2 * math.pi * math.e)) for s in std]
    condition = gcp.condition(th.randn(7, F))
    for begin in (0, 2):
        assert gcp.entropy(condition, begin).item() == pytest.approx(np.mean(wanted[begin:]), abs=1e-5)


def test_noise_is_bounded_and_floored():
    gcp = make(min_noise_std=0.3, noise_clip=0.5)
    features = th.randn(256, F)
    with th.no_grad():
        states = gcp.sample_chain(features).states
        for i in range(5):
            eps = gcp.predicted_noise(features, states[i], th.full((256,), 1 - i / 5))
            mean = gcp._mean(states[i], eps, *(table[i] for table in gcp._split(features)[1][1:]))
            step = (states[i + 1] - mean).abs()
            assert (step <= 0.5 * gcp.std_table[i] + 1e-6).all() and step.max() > 0.45 * gcp.std_table[i]
    assert (gcp.std_table >= 0.3).all()


class _Echo(VelocityNet):
    """Takes the noisy chunk itself for the noise."""

    def condition(self, features):
        return features

    def embed_times(self, t):
        return t[:, None]

    def forward(self, condition, time, x):
        return x


def test_bc_loss_is_the_error_of_the_noise():
    """Its expectation in closed form for a network that repeats its input; weights select."""
    gcp, features, actions = make(), th.zeros(8, F), th.rand(8, D) * 2 - 1
    trained, gcp.denoiser_net = gcp.denoiser_net, _Echo()
    square, bars = actions.square().mean().item(), signal_by_hand(5)[1:]
    wanted = np.mean([bar * square + (math.sqrt(1 - bar) - 1) ** 2 for bar in bars])
    th.manual_seed(1)
    found = gcp.bc_loss(features.repeat(5000, 1), actions.repeat(5000, 1)).item()
    assert found == pytest.approx(wanted, rel=0.01)
    gcp.denoiser_net = trained

    def loss(actions, weights):
        th.manual_seed(3)
        return gcp.bc_loss(features, actions, weights).item()

    half = th.tensor([1.0] * 4 + [0.0] * 4)
    poisoned = actions.clone()
    poisoned[4:] = 0.77
    assert loss(actions, half) == pytest.approx(loss(poisoned, half)) and loss(actions, th.zeros(8)) == 0.0
    assert loss(actions, th.ones(8)) == pytest.approx(loss(actions, th.full((8, D), 0.3)))


@pytest.mark.parametrize("network", ["mlp", "unet"])
def test_bc_learns_a_conditional_bimodal_distribution(network):
    """Cloning +-0.4 around a mean that the features set, the same sign at both steps of a chunk: DDIM finds both modes."""
    th.manual_seed(0)
    options = dict(network="unet", chunk_size=2, unet_channels=(16,)) if network == "unet" else {}
    updates = 600 if network == "unet" else 800
    gcp = DiffusionGCP(1, 2, net_arch=(64, 64, 64), denoising_steps=10, **options)
    optimizer = th.optim.Adam(gcp.parameters(), lr=4e-3)
    for _ in range(updates):
        features = th.rand(128, 1) - 0.5
        actions = (features + 0.4 * (th.randint(2, (128, 1)).float() * 2 - 1)).expand(-1, 2)
        optimizer.zero_grad()
        gcp.bc_loss(features, actions).backward()
        optimizer.step()
    for mean in (-0.3, 0.3):
        with th.no_grad():
            residual = gcp.sample(th.full((1000, 1), mean)) - mean
        assert (residual.abs() - 0.4).abs().median() < 0.1
        assert 0.35 < (residual > 0).float().mean() < 0.65
        assert (residual[:, 0].sign() == residual[:, 1].sign()).float().mean() > 0.95, "both steps belong to one mode"


def test_the_unet_convolves_over_the_steps_of_a_chunk():
    """Entry t * d + j of a flat chunk is channel j at time t, before and after; features and time change the result."""
    net = make(network="unet", chunk_size=3, unet_channels=(8,)).denoiser_net
    features, t, x = th.randn(4, F), th.full((4,), 0.5), th.randn(4, D)
    with th.no_grad():
        out = net(net.condition(features), net.embed_times(t), x)
        channels = th.zeros(4, 2, 3)
        for step in range(3):
            for j in range(2):
                channels[:, j, step] = x[:, 2 * step + j]
        condition = net.condition(features) + net.embed_times(t)
        y = net.out(net.middle(net.down[0](channels, condition), condition))
        for step in range(3):
            for j in range(2):
                th.testing.assert_close(out[:, 2 * step + j], y[:, j, step])
        assert not th.allclose(out, net(net.condition(-features), net.embed_times(t), x))
        assert not th.allclose(out, net(net.condition(features), net.embed_times(t / 2), x))


@pytest.mark.parametrize(
    ("kwargs", "named"),
    [
        (dict(eta=1.5), "eta"),
        (dict(min_noise_std=-0.1), "min_noise_std"),
        (dict(min_noise_std=0.0, eta=0.0), "leaves no noise"),
        (dict(denoised_clip=0.0), "denoised_clip"),
        (dict(noise_clip=0.0), "noise_clip"),
        (dict(network="lstm"), "network"),
        (dict(network="unet", chunk_size=1), "chunk_size=1"),
        (dict(network="unet", chunk_size=4), "6 numbers cannot have 4 steps"),
        (dict(network="unet", chunk_size=6, unet_channels=()), "unet_channels"),
        (dict(denoising_steps=0), "denoising_steps"),
    ],
)
def test_bad_options_are_named(kwargs, named):
    with pytest.raises(ValueError, match=named):
        make(**kwargs)


class TestPolicy:
    action = spaces.Box(-1.0, 1.0, (4,), np.float32)
    vector = spaces.Box(-1.0, 1.0, (3,), np.float32)

    def policy(self, **kwargs):
        th.manual_seed(0)
        return DiffusionPolicy(
            self.vector, self.action, lambda _: 1e-3, net_arch=[16], n_critics=2, denoising_steps=3, **kwargs
        )

    def test_deterministic_is_one_ddim_sample_of_the_stored_latent(self):
        policy = self.policy()
        obs = np.stack([self.vector.sample() for _ in range(5)])
        expected = policy.actor_ema.sample(th.as_tensor(obs), policy.actor_ema.latent.expand(5, -1)).detach().numpy()
        np.testing.assert_allclose(policy.predict(obs, deterministic=True)[0], expected, rtol=1e-5)
        assert not np.allclose(policy.predict(obs)[0], policy.predict(obs)[0])

    def test_checkpoints_of_another_schedule_are_refused(self, tmp_path):
        """A noise-prediction network knows its K: nothing else would betray that it was trained for another."""
        self.policy().save(tmp_path / "bc.zip")
        other = DiffusionPolicy(self.vector, self.action, lambda _: 1e-3, net_arch=[16], n_critics=2, denoising_steps=4)
        with pytest.raises(ValueError, match="denoising_steps=3, policy_kwargs want 4"):
            other.load_pretrained(tmp_path / "bc.zip")
        same = self.policy(min_noise_std=0.2)
        with th.no_grad():
            for parameter in same.parameters():
                parameter.zero_()
        same.load_pretrained(tmp_path / "bc.zip")
        assert all(th.equal(a, b) for a, b in zip(same.actor.parameters(), self.policy().actor.parameters(), strict=True))

    def test_ogpo_reaches_the_optimum_of_a_bandit(self):
        model = bandit_learner("DiffusionPolicy", denoising_steps=3).learn(800)
        actions, _ = model.predict(np.zeros((200, 1), np.float32))
        assert np.abs(actions.mean(axis=0) - 0.5).max() < 0.12
        assert model.policy.gcp_class is DiffusionGCP
