"""Read .npz files: this package's own layout, and the bare arrays that published data come in."""

import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from ogpo_sb3.demonstrations.dataset import DemonstrationSet

# Names that the diffusion-policy data sets use for what this package calls observations and actions.
_OBSERVATION_NAMES = ("observations", "obs", "state")
_ACTION_NAMES = ("actions", "action")
_OPTIONAL = ("rewards", "terminals", "successes", "states")
KNOWN_KEYS = (*_OBSERVATION_NAMES, *_ACTION_NAMES, *_OPTIONAL, "final_observations")


def read(path: Path) -> DemonstrationSet:
    """Read an .npz file.

    Wanted are ``actions`` (or ``action``), ``episode_ends`` and ``observations`` (or ``obs``, ``state``; or a dictionary
    as ``observations/<key>``). ``rewards``, ``terminals``, ``successes``, ``states``, ``scenes``,
    ``final_observations`` and ``meta`` are read where they exist, other arrays are left alone and named in
    ``meta["ignored"]``.

    :param path: the file.
    :return: its data set.
    """
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {key: archive[key] for key in archive.files}
    except (zipfile.BadZipFile, ValueError, EOFError) as error:
        raise ValueError(f"{path} is not a readable .npz file of plain arrays ({error}).") from error
    return from_arrays(arrays, str(path))


def from_arrays(arrays: dict[str, np.ndarray], source: str) -> DemonstrationSet:
    """Build a set from named arrays.

    :param arrays: as read from a file; consumed keys are removed.
    :param source: what errors call the data.
    :return: the data set.
    """
    meta = _meta(arrays.pop("meta"), source) if "meta" in arrays else {}
    # The file is where a user can look; who made its content stays in the record under another name.
    if "source" in meta and "origin" not in meta:
        meta["origin"] = meta["source"]
    meta["source"] = source
    observations = _observations(arrays, _OBSERVATION_NAMES)
    if observations is None:
        raise _missing(source, _OBSERVATION_NAMES, arrays)
    actions = _first(arrays, _ACTION_NAMES)
    if actions is None:
        raise _missing(source, _ACTION_NAMES, arrays)
    if "episode_ends" not in arrays:
        raise _missing(source, ("episode_ends",), arrays)
    ends = arrays.pop("episode_ends")
    final = _observations(arrays, ("final_observations",))
    optional: dict[str, Any] = {key: arrays.pop(key) for key in _OPTIONAL if key in arrays}
    if "scenes" in arrays:
        scenes = arrays.pop("scenes")
        if scenes.ndim != 1 or scenes.dtype.kind not in "SU":
            raise ValueError(f"{source}: scenes has type {scenes.dtype} and shape {scenes.shape}, wanted a text per episode.")
        optional["scenes"] = [scene.decode() if isinstance(scene, bytes) else scene for scene in scenes.tolist()]
    if arrays:
        meta["ignored"] = sorted(arrays)
    return DemonstrationSet(
        observations=observations,
        actions=actions,
        episode_ends=ends,
        final_observations=final,
        meta=meta,
        **optional,
    )


def _meta(array: np.ndarray, source: str) -> dict[str, Any]:
    try:
        meta = json.loads(str(array))
    except ValueError as error:
        raise ValueError(f"{source}: meta is not readable as JSON ({error}).") from error
    if not isinstance(meta, dict):
        raise ValueError(f"{source}: meta holds a {type(meta).__name__}, wanted a dictionary in JSON.")
    return meta


def _observations(arrays: dict[str, np.ndarray], names: tuple[str, ...]) -> Any:
    prefix = f"{names[0]}/"
    entries = {key.removeprefix(prefix): arrays.pop(key) for key in list(arrays) if key.startswith(prefix)}
    return entries or _first(arrays, names)


def _first(arrays: dict[str, np.ndarray], names: tuple[str, ...]) -> np.ndarray | None:
    return next((arrays.pop(name) for name in names if name in arrays), None)


def _missing(source: str, names: tuple[str, ...], arrays: dict[str, np.ndarray]) -> ValueError:
    also = f" (or {', '.join(names[1:])})" if len(names) > 1 else ""
    return ValueError(f"{source}: the key {names[0]}{also} is missing, found {sorted(arrays)}.")
