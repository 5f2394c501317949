"""Kinds of critic heads: their losses against loops, what they learn, and that algorithms train, save and load with each."""

import math

import numpy as np
import pytest
import torch as th
from ogpo_sb3 import DPPO, DSRL, EXPO, OGPO, PARL
from ogpo_sb3.common.errors import TrainingDivergedError
from ogpo_sb3.critics import CriticEnsemble, HLGaussEnsemble, MIPQEnsemble, Regression, td_loss
from ogpo_sb3.critics.hl_gauss import smoothed, support_of

from tests.toys import Reach, reach_demonstrations

KINDS = {
    "mse": {},
    "hl_gauss": dict(v_min=-12.0, v_max=2.0, n_bins=31),
    "mip_q": dict(value_scale=5.0),
}


def randomised(ensemble):
    for parameter in ensemble.parameters():
        parameter.data += 0.1 * th.randn_like(parameter)
    return ensemble


def fit(ensemble, features, actions, target, steps=300, lr=3e-3):
    optimizer = th.optim.Adam(ensemble.parameters(), lr=lr)
    for _ in range(steps):
        optimizer.zero_grad()
        ensemble.loss(features, actions, Regression(target)).loss.backward()
        optimizer.step()
    return ensemble


class TestSquaredErrors:
    def test_several_regressions_are_the_sum_of_their_losses(self):
        th.manual_seed(0)
        ensemble = CriticEnsemble(2, 3, n_critics=4, net_arch=(8,))
        features, actions, y, returns = th.randn(6, 2), th.randn(6, 3), th.randn(6), th.randn(6)
        weights = th.tensor([1.0, 0.0, 1.0, 1.0, 0.0, 0.0])
        found = ensemble.loss(features, actions, Regression(y), Regression(returns, weights, 0.5))
        q = ensemble(features, actions)
        assert th.equal(found.values, q) and found.logged == {}
        assert th.equal(found.loss, td_loss(q, y) + 0.5 * td_loss(q, returns, weights))

    def test_targets_per_head(self):
        th.manual_seed(0)
        q, target, weights = th.randn(3, 4), th.randn(3, 4), th.rand(4)
        expected = sum((q[m, b] - target[m, b]) ** 2 for m in range(3) for b in range(4)) / 12
        th.testing.assert_close(td_loss(q, target), expected)
        expected = sum(weights[b] * (q[m, b] - target[m, b]) ** 2 for m in range(3) for b in range(4)) / 3 / weights.sum()
        th.testing.assert_close(td_loss(q, target, weights), expected)


