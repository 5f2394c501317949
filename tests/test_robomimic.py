"""Robomimic's tasks on real robosuite, compared with robomimic's own wrapper."""

import gc
import subprocess
import sys
import types
import warnings
from pathlib import Path

import gymnasium as gym
import h5py
import numpy as np
import pytest
from gymnasium import spaces
from stable_baselines3.common.env_checker import check_env
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import SubprocVecEnv

from ogpo_sb3 import ChunkActionWrapper, presets
from ogpo_sb3.envs.registry import TASKS, register_environments
from ogpo_sb3.envs.robomimic import RobomimicEnv, low_dim_keys

register_environments()

LIFT = "ogpo/RobomimicLift-v0"
# Sizes as robomimic's files have them (Mandlekar et al. 2021, v1.4.1 data), and the paper's chunk sizes, horizons, discounts.
SIZES = {"Lift": (19, 7), "Can": (23, 7), "Square": (23, 7), "ToolHang": (53, 7), "Transport": (59, 14)}
ARM = ("eef_pos", "eef_quat", "gripper_qpos")
LOW_DIM = {  # as in robomimic's configurations for its low-dimensional data
    "Square": (*(f"robot0_{part}" for part in ARM), "object"),
    "Transport": (*(f"robot0_{part}" for part in ARM), *(f"robot1_{part}" for part in ARM), "object"),
}
PAPER = {"Square": (4, 400, 0.99), "ToolHang": (8, 1000, 0.999), "Transport": (8, 800, 0.999)}
# Recorded by hand, in robosuite's package.
HUMAN_LIFT = "models/assets/demonstrations/lift/demo.hdf5"


def lift(env, steps=60):
    """Drive the gripper above the cube, down, closed and up; the infos and rewards on the way."""
    engine = env.unwrapped.robosuite
    rewards, infos, done = [], [], False
    for _ in range(steps):
        hand = engine.sim.data.site_xpos[engine.robots[0].eef_site_id]
        cube = engine.sim.data.body_xpos[engine.cube_body_id]
        offset = cube - hand
        over = np.linalg.norm(offset[:2]) < 0.01
        holds = over and abs(offset[2]) < 0.012
        held = holds and engine._check_grasp(gripper=engine.robots[0].gripper, object_geoms=engine.cube)
        move = [*(10.0 * offset[:2]), 0.5 if held else (10.0 * offset[2] if over else 0.0)]
        action = np.clip([*move, 0.0, 0.0, 0.0, 1.0 if holds else -1.0], -1.0, 1.0)
        _, reward, done, truncated, info = env.step(action.astype(np.float32))
        rewards.append(reward)
        infos.append(info)
        if done or truncated:
            break
    return rewards, infos, done


@pytest.fixture(scope="module")
def lift_env():
    env = gym.make(LIFT)
    yield env
    env.close()


@pytest.mark.parametrize("task", list(SIZES))
def test_every_task_resets_steps_and_has_the_papers_sizes(task):
    env = gym.make(f"ogpo/Robomimic{task}-v0")
    state, action = SIZES[task]
    assert env.observation_space == spaces.Box(-np.inf, np.inf, (state,), np.float32)
    assert env.action_space == spaces.Box(-1.0, 1.0, (action,), np.float32)
    observation, info = env.reset(seed=0)
    assert env.observation_space.contains(observation) and info["is_success"] is False
    observation, reward, terminated, truncated, info = env.step(env.action_space.sample())
    assert env.observation_space.contains(observation)
    assert (reward, terminated, truncated, info) == (-1.0, False, False, {"is_success": False, "success": False})
    engine = env.unwrapped.robosuite
    assert engine.control_freq == 20 and engine.robots[0].controller.name == "OSC_POSE"
    env.close()


@pytest.mark.parametrize("task", list(SIZES))
def test_registry_presets_and_paper_agree(task):
    registered, preset = TASKS[f"ogpo/Robomimic{task}-v0"], presets.paper(f"ogpo/Robomimic{task}-v0")
    chunk_size, horizon, gamma = PAPER.get(task, (4, 300, 0.99))
    assert (registered.chunk_size, registered.horizon, registered.gamma) == (chunk_size, horizon, gamma)
    assert (preset["chunk_size"], preset["gamma"]) == (chunk_size, gamma)
    assert gym.spec(registered.id).max_episode_steps == horizon


