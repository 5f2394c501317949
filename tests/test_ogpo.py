"""OGPO's updates against slow references, and what each option does."""

import math
import warnings

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from ogpo_sb3 import OGPO, OGPOCA, OGPOChi2, OGPOPlus, evaluate
from ogpo_sb3.common.schedules import WarmupCosine, as_schedule, schedule_value
from stable_baselines3.common.utils import LinearSchedule

from tests.toys import Bandit, Reach

SMALL = dict(
    learning_starts=20,
    batch_size=16,
    actor_batch_size=8,
    group_size=4,
    policy_kwargs=dict(net_arch=[16], n_critics=3, denoising_steps=3),
    seed=0,
    device="cpu",
)


def small(cls=OGPO, env=None, **kwargs):
    policy_kwargs = {**SMALL["policy_kwargs"], **kwargs.pop("policy_kwargs", {})}
    return cls("FlowPolicy", Reach() if env is None else env, **{**SMALL, "policy_kwargs": policy_kwargs, **kwargs})


def filled(cls=OGPO, steps=60, **kwargs):
    """A model with replay and no update done."""
    return small(cls, **{"learning_starts": 10_000, **kwargs}).learn(steps)


def reseed(seed=7):
    th.manual_seed(seed)
    np.random.seed(seed)


def state_of(module):
    return {k: v.clone() for k, v in module.state_dict().items()}


def same(module, state):
    return all(th.equal(v, state[k]) for k, v in module.state_dict().items())


# -- the two losses, written out ------------------------------------------------------------------------------------


@pytest.mark.parametrize("advantage", ["mean", "conservative", "penultimate", "positive", "std"])
def test_actor_loss_against_loops(advantage):
    """Equations 3.2-3.3 chain by chain and step by step, on the draws that the update makes."""
    model = filled(OGPO, advantage=advantage, chunk_size=2, clip_range=0.001)
    with th.no_grad():  # current and EMA policy apart, so that ratios differ from one and some are clipped
        for parameter in model.actor.parameters():
            parameter += 0.02 * th.randn_like(parameter)
    before = [p.clone() for p in model.actor.parameters()]
    reseed()
    batch = model._sample(8)
    gcp, old, critics = model.actor.gcp, model.actor_ema.gcp, model.critic_target
    with th.no_grad():
        chain = model.actor_ema.sample_chain(batch.observations, 4)
        total, clipped, scored, with_gradient = 0.0, 0, 0, 0
        for b in range(8):
            rows = range(4 * b, 4 * b + 4)
            obs = batch.observations[b : b + 1]
            q = th.stack([critics(obs, chain.states[-1, r : r + 1].clamp(-1, 1))[:, 0] for r in rows], dim=1)  # (M, G)
            for g, r in enumerate(rows):
                lp = {}
                for name, net in (("new", gcp), ("old", old)):
                    lp[name] = 0.0
                    for k in range(3):
                        x, nxt, t = chain.states[k, r], chain.states[k + 1, r], k / 3
                        v = net.velocity(obs, x[None], th.tensor([t]))[0]
                        sigma = 0.05 * math.sqrt(1 - t)
                        mean = x + v / 3 + 0.5 * 0.05**2 * (t * v - x)
                        lp[name] += th.distributions.Normal(mean, sigma).log_prob(nxt).sum().item()
                ratio = math.exp((lp["new"] - lp["old"]) / (3 * 2))
                a = _advantage(q, g, advantage)
                total += min(ratio * a, min(max(ratio, 0.999), 1.001) * a) / 32
                scored += a != 0
                clipped += a != 0 and abs(ratio - 1) > 0.001
                with_gradient += a != 0 and not (ratio > 1.001 if a > 0 else ratio < 0.999)
    assert 0 < clipped and 0 < with_gradient < scored <= 32
    model.learn(0)  # a logger
    reseed()
    model._update_actor()
    assert model._metrics["train/policy_loss"][0].item() == pytest.approx(-total, rel=2e-3, abs=1e-6)
    assert model._metrics["train/clip_fraction"][0].item() == pytest.approx(clipped / scored)
    assert model._metrics["train/gradient_fraction"][0].item() == pytest.approx(with_gradient / 32)
    assert any(not th.equal(a, b) for a, b in zip(before, model.actor.parameters(), strict=True))


def _advantage(q, g, strategy):
    """One chain's advantage from the (heads, group) values, in words of the paper."""
    heads = [(row[g] - row.mean()).item() for row in q]
    value = q.mean(0)
    mean = (value[g] - value.mean()).item()
    if strategy in ("conservative", "penultimate"):
        which = 0 if strategy == "conservative" else 1
        if all(a > 0 for a in heads):
            return sorted(heads)[which]
        return sorted(heads, reverse=True)[which] if all(a < 0 for a in heads) else 0.0
    if strategy == "positive":
        return max(mean, 0.0)
    return mean / (value.std(unbiased=False).item() + 1e-8) if strategy == "std" else mean


