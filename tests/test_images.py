"""Pictures as observations: Kitchen, Adroit and Push-T, the policy and the replay buffer on them, and renderers that hang."""

import subprocess
import sys
import time

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv

from ogpo_sb3 import OGPO, ChunkActionWrapper
from ogpo_sb3.common.buffers import ChunkReplayBuffer
from ogpo_sb3.envs import images, rendering
from ogpo_sb3.envs.registry import register_environments

register_environments()

DOOR, KITCHEN, PUSHT = "ogpo/AdroitDoor-v0", "ogpo/KitchenMixed-v0", "ogpo/PushT-v0"


@pytest.mark.parametrize("env_id", [DOOR, KITCHEN, PUSHT])
def test_pictures_are_of_the_chosen_size_and_show_what_moves(env_id):
    env = gym.make(env_id, obs_type="state_image", image_size=(40, 56), render_mode="rgb_array")
    plain = gym.make(env_id)
    assert list(env.observation_space) == ["image", "state"]
    assert env.observation_space["image"] == spaces.Box(0, 255, (40, 56, 3), np.uint8)
    assert env.observation_space["state"] == plain.observation_space
    first, _ = env.reset(seed=0)
    assert env.observation_space.contains(first) and first["image"].std() > 5
    # States and rewards are those of the environment without pictures.
    np.testing.assert_array_equal(first["state"], plain.reset(seed=0)[0])
    if env_id == DOOR:
        assert env.render().shape == (480, 480, 3)  # the video's renderer in between must not disturb the other
    action = np.full(env.action_space.shape, 0.9, np.float32)
    seen, reward, *_ = env.step(action)
    state, plain_reward, *_ = plain.step(action)
    np.testing.assert_array_equal(seen["state"], state)
    assert reward == plain_reward
    assert (seen["image"] != first["image"]).any()
    # Same scene, same camera: down the middle, the observation is the video's frame, smaller.
    if env_id == DOOR:
        again = env.render()
        rows = (np.arange(40) + 0.5) * again.shape[0] / 40
        middle = again[rows.astype(int)][:, again.shape[1] // 2].astype(int)
        assert np.abs(middle - seen["image"][:, 28].astype(int)).mean() < 25
    env.close()
    plain.close()


@pytest.mark.parametrize("env_id", [DOOR, PUSHT])
def test_a_picture_alone_is_a_box(env_id):
    env = gym.make(env_id, obs_type="image", image_size=36)
    assert env.observation_space == spaces.Box(0, 255, (36, 36, 3), np.uint8)
    first, _ = env.reset(seed=0)
    again, _ = env.reset(seed=0)
    np.testing.assert_array_equal(first, again)
    assert env.observation_space.contains(first) and env.render() is None
    env.close()


def test_two_environments_of_a_process_draw_each_its_own_scene():
    door, hammer = (gym.make(f"ogpo/Adroit{name}-v0", obs_type="image", image_size=48) for name in ("Door", "Hammer"))
    apart, _ = door.reset(seed=0)
    other, _ = hammer.reset(seed=0)
    again, _ = door.reset(seed=0)
    np.testing.assert_array_equal(apart, again)
    assert (apart != other).mean() > 0.05
    hammer.close()  # which takes nothing of the other's along
    np.testing.assert_array_equal(apart, door.reset(seed=0)[0])
    door.close()


@pytest.mark.parametrize(
    ("env_id", "kwargs", "sentence"),
    [
        (DOOR, {"obs_type": "keypoints"}, "AdroitDoor: obs_type is one of state, image, state_image, not 'keypoints'"),
        (KITCHEN, {"obs_type": "pixels"}, "Franka Kitchen: obs_type is one of state, image, state_image, not 'pixels'"),
        (
            KITCHEN,
            {"image_size": (84, 0)},
            r"Franka Kitchen: image_size is one or two whole numbers of at least 8, not \(84, 0\)",
        ),
        (PUSHT, {"image_size": 96.0}, "Push-T: image_size is one or two whole numbers of at least 8, not 96.0"),
    ],
)
def test_wrong_arguments_are_named(env_id, kwargs, sentence):
    with pytest.raises(ValueError, match=sentence):
        gym.make(env_id, **kwargs)


def test_parts_alone_and_together():
    state, picture = np.zeros(2, np.float32), np.zeros((8, 8, 3), np.uint8)
    assert images.observation("state", state, {}) is state
    assert images.observation("image", state, {"a": picture}) is picture
    assert list(images.observation("image", state, {"a": picture, "b": picture})) == ["a", "b"]
    assert list(images.observation("state_image", state, {"a": picture})) == ["state", "a"]


def test_policy_and_buffer_take_pictures_beside_states():
    """OGPO learns a few steps on Push-T's pictures; each picture is stored once, as bytes."""
    env = ChunkActionWrapper(gym.make(PUSHT, obs_type="state_image", image_size=36, max_episode_steps=10), chunk_size=2)
    model = OGPO(
        "FlowPolicy",
        env,
        buffer_size=64,
        learning_starts=16,
        batch_size=4,
        actor_batch_size=2,
        group_size=2,
        utd_critic=0.25,
        utd_actor=0.25,
        device="cpu",
        seed=0,
        policy_kwargs=dict(net_arch=[16], n_critics=2, denoising_steps=2),
    )
    model.learn(24)
    assert model.num_timesteps >= 24 and model._n_updates > 0
    stored = model.replay_buffer.observations["image"]
    assert stored.dtype == np.uint8 and stored.shape == (64, 1, 3, 36, 36)
    action, _ = model.predict(env.reset(seed=0)[0], deterministic=True)
    assert action.shape == (4,) and np.isfinite(action).all()
    assert all(th.isfinite(parameter).all() for parameter in model.policy.parameters())


def test_a_step_takes_the_bytes_of_its_pictures_and_little_else():
    """What docs/guide/environments.md says about 100 000 steps: the next observation is the following row's."""
    picture = spaces.Box(0, 255, (3, 84, 84), np.uint8)
    space = spaces.Dict({"state": spaces.Box(-1, 1, (9,), np.float32), "agentview": picture, "wrist": picture})
    buffer = ChunkReplayBuffer(100_000, space, spaces.Box(-1, 1, (28,), np.float32), device="cpu", chunk_size=4)
    assert buffer.memory_bytes() == pytest.approx(100_000 * 2 * 84 * 84 * 3, rel=0.01)


def test_pictures_in_a_process_of_their_own():
    def make():
        import ogpo_sb3  # noqa: F401  (registers the id there)

        return gym.make(DOOR, obs_type="image", image_size=36)

    venv = SubprocVecEnv([make], start_method="spawn")
    here = DummyVecEnv([lambda: gym.make(DOOR, obs_type="image", image_size=36)])
    try:
        for one in (venv, here):
            one.seed(0)
        np.testing.assert_array_equal(venv.reset(), here.reset())
    finally:
        venv.close()
        here.close()


def test_a_renderer_that_hangs_ends_its_worker_and_names_the_variable():
    """The parent gets an error at once instead of waiting forever."""
    code = f"""
import importlib.util, multiprocessing, time
spec = importlib.util.spec_from_file_location("rendering", {rendering.__file__!r})  # alone, which is quicker
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)

def work(pipe):
    with module.watched("RobomimicLift", limit=0.5):
        time.sleep(60)
    pipe.send("never")

if __name__ == "__main__":
    parent, child = multiprocessing.Pipe()
    worker = multiprocessing.get_context("fork").Process(target=work, args=(child,))
    worker.start()
    child.close()
    try:
        parent.recv()
    except EOFError:
        print("the worker ended")
"""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=50)
    assert ran.stdout == "the worker ended\n"
    assert "RobomimicLift has not finished a picture in 0 s (MUJOCO_GL is" in ran.stderr


def test_watching_ends_with_what_is_watched(caplog):
    with rendering.watched("Kitchen", limit=0.05):
        pass
    time.sleep(0.15)
    assert not caplog.records
    with rendering.watched("Kitchen", limit=0.05):  # in the main process, which is not ended
        time.sleep(0.15)
    assert [record.message.startswith("Kitchen has not finished") for record in caplog.records] == [True]


def test_a_backend_is_tried_in_another_process(monkeypatch):
    assert rendering.probe("egl") is None
    told = rendering.probe("glfw")
    assert told is None or told.startswith("MUJOCO_GL=glfw fails: ")
    assert "fails" in rendering.probe("nonsense")
    monkeypatch.setattr(rendering, "_ONE_PICTURE", "import time; time.sleep(60)")
    assert rendering.probe("egl", limit=0.2) == "MUJOCO_GL=egl drew nothing within 0 s"
