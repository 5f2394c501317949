"""Read and write local Minari data sets; nothing is downloaded."""

import json
import shutil
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from ogpo_sb3.common.progress import progress
from ogpo_sb3.demonstrations.dataset import DemonstrationSet

# A goal-conditioned environment's observation; where the goals are constants of the task only "observation" says anything.
_GOAL_KEYS = ("achieved_goal", "desired_goal")
_SUCCESS_KEYS = ("is_success", "success")
# Entry of Minari's metadata that carries what DemonstrationSet.meta holds and Minari has no place for.
_META = "ogpo_sb3"
# Where observations after the last action are unknown, the last one before it stands in and the metadata say so.
_REPEATED = "final_observations_repeated"


def read(data_id: str) -> DemonstrationSet:
    """Read a Minari data set that lies on this machine.

    Dictionary observations stay dictionaries, except that of a goal-conditioned environment only "observation" is taken.

    :param data_id: as Minari names it, ``D4RL/kitchen/complete-v2`` for instance.
    :return: the data set.
    :raises FileNotFoundError: it is not on this machine.
    """
    from ogpo_sb3.demonstrations.loading import import_reader

    source = f"minari:{data_id}"
    minari = import_reader("minari", source)
    try:
        dataset = minari.load_dataset(data_id)
    except (FileNotFoundError, ValueError) as error:
        raise FileNotFoundError(
            f"{source} is not on this machine ({error}); fetch it with `minari download {data_id}`."
        ) from error
    return _convert(dataset, source)


def read_folder(path: Path) -> DemonstrationSet:
    """Read a Minari data set from its folder, wherever that lies.

    :param path: the folder that contains ``data/metadata.json``.
    :return: the data set.
    :raises ValueError: the folder is not one.
    """
    from ogpo_sb3.demonstrations.loading import import_reader

    if not (path / "data" / "metadata.json").exists():
        raise ValueError(f"{path} is a folder without data/metadata.json, wanted a Minari data set or a .zarr directory.")
    minari = import_reader("minari", str(path))
    return _convert(minari.MinariDataset(path / "data"), str(path))


def write(demonstrations: DemonstrationSet, data_id: str, show_progress: bool = False) -> str:
    """Write a local Minari data set; if that fails, nothing is left of it.

    Pictures are stored without loss, which takes more space than Minari's default. Simulator states are not stored.

    :param demonstrations: what to write.
    :param data_id: ``(namespace/)name-v<version>``, not taken yet.
    :param show_progress: draw a bar over the episodes.
    :return: ``data_id``.
    :raises ValueError: a malformed or taken id.
    """
    from ogpo_sb3.demonstrations.loading import import_reader

    minari = import_reader("minari", f"minari:{data_id}")
    path = free_path(data_id)
    meta = {key: value for key, value in demonstrations.meta.items() if key != _REPEATED}
    if demonstrations.final_observations is None:
        meta[_REPEATED] = True
    bar = progress(range(demonstrations.n_episodes), data_id, demonstrations.n_episodes, show_progress)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # about entries of the metadata that do not apply here
            dataset = minari.create_dataset_from_buffers(
                data_id,
                buffer=_buffers(demonstrations, bar),
                env=_environment(demonstrations),
                observation_space=_space(demonstrations.observations),
                action_space=_action_space(demonstrations),
                algorithm_name=str(meta.get("expert", "unknown")),
                description=str(meta.get("origin", demonstrations.source)),
                jpeg_encoding=False,
            )
        dataset.storage.update_metadata({_META: json.dumps(meta)})
    except BaseException:
        shutil.rmtree(path, ignore_errors=True)
        raise
    return data_id


def free_path(data_id: str) -> Path:
    """Where a new data set would lie.

    :param data_id: as in ``write``.
    :raises ValueError: a malformed or taken id.
    """
    from ogpo_sb3.demonstrations.loading import import_reader

    import_reader("minari", f"minari:{data_id}")
    from minari.dataset.minari_dataset import parse_dataset_id
    from minari.storage.datasets_root_dir import get_dataset_path

    try:
        parse_dataset_id(data_id)
    except (ValueError, TypeError) as error:  # the latter for want of a version
        wanted = "minari:(<namespace>/)<name>-v<version>"
        raise ValueError(f"minari:{data_id} is no id of a Minari data set, wanted {wanted}.") from error
    path = Path(get_dataset_path(data_id))
    if path.exists():
        raise ValueError(f"minari:{data_id} exists already in {path}: choose another name or version.")
    return path


