"""What OGPO's objectives and their options do: learning on a bandit, combinations, saving, refusals."""

import copy
import math

import numpy as np
import pytest
import torch as th
from ogpo_sb3 import OGPO, OGPOCA, OGPOChi2, dppo, fql, rlpd
from ogpo_sb3.common.policies import FlowPolicy
from ogpo_sb3.extraction import group_advantage, penalise_q
from ogpo_sb3.extraction.advantages import STRATEGIES
from ogpo_sb3.gcp import DiffusionGCP, FlowGCP, GenerativeControlPolicy, owners
from ogpo_sb3.ogpo.objectives import OBJECTIVES, make_objective

from tests.contract.models import differences, parameters
from tests.toys import Bandit, Reach

# -- learning -----------------------------------------------------------------------------------------------------------

NETWORKS = dict(net_arch=[32, 32], n_critics=3, noise_std=0.2, denoising_steps=3)


def bandit(extraction, options=None, **kwargs):
    return OGPO(
        "FlowPolicy",
        Bandit(),
        learning_starts=300,
        batch_size=64,
        actor_batch_size=16,
        group_size=8,
        learning_rate=2e-3,
        critic_learning_rate=1e-2,
        clip_range=0.1,
        actor_tau=0.1,
        policy_kwargs=NETWORKS,
        extraction=extraction,
        extraction_kwargs=options,
        seed=1,
        device="cpu",
        **kwargs,
    )


@pytest.fixture(scope="module")
def judged():
    """Critics that know the bandit, from random actions."""
    model = bandit("ppo", utd_actor=0.0).learn(300)
    model.train(gradient_steps=300, batch_size=64)
    return model


LEARNING = {
    "ppo": {},
    "aw_ogpo": dict(temperature=0.2),
    "awr_fm": dict(temperature=0.2),
    "fpo++": {},
    "best_of_n_sft": {},
    "bptt": {},
    "fql": dict(alpha=0.1),
}


@pytest.mark.parametrize("extraction", LEARNING)
def test_bandit_is_improved(extraction, judged):
    """From a random flow towards the optimum, by updates of the actor alone and the same critics for all."""
    model = bandit(extraction, LEARNING[extraction])
    model.critic_target.load_state_dict(judged.critic_target.state_dict())
    model.replay_buffer = judged.replay_buffer

    def error():
        th.manual_seed(0)
        with th.no_grad():
            return (model.policy.explore(th.zeros(512, 1)) - 0.5).square().sum(dim=1).mean().item()

    before = error()
    model._update_rates()
    for _ in range(120):
        model._update_actor()
    assert error() < 0.4 * before


def test_fpo_needs_a_small_rate(judged):
    """The plain form has nothing that brings a ratio back: it improves the bandit at a rate that moves it slowly."""
    model = bandit("fpo")
    model.critic_target.load_state_dict(judged.critic_target.state_dict())
    with th.no_grad():
        before = judged.critic_target(th.zeros(256, 1), model.actor_ema.sample(th.zeros(256, 1), th.randn(256, 2))).mean()
        model.replay_buffer = judged.replay_buffer
    model.lr_schedule = lambda _: 2e-4
    model._update_rates()
    for _ in range(60):
        model._update_actor()
    with th.no_grad():
        after = judged.critic_target(th.zeros(256, 1), model.actor_ema.sample(th.zeros(256, 1), th.randn(256, 2))).mean()
    assert after > before


def test_names_and_options():
    assert make_objective("fpo++", {"aspo": False}).per_sample and not make_objective("fpo", None).per_sample
    assert make_objective("awr_fm", dict(sampler="sde")).draws == "chains"
    assert make_objective("awr_fm", {}).draws == "actions"
    with pytest.raises(ValueError, match=r"\['heat'\] are unknown to extraction='awr_fm', wanted some of \['temperature'"):
        make_objective("awr_fm", dict(heat=1.0))


# -- the value baseline -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_the_group_mean_is_a_baseline(strategy):
    """Given as values of the states it changes nothing; and a constant in values and Q cancels."""
    q = th.randn(4, 3, 6, dtype=th.float64)
    expected = group_advantage(q, strategy)
    th.testing.assert_close(group_advantage(q, strategy, baseline=q.mean(-1)), expected)
    value, moved = th.randn(4, 3, dtype=th.float64), th.randn(1, 3, dtype=th.float64)
    first = group_advantage(q, strategy, "subsample" if strategy == "mean" else "mean", value)
    assert first.shape == (3, 6)
    th.testing.assert_close(
        group_advantage(q + moved[..., None], strategy, baseline=value + moved), group_advantage(q, strategy, baseline=value)
    )


