"""The door to RL-Zoo, as users go through it: other processes train, continue, enjoy and plot a quick task."""

import os
import pathlib
import subprocess
import sys

import gymnasium as gym
import numpy as np
import pytest
import yaml
from gymnasium import spaces
from stable_baselines3 import SAC
from stable_baselines3.common.monitor import load_results
from stable_baselines3.common.results_plotter import ts2xy

from ogpo_sb3 import OGPOCA
from ogpo_sb3.zoo.door import main
from ogpo_sb3.zoo.runs import find_runs
from ogpo_sb3.zoo.samplers import convert_params
from tests.toys import Reach

ROOT = pathlib.Path(__file__).parents[1]
TASK = ("--algo", "ogpo_ca", "--env", "ogpo/PushT-v0")
TINY = (
    "chunk_size:2",  # divides the steps counted below
    "bc_steps:3",
    "learning_starts:300",
    "critic_warmup_updates:2",
    "utd_critic:0.05",
    "utd_actor:0.05",
    "batch_size:8",
    "actor_batch_size:4",
    "group_size:4",
    "policy_kwargs:dict(net_arch=[8], n_critics=2, denoising_steps=2)",
)


def shell(folder, *command):
    """Another process, in a folder of its own; its output is part of the failure."""
    done = subprocess.run(
        [sys.executable, *map(str, command)], cwd=folder, env=environment(), capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def environment():
    return {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "MPLBACKEND": "Agg"}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with the logs of one training run of 640 steps of a task whose episodes have 300."""
    folder = tmp_path_factory.mktemp("zoo")
    options = ("--eval-freq", 300, "--eval-episodes", 2, "--save-freq", 320, "--save-replay-buffer", "-tb", "tb", "-P")
    run = (*TASK, "-conf", "quick", "-n", 640, "--seed", 1, *options, "-params", *TINY)
    shell(folder, "-m", "ogpo_sb3.zoo", "train", *run)
    return folder


def run_folder(trained, number=1):
    return trained / "logs" / "ogpo_ca" / f"ogpo-PushT-v0_{number}"


def test_train_counts_environment_steps_everywhere(trained):
    folder = run_folder(trained)
    model = OGPOCA.load(folder / "ogpo-PushT-v0.zip")
    assert 640 <= model.num_timesteps <= 642 and model.chunk_size == 2 and model.pretrained and model._n_updates > 0
    assert np.load(folder / "evaluations.npz")["timesteps"].tolist() == [300, 600]
    assert sorted(path.name for path in folder.glob("rl_model_*")) == ["rl_model_320_steps.zip", "rl_model_640_steps.zip"]
    steps, _ = ts2xy(load_results(str(folder)), "timesteps")
    assert steps.tolist() == [300, 600]
    assert load_results(str(folder)).is_success.tolist() == [False, False], "for plot-train -y success"
    assert list((trained / "tb" / "ogpo-PushT-v0" / "OGPOCA_1").glob("events*"))


def test_what_is_saved_is_what_ran(trained):
    (run,) = [r for r in find_runs(trained / "logs") if r.folder.name.endswith("_1")]
    assert run.env_id == "ogpo/PushT-v0" and run.algorithm == "ogpo_ca"
    assert run.hyperparameters["demonstrations"] == "shipped:pusht" and run.hyperparameters["bc_steps"] == 3
    assert run.hyperparameters["env_wrapper"] == [{"ogpo_sb3.ChunkActionWrapper": {"chunk_size": 2}}]


def test_continue_enjoy_and_plot_in_other_processes(trained):
    zip_file = run_folder(trained) / "ogpo-PushT-v0.zip"
    go_on = (*TASK, "-conf", "quick", "-n", 320, "-i", zip_file, "--eval-freq", -1, "--seed", 1, "-params", *TINY)
    assert "Loading replay buffer" in shell(trained, "-m", "ogpo_sb3.zoo", "train", *go_on)
    before, after = OGPOCA.load(zip_file), OGPOCA.load(run_folder(trained, 2) / "ogpo-PushT-v0.zip")
    assert after._n_updates > before._n_updates
    assert after._n_bc_updates == before._n_bc_updates == 3, "cloning is not repeated"
    watched = shell(trained, ROOT / "enjoy.py", *TASK, "--exp-id", 1, "--no-render", "-n", 160)
    assert "Success rate" in watched and "Mean reward" in watched
    plot = ("-a", "ogpo_ca", "-e", "ogpo/PushT-v0", "-f", "logs", "-w", 1, "--figures", "figures")
    shell(trained, "-m", "ogpo_sb3.zoo", "plot-train", *plot)
    assert (trained / "figures" / "training-episodic-reward.png").stat().st_size > 5_000


def test_all_plots_finds_slashed_ids(trained, monkeypatch, capsys):
    monkeypatch.chdir(trained)
    plots = ["-a", "ogpo_ca", "-e", "ogpo/PushT-v0", "-f", "logs", "--no-million", "--figures", "all", "-print"]
    assert main(["all-plots", *plots]) == 0
    assert "ogpo-PushT-v0-OGPO_CA-logs: 1" in capsys.readouterr().out
    assert (trained / "all" / "results-ogpo-pusht-v0.png").exists()


def test_record_video_uses_the_runs_environment(trained, monkeypatch):
    monkeypatch.chdir(trained)
    assert main(["record_video", *TASK, "--exp-id", "1", "-n", "3"]) == 0
    assert next((run_folder(trained) / "videos").glob("*.mp4")).stat().st_size > 0


def test_benchmark_goes_on_where_it_was_stopped(trained, monkeypatch, capsys):
    monkeypatch.chdir(trained)
    assert main(["benchmark", "-n", "2"]) == 0
    table = (trained / "logs" / "benchmark" / "benchmark.csv").read_text()
    assert table.count("ogpo_ca,ogpo/PushT-v0") == len(find_runs(trained / "logs"))
    assert main(["benchmark", "-n", "2"]) == 0
    assert (trained / "logs" / "benchmark" / "benchmark.csv").read_text() == table, "nothing is evaluated twice"
    assert "| ogpo_ca | ogpo/PushT-v0 | ogpo-PushT-v0_1 |" in (trained / "logs" / "benchmark" / "benchmark.md").read_text()
    (run_folder(trained) / "best_model.zip").rename(run_folder(trained) / "hidden.zip")
    try:
        assert main(["benchmark", "--load-best", "-n", "1", "--benchmark-dir", "best"]) == 1
    finally:
        (run_folder(trained) / "hidden.zip").rename(run_folder(trained) / "best_model.zip")
    assert "ogpo-PushT-v0_1 was not evaluated: there is no model" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        (["-params", "bc_steps:0", "policy:Flow"], "Flow"),
        (["-params", "bc_steps:0", "policy_kwargs:dict(net_arhc=[8])"], "net_arhc"),
        (["-params", "pretrained_policy:nope.zip"], "nope.zip"),
        (["-params", "demonstrations:nope.npz"], "nope.npz: there is no such file"),
        (["-params", "bc_steps:0", "--env-kwargs", "gravity:low"], "gravity"),
    ],
)
def test_what_cannot_be_made_is_told_in_a_sentence(wrong, told, trained, monkeypatch, capsys):
    monkeypatch.chdir(trained)
    assert main(["train", *TASK, "-conf", "quick", "-f", "logs", *wrong]) == 1
    message = capsys.readouterr().err
    (line,) = [line for line in message.splitlines() if "error: " in line]
    assert told in line and "Traceback" not in message
    assert main(["enjoy", *TASK, "--no-render", "-n", "2"]) == 0, "the last run that has a model, not what the start left"


@pytest.fixture
def pendulum(tmp_path, monkeypatch):
    """The folder of a run of SAC without a model, below the working directory."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "logs" / "sac" / "Pendulum-v1_1"
    (folder / "Pendulum-v1").mkdir(parents=True)
    (folder / "Pendulum-v1" / "args.yml").write_text("{env: Pendulum-v1, env_kwargs: null}")
    (folder / "Pendulum-v1" / "config.yml").write_text("{policy: MlpPolicy}")
    return folder


def told(capsys, *arguments):
    """The one sentence about what a command could not do."""
    assert main(list(arguments)) == 1
    message = capsys.readouterr().err
    (line,) = [line for line in message.splitlines() if "error: " in line]
    assert line.startswith(f"python -m ogpo_sb3.zoo {arguments[0]}: error: ") and "Traceback" not in message
    return line


PENDULUM = ("--algo", "sac", "--env", "Pendulum-v1", "-f", "logs")


@pytest.mark.parametrize("command", ["enjoy", "record-video"])
def test_a_broken_model_is_told_in_a_sentence(command, pendulum, capsys):
    before = sys.argv
    (pendulum / "Pendulum-v1.zip").write_bytes(b"broken")
    assert "Pendulum-v1.zip wasn't a zip-file" in told(capsys, command, *PENDULUM, "--no-render", "-n", "2")
    assert sys.argv is before


@pytest.mark.parametrize("command", ["enjoy", "record-video"])
def test_a_model_of_another_environment_is_told_in_a_sentence(command, pendulum, capsys):
    SAC("MlpPolicy", Reach(), device="cpu", buffer_size=1).save(pendulum / "Pendulum-v1.zip")
    assert "bservation" in told(capsys, command, *PENDULUM, "--no-render", "-n", "2")


def test_more_is_told_of_a_broken_model_where_it_is_asked_for(pendulum):
    (pendulum / "Pendulum-v1.zip").write_bytes(b"broken")
    with pytest.raises(ValueError, match="wasn't a zip-file"):
        main(["enjoy", *PENDULUM, "--no-render", "--verbose", "2"])


def test_what_cannot_be_drawn_or_evaluated_is_told_in_a_sentence(pendulum, capsys):
    assert "nowhere.pkl" in told(capsys, "plot-from-file", "-i", "nowhere.pkl", "--figures", "figures")
    (pendulum / "0.monitor.csv").write_text("#{}\nr,l,t\n1,2,3,4,5,6\n7,x\n")
    told(capsys, "plot-train", "-a", "sac", "-e", "Pendulum-v1", "-f", "logs", "--figures", "figures")
    (pendulum / "Pendulum-v1" / "args.yml").write_text("{env: [")
    assert "args.yml cannot be read" in told(capsys, "benchmark")


def test_errors_of_the_simulator_keep_their_traceback(tmp_path, monkeypatch):
    import tests.registered_toys  # noqa: F401

    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "logs" / "sac" / "toy-Fragile-v0_1"
    folder.mkdir(parents=True)
    (tmp_path / "flag").touch()
    SAC("MlpPolicy", Reach(), device="cpu", buffer_size=1).save(folder / "toy-Fragile-v0.zip")
    with pytest.raises(RuntimeError, match="the simulator broke"):
        main(["enjoy", "--algo", "sac", "--env", "toy/Fragile-v0", "-f", "logs", "--no-render", "--env-kwargs", "flag:flag"])


def test_errors_of_training_keep_their_traceback(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "flag").touch()
    broken = ["--gym-packages", "tests.registered_toys", "--env", "toy/Fragile-v0", "--env-kwargs", "flag:flag"]
    with pytest.raises(RuntimeError, match="the simulator broke"):
        main(["train", "--algo", "ogpo", *broken, "-conf", "quick", "-params", "bc_steps:0"])


def test_optimize_two_trials(tmp_path, monkeypatch):
    """Both trials are evaluated as often as asked, although a decision has two steps."""
    import optuna

    monkeypatch.chdir(tmp_path)
    study = ["--n-trials", "2", "--n-evaluations", "3", "--study-name", "s", "--storage", "study.log", "--no-optim-plots"]
    small = [item for item in TINY if item.split(":")[0] in ("bc_steps", "learning_starts", "critic_warmup_updates")]
    run = [*TASK, "-conf", "quick", "-n", "360", "--eval-episodes", "1", "--seed", "3", *study]
    monkeypatch.setattr("ogpo_sb3.zoo.samplers._SPACE", small_space())
    assert main(["optimize", *run, "-params", *small]) == 0
    storage = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend("study.log"))
    trials = optuna.load_study(study_name="s", storage=storage).trials
    assert [trial.state.name for trial in trials] == ["COMPLETE", "COMPLETE"]
    assert all(sorted(trial.intermediate_values) == [1, 2, 3] for trial in trials)
    assert trials[0].params != trials[1].params
    assert list((tmp_path / "logs" / "ogpo_ca").glob("report_*.csv"))
    assert main(["train", *run, "--trial-id", "0", "-params", *small]) == 0
    (trained,) = find_runs(tmp_path / "logs")
    drawn = convert_params(trials[0].params)
    assert {name: trained.hyperparameters[name] for name in drawn} == drawn, "of the first trial too"


