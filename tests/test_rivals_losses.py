"""The updates of QC, EXPO, DSRL, FQL, SteerResidual, RLPD and PA-RL against slow references, state by state."""

import numpy as np
import pytest
import torch as th
from ogpo_sb3 import DSRL, EXPO, FQL, PARL, QC, RLPD, SACfD, SteerResidual
from ogpo_sb3.common.gaussian import Temperature
from stable_baselines3.common.distributions import SquashedDiagGaussianDistribution

from tests.toys import Reach, reach_demonstrations

B = 12
NETS = dict(net_arch=[16], n_critics=3, denoising_steps=3)


def filled(cls, steps=150, **kwargs):
    """A model with replay of short chunks and no update done; networks and their copies apart."""
    policy_kwargs = {**NETS, **kwargs.pop("policy_kwargs", {})}
    sizes = dict(learning_starts=10_000, batch_size=B, actor_batch_size=B, chunk_size=3, gamma=0.9, seed=0, device="cpu")
    model = cls("FlowPolicy", Reach(), policy_kwargs=policy_kwargs, **{**sizes, **kwargs}).learn(steps)
    model.policy.subsample_bon = False
    th.manual_seed(1)
    with th.no_grad():
        for parameter in model.policy.parameters():
            parameter += 0.05 * th.randn_like(parameter)
    return model


def reseed():
    th.manual_seed(7)
    np.random.seed(7)


def ode(actor, obs, z):
    """One Euler path, step by step."""
    x, steps = z.clone(), actor.gcp.denoising_steps
    for i in range(steps):
        x = x + actor.gcp.velocity(obs, x[None], th.tensor([i / steps]))[0] / steps
    return x.clamp(-1, 1)


def values(critic, obs, action):
    """(M,) values of one action."""
    return critic(obs, action[None])[:, 0]


def squashed(actor, obs, xi, context=None):
    """u and its log-density as Stable-Baselines3 computes them, from the same standard normal draw."""
    mean, std = (y[0] for y in actor(obs, None if context is None else context[None]))
    raw = mean + std * xi
    normal = th.distributions.Normal(mean, std).log_prob(raw).sum()
    return raw.tanh(), normal - th.log(1 - raw.tanh() ** 2).sum()


def td_loss(model, batch, value_of, action_of=lambda batch, b: batch.actions[b]):
    """Mean over heads and windows of (Q - R - gamma^k (1 - done) V)^2."""
    total = 0.0
    for b in range(B):
        k = int(batch.valid[b].sum())
        reward = sum(0.9**i * batch.step_rewards[b, i].item() for i in range(k))
        target = reward + (1 - batch.dones[b].item()) * 0.9**k * value_of(batch.next_observations[b : b + 1], b)
        q = values(model.critic, batch.observations[b : b + 1], action_of(batch, b))
        total += ((q - target) ** 2).mean().item() / B
    assert 1 < len({int(v) for v in batch.valid.sum(dim=1)}), "chunks that an end cut short are among them"
    return total


def check_critic(model, value_of, **kwargs):
    """``value_of(batch)`` draws what the update draws and returns the value of one next state."""
    reseed()
    batch = model._sample(B)
    with th.no_grad():
        wanted = td_loss(model, batch, value_of(batch), **kwargs)
    reseed()
    found = model._critic_step(model._sample(B))["critic_loss"].item()
    assert found == pytest.approx(wanted, rel=1e-5)


def check_step(model, step, reference, key, *more):
    """``reference(batch)`` draws what the update draws and returns the loss."""
    reseed()
    batch = model._sample(B)
    with th.no_grad():
        wanted = reference(batch)
    reseed()
    found = getattr(model, step)(model._sample(B), *more)
    assert found[key].item() == pytest.approx(float(wanted), rel=1e-5, abs=1e-7)


def sde(model, obs, n):
    return model.actor_ema.sample_chain(obs, n).actions.unflatten(0, (-1, n))


# -- squashed Gaussians ---------------------------------------------------------------------------------------------