class TestHLGauss:
    def test_a_target_becomes_a_histogram_with_its_mean(self):
        edges = th.linspace(-10.0, 5.0, 61)
        target = th.linspace(-8.0, 3.0, 200)  # farther than five standard deviations from the ends
        p = smoothed(target, edges, sigma=0.75 * 0.25)
        centres = (edges[1:] + edges[:-1]) / 2
        assert p.shape == (200, 60) and (p >= 0).all()
        th.testing.assert_close(p.sum(dim=-1), th.ones(200))
        th.testing.assert_close(p @ centres, target, atol=2e-4, rtol=0)
        # Its spread is that of the Gaussian and of the rounding to bins.
        variance = p @ centres.square() - (p @ centres).square()
        th.testing.assert_close(variance, th.full((200,), 0.1875**2 + 0.25**2 / 12), rtol=0.02, atol=1e-4)

    def test_at_the_ends_it_still_sums_to_one(self):
        edges = th.linspace(-1.0, 1.0, 9)
        th.testing.assert_close(smoothed(th.tensor([-1.0, 1.0]), edges, 0.2).sum(dim=-1), th.ones(2))

    def test_loss_and_value_against_a_loop(self):
        th.manual_seed(0)
        bins, v_min, v_max, ratio = 7, -3.0, 1.0, 0.6
        ensemble = randomised(HLGaussEnsemble(2, 3, 3, (8,), v_min=v_min, v_max=v_max, n_bins=bins, sigma_ratio=ratio))
        features, actions = th.randn(5, 2), th.randn(5, 3)
        target, weights = th.tensor([-2.5, -1.0, 0.3, 4.0, -9.0]), th.tensor([1.0, 0.5, 0.0, 2.0, 1.0])  # two outside
        found = ensemble.loss(features, actions, Regression(target, weights))
        logits = ensemble.outputs(features, actions)
        assert logits.shape == (3, 5, bins)
        width = (v_max - v_min) / bins
        total = 0.0
        for m in range(3):
            for b in range(5):
                y, sigma = min(max(target[b].item(), v_min), v_max), ratio * width
                cdf = [math.erf((v_min + i * width - y) / (sigma * math.sqrt(2))) for i in range(bins + 1)]
                normaliser = sum(math.exp(x) for x in logits[m, b].tolist())
                value = 0.0
                for i in range(bins):
                    probability = math.exp(logits[m, b, i].item()) / normaliser
                    value += probability * (v_min + (i + 0.5) * width)
                    share = (cdf[i + 1] - cdf[i]) / (cdf[-1] - cdf[0])
                    total -= weights[b].item() * share * math.log(probability) / 3 / weights.sum().item()
                assert found.values[m, b].item() == pytest.approx(value, rel=1e-5)
        assert found.loss.item() == pytest.approx(total, rel=1e-5)
        assert found.logged["clamped_targets"].item() == pytest.approx(2 / 5)
        th.testing.assert_close(ensemble(features, actions), found.values)

    def test_learns_the_mean_of_random_targets(self):
        # Half -4, half 0: a histogram with two humps, whose mean is -2.
        th.manual_seed(0)
        ensemble = HLGaussEnsemble(1, 1, 2, (16,), v_min=-6.0, v_max=2.0, n_bins=33)
        features, actions, target = th.zeros(64, 1), th.zeros(64, 1), th.tensor([-4.0, 0.0]).repeat(32)
        fit(ensemble, features, actions, target, steps=400, lr=0.02)
        q = ensemble(features[:1], actions[:1])
        th.testing.assert_close(q, th.full((2, 1), -2.0), atol=0.03, rtol=0)
        probabilities = ensemble.outputs(features[:1], actions[:1]).softmax(-1)[0, 0]
        at_mean = (ensemble.centres + 2.0).abs().argmin()
        assert probabilities[at_mean] < 0.01, "both humps are kept"

    def test_a_support_from_the_range_of_targets_leaves_its_ends_unbiased(self):
        v_min, v_max = support_of((-100.0, 0.0), n_bins=256, sigma_ratio=0.75)
        assert -102.0 < v_min < -100.0 and 0.0 < v_max < 2.0
        edges = th.linspace(v_min, v_max, 257, dtype=th.float64)
        width = (v_max - v_min) / 256
        assert v_max / width == pytest.approx(3 * 0.75), "three standard deviations"
        ends = th.tensor([-100.0, 0.0], dtype=th.float64)
        mean = smoothed(ends, edges, 0.75 * width) @ ((edges[1:] + edges[:-1]) / 2)
        th.testing.assert_close(mean, ends, atol=0.02 * width, rtol=0)

    def test_an_infinite_target_does_not_pass_as_the_supports_end(self):
        ensemble = HLGaussEnsemble(1, 1, 2, (4,), v_min=-1.0, v_max=1.0, n_bins=5)
        for bad in (math.inf, math.nan):
            assert not ensemble.loss(th.zeros(2, 1), th.zeros(2, 1), Regression(th.tensor([0.0, bad]))).loss.isfinite()


