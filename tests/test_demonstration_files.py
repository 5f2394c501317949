"""Files that other tools read and write: robomimic's, LIBERO's, DAPG's and Minari's layouts."""

import copy
import importlib
import importlib.util
import json
import pickle
import sys
import types
from pathlib import Path

import gymnasium as gym
import h5py
import minari
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor

from ogpo_sb3 import OGPO
from ogpo_sb3.demonstrations import DemonstrationSet, load, save
from ogpo_sb3.demonstrations.lazy import LazyRows
from ogpo_sb3.demonstrations.saving import published
from ogpo_sb3.envs.libero import decode_instruction
from ogpo_sb3.envs.registry import TASKS, register_environments
from tests.test_demonstrations import ENDS, LENGTHS, assert_same, make, make_dict

register_environments()

WIDTHS = {"robot0_eef_pos": 3, "robot0_eef_quat": 4, "robot0_gripper_qpos": 2, "object": 10}
# Recorded by hand, in robosuite's package.
RAW_LIFT = (
    Path(next(iter(importlib.util.find_spec("robosuite").submodule_search_locations)))
    / "models/assets/demonstrations/lift/demo.hdf5"
)


def write_robomimic(path, pictures=True, lengths=LENGTHS, order=None, **changes):
    """A file as robomimic's tools write it; returns the arrays of each episode by name."""
    rng = np.random.default_rng(4)
    episodes = {}
    with h5py.File(path, "w") as file:
        data = file.create_group("data")
        for index, n in enumerate(lengths):
            steps = {key: rng.normal(size=(n + 1, width)) for key, width in {**WIDTHS, "robot0_joint_pos": 7}.items()}
            if pictures:
                steps["agentview_image"] = rng.integers(0, 256, (n + 1, 6, 5, 3)).astype(np.uint8)
            arrays = {f"obs/{key}": array[:-1] for key, array in steps.items()}
            arrays.update({f"next_obs/{key}": array[1:] for key, array in steps.items()})
            arrays["actions"] = rng.uniform(-1, 1, (n, 7))
            arrays["states"] = rng.normal(size=(n, 32))
            # Two last steps in the goal in even episodes, none in odd ones; a done at every end (robomimic's mode 2).
            arrays["rewards"] = (np.arange(n) >= n - 2).astype(float) * (index % 2 == 0)
            arrays["dones"] = np.maximum(arrays["rewards"], np.arange(n) == n - 1).astype(np.int64)
            arrays.update(changes.get(f"demo_{index}", {}))
            group = data.create_group(f"demo_{index}" if order is None else order[index])
            for key, array in arrays.items():
                if array is not None:
                    group[key] = array
            group.attrs["num_samples"] = n
            group.attrs["model_file"] = f"<mujoco model='{index}'/>"
            episodes[group.name.rpartition("/")[2]] = arrays
        data.attrs["env_args"] = json.dumps({"env_name": "Lift", "type": 1, "env_kwargs": {"robots": ["Panda"]}})
        data.attrs["total"] = sum(lengths)
        file["mask/train"] = np.array([b"demo_2", b"demo_0"])
    return episodes


# robomimic


def test_vectors_are_joined_in_robomimics_order(tmp_path):
    episodes = write_robomimic(tmp_path / "low.hdf5", pictures=False)
    data = load(tmp_path / "low.hdf5")
    expected = [np.concatenate([e[f"obs/{key}"] for key in WIDTHS], axis=1) for e in episodes.values()]
    np.testing.assert_array_equal(data.observations, np.concatenate(expected).astype(np.float32))
    assert data.meta["observation_keys"] == WIDTHS and data.meta["env_args"]["env_name"] == "Lift"
    final = [np.concatenate([e[f"next_obs/{key}"][-1] for key in WIDTHS]) for e in episodes.values()]
    np.testing.assert_array_equal(data.final_observations, np.float32(final))
    assert data.episode_ends.tolist() == ENDS.tolist() and data.scenes[1] == "<mujoco model='1'/>"
    np.testing.assert_array_equal(data.states, np.concatenate([e["states"] for e in episodes.values()]))
    # Dones mark every end of a recording; terminations are those in the goal.
    assert data.successes.tolist() == [True, False, True]
    assert np.flatnonzero(data.terminals).tolist() == [2, 8]
    chosen = load(f"{tmp_path / 'low.hdf5'}?keys=object,robot0_joint_pos")
    assert chosen.observations.shape == (9, 17)
    np.testing.assert_array_equal(chosen.observations[:3, :10], episodes["demo_0"]["obs/object"].astype(np.float32))


