"""From the name of a source to a data set: which reader serves it."""

import importlib
from importlib import resources
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

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


def load(source: str | Path | DemonstrationSet) -> DemonstrationSet:
    """Read demonstrations.

    :param source: path of an ``.npz`` file, a ``.zarr`` directory (diffusion-policy layout) or an ``.hdf5``/``.h5`` file
        (D4RL layout); ``minari:<id>`` for a local Minari data set; ``shipped:pusht`` or ``shipped:kitchen-complete``. A
        data set is returned as it is.
    :return: the data set; ``meta["source"]`` is the source.
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
    path = Path(source).expanduser()
    suffix = path.suffix.lower()
    if suffix not in (".npz", ".zarr", ".hdf5", ".h5"):
        raise ValueError(
            f"{source}: demonstrations are read from .npz, .zarr, .hdf5 and .h5, or from minari:<id> and "
            f"{', '.join(f'shipped:{name}' for name in SHIPPED)}, or from expert:<env id>."
        )
    if not path.exists():
        raise FileNotFoundError(f"{path}: there is no such file or directory of demonstrations.")
    if suffix == ".npz":
        return npz.read(path)
    if suffix == ".zarr":
        from ogpo_sb3.demonstrations import zarr

        return zarr.read(path)
    from ogpo_sb3.demonstrations import hdf5

    return hdf5.read(path)


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

    env_id, colon, number = source.removeprefix("expert:").rpartition(":")
    if not (colon and number.isdigit()):
        env_id, number = source.removeprefix("expert:"), str(EXPERT_EPISODES)
    demonstrations = collect(env_id, int(number), progress=True)
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