class TestMIPQ:
    def head(self, ensemble, m, features, action, noisy, time):
        """One network at one row, written out."""
        x = th.cat([features, action, th.tensor([noisy / ensemble.value_scale, time])])
        first, norm, _, last = ensemble.net
        x = x @ first.weight[m] + first.bias[m, 0]
        x = th.nn.functional.gelu(th.nn.functional.layer_norm(x, x.shape, norm.weight[m, 0], norm.bias[m, 0]))
        return (x @ last.weight[m] + last.bias[m, 0]).item()

    def test_values_are_the_two_steps_at_the_fixed_noises(self):
        th.manual_seed(0)
        u, t, n = 2.0, 0.8, 3
        ensemble = randomised(
            MIPQEnsemble(2, 3, 2, (8,), refinement_time=t, noise_bound=u, n_noises=n, value_scale=4.0)
        ).requires_grad_(False)
        th.testing.assert_close(ensemble.noises, th.tensor([-u * 2 / 3, 0.0, u * 2 / 3]))
        features, actions = th.randn(4, 2), th.randn(4, 5, 3)
        q = ensemble(features, actions)
        assert q.shape == (6, 4, 5) and ensemble.n_heads == 6
        for m, j, s, g in ((0, 0, 0, 0), (0, 2, 3, 1), (1, 1, 2, 4), (1, 2, 0, 3)):
            z = ensemble.noises[j].item()
            first = self.head(ensemble, m, features[s], actions[s, g], z, 0.0)
            second = self.head(ensemble, m, features[s], actions[s, g], (1 - t) * z + first, t)
            assert q[m * n + j, s, g].item() == pytest.approx(second, rel=1e-4)
        th.testing.assert_close(ensemble(features, actions[:, 0]), q[..., 0])

    def test_loss_against_a_loop(self):
        th.manual_seed(0)
        u, t = 1.5, 0.9
        ensemble = randomised(MIPQEnsemble(2, 3, 2, (8,), refinement_time=t, noise_bound=u)).requires_grad_(False)
        features, actions, y, returns = th.randn(4, 2), th.randn(4, 3), th.randn(4), th.randn(4)
        weights = th.tensor([1.0, 0.0, 2.0, 0.5])
        th.manual_seed(7)
        found = ensemble.loss(features, actions, Regression(y), Regression(returns, weights, 0.25))
        th.manual_seed(7)
        z = u * (2 * th.rand(2, 4) - 1)
        total = 0.0
        for m in range(2):
            for b in range(4):
                first = self.head(ensemble, m, features[b], actions[b], z[m, b].item(), 0.0)
                for target, weight in ((y[b], 1 / 8), (returns[b], 0.25 * weights[b] / weights.sum() / 2)):
                    noisy = (1 - t) * z[m, b].item() + target.item()
                    second = self.head(ensemble, m, features[b], actions[b], noisy, t)
                    total += weight * ((first - target) ** 2 + (second - target) ** 2)
                at_own = self.head(ensemble, m, features[b], actions[b], (1 - t) * z[m, b].item() + first, t)
                assert found.values[m, b].item() == pytest.approx(at_own, rel=1e-4)
        assert found.loss.item() == pytest.approx(float(total), rel=1e-4)

    def test_no_gradient_flows_through_the_target_or_between_networks(self):
        th.manual_seed(0)
        ensemble = MIPQEnsemble(1, 1, 3, (8,))
        target = th.randn(5, requires_grad=True)
        ensemble.loss(th.randn(5, 1), th.randn(5, 1), Regression(target)).loss.backward()
        assert target.grad is None
        ensemble.zero_grad()
        ensemble(th.randn(5, 1), th.randn(5, 1))[1].sum().backward()
        for parameter in ensemble.parameters():
            assert parameter.grad[1].abs().sum() > 0
            assert parameter.grad[0].abs().sum() == 0 and parameter.grad[2].abs().sum() == 0

    def test_targets_per_head_are_averaged_over_a_networks_noises(self):
        th.manual_seed(0)
        ensemble = MIPQEnsemble(1, 1, 2, (8,), n_noises=3)
        features, actions, target = th.randn(4, 1), th.randn(4, 1), th.randn(6, 4)
        th.manual_seed(1)
        found = ensemble.loss(features, actions, Regression(target)).loss
        th.manual_seed(1)
        mean = th.stack([target[:3].mean(dim=0), target[3:].mean(dim=0)])
        assert th.equal(found, ensemble.loss(features, actions, Regression(mean)).loss)