def _convert(dataset: Any, source: str) -> DemonstrationSet:
    episodes = list(dataset.iterate_episodes())
    if not episodes:
        raise ValueError(f"{source}: there is no data (0 steps, 0 episodes).")
    meta = json.loads(dataset.storage.metadata.get(_META, "{}"))
    if "source" in meta:
        meta.setdefault("origin", meta["source"])
    repeated = meta.pop(_REPEATED, False)
    spec = dataset.spec.env_spec
    meta.update(source=source, format="Minari", env_id=meta.get("env_id", spec.id if spec else None))
    observations = [_observation(episode.observations, source) for episode in episodes]
    successes = [_success(episode.infos) for episode in episodes]
    return DemonstrationSet(
        # Minari keeps the observation after the last action in the same array.
        observations=_join([_rows(observation, slice(None, -1)) for observation in observations]),
        actions=np.concatenate([np.asarray(episode.actions, dtype=np.float32) for episode in episodes]),
        episode_ends=np.cumsum([len(episode.actions) for episode in episodes]),
        rewards=np.concatenate([episode.rewards for episode in episodes]),
        terminals=np.concatenate([episode.terminations for episode in episodes]),
        final_observations=None if repeated else _join([_rows(observation, slice(-1, None)) for observation in observations]),
        successes=None if None in successes else np.array(successes),
        meta=meta,
    )


def _buffers(demonstrations: DemonstrationSet, indices: Any) -> Iterator[Any]:
    """Minari's form of each episode, one at a time."""
    from minari.data_collector import EpisodeBuffer

    for index in indices:
        episode = demonstrations.episode(index)
        last = (
            _rows(episode.observations, slice(-1, None)) if episode.final_observations is None else episode.final_observations
        )
        n = episode.n_steps
        terminals = np.zeros(n, dtype=bool) if episode.terminals is None else episode.terminals
        truncations = np.zeros(n, dtype=bool)
        truncations[-1] = not terminals[-1]
        infos = None
        if episode.successes is not None:
            infos = {"success": np.append(np.zeros(n, dtype=bool), episode.successes[0])}
        yield EpisodeBuffer(
            id=index,
            seed=episode.meta["reset_seeds"][0] if "reset_seeds" in episode.meta else None,
            observations=_join([_rows(episode.observations, slice(None)), _rows(last, slice(None))]),
            actions=episode.actions,
            rewards=[0.0] * n if episode.rewards is None else episode.rewards.tolist(),
            terminations=terminals.tolist(),
            truncations=truncations.tolist(),
            infos=infos,
        )


def _environment(demonstrations: DemonstrationSet) -> gym.Env | None:
    """The environment of the data, so that Minari can recover it; None where it cannot be made here."""
    from ogpo_sb3.envs.registry import TASKS, register_environments

    env_id = demonstrations.meta.get("env_id")
    if env_id not in TASKS:
        return None
    register_environments()
    try:
        return gym.make(env_id, **demonstrations.meta.get("env_kwargs", {}))
    except ImportError:
        return None


def _space(observations: Any) -> spaces.Space:
    if isinstance(observations, dict):
        return spaces.Dict({key: _space(value) for key, value in observations.items()})
    low, high = (0, 255) if observations.dtype == np.uint8 else (-np.inf, np.inf)
    return spaces.Box(low, high, observations.shape[1:], observations.dtype.type)


def _action_space(demonstrations: DemonstrationSet) -> spaces.Box:
    bound = 1.0 if np.abs(demonstrations.actions).max() <= 1.0 else np.inf
    return spaces.Box(-bound, bound, (demonstrations.action_dim,), np.float32)


def _observation(observation: Any, source: str) -> Any:
    if not isinstance(observation, dict):
        return observation
    if "observation" in observation and any(key in observation for key in _GOAL_KEYS):
        return _observation(observation["observation"], source)
    for key, value in observation.items():
        if isinstance(value, dict):
            raise ValueError(f"{source}: observations/{key} is a dictionary inside a dictionary, wanted an array.")
    return observation


def _success(infos: Any) -> bool | None:
    """Whether any step succeeded, None where the data set does not say."""
    for key in _SUCCESS_KEYS:
        if infos and key in infos:
            return bool(np.any(infos[key]))
    return None


def _rows(observation: Any, rows: slice) -> Any:
    if isinstance(observation, dict):
        return {key: np.asarray(value)[rows] for key, value in observation.items()}
    return np.asarray(observation)[rows]


def _join(parts: list[Any]) -> Any:
    if isinstance(parts[0], dict):
        return {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
    return np.concatenate(parts)