def test_squashed_gaussian_is_that_of_stable_baselines3():
    model = filled(RLPD, steps=5)
    obs = th.randn(6, 2)
    mean, std = model.policy.gaussian(obs)
    reseed()
    u, log_prob = model.policy.gaussian.sample(obs)
    theirs = SquashedDiagGaussianDistribution(3).proba_distribution(mean, std.log())
    th.testing.assert_close(log_prob, theirs.log_prob(u, th.atanh(u)), rtol=1e-3, atol=1e-3)
    th.testing.assert_close(model.policy.gaussian.mode(obs), theirs.mode())
    many, log_probs = model.policy.gaussian.sample(obs, n=4)
    assert many.shape == (6, 4, 3) and log_probs.shape == (6, 4) and th.isfinite(log_probs).all()


def test_temperature_moves_towards_the_entropy_wanted():
    """Its gradient is -(log pi + target): alpha grows where the entropy is below the target, and falls above it."""
    for log_prob, sign in ((th.full((5,), 4.0), -1), (th.full((5,), -4.0), 1)):
        temperature = Temperature(0.5)
        temperature.loss(log_prob, target_entropy=-2.0).backward()
        assert temperature.log_value.grad.sign() == sign and temperature.value() == pytest.approx(0.5)


# -- QC -------------------------------------------------------------------------------------------------------------


def test_qc_critic():
    """Q_target at the candidate the online critics choose; in the official form over all of replay."""
    model = filled(QC, best_of_n=4)

    def value_of(batch):
        latents = th.randn(B, 4, 3)

        def value(nxt, b):
            candidates = [ode(model.actor_ema, nxt, latents[b, n]) for n in range(4)]
            best = max(candidates, key=lambda a: values(model.critic, nxt, a).mean().item())
            return values(model.critic_target, nxt, best).mean().item()

        return value

    check_critic(model, value_of)


@pytest.mark.parametrize("cls", [QC, EXPO, FQL])
def test_replay_is_cloned_and_with_a_success_buffer_successes_alone(cls):
    for success_bc in (False, True):
        model = filled(cls, steps=300, success_bc=success_bc)
        failed = ~model.replay_buffer.successes & (np.arange(model.replay_buffer.buffer_size)[:, None] < 300)
        assert failed.any() and model.replay_buffer.n_success >= B
        model.replay_buffer.actions[failed] = 0.77
        seen = []
        model._run = lambda step, *inputs, seen=seen: "cloning" in step.__name__ and seen.append(inputs[0].actions)
        for _ in range(20):
            model._update_actor()
        assert len(seen) == 20 and bool(th.isclose(th.cat(seen), th.tensor(0.77)).any()) is not success_bc
    empty = filled(cls, steps=10, success_bc=True)
    before = [p.clone() for p in empty.actor.parameters()]
    empty._update_actor()
    assert all(th.equal(a, b) for a, b in zip(before, empty.actor.parameters(), strict=True)), "silent without successes"


# -- EXPO -----------------------------------------------------------------------------------------------------------


def expo_value(model, batch, n):
    base = sde(model, batch.next_observations, n)
    xi = th.randn(B, n, 3)

    def value(nxt, b):
        candidates = list(base[b])
        for i in range(n):
            u, _ = squashed(model.policy.edit_actor, nxt, xi[b, i], base[b, i])
            candidates.append((base[b, i] + model.edit_scale * u).clamp(-1, 1))
        best = max(candidates, key=lambda a: values(model.critic_target, nxt, a).min().item())
        return values(model.critic_target, nxt, best).mean().item()

    return value


def test_expo_critic():
    """gamma^k and the best of base and edited actions (the official code bootstraps with gamma)."""
    model = filled(EXPO, best_of_n=3, edit_scale=0.3)
    check_critic(model, lambda batch: expo_value(model, batch, 3))


def soft_loss(model, actor, temperature, batch, action_of, context=None, critic=None, how="mean"):
    """mean(alpha log pi - Q), and what was drawn."""
    xi, total = th.randn(B, 3), 0.0
    for b in range(B):
        obs = batch.observations[b : b + 1]
        u, log_prob = squashed(actor, obs, xi[b], None if context is None else context[b])
        q = values(model.critic if critic is None else critic, obs, action_of(u, b))
        total += (temperature.log_value.exp() * log_prob - q.mean()).item() / B
    return total


