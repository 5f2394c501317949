"""The benchmark environments, on their real simulators."""

import importlib
import os
import subprocess
import sys
import warnings

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from stable_baselines3.common.env_checker import check_env
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv

from ogpo_sb3.demonstrations import load
from ogpo_sb3.demonstrations.experts import AdroitExpert
from ogpo_sb3.envs import kitchen, pusht
from ogpo_sb3.envs.adroit import normalized_score
from ogpo_sb3.envs.registry import TASKS, register_environments, resolve, task_of

register_environments()

DOOR = "ogpo/AdroitDoor-v0"
KITCHEN = "ogpo/KitchenComplete-v0"
PUSHT = "ogpo/PushT-v0"
# Robomimic and LIBERO have files of their own: test_robomimic.py, test_libero.py.
IDS = [env_id for env_id, task in TASKS.items() if task.extra not in ("robomimic", "libero")]
# Every engine task once, and every observation type; test_images.py has the pictures of the others.
VARIANTS = [(env_id, {}) for env_id in IDS] + [
    (PUSHT, {"obs_type": obs_type}) for obs_type in ("keypoints", "image", "state_image")
]


def play(env, actions, seed=0):
    """Observations, rewards and infos of fixed actions, up to the end of the episode."""
    observations, rewards, infos = [env.reset(seed=seed)[0]], [], []
    terminated = truncated = False
    for action in actions:
        observation, reward, terminated, truncated, info = env.step(action)
        observations.append(observation)
        rewards.append(reward)
        infos.append(info)
        if terminated or truncated:
            break
    return observations, rewards, infos, terminated, truncated


def drive_door(seed=0, **kwargs):
    """One episode of the Door expert."""
    env = gym.make(DOOR, **kwargs)
    expert = AdroitExpert("door")
    observation, info = env.reset(seed=seed)
    assert info["is_success"] is False
    rewards, infos = [], []
    terminated = truncated = False
    while not (terminated or truncated):
        action = expert.act(observation, np.random.default_rng(0))
        observation, reward, terminated, truncated, info = env.step(action)
        rewards.append(reward)
        infos.append(info)
    env.close()
    return np.array(rewards), infos, terminated, truncated


@pytest.mark.parametrize(("env_id", "kwargs"), VARIANTS)
def test_the_environment_meets_the_contract(env_id, kwargs):
    env = gym.make(env_id, **kwargs)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(env.unwrapped, skip_render_check=True)
    assert env.action_space == spaces.Box(-1.0, 1.0, env.action_space.shape, np.float32)
    observation, info = env.reset(seed=0)
    assert env.observation_space.contains(observation) and info["is_success"] is False
    observation, reward, terminated, truncated, info = env.step(env.action_space.sample())
    assert env.observation_space.contains(observation) and isinstance(reward, float)
    assert isinstance(terminated, bool) and isinstance(truncated, bool) and isinstance(info["is_success"], bool)
    parts = observation.values() if isinstance(observation, dict) else [observation]
    assert all(part.dtype in (np.float32, np.uint8) for part in parts)
    env.close()


@pytest.mark.parametrize("env_id", [PUSHT, "ogpo/KitchenMixed-v0", DOOR, "ogpo/AdroitPen-v0"])
def test_a_seed_fixes_the_episode_and_another_changes_it(env_id):
    env, again = gym.make(env_id), gym.make(env_id)
    actions = np.random.default_rng(0).uniform(-1, 1, (12, *env.action_space.shape)).astype(np.float32)
    play(again, actions[:5], seed=3)  # what happened before must not matter
    first, second, other = play(env, actions), play(again, actions), play(again, actions, seed=1)
    np.testing.assert_array_equal(first[0], second[0])
    assert first[1] == second[1]
    assert not np.array_equal(first[0][0], other[0][0])
    # Without a seed the stream goes on instead of starting again.
    assert not np.array_equal(env.reset(seed=5)[0], env.reset()[0])
    for one in (env, again):
        one.close()


@pytest.mark.parametrize("env_id", IDS)
def test_the_horizon_is_the_tasks_and_can_be_overridden(env_id):
    assert gym.spec(env_id).max_episode_steps == TASKS[env_id].horizon
    env = gym.make(env_id, max_episode_steps=3)
    *_, infos, terminated, truncated = play(env, np.zeros((9, *env.action_space.shape), np.float32))
    assert len(infos) == 3 and truncated and not terminated and infos[-1]["is_success"] is False
    env.close()


