"""Read and write .hdf5 files as robomimic lays them out: a group ``data/demo_<i>`` per episode, filter keys under ``mask``.

Layout: Mandlekar et al. 2021 (robomimic), as its release 0.3.0 reads and writes it. LIBERO's files share the container.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ogpo_sb3.common.files import atomic_path
from ogpo_sb3.common.progress import progress
from ogpo_sb3.demonstrations.dataset import DemonstrationSet
from ogpo_sb3.demonstrations.lazy import LazyRows, LazyScenes

# What robomimic's policies observe unless told otherwise, of each arm and then of the objects.
_ARM_KEYS = ("eef_pos", "eef_quat", "gripper_qpos")
_OBJECT_KEY = "object"
_IMAGE_SUFFIX = "_image"
# An observation vector without names is called so in robomimic's conversions of Gym data.
_FLAT_KEY = "flat"
# Attribute of the group ``data`` that carries what DemonstrationSet.meta holds and robomimic has no place for.
_META = "ogpo_sb3"
# robomimic's codes for kinds of environments.
_GYM_TYPE = 2


class Layout(NamedTuple):
    """Which observations are read, and what they are called.

    :param vectors: keys that are concatenated to "state", in this order.
    :param pictures: name given out to key in the file.
    :param upside_down: pictures have their first line at the bottom.
    """

    vectors: tuple[str, ...]
    pictures: dict[str, str]
    upside_down: bool = False


def low_dim_keys(available: Sequence[str]) -> tuple[str, ...]:
    """The vectors that make up the state: robomimic's defaults where the file has them, else everything by name.

    :param available: keys of the file's vectors.
    """
    robots = sorted({key.partition("_")[0] for key in available if key.startswith("robot")})
    usual = (*(f"{robot}_{key}" for robot in robots for key in _ARM_KEYS), _OBJECT_KEY)
    return tuple(key for key in usual if key in available) or tuple(sorted(available))


def read(
    path: Path,
    filter_key: str | None = None,
    keys: Sequence[str] | None = None,
    images: Sequence[str] | None = None,
    observations: str = "recorded",
) -> DemonstrationSet:
    """Read a robomimic file.

    Without pictures the observations are one array. With pictures they are a dictionary of "state" and the cameras' names
    ("agentview" for ``agentview_image``), and the pictures stay in the file until they are indexed. An episode succeeded if
    the file says so, or if all rewards are zeros and ones and its own hold a one.

    :param path: the file.
    :param filter_key: read only the episodes listed under ``mask/<filter_key>``; None for all.
    :param keys: vectors to concatenate, in this order; None for robomimic's default choice.
    :param images: cameras to read, () for none; None for all.
    :param observations: "recorded", or "states" to take the simulator's states as observations, for recordings that have no
        other.
    :return: its data set.
    :raises ValueError: a key or filter that the file lacks, arrays that do not fit together, no observations.
    """
    if observations not in ("recorded", "states"):
        raise ValueError(f'{path}: observations are "recorded" or "states", not {observations!r}.')
    with opened(path) as file:
        demos = demo_names(file, path, filter_key)
        first = file["data"][demos[0]]
        meta = _meta(file, path, filter_key)
        if observations == "states" or "obs" not in first:
            if observations != "states":
                raise ValueError(
                    f"{path}: data/{demos[0]} has {sorted(first)} but no obs (robosuite's raw recording); turn it into "
                    f"observations with `python -m ogpo_sb3.demos convert {path} <output> --env <id>`."
                )
            if "states" not in first:
                raise ValueError(f"{path}: data/{demos[0]}/states is missing, found {sorted(first)}.")
            meta["observations"] = "states"
            columns = steps(file, path, demos)
            return DemonstrationSet(observations=columns["states"], **columns, meta=meta)
        vectors = [key for key, array in first["obs"].items() if array.ndim <= 2]
        pictures = {key.removesuffix(_IMAGE_SUFFIX): key for key, array in first["obs"].items() if array.ndim > 2}
        if images is not None:
            for name in images:
                if name not in pictures:
                    raise ValueError(f"{path}: there is no camera {name}, found {sorted(pictures)}.")
            pictures = {name: pictures[name] for name in images}
        layout = Layout(low_dim_keys(vectors) if keys is None else tuple(keys), pictures)
        meta["observation_keys"] = widths(file, path, demos[0], layout)
        columns = steps(file, path, demos)
        columns.update(outcomes(file, demos))
        found, final = read_observations(file, path, demos, layout)
    return DemonstrationSet(observations=found, final_observations=final, **columns, meta=meta)


def write(
    demonstrations: DemonstrationSet,
    path: str | Path,
    masks: Mapping[str, Sequence[int]] | None = None,
    show_progress: bool = False,
) -> Path:
    """Write a file in robomimic's layout; it appears complete or not at all.

    The state vector is taken apart into the keys of ``meta["observation_keys"]`` where they are known, else it is called
    ``flat``. ``next_obs``, which robomimic's loader wants unless told otherwise, needs the observation after the last action;
    without it there is none. ``dones`` are terminations.

    :param demonstrations: what to write.
    :param path: the file.
    :param masks: filter keys with their episodes; "successful" is added where successes are known.
    :param show_progress: draw a bar over the episodes.
    :return: the file.
    """
    from ogpo_sb3.demonstrations.loading import import_reader

    path = Path(path)
    h5py = import_reader("h5py", str(path))
    masks = dict(masks or {})
    if demonstrations.successes is not None and demonstrations.successes.any():
        masks.setdefault("successful", np.flatnonzero(demonstrations.successes).tolist())
    for name, episodes in masks.items():
        absent = [index for index in episodes if not 0 <= index < demonstrations.n_episodes]
        if absent or not len(episodes):
            found = f"episode {absent[0]}" if absent else "no episode"
            raise ValueError(
                f"{path}: the filter key {name} lists {found}, wanted some of 0 to {demonstrations.n_episodes - 1}."
            )
    with atomic_path(path) as temporary, h5py.File(temporary, "w") as file:
        data = file.create_group("data")
        for index in progress(range(demonstrations.n_episodes), str(path), demonstrations.n_episodes, show_progress):
            _write_episode(data.create_group(f"demo_{index}"), demonstrations, index)
        data.attrs["total"] = demonstrations.n_steps
        data.attrs["env_args"] = json.dumps(_env_args(demonstrations), indent=4)
        data.attrs[_META] = json.dumps({k: v for k, v in demonstrations.meta.items() if k not in ("env_args", "filter")})
        for name, episodes in masks.items():
            file[f"mask/{name}"] = np.array([f"demo_{index}" for index in episodes], dtype="S")
    return path


@contextmanager
def opened(path: Path) -> Iterator[Any]:
    """The file for reading, or a ValueError of one sentence.

    :param path: the file.
    """
    from ogpo_sb3.demonstrations.loading import import_reader

    h5py = import_reader("h5py", str(path))
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        raise ValueError(f"{path} is not a readable HDF5 file ({error}).") from error
    with file:
        yield file


def demo_names(file: Any, path: Path, filter_key: str | None) -> list[str]:
    """Names of the episodes' groups in the order of their numbers.

    :param file: the open file.
    :param path: its name.
    :param filter_key: as in ``read``.
    :raises ValueError: the filter key or an episode that it lists is missing, or there is no episode.
    """
    present = list(file["data"])
    if filter_key is None:
        chosen = present
    else:
        known = sorted(file["mask"]) if "mask" in file else []
        if filter_key not in known:
            raise ValueError(f"{path}: there is no filter key {filter_key}, found {known}.")
        chosen = [name.decode() if isinstance(name, bytes) else str(name) for name in file["mask"][filter_key][()]]
        absent = sorted(set(chosen) - set(present))
        if absent:
            raise ValueError(f"{path}: mask/{filter_key} lists {absent[0]}, which data does not hold.")
    if not chosen:
        raise ValueError(f"{path}: there is no data (0 episodes{f' under mask/{filter_key}' if filter_key else ''}).")
    return sorted(chosen, key=lambda name: (int(number) if (number := name.rpartition("_")[2]).isdigit() else -1, name))


def steps(file: Any, path: Path, demos: Sequence[str]) -> dict[str, Any]:
    """What every such file has beside observations: arguments of ``DemonstrationSet``.

    :param file: the open file.
    :param path: its name.
    :param demos: episodes.
    :raises ValueError: actions are missing, or an array has another number of steps.
    """
    groups = [file["data"][name] for name in demos]
    for name, group in zip(demos, groups, strict=True):
        if "actions" not in group:
            raise ValueError(f"{path}: data/{name}/actions is missing, found {sorted(group)}.")
        for key in ("rewards", "dones", "states"):
            if key in group and len(group[key]) != len(group["actions"]):
                raise ValueError(
                    f"{path}: data/{name}/{key} has shape {group[key].shape}, wanted {len(group['actions'])} steps."
                )
    columns: dict[str, Any] = {
        "actions": np.concatenate([group["actions"][()] for group in groups]),
        "episode_ends": np.cumsum([len(group["actions"]) for group in groups]),
        "rewards": _joined(groups, "rewards"),
        "states": _joined(groups, "states"),
    }
    if all("model_file" in group.attrs for group in groups):
        columns["scenes"] = LazyScenes(path, [f"data/{name}" for name in demos])
    return columns


def outcomes(file: Any, demos: Sequence[str]) -> dict[str, Any]:
    """Terminations and successes, as far as the file tells: arguments of ``DemonstrationSet``.

    :param file: the open file.
    :param demos: episodes.
    """
    groups = [file["data"][name] for name in demos]
    rewards, dones = _joined(groups, "rewards"), _joined(groups, "dones")
    terminals = None if dones is None else dones.reshape(-1).astype(bool)
    if _META in file["data"].attrs:  # written here: dones are terminations, successes are told
        told = all("success" in group.attrs for group in groups)
        return {"terminals": terminals, "successes": [bool(g.attrs["success"]) for g in groups] if told else None}
    ends = np.cumsum([len(group["actions"]) for group in groups])
    successes = None
    if terminals is not None:
        # Elsewhere a done can mark every step in the goal, or the end of every recording.
        terminals &= np.isin(np.arange(len(terminals)), ends - 1)
    if rewards is not None and np.isin(rewards, (0.0, 1.0)).all():
        successes = [bool(part.any()) for part in np.split(rewards, ends[:-1])]
        terminals = None if terminals is None else terminals & (rewards.reshape(-1) == 1.0)
    return {"terminals": terminals, "successes": successes}


def widths(file: Any, path: Path, demo: str, layout: Layout) -> dict[str, int]:
    """Numbers in each vector of the layout.

    :param file: the open file.
    :param path: its name.
    :param demo: an episode.
    :param layout: what is read.
    :raises ValueError: a key is missing.
    """
    present = file["data"][demo]["obs"]
    for key in layout.vectors:
        if key not in present:
            raise ValueError(f"{path}: data/{demo}/obs/{key} is missing, found {sorted(present)}.")
    return {key: int(np.prod(present[key].shape[1:])) for key in layout.vectors}


def read_observations(file: Any, path: Path, demos: Sequence[str], layout: Layout) -> tuple[Any, Any]:
    """Observations before each action and after each episode; the latter None where the file has no ``next_obs``.

    :param file: the open file.
    :param path: its name.
    :param demos: episodes.
    :param layout: what is read.
    """
    lengths = [len(file["data"][name]["actions"]) for name in demos]
    last = np.cumsum(lengths) - 1
    wanted = (*layout.vectors, *layout.pictures.values())

    def collect(group: str) -> dict[str, Any]:
        for name, length in zip(demos, lengths, strict=True):
            for key in wanted:
                array = file["data"][name][group].get(key)
                if array is None or len(array) != length:
                    found = sorted(file["data"][name][group]) if array is None else f"shape {array.shape}"
                    raise ValueError(f"{path}: data/{name}/{group}/{key} must have {length} steps, found {found}.")
        columns: dict[str, Any] = {}
        if layout.vectors:
            groups = [file["data"][name][group] for name in demos]
            vectors = [[g[key][()].reshape(len(g[key]), -1) for key in layout.vectors] for g in groups]
            columns["state"] = np.concatenate([np.concatenate(parts, axis=1) for parts in vectors]).astype(np.float32)
        for name, key in layout.pictures.items():
            array = file["data"][demos[0]][group][key]
            keys = [f"data/{demo}/{group}/{key}" for demo in demos]
            columns[name] = LazyRows(path, keys, lengths, array.shape[1:], array.dtype, layout.upside_down)
        return columns

    observations = collect("obs")
    final: Any = None
    if all("next_obs" in file["data"][name] for name in demos):
        final = {k: v.take(last) if isinstance(v, LazyRows) else v[last] for k, v in collect("next_obs").items()}
    if not layout.pictures:
        return observations.get("state"), None if final is None else final.get("state")
    return observations, final


def _joined(groups: Sequence[Any], key: str) -> np.ndarray | None:
    present = all(key in group for group in groups)
    return np.concatenate([np.asarray(group[key][()]) for group in groups]) if present else None


def _meta(file: Any, path: Path, filter_key: str | None) -> dict[str, Any]:
    attributes = file["data"].attrs
    meta: dict[str, Any] = json.loads(attributes[_META]) if _META in attributes else {}
    if "source" in meta:
        meta.setdefault("origin", meta["source"])
    meta.update(source=str(path), format="robomimic")
    for key in ("env_args", "env_info"):
        if key in attributes:
            meta[key] = json.loads(attributes[key])
    if filter_key is not None:
        meta["filter"] = filter_key
    return meta


def _env_args(demonstrations: DemonstrationSet) -> dict[str, Any]:
    meta = demonstrations.meta
    if "env_args" in meta:
        return dict(meta["env_args"])
    return {"env_name": meta.get("env_id", "unknown"), "type": _GYM_TYPE, "env_kwargs": meta.get("env_kwargs", {})}


def _write_episode(group: Any, demonstrations: DemonstrationSet, index: int) -> None:
    episode = demonstrations.episode(index)
    group["actions"] = episode.actions
    for key, array in (("rewards", episode.rewards), ("states", episode.states)):
        if array is not None:
            group[key] = array
    if episode.terminals is not None:
        group["dones"] = episode.terminals.astype(np.int64)
    for key, array in _named(episode.observations, demonstrations.meta):
        group[f"obs/{key}"] = array
    if episode.final_observations is not None:
        final = dict(_named(episode.final_observations, demonstrations.meta))
        for key, array in _named(episode.observations, demonstrations.meta):
            group[f"next_obs/{key}"] = np.concatenate([array[1:], final[key]])
    group.attrs["num_samples"] = episode.n_steps
    if episode.successes is not None:
        group.attrs["success"] = bool(episode.successes[0])
    if episode.scenes is not None:
        group.attrs["model_file"] = episode.scenes[0]


def _named(observations: Any, meta: Mapping[str, Any]) -> Iterator[tuple[str, np.ndarray]]:
    """Observations under the names that robomimic uses."""
    for key, value in observations.items() if isinstance(observations, dict) else [("state", observations)]:
        array = np.asarray(value)
        known = meta.get("observation_keys") or {}
        if array.ndim > 2:
            yield f"{key}{_IMAGE_SUFFIX}", array
        elif key != "state":
            yield key, array
        elif known and sum(known.values()) == array.shape[1]:
            yield from zip(known, np.split(array, np.cumsum(list(known.values()))[:-1], axis=1), strict=True)
        else:
            yield _FLAT_KEY, array
