"""The pieces together on real simulators: worker processes, images, human and expert demonstrations."""

import gymnasium as gym
import numpy as np
import pytest
from ogpo_sb3 import OGPO, OGPOCA, ChunkActionWrapper, evaluate
from ogpo_sb3.demonstrations.experts import collect
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import SubprocVecEnv

TINY = dict(
    learning_starts=40,
    batch_size=16,
    actor_batch_size=4,
    group_size=4,
    seed=0,
    device="cpu",
    policy_kwargs=dict(net_arch=[32], n_critics=2, denoising_steps=2),
)


def test_adroit_in_worker_processes():
    """Two simulators in processes of their own; every executed step is counted and stored once."""
    env = make_vec_env(
        "ogpo/AdroitDoor-v0",
        2,
        seed=0,
        vec_env_cls=SubprocVecEnv,
        wrapper_class=ChunkActionWrapper,
        wrapper_kwargs=dict(chunk_size=4),
    )
    try:
        model = OGPOCA("FlowPolicy", env, **TINY).learn(440)
        assert model.num_timesteps >= 440 and model.num_timesteps % 4 == 0
        assert model.replay_buffer.size() * 2 == model.num_timesteps
        assert model._n_updates > 0 and [info["l"] for info in model.ep_info_buffer] == [200, 200]
        assert evaluate(model, n_episodes=2, n_envs=2).lengths.tolist() == [200, 200], "the workers' specification is copied"
    finally:
        env.close()


def test_a_plain_vec_env_is_refused_with_the_call_to_make():
    env = make_vec_env("ogpo/PushT-v0", 1)
    with pytest.raises(ValueError, match=r"wrapper_class=ogpo_sb3\.ChunkActionWrapper"):
        OGPO("FlowPolicy", env, **TINY)
    OGPO("FlowPolicy", env, chunk_size=1, **TINY)


@pytest.mark.parametrize("obs_type", ["image", "state_image"])
def test_push_t_from_pixels(obs_type):
    env = gym.make("ogpo/PushT-v0", obs_type=obs_type, max_episode_steps=20)
    model = OGPO("FlowPolicy", env, buffer_size=500, **TINY).learn(60)
    assert model.chunk_size == 4 and model._n_updates == 20
    obs, _ = env.reset(seed=0)
    assert np.isfinite(model.predict(obs, deterministic=True)[0]).all()


@pytest.mark.parametrize(
    ("env_id", "source"), [("ogpo/PushT-v0", "shipped:pusht"), ("ogpo/KitchenComplete-v0", "shipped:kitchen-complete")]
)
def test_human_demonstrations_train_policy_and_critic(env_id, source):
    kwargs = {**TINY, "batch_size": 64}
    model = OGPO("FlowPolicy", env_id, demonstrations=source, bc_steps=150, offline_ratio=0.5, **kwargs)
    model.learn(60)
    losses = [entry["loss"] for entry in model.bc_history]
    assert losses[-1] < losses[0]
    assert model._n_updates == 20 and np.isfinite(model.logger.name_to_value["train/critic_loss"])


def test_adroit_expert_demonstrations_can_be_cloned():
    """Pen from 25 expert episodes, seven seconds of cloning: far better than the untrained policy."""
    demonstrations = collect("ogpo/AdroitPen-v0", episodes=25, seed=0)
    kwargs = dict(batch_size=128, bc_learning_rate=1e-3, actor_tau=0.02, chunk_size=2, seed=0, device="cpu")
    policy_kwargs = dict(net_arch=[128, 128], n_critics=2, denoising_steps=4)
    model = OGPO(
        "FlowPolicy",
        "ogpo/AdroitPen-v0",
        demonstrations=demonstrations,
        bc_steps=1500,
        policy_kwargs=policy_kwargs,
        **kwargs,
    )
    before = evaluate(model, n_episodes=30).success_rate
    model.pretrain(progress_bar=False)
    assert evaluate(model, n_episodes=30).success_rate >= before + 0.25