class Sick(gym.Env):
    """Rewards are no numbers until two environments of it were closed: that of the setup and that of the first trial."""

    observation_space = spaces.Box(-1.0, 1.0, (1,), np.float32)
    action_space = spaces.Box(-1.0, 1.0, (1,), np.float32)
    closed = 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros(1, np.float32), {}

    def step(self, action):
        return np.zeros(1, np.float32), float("nan") if Sick.closed < 2 else 0.0, False, False, {}

    def close(self):
        Sick.closed += 1


def test_a_diverging_trial_is_pruned(tmp_path, monkeypatch):
    import optuna

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("ogpo_sb3.zoo.samplers._SPACE", small_space())
    if "Sick-v0" not in gym.registry:
        gym.register("Sick-v0", Sick, max_episode_steps=10)
    study = ["--n-trials", "2", "--study-name", "s", "--storage", "study.log", "--no-optim-plots", "--n-evaluations", "1"]
    run = ["--algo", "ogpo", "--env", "Sick-v0", "-conf", "quick", "-n", "60", "--eval-episodes", "1", *study]
    assert main(["optimize", *run, "-params", "learning_starts:20", "critic_warmup_updates:1"]) == 0
    storage = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend("study.log"))
    states = [trial.state.name for trial in optuna.load_study(study_name="s", storage=storage).trials]
    assert states == ["PRUNED", "COMPLETE"]


