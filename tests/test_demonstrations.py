"""Demonstrations: the data set, and every reader on files written here."""

import sys

import h5py
import minari
import numpy as np
import pytest
import zarr
from gymnasium import spaces
from minari import create_dataset_from_buffers
from minari.data_collector import EpisodeBuffer

from ogpo_sb3.demonstrations import DemonstrationSet, load

LENGTHS = (3, 1, 5)
ENDS = np.cumsum(LENGTHS)


def make(**changes):
    """Three short episodes with everything recorded."""
    rng = np.random.default_rng(0)
    n = int(ENDS[-1])
    fields = {
        "observations": rng.normal(size=(n, 4)).astype(np.float32),
        "actions": rng.uniform(-1, 1, (n, 2)).astype(np.float32),
        "episode_ends": ENDS,
        "rewards": rng.normal(size=n).astype(np.float32),
        "terminals": np.isin(np.arange(n), [2, 8]),
        "final_observations": rng.normal(size=(3, 4)).astype(np.float32),
        "successes": np.array([True, False, True]),
        "meta": {"source": "made here", "seed": 7},
    }
    return DemonstrationSet(**{**fields, **changes})


def make_dict():
    """The same with a vector and a small picture as observations."""
    rng = np.random.default_rng(1)

    def observe(n):
        return {
            "state": rng.normal(size=(n, 4)).astype(np.float32),
            "image": rng.integers(0, 256, (n, 6, 5, 3)).astype(np.uint8),
        }

    return make(observations=observe(int(ENDS[-1])), final_observations=observe(3))


def assert_same(
    left, right, fields=("observations", "actions", "episode_ends", "rewards", "terminals", "final_observations", "successes")
):
    for name in fields:
        one, other = getattr(left, name), getattr(right, name)
        if isinstance(one, dict):
            assert sorted(one) == sorted(other)
            for key in one:
                assert one[key].dtype == other[key].dtype
                np.testing.assert_array_equal(one[key], other[key], err_msg=f"{name}/{key}")
        elif one is None or other is None:
            assert one is other, name
        else:
            assert one.dtype == other.dtype, name
            np.testing.assert_array_equal(one, other, err_msg=name)


# The data set


def test_counts_and_episodes():
    data = make()
    assert (data.n_steps, data.n_episodes, data.action_dim) == (9, 3, 2)
    assert data.episode_lengths.tolist() == list(LENGTHS) and data.episode_starts.tolist() == [0, 3, 4]
    last = data.episode(-1)
    np.testing.assert_array_equal(last.observations, data.observations[4:])
    assert last.episode_ends.tolist() == [5] and last.successes.tolist() == [True]
    np.testing.assert_array_equal(last.final_observations, data.final_observations[2:])
    two = data.subset(2)
    assert two.n_steps == 4 and two.terminals.tolist() == [False, False, True, False] and two.meta == data.meta
    swapped = make_dict().select([2, 0])
    assert swapped.episode_lengths.tolist() == [5, 3]
    np.testing.assert_array_equal(swapped.observations["image"][5:], make_dict().observations["image"][:3])
    with pytest.raises(IndexError, match="episode 3 of 3"):
        data.episode(3)
    for n_episodes in (0, 4):
        with pytest.raises(ValueError, match=f"{n_episodes} episodes wanted, there are 3"):
            data.subset(n_episodes)