def test_a_value_baseline_shifts_a_group():
    q, value = th.tensor([[[1.0, 2.0]], [[3.0, 4.0]]]), th.tensor([[0.5], [1.5]])
    th.testing.assert_close(group_advantage(q, "mean", "mean", value), th.tensor([[1.0, 2.0]]))
    th.testing.assert_close(group_advantage(q, "conservative", "mean", value), th.tensor([[0.5, 1.5]]))
    th.testing.assert_close(group_advantage(q, "positive", "mean", value + 3), th.tensor([[0.0, 0.0]]))


def small(cls=OGPO, policy="FlowPolicy", env=None, **kwargs):
    networks = {**dict(net_arch=[16], n_critics=3, denoising_steps=3), **kwargs.pop("policy_kwargs", {})}
    sizes = dict(learning_starts=20, batch_size=16, actor_batch_size=8, group_size=4, chunk_size=2, seed=0, device="cpu")
    return cls(policy, env or Reach(), policy_kwargs=networks, **{**sizes, **kwargs})


def test_values_are_regressed_on_the_groups_mean():
    """Head by head, at the critics' rate; the advantage is then nearly that over the group."""
    model = small(baseline="value", learning_starts=10_000, critic_learning_rate=3e-3, learning_rate=0.0).learn(60)
    obs = model._sample(32).observations

    def distance():
        with th.no_grad():
            q = model.critic_target(obs, model.actor_ema.sample_chain(obs, 64).actions.unflatten(0, (-1, 64)))
            return (model.policy.state_value(obs) - q.mean(-1)).square().mean(dim=1)

    before = distance()
    model._update_rates()
    for _ in range(150):
        model._update_actor()
    assert (distance() < 0.3 * before).all()
    assert model.policy.state_value.optimizer.param_groups[0]["lr"] == 3e-3


def test_values_are_trained_in_the_warm_up():
    model = small(baseline="value", learning_starts=10_000, critic_warmup_updates=7).learn(60)
    before = [p.clone() for p in model.policy.state_value.parameters()]
    model.train(gradient_steps=0, batch_size=16)
    assert model._n_warmup_updates == 7 and model._n_actor_updates == 0
    assert any(not th.equal(a, b) for a, b in zip(before, model.policy.state_value.parameters(), strict=True))


def test_the_value_network_is_saved(tmp_path):
    model = small(baseline="value", extraction="fpo++", policy_kwargs=dict(normalize_observations=True)).learn(40)
    assert model.logger.name_to_value["train/value_loss"] > 0
    model.save(tmp_path / "model")
    loaded = OGPO.load(tmp_path / "model", env=Reach(), device="cpu")
    assert loaded.policy.state_value is not None and not differences(parameters(model), parameters(loaded))
    loaded.learn(10)
    model.policy.save(tmp_path / "policy.zip")
    started = small(
        baseline="value", pretrained_policy=tmp_path / "policy.zip", policy_kwargs=dict(normalize_observations=True)
    )
    for name, statistic in model.policy.state_value.normalizer.state_dict().items():
        assert th.equal(started.policy.state_value.normalizer.state_dict()[name], statistic)


@pytest.mark.parametrize(
    "options",
    [
        dict(extraction="fpo++", baseline="value"),
        dict(extraction="awr_fm", extraction_kwargs=dict(temperature=0.5, samples=2)),
        dict(extraction="fql", extraction_kwargs=dict(alpha=1.0), critic_warmup_updates=5),
        dict(extraction="aw_ogpo", chi2_coef=0.1, ratio_steps=2, forward_kl_coef=0.1),
    ],
    ids=lambda options: options["extraction"],
)
def test_resumed_bit_for_bit(options, tmp_path):
    live = small(**options).learn(40)
    live.save_checkpoint(tmp_path / "run")
    live.restart_env()
    live.learn(30, reset_num_timesteps=False)
    np.random.seed(99)
    loaded = OGPO.load_checkpoint(tmp_path / "run", Reach(), device="cpu")
    loaded.learn(30, reset_num_timesteps=False)
    assert not differences(parameters(live), parameters(loaded))
    assert loaded._n_actor_updates == live._n_actor_updates > 20


