"""From the name of a source to a data set: which reader serves it."""

import importlib
import math
from importlib import resources
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple
from urllib.parse import parse_qs

import numpy as np

from ogpo_sb3.demonstrations import npz
from ogpo_sb3.demonstrations.dataset import DemonstrationSet


class Shipped(NamedTuple):
    """Data inside the package; NOTICE has its attribution."""

    file: str
    env_id: str
    origin: str
    # Episodes known to succeed, for a file that does not record it; None where the adapter finds out.
    successful: tuple[int, ...] | None = None


EXPERT_EPISODES = 25

SHIPPED: dict[str, Shipped] = {
    "pusht": Shipped(
        file="pusht_cchi_v7_lowdim.npz",
        env_id="ogpo/PushT-v0",
        origin="Push-T human demonstrations of Diffusion Policy (Chi et al. 2023); successes by replay in gym-pusht 0.1.8",
        # Replayed from their first states, these reach 95 % coverage, each with its last action, and the others never do.
        successful=(20, 32, 51, 124, 131, 160, 195),
    ),
    "kitchen-complete": Shipped(
        file="kitchen_complete_v2_lowdim.npz",
        env_id="ogpo/KitchenComplete-v0",
        origin="D4RL/kitchen/complete-v2 human demonstrations (CC BY 4.0)",
    ),
}


# Suffixes of files, and the module that reads each; the HDF5 layouts are told apart by content.
_SUFFIXES = (".npz", ".zarr", ".hdf5", ".h5", ".pickle")
# What can be chosen in a file of episodes, as ``file.hdf5?filter=train&images=agentview``.
_CHOICES = ("filter", "keys", "images", "observations")


def load(source: str | Path | DemonstrationSet, **choices: Any) -> DemonstrationSet:
    """Read demonstrations.

    :param source: path of an ``.npz`` file, a ``.zarr`` directory (diffusion-policy layout), an ``.hdf5``/``.h5`` file
        (robomimic's, LIBERO's or D4RL's layout) or a DAPG ``.pickle``; the folder of a Minari data set or ``minari:<id>``;
        ``shipped:pusht`` or ``shipped:kitchen-complete``; ``expert:<env id>`` or ``expert:<env id>:<episodes>``, collected
        at once. A data set is returned as it is. Choices can follow a question mark:
        ``"lift.hdf5?filter=train&keys=object,robot0_eef_pos"``, and of an expert ``"expert:ogpo/RobomimicLift-v0?noise=1"``.
    :param choices: for robomimic's and LIBERO's layouts: ``filter`` (name of a filter key), ``keys`` (vectors to
        concatenate), ``images`` (cameras; ``()`` or ``""`` for none), ``observations`` ("recorded" or "states").
    :return: the data set; ``meta["source"]`` is the source.
    :raises ValueError: a format, key or choice that is not known; the sentence names source, what was found and wanted.
    :raises FileNotFoundError: there is no such file or local data set.
    """
    if isinstance(source, DemonstrationSet):
        return source
    if isinstance(source, str) and source.startswith("shipped:"):
        return _shipped(source)
    if isinstance(source, str) and source.startswith("expert:"):
        return _collected(source)
    if isinstance(source, str) and source.startswith("minari:"):
        from ogpo_sb3.demonstrations import minari

        return minari.read(source.removeprefix("minari:"))
    path, choices = _parse(source, choices)
    suffix = path.suffix.lower()
    if path.is_dir() and suffix != ".zarr":
        from ogpo_sb3.demonstrations import minari

        return minari.read_folder(path)
    if suffix not in _SUFFIXES:
        raise ValueError(
            f"{source}: demonstrations are read from {', '.join(_SUFFIXES[:-1])} and {_SUFFIXES[-1]}, or from minari:<id> and "
            f"{', '.join(f'shipped:{name}' for name in SHIPPED)}, or from expert:<env id>."
        )
    if not path.exists():
        raise FileNotFoundError(f"{path}: there is no such file or directory of demonstrations.")
    if suffix in (".hdf5", ".h5"):
        return _read_hdf5(path, choices)
    if choices:
        raise ValueError(f"{path}: {', '.join(choices)} can be chosen in robomimic's and LIBERO's files only.")
    if suffix == ".npz":
        return npz.read(path)
    if suffix == ".zarr":
        from ogpo_sb3.demonstrations import zarr

        return zarr.read(path)
    from ogpo_sb3.demonstrations import dapg

    return dapg.read(path)


