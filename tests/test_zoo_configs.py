"""Shipped configurations say what the presets say, and their entries build; what a user gets wrong is named."""

import inspect
import resource
from collections import OrderedDict

import gymnasium as gym
import numpy as np
import optuna
import pytest
import yaml
from gymnasium import spaces
from stable_baselines3 import SAC
from stable_baselines3.common.callbacks import CheckpointCallback, EvalCallback

from ogpo_sb3 import OGPO, OGPOCA, ChunkActionWrapper, presets
from ogpo_sb3.compare.settings import parse_assignments
from ogpo_sb3.common.arguments import constructor_arguments
from ogpo_sb3.envs.registry import TASKS
from ogpo_sb3.zoo import ALGORITHMS, register
from ogpo_sb3.zoo.arguments import prepare_train, wrapped_chunk_size
from ogpo_sb3.zoo.configs import ZOO_KEYS, check_settings, config_folder, find_config, read_config
from ogpo_sb3.zoo.door import main
from ogpo_sb3.zoo.parameters import as_item, read_items
from ogpo_sb3.zoo.runs import read_saved
from ogpo_sb3.zoo.samplers import convert_params, sampler_for
from ogpo_sb3.zoo.steps import EnvironmentSteps
from ogpo_sb3.zoo.studies import chosen_trial
from tests.toys import Bandit

FAMILY = ("ogpo", "ogpo_plus", "ogpo_ca", "ogpo_chi2")
WRAPPER, CALLBACK = "gymnasium.wrappers.ClipAction", "stable_baselines3.common.callbacks.CheckpointCallback"
PUSHT = ("--algo", "ogpo", "--env", "ogpo/PushT-v0")
LIGHT = [name for name, task in TASKS.items() if task.extra in (None, "adroit", "kitchen")]


@pytest.fixture(autouse=True)
def registered():
    register()


def entries(algorithm, preset=None):
    return read_config(find_config(algorithm, preset))


def arguments(entry):
    """What of an entry the constructor gets."""
    return {key: value for key, value in entry.items() if key not in ZOO_KEYS}


# -- the shipped files ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("preset", [None, "quick"])
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_every_entry_is_what_the_constructor_takes(algorithm, preset):
    source = find_config(algorithm, preset)
    content = read_config(source)
    assert "default" in content
    for env_id, entry in content.items():
        check_settings(algorithm, ALGORITHMS[algorithm], entry, source)
        assert env_id == "default" or wrapped_chunk_size(entry["env_wrapper"]) is not None


@pytest.mark.parametrize("algorithm", FAMILY)
def test_paper_entries_equal_the_preset(algorithm):
    defaults = {name: p.default for name, p in inspect.signature(OGPO.__init__).parameters.items()}
    content = entries(algorithm)
    assert set(content) - {"default"} == set(TASKS)
    for env_id in TASKS:
        preset = presets.paper(env_id)
        preset.pop("learning_rate")  # WarmupCosine, the constructor's default
        found = {**defaults, **arguments(content[env_id])}
        assert wrapped_chunk_size(content[env_id]["env_wrapper"]) == preset.pop("chunk_size"), env_id
        assert {key: found[key] for key in preset} == preset, env_id
        unsaid = set(arguments(content[env_id])) - set(preset) - {"policy", "demonstrations"}
        assert not unsaid, f"{env_id} sets {unsaid}, of which presets.paper says nothing"


@pytest.mark.parametrize("algorithm", FAMILY)
def test_quick_entries_equal_the_preset(algorithm):
    content = entries(algorithm, "quick")
    for env_id in (name for name in TASKS if name != "ogpo/Libero-v0"):
        preset = presets.laptop(env_id)
        assert wrapped_chunk_size(content[env_id]["env_wrapper"]) == preset.pop("chunk_size")
        assert content[env_id]["env_kwargs"] == presets.laptop_env(env_id)
        assert content[env_id]["n_timesteps"] == presets.laptop_steps(env_id)
        assert preset.pop("best_of_n") == 8, "the default of the variants"
        bc_coef = preset.pop("bc_coef")  # OGPO itself does not clone successes; 1 is the variants' default
        if algorithm != "ogpo" and bc_coef != 1.0:
            preset["bc_coef"] = bc_coef
        expected = {name: value for name, value in preset.items() if value is not None} | {"policy": "FlowPolicy"}
        if "Adroit" in env_id:
            expected["demonstrations"] = f"expert:{env_id}"
        elif TASKS[env_id].demonstrations:
            expected["demonstrations"] = TASKS[env_id].demonstrations
        assert arguments(content[env_id]) == expected, env_id