# -- parts of chains in the ratio ---------------------------------------------------------------------------------------

FAMILIES = {
    "tapered": (FlowGCP, {}),
    "constant": (FlowGCP, dict(noise_schedule="constant")),
    "learned": (FlowGCP, dict(noise_schedule="learned")),
    "diffusion": (DiffusionGCP, {}),
    "no floor": (DiffusionGCP, dict(min_noise_std=0.0)),
}


@pytest.mark.parametrize("norm", ["mean", "sum"])
@pytest.mark.parametrize("name", FAMILIES)
def test_partial_scoring_equals_sampling(name, norm):
    """At equal parameters, whatever part counts; and the parts' sums are those of the steps."""
    family, kwargs = FAMILIES[name]
    th.manual_seed(0)
    gcp = family(3, 4, net_arch=(16,), denoising_steps=5, ratio_norm=norm, **kwargs)
    features = th.randn(6, 3)
    for begin in range(gcp.stochastic_steps):
        chain = gcp.sample_scored(features, 2, begin)
        assert chain.states.shape == (6, 12, 4)
        found = gcp.log_prob_of(gcp.condition(features), chain.states, owners(6, 2, features.device), begin)
        th.testing.assert_close(found, chain.log_prob, atol=1e-5 if norm == "mean" else 2e-3, rtol=1e-5)
        steps = gcp.step_log_prob(features.repeat_interleave(2, dim=0), chain.states)[begin:].sum(0)
        counted = (gcp.stochastic_steps - begin) * 4 if norm == "mean" else 1
        th.testing.assert_close(found, steps / counted, atol=1e-4, rtol=1e-4)


def test_early_steps_have_no_say_in_a_partial_ratio():
    """Another velocity before the last steps leaves their ratio as it is, and changes that of whole chains."""
    model = small(ratio_steps=1, learning_starts=10_000, policy_kwargs=dict(noise_schedule="constant")).learn(30)
    assert model._first_scored_step == 1
    batch = model._sample(8)
    update, _ = model._imagine(batch, th.tensor(0.1))
    gcp, condition = model.actor.gcp, model.actor.gcp.condition(update.features)
    states = update.chain.states.clone()
    th.testing.assert_close(gcp.log_prob_of(condition, states, update.owner, 1), update.chain.log_prob)
    states[0] += 1.0
    th.testing.assert_close(gcp.log_prob_of(condition, states, update.owner, 1), update.chain.log_prob)
    assert (gcp.log_prob_of(condition, states, update.owner) - update.chain.log_prob).abs().max() > 1.0


# -- terms beside the objective -----------------------------------------------------------------------------------------


def test_entropy_is_rewarded():
    noisy = dict(noise_schedule="learned")

    def entropy_after(coef):
        model = small(entropy_coef=coef, learning_rate=3e-3, learning_starts=10_000, policy_kwargs=noisy).learn(30)
        model._update_rates()
        for _ in range(20):
            model._update_actor()
        with th.no_grad():
            return model.actor.gcp.entropy(model.actor.gcp.condition(th.zeros(1, 2))).item()

    assert entropy_after(1.0) > entropy_after(0.0) + 0.05


def test_forward_kl_clones_the_slow_policy():
    """By itself the term brings an actor that was shifted back to the slow policy; and it counts with its coefficient."""
    model = small(forward_kl_coef=0.5, learning_rate=3e-3, slow_tau=0.0, learning_starts=10_000).learn(30)
    with th.no_grad():
        model.actor.gcp.velocity_net.trunk[-1].bias += 1.0

    def shift():
        obs, z = model._sample(64).observations, th.randn(64, 2)
        with th.no_grad():
            return (model.actor.sample(obs, z) - model.actor_slow.sample(obs, z)).mean().abs().item()

    before = shift()
    for _ in range(100):
        model._optimise(model.actor, model._regularisers(model._sample(16), None)["forward_kl_loss"], "loss")
    assert shift() < 0.2 < 0.4 < before
    model._metrics.clear()
    model._update_actor()
    total, policy, term = (model._metrics[f"train/{n}"][0] for n in ("actor_loss", "policy_loss", "forward_kl_loss"))
    th.testing.assert_close(total, policy + 0.5 * term)