@pytest.mark.parametrize("kind", [HLGaussEnsemble, MIPQEnsemble])
class TestBoth:
    def make(self, kind, **kwargs):
        options = dict(v_min=-4.0, v_max=2.0, n_bins=41) if kind is HLGaussEnsemble else {}
        return kind(2, 2, 3, (32, 32), **options, **kwargs)

    def test_fits_a_known_q(self, kind):
        th.manual_seed(0)
        states, actions = 2 * th.rand(512, 2) - 1, 2 * th.rand(512, 2) - 1
        known = lambda s, a: -(s - a).square().sum(dim=-1)  # noqa: E731
        ensemble = fit(self.make(kind), states, actions, known(states, actions), steps=400)
        s, a = 1.6 * th.rand(200, 2) - 0.8, 1.6 * th.rand(200, 5, 2) - 0.8
        error = ensemble(s, a) - known(s[:, None], a)
        assert error.abs().mean() < 0.12, "the values' spread is 1"

    def test_blocks_of_rows_give_the_same(self, kind, monkeypatch):
        from ogpo_sb3.critics import ensemble as module

        th.manual_seed(0)
        critic, features, actions = randomised(self.make(kind)), th.randn(7, 2), th.randn(7, 5, 2)
        at_once = critic(features, actions).detach()
        monkeypatch.setattr(module, "CPU_ROWS", 4)
        with th.no_grad():
            th.testing.assert_close(critic(features, actions), at_once)

    def test_the_values_gradient_with_respect_to_actions(self, kind):
        th.manual_seed(0)
        critic = randomised(self.make(kind)).double()
        features, actions = th.randn(2, 2, dtype=th.float64), th.randn(2, 2, dtype=th.float64, requires_grad=True)
        assert th.autograd.gradcheck(lambda a: critic(features, a), actions)


def small(algorithm=OGPO, kind="hl_gauss", options=None, **kwargs):
    head = dict(critic_head=kind, critic_head_kwargs=KINDS[kind] if options is None else options)
    kwargs = dict(learning_starts=40, batch_size=32, actor_batch_size=8, seed=0, device="cpu", chunk_size=2) | kwargs
    policy = dict(net_arch=[16], critic_net_arch=[16, 16], n_critics=3, denoising_steps=2, **kwargs.pop("policy_kwargs", {}))
    if algorithm is OGPO:
        kwargs.setdefault("group_size", 4)
    return algorithm("FlowPolicy", Reach(), policy_kwargs={**policy, **head}, **kwargs)