def test_expo_edit():
    model = filled(EXPO, edit_scale=0.3)

    def reference(batch):
        base = sde(model, batch.observations, 1)[:, 0]
        policy = model.policy
        return soft_loss(
            model,
            policy.edit_actor,
            policy.edit_temperature,
            batch,
            lambda u, b: (base[b] + 0.3 * u).clamp(-1, 1),
            context=base,
        )

    check_step(model, "_edit_step", reference, "edit_loss", None)


def test_expo_plus_draws_edited_actions_to_successful_ones():
    """Squared error over the steps of the windows that were executed."""
    model = filled(EXPO, steps=300, success_bc=True, edit_scale=0.3)
    batch = model._success_batch()
    reseed()
    model.actor_ema.sample_chain(batch.observations)  # the draws of the first term
    th.randn(B, 3)
    base, xi = sde(model, batch.observations, 1)[:, 0], th.randn(B, 3)
    total, n = 0.0, 0.0
    with th.no_grad():
        for b in range(B):
            u, _ = squashed(model.policy.edit_actor, batch.observations[b : b + 1], xi[b], base[b])
            own = (base[b] + 0.3 * u).clamp(-1, 1)
            for i in range(int(batch.valid[b].sum())):
                total, n = total + (own[i] - batch.actions[b, i]).item() ** 2, n + 1
    reseed()
    assert model._edit_step(batch, batch)["edit_bc_loss"].item() == pytest.approx(total / n, rel=1e-5)


def test_the_residual_is_trained_without_a_success_buffer():
    """Officially S/R's edit is updated only where successes are cloned, and the entropy of the scaled edit drives alpha up."""
    for cls in (EXPO, SteerResidual):
        model = filled(cls, steps=30, learning_starts=10)
        before = [p.clone() for p in model.policy.edit_actor.parameters()]
        model._update_actor()
        assert model.replay_buffer.n_success < B
        assert any(not th.equal(a, b) for a, b in zip(before, model.policy.edit_actor.parameters(), strict=True)), cls
    # With D = 3 and u uniform in (-1, 1) the entropy D log 2 lies above the target -D/2 at any scale of the edit.
    assert model.wanted_entropy == -1.5 < 3 * np.log(2.0)


def test_the_first_temperature_is_what_was_passed_and_a_loaded_one_what_was_saved(tmp_path):
    for cls in (EXPO, DSRL, SteerResidual, RLPD):
        model = filled(cls, steps=5, initial_temperature=0.05)
        fresh = cls("FlowPolicy", Reach(), initial_temperature=0.05, policy_kwargs=NETS, device="cpu")
        for name in {n for n in model.policy.actor_names if "temperature" in n}:
            assert getattr(fresh.policy, name).value() == pytest.approx(0.05)
            getattr(model.policy, name).reset(0.3)
        model.save(tmp_path / "model")
        loaded = cls.load(tmp_path / "model", device="cpu")
        assert all(getattr(loaded.policy, n).value() == pytest.approx(0.3) for n in model.policy.actor_names if "temp" in n)


def test_an_entropy_above_the_target_lowers_alpha_at_any_scale():
    model = filled(EXPO, steps=60, learning_starts=10, edit_scale=0.01, learning_rate=1e-2, utd_critic=0.2)
    start = model.policy.edit_temperature.value().item()
    for _ in range(30):
        model._update_actor()
    assert model.policy.edit_temperature.value().item() < start


# -- DSRL -----------------------------------------------------------------------------------------------------------


