"""Every algorithm beside OGPO reaches a known optimum; critics before RL learn what Cal-QL promises."""

import numpy as np
import pytest
import torch as th
from ogpo_sb3 import DSRL, EXPO, FQL, OGPO, PARL, QC, RLPD, SACfD, SteerResidual, evaluate
from ogpo_sb3.critics import calibrated_gap

from tests.toys import Bandit, Reach, reach_demonstrations

SIZES = dict(
    learning_starts=100,
    batch_size=32,
    actor_batch_size=32,
    learning_rate=3e-3,
    critic_learning_rate=3e-3,
    tau=0.05,
    seed=0,
    device="cpu",
)
NETS = dict(net_arch=[32, 32], n_critics=2, denoising_steps=2)
BANDITS = {
    "QC": (QC, 300, dict(best_of_n=12)),
    "EXPO": (EXPO, 400, dict(best_of_n=4, edit_scale=0.5)),
    "DSRL": (DSRL, 300, dict(action_magnitude=1.5)),
    "DSRL aliased": (DSRL, 300, dict(action_magnitude=1.5, noise_aliasing=True)),
    "FQL": (FQL, 300, dict(alpha=0.1)),
    "S/R": (SteerResidual, 300, dict(noise_candidates=4, n_edits=4, distillation_steps=2)),
    "RLPD": (RLPD, 300, dict()),
    "PA-RL": (PARL, 400, dict(best_of_n=8, keep=2, ascent_steps=2, ascent_rate=0.05)),
}


@pytest.mark.parametrize("name", BANDITS)
def test_bandit_is_solved(name):
    """One state, reward -|a - 0.5|^2 in two dimensions: a uniform policy gets -1.2 on average."""
    cls, steps, kwargs = BANDITS[name]
    model = cls("FlowPolicy", Bandit(), policy_kwargs=dict(NETS), **{**SIZES, **kwargs})
    start = evaluate(model, Bandit, n_episodes=20).mean_return
    model.learn(steps)
    assert evaluate(model, Bandit, n_episodes=20).mean_return > max(-0.15, start)


def test_a_chain_of_decisions_is_learned():
    """Values travel over chunks and episodes: the goal of Reach, -1 per step, needs two to four steps of twenty."""
    model = RLPD(
        "FlowPolicy",
        Reach(),
        chunk_size=2,
        gamma=0.95,
        demonstrations=reach_demonstrations(10),
        policy_kwargs=dict(NETS),
        **{**SIZES, "utd_critic": 0.5, "utd_actor": 0.5},
    )
    before = evaluate(model, Reach, n_episodes=30).mean_return
    model.learn(900)
    assert evaluate(model, Reach, n_episodes=30).mean_return > max(before + 5, -8)


# -- critics before RL ----------------------------------------------------------------------------------------------


def test_calibrated_gap_against_loops():
    th.manual_seed(0)
    q, q_random, q_policy, floor = th.randn(3, 5), th.randn(3, 5, 4), th.randn(3, 5, 6), th.randn(5)
    floor[2] = -th.inf
    total = 0.0
    for m in range(3):
        for b in range(5):
            exps = [np.exp(v.item()) for v in q_random[m, b]]
            exps += [np.exp(max(v.item(), floor[b].item())) for v in q_policy[m, b]]
            total += (np.log(sum(exps)) - q[m, b].item()) / 15
    assert calibrated_gap(q, q_random, q_policy, floor).item() == pytest.approx(total, rel=1e-5)
    # Where the policy's values lie below the known return, there is nothing to push down.
    q_policy = (floor[:, None] - 1.0).nan_to_num(neginf=-9.0).expand(3, 5, 6).clone().requires_grad_()
    calibrated_gap(q, q_random, q_policy, floor).backward()
    assert (q_policy.grad[:, [0, 1, 3, 4]] == 0).all() and (q_policy.grad[:, 2] > 0).all()


def pretrained(cls=OGPO, **kwargs):
    sizes = {**SIZES, "chunk_size": 2, "gamma": 0.95, "demonstrations": reach_demonstrations(20), **kwargs}
    return cls("FlowPolicy", Reach(), policy_kwargs=dict(NETS), **sizes)


def test_critics_learn_returns_of_the_demonstrations():
    """TD learning before the first step, from -1 per step of shortest walks; nothing else is touched."""
    model = pretrained(critic_pretrain_updates=400, mc_coef=1.0)
    actor = [p.clone() for p in model.actor.parameters()]
    model.pretrain_critic(progress_bar=False)
    batch = model.demonstration_buffer.sample(200)
    with th.no_grad():
        q = model.critic(batch.observations, batch.actions).mean(0)
    assert (q - batch.mc_returns[:, 0]).abs().mean() < 0.4 < batch.mc_returns.std()
    assert all(th.equal(a, b) for a, b in zip(actor, model.actor.parameters(), strict=True))
    assert model._n_updates == 0 and not model.critic_pretraining_due