def tiny(algorithm):
    """Small networks, and a small buffer where there is one."""
    settings = dict(policy_kwargs=dict(net_arch=[8], denoising_steps=2), buffer_size=100)
    if "buffer_size" in constructor_arguments(algorithm):
        settings["policy_kwargs"]["n_critics"] = 3
    else:  # on-policy: one value function
        del settings["buffer_size"]
    return settings


def build(algorithm, env_id, preset, folder):
    """The model that RL-Zoo builds from an entry, made small."""
    from rl_zoo3.exp_manager import ExperimentManager

    config = find_config(algorithm, preset)
    entry = read_config(config)[env_id]
    small = tiny(ALGORITHMS[algorithm])
    if "demonstrations" not in entry:
        small |= dict(bc_steps=0, clip_bc=None)
    elif entry["demonstrations"].startswith("expert:"):
        small["demonstrations"] = f"{entry['demonstrations']}:1"
    args = type("Arguments", (), {})()
    manager = ExperimentManager(
        args, algorithm, env_id, str(folder), eval_freq=-1, hyperparams=small, config=config, verbose=0, device="cpu"
    )
    model, _ = manager.setup_experiment()
    model.env.close()
    return model, entry


@pytest.mark.parametrize("env_id", LIGHT)
def test_entries_build(env_id, tmp_path):
    model, entry = build("ogpo_ca", env_id, None, tmp_path)
    assert model.chunk_size == TASKS[env_id].chunk_size and model.gamma == entry["gamma"]
    assert model.pretraining_due == ("demonstrations" in entry)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_quick_entries_build(algorithm, tmp_path):
    model, _ = build(algorithm, "ogpo/PushT-v0", "quick", tmp_path)
    assert type(model) is ALGORITHMS[algorithm] and model.chunk_size == 8


def test_configurations_are_found_beside_an_installed_package(tmp_path, monkeypatch):
    import ogpo_sb3.zoo.configs as configs

    assert config_folder().name == "zoo_configs" and (config_folder() / "ogpo.yml").exists()
    installed = tmp_path / "site-packages" / "ogpo_sb3"
    (installed / "zoo_configs").mkdir(parents=True)
    monkeypatch.setattr(configs, "__file__", str(installed / "zoo" / "configs.py"))
    assert config_folder() == installed / "zoo_configs"


# -- what the door adds -----------------------------------------------------------------------------------------------


def added(argv):
    """Settings that the door hands to RL-Zoo with -params."""
    prepared = prepare_train(argv)
    assert prepared.count("-params") <= 1 and prepared.count("-conf") == 1
    return read_items(prepared[prepared.index("-params") + 1 :], "-params")[0] if "-params" in prepared else {}


def test_chunk_size_on_the_command_line_wins():
    said = added(["--algo", "ogpo", "--env", "ogpo/PushT-v0", "-params", "chunk_size:3", "gamma:0.9"])
    assert said["env_wrapper"] == [{"ogpo_sb3.ChunkActionWrapper": {"chunk_size": 3}}]
    assert said["gamma"] == 0.9 and "chunk_size" not in said
    assert said["callback"] == ["ogpo_sb3.zoo.steps.EnvironmentSteps"]
    assert "env_wrapper" not in added(["--algo", "ogpo", "--env", "ogpo/PushT-v0"]), "the file's wrapper is left alone"


def test_wrappers_and_callbacks_of_a_file_are_kept(tmp_path):
    config = tmp_path / "mine.yml"
    entry = dict(policy="MlpPolicy", n_timesteps=10, env_wrapper=WRAPPER, callback=[{CALLBACK: {"x": 1}}])
    config.write_text(yaml.safe_dump({"ogpo/PushT-v0": entry}))
    said = added(["--algo", "tqc", "--env", "ogpo/PushT-v0", "-conf", str(config)])
    assert said["env_wrapper"] == [WRAPPER, {"ogpo_sb3.ChunkActionWrapper": {"chunk_size": 4}}]
    assert said["callback"] == ["ogpo_sb3.zoo.steps.EnvironmentSteps", {CALLBACK: {"x": 1}}]


