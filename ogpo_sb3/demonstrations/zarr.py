"""Read .zarr directories as Diffusion Policy lays them out: ``data/<key>`` step by step, ``meta/episode_ends``."""

from pathlib import Path
from typing import Any

import numpy as np

from ogpo_sb3.demonstrations import npz
from ogpo_sb3.demonstrations.dataset import DemonstrationSet


def read(path: Path) -> DemonstrationSet:
    """Read a zarr store, format 2 or 3.

    Wanted are ``data/action``, ``data/state`` (or ``data/obs``) and ``meta/episode_ends``; further keys of ``data`` that
    the .npz reader knows are read as well, images and other large arrays are left alone.

    :param path: the directory.
    :return: its data set.
    """
    from ogpo_sb3.demonstrations.loading import import_reader

    zarr = import_reader("zarr", str(path))
    try:
        root = zarr.open_group(str(path), mode="r")
    except Exception as error:  # zarr 2 and 3 raise different classes
        raise ValueError(f"{path} is not a readable zarr group ({error}).") from error
    arrays: dict[str, Any] = {}
    data = _group(root, "data", path)
    keys = sorted(data.array_keys())
    for key in keys:
        if key in npz.KNOWN_KEYS:
            arrays[key] = np.asarray(data[key])
    meta = _group(root, "meta", path)
    if "episode_ends" not in meta:
        raise ValueError(f"{path}: the key meta/episode_ends is missing, found {sorted(meta.array_keys())} in meta.")
    arrays["episode_ends"] = np.asarray(meta["episode_ends"])
    demonstrations = npz.from_arrays(arrays, str(path))
    ignored = set(keys) - set(npz.KNOWN_KEYS) | set(demonstrations.meta.get("ignored", ()))
    if ignored:
        demonstrations.meta["ignored"] = sorted(ignored)
    return demonstrations


def _group(root: Any, name: str, path: Path) -> Any:
    if name not in root:
        raise ValueError(f"{path}: the group {name} is missing, found {sorted(root.keys())}.")
    return root[name]
