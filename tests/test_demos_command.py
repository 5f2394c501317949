"""The command line: collecting that can be stopped and continued, converting, replaying."""

import json

import h5py
import numpy as np
import pytest

from ogpo_sb3 import demos
from ogpo_sb3.demonstrations import load
from ogpo_sb3.demonstrations.experts import collect, rollout
from tests.test_demonstrations import make

DOOR = "ogpo/AdroitDoor-v0"


def run(capsys, *arguments):
    status = demos.main([str(argument) for argument in arguments])
    printed = capsys.readouterr()
    return status, printed.out, printed.err


class Stop(BaseException):
    """In place of Ctrl-C."""


def test_a_stopped_collection_goes_on_to_the_same_data(tmp_path, monkeypatch):
    arguments = {"env_id": DOOR, "episodes": 3, "seed": 2, "noise": 1.5}
    whole = collect(**arguments)
    done = []
    original = rollout._roll_out

    def stops(*given):
        if len(done) == 2:
            raise Stop
        done.append(1)
        return original(*given)

    monkeypatch.setattr(rollout, "_roll_out", stops)
    with pytest.raises(Stop):
        collect(**arguments, work=tmp_path / "work")
    assert len(list((tmp_path / "work").glob("*.npz"))) == 2
    monkeypatch.setattr(rollout, "_roll_out", lambda *given: done.append(1) or original(*given))
    continued = collect(**arguments, work=tmp_path / "work")
    assert len(done) == whole.meta["attempts"]  # nothing was rolled out twice
    for name in ("observations", "actions", "rewards", "terminals", "episode_ends", "final_observations", "successes"):
        np.testing.assert_array_equal(getattr(continued, name), getattr(whole, name))
        assert getattr(continued, name).dtype == getattr(whole, name).dtype
    assert continued.meta == whole.meta
    with pytest.raises(ValueError, match=r"holds attempts with another seed \(2, now 3\)"):
        collect(**{**arguments, "seed": 3}, work=tmp_path / "work")
    for file in (tmp_path / "work").glob("*.npz"):
        file.unlink()
    assert collect(**{**arguments, "seed": 3}, work=tmp_path / "work").meta["seed"] == 3  # there is no attempt to mix up


def test_the_share_of_successes_can_be_limited():
    data = collect(DOOR, episodes=3, seed=1, noise=6.0, keep_failures=True, max_success=1)
    assert data.n_episodes == 3 and data.successes.sum() <= 1
    with pytest.raises(ValueError, match="max_success=1 fills up with failures"):
        collect(DOOR, episodes=1, max_success=1)


def test_what_is_collected_says_so(tmp_path, capsys):
    path = tmp_path / "door-scripted.hdf5"
    status, out, _ = run(
        capsys, "collect", "--env", DOOR, "--episodes", 2, "-o", path, "--quiet", "--env-kwargs", "reward:dense"
    )
    assert status == 0 and f"{path}: 2 episodes" in out and [file.name for file in tmp_path.iterdir()] == [path.name]
    data = load(path)
    assert data.meta["generated_by"].startswith("ogpo_sb3 ") and data.meta["expert"] == "DAPG expert policy"
    assert data.meta["env_id"] == DOOR and data.meta["env_kwargs"] == {"reward": "dense"} and data.meta["success_rate"] > 0
    assert {"gymnasium-robotics", "mujoco"} <= set(data.meta["versions"])
    with h5py.File(path) as file:
        assert json.loads(file["data"].attrs["env_args"]) == {"env_name": DOOR, "type": 2, "env_kwargs": {"reward": "dense"}}
    status, out, _ = run(capsys, "replay", path, "--quiet")
    assert status == 0 and "episodes started from recorded seeds" in out
    assert "replayed      successes 2 of 2" in out and "equal in 2 of 2 episodes" in out
    status, out, _ = run(capsys, "inspect", path)
    assert status == 0 and "successes     2 of 2 episodes" in out and "generated_by" in out


@pytest.mark.parametrize(
    ("output", "sentence"),
    [
        ("door-expert-v1.npz", "is how D4RL names"),
        ("minari:D4RL/door/expert-v2", "names a published"),
        ("minari:hammer", "minari:hammer is no id of a Minari data set, wanted minari:(<namespace>/)<name>-v<version>"),
        ("minari:a b-v0", "minari:a b-v0 is no id of a Minari data set"),
        ("x.csv", "are written to"),
    ],
)
def test_a_bad_target_is_refused_before_the_work(tmp_path, capsys, monkeypatch, output, sentence):
    monkeypatch.setattr(demos, "collect", lambda *_, **__: pytest.fail("worked for nothing"))
    target = output if output.startswith("minari:") else tmp_path / output
    status, _, err = run(capsys, "collect", "--env", DOOR, "-o", target)
    assert status == 1 and sentence in err