def test_the_interface_is_gymnasiums(lift_env):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(lift_env.unwrapped, skip_render_check=True)


def theirs(monkeypatch, env_args, **kwargs):
    """robomimic's own wrapper around the same engine; its import needs two modules that nothing here installs."""
    monkeypatch.setitem(sys.modules, "mujoco_py", types.ModuleType("mujoco_py"))
    probe = types.ModuleType("egl_probe")
    probe.get_available_devices = lambda: []
    monkeypatch.setitem(sys.modules, "egl_probe", probe)
    from robomimic.envs.env_robosuite import EnvRobosuite
    from robomimic.utils import obs_utils

    obs_utils.initialize_obs_utils_with_obs_specs({"obs": {"low_dim": [], "rgb": kwargs.pop("pictures", [])}})
    return EnvRobosuite(env_args["env_name"], **{**env_args["env_kwargs"], **kwargs})


@pytest.mark.parametrize("task", ["Square", "Transport"])
def test_observations_and_steps_are_robomimics(monkeypatch, task):
    ours = RobomimicEnv(task)
    other = theirs(monkeypatch, ours.env_args)
    first, _ = ours.reset(seed=3)
    other.reset()
    # Transport's hammer differs in size from episode to episode, hence the model as well.
    seen = other.reset_to({"states": ours.state, "model": ours.model_xml})
    np.testing.assert_allclose(first, np.concatenate([seen[key] for key in LOW_DIM[task]]), atol=1e-6)
    # The controllers start from the same place when both are put into the state the same way.
    ours.set_state(ours.state, ours.model_xml)
    rng = np.random.default_rng(0)
    for _ in range(4):
        action = rng.uniform(-1, 1, ours.action_space.shape)
        mine = ours.step(action)[0]
        seen = other.step(action)[0]
        np.testing.assert_allclose(mine, np.concatenate([seen[key] for key in LOW_DIM[task]]), atol=1e-6)
    assert set(LOW_DIM[task]) <= set(ours.engine_observation) <= set(seen)
    ours.close()
    other.env.close()


def test_pictures_are_robomimics(monkeypatch):
    ours = RobomimicEnv("Can", obs_type="state_image", image_size=(36, 48), hard_reset=False, render_mode="rgb_array")
    pictures = ["agentview_image", "robot0_eye_in_hand_image"]
    other = theirs(monkeypatch, ours.env_args, use_image_obs=True, postprocess_visual_obs=False, pictures=pictures)
    first, _ = ours.reset(seed=1)
    assert set(first) == {"state", *ours.cameras} and ours.observation_space.contains(first)
    other.reset()
    seen = other.reset_to({"states": ours.state})
    for camera in ours.cameras:
        # A few pixels at edges may differ by rounding.
        difference = np.abs(first[camera].astype(int) - seen[f"{camera}_image"].astype(int))
        assert first[camera].shape == (36, 48, 3) and first[camera].std() > 10 and (difference > 8).mean() < 0.01
    # Proprioception alone: pictures show the objects.
    wanted = np.concatenate([seen[key] for key in low_dim_keys("Can", objects=False)])
    np.testing.assert_allclose(first["state"], wanted, atol=1e-6)
    frame = ours.render()
    assert frame.shape == (480, 480, 3) and frame.dtype == np.uint8 and frame.std() > 10
    ours.close()
    other.env.close()