def small_space():
    """The search space with networks and update rates that a test can afford."""
    from ogpo_sb3.zoo.samplers import _SPACE

    cheap = {
        "net_arch": ["small"],
        "utd_critic": [0.05],
        "utd_actor": [0.05],
        "n_critics": [2],
        "denoising_steps": [2],
        "best_of_n": [1],
    }
    return {**_SPACE, **{name: ("suggest_categorical", dict(choices=choices)) for name, choices in cheap.items()}}


def test_plain_algorithms_and_worker_processes(tmp_path):
    """train.py at the root, with SAC on chunks and environments in processes that import train.py again."""
    small = ("n_envs:2", "batch_size:8", "policy_kwargs:dict(net_arch=[8])", "gradient_steps:1", "learning_starts:100")
    run = ("--algo", "sac", "--env", "ogpo/PushT-v0", "-n", 400, "--seed", 1, "--eval-freq", 160, "--eval-episodes", 1)
    shell(tmp_path, ROOT / "train.py", *run, "--vec-env", "subproc", "-params", *small)
    folder = tmp_path / "logs" / "sac" / "ogpo-PushT-v0_1"
    assert np.load(folder / "evaluations.npz")["timesteps"].tolist() == [160, 320]
    saved = yaml.unsafe_load((folder / "ogpo-PushT-v0" / "config.yml").read_text())
    assert saved["env_wrapper"] == [{"ogpo_sb3.ChunkActionWrapper": {"chunk_size": 4}}]
