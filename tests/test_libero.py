"""LIBERO: its absent assets, its questions, and whole episodes with boxes in place of its meshes."""

import json
import os
import subprocess
import sys

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import SubprocVecEnv

from ogpo_sb3 import ChunkActionWrapper, presets
from ogpo_sb3.envs import libero
from ogpo_sb3.envs.libero import LiberoEnv, decode_instruction, encode_instruction
from ogpo_sb3.envs.registry import TASKS, register_environments
from tests import libero_stand_ins

register_environments()

LIBERO = "ogpo/Libero-v0"
BOXES = {"suite": libero_stand_ins.SUITE, "task_id": libero_stand_ins.TASK_ID}
SENTENCE = "pick up the alphabet soup and place it in the basket"


@pytest.fixture(scope="module")
def assets(tmp_path_factory):
    """A home whose cache holds boxes where LIBERO's meshes would be."""
    home = tmp_path_factory.mktemp("home")
    libero_stand_ins.write(home / ".cache" / "libero" / "assets")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(home))
        patch.setenv("LIBERO_CONFIG_PATH", str(home / "configuration"))
        libero.configure()
        package = libero.import_engine("libero.libero", "hf-libero", "LIBERO", "libero")
        patch.setattr(package, "_assets_path_cache", None)
        yield home


@pytest.fixture(scope="module")
def env(assets):
    env = gym.make(LIBERO, **BOXES, obs_type="state", hard_reset=False)
    yield env
    env.close()


def put_in_basket(env):
    """The simulator's state with the soup moved into the basket, at rest."""
    engine, state = env.unwrapped.robosuite, env.unwrapped.state
    start = {name: 1 + engine.sim.model.get_joint_qpos_addr(f"{name}_joint0")[0] for name in ("alphabet_soup_1", "basket_1")}
    soup, basket = start["alphabet_soup_1"], start["basket_1"]
    state[soup : soup + 3] = state[basket : basket + 3]
    return state


def test_an_episode_and_its_observations(env):
    assert env.action_space == spaces.Box(-1.0, 1.0, (7,), np.float32)
    assert env.observation_space["state"] == spaces.Box(-np.inf, np.inf, (39,), np.float32)
    observation, info = env.reset(seed=0)
    assert env.observation_space.contains(observation) and decode_instruction(observation["instruction"]) == SENTENCE
    assert info == {"is_success": False, "success": False, "instruction": SENTENCE, **BOXES}
    observation, reward, terminated, truncated, info = env.step(np.full(7, 0.5, np.float32))
    assert env.observation_space.contains(observation)
    assert (reward, terminated, truncated, info["instruction"]) == (-1.0, False, False, SENTENCE)
    # Proprioception is what the engine measures: joint angles first, the hand's position where LIBERO has it.
    engine = env.unwrapped.robosuite
    np.testing.assert_allclose(observation["state"][:7], engine.sim.data.qpos[:7], atol=0.05)
    np.testing.assert_allclose(observation["state"][:7], engine._get_observations()["robot0_joint_pos"], atol=1e-6)
    assert engine.control_freq == 20


def test_a_scripted_state_succeeds_and_ends_the_episode(env):
    env.reset(seed=0)
    assert env.step(np.zeros(7, np.float32))[2] is False
    env.unwrapped.set_state(put_in_basket(env))
    _, reward, terminated, truncated, info = env.step(np.zeros(7, np.float32))
    assert (reward, terminated, truncated, info["is_success"]) == (0.0, True, False, True)
    assert env.reset(seed=0)[1]["is_success"] is False