@pytest.mark.parametrize("chunk_size", [1, 2, 4, 7])
def test_action_windows_never_leave_their_episode(chunk_size):
    data = make()
    windows, valid = data.action_windows(chunk_size)
    assert windows.shape == (9, 2 * chunk_size) and valid.shape == (9, chunk_size)
    assert windows.dtype == valid.dtype == np.float32
    for row in range(9):
        end = min(end for end in ENDS if end > row)
        for step in range(chunk_size):
            inside = row + step < end
            assert valid[row, step] == inside
            expected = data.actions[row + step] if inside else np.zeros(2)
            np.testing.assert_array_equal(windows[row, 2 * step : 2 * step + 2], expected)
    with pytest.raises(ValueError, match="at least 1"):
        data.action_windows(0)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"observations": np.zeros((8, 4))}, r"^made here: observations has shape \(8, 4\), wanted 9 steps"),
        ({"observations": {"a": np.zeros((9, 1)), "b": np.zeros(5)}}, r"observations/b has shape \(5,\), wanted 9 steps"),
        ({"actions": np.zeros(9)}, r"actions has shape \(9,\), wanted \(steps, action_dim\)"),
        ({"rewards": np.zeros((9, 1))}, r"rewards has shape \(9, 1\), wanted \(9,\)"),
        ({"terminals": np.zeros(4, bool)}, r"terminals has shape \(4,\)"),
        ({"successes": np.zeros(2, bool)}, r"successes has shape \(2,\), wanted 3 episodes"),
        ({"final_observations": np.zeros((4, 4))}, r"final_observations has shape \(4, 4\), wanted 3 episodes"),
        ({"episode_ends": [3, 3, 9]}, "episode_ends is not a strictly increasing"),
        ({"episode_ends": [0, 9]}, "episode_ends is not a strictly increasing"),
        ({"episode_ends": [3, 8]}, "closes at step 8, but actions has 9 steps"),
        ({"episode_ends": []}, "there is no data"),
        ({"episode_ends": 9}, r"episode_ends has shape \(\), wanted \(episodes,\)"),
        ({"episode_ends": [3.5, 4, 9]}, "episode_ends holds fractions"),
        ({"observations": np.zeros((9, 4), complex)}, "made here: observations is of type complex128, wanted real numbers"),
        ({"observations": {"a": np.full((9, 1), "x")}}, "made here: observations/a is of type <U1, wanted real numbers"),
        ({"actions": [[1.0], [1.0, 2.0]]}, "made here: actions is no array"),
        ({"final_observations": np.zeros((3, 5))}, r"has rows of \(5,\), wanted those of observations, \(4,\)"),
        ({"final_observations": {"a": np.zeros((3, 4))}}, r"has rows of a \(4,\), wanted those of observations, \(4,\)"),
        (
            {"actions": np.where(np.arange(18).reshape(9, 2) == 11, np.nan, 0.0)},
            "actions holds NaN or infinity, first in row 5",
        ),
        ({"rewards": np.where(np.arange(9) == 4, -np.inf, 0.0)}, "rewards holds NaN or infinity, first in row 4"),
    ],
)
def test_an_inconsistent_set_names_key_and_shapes(changes, sentence):
    with pytest.raises(ValueError, match=sentence):
        make(**changes)


BOX = spaces.Box(-1.0, 1.0, (2,), np.float32)
STATE = spaces.Box(-np.inf, np.inf, (4,), np.float32)
IMAGE = spaces.Box(0, 255, (6, 5, 3), np.uint8)


def test_a_fitting_set_is_accepted():
    make().validate_for(STATE, BOX)
    make_dict().validate_for(spaces.Dict({"state": STATE, "image": IMAGE}), BOX)
    make_dict().validate_for(spaces.Dict({"state": STATE}), BOX)  # more than needed is fine
    make(actions=np.full((9, 2), 1.0005)).validate_for(STATE, BOX)  # rounding


@pytest.mark.parametrize(
    ("data", "observation_space", "action_space", "sentence"),
    [
        (make(), spaces.Box(-1, 1, (5,)), BOX, r"^made here: observations has shape \(9, 4\), wanted \(steps, 5\)"),
        (make(), STATE, spaces.Box(-1, 1, (8,)), r"actions has shape \(9, 2\), wanted \(steps, 8\)"),
        (make(), STATE, spaces.Discrete(3), "need a Box action space"),
        (make(), spaces.Dict({"state": STATE}), BOX, r"one array, wanted a dictionary with the keys \['state'\]"),
        (make_dict(), STATE, BOX, r"dictionary with the keys \['image', 'state'\], wanted one array"),
        (
            make_dict(),
            spaces.Dict({"depth": IMAGE}),
            BOX,
            r"observations/depth is missing, found the keys \['image', 'state'\]",
        ),
        (
            make_dict(),
            spaces.Dict({"image": spaces.Box(0, 1, (6, 5, 3))}),
            BOX,
            "observations/image is of type uint8, wanted float32",
        ),
        (
            make(actions=np.where(np.arange(18).reshape(9, 2) == 7, -1.5, 0.0)),
            STATE,
            BOX,
            "actions range from -1.5 to 0, outside .* first in row 3",
        ),
    ],
)
def test_a_set_for_another_environment_is_refused(data, observation_space, action_space, sentence):
    with pytest.raises(ValueError, match=sentence):
        data.validate_for(observation_space, action_space)