def test_episodes_come_in_the_order_of_their_numbers(tmp_path):
    episodes = write_robomimic(tmp_path / "d.hdf5", order=["demo_10", "demo_9", "demo_2"])
    data = load(tmp_path / "d.hdf5", images=())
    assert data.episode_lengths.tolist() == [5, 1, 3]
    np.testing.assert_array_equal(data.episode(0).actions, episodes["demo_2"]["actions"].astype(np.float32))


def test_filter_keys_select_episodes(tmp_path):
    episodes = write_robomimic(tmp_path / "d.hdf5")
    for data in (load(f"{tmp_path / 'd.hdf5'}?filter=train"), load(tmp_path / "d.hdf5", filter="train")):
        assert data.episode_lengths.tolist() == [3, 5] and data.meta["filter"] == "train"
        np.testing.assert_array_equal(data.episode(1).actions, episodes["demo_2"]["actions"].astype(np.float32))
        np.testing.assert_array_equal(data.observations["agentview"][3], episodes["demo_2"]["obs/agentview_image"][0])
        assert list(data.scenes) == ["<mujoco model='0'/>", "<mujoco model='2'/>"]


def test_pictures_stay_in_the_file_until_they_are_indexed(tmp_path, monkeypatch):
    episodes = write_robomimic(tmp_path / "d.hdf5")
    everything = np.concatenate([e["obs/agentview_image"] for e in episodes.values()])
    read = []
    original = LazyRows._read
    monkeypatch.setattr(LazyRows, "_read", lambda self, rows: read.append(len(rows)) or original(self, rows))
    data = load(tmp_path / "d.hdf5")
    space = spaces.Dict(
        {"state": spaces.Box(-np.inf, np.inf, (19,)), "agentview": spaces.Box(0, 255, (3, 6, 5), np.uint8)},
    )
    moved = data.for_space(space)
    moved.validate_for(space, spaces.Box(-1, 1, (7,)))
    picked = moved.select([2, 0])
    assert read == []
    pictures = picked.observations["agentview"]
    assert pictures.shape == (8, 3, 6, 5) and pictures.dtype == np.uint8
    rng = np.random.default_rng(0)
    order = np.r_[4:9, 0:3]
    for rows in (3, slice(2, 7, 2), rng.integers(0, 8, 20), np.arange(8) % 3 == 0, np.array([], int), -1):
        expected = np.moveaxis(everything[order][rows], -1, -3)
        np.testing.assert_array_equal(pictures[rows], expected)
    assert max(read) == 20
    np.testing.assert_array_equal(np.asarray(copy.deepcopy(data.observations["agentview"])), everything)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(pictures))[1], np.moveaxis(everything[5], -1, 0))
    final = data.final_observations["agentview"]
    np.testing.assert_array_equal(final, [e["next_obs/agentview_image"][-1] for e in episodes.values()])


class Camera(gym.Env):
    """Noise in the shape of robomimic's observations."""

    observation_space = spaces.Dict({"state": spaces.Box(-9, 9, (19,)), "agentview": spaces.Box(0, 255, (6, 5, 3), np.uint8)})
    action_space = spaces.Box(-1, 1, (7,))

    def reset(self, **_):
        return self.observation_space.sample(), {}

    def step(self, action):
        return self.observation_space.sample(), 0.0, True, False, {}


class Flat(BaseFeaturesExtractor):
    """State and pixels one behind the other."""

    def __init__(self, observation_space):
        super().__init__(observation_space, features_dim=19 + 90)

    def forward(self, observations):
        return th.cat([observations[key].flatten(1).float() for key in ("state", "agentview")], dim=1)