def test_numbers_that_yaml_takes_for_text_are_numbers(tmp_path):
    text = (
        "{policy: FlowPolicy, n_timesteps: 1e5, buffer_size: 1.0e+4, learning_rate: 1e-3, tau: 5E-3, gamma: 0.9, bc_steps: 0, "
    )
    (tmp_path / "mine.yml").write_text(f"default: {text} policy_kwargs: {{noise_std: 5e-2, net_arch: [8]}}}}\n")
    said = added(["--algo", "ogpo", "--env", "Pendulum-v1", "-conf", str(tmp_path / "mine.yml"), "-params", "batch_size:1e2"])
    policy_kwargs = dict(noise_std=0.05, net_arch=[8])
    wanted = dict(
        n_timesteps=100_000, buffer_size=10_000, learning_rate=1e-3, tau=5e-3, policy_kwargs=policy_kwargs, batch_size=100
    )
    assert said == wanted and all(type(said[name]) is type(value) for name, value in wanted.items())


def test_environments_without_chunks_are_left_alone():
    assert added(["--algo", "sac", "--env", "Pendulum-v1"]) == {}


def test_a_checkpoint_takes_the_place_of_cloning():
    said = added(["--algo", "ogpo", "--env", "ogpo/PushT-v0", "-params", "pretrained_policy:bc.zip"])
    assert said["pretrained_policy"] == "bc.zip" and said["bc_steps"] == 0 and said["demonstrations"] is None


def test_without_cloning_no_expert_is_asked():
    task = ["--algo", "ogpo_ca", "--env", "ogpo/AdroitHammer-v0", "-conf", "quick", "-params", "bc_steps:0"]
    assert {"demonstrations": None, "clip_bc": None}.items() <= added(task).items()
    assert added([*task, "demonstrations:own.npz"])["demonstrations"] == "own.npz"
    assert "demonstrations" not in added([*task, "bc_offline_ratio:0.5"]), "updates draw from them"


def test_a_key_is_told_with_where_it_was_typed():
    task = ["--algo", "ogpo_ca", "--env", "ogpo/AdroitHammer-v0", "-conf", "quick", "-params"]
    with pytest.raises(ValueError, match=r"hyperparameter of ogpo_ca in -params: .*gama"):
        added([*task, "gama:0.9"])
    with pytest.raises(ValueError, match=r"^-params: callback names no class"):
        added([*task, "callback:no_such.Thing"])


def test_evaluation_has_the_environment_of_training():
    argv = ["--algo", "ogpo_ca", "--env", "ogpo/AdroitPen-v0", "-conf", "quick"]
    prepared = prepare_train(argv)
    given = prepared[prepared.index("--eval-env-kwargs") + 1 : prepared.index("-conf")]
    assert read_items(given, "")[0] == presets.laptop_env("ogpo/AdroitPen-v0")
    assert "--eval-env-kwargs" not in prepare_train([*argv, "--env-kwargs", "reward:dense"])


def test_bare_words_are_text_and_expressions_are_not():
    values, items = read_items(
        ["a:lin_1e-4", "b:3e-4", "c:dict(x=nn.ReLU)", "d:nn.ReLU", "e:minari:x/y-v0", "f:None"], "-params"
    )
    assert values["a"] == "lin_1e-4" and values["b"] == 3e-4 and values["e"] == "minari:x/y-v0" and values["f"] is None
    assert items == ["a:'lin_1e-4'", "b:3e-4", "c:dict(x=nn.ReLU)", "d:nn.ReLU", "e:'minari:x/y-v0'", "f:None"]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("false", False),
        ("TRUE", True),
        ("none", None),
        ("no", False),
        ("null", None),
        ("Nonet", "Nonet"),
        ("true.npz", "true.npz"),
    ],
)
def test_words_of_yaml_are_their_values(text, value):
    (found, items), parsed = read_items([f"a:{text}"], "-params"), parse_assignments([f"b.a={text}"])
    assert found["a"] is parsed["b.a"] is value or found["a"] == parsed["b.a"] == value
    assert items == [f"a:{value!r}"], "RL-Zoo evaluates it to the same"
    assert parse_assignments(["policy_kwargs.sde_correction=none"]) == {"policy_kwargs.sde_correction": "none"}