@pytest.mark.parametrize(("samples", "mc_coef"), [(1, 0.0), (3, 0.0), (1, 0.5)])
def test_critic_loss_against_loops(samples, mc_coef):
    """A.1 and 4.1 sample by sample: y = R + gamma^k (1 - done) mean_m mean_n Q, plus Monte-Carlo regression."""
    model = filled(OGPO, chunk_size=3, q_variance_samples=samples, mc_coef=mc_coef, batch_size=12)
    reseed()
    batch = model._sample(12)
    with th.no_grad():
        actions = model.actor_ema.sample_chain(batch.next_observations, samples).actions.view(12, samples, -1)
        td, mc, n_mc = 0.0, 0.0, 0.0
        for b in range(12):
            obs, nxt = batch.observations[b : b + 1], batch.next_observations[b : b + 1]
            values = [model.critic_target(nxt, actions[b, n : n + 1]).mean().item() for n in range(samples)]
            target = batch.rewards[b].item() + (1 - batch.dones[b].item()) * batch.discounts[b].item() * np.mean(values)
            q = model.critic(obs, batch.actions[b : b + 1])[:, 0]
            td += ((q - target) ** 2).mean().item() / 12
            mc += batch.mc_valid[b].item() * ((q - batch.mc_returns[b]) ** 2).mean().item()
            n_mc += batch.mc_valid[b].item()
    reseed()
    loss = model._critic_step(model._sample(12))["critic_loss"]
    assert loss.item() == pytest.approx(td + mc_coef * mc / n_mc, rel=1e-4)


# -- learning -------------------------------------------------------------------------------------------------------


def bandit_model(cls=OGPO, **kwargs):
    return small(
        cls,
        Bandit(),
        learning_starts=100,
        batch_size=64,
        actor_batch_size=16,
        group_size=8,
        learning_rate=2e-3,
        critic_learning_rate=3e-3,
        clip_range=0.1,
        actor_tau=0.1,
        policy_kwargs=dict(net_arch=[32, 32], n_critics=3, noise_std=0.2, denoising_steps=3),
        **kwargs,
    )


def mean_action(model):
    th.manual_seed(0)
    with th.no_grad():
        return model.actor_ema.sample_chain(th.zeros(512, 1)).actions.mean(0)


def test_bandit_is_solved():
    """ALGORITHM T6: the policy's mean moves to the optimum of a quadratic reward."""
    model = bandit_model().learn(700)
    assert (mean_action(model) - 0.5).abs().max() < 0.15
    assert evaluate(model, Bandit, n_episodes=50).mean_return > -0.2


def test_penalty_keeps_closer_to_the_slow_policy():
    """ALGORITHM T6: with the chi-squared penalty the same updates move the policy less."""
    free, held = bandit_model(), bandit_model(chi2_coef=500.0, pessimism=0.0)
    start = mean_action(free)
    free.learn(400)
    held.learn(400)
    assert (mean_action(held) - start).norm() < 0.6 * (mean_action(free) - start).norm()


def test_reach_is_learned_from_a_clone_of_nothing():
    """Over chunks, with success cloning and agreement: from uniform exploration to the goal."""
    model = small(
        OGPOCA,
        chunk_size=2,
        learning_starts=300,
        batch_size=64,
        actor_batch_size=16,
        group_size=8,
        best_of_n=2,
        learning_rate=1e-3,
        critic_learning_rate=2e-3,
        actor_tau=0.1,
        utd_critic=0.5,
        utd_actor=0.5,
        clip_range=0.1,
        gamma=0.95,
        policy_kwargs=dict(net_arch=[32, 32], n_critics=3, noise_std=0.2, denoising_steps=3),
    )
    before = evaluate(model, Reach, n_episodes=40).mean_return
    model.learn(1800)
    assert evaluate(model, Reach, n_episodes=40).mean_return > before + 4


# -- options --------------------------------------------------------------------------------------------------------


def test_learning_rates_are_what_was_passed():
    """DESIGN 5.7, which the official code misses: actor and critic each have their own, in optimiser and log."""
    model = small(learning_rate=1e-4, critic_learning_rate=2e-3).learn(40)
    assert model.actor.optimizer.param_groups[0]["lr"] == 1e-4
    assert model.critic.optimizer.param_groups[0]["lr"] == 2e-3
    logged = model.logger.name_to_value
    assert logged["train/learning_rate"] == pytest.approx(1e-4)
    assert logged["train/critic_learning_rate"] == pytest.approx(2e-3)


