"""From what the user typed to what RL-Zoo's commands understand, checked on the way."""

import argparse
import importlib
from pathlib import Path
from typing import Any

import gymnasium as gym

from ogpo_sb3.common.arguments import constructor_arguments
from ogpo_sb3.common.names import check_known
from ogpo_sb3.common.options import draws_demonstrations
from ogpo_sb3.envs.registry import TASKS
from ogpo_sb3.presets import laptop_noise
from ogpo_sb3.zoo import ALGORITHMS
from ogpo_sb3.zoo.configs import check_settings, find_config, numbers_meant, read_entry
from ogpo_sb3.zoo.parameters import as_item, read_items
from ogpo_sb3.zoo.studies import chosen_trial

WRAPPER = "ogpo_sb3.ChunkActionWrapper"
CALLBACK = "ogpo_sb3.zoo.steps.EnvironmentSteps"


def asks_for_help(argv: list[str]) -> bool:
    """
    :param argv: a command's arguments
    """
    return "-h" in argv or "--help" in argv


def prepare_train(argv: list[str]) -> list[str]:
    """
    Arguments of RL-Zoo's ``train``: configuration, chunk wrapper, counting and demonstrations added where they are missing.

    :param argv: arguments as typed
    :raises ValueError: unknown ids or settings, settings that contradict each other, a study without evaluation, a trial or
        an agent that there is not
    """
    if asks_for_help(argv):
        return argv
    reader = argparse.ArgumentParser(prog="python -m ogpo_sb3.zoo train", add_help=False)
    reader.add_argument("--algo", default="ppo")
    reader.add_argument("--env", default="CartPole-v1")
    reader.add_argument("-n", "--n-timesteps", type=int, default=-1)
    reader.add_argument("--n-evaluations", type=int)
    reader.add_argument("-optimize", "--optimize-hyperparameters", action="store_true")
    reader.add_argument("--gym-packages", nargs="+", default=[])
    reader.add_argument("-i", "--trained-agent", default="")
    reader.add_argument("--n-trials", type=int, default=1)
    for option in ("--storage", "--study-name"):
        reader.add_argument(option)
    reader.add_argument("--trial-id", type=int)
    # An option given twice counts the last time, so that an abbreviated one, which stays, does no harm.
    taken = argparse.ArgumentParser(prog=reader.prog, add_help=False, allow_abbrev=False)
    for parser in (reader, taken):
        parser.add_argument("-conf", "--conf-file")
        parser.add_argument("-params", "--hyperparams", nargs="+", default=[])
        for option in ("--env-kwargs", "--eval-env-kwargs"):
            parser.add_argument(option, nargs="+")
    given, (_, rest) = reader.parse_known_args(argv)[0], taken.parse_known_args(argv)

    algorithm = check_ids(given.algo, given.env, given.gym_packages)
    _check_run(given)
    config = find_config(given.algo, given.conf_file)
    typed, items = read_items(given.hyperparams, "-params")
    entry = read_entry(config, given.env)
    chunk_size = _chunk_size(entry, typed, given.env, config)
    if "chunk_size" in typed:  # said through the wrapper: RL-Zoo makes the environments
        typed.pop("chunk_size")
        items = [item for item in items if not item.startswith("chunk_size:")]
    settings = {**entry, **typed}
    check_settings(given.algo, algorithm, settings, config, typed)
    added = numbers_meant(algorithm, {name: entry[name] for name in entry if name not in typed}, config)
    added |= numbers_meant(algorithm, typed, "-params")
    settings |= added

    added |= _chunking(settings, chunk_size)
    if given.env in TASKS and "monitor_kwargs" not in settings:  # for plot-train -y success
        added["monitor_kwargs"] = {"info_keywords": ("is_success",)}
    if "bc_steps" in constructor_arguments(algorithm):
        added |= _pretraining(settings, typed, given.env)
    if given.optimize_hyperparameters:
        _check_study(given, {**settings, **added}, chunk_size)
    items += [as_item(name, value, config) for name, value in added.items()]
    for option in ("--env-kwargs", "--eval-env-kwargs"):
        if (words := getattr(given, option[2:].replace("-", "_"))) is not None:
            rest += [option, *read_items(words, option)[1]]
    rest += _evaluation_kwargs(given, settings, config)
    if given.trial_id is not None and not given.optimize_hyperparameters:
        rest.append(f"--trial-id={chosen_trial(given.storage, given.study_name, given.trial_id)}")
    return [*rest, "-conf", config, *(["-params", *items] if items else [])]


def check_ids(algo: str, env_id: str, packages: list[str]) -> type:
    """
    :param algo: id of an algorithm
    :param env_id: id of an environment
    :param packages: modules that register environments
    :return: the algorithm's class
    :raises ValueError: an unknown id; names the nearest
    """
    import rl_zoo3.import_envs

    check_known("algorithm", algo, rl_zoo3.ALGOS)
    for package in packages:
        importlib.import_module(package)
    if env_id not in gym.registry:
        # The whole registry is no help where nothing in it is near.
        try:
            check_known("environment", env_id, TASKS)
        except ValueError as error:
            if "did you mean" in str(error):
                raise
            import difflib

            near = difflib.get_close_matches(env_id, gym.registry, n=3)
            check_known("environment", env_id, near or TASKS)
    return rl_zoo3.ALGOS[algo]


def _check_run(given: argparse.Namespace) -> None:
    if given.n_timesteps < 1 and given.n_timesteps != -1:  # RL-Zoo's default, and takes all of these for it
        raise ValueError(f"-n must be at least 1, found {given.n_timesteps}")
    if given.n_trials < 1:
        raise ValueError(f"--n-trials must be at least 1, found {given.n_trials}")
    if given.trained_agent and not (given.trained_agent.endswith(".zip") and Path(given.trained_agent).is_file()):
        raise ValueError(f"-i must be the .zip file of an agent, found no such file {given.trained_agent}")


