"""Read .hdf5 files as D4RL lays them out: flat arrays of steps, episodes marked by ``terminals`` and ``timeouts``."""

from pathlib import Path
from typing import Any

import numpy as np

from ogpo_sb3.demonstrations.dataset import DemonstrationSet
from ogpo_sb3.demonstrations.robomimic import opened
from ogpo_sb3.envs.adroit import STATE_PARTS

_REQUIRED = ("observations", "actions")
_OPTIONAL = ("rewards", "terminals", "timeouts", "next_observations")


def read(path: Path) -> DemonstrationSet:
    """Read a D4RL file.

    Steps after the last marked end form one more, unfinished, episode. The observation after an episode is known only
    where the file has ``next_observations``.

    :param path: the file.
    :return: its data set.
    """
    with opened(path) as file:
        for key in _REQUIRED:
            if not hasattr(file.get(key), "dtype"):  # absent, or a group
                raise ValueError(f"{path}: the key {key} is missing, found {sorted(file.keys())}.")
        arrays = {key: file[key][()] for key in (*_REQUIRED, *_OPTIONAL) if key in file}
        states = _states(file)
    n_steps = len(arrays["actions"])
    flags = {key: arrays[key].reshape(-1).astype(bool) for key in ("terminals", "timeouts") if key in arrays}
    for key, flag in flags.items():
        if len(flag) != n_steps:
            raise ValueError(f"{path}: {key} has shape {arrays[key].shape}, wanted ({n_steps},).")
    ends = np.flatnonzero(np.any([np.zeros(n_steps, dtype=bool), *flags.values()], axis=0)) + 1
    if n_steps and len(ends) == 0:
        raise ValueError(f"{path}: no episode end is marked, neither in the key terminals nor in timeouts.")
    if n_steps and ends[-1] != n_steps:
        ends = np.append(ends, n_steps)
    following = arrays.get("next_observations")
    if following is not None and len(following) != n_steps:
        raise ValueError(f"{path}: next_observations has shape {following.shape}, wanted {n_steps} steps.")
    return DemonstrationSet(
        observations=arrays["observations"],
        actions=arrays["actions"],
        episode_ends=ends,
        rewards=arrays["rewards"].reshape(-1) if "rewards" in arrays else None,
        terminals=flags.get("terminals"),
        final_observations=None if following is None else following[ends - 1],
        states=states,
        meta={"source": str(path), "format": "D4RL"},
    )


def _states(file: Any) -> np.ndarray | None:
    """The simulator's states in the order of the Adroit environments' ``set_state``, where the file has all parts of one."""
    for parts in STATE_PARTS.values():
        if all(f"infos/{part}" in file for part in parts):
            return np.concatenate([file[f"infos/{part}"][()].reshape(len(file["actions"]), -1) for part in parts], axis=1)
    return None
