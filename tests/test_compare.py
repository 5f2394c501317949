"""Comparisons: a killed and continued one equals an uninterrupted one, failures are told, inconsistent plans are refused."""

import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from ogpo_sb3 import presets
from ogpo_sb3.compare import __main__ as compare
from ogpo_sb3.compare import defaults, plan, runner, settings
from ogpo_sb3.compare.report import make
from ogpo_sb3.zoo import ALGORITHMS

from tests.registered_toys import REACH
from tests.toys import reach_demonstrations

ROOT = pathlib.Path(__file__).parent.parent
SMALL = ["bc_steps=60", "learning_starts=60", "batch_size=8", "actor_batch_size=4", "group_size=4", "utd_critic=0.25"]
SMALL += ["utd_actor=0.25", "chunk_size=2", "policy_kwargs.net_arch=[16]", "policy_kwargs.n_critics=2"]
SMALL += ["policy_kwargs.denoising_steps=2"]


@pytest.fixture(scope="module")
def demonstrations(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "reach.npz"
    reach_demonstrations().save(path)
    return path


@pytest.fixture(autouse=True)
def importable(monkeypatch):
    """The processes of a comparison import the toys and this checkout."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))


def arguments(demonstrations, *more, algos=("ogpo", "ogpo_ca"), seeds=2, steps=400, env=REACH):
    return [
        *("--algos", *algos, "--envs", env, "--seeds", str(seeds), "--steps", str(steps), "--eval-freq", "100"),
        *("--eval-episodes", "4", "--final-episodes", "6", "--jobs", "2", "--out", "out", "--preset", "quick"),
        *("--demonstrations", f"{env}={demonstrations}", "--set", *SMALL, *more),
    ]


def in_this_process(argv, out):
    """Every run one after the other, without interruption."""
    planned = compare._plan(compare.parser().parse_args(argv))
    planned.write(out)
    for run in planned.runs():
        runner.execute(planned, run, out)
    make(planned, out, "command")
    return json.loads((out / "summary.json").read_text())


def numbers(summary):
    return {key: value for key, value in summary.items() if key != "cost"}


def test_killed_and_continued_equals_uninterrupted(demonstrations, tmp_path, monkeypatch):
    argv = arguments(demonstrations)
    (tmp_path / "whole").mkdir()
    monkeypatch.chdir(tmp_path / "whole")
    whole = in_this_process(argv, pathlib.Path("out"))
    assert len({json.dumps(v) for v in whole["tasks"][REACH].values()}) == 2, "the algorithms differ"

    (tmp_path / "killed").mkdir()
    monkeypatch.chdir(tmp_path / "killed")
    command = [sys.executable, "-m", "ogpo_sb3.compare", *argv]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, start_new_session=True) as process:
        deadline = time.monotonic() + 300
        while not list(pathlib.Path("out").glob("runs/*/*/*/checkpoints/*.ckpt")):
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.01)
        os.killpg(process.pid, signal.SIGKILL)
    assert not list(pathlib.Path("out").glob("runs/*/ogpo*/seed*/results.json")), "killed before anything was finished"
    assert not pathlib.Path("out/report.md").exists()

    assert compare.main(argv) == 0
    logs = [path.read_text() for path in pathlib.Path("out").glob("runs/*/*/*/log.txt")]
    assert any("Going on from run_" in log for log in logs) and len(logs) == 4
    assert numbers(json.loads(pathlib.Path("out/summary.json").read_text())) == numbers(whole)
    for run in pathlib.Path("out").glob("runs/*/*/seed*"):
        assert not (run / "checkpoints").exists()
        lines = {
            path: sorted(set((path / run / "curve.csv").read_text().split()))
            for path in (tmp_path / "whole", tmp_path / "killed")
        }
        assert lines[tmp_path / "whole"] == lines[tmp_path / "killed"]
    for picture in pathlib.Path("out/figures").glob("*.png"):
        assert picture.read_bytes() == (tmp_path / "whole/out/figures" / picture.name).read_bytes()
    assert len(list(pathlib.Path("out/figures").glob("*.png"))) == 3
    assert len(list(pathlib.Path("out/cloned").glob("*/*/policy.zip"))) == 2, "one cloned policy per environment and seed"

    started = time.monotonic_ns()
    assert compare.main(argv) == 0, "finished is finished"
    assert all(
        p.stat().st_mtime_ns < time.time_ns() - (time.monotonic_ns() - started)
        for p in pathlib.Path("out").glob("runs/*/*/*/results.json")
    )
    assert compare.main([*argv, "gamma=0.9"]) == 2


def test_failed_runs_are_told_and_tried_again(demonstrations, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    flag, env = tmp_path / "flag", REACH.replace("Reach", "Fragile")
    argv = arguments(demonstrations, f"env.flag={str(flag)!r}", algos=["ogpo"], seeds=1, steps=200, env=env)
    flag.touch()
    assert compare.main(argv) == 1
    report = pathlib.Path("out/report.md").read_text()
    assert "0 of 1 runs finished" in report and "the simulator broke" in report and "| failed |" in report
    assert "the simulator broke" in capsys.readouterr().out
    flag.unlink()
    assert compare.main(argv) == 0
    report = pathlib.Path("out/report.md").read_text()
    assert "1 of 1 runs finished" in report and "the simulator broke" not in report and "| failed |" not in report
    assert not list(pathlib.Path("out").rglob("failure.json"))
    html = pathlib.Path("out/report.html").read_text()
    assert html.count("data:image/png;base64,") == 2 and 'src="figures' not in html


def test_a_ray_cluster_gives_the_same_numbers(demonstrations, tmp_path, monkeypatch):
    import ray

    argv = arguments(demonstrations, algos=["ogpo_ca"], seeds=1, steps=200)
    for name in ("here", "ray"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "here")
    here = in_this_process(argv, pathlib.Path("out"))
    monkeypatch.chdir(tmp_path / "ray")
    try:
        ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False)
        assert compare.main([*argv, "--engine", "ray", "--jobs", "1"]) == 0
    finally:
        ray.shutdown()
    assert numbers(json.loads(pathlib.Path("out/summary.json").read_text())) == numbers(here)


def test_a_warm_up_of_critics_takes_no_environment_steps(demonstrations, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    argv = arguments(demonstrations, "ogpo.critic_warmup_updates=5000", steps=400)
    assert compare.main([*argv, "--dry-run"]) == 0


@pytest.mark.parametrize(
    "changed, named",
    [
        (dict(algos=["ogpo", "ogpo_cb"]), "'ogpo_cb': did you mean ogpo_ca"),
        (dict(algos=["ogpo", "ogpo"]), "given once"),
        (dict(env="ogpo/AdroitHamer-v0"), "did you mean ogpo/AdroitHammer-v0"),
        (dict(env="tests.registered_toys:toy/Rech-v0"), "did you mean toy/Reach-v0"),
        (dict(env="nowhere:X-v0"), "No module named 'nowhere'"),
        (dict(seeds=0), "--seeds must be at least 1, found 0"),
        (dict(steps=50), "--eval-freq=100 must not exceed --steps=50"),
        (dict(steps=100, more=["learning_starts=100"]), "would never update its policy: learning_starts=100"),
        (dict(more=["group_sise=4"]), "'group_sise': did you mean group_size"),
        (dict(more=["ogpo.group_sise=4"]), "'group_sise': did you mean group_size"),
        (dict(more=["ogpo.chunk_size=4"]), "chunk_size of ogpo on"),
        (dict(more=["ogpo.bc_steps=4"]), "must be the same for all algorithms"),
        (dict(more=["ogpo.policy_kwargs.net_arch=[8]"]), "networks must be equal"),
        (dict(more=["ogpo.policy_kwargs.n_critics=3"]), "policy_kwargs.n_critics is 2 for ogpo_ca (fixed) and 3"),
        (dict(more=["env.gravity=4"]), "'gravity'"),
        (dict(more=["ogpo.utd_critic=1", "ogpo.gradient_steps=1"]), "utd_critic=1 and gradient_steps=1"),
        (dict(more=["clip_range"]), "name=value"),
        (dict(more=["tau=2"]), "ogpo (fixed) cannot be made on"),
        (dict(more=["--preset", "quik"]), "did you mean quick"),
        (dict(more=["--preset", "paper"]), "presets.paper knows the tasks"),
        (dict(more=["--policy", "FlowPolcy"]), "did you mean FlowPolicy"),
        (dict(more=["--jobs", "0"]), "--jobs must be at least 1"),
        (dict(more=["--eval-episodes", "9"]), "must not exceed --final-episodes"),
        (dict(more=["--tuned", "none.yml"]), "found no file none.yml"),
        (dict(more=["--demonstrations", "toy=x"]), "environment of --demonstrations 'toy'"),
        (dict(more=["--demonstrations", f"{REACH}=none.npz"]), "found no file none.npz"),
        (dict(more=["--demonstrations", f"{REACH}=foo:bar"]), f"demonstrations of {REACH}: foo:bar"),
        (dict(more=["--demonstrations", f"{REACH}=expert:ogpo/PushT-v0"]), "no expert 'expert:ogpo/PushT-v0'"),
        (dict(more=["--demonstrations", f"{REACH}={__file__}"]), "test_compare.py: demonstrations are read from"),
        (
            dict(more=["bc_steps=x"]),
            "bc_steps on tests.registered_toys:toy/Reach-v0 must be a whole number of at least 0, found 'x'",
        ),
        (dict(more=["bc_steps=-1"]), "at least 0, found -1"),
        (dict(more=["demo_episodes=0"]), "demo_episodes on"),
        (dict(more=["bc_batch_size=1.5"]), "at least 1, found 1.5"),
        (dict(more=["bc_eval_freq=0"]), "bc_eval_freq on"),
        (dict(more=["demo_noise=-1"]), "must be a number in [0, inf], found -1"),
        (dict(more=["bc_tau=5"]), "must be a number in [0, 1], found 5"),
        (dict(more=["clip_bc=2"]), "must be a success rate in (0, 1] or None, found 2"),
        (dict(more=["bc_learning_rate=fast"]), "bc_learning_rate must be a number >= 0"),
        (dict(more=["--first-seed", "-1"]), "--first-seed must be at least 0, found -1"),
        (dict(more=["--steps", "inf"]), "--steps must be a whole number, found inf"),
        (dict(more=["--device", "gpu"]), "such as cpu, cuda or cuda:1, or auto, found 'gpu'"),
        (dict(more=["--out", __file__]), f"--out must be a folder, found the file {__file__}"),
        (dict(more=["--out", f"{__file__}/below"]), f"--out must be a folder, found the file {__file__}"),
    ],
)
def test_inconsistent_plans_are_refused_in_one_line(changed, named, demonstrations, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    more = changed.pop("more", [])
    assert compare.main(arguments(demonstrations, *more, **changed)) == 2
    message = capsys.readouterr().err.strip()
    assert message.startswith("error: ") and named in message and "\n" not in message
    assert not list(tmp_path.iterdir()), "refused before anything was written"


@pytest.mark.parametrize(
    ("content", "told"),
    [('{"algos": ["og', "cannot be read"), ('{"algos": []}', "should hold a plan"), (None, "found no file")],
)
def test_folders_without_a_whole_plan_are_refused(content, told, demonstrations, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    pathlib.Path("out").mkdir()
    if content is not None:
        pathlib.Path("out/plan.json").write_text(content)
        assert compare.main(arguments(demonstrations)) == 2
    assert compare.main(["--report-only", "--out", "out"]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1 + (content is not None) and all("plan.json" in line and told in line for line in lines), lines


def test_an_environment_without_data_and_an_algorithm_without_preset_are_refused(monkeypatch):
    with pytest.raises(ValueError, match="neither shipped demonstrations nor an expert"):
        plan.build(["ogpo"], [REACH], 1, 2000, preset="quick")
    with pytest.raises(ValueError, match="'newcomer' has no preset 'quick'"):
        defaults.own("quick", "newcomer", "ogpo/PushT-v0")


def test_every_preset_of_every_algorithm_is_consistent_on_real_tasks():
    algos = [algo for algo in ALGORITHMS if algo in defaults.OWN]
    assert set(defaults.FAMILY) <= set(algos)
    for preset in defaults.PRESETS:
        planned = plan.build(algos, ["ogpo/PushT-v0", "ogpo/AdroitHammer-v0"], 2, 100_000, preset=preset)
        assert len(planned.runs()) == 2 * 2 * len(algos) == len({run.name for run in planned.runs()})
        assert plan.Plan(**json.loads(json.dumps(vars(planned)))) == planned, "JSON holds all of it"
        for env in planned.envs:
            assert {"policy", "chunk_size", "bc_steps"} <= set(planned.cloning[env])
            for algo in planned.algos:
                flat = planned.settings[env][algo]["fixed"]
                assert not set(settings.CLONING) & set(flat) and "best_of_n" not in flat
                assert ("clip_range" in flat) == (algo in defaults.FAMILY), "others have their own defaults"
                assert flat["gamma"] == planned.settings[env]["ogpo"]["fixed"]["gamma"]
    runner.try_out(plan.build(algos, ["ogpo/PushT-v0"], 1, 100_000))


def test_settings_of_one_algorithm_and_tuned_ones(demonstrations, tmp_path):
    tuned = tmp_path / "tuned.yml"
    tuned.write_text(f"ogpo:\n  '{REACH}':\n    clip_range: 0.3\n    policy_kwargs:\n      noise_std: 0.4\n")
    argv = arguments(demonstrations, "ogpo.gamma=0.9", "tau=0.02", "--tuned", str(tuned))
    planned = compare._plan(compare.parser().parse_args(argv))
    assert [(r.algo, r.mode, r.seed) for r in planned.runs()] == [
        *[("ogpo", "fixed", 0), ("ogpo", "tuned", 0), ("ogpo_ca", "fixed", 0)],
        *[("ogpo", "fixed", 1), ("ogpo", "tuned", 1), ("ogpo_ca", "fixed", 1)],
    ]
    ogpo, other = planned.settings[REACH]["ogpo"], planned.settings[REACH]["ogpo_ca"]["fixed"]
    assert other["tau"] == 0.02, "what is set for all wins over a family's preset"
    assert ogpo["fixed"]["gamma"] == ogpo["tuned"]["gamma"] == 0.9 and other["gamma"] == 0.99
    assert {k: v for k, v in ogpo["tuned"].items() if ogpo["fixed"].get(k) != v} == {
        "clip_range": 0.3,
        "policy_kwargs.noise_std": 0.4,
    }
    model = runner.make_model("ogpo", runner.make_env(REACH, ogpo["tuned"]), ogpo["tuned"], seed=0, device="cpu")
    assert model.clip_range == 0.3 or model.clip_range(1.0) == 0.3
    assert model.chunk_size == 2 and type(model) is ALGORITHMS["ogpo"]
    tuned.write_text("ogpo: [1]\n")
    with pytest.raises(ValueError, match="should map algorithms to environments to settings"):
        compare.read_settings(tuned, "tuned")


def test_variants_run_beside_the_fixed_ones(demonstrations, tmp_path, monkeypatch):
    """A variant may have other settings, another policy and another cloning; those that clone alike share a policy."""
    monkeypatch.chdir(tmp_path)
    file = pathlib.Path("variants.yml")
    file.write_text(
        "ogpo:\n  wide: {group_size: 6}\n  diffusion: {policy: DiffusionPolicy, policy_kwargs: {eta: 0.5}, bc_steps: 30}\n"
        "qc:\n  diffusion: {policy: DiffusionPolicy, policy_kwargs: {eta: 0.5}, bc_steps: 30}\n"
    )
    argv = arguments(demonstrations, "--variants", str(file), algos=["ogpo", "qc"], seeds=1, steps=200)
    argv = [a for a in argv if not a.startswith(("actor_batch_size", "group_size", "utd_actor"))]
    argv += ["--set", "ogpo.actor_batch_size=4", "ogpo.group_size=4"]
    summary = in_this_process(argv, pathlib.Path("out"))
    planned = plan.read(pathlib.Path("out"))
    runs = {(r.algo, r.mode): r for r in planned.runs()}
    assert list(runs) == [("ogpo", "fixed"), ("ogpo", "wide"), ("ogpo", "diffusion"), ("qc", "fixed"), ("qc", "diffusion")]
    assert planned.settings[REACH]["ogpo"]["wide"]["group_size"] == 6
    clones = {key: planned.cloned(run) for key, run in runs.items()}
    assert clones["ogpo", "fixed"] == clones["ogpo", "wide"] == clones["qc", "fixed"]
    assert clones["ogpo", "diffusion"] == clones["qc", "diffusion"] != clones["ogpo", "fixed"]
    updates = {
        name: json.loads((pathlib.Path("out") / f / "policy.json").read_text())["updates"] for name, f in clones.items()
    }
    assert updates["ogpo", "fixed"] == 60 and updates["ogpo", "diffusion"] == 30
    model = ALGORITHMS["ogpo"].load(pathlib.Path("out") / runs["ogpo", "diffusion"].name / "model.zip", device="cpu")
    assert type(model.policy).__name__ == "DiffusionPolicy" and model.policy.actor.gcp_kwargs["eta"] == 0.5
    assert set(summary["tasks"][REACH]) == {"ogpo", "ogpo (wide)", "ogpo (diffusion)", "qc", "qc (diffusion)"}
    assert "cloning for ogpo (diffusion)" in pathlib.Path("out/report.md").read_text()


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("sac: {a: {gamma: 0.9}}", "algorithm of --variants 'sac'"),
        ("ogpo: {fixed: {gamma: 0.9}}", "must be a word other than fixed and tuned, found 'fixed' for ogpo"),
        ("ogpo: {a: {policy: GaussPolicy}}", "policy of ogpo 'GaussPolicy'"),
        ("ogpo: {a: {policy: DiffusionPolicy, policy_kwargs: {sde_correction: none}}}", "policy_kwargs.sde_correction"),
        ("ogpo: {a: {chunk_size: 4}}", "chunk_size of a variant of ogpo on .* must be the same for all"),
        ("ogpo: [1]", "should map algorithms to names to settings"),
    ],
)
def test_variants_without_sense_are_refused(demonstrations, tmp_path, capsys, content, told, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pathlib.Path("variants.yml").write_text(content)
    assert compare.main(arguments(demonstrations, "--variants", "variants.yml", algos=["ogpo"])) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert re.search(told, line), line


def test_rows_behind_a_checkpoint_and_half_a_row_are_dropped(tmp_path):
    path = tmp_path / "curve.csv"
    path.write_text("timesteps,success_rate\r\n0,0.1\r\n100,0.2\r\n201,0.3\r\n302")
    runner.keep_rows(path, 200)
    assert path.read_text().split() == ["timesteps,success_rate", "0,0.1", "100,0.2"]


def test_dry_run_prints_what_is_left(demonstrations, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert compare.main([*arguments(demonstrations), "--dry-run"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 + 4 and all("ogpo_sb3.compare.runner --out out" in line for line in lines)
    assert "cloned/" in lines[0] and not list(tmp_path.iterdir())


def test_settings_survive_json():
    from ogpo_sb3.common.schedules import WarmupCosine

    schedule = settings.decode(json.loads(json.dumps(settings.encode(WarmupCosine(peak=1e-3)))))
    assert repr(schedule) == repr(WarmupCosine(peak=1e-3))
    assert settings.decode(settings.encode((1, 2))) == [1, 2]
    with pytest.raises(ValueError, match="JSON"):
        settings.encode(np.random.default_rng())


def test_robomimic_is_cloned_from_noisy_demonstrations():
    lift, door = (defaults.shared("laptop", f"ogpo/{name}-v0") for name in ("RobomimicLift", "AdroitDoor"))
    assert lift["demo_noise"] == presets.laptop_noise("ogpo/RobomimicLift-v0") > door["demo_noise"] == 0.0
    assert lift["policy_kwargs.normalize_observations"] and "policy_kwargs.normalize_observations" not in door