def test_converting(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    source = make().save(tmp_path / "a.npz")
    status, out, _ = run(capsys, "convert", source, tmp_path / "b.hdf5", "--split", 0.34, "--quiet")
    assert status == 0 and "b.hdf5: 3 episodes, 9 steps." in out
    valid, train = (load(f"{tmp_path / 'b.hdf5'}?filter={name}") for name in ("valid", "train"))
    assert valid.n_episodes == 1 and train.n_episodes == 2 and valid.n_steps + train.n_steps == 9
    assert run(capsys, "convert", tmp_path / "b.hdf5", "minari:test/c-v0", "--successful", "--quiet")[0] == 0
    assert run(capsys, "convert", "minari:test/c-v0", tmp_path / "d.npz", "--quiet")[0] == 0
    back = load(tmp_path / "d.npz")
    wanted = make().select([0, 2])
    for name in ("observations", "actions", "rewards", "terminals", "successes", "final_observations"):
        np.testing.assert_array_equal(getattr(back, name), getattr(wanted, name))


def test_converting_adapts_to_a_task(tmp_path, capsys):
    assert run(capsys, "convert", "shipped:pusht", tmp_path / "k.hdf5", "--episodes", 2, "--quiet")[0] == 0
    raw = load("shipped:pusht").subset(2)
    read = load(tmp_path / "k.hdf5")
    np.testing.assert_array_equal(read.observations, raw.observations)
    arguments = ["--env", "ogpo/PushT-v0", "--env-kwargs", "obs_type:keypoints", "--quiet"]
    assert run(capsys, "convert", tmp_path / "k.hdf5", tmp_path / "keypoints.npz", *arguments)[0] == 0
    assert load(tmp_path / "keypoints.npz").observations.shape == (raw.n_steps, 20)


def test_replays_can_be_kept(tmp_path, capsys):
    status, out, _ = run(capsys, "replay", "shipped:pusht", "--episodes", 1, "-o", tmp_path / "r.npz", "--quiet")
    assert status == 0 and "recorded      successes 0 of 1" in out and "r.npz: 1 episodes" in out
    kept = load(tmp_path / "r.npz")
    assert kept.rewards is not None and kept.meta["replayed"].endswith("started from observations")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("convert", "shipped:pusht", "x.hdf5", "--split", "1.5"), "--split is a share"),
        (("convert", "shipped:pusht", "x.hdf5", "--episodes", "0"), "0 episodes wanted, there are 206"),
        (("convert", "shipped:pusht", "x.hdf5", "--env", "ogpo/Nothing-v0"), "found 'ogpo/Nothing-v0'"),
        (("convert", "shipped:pusht", "x.npz", "--split", "0.5"), "x.npz: filter keys (masks, --split) are part of robomimic"),
        (
            ("convert", "shipped:pusht", "minari:a-v0", "--split", "0.5"),
            "minari:a-v0: filter keys (masks, --split) are part of",
        ),
        (("convert", "shipped:pusht", "x.hdf5", "--episodes", "1", "--split", "0.5"), "--split needs 2 episodes, found 1"),
        (("convert", "shipped:pusht", "x.hdf5", "--env", DOOR), f"no data of {DOOR}: shipped:pusht: observations has shape"),
        (("replay", "nowhere.npz"), "there is no such file"),
        (
            ("replay", "shipped:pusht", "--env-kwargs", "foo:1"),
            "ogpo/PushT-v0 cannot be made with the arguments {'foo': 1}: PushT",
        ),
        (
            ("collect", "--env", DOOR, "-o", "x.npz", "--env-kwargs", "foo:1"),
            f"{DOOR} cannot be made with the arguments {{'foo'",
        ),
        (("collect", "--env", DOOR, "-o", "x.npz", "--reward", "dens"), "dens"),
    ],
)
def test_mistakes_are_one_sentence(tmp_path, capsys, monkeypatch, arguments, sentence):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    status, _, err = run(capsys, *arguments)
    assert status == 1 and sentence in err and not list(tmp_path.iterdir())


def test_arguments_of_environments_are_literals_or_words():
    assert demos._keyword("success_bonus:5.0") == ("success_bonus", 5.0) and demos._keyword("reward:dense") == (
        "reward",
        "dense",
    )
    with pytest.raises(SystemExit):
        demos.main(["replay", "shipped:pusht", "--env-kwargs", "reward"])
