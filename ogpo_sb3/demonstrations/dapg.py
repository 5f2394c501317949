"""Read the .pickle files of human demonstrations published with DAPG (Rajeswaran et al. 2018): a list of episodes."""

import pickle
from pathlib import Path
from typing import Any

import numpy as np

from ogpo_sb3.demonstrations.dataset import DemonstrationSet
from ogpo_sb3.envs.adroit import STATE_PARTS

# Pickles can run any code; these files need nothing but arrays.
_HARMLESS = {
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    ("_codecs", "encode"),
    *((f"numpy.{core}.multiarray", name) for core in ("core", "_core") for name in ("_reconstruct", "scalar")),
}
_REQUIRED = ("observations", "actions", "rewards", "init_state_dict")


class _ArraysOnly(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _HARMLESS:
            raise pickle.UnpicklingError(f"it holds {module}.{name}, wanted plain arrays")
        return super().find_class(module, name)


def read(path: Path) -> DemonstrationSet:
    """Read a DAPG file; only plain arrays are unpickled.

    Its rewards are those of the mujoco-py environments of 2018, dense and on their scale. What each episode started from is
    kept in ``meta["initial_states"]``, for replay.

    :param path: the file.
    :return: its data set.
    :raises ValueError: not such a file, or one that holds more than arrays.
    """
    try:
        with path.open("rb") as file:
            episodes = _ArraysOnly(file, encoding="latin1").load()
    except (pickle.UnpicklingError, EOFError, AttributeError, IndexError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not a readable pickle of demonstrations ({error}).") from error
    if not isinstance(episodes, list) or not episodes or not all(isinstance(episode, dict) for episode in episodes):
        raise ValueError(f"{path}: found {type(episodes).__name__}, wanted a list of episodes, each a dictionary of arrays.")
    for index, episode in enumerate(episodes):
        for key in _REQUIRED:
            if key not in episode:
                raise ValueError(f"{path}: episode {index}: the key {key} is missing, found {sorted(episode)}.")
        start = episode["init_state_dict"]
        if not isinstance(start, dict) or start.keys() != episodes[0]["init_state_dict"].keys():
            found = sorted(start) if isinstance(start, dict) else type(start).__name__
            raise ValueError(
                f"{path}: episode {index}: init_state_dict is {found}, wanted a dictionary, the same of every episode."
            )
        for key, ndim in (("observations", 2), ("actions", 2), ("rewards", None)):
            try:
                shape, first = np.shape(episode[key]), np.shape(episodes[0][key])
            except ValueError as error:  # rows of different lengths
                raise ValueError(f"{path}: episode {index}: {key} is no array ({error}).") from error
            if not shape or ndim not in (None, len(shape)) or shape[1:] != first[1:]:
                raise ValueError(
                    f"{path}: episode {index}: {key} has shape {shape}, wanted a row per step, as the others have."
                )
    start = episodes[0]["init_state_dict"]
    task = next((name for name, parts in STATE_PARTS.items() if all(part in start for part in parts)), None)
    meta: dict[str, Any] = {"source": str(path), "format": "DAPG"}
    if task is not None:
        meta["task"] = f"Adroit{task}"
        meta["initial_states"] = [
            np.concatenate([np.ravel(episode["init_state_dict"][part]) for part in STATE_PARTS[task]]).tolist()
            for episode in episodes
        ]
    return DemonstrationSet(
        observations=np.concatenate([episode["observations"] for episode in episodes]),
        actions=np.concatenate([episode["actions"] for episode in episodes]),
        episode_ends=np.cumsum([len(episode["actions"]) for episode in episodes]),
        rewards=np.concatenate([np.ravel(episode["rewards"]) for episode in episodes]),
        meta=meta,
    )