def _read_query(query: str) -> dict[str, Any]:
    """What follows a source's question mark; a choice that is made twice counts the last time."""
    return {key: values[-1] for key, values in parse_qs(query, keep_blank_values=True).items()}


def _parse(source: str | Path, choices: dict[str, Any]) -> tuple[Path, dict[str, Any]]:
    """Path and choices; a question mark that belongs to an existing file's name is left alone."""
    name, mark, query = str(source).partition("?")
    path = Path(source).expanduser()
    if mark and not path.exists():
        path = Path(name).expanduser()
        choices = {**_read_query(query), **choices}
    for key in choices:
        if key not in _CHOICES:
            raise ValueError(f"{path}: what can be chosen is {', '.join(_CHOICES)}, not {key}.")
    for key in ("keys", "images"):
        if isinstance(choices.get(key), str):
            choices = {**choices, key: tuple(entry for entry in choices[key].split(",") if entry)}
    return path, choices


def _read_hdf5(path: Path, choices: dict[str, Any]) -> DemonstrationSet:
    """Tell the layouts apart: episodes as groups (robomimic, LIBERO) or flat arrays (D4RL)."""
    from ogpo_sb3.demonstrations import d4rl, libero, robomimic

    with robomimic.opened(path) as file:
        data = file.get("data")
        grouped = data is not None and hasattr(data, "keys") and any(hasattr(data[name], "keys") for name in data)
        is_libero = grouped and libero.is_libero(file, next(iter(data)))
    if not grouped:
        if choices:
            raise ValueError(f"{path}: {', '.join(choices)} can be chosen in robomimic's and LIBERO's files only.")
        return d4rl.read(path)
    arguments = {"filter_key" if key == "filter" else key: value for key, value in choices.items()}
    if is_libero and "observations" not in arguments:
        return libero.read(path, **arguments)
    return robomimic.read(path, **arguments)


def import_reader(module: str, source: str) -> ModuleType:
    """Import the library behind a format, or say in one sentence how to get it.

    :param module: name of the library.
    :param source: what was to be read.
    :return: the library.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(
            f'{source} needs the package {module} to be read: run `pip install "ogpo_sb3[data]"`.', name=module
        ) from error


def _collected(source: str) -> DemonstrationSet:
    from ogpo_sb3.demonstrations.experts import collect

    name, mark, query = source.removeprefix("expert:").partition("?")
    choices = _read_query(query)
    try:
        noise = float(choices.pop("noise", "0"))
    except ValueError:
        noise = math.nan
    if choices or (mark and not query) or not math.isfinite(noise):
        raise ValueError(f"{source}: of an expert its noise can be chosen, as in expert:<env id>?noise=1.")
    env_id, colon, number = name.rpartition(":")
    if not (colon and number.isdigit()):
        env_id, number = name, str(EXPERT_EPISODES)
    demonstrations = collect(env_id, int(number), noise=noise, progress=True)
    demonstrations.meta["source"] = source
    return demonstrations


def _shipped(source: str) -> DemonstrationSet:
    name = source.removeprefix("shipped:")
    if name not in SHIPPED:
        raise ValueError(f"{source}: the package ships {', '.join(SHIPPED)}, nothing called {name!r}.")
    shipped = SHIPPED[name]
    with resources.as_file(resources.files("ogpo_sb3.demonstrations") / "data" / shipped.file) as path:
        demonstrations = npz.read(path)
    demonstrations.meta.update(source=source, env_id=shipped.env_id, origin=shipped.origin)
    if shipped.successful is not None:
        demonstrations.successes = np.isin(np.arange(demonstrations.n_episodes), shipped.successful)
    from ogpo_sb3.envs.registry import TASKS

    return TASKS[shipped.env_id].adapt(demonstrations)