def test_starts_are_the_suites_and_follow_the_seed(env):
    first, _ = env.reset(seed=4)
    state = env.unwrapped.state
    env.reset(seed=5)
    other = env.unwrapped.state
    np.testing.assert_array_equal(env.reset(seed=4)[0]["state"], first["state"])
    np.testing.assert_array_equal(env.unwrapped.state, state)
    assert not np.allclose(state, other, atol=1e-3)
    # Start 7 as recorded, up to what settles within five steps.
    env.reset(seed=0, options={"initial_state": 7})
    recorded = env.unwrapped._benchmark.get_task_init_states(0)
    distances = [np.linalg.norm(start[10:59] - env.unwrapped.state[10:59]) for start in recorded]
    assert len(distances) == 50 and int(np.argmin(distances)) == 7
    with pytest.raises(ValueError, match="has the initial states 0 to 49, not 50"):
        env.reset(options={"initial_state": 50})


def test_pictures_beside_state_and_words(assets):
    env = LiberoEnv(**BOXES, image_size=40, cameras=["agentview"], hard_reset=False, initial_states="random")
    assert list(env.observation_space) == ["agentview", "instruction", "state"]
    assert env.observation_space["agentview"] == spaces.Box(0, 255, (40, 40, 3), np.uint8)
    observation, _ = env.reset(seed=0)
    assert env.observation_space.contains(observation) and observation["agentview"].std() > 10
    # The engine's picture, turned upright.
    raw = env.robosuite._get_observations()["agentview_image"]
    np.testing.assert_array_equal(observation["agentview"], raw[::-1])
    env.close()


def test_a_process_of_its_own(assets):
    venv = make_vec_env(
        LIBERO,
        n_envs=1,
        seed=0,
        env_kwargs={**BOXES, "obs_type": "state", "hard_reset": False},
        vec_env_cls=SubprocVecEnv,
        vec_env_kwargs={"start_method": "spawn"},
        wrapper_class=ChunkActionWrapper,
        wrapper_kwargs={"chunk_size": 2},
    )
    try:
        assert venv.reset()["state"].shape == (1, 39)
        _, rewards, dones, infos = venv.step(np.zeros((1, 14), np.float32))
        assert rewards.tolist() == [-2.0] and not dones.any() and infos[0]["instruction"] == SENTENCE
    finally:
        venv.close()


def test_instructions_become_any_observation(assets):
    lengths = LiberoEnv(
        **BOXES,
        obs_type="state",
        hard_reset=False,
        initial_states="random",
        state_keys=("robot0_gripper_qpos", "robot0_eef_pos", "robot0_eef_quat"),
        instruction=lambda text: np.array([len(text), text.count(" ")]),
    )
    observation, _ = lengths.reset(seed=0)
    assert observation["instruction"].tolist() == [len(SENTENCE), SENTENCE.count(" ")]
    assert observation["state"].shape == (9,)
    lengths.close()


def test_all_instructions_survive_their_encoding(assets):
    benchmarks = libero._module("benchmark")
    for suite, n_tasks in libero.SUITES.items():
        tasks = libero._quietly(lambda suite=suite: benchmarks.get_benchmark(suite)()).tasks
        assert len(tasks) == n_tasks
        for task in tasks:
            encoded = encode_instruction(task.language)
            assert encoded.shape == (160,) and encoded.dtype == np.float32 and 0.0 <= encoded.min() <= encoded.max() <= 1.0
            assert decode_instruction(encoded) == task.language
    assert decode_instruction(encode_instruction("lève la tasse")) == "lève la tasse"
    with pytest.raises(ValueError, match="161 bytes, at most 160"):
        encode_instruction("x" * 161)


