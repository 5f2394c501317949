"""Presets fit the constructor; the quickstart runs whole on a real simulator and goes on after an interruption."""

import inspect
import json
import logging
import sys

import numpy as np
import pytest
from benchmarks import quickstart_curves
from ogpo_sb3 import OGPO, OGPOCA, presets, quickstart
from ogpo_sb3.envs.registry import TASKS

from tests.toys import Reach


@pytest.mark.parametrize(
    "settings", [presets.quick(), *(presets.paper(i) for i in TASKS), *(presets.laptop(i) for i in TASKS)]
)
def test_presets_name_real_arguments(settings):
    assert set(settings) <= set(inspect.signature(OGPO).parameters)


def test_presets_are_fresh_dictionaries():
    presets.quick()["policy_kwargs"]["net_arch"].append(1)
    assert presets.quick()["policy_kwargs"]["net_arch"] == [128, 128, 128]
    presets.laptop("ogpo/PushT-v0")["policy_kwargs"]["net_arch"].append(1)
    assert presets.laptop("ogpo/PushT-v0")["policy_kwargs"]["net_arch"] == [256, 256]


def test_a_policy_that_stays_is_watched_as_its_critics_choose():
    still = {task for task in TASKS if presets.laptop(task)["utd_actor"] == 0}
    assert still == {task for task in TASKS if presets.laptop_sampler(task) == "behaviour"} == {"ogpo/PushT-v0"}


def test_a_task_of_the_package_that_there_is_not_is_named():
    for function in (presets.laptop, presets.laptop_env, presets.laptop_steps, presets.laptop_sampler, presets.laptop_noise):
        with pytest.raises(ValueError, match="unknown task 'ogpo/AdroitHamer-v0': did you mean ogpo/AdroitHammer-v0"):
            function("ogpo/AdroitHamer-v0")
        function("Pendulum-v1")  # anyone's own: the values that most tasks have


def test_paper_values():
    square, relocate = presets.paper("ogpo/RobomimicSquare-v0"), presets.paper("ogpo/AdroitRelocate-v0")
    assert (square["gamma"], square["chunk_size"], square["clip_bc"], square["actor_tau"]) == (0.99, 4, 0.45, 0.005)
    assert (relocate["gamma"], relocate["policy_kwargs"]["denoising_steps"], relocate["actor_tau"]) == (0.95, 3, 0.05)
    assert presets.paper("ogpo/KitchenComplete-v0")["demonstrations"] == "shipped:kitchen-complete"
    with pytest.raises(ValueError, match="CartPole"):
        presets.paper("CartPole-v1")


def test_paper_size_on_a_cpu_announces_the_duration_once(caplog):
    kwargs = dict(learning_starts=4, batch_size=2, actor_batch_size=1, group_size=2, device="cpu")

    def until_8(local_variables, global_variables):
        return local_variables["self"].num_timesteps < 8

    with caplog.at_level(logging.WARNING, logger="ogpo_sb3"):
        OGPO("FlowPolicy", Reach(), policy_kwargs=dict(net_arch=[16]), **kwargs).learn(10**7, callback=until_8)
        assert not caplog.records, "small networks need no word"
        wide = OGPO("FlowPolicy", Reach(), policy_kwargs=dict(net_arch=[512, 512], n_critics=2), **kwargs)
        wide.learn(8)
        assert not caplog.records, "nor do short runs"
        wide._duration_announced = False
        wide.learn(10**7, callback=until_8)
    assert len(caplog.records) == 1
    assert "hours" in caplog.text and "presets.quick()" in caplog.text


def run(folder, *extra):
    return quickstart.main(["--smoke", "--threads", "1", "--env", "ogpo/AdroitDoor-v0", "--out", str(folder), *extra])