def test_images_move_to_channel_first_where_the_space_has_them_so():
    data = make_dict()
    space = spaces.Dict({"state": STATE, "image": spaces.Box(0, 255, (3, 6, 5), np.uint8)})
    moved = data.for_space(space)
    moved.validate_for(space, BOX)
    np.testing.assert_array_equal(moved.observations["image"][4, :, 2, 3], data.observations["image"][4, 2, 3])
    assert moved.final_observations["image"].shape == (3, 3, 6, 5)
    assert moved.for_space(space) is moved and data.for_space(spaces.Dict({"image": IMAGE})) is data
    assert make().for_space(STATE).observations.shape == (9, 4)


# Files


@pytest.mark.parametrize(
    "data", [make(), make_dict(), make(rewards=None, terminals=None, final_observations=None, successes=None)]
)
def test_npz_round_trip(tmp_path, data):
    path = data.save(tmp_path / "sub" / "data")
    assert path == tmp_path / "sub" / "data.npz"
    read = load(path)
    assert_same(read, data)
    assert read.meta == {"source": str(path), "origin": "made here", "seed": 7}
    assert load(read) is read
    # A second trip keeps who made the data, not which file it lay in.
    assert load(str(read.save(tmp_path / "again.npz"))).meta["origin"] == "made here"


def test_saving_is_all_or_nothing(tmp_path, monkeypatch):
    path = make().save(tmp_path / "data.npz")
    before = path.read_bytes()

    def fail(file, **arrays):
        file.write(b"half a file")
        raise OSError("disk full")

    monkeypatch.setattr(np, "savez_compressed", fail)
    with pytest.raises(OSError, match="disk full"):
        make_dict().save(path)
    assert path.read_bytes() == before and [file.name for file in tmp_path.iterdir()] == ["data.npz"]


def test_npz_reads_the_bare_arrays_of_published_files(tmp_path):
    data = make()
    np.savez(tmp_path / "flat.npz", state=data.observations, action=data.actions, episode_ends=ENDS, extra=np.zeros(3))
    read = load(tmp_path / "flat.npz")
    assert_same(read, data, ("observations", "actions", "episode_ends"))
    assert read.rewards is None and read.meta["ignored"] == ["extra"]


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"meta": "{broken"}, "meta is not readable as JSON"),
        ({"meta": "[1]"}, "meta holds a list, wanted a dictionary in JSON"),
        ({"scenes": np.arange(3)}, r"scenes has type int64 and shape \(3,\), wanted a text per episode"),
        ({"scenes": "one"}, r"scenes has type <U3 and shape \(\), wanted a text per episode"),
        ({"episode_ends": np.array(["3", "4", "9"])}, "episode_ends is of type <U1, wanted real numbers"),
    ],
)
def test_npz_names_file_and_key_of_what_is_wrong(tmp_path, changes, sentence):
    arrays = {"observations": np.zeros((9, 4)), "actions": np.zeros((9, 2)), "episode_ends": ENDS}
    np.savez(tmp_path / "data.npz", **{**arrays, **changes})
    with pytest.raises(ValueError, match=rf"data\.npz: {sentence}"):
        load(tmp_path / "data.npz")
    np.savez(tmp_path / "data.npz", **arrays, scenes=np.array(["a", "b", "c"]))
    assert load(tmp_path / "data.npz").scenes == ["a", "b", "c"]


@pytest.mark.parametrize("missing", ["observations", "actions", "episode_ends"])
def test_npz_names_a_missing_key(tmp_path, missing):
    arrays = {"observations": np.zeros((9, 4)), "actions": np.zeros((9, 2)), "episode_ends": ENDS}
    arrays.pop(missing)
    np.savez(tmp_path / "data.npz", **arrays)
    with pytest.raises(ValueError, match=rf"data\.npz: the key {missing}.* is missing, found \[.*\]\.$"):
        load(tmp_path / "data.npz")


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_zarr_of_either_format(tmp_path, zarr_format):
    data = make()
    root = zarr.open_group(str(tmp_path / "data.zarr"), mode="w", zarr_format=zarr_format)
    for key, array in {"state": data.observations, "action": data.actions, "img": np.zeros((9, 2, 2, 3))}.items():
        root.create_array(f"data/{key}", data=array)
    root.create_array("meta/episode_ends", data=ENDS)
    read = load(tmp_path / "data.zarr")
    assert_same(read, data, ("observations", "actions", "episode_ends"))
    assert read.meta == {"source": str(tmp_path / "data.zarr"), "ignored": ["img"]}


