"""Configuration files: where they are, what an entry says, and whether a constructor takes it."""

import importlib
import importlib.util
import re
import runpy
from collections.abc import Collection, Mapping
from pathlib import Path
from types import NoneType
from typing import Any, get_args

import yaml
from stable_baselines3.common.base_class import BaseAlgorithm

from ogpo_sb3.common.arguments import constructor_arguments
from ogpo_sb3.common.names import check_known
from ogpo_sb3.zoo import ALGORITHMS
from ogpo_sb3.zoo.parameters import as_number

# What RL-Zoo takes out of an entry before the constructor sees it.
ZOO_KEYS = {
    "callback",
    "env_kwargs",
    "env_wrapper",
    "frame_stack",
    "monitor_kwargs",
    "n_envs",
    "n_timesteps",
    "noise_std",
    "noise_type",
    "normalize",
    "vec_env_wrapper",
}
# Of these the counts, and what RL-Zoo imports by name.
_COUNTS = {"n_timesteps", "n_envs"}
_CLASSES = ("env_wrapper", "vec_env_wrapper", "callback")
# What RL-Zoo makes schedules of.
_SCHEDULES = ("learning_rate", "clip_range", "clip_range_vf", "delta_std")
_KINDS: dict[type, str] = {int: "a whole number", float: "a number", bool: "true or false"}
# Constructor arguments that RL-Zoo gives itself, with the option that sets them.
_OPTIONS = {"env": "--env", "seed": "--seed", "device": "--device", "verbose": "--verbose", "tensorboard_log": "-tb"}


def config_folder() -> Path:
    """The shipped ``zoo_configs``: inside an installed package, at the root of a checkout."""
    installed = Path(__file__).parents[1] / "zoo_configs"
    return installed if installed.is_dir() else Path(__file__).parents[2] / "zoo_configs"


def find_config(algorithm: str, given: str | None) -> str:
    """
    The file (or package) that an algorithm's settings come from.

    :param algorithm: its id
    :param given: what ``-conf`` says; "quick" is the shipped preset for two cores
    :return: path or package; RL-Zoo's own file for its algorithms
    :raises ValueError: no such file or preset
    """
    folder = config_folder()
    if given == "quick":
        path = folder / "quick" / f"{algorithm}.yml"
        if not path.exists():
            known = ", ".join(sorted(p.stem for p in path.parent.glob("*.yml")))
            raise ValueError(f"there is no quick preset for {algorithm!r}, wanted one of {known}")
        return str(path)
    if given is not None:
        if given.endswith((".yml", ".yaml", ".py")) and not Path(given).is_file():
            raise ValueError(f"-conf {given}: there is no such file")
        if not given.endswith((".yml", ".yaml", ".py")) and not _is_module(given):
            raise ValueError(f"-conf wants 'quick', a .yml or .py file, or a Python package, found none called {given!r}")
        return given
    if algorithm in ALGORITHMS:
        path = folder / f"{algorithm}.yml"
        if not path.exists():
            raise ValueError(f"the package ships no hyperparameters for {algorithm!r}: pass -conf")
        return str(path)
    import rl_zoo3

    return str(Path(rl_zoo3.__file__).parent / "hyperparams" / f"{algorithm}.yml")