def test_warmup_cosine_values():
    schedule = WarmupCosine(2e-5, 4.5e-5, 2e-5, warmup=2000, cycle=50_000)
    assert schedule.at(0) == 2e-5
    assert schedule.at(1000) == pytest.approx(3.25e-5)
    assert schedule.at(2000) == pytest.approx(4.5e-5)
    assert schedule.at(26_000) == pytest.approx(3.25e-5)
    assert schedule.at(49_999) == pytest.approx(2e-5, rel=1e-4)
    assert schedule.at(51_000) == schedule.at(1000)
    assert WarmupCosine(restart=False).at(10**6) == pytest.approx(2e-5)
    assert schedule_value("x", as_schedule(schedule, "x"), 0.3, 1000) == schedule.at(1000)


def test_actor_rate_follows_its_own_updates():
    model = small(learning_rate=WarmupCosine(0.0, 1e-2, 0.0, warmup=100, cycle=200)).learn(60)
    assert model._n_actor_updates == 40
    assert model.actor.optimizer.param_groups[0]["lr"] == pytest.approx(39e-4)


def test_the_critics_rate_counts_their_updates_before_the_actors_too():
    schedule = WarmupCosine(0.0, 1e-2, 0.0, warmup=100, cycle=200)
    model = small(critic_learning_rate=schedule, critic_warmup_updates=30).learn(21)
    n = model._n_updates
    assert model._n_warmup_updates == 30 and 0 < n < 60
    assert model.critic.optimizer.param_groups[0]["lr"] == pytest.approx((30 + n - 1) * 1e-4)


@pytest.mark.parametrize(("value", "at_half"), [(0.1, 0.1), ("lin_0.1", 0.05), (lambda p: p * p, 0.25)])
def test_schedules(value, at_half):
    assert schedule_value("x", as_schedule(value, "x"), 0.5, 0) == pytest.approx(at_half)
    assert schedule_value("x", as_schedule(LinearSchedule(1.0, 0.0, 1.0), "x"), -0.2, 0) == 0.0


@pytest.mark.parametrize("value", ["fast", "lin_x", "lin_-1", "lin_nan", -1.0, None, True, [1e-3]])
def test_bad_schedules_are_named(value):
    with pytest.raises(ValueError, match="critic_learning_rate"):
        as_schedule(value, "critic_learning_rate")


def test_an_environment_that_never_tells_of_success_is_named_once():
    with pytest.warns(UserWarning, match="no is_success at an episode's end") as told:
        small(OGPOPlus, "Pendulum-v1", learning_starts=10_000).learn(700)
    assert sum("is_success" in str(w.message) for w in told) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        filled(OGPOPlus, steps=40)
        small(OGPO, "Pendulum-v1", learning_starts=10_000).learn(300)


@pytest.mark.parametrize(
    ("space", "named"),
    [
        (spaces.Box(-1, 1, (2,), np.int64), "the action space is a Box of int64, wanted one of floating-point numbers"),
        (
            spaces.Box(np.array([-1.0, 0.5]), np.array([1.0, 0.5])),
            "allows 0.5 to 0.5 at entry 1, wanted low < high",
        ),
    ],
)
@pytest.mark.parametrize("chunk_size", [1, 2])
def test_actions_without_room_are_refused(space, named, chunk_size):
    env = Reach()
    env.action_space = space
    with pytest.raises(ValueError, match=named):
        small(env=env, chunk_size=chunk_size)


def test_success_bc_is_silent_until_successes_and_never_sees_failures():
    """DESIGN 5.6: no loss without successes; afterwards poisoned failures cannot reach it."""
    model = filled(OGPOPlus, steps=19)
    assert model.replay_buffer.n_success == 0 and model._success_batch() is None
    model.learn(400, reset_num_timesteps=False)
    buffer = model.replay_buffer
    assert buffer.n_success >= 8
    failed = ~buffer.successes & (np.arange(buffer.buffer_size)[:, None] < buffer.size())
    assert failed.any()
    buffer.actions[failed] = np.nan
    for _ in range(30):
        assert th.isfinite(model._cloning_loss(model._success_batch()))


def test_critic_warmup_trains_critics_only_and_is_not_counted():
    model = filled(OGPO, critic_warmup_updates=5)
    actor, critic = state_of(model.actor), state_of(model.critic)
    model.train(gradient_steps=0, batch_size=16)
    assert same(model.actor, actor) and not same(model.critic, critic)
    assert (model._n_warmup_updates, model._n_updates) == (5, 0)
    critic = state_of(model.critic)
    model.train(gradient_steps=0, batch_size=16)
    assert same(model.critic, critic), "the warm-up happens once"