def test_a_far_chain_does_not_drown_the_values():
    """A log-ratio of hundreds of nats, which objectives without a bound on it reach, leaves advantages finite."""
    q = th.tensor([[[1.0] * 3], [[-1.0] * 3]])  # mean 0, minimum -1, standard deviation 1
    penalised = penalise_q(q, th.tensor([[0.0, math.log(2.0), 500.0]]), "chi2", coef=1.0)
    expected = [-0.5 - 1.0, -1 / (1 + math.exp(-5.0)) - 2.0, -1.0 - 100.0]
    th.testing.assert_close(penalised.q, th.tensor([expected]))


@pytest.mark.parametrize("penalty", ["chi2_coef", "kl_coef"])
@pytest.mark.parametrize("extraction", ["aw_ogpo", "fpo++", "best_of_n_sft"])
def test_penalties_combine(extraction, penalty):
    """As in the paper's figure 17: the advantages are of the penalised values."""
    model = small(extraction=extraction, learning_rate=1e-2, **{penalty: 0.5}).learn(50)
    assert model.logger.name_to_value["train/penalty_beta"] > 0 and model._next_pessimism != 0.5


def test_the_default_is_the_clipped_ratio_of_chains():
    plain, named = (small(**options).learn(60) for options in ({}, dict(extraction="ppo", extraction_kwargs={})))
    assert not differences(parameters(plain), parameters(named))
    assert plain.policy.state_value is None and plain.actor_slow is None


def test_the_one_step_policy_acts():
    model = small(extraction="fql", best_of_n=3, success_bc=True).learn(60)
    obs, z = th.zeros(4, 2), th.randn(4, 3, 2)
    with th.no_grad():
        candidates = model.policy.one_step_ema(obs, z).clamp(-1, 1)
        acted = model.policy.decide(obs, z)
    assert (acted[:, None] == candidates).all(-1).any(1).all()


# -- refusals -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kwargs", "named"),
    [
        (dict(extraction="sac"), "extraction must be one of"),
        (dict(extraction_kwargs=dict(temperature=1.0)), r"\['temperature'\] are unknown to extraction='ppo'"),
        (dict(extraction="awr_fm", extraction_kwargs=dict(temperature=0.0)), "temperature"),
        (dict(extraction="awr_fm", extraction_kwargs=dict(sampler="ddim")), "sampler"),
        (dict(extraction="fpo", extraction_kwargs=dict(samples=0)), "samples"),
        (dict(extraction="fpo++", extraction_kwargs=dict(error_limit=-1.0)), "error_limit"),
        (dict(extraction="best_of_n_sft", extraction_kwargs=dict(top=5)), "top=5 .* group_size=4"),
        (dict(extraction="fql", extraction_kwargs=dict(alpha=-1.0)), "alpha"),
        (dict(extraction="awr_fm", chi2_coef=0.1), "chi2_coef penalises .* extraction='awr_fm'"),
        (dict(extraction="bptt", kl_coef=0.1), "kl_coef penalises .* extraction='bptt'"),
        (dict(cls=OGPOCA, extraction="bptt"), "advantage='conservative' .* extraction='bptt'"),
        (dict(extraction="fql", baseline="value"), "baseline='value' .* extraction='fql'"),
        (dict(extraction="fql", forward_kl_coef=0.1), "forward_kl_coef=0.1 .* extraction='fql'"),
        (dict(extraction="fpo", ratio_steps=2), "ratio_steps=2 .* extraction='fpo'"),
        (dict(rollout_sampler="ddim"), r"rollout_sampler must be one of \('sde', 'ode'\), found 'ddim'"),
        (dict(extraction="fql", rollout_sampler="ode"), "rollout_sampler='ode' is of no use with extraction='fql'"),
        (dict(policy_kwargs=dict(rollout_sampler="ode")), r"\['rollout_sampler'\] are arguments of OGPO itself"),
        (dict(group_latents=0), "group_latents must be at least 1, found 0"),
        (dict(group_latents=3), "group_latents=3 must divide group_size=4"),
        (dict(group_latents=4), "group_latents=4 must divide group_size=4 into at least 2"),
        (dict(extraction="best_of_n_sft", group_latents=2), "group_latents=2 .* extraction='best_of_n_sft'"),
        (dict(baseline="value", group_latents=2), "group_latents=2 .* baseline='value'"),
        (dict(ratio_steps=0), "ratio_steps"),
        (dict(ratio_steps=4), "ratio_steps=4 must not exceed the 3"),
        (dict(ratio_steps=3, policy_kwargs=dict(noise_schedule="constant")), "ratio_steps=3 must not exceed the 2"),
        (dict(baseline="median"), "baseline"),
        (dict(baseline="value", chi2_coef=0.1), "baseline='value' .* chi2_coef"),
        (dict(entropy_coef=0.1), "entropy_coef=0.1 rewards .*noise_schedule='learned'"),
        (dict(entropy_coef=-0.1), "entropy_coef"),
        (dict(cls=OGPOChi2, q_agg="min"), "q_agg='min' is of no use with chi2_coef"),
        (dict(kl_coef=0.1, q_agg="subsample"), "q_agg='subsample' is of no use with kl_coef"),
        (dict(extraction="fql", q_variance_samples=3), "q_variance_samples=3 is of no use with extraction='fql'"),
        (dict(policy=fql.FlowPolicy), "extraction='ppo' .* acts by 'actor', found ogpo_sb3.fql.*'one_step' too"),
        (dict(policy=dppo.FlowPolicy), "OGPO .* a policy with a ChunkCritic, found ogpo_sb3.dppo.* with a ChunkValue"),
        (dict(policy=rlpd.FlowPolicy), "OGPO .* acts by 'actor', found ogpo_sb3.rlpd.* 'gaussian' and 'temperature' too"),
        (dict(forward_kl_coef=-0.1), "forward_kl_coef"),
    ],
)
def test_what_means_nothing_is_refused(kwargs, named):
    with pytest.raises(ValueError, match=named):
        small(**kwargs)