@pytest.mark.parametrize(
    ("kept", "sentence"),
    [
        (
            ("data/action", "meta/episode_ends"),
            r"the key observations \(or obs, state\) is missing, found \['action', 'episode_ends'\]",
        ),
        (("data/obs", "meta/episode_ends"), r"the key actions \(or action\) is missing"),
        (("data/obs", "data/action", "meta/other"), r"meta/episode_ends is missing, found \['other'\]"),
        (("meta/episode_ends",), r"the group data is missing, found \['meta'\]"),
    ],
)
def test_zarr_names_what_is_missing(tmp_path, kept, sentence):
    root = zarr.open_group(str(tmp_path / "data.zarr"), mode="w")
    for key in kept:
        root.create_array(key, data=ENDS if key.startswith("meta") else np.zeros((9, 2)))
    with pytest.raises(ValueError, match=sentence):
        load(tmp_path / "data.zarr")


def write_hdf5(path, **arrays):
    with h5py.File(path, "w") as file:
        for key, value in arrays.items():
            file[key] = value
    return path


def test_hdf5_splits_episodes_at_terminals_and_timeouts(tmp_path):
    data = make()
    terminals, timeouts = np.isin(np.arange(9), [2]), np.isin(np.arange(9), [3])
    following = np.random.default_rng(3).normal(size=(9, 4)).astype(np.float32)
    path = write_hdf5(
        tmp_path / "door.hdf5",
        observations=data.observations,
        actions=data.actions,
        rewards=data.rewards,
        terminals=terminals,
        timeouts=timeouts,
        next_observations=following,
        **{"infos/qpos": np.zeros((9, 2))},
    )
    read = load(path)
    # Steps 4 to 8 follow the last mark: an episode that was not finished.
    expected = make(terminals=terminals, final_observations=following[ENDS - 1], successes=None)
    assert_same(read, expected)
    assert read.meta["format"] == "D4RL"
    plain = write_hdf5(
        tmp_path / "plain.h5", observations=data.observations, actions=data.actions, terminals=np.isin(np.arange(9), [2, 3, 8])
    )
    assert_same(load(plain), data, ("observations", "actions", "episode_ends"))
    assert load(plain).final_observations is None and load(plain).rewards is None


@pytest.mark.parametrize(
    ("arrays", "sentence"),
    [
        ({"actions": np.zeros((4, 2))}, r"d\.h5: the key observations is missing, found \['actions'\]"),
        (
            {"observations": np.zeros((4, 1)), "data/demo_0": np.zeros(3)},
            r"the key actions is missing, found \['data', 'observations'\]",
        ),
        ({"observations": np.zeros((4, 1)), "actions": np.zeros((4, 2))}, "no episode end is marked"),
        (
            {"observations": np.zeros((4, 1)), "actions": np.zeros((4, 2)), "terminals": np.ones(3)},
            r"terminals has shape \(3,\), wanted \(4,\)",
        ),
        (
            {"observations": np.zeros((3, 1)), "actions": np.zeros((4, 2)), "terminals": np.ones(4)},
            r"observations has shape \(3, 1\), wanted 4 steps",
        ),
        ({"observations": np.zeros((0, 1)), "actions": np.zeros((0, 2)), "terminals": np.ones(0)}, "there is no data"),
    ],
)
def test_hdf5_names_what_is_wrong(tmp_path, arrays, sentence):
    with pytest.raises(ValueError, match=sentence):
        load(write_hdf5(tmp_path / "d.h5", **arrays))


def write_minari(data_id, observation_space, observe, infos=None):
    """A local Minari data set of two episodes, 3 and 2 steps long; ``observe(n)`` makes n observations."""
    rng = np.random.default_rng(5)
    buffers = [
        EpisodeBuffer(
            id=index,
            observations=observe(length + 1),
            actions=rng.uniform(-1, 1, (length, 2)).astype(np.float32),
            rewards=list(range(length)),
            terminations=[False] * (length - 1) + [index == 0],
            truncations=[False] * (length - 1) + [index == 1],
            infos=None if infos is None else infos(index, length + 1),
        )
        for index, length in enumerate((3, 2))
    ]
    create_dataset_from_buffers(
        data_id,
        buffer=buffers,
        observation_space=observation_space,
        action_space=BOX,
        algorithm_name="none",
        author="none",
        author_email="none",
        code_permalink="none",
    )
    return buffers