def test_up_is_up_in_pictures():
    env = RobomimicEnv("Lift", obs_type="image", cameras=["agentview"], image_size=64, hard_reset=False)
    assert env.observation_space == spaces.Box(0, 255, (64, 64, 3), np.uint8)
    env.reset(seed=0)
    state = env.state
    cube = 1 + env.robosuite.sim.model.get_joint_qpos_addr("cube_joint0")[0]
    rows = []
    for height in (1.0, 0.83):  # the cube in the air and on the table, beside the gripper; nothing else differs
        state[cube : cube + 3] = (0.0, 0.2, height)
        red, green, blue = np.moveaxis(env.set_state(state).astype(int), -1, 0)
        rows.append(np.argwhere(red - np.maximum(green, blue) > 50)[:, 0].mean())
    assert rows[0] < rows[1] - 5
    env.close()


def test_pictures_follow_the_state_through_hard_resets():
    """Each reset loads the model anew and with it the renderer; what is drawn later must be this episode's."""
    kwargs = {"obs_type": "image", "cameras": ["agentview"], "image_size": 40}
    env = RobomimicEnv("Lift", **kwargs)
    first, _ = env.reset(seed=0)
    for _ in range(2):
        # Standing still, hardly anything moves.
        seen, *_ = env.step(np.zeros(7))
        assert first.std() > 10 and np.abs(first.astype(int) - seen).mean() < 3
    # Neither closing nor dropping another environment takes the renderer's buffers along.
    for drop in (False, True):
        other = RobomimicEnv("Lift", **kwargs, hard_reset=False)
        env.step(np.zeros(7))
        if not drop:
            other.close()
        del other
        gc.collect()
        again = env.step(np.zeros(7))[0]
        assert np.abs(again.astype(int) - seen).mean() < 3
    env.close()