def _chunk_size(entry: dict[str, Any], typed: dict[str, Any], env_id: str, config: str) -> int:
    """The command line's, else the entry's, else the task's recommendation, else 1."""
    if "chunk_size" in typed:
        size = typed["chunk_size"]
    else:
        wrapped = wrapped_chunk_size({**entry, **typed}.get("env_wrapper"))
        size = entry.get("chunk_size") or wrapped or (TASKS[env_id].chunk_size if env_id in TASKS else 1)
        if wrapped not in (None, size):
            raise ValueError(f"{config}: chunk_size is {size} and the wrapper's is {wrapped}, give one")
    if isinstance(size, bool) or not isinstance(size, int) or size < 1:
        raise ValueError(f"chunk_size must be an integer of at least 1, found {size!r}")
    return size


def _wrappers(value: Any) -> list[Any]:
    return [] if value is None else list(value) if isinstance(value, list) else [value]


def _is_chunk_wrapper(wrapper: Any) -> bool:
    name = next(iter(wrapper)) if isinstance(wrapper, dict) else wrapper
    return (name if isinstance(name, str) else getattr(name, "__name__", "")).endswith("ChunkActionWrapper")


def wrapped_chunk_size(env_wrapper: Any) -> int | None:
    """
    :param env_wrapper: RL-Zoo's setting of that name
    :return: chunk size of the chunk wrapper in it, None without one
    """
    for wrapper in _wrappers(env_wrapper):
        if _is_chunk_wrapper(wrapper):
            kwargs = next(iter(wrapper.values())) if isinstance(wrapper, dict) else {}
            return int(kwargs["chunk_size"]) if "chunk_size" in kwargs else None
    return None


def _chunking(settings: dict[str, Any], chunk_size: int) -> dict[str, Any]:
    """The chunk wrapper, outermost as in the package's own environments, and the callback that counts its steps."""
    added: dict[str, Any] = {}
    wrapped = wrapped_chunk_size(settings.get("env_wrapper"))
    if wrapped != chunk_size and (wrapped is not None or chunk_size > 1):
        others = [w for w in _wrappers(settings.get("env_wrapper")) if not _is_chunk_wrapper(w)]
        added["env_wrapper"] = [*others, {WRAPPER: {"chunk_size": chunk_size}}]
    callbacks = _wrappers(settings.get("callback"))
    if chunk_size > 1 and CALLBACK not in callbacks:
        added["callback"] = [CALLBACK, *callbacks]
    return added


def _pretraining(settings: dict[str, Any], typed: dict[str, Any], env_id: str) -> dict[str, Any]:
    """A checkpoint on the command line takes the place of cloning; otherwise cloning needs demonstrations."""
    if typed.get("pretrained_policy") is not None:
        off: dict[str, Any] = dict(bc_steps=0, clip_bc=None)
        if not draws_demonstrations(settings):
            off["demonstrations"] = None
        return {name: value for name, value in off.items() if settings.get(name) != value and name not in typed}
    if not settings.get("bc_steps"):
        # Without updates there is nothing to stop and nothing to clone: -params bc_steps:0 is enough to leave cloning out.
        unused = ["clip_bc"] if draws_demonstrations(settings) else ["clip_bc", "demonstrations"]
        return {name: None for name in unused if settings.get(name) is not None and name not in typed}
    if settings.get("demonstrations") is not None or settings.get("pretrained_policy") is not None:
        return {}
    task = TASKS.get(env_id)
    if task is not None and task.demonstrations is not None:
        return {"demonstrations": task.demonstrations}
    if task is not None and task.expert is not None:
        noise = laptop_noise(env_id)  # as the quickstart's
        return {"demonstrations": f"expert:{env_id}" + (f"?noise={noise:g}" if noise else "")}
    raise ValueError(
        f"behaviour cloning on {env_id} (bc_steps={settings['bc_steps']}) needs demonstrations, which the package does not "
        "ship: pass -params demonstrations:FILE, or pretrained_policy:FILE, or bc_steps:0 to begin with a random policy"
    )


def _check_study(given: argparse.Namespace, settings: dict[str, Any], chunk_size: int) -> None:
    steps = given.n_timesteps if given.n_timesteps > 0 else int(settings["n_timesteps"])
    decisions = steps // (chunk_size * int(settings.get("n_envs", 1)))
    if given.n_evaluations is not None and not 1 <= given.n_evaluations <= max(decisions, 1):
        raise ValueError(
            f"--n-evaluations must lie between 1 and the {decisions} decisions of a trial of {steps} steps, found "
            f"{given.n_evaluations}"
        )
    if given.algo in ALGORITHMS and "gradient_steps" in settings and settings["gradient_steps"] is not None:
        from ogpo_sb3.zoo.samplers import varied

        if "utd_critic" in varied(given.algo):
            raise ValueError("gradient_steps and the search over utd_critic exclude each other: remove gradient_steps")


def _evaluation_kwargs(given: argparse.Namespace, settings: dict[str, Any], config: str) -> list[str]:
    """RL-Zoo gives an entry's ``env_kwargs`` to the training environment alone: evaluation has to happen in the same one."""
    kwargs = settings.get("env_kwargs")
    if not isinstance(kwargs, dict) or not kwargs or given.env_kwargs is not None or given.eval_env_kwargs is not None:
        return []
    return ["--eval-env-kwargs", *(as_item(name, value, config) for name, value in kwargs.items())]