def test_cloning_reads_only_the_batch(tmp_path, monkeypatch):
    write_robomimic(tmp_path / "d.hdf5", lengths=(40, 30))
    read = []
    original = LazyRows._read
    monkeypatch.setattr(LazyRows, "_read", lambda self, rows: read.append(len(rows)) or original(self, rows))

    model = OGPO(
        "FlowPolicy",
        Camera(),
        demonstrations=str(tmp_path / "d.hdf5"),
        bc_steps=3,
        batch_size=16,
        chunk_size=2,
        device="cpu",
        buffer_size=100,
        policy_kwargs=dict(net_arch=[8], n_critics=2, denoising_steps=1, features_extractor_class=Flat),
    )
    assert read == []
    model.pretrain(progress_bar=False)
    assert read == [16, 16, 16]


@pytest.mark.parametrize(
    ("changes", "source", "sentence"),
    [
        ({"demo_1": {"actions": None}}, "", r"data/demo_1/actions is missing, found \['dones', 'next_obs', 'obs'"),
        (
            {"demo_1": {"obs/object": np.zeros((9, 10))}},
            "",
            r"data/demo_1/obs/object must have 1 steps, found shape \(9, 10\)",
        ),
        ({"demo_2": {"obs/agentview_image": None}}, "", r"data/demo_2/obs/agentview_image must have 5 steps, found \["),
        ({"demo_0": {"rewards": np.zeros(2)}}, "", r"data/demo_0/rewards has shape \(2,\), wanted 3 steps"),
        (
            {"demo_0": {"obs/object": np.full((3, 10), np.nan)}},
            "?images=",
            "observations holds NaN or infinity, first in row 0",
        ),
        ({}, "?filter=test", r"there is no filter key test, found \['train'\]"),
        ({}, "?keys=object,velocity", "obs/velocity is missing"),
        ({}, "?images=wrist", r"there is no camera wrist, found \['agentview'\]"),
        ({}, "?mask=train", "what can be chosen is filter, keys, images, observations, not mask"),
        ({}, "?observations=all", '"recorded" or "states", not \'all\''),
    ],
)
def test_a_wrong_robomimic_file_is_one_sentence(tmp_path, changes, source, sentence):
    write_robomimic(tmp_path / "d.hdf5", **changes)
    with pytest.raises(ValueError, match=rf"d\.hdf5.*{sentence}"):
        load(f"{tmp_path / 'd.hdf5'}{source}")


def test_choices_belong_to_files_of_episodes(tmp_path):
    make().save(tmp_path / "a.npz")
    with pytest.raises(ValueError, match="filter can be chosen in robomimic's and LIBERO's files only"):
        load(f"{tmp_path / 'a.npz'}?filter=train")


def test_the_raw_recording_says_what_to_do():
    with pytest.raises(ValueError, match=r"has \['actions', 'states'\] but no obs .* `python -m ogpo_sb3.demos convert"):
        load(RAW_LIFT)
    data = load(RAW_LIFT, observations="states")
    assert data.episode_lengths.tolist() == [482, 510, 392] and data.states.dtype == np.float64
    np.testing.assert_array_equal(data.observations, data.states.astype(np.float32))
    assert data.scenes[2].startswith("<mujoco")


@pytest.mark.parametrize(
    "data", [make(), make_dict(), make(rewards=None, terminals=None, final_observations=None, successes=None)]
)
def test_robomimic_round_trip(tmp_path, data):
    data.states = np.random.default_rng(8).normal(size=(9, 5))
    data.scenes = ["<a/>", "<b/>", "<c/>"]
    path = save(data, tmp_path / "sub" / "data.hdf5")
    read = load(path)
    for name in ("observations", "final_observations"):
        if isinstance(getattr(read, name), dict):
            setattr(read, name, {key: np.asarray(array) for key, array in getattr(read, name).items()})
    assert_same(read, data)
    np.testing.assert_array_equal(read.states, data.states)
    assert list(read.scenes) == ["<a/>", "<b/>", "<c/>"] and read.meta["origin"] == "made here" and read.meta["seed"] == 7
    assert [file.name for file in (tmp_path / "sub").iterdir()] == ["data.hdf5"]
    again = load(save(load(path), tmp_path / "again.npz"))
    np.testing.assert_array_equal(again.states, data.states)
    assert again.scenes == ["<a/>", "<b/>", "<c/>"]
    if data.successes is not None:
        assert load(f"{path}?filter=successful").episode_lengths.tolist() == [3, 5]