# -- bad input --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["trains"], ["'trains'", "train"]),
        (["train", "--algo", "ogpo_c"], ["'ogpo_c'", "ogpo_ca"]),
        (["train", "--algo", "ogpo", "--env", "ogpo/AdroitHamer-v0"], ["AdroitHamer", "ogpo/AdroitHammer-v0"]),
        (["train", "--algo", "ogpo", "--env", "PushT-v0"], ["'PushT-v0'", "ogpo/PushT-v0"]),
        (["train", "--algo", "ogpo", "--env", "Pendullum-v1"], ["'Pendullum-v1'", "Pendulum-v1"]),
        (["enjoy", "--algo", "ogpoo", "--env", "ogpo/PushT-v0"], ["'ogpoo'", "ogpo"]),
        (["enjoy", "--algo", "ogpo", "--env", "ogpo/PushT-v0"], ["logs/ogpo holds no run of ogpo/PushT-v0"]),
        (["record-video", "--algo", "ogpo", "--env", "ogpo/PushT"], ["'ogpo/PushT'", "ogpo/PushT-v0"]),
        (["train", "--algo", "ogpo", "--env", "ogpo/PushT-v0", "-params", "clip_rang:0.1"], ["'clip_rang'", "clip_range"]),
        (["train", "--algo", "sac", "--env", "ogpo/PushT-v0", "-params", "group_size:4"], ["'group_size'", "sac"]),
        (["train", "--algo", "ogpo", "--env", "ogpo/PushT-v0", "-params", "seed:4"], ["'seed'", "--seed"]),
        (["train", "--algo", "ogpo", "--env", "ogpo/PushT-v0", "-params", "gamma=1"], ["name:value", "gamma=1"]),
        (["train", "--algo", "ogpo", "--env", "ogpo/PushT-v0", "-params", "gamma:dict(", "tau:1"], ["gamma:dict("]),
        (["train", "--algo", "ogpo", "--env", "ogpo/PushT-v0", "-params", "chunk_size:0"], ["chunk_size", "found 0"]),
        (["train", "--algo", "ogpo", "--env", "ogpo/PushT-v0", "-conf", "none.yml"], ["none.yml", "no such file"]),
        (["train", "--algo", "sac", "--env", "ogpo/PushT-v0", "-conf", "quick"], ["'sac'", "ogpo_ca"]),
        (["train", "--algo", "ogpo", "--env", "ogpo/KitchenMixed-v0"], ["ogpo/KitchenMixed-v0", "demonstrations:FILE"]),
        (["optimize", "--algo", "ogpo", "--env", "ogpo/PushT-v0", "--n-evaluations", "0"], ["--n-evaluations", "found 0"]),
        (["optimize", "--algo", "ogpo", "--env", "ogpo/PushT-v0", "-n", "40", "--n-evaluations", "11"], ["10 decisions"]),
        (["optimize", "--algo", "ogpo", "--env", "ogpo/PushT-v0", "-params", "gradient_steps:1"], ["gradient_steps"]),
        (["plot-train", "-a", "ogpo", "-e", "ogpo/PushT-v0", "-f", "nowhere"], ["nowhere"]),
        (["train", *PUSHT, "-conf", "quik"], ["-conf wants 'quick'", "found none called 'quik'"]),
        (["train", *PUSHT, "-i", "nope.zip"], ["-i must be the .zip file", "nope.zip"]),
        (["train", *PUSHT, "-n", "0"], ["-n must be at least 1, found 0"]),
        (["train", *PUSHT, "-params", "n_timesteps:-5"], ["n_timesteps must be at least 1, found -5"]),
        (["train", *PUSHT, "-params", "n_envs:two"], ["n_envs must be a whole number, found 'two'"]),
        (["train", *PUSHT, "-params", "batch_size:1.5"], ["batch_size must be a whole number, found 1.5"]),
        (["train", *PUSHT, "-params", "tau:small"], ["-params: tau must be a number, found 'small'"]),
        (["train", *PUSHT, "-params", "success_bc:maybe"], ["success_bc must be true or false, found 'maybe'"]),
        (["train", *PUSHT, "-params", "learning_rate:slow"], ["learning_rate must be a number or lin_<number>", "'slow'"]),
        (["train", *PUSHT, "-params", "env_wrapper:ogpo_sb3.Nope"], ["env_wrapper names no class", "'ogpo_sb3.Nope'"]),
        (["train", *PUSHT, "-params", "callback:Nope"], ["callback names no class", "'Nope'"]),
        (["train", *PUSHT, "--trial-id", "3"], ["--trial-id 3", "found no --storage"]),
        (["train", *PUSHT, "--trial-id", "0", "--storage", "s.log", "--study-name", "s"], ["found no file s.log"]),
        (["optimize", *PUSHT, "--n-trials", "0"], ["--n-trials must be at least 1, found 0"]),
    ],
)
def test_what_is_wrong_is_named_before_anything_runs(argv, words, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert main(argv) == 2
    message = capsys.readouterr().err
    assert all(word in message for word in words), message
    assert message.count("\n") == 1 and not list(tmp_path.iterdir()), "one line, and nothing was written"


def test_plots_suggest_the_nearest_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "logs" / "ogpo_ca" / "ogpo-PushT-v0_1").mkdir(parents=True)
    assert main(["all-plots", "-a", "ogpo_cs", "-e", "ogpo/PushT-v0", "-f", "logs"]) == 2
    assert "did you mean ogpo_ca" in capsys.readouterr().err
    assert main(["all-plots", "-a", "ogpo_ca", "-e", "ogpo/PsuhT-v0", "-f", "logs"]) == 2
    assert "did you mean ogpo-PushT-v0" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("- a\n- b\n", ["list"]),
        ("default: [1\n", ["not YAML"]),
        ("Pendulum-v1: {policy: MlpPolicy, n_timesteps: 1}\n", ["no 'default'", "Pendulum-v1"]),
        ("default: {policy: FlowPolicy}\n", ["'n_timesteps' is missing"]),
        ("default: {policy: FlowPolicy, n_timesteps: 1, bc_step: 5}\n", ["'bc_step'", "bc_steps"]),
        (
            "default: {policy: FlowPolicy, n_timesteps: 1, chunk_size: 2, "
            "env_wrapper: [ogpo_sb3.ChunkActionWrapper: {chunk_size: 4}]}\n",
            ["chunk_size is 2", "wrapper's is 4"],
        ),
    ],
)
def test_bad_files(text, words, tmp_path):
    config = tmp_path / "bad.yml"
    config.write_text(text)
    with pytest.raises(ValueError, match=r"bad\.yml") as caught:
        prepare_train(["--algo", "ogpo", "--env", "ogpo/PushT-v0", "-conf", str(config)])
    assert all(word in str(caught.value) for word in words), caught.value