def without_assets(tmp_path, code):
    """Run code as a user who has installed hf-libero and nothing else, with nobody at the keyboard."""
    env = {key: value for key, value in os.environ.items() if key not in ("LIBERO_CONFIG_PATH", "XDG_CACHE_HOME")}
    return subprocess.run(
        [sys.executable, "-c", code],
        env={**env, "HOME": str(tmp_path)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )


def test_absent_assets_are_named_and_nothing_is_asked(tmp_path):
    ran = without_assets(tmp_path, f"import gymnasium, ogpo_sb3; gymnasium.make({LIBERO!r})")
    told = ran.stderr.strip().splitlines()[-1]
    assert ran.returncode == 1 and told.startswith(
        "ogpo_sb3.envs.libero.AssetsMissing: LIBERO's meshes and textures are missing: neither /"
    )
    assert f"{tmp_path}/.cache/libero/assets has the folders articulated_objects, stable_scanned_objects" in told
    assert told.endswith(
        "get them with `hf download lerobot/libero-assets --repo-type dataset --local-dir ~/.cache/libero/assets`."
    )
    assert "Do you want" not in ran.stdout
    # The configuration lies in the cache and names folders that exist.
    written = json.loads((tmp_path / ".cache/ogpo_sb3/libero/config.yaml").read_text())
    assert os.path.isdir(written["bddl_files"]) and os.path.isdir(written["init_states"])
    assert not (tmp_path / ".libero").exists()


def test_an_existing_configuration_is_respected_unless_its_folders_are_gone(tmp_path, monkeypatch):
    monkeypatch.setenv("LIBERO_CONFIG_PATH", "to be put back")
    monkeypatch.delenv("LIBERO_CONFIG_PATH")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    own = tmp_path / ".libero" / "config.yaml"
    own.parent.mkdir()
    own.write_text(f"bddl_files: {tmp_path}\ninit_states: {tmp_path}\ndatasets: {tmp_path}\n")
    assert libero.configure() == own.parent and os.environ["LIBERO_CONFIG_PATH"] == str(own.parent)
    monkeypatch.delenv("LIBERO_CONFIG_PATH")
    own.write_text("bddl_files: /nowhere\ninit_states: /nowhere\n")
    assert libero.configure() == tmp_path / ".cache" / "ogpo_sb3" / "libero"
    assert own.read_text().startswith("bddl_files: /nowhere")  # theirs is not overwritten
    chosen = tmp_path / "chosen"
    monkeypatch.setenv("LIBERO_CONFIG_PATH", str(chosen))
    assert libero.configure() == chosen and (chosen / "config.yaml").is_file()


def test_an_absent_package_is_one_sentence(monkeypatch):
    for name in [name for name in sys.modules if name.partition(".")[0] == "libero"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "libero", None)
    with pytest.raises(ImportError, match=r'^LIBERO needs the package hf-libero: run `pip install "ogpo_sb3\[libero\]"` and '):
        LiberoEnv()


@pytest.mark.parametrize(
    ("kwargs", "sentence"),
    [
        ({"suite": "libero_91"}, "suites libero_spatial, libero_object, libero_goal, libero_90, libero_10, not 'libero_91'"),
        ({"suite": "libero_goal", "task_id": 10}, "libero_goal has the tasks 0 to 9, not 10"),
        ({"task_id": True}, "libero_90 has the tasks 0 to 89, not True"),
        ({"obs_type": "pixels"}, "obs_type is one of"),
        ({"initial_states": "fixed"}, 'initial_states is "benchmark" or "random"'),
        ({"instruction": "tokens"}, 'instruction is "bytes", a function or None'),
    ],
)
def test_wrong_arguments_are_named(kwargs, sentence):
    with pytest.raises(ValueError, match=sentence):
        LiberoEnv(**kwargs)


def test_an_encoder_of_another_shape_is_refused(assets):
    with pytest.raises(ValueError, match=r"makes an array of shape \(2, 2\), not a vector"):
        LiberoEnv(**BOXES, instruction=lambda text: np.zeros((2, 2)))


def test_registry_presets_and_paper_agree():
    task, preset = TASKS[LIBERO], presets.paper(LIBERO)
    assert (task.chunk_size, task.horizon, task.gamma) == (8, 1000, 0.999)
    assert (preset["chunk_size"], preset["gamma"], preset["group_size"], preset["actor_tau"]) == (8, 0.999, 8, 0.001)
    assert preset["policy_kwargs"]["critic_net_arch"] == [128, 128, 128]
    assert gym.spec(LIBERO).max_episode_steps == 1000