def test_dsrl_latents_are_those_of_the_executed_actions():
    """Each latent is denoised once: the stored action is the ODE's from the stored latent, and the magnitude holds."""
    for magnitude in (0.3, 1.1):
        model = filled(DSRL, steps=0, learning_starts=20, action_magnitude=magnitude, utd_critic=0.0).learn(80)
        batch = model._sample(200)
        latents = batch.decision["latent"]
        late = np.abs(model.replay_buffer.decisions["latent"][24:80])
        assert 0.5 * magnitude < late.max() <= magnitude < np.abs(model.replay_buffer.decisions["latent"][:20]).max()
        with th.no_grad():
            for b in range(0, 200, 10):
                k = int(batch.valid[b].sum())
                action = ode(model.actor_ema, batch.observations[b : b + 1], latents[b])
                th.testing.assert_close(batch.actions[b, :k], action[:k], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("chunk_reward", ["sum", "max"])
def test_dsrl_critic(chunk_reward):
    """In latent space, with gamma^k and no entropy; the official reward is the largest within the decision."""
    model = filled(DSRL, action_magnitude=0.7, chunk_reward=chunk_reward, target_range=None)
    reseed()
    batch = model._sample(B)
    xi, total = th.randn(B, 3), 0.0
    with th.no_grad():
        for b in range(B):
            k = int(batch.valid[b].sum())
            steps = [batch.step_rewards[b, i].item() for i in range(k)]
            reward = max(steps) if chunk_reward == "max" else sum(0.9**i * r for i, r in enumerate(steps))
            nxt = batch.next_observations[b : b + 1]
            u, _ = squashed(model.policy.noise_actor, nxt, xi[b])
            value = values(model.critic_target, nxt, 0.7 * u).mean().item()
            target = reward + (1 - batch.dones[b].item()) * 0.9**k * value
            q = values(model.critic, batch.observations[b : b + 1], batch.decision["latent"][b])
            total += ((q - target) ** 2).mean().item() / B
    assert len({int(v) for v in batch.valid.sum(dim=1)}) > 1, "a decision that its episode's end cut short is among them"
    reseed()
    assert model._critic_step(model._sample(B))["critic_loss"].item() == pytest.approx(total, rel=1e-5)


def test_dsrl_targets_are_clamped():
    model = filled(DSRL, target_range=(-2.0, -1.95))
    target = model._target(model._sample(200))
    assert target.min() == -2.0 and target.max() == pytest.approx(-1.95)


def test_dsrl_noise_actor():
    model = filled(DSRL, action_magnitude=0.7)
    policy = model.policy
    check_step(
        model,
        "_noise_step",
        lambda batch: soft_loss(model, policy.noise_actor, policy.noise_temperature, batch, lambda u, b: 0.7 * u),
        "noise_loss",
        None,
    )


def test_dsrl_plus_regresses_the_mode_on_successful_latents():
    model = filled(DSRL, steps=300, success_bc=True, action_magnitude=0.7)
    batch = model._sample_decisions(B, success_only=True)
    found = model._noise_step(batch, batch)["latent_bc_loss"].item()
    model = filled(DSRL, steps=300, success_bc=True, action_magnitude=0.7)
    with th.no_grad():
        modes = [0.7 * model.policy.noise_actor(batch.observations[b : b + 1])[0][0].tanh() for b in range(B)]
    wanted = np.mean([((modes[b] - batch.decision["latent"][b].clamp(-0.7, 0.7)) ** 2).mean().item() for b in range(B)])
    assert found == pytest.approx(wanted, rel=1e-5)


def test_noise_aliasing():
    """The critic is of actions, a' = ODE(s', w'); the noise critic is regressed head by head on it at w = c tanh(xi)."""
    model = filled(DSRL, noise_aliasing=True, action_magnitude=0.7)

    def value_of(batch):
        xi = th.randn(B, 3)

        def value(nxt, b):
            u, _ = squashed(model.policy.noise_actor, nxt, xi[b])
            return values(model.critic_target, nxt, ode(model.actor_ema, nxt, 0.7 * u)).mean().item()

        return value

    check_critic(model, value_of)

    def distillation(batch):
        latents, total = 0.7 * th.randn(B, 3).tanh(), 0.0
        for b in range(B):
            obs = batch.observations[b : b + 1]
            target = values(model.critic, obs, ode(model.actor_ema, obs, latents[b]))
            total += ((values(model.policy.noise_critic, obs, latents[b]) - target) ** 2).mean().item() / B
        return total

    check_step(model, "_distillation_step", distillation, "noise_critic_loss")
    policy = model.policy
    check_step(
        model,
        "_noise_step",
        lambda batch: soft_loss(
            model,
            policy.noise_actor,
            policy.noise_temperature,
            batch,
            lambda u, b: 0.7 * u,
            critic=policy.noise_critic,
        ),
        "noise_loss",
        None,
    )


def test_dsrl_leaves_the_flow_as_it_is():
    for kwargs in (dict(), dict(noise_aliasing=True)):
        model = filled(DSRL, steps=5, learning_starts=10, **kwargs)
        before = [p.clone() for p in (*model.actor.parameters(), *model.actor_ema.parameters())]
        model.learn(60)
        assert model._n_updates > 0
        assert all(
            th.equal(a, b) for a, b in zip(before, (*model.actor.parameters(), *model.actor_ema.parameters()), strict=True)
        )


# -- FQL ------------------------------------------------------------------------------------------------------------


def test_fql():
    model = filled(FQL, alpha=3.0)

    def value_of(batch):
        z = th.randn(B, 3)
        return lambda nxt, b: (
            values(model.critic_target, nxt, model.policy.one_step_ema(nxt, z[b : b + 1])[0].clamp(-1, 1)).mean().item()
        )

    check_critic(model, value_of)
    for weight in (1.0, 0.0):

        def reference(batch, weight=weight):
            z, total = th.randn(B, 3), 0.0
            for b in range(B):
                obs = batch.observations[b : b + 1]
                own = model.policy.one_step(obs, z[b : b + 1])[0]
                distance = ((own - ode(model.actor_ema, obs, z[b])) ** 2).mean().item()
                total += (3.0 * distance - weight * values(model.critic_target, obs, own.clamp(-1, 1)).mean().item()) / B
            return total

        check_step(model, "_one_step_step", reference, "one_step_loss", th.tensor(weight))


def test_fql_warm_up_distils_without_the_critic():
    """From a clone, at learning_starts, the one-step policy must not act from random parameters."""
    model = filled(FQL, steps=100, critic_warmup_updates=60, learning_rate=5e-3, policy_kwargs=dict(net_arch=[32]))

    def distance():
        th.manual_seed(3)
        obs, z = th.rand(64, 2), th.randn(64, 3)
        with th.no_grad():
            return (model.policy.one_step(obs, z) - model.actor_ema.sample(obs, z)).square().mean().item()

    before = distance()
    model.train(gradient_steps=0, batch_size=B)
    assert distance() < 0.3 * before and model._n_warmup_updates == 60 and model._n_updates == 0


# -- SteerResidual, RLPD, PA-RL -------------------------------------------------------------------------------------


def test_steer_residual_critic():
    """The chosen latent by the noise critic, the chosen edit by the target critics, the latent's entropy."""
    sizes = dict(noise_candidates=3, n_edits=2, action_magnitude=0.7, edit_scale=0.3, target_range=None)
    model = filled(SteerResidual, **sizes)
    policy = model.policy

    def value_of(batch):
        xi, xi_edit = th.randn(B, 3, 3), th.randn(B, 2, 3)

        def value(nxt, b):
            drawn = [squashed(policy.noise_actor, nxt, xi[b, i]) for i in range(3)]
            u, log_prob = max(drawn, key=lambda d: values(policy.noise_critic, nxt, 0.7 * d[0]).mean().item())
            base = ode(model.actor_ema, nxt, 0.7 * u)
            edits = [squashed(policy.edit_actor, nxt, xi_edit[b, i], base)[0] for i in range(2)]
            candidates = [base, *((base + 0.3 * e).clamp(-1, 1) for e in edits)]
            best = max(candidates, key=lambda a: values(model.critic_target, nxt, a).min().item())
            alpha = policy.noise_temperature.log_value.exp().item()
            return values(model.critic_target, nxt, best).mean().item() - alpha * log_prob.item()

        return value

    check_critic(model, value_of)


def test_steer_residual_edit():
    """The base action is the ODE's from the latent that would be chosen."""
    model = filled(SteerResidual, noise_candidates=3, n_edits=2, action_magnitude=0.7, edit_scale=0.3)
    policy = model.policy

    def reference(batch):
        xi, base = th.randn(B, 3, 3), []
        for b in range(B):
            obs = batch.observations[b : b + 1]
            drawn = [squashed(policy.noise_actor, obs, xi[b, i])[0] for i in range(3)]
            best = max(drawn, key=lambda u: values(policy.noise_critic, obs, 0.7 * u).mean().item())
            base.append(ode(model.actor_ema, obs, 0.7 * best))
        base = th.stack(base)
        return soft_loss(
            model,
            policy.edit_actor,
            policy.edit_temperature,
            batch,
            lambda u, b: (base[b] + 0.3 * u).clamp(-1, 1),
            context=base,
        )

    check_step(model, "_edit_step", reference, "edit_loss", None)


@pytest.mark.parametrize("cls, heads", [(RLPD, 2), (SACfD, 2)])
def test_rlpd(cls, heads):
    """With two heads a random pair is both: the minimum. The entropy is in the target."""
    model = filled(cls, policy_kwargs=dict(n_critics=heads))
    policy = model.policy

    def value_of(batch):
        xi = th.randn(B, 3)

        def value(nxt, b):
            u, log_prob = squashed(policy.gaussian, nxt, xi[b])
            alpha = policy.temperature.log_value.exp().item()
            return values(model.critic_target, nxt, u).min().item() - alpha * log_prob.item()

        return value

    check_critic(model, value_of)
    check_step(
        model,
        "_actor_step",
        lambda batch: soft_loss(model, policy.gaussian, policy.temperature, batch, lambda u, b: u),
        "actor_loss",
        None,
    )


def test_shares_of_demonstrations():
    """RLPD: half of each batch. SAC from demonstrations: their share in all that is known, which falls."""
    demos = reach_demonstrations(10)
    for cls in (RLPD, SACfD):
        model = filled(cls, steps=3, demonstrations=demos)
        assert model._offline_windows(100) == (50 if cls is RLPD else round(100 * demos.n_steps / (demos.n_steps + 3)))
        model.learn(300, reset_num_timesteps=False)
        share = demos.n_steps / (demos.n_steps + model.num_timesteps)
        assert model._offline_windows(1000) == (500 if cls is RLPD else round(1000 * share))
        assert len(model._sample(100).actions) == 100


def optimised(model, obs, candidates):
    """Rank, keep, ascend by numerical derivatives, rank again."""
    policy = model.policy

    def value(a):
        return values(model.critic_target, obs, a).mean().item()

    kept = sorted(candidates, key=value, reverse=True)[: policy.keep]
    for _ in range(policy.ascent_steps):
        moved = []
        for a in kept:
            slope = th.zeros(3)
            for d in range(3):
                up, down = a.clone(), a.clone()
                up[d] += 1e-2
                down[d] -= 1e-2
                slope[d] = (value(up) - value(down)) / 2e-2
            moved.append((a + policy.ascent_rate * slope).clamp(-1, 1))
        kept = moved
    return max(kept, key=value)


def test_pa_rl():
    """Against derivatives by differences: the optimised action, and the target that it makes."""
    model = filled(PARL, best_of_n=5, keep=2, ascent_steps=2, ascent_rate=0.2)
    reseed()
    obs = model._sample(B).observations
    candidates = sde(model, obs, 5)
    found = model.policy.optimised(obs, candidates)
    with th.no_grad():
        wanted = th.stack([optimised(model, obs[b : b + 1], list(candidates[b])) for b in range(B)])
    th.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-3)
    assert not th.allclose(found, candidates[:, 0])
    grads = [p.grad for p in model.critic.parameters()]
    assert all(g is None for g in grads), "no gradient is left behind"

    def value_of(batch):
        best = model.policy.optimised(batch.next_observations, sde(model, batch.next_observations, 5))
        return lambda nxt, b: values(model.critic_target, nxt, best[b]).mean().item()

    check_critic(model, value_of)


def test_pa_rl_trains_the_flow_on_optimised_actions():
    model = filled(PARL, best_of_n=4, keep=2, ascent_steps=1)
    reseed()
    batch = model._sample(B)
    best = model.policy.explore(batch.observations)
    x0, t, total = th.randn(B, 3), None, 0.0
    t = th.rand(B)
    with th.no_grad():
        for b in range(B):
            x = (1 - t[b]) * x0[b] + t[b] * best[b]
            v = model.actor.gcp.velocity(batch.observations[b : b + 1], x[None], t[b : b + 1])[0]
            total += ((v - (best[b] - x0[b])) ** 2).mean().item() / B
    reseed()
    assert model._actor_step(model._sample(B), None)["actor_loss"].item() == pytest.approx(total, rel=1e-5)