def test_quickstart_runs_whole_and_goes_on(tmp_path, monkeypatch, capsys):
    """The README's first command in small: real simulator, expert demonstrations, cloning, OGPO+CA, table, picture, video."""
    learn, evaluated = OGPOCA.learn, []

    def counted(*args, evaluate=quickstart.evaluate, **kwargs):
        evaluated.append(evaluate(*args, **kwargs))
        return evaluated[-1]

    monkeypatch.setattr(quickstart, "evaluate", counted)

    def interrupted(self, total_timesteps, **kwargs):
        learn(self, min(total_timesteps, 450), **kwargs)
        raise InterruptedError

    with monkeypatch.context() as patch, pytest.raises(InterruptedError):
        patch.setattr(OGPOCA, "learn", interrupted)
        run(tmp_path)
    folder = tmp_path / "AdroitDoor-v0_seed0_smoke"
    cloned = (folder / "bc.zip").read_bytes()
    assert not (folder / "results.json").exists() and len(evaluated) == 1
    results = run(tmp_path)
    assert len(evaluated) == 3 and results["before"]["mean_return"] == evaluated[0].mean_return, "the clone's is kept"
    (folder / "results.json").unlink()
    again = run(tmp_path)
    assert len(evaluated) == 3 and again["chosen"] == results["chosen"], "interrupted after the last evaluation"
    results = again
    out = capsys.readouterr().out
    assert "Going on from run_" in out and "behaviour cloning" in out and "OGPO+CA" in out
    for name in ("curve.csv", "learning_curve.png", "before_after.mp4", "model.zip", "results.json"):
        assert (folder / name).stat().st_size > 0, name
    assert results == json.loads((folder / "results.json").read_text())
    assert (folder / "bc.zip").read_bytes() == cloned
    assert results["steps"] >= 800 and results["before"]["seeds"] == results["after"]["seeds"] == [10_000, 10_004]
    assert results["chosen"]["seeds"] == [10_000, 10_004] and "best-of-8 inference" in out
    assert run(tmp_path) == results, "a finished run is only shown again"
    earlier = {name: value for name, value in results.items() if name not in ("chosen", "best_of_n")}
    (folder / "results.json").write_text(json.dumps(earlier))
    assert run(tmp_path) == earlier, "of a version that did not choose"
    loaded = OGPOCA.load(folder / "model.zip", device="cpu")
    assert np.isfinite(loaded.predict(loaded.observation_space.sample(), deterministic=True)[0]).all()


def test_quickstart_refuses_what_it_cannot_do(tmp_path, capsys):
    for arguments, named in (
        (["--env", "ogpo/Nothing-v0"], "ogpo/Nothing-v0"),
        (["--steps", "0"], "--steps"),
        (["--seed", "-1"], "--seed"),
        (["--out", __file__], f"found the file {__file__}"),
    ):
        with pytest.raises(SystemExit):
            quickstart.parse(arguments)
        assert named in capsys.readouterr().err
    folder = tmp_path / "AdroitDoor-v0_seed0_smoke"
    folder.mkdir()
    (folder / "settings.json").write_text(json.dumps({"env": "another"}))
    with pytest.raises(SystemExit, match="--fresh"):
        run(tmp_path)


@pytest.mark.parametrize("name", ["settings.json", "seconds.json", "results.json"])
def test_quickstart_names_a_file_that_was_cut_off(name, tmp_path):
    folder = tmp_path / "AdroitDoor-v0_seed0_smoke"
    folder.mkdir()
    (folder / name).write_text('{"env": "ogpo/Adr')
    with pytest.raises(SystemExit, match=rf"error: .*{name} should hold JSON and cannot be read .* --fresh"):
        run(tmp_path)


def test_quickstart_without_the_tasks_extra_or_interrupted(tmp_path, monkeypatch, capsys):
    with monkeypatch.context() as patch, pytest.raises(SystemExit, match=r"error: AdroitDoor needs .*pip install"):
        patch.setitem(sys.modules, "gymnasium_robotics", None)
        run(tmp_path)

    def interrupted(self, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(OGPOCA, "pretrain", interrupted)
    smoke = ["--smoke", "--threads", "1", "--env", "ogpo/KitchenComplete-v0", "--out", str(tmp_path)]
    assert quickstart.command(smoke) == 130
    assert capsys.readouterr().out.endswith("Interrupted; the same command goes on from the last checkpoint.\n")


def test_recorded_curves_become_a_panel_per_task(tmp_path):
    header = "timesteps,success_rate,success_low,success_high,mean_return,mean_length\n"
    for name in ("door-quickstart-seed0", "can-quickstart-seed1", "can-quickstart-seed0", "can-quickstart-25000-seed0"):
        (tmp_path / f"{name}.csv").write_text(header + "0,0.25,0.1,0.4,1.0,9\n5000,0.75,0.6,0.9,,9\n")
    found = quickstart_curves.curves(tmp_path)
    assert {task: [seed for seed, _ in runs] for task, runs in found.items()} == {"can": [0, 1], "door": [0]}
    panels = quickstart_curves.draw(found).axes
    assert [panel.get_title() for panel in panels] == ["can", "door"]
    drawn = [line for line in panels[0].lines if line.get_marker() == "."]
    assert len(drawn) == 2 and drawn[0].get_xydata().tolist() == [[0, 25], [5, 75]]
    with pytest.raises(ValueError, match="found none"):
        quickstart_curves.curves(tmp_path / "empty")