@pytest.fixture
def minari_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))


@pytest.mark.filterwarnings("ignore::UserWarning")  # Minari's, about metadata these sets do without
def test_minari_vectors(minari_folder):
    rng = np.random.default_rng(2)
    buffers = write_minari(
        "test/vector-v0",
        STATE,
        lambda n: rng.normal(size=(n, 4)).astype(np.float32),
        infos=lambda index, n: {"success": np.arange(n) == (1 if index == 0 else -1)},
    )
    read = load("minari:test/vector-v0")
    assert read.episode_ends.tolist() == [3, 5] and read.meta["source"] == "minari:test/vector-v0"
    np.testing.assert_array_equal(read.observations, np.concatenate([b.observations[:-1] for b in buffers]))
    np.testing.assert_array_equal(read.final_observations, np.stack([b.observations[-1] for b in buffers]))
    np.testing.assert_array_equal(read.actions, np.concatenate([b.actions for b in buffers]))
    assert read.rewards.tolist() == [0, 1, 2, 0, 1] and read.terminals.tolist() == [False, False, True, False, False]
    assert read.successes.tolist() == [True, False]


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_minari_dictionaries(minari_folder):
    goal_space = spaces.Dict({"observation": STATE, "achieved_goal": spaces.Dict({"kettle": STATE}), "desired_goal": STATE})
    write_minari(
        "test/goal-v0",
        goal_space,
        lambda n: {
            "observation": np.full((n, 4), 2, np.float32),
            "achieved_goal": {"kettle": np.zeros((n, 4), np.float32)},
            "desired_goal": np.zeros((n, 4), np.float32),
        },
    )
    read = load("minari:test/goal-v0")
    assert read.observations.shape == (5, 4) and (read.observations == 2).all() and read.successes is None
    write_minari(
        "test/dict-v0",
        spaces.Dict({"state": STATE, "image": IMAGE}),
        lambda n: {"state": np.ones((n, 4), np.float32), "image": np.full((n, 6, 5, 3), 9, np.uint8)},
    )
    read = load("minari:test/dict-v0")
    assert read.observations["image"].shape == (5, 6, 5, 3) and read.observations["image"].dtype == np.uint8
    assert read.final_observations["state"].shape == (2, 4)
    read.validate_for(spaces.Dict({"state": STATE, "image": IMAGE}), BOX)


def test_minari_is_never_downloaded(minari_folder, monkeypatch):
    monkeypatch.setattr(minari.storage.hosting, "download_dataset", lambda *_, **__: pytest.fail("tried to download"))
    with pytest.raises(FileNotFoundError, match=r"^minari:D4RL/door/human-v2 is not on this machine .*`minari download D4"):
        load("minari:D4RL/door/human-v2")


@pytest.mark.parametrize(
    ("source", "error", "sentence"),
    [
        ("demos.csv", ValueError, r"^demos\.csv: demonstrations are read from \.npz, \.zarr, \.hdf5, \.h5 and \.pickle"),
        ("nowhere/demos.npz", FileNotFoundError, r"demos\.npz: there is no such file"),
        ("shipped:pushT", ValueError, "the package ships pusht, kitchen-complete, nothing called 'pushT'"),
    ],
)
def test_an_unreadable_source_is_one_sentence(source, error, sentence):
    with pytest.raises(error, match=sentence):
        load(source)


@pytest.mark.parametrize("name", ["bad.npz", "bad.h5", "bad.zarr"])
def test_a_damaged_file_is_named(tmp_path, name):
    (tmp_path / name).write_bytes(b"this is none of these formats")
    with pytest.raises(ValueError, match=rf"{name} is not a readable"):
        load(tmp_path / name)


@pytest.mark.parametrize(("module", "source"), [("h5py", "d.hdf5"), ("zarr", "d.zarr"), ("minari", "minari:a/b-v0")])
def test_a_missing_library_names_the_extra(tmp_path, monkeypatch, module, source):
    monkeypatch.setitem(sys.modules, module, None)
    if not source.startswith("minari:"):
        source = tmp_path / source
        source.touch()
    with pytest.raises(ImportError, match=rf'needs the package {module} .*`pip install "ogpo_sb3\[data\]"`\.$'):
        load(source)