def test_best_of_n_takes_the_critics_favourite():
    model = small(best_of_n=5, policy_kwargs=dict(subsample_bon=False))
    obs = th.randn(6, 2)
    candidates = th.rand(6, 5, 1) * 2 - 1
    with th.no_grad():
        best = model.policy.best_candidate(obs, candidates)
        for b in range(6):
            scores = [model.critic_target(obs[b : b + 1], candidates[b, n : n + 1]).min().item() for n in range(5)]
            assert best[b].item() == candidates[b, int(np.argmax(scores))].item()


def test_success_critic_takes_a_second_step():
    model = filled(OGPO, steps=400, success_critic=True, batch_size=8)
    assert model.replay_buffer.n_success >= 8
    model._update_critic(8)
    assert len(model._metrics["train/critic_loss"]) == 2


def test_ema_and_slow_actor_follow_at_their_rates():
    model = filled(OGPOChi2, actor_tau=0.3, slow_tau=0.1, learning_rate=1e-2)
    ema, slow = state_of(model.actor_ema), state_of(model.actor_slow)
    model._update_rates()
    model._update_actor()
    for name, new in model.actor.named_parameters():
        th.testing.assert_close(model.actor_ema.state_dict()[name], 0.7 * ema[name] + 0.3 * new)
        th.testing.assert_close(model.actor_slow.state_dict()[name], 0.9 * slow[name] + 0.1 * new)
    assert 0 < model._next_pessimism < 1
    assert model._next_pessimism == pytest.approx(0.5, abs=0.01), "no distance from the slow policy yet"


def test_parameters_of_a_file_without_a_slow_actor_start_one(tmp_path):
    source, model = small(), small(OGPOChi2)
    source.save(tmp_path / "model.zip")
    model.set_parameters(tmp_path / "model.zip")
    assert same(model.actor, state_of(source.actor)) and same(model.actor_slow, state_of(source.actor_ema))


def test_joint_ratio_with_the_normalised_clip_range_warns():
    joint = dict(ratio_norm="sum")
    with pytest.warns(UserWarning, match="same trust region"):
        small(policy_kwargs=joint, clip_range=0.01)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        small(policy_kwargs=joint, clip_range=0.1)
        small(clip_range=0.01)


@pytest.mark.parametrize("advantage", ["mean", "positive", "std"])
def test_kl_penalty_trains_and_moves_the_pessimism(advantage):
    model = small(kl_coef=0.5, advantage=advantage, learning_rate=1e-2).learn(60)
    assert model.actor_slow is not None and model._next_pessimism != 0.5
    assert model.logger.name_to_value["train/penalty_beta"] > 0


@pytest.mark.parametrize("how", ["min", "subsample"])
def test_other_aggregations_run(how):
    model = small(q_agg=how, q_variance_samples=2).learn(40)
    assert np.isfinite(model.logger.name_to_value["train/critic_loss"])


@pytest.mark.parametrize(
    ("kwargs", "named"),
    [
        (dict(advantage="best"), "advantage"),
        (dict(q_agg="max"), "q_agg"),
        (dict(extraction="sac"), "extraction"),
        (dict(precision="fp16"), "precision"),
        (dict(group_size=1), "group_size=1"),
        (dict(actor_batch_size=0), "actor_batch_size"),
        (dict(chi2_coef=0.1, kl_coef=0.1), "exclude each other"),
        (dict(chi2_coef=0.1, advantage="conservative"), "conservative"),
        (dict(utd_critic=1.0, gradient_steps=1), "gradient_steps=1"),
        (dict(bc_coef=-1.0), "bc_coef"),
        (dict(gamma=1.5), "gamma"),
        (dict(clip_range="wide"), "clip_range"),
        (dict(advantage="penultimate", policy_kwargs=dict(n_critics=2)), "n_critics >= 3"),
        (dict(q_agg="subsample", policy_kwargs=dict(n_critics=1)), "n_critics >= 2"),
        (dict(bc_steps=10), "demonstrations"),
        (dict(clip_bc=0.5), "bc_steps is 0"),
        (dict(offline_ratio=0.5), "demonstrations"),
        (dict(chunk_size=0), "chunk_size"),
        (dict(n_steps=3), "n_steps=3"),
        (dict(batch_size=0), "batch_size"),
        (dict(buffer_size=0), "buffer_size"),
        (dict(learning_starts=-1), "learning_starts"),
        (dict(critic_warmup_updates=-1), "critic_warmup_updates"),
        (dict(policy_kwargs=dict(net_arch=[0])), "net_arch"),
        (dict(policy_kwargs=dict(critic_net_arch=[8, 0])), "net_arch"),
        (dict(policy_kwargs=dict(noise_schedule="linear")), "noise_schedule"),
    ],
)
def test_bad_options_are_named_at_construction(kwargs, named):
    with pytest.raises(ValueError, match=named):
        small(**kwargs)