def test_writing_a_robomimic_file_is_all_or_nothing(tmp_path, monkeypatch):
    path = Path(save(make(), tmp_path / "data.hdf5"))
    before = path.read_bytes()
    monkeypatch.setattr(DemonstrationSet, "episode", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        save(make(), path)
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


@pytest.fixture
def robomimic_dataset(monkeypatch):
    """robomimic's loader; its import asks for two modules that are not needed to read files."""
    for name in ("mujoco_py", "egl_probe"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    obs_utils = importlib.import_module("robomimic.utils.obs_utils")
    obs_utils.initialize_obs_utils_with_obs_specs({"obs": {"low_dim": list(WIDTHS), "rgb": ["agentview_image"]}})
    return importlib.import_module("robomimic.utils.dataset").SequenceDataset


def test_robomimics_own_loader_reads_what_was_written(tmp_path, robomimic_dataset):
    episodes = write_robomimic(tmp_path / "theirs.hdf5")
    path = save(load(tmp_path / "theirs.hdf5"), tmp_path / "ours.hdf5", masks={"valid": [1, 2]})
    dataset = robomimic_dataset(
        path,
        obs_keys=[*WIDTHS, "agentview_image"],
        dataset_keys=["actions", "rewards", "dones"],
        seq_length=3,
        filter_by_attribute="valid",
        hdf5_use_swmr=False,
    )
    assert len(dataset) == 6  # one window per step of episodes 1 and 2
    item, demo = dataset[2], episodes["demo_2"]  # begins at the second step of episode 2
    np.testing.assert_allclose(item["obs"]["object"], demo["obs/object"][1:4], rtol=1e-6)
    np.testing.assert_array_equal(item["obs"]["agentview_image"], demo["obs/agentview_image"][1:4])
    np.testing.assert_allclose(item["next_obs"]["robot0_eef_quat"], demo["next_obs/robot0_eef_quat"][1:4], rtol=1e-6)
    np.testing.assert_allclose(item["actions"], demo["actions"][1:4], rtol=1e-6)
    with h5py.File(path) as file:
        assert json.loads(file["data"].attrs["env_args"])["env_name"] == "Lift"
        assert sorted(name.decode() for name in file["mask/successful"]) == ["demo_0", "demo_2"]


# Adapting robomimic's and LIBERO's files to the tasks


def test_robomimic_data_become_the_environments(tmp_path):
    write_robomimic(tmp_path / "d.hdf5")
    task, data = TASKS["ogpo/RobomimicLift-v0"], load(tmp_path / "d.hdf5")
    adapted = task.adapt(data, task="Lift")
    # Pictures are left out, and so are the steps after the first success.
    assert adapted.observations.shape == (7, 19) and adapted.episode_lengths.tolist() == [2, 1, 4]
    assert adapted.rewards.tolist() == [-1, 0, -1, -1, -1, -1, 0] and np.flatnonzero(adapted.terminals).tolist() == [1, 6]
    assert adapted.successes.tolist() == [True, False, True]
    np.testing.assert_array_equal(adapted.final_observations[0], data.observations["state"][2])
    np.testing.assert_array_equal(adapted.final_observations[1], data.final_observations["state"][1])
    assert task.adapt(adapted, task="Lift") is adapted
    later = task.adapt(data, task="Lift", success_bonus=5.0, post_success_steps=1, reward_scale=2.0)
    assert later.episode_lengths.tolist() == [3, 1, 5] and later.rewards[:3].tolist() == [-2, 5, 5]
    both = task.adapt(data, task="Lift", obs_type="state_image")
    assert both.observations["state"].shape == (7, 9) and both.observations["agentview"].shape == (7, 6, 5, 3)
    np.testing.assert_array_equal(both.observations["state"], adapted.observations[:, :9])
    assert task.adapt(data, task="Lift", reward="dense").rewards is None


def write_libero(path):
    rng = np.random.default_rng(6)
    pictures = []
    with h5py.File(path, "w") as file:
        data = file.create_group("data")
        for index, n in enumerate((4, 3)):
            group = data.create_group(f"demo_{index}")
            group["actions"] = rng.uniform(-1, 1, (n, 7))
            group["robot_states"] = rng.normal(size=(n, 9))
            group["states"] = rng.normal(size=(n, 50))
            group["rewards"] = group["dones"] = (np.arange(n) == n - 1).astype(np.uint8)
            for key, width in {"ee_pos": 3, "ee_ori": 3, "ee_states": 6, "gripper_states": 2, "joint_states": 7}.items():
                group[f"obs/{key}"] = rng.normal(size=(n, width))
            for key in ("agentview_rgb", "eye_in_hand_rgb"):
                group[f"obs/{key}"] = rng.integers(0, 256, (n, 8, 8, 3)).astype(np.uint8)
            pictures.append(group["obs/agentview_rgb"][()])
        data.attrs["problem_info"] = json.dumps({"language_instruction": "open the top drawer"})
        data.attrs["macros_image_convention"] = "opengl"
        data.attrs["bddl_file_name"] = "open_the_top_drawer.bddl"
    return pictures


def test_libero_files(tmp_path):
    pictures = write_libero(tmp_path / "open_the_top_drawer_demo.hdf5")
    data = load(tmp_path / "open_the_top_drawer_demo.hdf5")
    assert data.meta["instruction"] == "open the top drawer" and data.meta["format"] == "LIBERO"
    assert data.observations["state"].shape == (7, 9) and data.successes.all()
    assert sorted(data.observations) == ["agentview", "robot0_eye_in_hand", "state"]
    assert isinstance(data.observations["agentview"], LazyRows)
    np.testing.assert_array_equal(data.observations["agentview"][5], pictures[1][1][::-1])  # upright
    low = load(tmp_path / "open_the_top_drawer_demo.hdf5", images=(), keys=("joint_states", "ee_pos"))
    assert low.observations.shape == (7, 10)
    keys = tuple(data.meta["observation_keys"])
    adapted = TASKS["ogpo/Libero-v0"].adapt(data, state_keys=keys)
    assert adapted.rewards.tolist() == [-1, -1, -1, 0, -1, -1, 0]
    assert adapted.observations["instruction"].shape == (7, 160)
    assert decode_instruction(adapted.observations["instruction"][3]) == "open the top drawer"


# Minari


@pytest.fixture
def minari_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    return tmp_path / "minari"


@pytest.mark.parametrize("data", [make(terminals=np.isin(np.arange(9), [2, 8])), make_dict(), make(final_observations=None)])
def test_minari_round_trip(minari_folder, data):
    source = save(data, "minari:test/round-v0")
    assert source == "minari:test/round-v0"
    for read in (load(source), load(minari_folder / "test/round-v0")):
        assert_same(read, data)
        assert read.meta["origin"] == "made here" and read.meta["seed"] == 7
    episode = minari.load_dataset("test/round-v0")[1]
    assert episode.terminations.tolist() == [False] and episode.truncations.tolist() == [True]
    with pytest.raises(ValueError, match="exists already"):
        save(data, "minari:test/round-v0")


def test_a_failed_minari_data_set_leaves_nothing(minari_folder, monkeypatch):
    monkeypatch.setattr(DemonstrationSet, "episode", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        save(make(), "minari:test/half-v0")
    monkeypatch.undo()
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(minari_folder))
    assert not (minari_folder / "test/half-v0").exists()
    save(make(), "minari:test/half-v0")


def test_a_folder_of_something_else_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"without data/metadata\.json, wanted a Minari data set"):
        load(tmp_path)


# DAPG


def dapg(n_episodes=2, **changes):
    rng = np.random.default_rng(7)
    start = {"qpos": rng.normal(size=30), "qvel": rng.normal(size=30), "door_body_pos": rng.normal(size=3)}
    return [
        {
            "observations": rng.normal(size=(n + 2, 39)),
            "actions": rng.normal(size=(n + 2, 28)),
            "rewards": rng.normal(size=n + 2),
            "init_state_dict": start,
            **changes,
        }
        for n in range(n_episodes)
    ]


def test_dapg_files(tmp_path):
    episodes = dapg()
    (tmp_path / "d.pickle").write_bytes(pickle.dumps(episodes))
    data = load(tmp_path / "d.pickle")
    assert data.episode_lengths.tolist() == [2, 3] and data.meta["task"] == "AdroitDoor"
    np.testing.assert_array_equal(data.actions[2:], episodes[1]["actions"].astype(np.float32))
    start = episodes[1]["init_state_dict"]
    expected = np.concatenate([start["qpos"], start["qvel"], start["door_body_pos"]])
    np.testing.assert_array_equal(data.episode(1).meta["initial_states"], [expected])


class Payload:
    def __reduce__(self):
        return len, ([],)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (
            pickle.dumps([Payload()]),
            r"not a readable pickle of demonstrations \(it holds builtins\.len, wanted plain arrays",
        ),
        (b"nonsense", "not a readable pickle"),
        (pickle.dumps({"a": 1}), "found dict, wanted a list of episodes"),
        (pickle.dumps(dapg(init_state_dict=5)), "episode 0: init_state_dict is int, wanted a dictionary"),
        (pickle.dumps([dapg()[0], {**dapg()[1], "init_state_dict": {}}]), r"episode 1: init_state_dict is \[\], wanted"),
        (
            pickle.dumps([dapg()[0], {**dapg()[1], "actions": np.zeros(())}]),
            r"episode 1: actions has shape \(\), wanted a row",
        ),
        (pickle.dumps(dapg(observations=[[1.0], [1.0, 2.0]])), "episode 0: observations is no array"),
        (pickle.dumps([{"actions": np.zeros((2, 3))}]), r"episode 0: the key observations is missing, found \['actions'\]"),
    ],
)
def test_a_harmful_or_wrong_pickle_is_refused(tmp_path, content, sentence):
    (tmp_path / "d.pickle").write_bytes(content)
    with pytest.raises(ValueError, match=sentence):
        load(tmp_path / "d.pickle")