@pytest.mark.parametrize(
    ("kwargs", "named"),
    [
        (dict(extraction="bptt"), "extraction='bptt' needs actions that follow from a latent, .* found FASTGCP"),
        (dict(extraction="fpo"), "extraction='fpo' needs a cloning error per sample, .* found FASTGCP"),
        (dict(ratio_steps=2), "ratio_steps=2 is a part of a chain, and those of FASTGCP are scored whole"),
    ],
)
def test_sequences_of_tokens_have_no_latent_and_no_parts(kwargs, named):
    with pytest.raises(ValueError, match=named):
        OGPO("FASTPolicy", Reach(), chunk_size=2, policy_kwargs=dict(net_arch=[16], n_critics=3), device="cpu", **kwargs)


@pytest.mark.parametrize(
    ("replaced", "named"),
    [
        (dict(extraction="fql"), "extraction='fql' needs a policy with the network 'one_step'"),
        (dict(baseline="value"), "baseline='value' needs a policy with the network 'state_value'"),
        (dict(extraction="bptt", advantage="conservative"), "advantage='conservative'"),
        (dict(target_range=(5.0, -5.0)), r"low < high, found \(5.0, -5.0\)"),
        (dict(bc_offline_ratio=0.5), "bc_offline_ratio=0.5 is a share of what success_bc clones"),
        (dict(calql_coef=1.0), "calql_coef=1.0 is part of critic pre-training"),
        (dict(bc_steps=5, pretrained_policy=None, clip_bc=1.5), "clip_bc is a success rate"),
        (dict(precision="fp23"), "precision must be one of .* found 'fp23'"),
        (dict(precision="tf32"), "precision='tf32' needs device 'cuda'"),
        (dict(chunk_size=4), "chunk_size=4 would have no effect: .* decide about 2 steps"),
        (dict(pretrained_policy="other.zip"), "pretrained_policy='other.zip' would have no effect"),
        (dict(utd_critic=1.0, gradient_steps=7), "utd_critic=1.0 and gradient_steps=7 .* give one"),
    ],
)
def test_what_load_replaces_is_checked(replaced, named, tmp_path):
    small().save(tmp_path / "model")
    with pytest.raises(ValueError, match=named):
        OGPO.load(tmp_path / "model", env=Reach(), device="cpu", **replaced)
    model = OGPO.load(tmp_path / "model", env=Reach(), device="cpu", extraction="awr_fm").learn(40)
    assert "train/weight_max" in model.logger.name_to_value