def test_python_configurations_are_read_and_classes_refused(tmp_path):
    config = tmp_path / "mine.py"
    config.write_text("hyperparams = {'default': dict(policy='MlpPolicy', n_timesteps=5, callback=[int])}")
    with pytest.raises(ValueError, match=r"callback in .*mine\.py"):
        prepare_train(["--algo", "sac", "--env", "ogpo/PushT-v0", "-conf", str(config)])
    assert as_item("a", {"b": (1, None)}, "x") == "a:{'b': (1, None)}"


# -- search spaces ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_drawn_settings_build_and_are_those_of_the_trial(algorithm):
    from rl_zoo3.hyperparams_opt import HYPERPARAMS_CONVERTER, HYPERPARAMS_SAMPLER

    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    seen = []
    for _ in range(2):
        trial = study.ask()
        drawn = HYPERPARAMS_SAMPLER[algorithm](trial, 2, 1, {})
        assert HYPERPARAMS_CONVERTER[algorithm](trial.params) == drawn, "--trial-id gives back what was tried"
        assert set(drawn) <= set(constructor_arguments(ALGORITHMS[algorithm]))
        small = tiny(ALGORITHMS[algorithm])
        small["policy_kwargs"] = {**drawn["policy_kwargs"], **small["policy_kwargs"]}
        policy = next(iter(ALGORITHMS[algorithm].policy_aliases))
        model = ALGORITHMS[algorithm](policy, Bandit(), device="cpu", **{**drawn, **small})
        assert model.gamma == drawn["gamma"] and model.batch_size == drawn["batch_size"]
        seen.append(drawn)
    assert seen[0] != seen[1]


def test_an_algorithm_without_a_space_of_its_own_varies_what_it_takes(monkeypatch):
    monkeypatch.setitem(ALGORITHMS, "sac", SAC)
    drawn = sampler_for("sac")(optuna.create_study().ask(), 2, 1, {})
    assert set(drawn) == {"learning_rate", "gamma", "batch_size", "tau", "policy_kwargs"}
    assert convert_params({"one_minus_gamma": 0.25, "net_arch": "small", "batch_size_pow": 3})["batch_size"] == 8


# -- counting, saving -------------------------------------------------------------------------------------------------


class Counted(gym.Wrapper):
    def __init__(self, env):
        super().__init__(env)
        self.steps = 0

    def step(self, action):
        self.steps += 1
        return self.env.step(action)


