"""Evaluation means the same everywhere: of a loaded zip, of other algorithms, with normalised observations."""

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from ogpo_sb3 import OGPO, OGPOCA, ChunkActionWrapper, EvaluateCallback, evaluate
from ogpo_sb3.evaluation.callback import read_rows
from ogpo_sb3.evaluation.rollouts import EvaluationResult
from ogpo_sb3.evaluation.video import record_episode
from stable_baselines3 import PPO, SAC
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from tests.toys import Reach

KWARGS = dict(
    learning_starts=20,
    batch_size=8,
    actor_batch_size=4,
    group_size=2,
    utd_critic=0.25,
    utd_actor=0.25,
    chunk_size=2,
    seed=0,
    device="cpu",
    policy_kwargs=dict(net_arch=[16], n_critics=2, denoising_steps=2),
)


def equal(one, other):
    return all(
        np.array_equal(getattr(one, name), getattr(other, name)) for name in ("seeds", "returns", "lengths", "successes")
    )


@pytest.mark.parametrize("algorithm", [OGPO, OGPOCA])
def test_a_loaded_zip_evaluates_as_during_training(algorithm, tmp_path):
    """All of it is in the zip: chunk size, sampler, candidates, which weights; the environment is only named."""
    found = {}

    class Both(EvaluateCallback):
        def evaluate(self):
            for sampler in ("ode", "behaviour"):
                found[sampler] = evaluate(self.model, Reach, n_episodes=6, sampler=sampler)
            self.model.save(tmp_path / "model.zip")
            return super().evaluate()

    model = algorithm("FlowPolicy", Reach(), **KWARGS)
    model.learn(60, callback=Both(60, n_episodes=6, env=Reach, csv_path=tmp_path / "curve.csv"))
    [row] = read_rows(tmp_path / "curve.csv")
    loaded = algorithm.load(tmp_path / "model.zip", device="cpu")
    for sampler, during in found.items():
        th.manual_seed(5)
        assert equal(evaluate(loaded, Reach, n_episodes=6, sampler=sampler), during), sampler
    assert row["mean_return"] == found["ode"].mean_return and row["success_rate"] == found["ode"].success_rate
    assert not equal(found["ode"], found["behaviour"])


def test_any_model_of_the_library():
    """A Gaussian actor on chunks, and discrete actions: what is deployed is the deterministic prediction."""
    sac = SAC(
        "MlpPolicy", ChunkActionWrapper(Distance(), 2), seed=0, device="cpu", policy_kwargs=dict(net_arch=[8]), buffer_size=10
    )
    result = evaluate(sac, Distance, n_episodes=4)
    for other in (evaluate(sac, n_episodes=4), evaluate(sac, Distance, n_episodes=4, n_envs=1)):
        np.testing.assert_allclose(result.returns, other.returns, rtol=1e-5)  # one observation or four in a matrix product
    env, alone = ChunkActionWrapper(Distance(), 2), []
    for seed in result.seeds:
        obs, _ = env.reset(seed=int(seed))
        total, done = 0.0, False
        while not done:
            obs, reward, terminated, truncated, _ = env.step(sac.predict(obs, deterministic=True)[0])
            total, done = total + reward, terminated or truncated
        alone.append(total)
    np.testing.assert_allclose(result.returns, alone, rtol=1e-5)
    assert np.abs(result.returns - evaluate(sac, Distance, n_episodes=4, sampler="behaviour").returns).min() > 0.01
    ppo = PPO("MlpPolicy", "CartPole-v1", seed=0, device="cpu", n_steps=8, batch_size=8, policy_kwargs=dict(net_arch=[8]))
    result = evaluate(ppo, "CartPole-v1", n_episodes=3)
    assert (result.returns == result.lengths).all() and result.success_rate is None
    with pytest.raises(ValueError, match="'base' needs a generative policy, found SACPolicy"):
        evaluate(sac, Distance, n_episodes=1, sampler="base")
    frames, success = record_episode(sac, Shown(Distance()), seed=10_000)
    assert len(frames) == evaluate(sac, Distance, n_episodes=1).lengths[0] + 1 and not success


class Distance(Reach):
    """Pays the negative distance, so that every action shows in the return."""

    def step(self, action):
        obs, _, terminated, truncated, info = super().step(action)
        return obs, -abs(self.position - self.goal), terminated, truncated, info


class Shown(gym.Wrapper):
    """Something to look at."""

    def render(self):
        return np.zeros((2, 2, 3), np.uint8)


def test_training_goes_on_in_the_mode_it_had():
    model = OGPO("FlowPolicy", Reach(), **KWARGS)
    for mode in (True, False):
        model.policy.set_training_mode(mode)
        evaluate(model, Reach, n_episodes=1)
        assert model.policy.training is mode


def test_normalised_observations_of_the_training_and_of_the_environment_given(tmp_path):
    vec = VecNormalize(DummyVecEnv([lambda: ChunkActionWrapper(Reach(), 2)]), norm_reward=False)
    model = OGPO("FlowPolicy", vec, **{**KWARGS, "chunk_size": None})
    model.learn(60)
    assert np.abs(vec.obs_rms.mean).max() > 0
    during = evaluate(model, Reach, n_episodes=6)
    model.save(tmp_path / "model.zip")
    loaded = OGPO.load(tmp_path / "model.zip", device="cpu")
    assert not equal(evaluate(loaded, Reach, n_episodes=6), during), "the statistics matter"
    again = VecNormalize(DummyVecEnv([lambda: ChunkActionWrapper(Reach(), 2)]), norm_reward=False)
    again.obs_rms = vec.obs_rms
    assert equal(evaluate(loaded, again, n_episodes=6), during)


def test_a_policy_says_how_it_is_deployed():
    """Steered, edited and distilled policies are more than one sample of their EMA actor."""
    model = OGPO("FlowPolicy", Reach(), **KWARGS)
    plain, seen = evaluate(model, Reach, n_episodes=5), []

    def towards(obs, latents):
        seen.append(latents)
        return (4.0 * (obs[:, 1:] - obs[:, :1])).clamp(-1, 1).repeat(1, 2)

    model.policy.decide = towards
    result = evaluate(model, Reach, n_episodes=5)
    assert not equal(result, plain) and result.success_rate > plain.success_rate
    assert equal(evaluate(model, Reach, n_episodes=5, sampler="base"), plain)
    first = th.randn(2, generator=th.Generator().manual_seed(10_000))
    assert th.equal(seen[0][0, 0], first), "the latents are the episodes' own"


def test_intervals_and_lists():
    returns = np.random.default_rng(0).normal(5.0, 2.0, size=200)
    result = EvaluationResult(np.arange(200), returns, np.full(200, 7), returns > 5)
    low, high = result.return_interval
    half = 1.96 * returns.std() / 200**0.5  # the central limit theorem's
    assert (low, high) == pytest.approx((returns.mean() - half, returns.mean() + half), abs=0.05)
    assert equal(EvaluationResult.from_lists(result.as_lists()), result)
    silent = EvaluationResult(np.arange(2), np.ones(2), np.ones(2), None)
    assert EvaluationResult.from_lists(silent.as_lists()).successes is None
    assert silent.summary()["success"] is None and silent.summary()["return_interval"] == [1.0, 1.0]