def test_load_refuses_what_would_have_no_effect(tmp_path):
    """Of the saved value nothing is replaced, and what takes precedence can be taken back."""
    bc = small()
    bc.policy.save(tmp_path / "bc.zip")
    small(pretrained_policy=tmp_path / "bc.zip", utd_critic=1.0).save(tmp_path / "model")
    with pytest.raises(ValueError, match=r"utd_critic=1.0 and gradient_steps=7"):
        OGPO.load(tmp_path / "model", device="cpu", gradient_steps=7)
    with pytest.raises(ValueError, match=r"bc_steps=5 and pretrained_policy=.* exclude each other"):
        OGPO.load(tmp_path / "model", device="cpu", bc_steps=5)
    same = dict(chunk_size=2, pretrained_policy=str(tmp_path / "bc.zip"))
    model = OGPO.load(tmp_path / "model", device="cpu", gradient_steps=7, utd_critic=None, **same)
    assert model.critic_updates_per_step == 7 and model.chunk_size == 2


def test_a_one_step_policy_is_not_trained_by_other_objectives(tmp_path):
    small(extraction="fql").save(tmp_path / "model")
    with pytest.raises(ValueError, match=r"extraction='ppo' wants a policy .*'one_step' too: that would never be trained"):
        OGPO.load(tmp_path / "model", device="cpu", extraction="ppo")
    assert OGPO.load(tmp_path / "model", device="cpu", extraction_kwargs=dict(alpha=0.5)).alpha == 0.5


class Unscored(FlowGCP):
    """A family without a cloning error per sample: what it inherits is not that of its own loss."""

    def bc_loss(self, features, actions, weights=None):
        return super().bc_loss(features, actions, weights) + 1.0


@pytest.mark.parametrize("extraction", [name for name, cls in OBJECTIVES.items() if cls.by_cloning_error])
def test_a_family_without_cloning_errors_is_refused(extraction):
    policy = type("UnscoredPolicy", (FlowPolicy,), dict(gcp_class=Unscored))
    small(policy=policy)
    with pytest.raises(ValueError, match=f"extraction='{extraction.replace('+', '[+]')}' needs a cloning error .* Unscored"):
        small(policy=policy, extraction=extraction)
    assert not Unscored.has_cloning_error() and not GenerativeControlPolicy.has_cloning_error()
    assert FlowGCP.has_cloning_error() and DiffusionGCP.has_cloning_error()


@pytest.mark.parametrize("options", [{}, dict(extraction="bptt")])
def test_a_value_baseline_can_be_switched_off_by_load(options, tmp_path):
    """V(s) stays where it was, and is asked no more: an objective without groups has no Q to regress it on."""
    small(baseline="value").learn(40).save(tmp_path / "model")
    loaded = OGPO.load(tmp_path / "model", Reach(), baseline="group_mean", **options)
    before = copy.deepcopy(loaded.policy.state_value.state_dict())
    loaded.learn(20, reset_num_timesteps=False)
    assert "train/actor_loss" in loaded.logger.name_to_value and "train/value_loss" not in loaded.logger.name_to_value
    assert differences(loaded.policy.state_value.state_dict(), before) == []


def test_a_penalty_can_be_switched_on_and_off_by_load(tmp_path):
    """The slow actor begins at the EMA actor that was saved."""
    model = bandit("ppo").learn(320)
    model.save(tmp_path / "plain")
    loaded = OGPO.load(tmp_path / "plain", Bandit(), chi2_coef=0.1)
    assert differences(loaded.actor_slow.state_dict(), model.actor_ema.state_dict()) == []
    loaded.learn(20, reset_num_timesteps=False)
    assert differences(loaded.actor_slow.state_dict(), model.actor_ema.state_dict()) != []
    loaded.save(tmp_path / "penalised")
    assert OGPO.load(tmp_path / "penalised", Bandit(), chi2_coef=0.0).actor_slow is None
    kept = OGPO.load(tmp_path / "penalised", Bandit())
    assert differences(kept.actor_slow.state_dict(), loaded.actor_slow.state_dict()) == []