class TestAlgorithms:
    @pytest.mark.parametrize("kind", ["hl_gauss", "mip_q"])
    def test_trains_saves_and_loads_bit_for_bit(self, kind, tmp_path):
        model = small(kind=kind, mc_coef=0.5, best_of_n=2)
        before = [p.clone() for p in model.critic.parameters()]
        model.learn(60)
        assert model._n_updates > 0 and all(not th.equal(a, b) for a, b in zip(before, model.critic.parameters(), strict=True))
        model.save(tmp_path / "model.zip")
        loaded = OGPO.load(tmp_path / "model.zip", device="cpu")
        obs = np.array([[0.1, 0.7], [-0.3, -0.5]], np.float32)
        tensors, actions = th.as_tensor(obs), th.rand(2, 3, 2)
        assert th.equal(model.critic_target(tensors, actions), loaded.critic_target(tensors, actions))
        assert loaded.policy.critic_head == kind
        assert np.array_equal(model.predict(obs, deterministic=True)[0], loaded.predict(obs, deterministic=True)[0])

    @pytest.mark.parametrize("kind", ["hl_gauss", "mip_q"])
    def test_goes_on_from_a_checkpoint_bit_for_bit(self, kind, tmp_path):
        model = small(kind=kind).learn(60)
        path = model.save_checkpoint(tmp_path / "run")
        model.restart_env()
        model.learn(20, reset_num_timesteps=False)
        again = OGPO.load_checkpoint(path, Reach(), device="cpu")
        again.learn(20, reset_num_timesteps=False)
        for a, b in zip(model.policy.state_dict().values(), again.policy.state_dict().values(), strict=True):
            assert th.equal(a, b)

    @pytest.mark.parametrize("kind", ["hl_gauss", "mip_q"])
    @pytest.mark.parametrize(("algorithm", "kwargs"), [(DSRL, dict(noise_aliasing=True)), (EXPO, {}), (PARL, {})])
    def test_other_algorithms(self, algorithm, kwargs, kind):
        model = small(algorithm, kind, **kwargs)
        networks = ["critic", *(["noise_critic"] if algorithm is DSRL else [])]
        before = {name: [p.clone() for p in getattr(model, name).parameters()] for name in networks}
        model.learn(60)
        for name, parameters in before.items():
            assert any(not th.equal(a, b) for a, b in zip(parameters, getattr(model, name).parameters(), strict=True))

    @pytest.mark.parametrize("kind", ["hl_gauss", "mip_q"])
    def test_cal_ql(self, kind):
        settings = dict(demonstrations=reach_demonstrations(4), critic_pretrain_updates=30, critic_learning_rate=3e-3)
        gaps = []
        for coef in (0.0, 20.0):
            model = small(kind=kind, calql_coef=coef, **settings)
            model.pretrain_critic(progress_bar=False)
            batch = model.demonstration_buffer.sample(64)
            unseen = 2 * th.rand(64, 20, 2) - 1
            with th.no_grad():
                seen = model.critic(batch.observations, batch.actions)
                gaps.append((model.critic(batch.observations, unseen).mean(dim=-1) - seen).mean().item())
        assert gaps[1] < gaps[0] - 0.1, "unseen actions are valued lower than the data's"

    def test_the_share_of_clamped_targets_is_logged(self):
        model = small(options=dict(v_min=-0.5, v_max=0.5, n_bins=11))  # rewards are -1 and 0
        model.learn(60)
        assert model.logger.name_to_value["train/clamped_targets"] > 0.2

    def test_the_support_follows_from_target_range(self, tmp_path):
        model = small(options=dict(n_bins=64), target_range=(-10.0, 0.0))
        ensemble = model.critic.ensemble
        assert (ensemble.v_min, ensemble.v_max) == support_of((-10.0, 0.0), 64) and ensemble.v_min < -10.0
        model.save(tmp_path / "model.zip")
        assert OGPO.load(tmp_path / "model.zip").critic.ensemble.v_min == ensemble.v_min
        given = small(options=dict(v_min=-20.0, v_max=1.0), target_range=(-10.0, 0.0)).critic.ensemble
        assert (given.v_min, given.v_max) == (-20.0, 1.0)

    def test_an_implicit_ensemble_has_heads_to_disagree(self):
        model = small(kind="mip_q", options=dict(n_noises=4), q_agg="subsample", policy_kwargs={}, advantage="penultimate")
        assert model.policy.n_heads == 12 and model.critic(th.zeros(2, 2), th.zeros(2, 2)).shape == (12, 2)
        model.learn(60)

    def test_values_that_are_not_finite_stop_the_run(self):
        model = small(kind="hl_gauss").learn(50)
        model.critic_target.ensemble.net[-1].bias.data.fill_(math.nan)
        with pytest.raises(TrainingDivergedError, match="critic_loss"):
            model._update_critic(8)

    @pytest.mark.parametrize(
        ("kind", "options", "message"),
        [
            ("hl_gauss", {}, "v_min=None and v_max=None"),
            ("hl_gauss", dict(v_min=0.0), "v_max=None"),
            ("hl_gauss", dict(v_min=1.0, v_max=1.0), "finite v_min < v_max, found 1.0 and 1.0"),
            ("hl_gauss", dict(v_min=0.0, v_max=math.inf), "finite v_min < v_max"),
            ("hl_gauss", dict(v_min=0.0, v_max=1.0, n_bins=1), "n_bins must be at least 2, found 1"),
            ("hl_gauss", dict(v_min=0.0, v_max=1.0, sigma_ratio=0.0), "sigma_ratio must be positive and finite, found 0.0"),
            ("hl_gauss", dict(v_min=0.0, v_max=1.0, bins=3), r"\['bins'\] are unknown to critic_head='hl_gauss'"),
            ("mip_q", dict(refinement_time=1.0), "refinement_time must lie between 0 and 1, found 1.0"),
            ("mip_q", dict(noise_bound=0.0), "noise_bound must be positive and finite, found 0.0"),
            ("mip_q", dict(value_scale=-1.0), "value_scale must be positive and finite, found -1.0"),
            ("mip_q", dict(n_noises=0), "n_noises must be at least 1, found 0"),
            ("mse", dict(n_bins=3), r"\['n_bins'\] are unknown to critic_head='mse', which has no options"),
        ],
    )
    def test_refusals(self, kind, options, message):
        with pytest.raises(ValueError, match=message):
            small(kind=kind, options=options)

    def test_more_refusals(self):
        with pytest.raises(ValueError, match=r"critic_head must be one of .*, found 'c51'"):
            OGPO("FlowPolicy", Reach(), policy_kwargs=dict(critic_head="c51"))
        with pytest.raises(ValueError, match="n_bins=4 is too few"):
            small(options=dict(n_bins=4), target_range=(-1.0, 0.0))
        with pytest.raises(ValueError, match="critic_head='mip_q' is of critics of actions"):
            DPPO("FlowPolicy", Reach(), policy_kwargs=dict(critic_head="mip_q"))