def test_an_environment_left_open_does_not_keep_the_interpreter():
    """Its renderer is freed while OpenGL still runs, without complaint, though nobody closed it."""
    code = (
        "from ogpo_sb3.envs.robomimic import RobomimicEnv; "
        "env = RobomimicEnv('Lift', obs_type='image', cameras=['agentview'], image_size=36, hard_reset=False); "
        "env.reset(seed=0); raise RuntimeError('left open')"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert ran.returncode == 1 and ran.stderr.strip().endswith("RuntimeError: left open")


def test_two_environments_of_a_process_draw_each_its_own_scene():
    def pictures(env):
        yield env.reset(seed=0)[0]
        yield env.step(np.full(env.action_space.shape, 0.3))[0]
        yield env.unwrapped.set_state(env.unwrapped.state)
        yield env.render()

    kwargs = {"obs_type": "image", "cameras": ["agentview"], "image_size": 36, "hard_reset": False}
    lift, can = (RobomimicEnv(task, **kwargs, render_mode="rgb_array") for task in ("Lift", "Can"))
    door = gym.make("ogpo/AdroitDoor-v0", obs_type="image", image_size=36)
    apart = list(pictures(lift))
    together = []
    for picture, *_ in zip(pictures(lift), pictures(can), strict=True):
        together.append(picture)
        door.reset(seed=0)  # another engine's renderer
    assert all(np.array_equal(one, other) for one, other in zip(apart, together, strict=True))
    for env in (door, can, lift):
        env.close()


def test_lifting_the_cube_succeeds_and_ends_the_episode(lift_env):
    lift_env.reset(seed=0)
    rewards, infos, done = lift(lift_env)
    assert done and len(rewards) < 60
    assert rewards == [-1.0] * (len(rewards) - 1) + [0.0]
    assert [info["is_success"] for info in infos] == [False] * (len(infos) - 1) + [True]


def test_bonus_scale_and_steps_after_success():
    env = gym.make(LIFT, success_bonus=5.0, reward_scale=0.5, post_success_steps=3, hard_reset=False)
    env.reset(seed=0)
    rewards, infos, done = lift(env)
    success = np.array([info["success"] for info in infos])
    first = int(success.argmax())
    assert done and success.any() and len(rewards) == first + 1 + 3
    np.testing.assert_allclose(rewards, 0.5 * (success - 1.0) + 5.0 * success)
    assert [info["is_success"] for info in infos] == [False] * first + [True] * 4
    # A success that is lost again within these steps stays one.
    engine = env.unwrapped.robosuite
    env.reset(seed=0)
    addr = engine.sim.model.get_joint_qpos_addr("cube_joint0")[0] + 2
    state = env.unwrapped.state
    state[1 + addr] = 1.0
    env.unwrapped.set_state(state)
    outcomes = [env.step(np.zeros(7, np.float32)) for _ in range(1)]
    assert outcomes[0][4]["success"]
    state[1 + addr] = 0.83
    engine.sim.set_state_from_flattened(state)
    _, _, terminated, _, info = env.step(np.zeros(7, np.float32))
    assert not terminated and info == {"is_success": True, "success": False}
    assert env.reset(seed=0)[1]["is_success"] is False
    env.close()


def test_dense_reward_is_robosuites():
    env = gym.make(LIFT, reward="dense", hard_reset=False)
    env.reset(seed=0)
    rewards, infos, done = lift(env)
    assert done and infos[-1]["success"] and rewards[-1] == pytest.approx(1.0)
    assert all(0.0 <= reward < 1.0 for reward in rewards[:-1]) and rewards[0] < rewards[-2]
    env.close()
    with pytest.raises(ValueError, match="no shaped reward"):
        gym.make("ogpo/RobomimicToolHang-v0", reward="dense")


def test_a_seed_fixes_the_episode_whatever_the_global_generator_does(lift_env):
    def play(seed):
        observations = [lift_env.reset(seed=seed)[0]]
        for action in np.random.default_rng(1).uniform(-1, 1, (3, 7)).astype(np.float32):
            observations.append(lift_env.step(action)[0])
        return np.stack(observations), lift_env.unwrapped.model_xml

    np.random.seed(11)
    before = np.random.get_state()[1].copy()
    first, model = play(5)
    assert np.array_equal(before, np.random.get_state()[1])  # left alone
    np.random.seed(12)
    again, same = play(5)
    np.testing.assert_array_equal(first, again)
    assert model == same
    other, third = play(6)
    assert not np.array_equal(first[0], other[0]) and third != model  # the cube's size is drawn as well
    assert not np.array_equal(lift_env.reset()[0], lift_env.reset()[0])


def test_a_soft_reset_keeps_the_model_and_draws_the_start():
    env = RobomimicEnv("Lift", hard_reset=False)
    first, _ = env.reset(seed=0)
    simulator, model = env.robosuite.sim, env.model_xml
    second, _ = env.reset(seed=1)
    assert env.robosuite.sim is simulator and env.model_xml == model
    assert not np.allclose(first[9:12], second[9:12], atol=1e-4)  # the cube lies elsewhere
    np.testing.assert_array_equal(first, env.reset(seed=0)[0])
    # A recorded model stays until the next reset.
    recorded = model.replace('name="cube_g0" ', 'name="cube_g0" mass="0.5" ')
    env.set_state(env.state, recorded)
    assert env.model_xml != model and env.robosuite.sim is not simulator
    np.testing.assert_array_equal(first, env.reset(seed=0)[0])
    assert env.model_xml == model
    env.close()


def test_a_human_recording_goes_on_to_success(lift_env):
    """From the middle of a real demonstration (robosuite's own file), its actions lift the cube."""
    import robosuite

    with h5py.File(Path(robosuite.__file__).parent / HUMAN_LIFT) as file:
        demonstration = file["data/demo_2"]
        states, actions = demonstration["states"][:], demonstration["actions"][:]
        model = demonstration.attrs["model_file"]
    env = lift_env.unwrapped
    begin = len(states) - 60
    with pytest.raises(ValueError, match=r"recorded model does not fit this robosuite: .*robot0_link7_collision"):
        env.set_state(states[begin], model)  # an older version's
    observation, _ = lift_env.reset(seed=0, options={"state": states[begin]})
    np.testing.assert_allclose(env.state, states[begin])
    cube = 1 + env.robosuite.sim.model.get_joint_qpos_addr("cube_joint0")[0]
    np.testing.assert_allclose(observation[9:12], states[begin][cube : cube + 3], atol=1e-6)
    infos = []
    for action in actions[begin:]:
        *_, done, _, info = lift_env.step(action)
        infos.append(info)
        if done:
            break
    assert infos[-1]["is_success"] and not infos[0]["is_success"]


def test_chunks_and_processes():
    venv = make_vec_env(
        LIFT,
        n_envs=2,
        seed=0,
        env_kwargs={"hard_reset": False},
        vec_env_cls=SubprocVecEnv,
        vec_env_kwargs={"start_method": "spawn"},
        wrapper_class=ChunkActionWrapper,
        wrapper_kwargs={"chunk_size": 4},
    )
    try:
        observations = venv.reset()
        assert observations.shape == (2, 19) and not np.array_equal(observations[0], observations[1])
        observations, rewards, dones, infos = venv.step(np.zeros((2, 28), np.float32))
        assert rewards.tolist() == [-4.0, -4.0] and not dones.any()
        assert len(infos[0]["chunk"]["next_observations"]) == 4
    finally:
        venv.close()


def test_the_horizon_truncates():
    env = gym.make(LIFT, max_episode_steps=2, hard_reset=False)
    env.reset(seed=0)
    env.step(np.zeros(7, np.float32))
    *_, terminated, truncated, info = env.step(np.zeros(7, np.float32))
    assert truncated and not terminated and info["is_success"] is False
    env.close()


@pytest.mark.parametrize(
    ("kwargs", "sentence"),
    [
        ({"task": "Stack"}, "tasks Lift, Can, Square, ToolHang, Transport, not 'Stack'"),
        ({"obs_type": "pixels"}, "obs_type is one of state, image, state_image, not 'pixels'"),
        ({"reward": "shaped"}, 'reward is "sparse" or "dense", not \'shaped\''),
        ({"reward_scale": True}, "RobomimicLift: reward_scale is a finite number, not True"),
        ({"post_success_steps": -1}, "post_success_steps is a whole number of at least 0, not -1"),
        ({"obs_type": "image", "image_size": 4}, "image_size is one or two whole numbers of at least 8, not 4"),
        ({"obs_type": "image", "cameras": "agentview"}, "cameras is a list"),
        ({"obs_type": "image", "cameras": ["moon"]}, r"RobomimicLift with the cameras \['moon'\]: .*moon_image"),
        ({"state_keys": ["robot0_eef_pos", "moon"]}, "state_keys names 'moon'; the engine observes robot0"),
        ({"render_mode": "human"}, "render_mode is None or \"rgb_array\", not 'human'"),
    ],
)
def test_wrong_arguments_are_named(kwargs, sentence):
    with pytest.raises(ValueError, match=sentence):
        RobomimicEnv(**{"task": "Lift", **kwargs})


def test_wrong_actions_and_states_are_named(lift_env):
    env = lift_env.unwrapped
    env.reset(seed=0)
    with pytest.raises(ValueError, match=r"the shape \(3,\), not \(7,\)"):
        env.step(np.zeros(3))
    with pytest.raises(ValueError, match="NaN"):
        env.step(np.full(7, np.nan))
    with pytest.raises(ValueError, match="a state has 32 finite numbers, found the shape"):
        env.set_state(np.zeros(5))


def test_what_is_missing_is_said_in_one_sentence(monkeypatch):
    for name in [name for name in sys.modules if name.partition(".")[0] == "robosuite"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "robosuite", None)
    sentence = r'^RobomimicLift needs the package robosuite: run `pip install "ogpo_sb3\[robomimic\]"` and '
    with pytest.raises(ImportError, match=sentence + "`pip install --no-deps robosuite==1.4.1 robomimic==0.3.0`"):
        gym.make(LIFT)


def test_low_dim_keys_are_robomimics(monkeypatch):
    monkeypatch.setitem(sys.modules, "mujoco_py", types.ModuleType("mujoco_py"))
    from robomimic.config import config_factory

    assert low_dim_keys("Square") == LOW_DIM["Square"] == tuple(config_factory("bc").observation.modalities.obs.low_dim)
    assert low_dim_keys("Transport") == LOW_DIM["Transport"]
    assert low_dim_keys("Transport", objects=False) == LOW_DIM["Transport"][:-1]