def test_the_table_holds_the_papers_settings():
    assert TASKS[PUSHT].gamma == 0.95 and TASKS[DOOR].gamma == 0.95 and TASKS[KITCHEN].gamma == 0.99
    assert {TASKS[env_id].chunk_size for env_id in IDS} == {4}
    assert [TASKS[i].horizon for i in (PUSHT, KITCHEN, DOOR)] == [300, 280, 200]
    for task in (TASKS[env_id] for env_id in IDS):
        assert task.id.startswith("ogpo/") and task.id.endswith("-v0")
        for path in filter(None, (task.expert, task.adapt_demonstrations)):
            assert callable(resolve(path))


def test_registering_twice_changes_nothing():
    before = {env_id: gym.spec(env_id) for env_id in TASKS}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        register_environments()
    assert all(gym.spec(env_id) is spec for env_id, spec in before.items())


def test_the_registry_imports_no_simulator():
    engines = ("mujoco", "gymnasium_robotics", "robosuite", "libero", "gym_pusht", "pymunk", "h5py", "minari")
    code = (
        "import sys, ogpo_sb3.doctor; from ogpo_sb3.envs.registry import register_environments; register_environments(); "
        f"print([m for m in {engines} if m in sys.modules])"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"


def test_task_of_finds_the_task_behind_anything():
    env = gym.make(PUSHT)
    assert task_of(PUSHT) is task_of(f"ogpo_sb3:{PUSHT}") is task_of(env) is task_of(Monitor(env)) is TASKS[PUSHT]
    assert task_of(DummyVecEnv([lambda: env])) is TASKS[PUSHT]
    assert task_of("Pendulum-v1") is None and task_of(gym.make("Pendulum-v1")) is None
    assert task_of(DummyVecEnv([lambda: gym.make("Pendulum-v1")])) is None
    # A bare environment class has no spec.
    assert task_of(pusht.PushTEnv()) is None
    with pytest.raises(TypeError, match="not int"):
        task_of(3)


def test_an_id_works_in_subprocesses():
    # Started afresh, a worker knows our ids when what it receives makes it import the package, as this wrapper does.
    venv = make_vec_env(PUSHT, n_envs=2, seed=0, vec_env_cls=SubprocVecEnv, wrapper_class=Passing)
    try:
        assert task_of(venv) is TASKS[PUSHT]
        assert venv.reset().shape == (2, 6)
        _, rewards, dones, infos = venv.step(np.zeros((2, 2), np.float32))
        assert rewards.tolist() == [-1.0, -1.0] and not dones.any() and infos[0]["is_success"] is False
    finally:
        venv.close()


class Passing(gym.Wrapper):
    """Changes nothing; workers find it in this module, which registers the ids."""


@pytest.mark.parametrize(
    ("env_id", "module", "sentence"),
    [
        (DOOR, "gymnasium_robotics", r'^AdroitDoor needs .* gymnasium-robotics: run `pip install "ogpo_sb3\[adroit\]"`\.$'),
        (
            KITCHEN,
            "gymnasium_robotics",
            r'^Franka Kitchen needs .* gymnasium-robotics: run `pip install "ogpo_sb3\[kitchen\]"`\.$',
        ),
        (PUSHT, "gym_pusht", r"^Push-T needs the package gym-pusht: run `pip install ogpo_sb3`\.$"),
    ],
)
def test_a_missing_simulator_is_one_clear_sentence(monkeypatch, env_id, module, sentence):
    for name in [name for name in sys.modules if name == module or name.startswith(f"{module}.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=sentence):
        gym.make(env_id)


def test_a_simulator_that_lacks_its_own_dependency_names_that(monkeypatch):
    for name in [name for name in sys.modules if name.startswith("gym_pusht.envs")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "pymunk", None)
    with pytest.raises(ImportError, match=r"gym-pusht \(its import of pymunk failed\)"):
        gym.make(PUSHT)


@pytest.mark.parametrize(
    ("env_id", "kwargs", "sentence"),
    [
        (DOOR, {"reward": "shaped"}, 'reward is "sparse" or "dense"'),
        (DOOR, {"task": "Window"}, "Door, Hammer, Pen, Relocate"),
        (KITCHEN, {"subtasks": "all"}, "complete, partial, mixed"),
        (KITCHEN, {"subtasks": ["fridge"]}, "fridge"),
        (PUSHT, {"obs_type": "pixels"}, "state, keypoints, image, state_image"),
        (PUSHT, {"reward": "shaped"}, "'sparse', 'dense', 'coverage'"),
        (PUSHT, {"obs_type": "image", "render_mode": "human"}, "cannot be combined"),
        (PUSHT, {"reward_scale": "large"}, "Push-T: reward_scale is a finite number, not 'large'"),
        (DOOR, {"success_bonus": float("nan")}, "AdroitDoor: success_bonus is a finite number, not nan"),
        (KITCHEN, {"reward_scale": None}, "Franka Kitchen: reward_scale is a finite number, not None"),
    ],
)
def test_a_wrong_argument_is_refused_with_the_choices(env_id, kwargs, sentence):
    with pytest.raises(ValueError, match=sentence):
        gym.make(env_id, **kwargs)


# Adroit


def test_adroit_ends_at_the_first_success():
    rewards, infos, terminated, truncated = drive_door()
    assert terminated and not truncated and 20 < len(rewards) < 120
    assert rewards.tolist() == [-1.0] * (len(rewards) - 1) + [0.0]
    assert [info["is_success"] for info in infos] == [False] * (len(infos) - 1) + [True]


def test_adroit_remembers_a_success_to_the_horizon():
    first = len(drive_door()[0])
    rewards, infos, terminated, truncated = drive_door(terminate_on_success=False, max_episode_steps=first + 6)
    assert truncated and not terminated and len(infos) == first + 6
    assert [info["is_success"] for info in infos] == [False] * (first - 1) + [True] * 7
    # The sparse reward follows the step, not the memory.
    assert rewards.tolist() == [float(info["success"]) - 1.0 for info in infos]


def test_adroit_remembers_a_success_that_was_lost_again():
    env = gym.make(DOOR, terminate_on_success=False)
    env.reset(seed=0)
    engine = env.unwrapped.engine
    hinge = engine.door_hinge_addrs
    engine.data.qpos[hinge] = 1.5
    assert env.step(env.action_space.sample())[4]["success"]
    engine.data.qpos[hinge] = 0.0
    *_, info = env.step(env.action_space.sample())
    assert info["success"] is False and info["is_success"] is True
    assert env.reset(seed=0)[1]["is_success"] is False
    assert env.step(env.action_space.sample())[4]["is_success"] is False
    env.close()


def test_adroit_dense_reward_is_the_engines_scaled_and_topped_up():
    plain, infos, *_ = drive_door(reward="dense")
    shaped, *_ = drive_door(reward="dense", reward_scale=0.1, success_bonus=3.0)
    np.testing.assert_allclose(plain, [info["dense_reward"] for info in infos])
    assert plain[-1] > 10.0 > plain[0]  # the engine pays for an open door
    np.testing.assert_allclose(shaped, 0.1 * plain + 3.0 * np.array([info["success"] for info in infos]))
    # The documented way to the engine's own sparse reward.
    sparse, *_ = drive_door(reward_scale=0.1, success_bonus=10.0)
    np.testing.assert_allclose(sparse, [-0.1] * (len(sparse) - 1) + [10.0])


def test_d4rl_score_runs_from_random_to_expert_and_needs_full_dense_episodes():
    assert normalized_score("Pen", 96.262799) == pytest.approx(0.0)
    assert normalized_score("Relocate", 4233.877797728884) == pytest.approx(100.0)
    env = gym.make(DOOR, reward="dense", terminate_on_success=False)
    assert env.unwrapped.normalized_score(1412.0) == pytest.approx(50.0, abs=0.01)
    with pytest.raises(ValueError, match='reward="dense"'):
        gym.make(DOOR).unwrapped.normalized_score(100.0)


def test_mujoco_draws_off_screen_without_a_display(monkeypatch):
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("MUJOCO_GL", raising=False)
    gym.make(DOOR).close()
    assert "MUJOCO_GL" not in os.environ  # only pictures need it
    env = gym.make(DOOR, render_mode="rgb_array")
    env.reset(seed=0)
    picture = env.render()
    env.close()
    assert os.environ["MUJOCO_GL"] == "egl"
    assert picture.shape == (480, 480, 3) and picture.dtype == np.uint8 and picture.std() > 5
    monkeypatch.setenv("MUJOCO_GL", "osmesa")  # the user's choice stays
    gym.make(DOOR, render_mode="rgb_array").close()
    assert os.environ["MUJOCO_GL"] == "osmesa"


# Kitchen


def test_kitchen_replays_a_human_demonstration_to_the_end():
    demonstration = load("shipped:kitchen-complete").episode(0)
    env = gym.make(KITCHEN)
    observations, rewards, infos, terminated, truncated = play(env, demonstration.actions)
    env.close()
    assert terminated and not truncated and abs(len(rewards) - demonstration.n_steps) <= 5
    assert set(infos[-1]["completed"]) == set(kitchen.SUBTASKS["complete"]) and infos[-1]["is_success"]
    counts = np.array([info["n_completed"] for info in infos])
    assert counts[0] == 0 and counts[-1] == 4 and set(np.diff(counts)) <= {0, 1}
    np.testing.assert_array_equal(rewards, np.where(counts == 4, 0.0, counts - 7.0))
    assert not any(info["is_success"] for info in infos[:-1])
    # Judged from the observations alone, as recorded data are, the same subtasks finish at the same steps.
    seen = kitchen.finished(np.stack(observations[1:]), kitchen.SUBTASKS["complete"])
    np.testing.assert_array_equal(np.logical_or.accumulate(seen).sum(axis=1), counts)


def test_kitchen_judges_recordings_by_the_engines_own_numbers():
    engine = importlib.import_module("gymnasium_robotics.envs.franka_kitchen.kitchen_env")
    assert kitchen._FINISHED_WITHIN == engine.BONUS_THRESH
    assert set(kitchen._GOALS) == set(engine.OBS_ELEMENT_GOALS)
    for name, (part, goal) in kitchen._GOALS.items():
        np.testing.assert_array_equal(goal, engine.OBS_ELEMENT_GOALS[name])
        # Object positions start at index 9 of the joint positions and at 18 of the observation.
        np.testing.assert_array_equal(np.arange(59)[part], engine.OBS_ELEMENT_INDICES[name] + 9)


def test_kitchen_ends_when_its_own_list_is_done():
    demonstration = load("shipped:kitchen-complete").episode(0)
    env = gym.make(KITCHEN, subtasks=["microwave", "kettle"], reward_scale=0.5)
    _, rewards, infos, terminated, _ = play(env, demonstration.actions)
    env.close()
    assert terminated and rewards[-1] == 0.0 and infos[-1]["completed"] == ["microwave", "kettle"]
    assert rewards[0] == -3.5 and rewards[-2] == -3.0 and len(rewards) < 110


def test_kitchen_lists_are_d4rls():
    for name in ("Complete", "Mixed", "Partial"):
        env = gym.make(f"ogpo/Kitchen{name}-v0")
        assert env.unwrapped.subtasks == kitchen.SUBTASKS[name.lower()]
        assert set(env.unwrapped.engine.goal) == set(env.unwrapped.subtasks)
        env.close()
    assert kitchen.SUBTASKS["mixed"] == ("microwave", "kettle", "bottom burner", "light switch")


# Push-T


def test_pusht_replays_human_demonstrations():
    demonstrations = load("shipped:pusht")
    env = gym.make(PUSHT)
    # 51 reaches the goal with its last action, 1 never does.
    for index, succeeds in ((51, True), (1, False)):
        episode = demonstrations.episode(index)
        observations = [env.reset(seed=0, options={"state": pusht.decode(episode.observations[0])})[0]]
        terminated, rewards, infos = False, [], []
        for action in episode.actions:
            assert not terminated
            observation, reward, terminated, _, info = env.step(action)
            observations.append(observation)
            rewards.append(reward)
            infos.append(info)
        np.testing.assert_allclose(np.stack(observations[:-1]), episode.observations, atol=2e-5)
        assert terminated is succeeds is infos[-1]["is_success"] is bool(episode.successes[0])
        assert (infos[-1]["coverage"] > 0.95) is succeeds
        np.testing.assert_array_equal(rewards, episode.rewards)
        np.testing.assert_array_equal(terminated, episode.terminals[-1])


@pytest.mark.parametrize(("reward", "best"), [("dense", 1.0), ("coverage", 0.0)])
@pytest.mark.parametrize(("scale", "bonus"), [(1.0, 0.0), (0.02, 3.0)])
def test_pusht_rewards_the_covered_share(reward, best, scale, bonus):
    episode = load("shipped:pusht").episode(51)
    env = gym.make(PUSHT, reward=reward, reward_scale=scale, success_bonus=bonus)
    env.reset(options={"state": pusht.decode(episode.observations[0])})
    for action in episode.actions:
        _, reward, terminated, _, info = env.step(action)
        base = min(info["coverage"] / 0.95, 1.0) + best - 1.0
        assert reward == pytest.approx(scale * base + bonus * terminated)
    assert terminated and reward == scale * best + bonus


def test_pusht_forgets_what_moved_before_a_restored_state():
    episode = load("shipped:pusht").episode(51)
    state = pusht.decode(episode.observations[0])
    env = gym.make(PUSHT)

    def follow(reset):
        reset()
        return np.array([env.step(action)[4]["state"] for action in episode.actions])

    def in_motion():
        env.reset(seed=0)
        for _ in range(4):
            env.step(np.array([0.9, -0.9], np.float32))
        env.unwrapped.set_state(state)

    # Seed 16's random start has the pusher inside the block, which pushes itself free afterwards.
    expected = follow(lambda: env.reset(seed=0, options={"state": state}))
    np.testing.assert_array_equal(follow(lambda: env.reset(seed=16, options={"state": state})), expected)
    np.testing.assert_array_equal(follow(in_motion), expected)


def test_pusht_actions_span_the_table():
    env = gym.make(PUSHT)
    env.reset(seed=0, options={"state": [100.0, 400.0, 256.0, 200.0, 0.3]})
    for _ in range(20):
        *_, info = env.step(np.array([-0.5, 0.75], np.float32))
    np.testing.assert_allclose(info["state"][:2], [128.0, 448.0], atol=1.0)


def test_pusht_restores_a_state_exactly_and_observes_it_scaled():
    state = np.array([300.0, 120.0, 256.0, 384.0, 2.5])
    env = gym.make(PUSHT)
    observation, info = env.reset(seed=0, options={"state": state})
    np.testing.assert_allclose(info["state"], state, atol=1e-9)
    np.testing.assert_allclose(observation, [300 / 256 - 1, 120 / 256 - 1, 0.0, 0.5, np.sin(2.5), np.cos(2.5)], atol=1e-6)
    np.testing.assert_allclose(pusht.decode(observation), state, atol=1e-3)
    with pytest.raises(ValueError, match=r"\(5,\)"):
        env.reset(options={"state": [0.0, 1.0]})


def test_pusht_keypoints_are_the_data_sets():
    with np.load(os.path.join(os.path.dirname(pusht.__file__), "../demonstrations/data/pusht_cchi_v7_lowdim.npz")) as file:
        states, keypoints = file["state"][::50], file["keypoint"][::50]
    found = pusht.encode(states, "keypoints")
    assert found.shape == (len(states), 20)
    error = np.abs((found[:, :18] + 1.0) * 256.0 - keypoints.reshape(-1, 18)).max(axis=1)
    assert np.quantile(error, 0.95) < 0.05
    np.testing.assert_allclose((found[:, 18:] + 1.0) * 256.0, states[:, :2], atol=1e-3)
    env = gym.make(PUSHT, obs_type="keypoints")
    observation, _ = env.reset(seed=0, options={"state": states[7]})
    np.testing.assert_allclose(observation, found[7], atol=1e-5)


def test_pusht_pictures_show_the_state():
    env = gym.make(PUSHT, obs_type="state_image", render_mode="rgb_array")
    left, _ = env.reset(seed=0, options={"state": [60.0, 60.0, 150.0, 200.0, 0.0]})
    right, _ = env.reset(seed=0, options={"state": [60.0, 60.0, 350.0, 200.0, 0.0]})
    block = np.abs(left["image"].astype(int) - right["image"].astype(int)).sum(axis=2) > 30
    columns = np.flatnonzero(block.any(axis=0))
    assert columns.min() < 35 and columns.max() > 60 and not block[:, :10].any()
    assert env.render().shape == (680, 680, 3)
    pixels, _ = gym.make(PUSHT, obs_type="image").reset(seed=0, options={"state": [60.0, 60.0, 350.0, 200.0, 0.0]})
    np.testing.assert_array_equal(pixels, right["image"])