# D4RL


def test_d4rl_files_with_states(tmp_path):
    rng = np.random.default_rng(1)
    infos = {"qpos": rng.normal(size=(4, 30)), "qvel": rng.normal(size=(4, 30)), "door_body_pos": rng.normal(size=(4, 3))}
    with h5py.File(tmp_path / "door.hdf5", "w") as file:
        file["observations"], file["actions"] = rng.normal(size=(4, 39)), rng.normal(size=(4, 28))
        file["terminals"] = np.array([0, 1, 0, 1], bool)
        for key, array in infos.items():
            file[f"infos/{key}"] = array
    data = load(tmp_path / "door.hdf5")
    np.testing.assert_array_equal(data.states, np.concatenate(list(infos.values()), axis=1))


# Names


@pytest.mark.parametrize(
    "name",
    [
        "D4RL/kitchen/complete-v2",
        "kitchen-complete-v2.hdf5",
        "square/mh/low_dim.hdf5",
        "data/square/mh/low_dim_v141.hdf5",
        "can_ph.npz",
        "tool_hang/ph.hdf5",
        "libero_spatial/x_demo.hdf5",
        "door-expert-v1.npz",
        "pusht_cchi_v7_replay.npz",
        "mujoco/ant/simple-v0",
    ],
)
def test_published_names_are_refused_to_generated_data(tmp_path, name):
    assert published(name) is not None
    data = make(meta={"source": "x", "generated_by": "a test"})
    for target in [f"minari:{name}"] if "." not in name else [tmp_path / name]:
        with pytest.raises(ValueError, match="names a published data set; generated data need another name"):
            save(data, target)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "name", ["relocate.npz", "lift-scripted.hdf5", "square/scripted.hdf5", "hammer_seed0.npz", "graph-v0", "can.npz"]
)
def test_other_names_are_free(name):
    assert published(name) is None


@pytest.mark.parametrize(
    ("name", "masks", "sentence"),
    [
        ("x.npz", {"half": [0]}, r"x\.npz: filter keys .* wanted a \.hdf5 or \.h5 file"),
        ("x.hdf5", {"half": [0, 9]}, r"x\.hdf5: the filter key half lists episode 9, wanted some of 0 to 2"),
        ("x.hdf5", {"none": []}, r"x\.hdf5: the filter key none lists no episode"),
    ],
)
def test_filter_keys_that_would_be_lost_or_name_nothing_are_refused(tmp_path, name, masks, sentence):
    with pytest.raises(ValueError, match=sentence):
        save(make(), tmp_path / name, masks=masks)
    assert not list(tmp_path.iterdir())


def test_an_unknown_target_is_refused(tmp_path):
    for target, sentence in (
        (tmp_path, "is a directory"),
        (tmp_path / "a.csv", r"written to \.npz, \.hdf5, \.h5 or minari:<id>"),
    ):
        with pytest.raises(ValueError, match=sentence):
            save(make(), target)
