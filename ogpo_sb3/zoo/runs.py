"""Runs in a log folder: RL-Zoo's layout ``<folder>/<algorithm>/<environment>_<number>/``."""

import argparse
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from ogpo_sb3.zoo import ALGORITHMS
from ogpo_sb3.zoo.arguments import asks_for_help, check_ids
from ogpo_sb3.zoo.parameters import as_item, read_items


class Run(NamedTuple):
    """
    :param algorithm: its id
    :param env_id: its environment
    :param folder: where its model is
    :param hyperparameters: what it was trained with, before RL-Zoo processed it
    :param env_kwargs: arguments of its environment
    """

    algorithm: str
    env_id: str
    folder: Path
    hyperparameters: dict[str, Any]
    env_kwargs: dict[str, Any]

    @property
    def name(self) -> str:
        """Environment, as files are called after it."""
        return self.env_id.replace("/", "-")


class _Loader(yaml.SafeLoader):
    """Safe, and knows the two Python types that RL-Zoo writes."""


def _ordered(loader: yaml.SafeLoader, node: yaml.Node) -> dict[str, Any]:
    (pairs,) = loader.construct_sequence(node, deep=True)  # type: ignore[arg-type]
    return {key: value for key, value in pairs}


def _tuple(loader: yaml.SafeLoader, node: yaml.Node) -> tuple[Any, ...]:
    return tuple(loader.construct_sequence(node, deep=True))  # type: ignore[arg-type]


_Loader.add_constructor("tag:yaml.org,2002:python/object/apply:collections.OrderedDict", _ordered)
_Loader.add_constructor("tag:yaml.org,2002:python/tuple", _tuple)


def read_saved(path: Path) -> dict[str, Any]:
    """
    :param path: config.yml or args.yml of a run
    :raises ValueError: it holds something else than plain data
    """
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)  # a SafeLoader
    except yaml.YAMLError as error:
        raise ValueError(f"{path} cannot be read: {' '.join(str(error).split())}") from error
    return dict(content or {})


def read_run(folder: Path, algorithm: str) -> Run:
    """
    :param folder: ``<environment>_<number>``
    :param algorithm: its id
    :raises ValueError: no run, or an unreadable one
    """
    found = list(folder.glob("*/args.yml"))
    if len(found) != 1:
        raise ValueError(f"{folder} should hold one <environment>/args.yml, found {len(found)}")
    arguments = read_saved(found[0])
    hyperparameters = read_saved(found[0].with_name("config.yml"))
    env_kwargs = {**(hyperparameters.get("env_kwargs") or {}), **(arguments.get("env_kwargs") or {})}
    return Run(algorithm, arguments["env"], folder, hyperparameters, env_kwargs)


def find_runs(folder: Path, algorithms: list[str] | None = None) -> list[Run]:
    """
    :param folder: log folder
    :param algorithms: ids to keep; all when None
    :return: runs in alphabetical order
    """
    found = sorted({path.parents[1] for path in folder.glob("*/*/*/args.yml")})
    return [read_run(path, path.parent.name) for path in found if algorithms is None or path.parent.name in algorithms]


def prepare_enjoy(argv: list[str]) -> list[str]:
    """
    Arguments of RL-Zoo's ``enjoy``: ids checked; agents of this package are looked for in ``logs``, as no hub has them.

    :param argv: arguments as typed
    :raises ValueError: unknown ids
    """
    return argv if asks_for_help(argv) else _prepared(argv)[2]


def prepare_video(argv: list[str]) -> list[str]:
    """
    Arguments of RL-Zoo's ``record_video``, which forgets the environment arguments of a run's configuration.

    :param argv: arguments as typed
    :raises ValueError: unknown ids
    """
    if asks_for_help(argv):
        return argv
    given, folder, argv = _prepared(argv)
    argv = _without_packages(argv)
    if given.env_kwargs is not None or not list(folder.glob("*/args.yml")):
        return argv
    items = [as_item(key, value, str(folder)) for key, value in read_run(folder, given.algo).env_kwargs.items()]
    return [*argv, *(["--env-kwargs", *items] if items else [])]


def _prepared(argv: list[str]) -> tuple[argparse.Namespace, Path, list[str]]:
    """What was typed, the run's folder, and the arguments to hand on."""
    from rl_zoo3.utils import EnvironmentName, get_latest_run_id

    reader = argparse.ArgumentParser(add_help=False)
    reader.add_argument("--algo", default="ppo")
    reader.add_argument("--env", default="CartPole-v1")
    reader.add_argument("-f", "--folder")
    reader.add_argument("--exp-id", type=int, default=0)
    reader.add_argument("--gym-packages", nargs="+", default=[])
    reader.add_argument("--load-best", action="store_true")
    reader.add_argument("--load-checkpoint")
    reader.add_argument("--load-last-checkpoint", action="store_true")
    taken = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    for parser in (reader, taken):
        parser.add_argument("--env-kwargs", nargs="+")
    given, (_, rest) = reader.parse_known_args(argv)[0], taken.parse_known_args(argv)
    check_ids(given.algo, given.env, given.gym_packages)
    if given.folder is None:
        given.folder = "logs" if given.algo in ALGORITHMS else "rl-trained-agents"
        rest += ["-f", given.folder]
    if given.env_kwargs is not None:
        rest += ["--env-kwargs", *read_items(given.env_kwargs, "--env-kwargs")[1]]
    name, group = EnvironmentName(given.env), Path(given.folder) / given.algo
    number = given.exp_id or get_latest_run_id(str(group), name)
    folder = group / f"{name}_{number}" if number > 0 else group
    if "rl-trained-agents" not in given.folder and not (folder.is_dir() and (number > 0 or given.exp_id < 0)):
        found = ", ".join(sorted(path.name for path in group.glob("*_*"))) or "none"
        wanted = f"run {given.exp_id}" if given.exp_id else "run"
        raise ValueError(f"{group} holds no {wanted} of {given.env}, found {found}")
    if "rl-trained-agents" not in given.folder:
        folder = _with_model(given, group, folder)
        if given.exp_id == 0:  # an option given twice counts the last time
            rest.append(f"--exp-id={folder.name.rpartition('_')[2]}")
    return given, folder, rest


def _with_model(given: argparse.Namespace, group: Path, folder: Path) -> Path:
    """The run, or where none is named the last with the model wanted: a start that failed leaves a run without one."""
    name = given.env.replace("/", "-")
    steps = given.load_checkpoint or ("*" if given.load_last_checkpoint else None)
    model = "best_model.zip" if given.load_best else f"{name}.zip" if steps is None else f"rl_model_{steps}_steps.zip"
    runs = [folder]
    if given.exp_id == 0:
        numbered = [path for path in group.glob(f"{name}_*") if path.name.removeprefix(f"{name}_").isdigit()]
        runs = sorted(numbered, key=lambda path: int(path.name.removeprefix(f"{name}_")), reverse=True)
    for run in runs:
        if any(run.glob(model)):
            return run
    raise ValueError(f"{group} holds no {model} in {', '.join(run.name for run in runs)}")


def _without_packages(argv: list[str]) -> list[str]:
    """``--gym-packages`` was served by the door; RL-Zoo's recorder does not know it."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--gym-packages", nargs="+")
    return parser.parse_known_args(argv)[1]