def test_calql_values_what_is_not_in_the_data_below_what_is():
    """Random actions: the reason of the term. With plain TD learning they are valued about as high."""
    gaps = {}
    for coef in (0.0, 5.0):
        model = pretrained(critic_pretrain_updates=150, calql_coef=coef)
        model.pretrain_critic(progress_bar=False)
        batch = model.demonstration_buffer.sample(200)
        with th.no_grad():
            data = model.critic(batch.observations, batch.actions).mean()
            random = model.critic(batch.observations, 2 * th.rand(200, 10, 2) - 1).mean()
        gaps[coef] = (data - random).item()
    assert gaps[5.0] > max(1.0, 2 * gaps[0.0])


@pytest.mark.parametrize("cls", [OGPO, QC, EXPO, FQL, SteerResidual, RLPD, SACfD, PARL])
def test_every_algorithm_can_begin_with_it(cls):
    """learn() does it once, after cloning; WSRL: then the clone explores, and no demonstration is in a batch."""
    model = pretrained(cls, critic_pretrain_updates=6, calql_coef=5.0, bc_steps=5, learning_starts=20, offline_ratio=0.0)
    model.learn(30)
    assert model._n_critic_pretrain_updates == 6 and model._n_bc_updates == 5 and model.pretrained
    assert 10 <= model._n_updates <= 12 and (cls is SACfD or model._offline_windows(64) == 0)
    model.learn(4, reset_num_timesteps=False)
    assert model._n_critic_pretrain_updates == 6


@pytest.mark.parametrize(("cls", "kwargs"), [(FQL, {}), (OGPO, dict(extraction="fql"))])
def test_a_one_step_policy_is_distilled_while_critics_are_pre_trained(cls, kwargs):
    """It makes their targets: from random parameters these would be values of random actions."""
    model = pretrained(cls, critic_pretrain_updates=150, bc_steps=20, learning_rate=3e-3, actor_tau=0.05, **kwargs)
    model.pretrain(progress_bar=False)
    observations, latents = model.demonstration_buffer.sample(200).observations, th.randn(200, 2)

    def distance():
        with th.no_grad():
            wanted = model.actor_ema.sample(observations, latents)
            return (model.policy.one_step_ema(observations, latents) - wanted).square().mean()

    before = distance()
    model.pretrain_critic(progress_bar=False)
    assert distance() < 0.3 * before


def test_critic_pre_training_goes_on_where_it_was_interrupted(tmp_path):
    demos = reach_demonstrations(20)
    model = pretrained(critic_pretrain_updates=5, demonstrations=demos)
    model.pretrain_critic(progress_bar=False)
    model.save_checkpoint(tmp_path / "run")
    loaded = OGPO.load_checkpoint(tmp_path / "run", Reach(), demonstrations=demos, critic_pretrain_updates=8)
    assert loaded.critic_pretraining_due
    loaded.pretrain_critic(progress_bar=False)
    assert loaded._n_critic_pretrain_updates == 8 and not loaded.critic_pretraining_due


def test_data_without_rewards_is_refused():
    demos = reach_demonstrations(3)
    demos.rewards = None
    with pytest.raises(ValueError, match=r"critic_pretrain_updates=5 train critics on the demonstrations.*no rewards"):
        pretrained(critic_pretrain_updates=5, demonstrations=demos)


def test_a_checkpoint_between_cloning_and_critic_pre_training_goes_on(tmp_path):
    """From the file that the model names; once both phases are over the file is not needed."""
    path = reach_demonstrations(5).save(tmp_path / "demos.npz")
    model = pretrained(demonstrations=path, bc_steps=3, critic_pretrain_updates=2, learning_starts=20)
    model.pretrain(progress_bar=False)
    model.save_checkpoint(tmp_path / "run")
    loaded = OGPO.load_checkpoint(tmp_path / "run", Reach()).learn(30)
    assert loaded._n_critic_pretrain_updates == 2 and loaded._n_updates > 0
    loaded.policy.save(tmp_path / "bc.zip")
    begun = pretrained(EXPO, demonstrations=path, critic_pretrain_updates=2, pretrained_policy=tmp_path / "bc.zip").learn(30)
    begun.save(tmp_path / "model")
    path.unlink()
    EXPO.load(tmp_path / "model", Reach()).learn(10, reset_num_timesteps=False)


def test_critics_keep_the_statistics_that_they_were_pre_trained_on():
    """Without cloning they are the demonstrations', not those of the first steps."""
    model = pretrained(RLPD, critic_pretrain_updates=2, learning_starts=20)
    model.policy.normalize_observations = True
    seen = []
    model.policy.fit_normalizer = lambda observations: seen.append(len(observations))
    model.learn(30)
    assert model._n_updates > 0 and seen == [model.demonstration_buffer.size()]


def test_options_that_would_be_ignored_are_refused():
    with pytest.raises(ValueError, match=r"offline_ratio=0\.3: leave it out, or use RLPD"):
        pretrained(SACfD, offline_ratio=0.3)
    assert pretrained(RLPD, target_entropy="auto").wanted_entropy == pretrained(RLPD).wanted_entropy