def _is_module(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except (ImportError, ValueError):  # a package in front of a dot that there is not, or no name at all
        return False


def read_config(source: str) -> dict[str, dict[str, Any]]:
    """
    :param source: YAML file, Python file, or package with a dictionary called ``hyperparams``, as in RL-Zoo
    :return: settings by environment id
    :raises ValueError: not a dictionary of dictionaries
    """
    if source.endswith((".yml", ".yaml")):
        try:
            content = yaml.safe_load(Path(source).read_text(encoding="utf-8"))
        except yaml.YAMLError as error:
            raise ValueError(f"{source} is not YAML: {' '.join(str(error).split())}") from error
    elif source.endswith(".py"):
        content = runpy.run_path(source).get("hyperparams")
    else:
        content = getattr(importlib.import_module(source), "hyperparams", None)
    if not isinstance(content, Mapping) or not all(isinstance(entry, Mapping) for entry in content.values()):
        raise ValueError(f"{source} should map environment ids to settings, found {type(content).__name__}")
    return {str(env_id): dict(entry) for env_id, entry in content.items()}


def read_entry(source: str, env_id: str) -> dict[str, Any]:
    """
    :param source: as in :func:`read_config`
    :param env_id: environment
    :return: its settings: those under its id, else under "atari" for an Atari game, else under "default"
    :raises ValueError: there are none
    """
    from rl_zoo3.exp_manager import ExperimentManager

    content = read_config(source)
    keys = [env_id, *(["atari"] if ExperimentManager.is_atari(env_id) else []), "default"]
    for key in keys:
        if key in content:
            return content[key]
    raise ValueError(f"{source} has no entry for {env_id!r} and no 'default', found {', '.join(content)}")


def check_settings(
    name: str, algorithm: type[BaseAlgorithm], settings: Mapping[str, Any], source: str, typed: Collection[str] = ()
) -> None:
    """
    :param name: id of the algorithm
    :param algorithm: its class
    :param settings: an entry, with what the command line changed
    :param source: where the entry comes from, for the sentence
    :param typed: keys that come from the command line
    :raises ValueError: a key that neither RL-Zoo nor the constructor takes, or one that is missing
    """
    known = (set(constructor_arguments(algorithm)) | ZOO_KEYS) - set(_OPTIONS)
    for key in settings:
        where = "-params" if key in typed else source
        if key in _OPTIONS:
            raise ValueError(f"{where}: {key!r} is no hyperparameter, the option {_OPTIONS[key]} sets it")
        check_known(f"hyperparameter of {name} in {where}:", key, known)
    for key in ("policy", "n_timesteps"):
        if key not in settings:
            raise ValueError(f"{source}: {key!r} is missing")
    for key in _CLASSES:
        _check_classes(key, settings.get(key), "-params" if key in typed else source)


def _check_classes(key: str, value: Any, source: str) -> None:
    from rl_zoo3.utils import get_class_by_name

    for entry in value if isinstance(value, list) else [value]:
        name = next(iter(entry), None) if isinstance(entry, dict) else entry
        if isinstance(name, str) and re.fullmatch(r"[\w.]+", name):  # other text is an expression of the command line
            try:
                get_class_by_name(name)
            except (ImportError, AttributeError, ValueError) as error:
                raise ValueError(f"{source}: {key} names no class that can be imported, found {name!r} ({error})") from error


def numbers_meant(algorithm: type, settings: Mapping[str, Any], source: str) -> dict[str, Any]:
    """
    Settings that are numbers but do not say so: ``1e-3``, which YAML takes as text, and ``1e5`` where a count is wanted.

    :param algorithm: its class
    :param settings: an entry, with what the command line changed
    :param source: where it comes from, for the sentence
    :return: those that change, as they are meant
    :raises ValueError: another word in a number's or truth value's place, a fraction in a count's
    """
    arguments, meant = constructor_arguments(algorithm), {}
    for key, value in settings.items():
        annotation = arguments[key].annotation if key in arguments else None
        new = _as_meant(key, value, annotation, source)
        if key in _COUNTS and ((isinstance(new, int) and new < 1) or new is None):
            raise ValueError(f"{source}: {key} must be at least 1, found {value!r}")
        if key in _SCHEDULES and _is_word(new):
            number = as_number(new.partition("_")[2])
            if isinstance(number, str) and not re.fullmatch(r"\d+\.?\d*|\.\d+", number):
                raise ValueError(f"{source}: {key} must be a number or lin_<number>, found {value!r}")
        if repr(new) != repr(value):
            meant[key] = new
    return meant


def _as_meant(key: str, value: Any, annotation: Any, source: str) -> Any:
    """The number that a text is, whole where one kind of value is wanted and that is a count."""
    new = as_number(value)
    (kind, *more) = [t for t in get_args(annotation) or (int if key in _COUNTS else annotation,) if t is not NoneType]
    if kind not in _KINDS or more:
        return new
    if kind is int and isinstance(new, float) and new.is_integer():
        return int(new)
    if _is_word(new) or (kind is int and isinstance(new, float)):
        raise ValueError(f"{source}: {key} must be {_KINDS[kind]}, found {value!r}")
    return new


def _is_word(value: Any) -> bool:
    """Text with more than a word's characters is an expression of the command line, which RL-Zoo evaluates."""
    return isinstance(value, str) and re.fullmatch(r"[\w.+-]*", value) is not None