@pytest.mark.parametrize("algorithm", [SAC, OGPOCA])
def test_totals_and_frequencies_are_environment_steps(algorithm, tmp_path):
    counted = Counted(gym.make("Pendulum-v1", max_episode_steps=30))
    options = (
        dict(policy="MlpPolicy")
        if algorithm is SAC
        else dict(policy="FlowPolicy", policy_kwargs=dict(net_arch=[8], n_critics=2, denoising_steps=2), group_size=2)
    )
    model = algorithm(env=ChunkActionWrapper(counted, 4), learning_starts=1000, buffer_size=200, device="cpu", **options)
    evaluation = EvalCallback(
        ChunkActionWrapper(gym.make("Pendulum-v1"), 4), n_eval_episodes=1, eval_freq=24, log_path=str(tmp_path), verbose=0
    )
    model.learn(100, callback=[EnvironmentSteps(), CheckpointCallback(48, str(tmp_path)), evaluation])
    # 30 = 7 * 4 + 2: an episode takes eight decisions, and every sixth is followed by an evaluation.
    assert model.num_timesteps == counted.steps == 102
    assert np.load(tmp_path / "evaluations.npz")["timesteps"].tolist() == [24, 46, 68, 90]
    assert len(list(tmp_path.glob("rl_model_*"))) == 2


def test_progress_bar_ends_at_the_total():
    from stable_baselines3.common.callbacks import ProgressBarCallback

    model = SAC("MlpPolicy", ChunkActionWrapper(gym.make("Pendulum-v1"), 4), learning_starts=1000, device="cpu")
    bar = ProgressBarCallback()
    model.learn(40, callback=[EnvironmentSteps(), bar])
    assert bar.pbar.n == 40


class Wide(gym.Env):
    observation_space = spaces.Box(-1.0, 1.0, (100,), np.float32)
    action_space = spaces.Box(-1.0, 1.0, (2,), np.float32)


def test_enjoying_allocates_no_buffer(tmp_path):
    """RL-Zoo loads these algorithms with their saved buffer size: 2 million rows of 100 numbers are 800 MB."""
    model = OGPO("FlowPolicy", Wide(), buffer_size=10, policy_kwargs=dict(net_arch=[8]), device="cpu")
    model.buffer_size = 2_000_000
    model.save(tmp_path / "model.zip")
    del model
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    loaded = OGPO.load(tmp_path / "model.zip", custom_objects={"learning_rate": 0.0, "clip_range": lambda _: 0.0})
    assert loaded.buffer_size == 2_000_000
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # KB


def test_saved_settings_are_read_without_running_anything(tmp_path):
    saved = OrderedDict([("train_freq", (1, "episode")), ("env_kwargs", None), ("gamma", 0.9)])
    (tmp_path / "config.yml").write_text(yaml.dump(saved))
    assert read_saved(tmp_path / "config.yml") == dict(saved)
    (tmp_path / "evil.yml").write_text("!!python/object/apply:os.system ['true']")
    with pytest.raises(ValueError, match=r"evil\.yml cannot be read"):
        read_saved(tmp_path / "evil.yml")


def test_a_trial_is_found_by_its_number(tmp_path):
    storage = str(tmp_path / "study.log")
    backend = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(storage))
    study = optuna.create_study(storage=backend, study_name="s")
    for value in (1.0, 2.0):
        study.enqueue_trial({"x": value})
        study.tell(study.ask({"x": optuna.distributions.FloatDistribution(0.0, 3.0)}), 0.0)
    study.ask()
    for number, value in enumerate((1.0, 2.0)):
        index = chosen_trial(storage, "s", number)
        assert index and study.trials[index].params == {"x": value}, "RL-Zoo takes the index 0 for no trial"
    for name, number, told in (
        ("s", 3, "one of the 3 trials"),
        ("s", 2, "no settings"),
        ("t", 0, "'t' is no study of .*, found s"),
    ):
        with pytest.raises(ValueError, match=told):
            chosen_trial(storage, name, number)


@pytest.mark.parametrize(("env_id", "noise"), [("ogpo/RobomimicSquare-v0", "?noise=1"), ("ogpo/RobomimicToolHang-v0", "")])
def test_experts_act_as_the_quickstarts(env_id, noise):
    arguments = prepare_train(["--algo", "ogpo_ca", "-conf", "quick", "--env", env_id])
    assert as_item("demonstrations", f"expert:{env_id}{noise}", "") in arguments
