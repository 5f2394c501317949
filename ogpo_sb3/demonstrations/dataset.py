"""The one in-memory form of demonstrations: flat arrays of steps, episode ends and a note of where they came from."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium import spaces

from ogpo_sb3.common.files import atomic_write
from ogpo_sb3.demonstrations.lazy import LazyRows, LazyScenes

# Pictures may also be LazyRows, which index as arrays do.
Observations = np.ndarray | dict[str, np.ndarray]

# Recorded actions can lie a rounding error outside the bounds they were clipped to.
BOUNDS_TOLERANCE = 1e-3

_DTYPES = {"actions": np.float32, "rewards": np.float32, "terminals": bool, "successes": bool, "states": np.float64}

# Entries of meta that are lists with one item per episode.
_EPISODE_META = ("reset_seeds", "initial_states")


@dataclass
class DemonstrationSet:
    """Episodes laid end to end; step i of the set is one environment step.

    Checked on construction, so a set that exists is consistent.

    :param observations: before each action: array (n, ...) or dictionary of such arrays, float32 or uint8. Pictures can be
        :class:`~ogpo_sb3.demonstrations.lazy.LazyRows`, which stay in their file until they are indexed.
    :param actions: (n, action_dim) float32, one environment step each.
    :param rewards: (n,) float32 of each action, None when unknown.
    :param terminals: (n,) bool, true where the action ended the task (not where a time limit cut it); None when unknown.
    :param episode_ends: (E,) int64, exclusive: episode e is the steps from ``episode_ends[e - 1]`` to ``episode_ends[e]``.
    :param final_observations: (E, ...) the observation after each episode's last action; None when unknown.
    :param successes: (E,) bool, None when unknown.
    :param states: (n, S) float64, the simulator's state before each action, which the environment's ``set_state`` restores;
        None when unknown.
    :param scenes: the simulator's description of each episode's scene (MuJoCo XML), E strings, for engines that build
        another one at every reset; None when unknown.
    :param meta: anything worth knowing, serialisable as JSON; ``meta["source"]`` names the data in error messages.
    """

    observations: Observations
    actions: np.ndarray
    episode_ends: np.ndarray
    rewards: np.ndarray | None = None
    terminals: np.ndarray | None = None
    final_observations: Observations | None = None
    successes: np.ndarray | None = None
    states: np.ndarray | None = None
    scenes: Sequence[str] | None = None
    meta: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.observations = self._as_observations("observations", self.observations)
        if self.final_observations is not None:
            self.final_observations = self._as_observations("final_observations", self.final_observations)
        ends = self._numbers("episode_ends", self.episode_ends)
        if np.any(ends != np.floor(ends)):
            raise ValueError(f"{self.source}: episode_ends holds fractions, wanted numbers of steps.")
        self.episode_ends = ends.astype(np.int64, copy=False)
        for key, dtype in _DTYPES.items():
            if (value := getattr(self, key)) is not None:
                setattr(self, key, self._numbers(key, value).astype(dtype, copy=False))
        self.check()

    def _numbers(self, key: str, value: Any) -> np.ndarray:
        """An array of real numbers, whatever their type, or a ValueError that names source and key."""
        try:
            array = np.asarray(value)
        except ValueError as error:  # rows of different lengths
            raise ValueError(f"{self.source}: {key} is no array ({error}).") from error
        if array.dtype.kind not in "buif":
            raise ValueError(f"{self.source}: {key} is of type {array.dtype}, wanted real numbers.")
        return array

    def _as_observations(self, key: str, observations: Any) -> Observations:
        """Copy-free where possible: images stay uint8, everything else becomes float32."""
        if isinstance(observations, dict):
            return {
                str(name): self._as_observations(f"{key}/{name}", value)  # type: ignore[misc]
                for name, value in observations.items()
            }
        if isinstance(observations, LazyRows):
            return observations  # type: ignore[return-value]
        array = self._numbers(key, observations)
        return array if array.dtype == np.uint8 else array.astype(np.float32, copy=False)

    @property
    def source(self) -> str:
        """Where the data came from, as error messages name it."""
        return str(self.meta.get("source", "demonstrations"))

    @property
    def n_steps(self) -> int:
        """Environment steps in all episodes."""
        return len(self.actions)

    @property
    def n_episodes(self) -> int:
        """Number of episodes."""
        return len(self.episode_ends)

    @property
    def action_dim(self) -> int:
        """Numbers in one action."""
        return self.actions.shape[1]

    @property
    def episode_starts(self) -> np.ndarray:
        """First step of each episode, (E,) int64."""
        return np.concatenate([np.zeros(1, dtype=np.int64), self.episode_ends[:-1]])

    @property
    def episode_lengths(self) -> np.ndarray:
        """Steps per episode, (E,) int64."""
        return np.diff(self.episode_ends, prepend=0)

    def check(self) -> None:
        """Raise a ValueError that names source and key when the arrays do not fit together or hold NaN or infinity."""
        if self.actions.ndim != 2:
            raise ValueError(f"{self.source}: actions has shape {self.actions.shape}, wanted (steps, action_dim).")
        if self.episode_ends.ndim != 1:
            raise ValueError(f"{self.source}: episode_ends has shape {self.episode_ends.shape}, wanted (episodes,).")
        if self.n_steps == 0 or self.n_episodes == 0:
            raise ValueError(f"{self.source}: there is no data ({self.n_steps} steps, {self.n_episodes} episodes).")
        if np.any(self.episode_lengths <= 0):
            raise ValueError(f"{self.source}: episode_ends is not a strictly increasing list of positive numbers.")
        if self.episode_ends[-1] != self.n_steps:
            raise ValueError(
                f"{self.source}: episode_ends closes at step {self.episode_ends[-1]}, but actions has {self.n_steps} steps."
            )
        for key, array in self._per_step():
            self._check_array(key, array, self.n_steps, "steps")
        for key, array in self._per_episode():
            self._check_array(key, array, self.n_episodes, "episodes")
        if self.final_observations is not None:
            before, after = (
                {key: array.shape[1:] for key, array in _items("", observations)}
                for observations in (self.observations, self.final_observations)
            )
            if before != after:
                found, wanted = (", ".join(f"{k[1:]} {v}".strip() for k, v in rows.items()) for rows in (after, before))
                raise ValueError(
                    f"{self.source}: final_observations has rows of {found}, wanted those of observations, {wanted}."
                )
        if self.scenes is not None and len(self.scenes) != self.n_episodes:
            raise ValueError(
                f"{self.source}: there are {len(self.scenes)} scenes, wanted one for each of {self.n_episodes} episodes."
            )

    def episode(self, index: int) -> "DemonstrationSet":
        """One episode as a set of its own.

        :param index: from 0; negative counts from the end.
        """
        if not -self.n_episodes <= index < self.n_episodes:
            raise IndexError(f"{self.source}: episode {index} of {self.n_episodes}.")
        return self.select([index % self.n_episodes])

    def subset(self, n_episodes: int) -> "DemonstrationSet":
        """The first episodes.

        :param n_episodes: how many to keep.
        """
        if not 1 <= n_episodes <= self.n_episodes:
            raise ValueError(f"{self.source}: {n_episodes} episodes wanted, there are {self.n_episodes}.")
        return self.select(range(n_episodes))

    def select(self, episodes: Sequence[int] | np.ndarray) -> "DemonstrationSet":
        """Chosen episodes, in the order given.

        :param episodes: indices from 0.
        """
        chosen = np.asarray(episodes, dtype=np.int64)
        starts, lengths = self.episode_starts[chosen], self.episode_lengths[chosen]
        rows = np.concatenate([np.arange(start, start + length) for start, length in zip(starts, lengths, strict=True)])
        return replace(
            self,
            observations=_take(self.observations, rows),
            actions=self.actions[rows],
            episode_ends=np.cumsum(lengths),
            rewards=None if self.rewards is None else self.rewards[rows],
            terminals=None if self.terminals is None else self.terminals[rows],
            final_observations=None if self.final_observations is None else _take(self.final_observations, chosen),
            successes=None if self.successes is None else self.successes[chosen],
            states=None if self.states is None else self.states[rows],
            scenes=_take_scenes(self.scenes, chosen),
            meta={key: [value[i] for i in chosen] if key in _EPISODE_META else value for key, value in self.meta.items()},
        )

    def shortened(self, lengths: Sequence[int]) -> "DemonstrationSet":
        """The first steps of each episode.

        :param lengths: steps to keep, (E,), at least 1 and at most what there is.
        :return: the shorter set; the observation that follows the last kept action becomes the final one. Where an episode is
            whole and its final observation unknown, there are none.
        """
        kept = np.asarray(lengths, dtype=np.int64)
        if kept.shape != (self.n_episodes,) or (kept < 1).any() or (kept > self.episode_lengths).any():
            raise ValueError(f"{self.source}: lengths {list(lengths)[:5]} do not lie within those of the episodes.")
        whole = kept == self.episode_lengths
        if whole.all():
            return self
        rows = np.concatenate([np.arange(start, start + k) for start, k in zip(self.episode_starts, kept, strict=True)])
        final: Observations | None = None
        if self.final_observations is not None or not whole.any():
            following = np.minimum(self.episode_starts + kept, self.n_steps - 1)
            final = _choose(whole, self.final_observations, _take(self.observations, following))
        return replace(
            self,
            observations=_take(self.observations, rows),
            actions=self.actions[rows],
            episode_ends=np.cumsum(kept),
            rewards=None if self.rewards is None else self.rewards[rows],
            terminals=None if self.terminals is None else self.terminals[rows],
            final_observations=final,
            states=None if self.states is None else self.states[rows],
            meta=dict(self.meta),
        )

    def action_windows(self, chunk_size: int) -> tuple[np.ndarray, np.ndarray]:
        """The chunk of actions that begins at each step.

        :param chunk_size: steps per chunk (h).
        :return: chunks (n, h * action_dim) float32, time-major ``[a_0 | a_1 | ...]``, zeros after the episode's end; and
            their validity (n, h) float32, 1 where a step exists.
        """
        if chunk_size < 1:
            raise ValueError(f"chunk_size is at least 1, not {chunk_size}.")
        rows = np.arange(self.n_steps)[:, None] + np.arange(chunk_size)
        valid = rows < np.repeat(self.episode_ends, self.episode_lengths)[:, None]
        windows = self.actions[np.minimum(rows, self.n_steps - 1)] * valid[:, :, None]
        return windows.reshape(self.n_steps, -1).astype(np.float32), valid.astype(np.float32)

    def validate_for(self, observation_space: spaces.Space[Any], single_action_space: spaces.Space[Any]) -> None:
        """Raise a ValueError of one sentence when the data cannot have come from an environment with these spaces.

        :param observation_space: Box, or Dict whose keys the observations must have (more are allowed).
        :param single_action_space: Box of one environment step, not of a chunk.
        """
        if isinstance(observation_space, spaces.Dict):
            if not isinstance(self.observations, dict):
                raise ValueError(
                    f"{self.source}: observations is one array, wanted a dictionary with the keys {sorted(observation_space)}."
                )
            for key, space in observation_space.items():
                if key not in self.observations:
                    raise ValueError(
                        f"{self.source}: observations/{key} is missing, found the keys {sorted(self.observations)}."
                    )
                self._check_observation(f"observations/{key}", self.observations[key], space)
        elif isinstance(self.observations, dict):
            raise ValueError(
                f"{self.source}: observations is a dictionary with the keys {sorted(self.observations)}, "
                f"wanted one array of shape (steps, {_numbers(observation_space.shape)})."
            )
        else:
            self._check_observation("observations", self.observations, observation_space)
        self.check_actions(single_action_space)

    def check_actions(self, space: spaces.Space[Any]) -> None:
        """Raise a ValueError of one sentence when the actions do not fit an environment.

        :param space: Box of one environment step.
        """
        if not isinstance(space, spaces.Box):
            raise ValueError(f"{self.source}: demonstrations need a Box action space, not {space}.")
        if self.actions.shape[1:] != space.shape:
            raise ValueError(
                f"{self.source}: actions has shape {self.actions.shape}, wanted (steps, {_numbers(space.shape)}) "
                "for this environment."
            )
        outside = (self.actions < space.low - BOUNDS_TOLERANCE) | (self.actions > space.high + BOUNDS_TOLERANCE)
        if outside.any():
            row = int(np.argmax(outside.any(axis=1)))
            raise ValueError(
                f"{self.source}: actions range from {self.actions.min():.4g} to {self.actions.max():.4g}, outside this "
                f"environment's bounds {space.low.min():.4g} to {space.high.max():.4g}, first in row {row}."
            )

    def for_space(self, observation_space: spaces.Space[Any]) -> "DemonstrationSet":
        """Bring the observations to the form a model sees.

        Channel-last images move to channel-first where the space has them so, as SB3's VecTransposeImage does. Where the
        space is one Box and the data a dictionary of which exactly one entry has its shape and kind, that entry is taken.

        :param observation_space: what a model sees.
        :return: this set when nothing has to move, else a new one.
        """

        def move(observations: Observations) -> Observations:
            if isinstance(observations, dict) and isinstance(observation_space, spaces.Box):
                entries = [_channel_first(entry, observation_space.shape) for entry in observations.values()]
                fitting = [entry for entry in entries if _fits(entry, observation_space)]
                return fitting[0] if len(fitting) == 1 else observations
            if isinstance(observations, dict):
                known = observation_space.spaces if isinstance(observation_space, spaces.Dict) else {}
                return {k: _channel_first(v, known[k].shape) if k in known else v for k, v in observations.items()}
            return _channel_first(observations, observation_space.shape)

        moved = move(self.observations)
        shapes = [array.shape for _, array in _items("", moved)]
        if shapes == [array.shape for _, array in _items("", self.observations)]:
            return self
        final = None if self.final_observations is None else move(self.final_observations)
        return replace(self, observations=moved, final_observations=final)

    def save(self, path: str | Path) -> Path:
        """Write an .npz file that ``load`` reads; it appears complete or not at all.

        :param path: file name; ``.npz`` is added when it is missing.
        :return: the file that was written.
        """
        path = Path(path)
        if path.suffix != ".npz":
            path = path.with_name(path.name + ".npz")
        arrays: dict[str, Any] = {**dict(self._per_step()), **dict(self._per_episode()), "episode_ends": self.episode_ends}
        if self.scenes is not None:
            arrays["scenes"] = np.array([scene.encode() for scene in self.scenes])
        arrays["meta"] = np.array(json.dumps(self.meta))
        with atomic_write(path) as file:
            np.savez_compressed(file, **arrays)
        return path

    def _per_step(self) -> Iterator[tuple[str, np.ndarray]]:
        yield from _items("observations", self.observations)
        yield "actions", self.actions
        if self.rewards is not None:
            yield "rewards", self.rewards
        if self.terminals is not None:
            yield "terminals", self.terminals
        if self.states is not None:
            yield "states", self.states

    def _per_episode(self) -> Iterator[tuple[str, np.ndarray]]:
        if self.final_observations is not None:
            yield from _items("final_observations", self.final_observations)
        if self.successes is not None:
            yield "successes", self.successes

    def _check_array(self, key: str, array: np.ndarray, length: int, unit: str) -> None:
        if array.ndim == 0 or len(array) != length:
            raise ValueError(f"{self.source}: {key} has shape {array.shape}, wanted {length} {unit} along the first axis.")
        if key in ("rewards", "terminals", "successes") and array.ndim != 1:
            raise ValueError(f"{self.source}: {key} has shape {array.shape}, wanted ({length},).")
        if isinstance(array, LazyRows):
            return  # checked as it is read
        if array.dtype.kind == "f" and not np.all(np.isfinite(array)):
            row = int(np.argmin(np.isfinite(array).reshape(length, -1).all(axis=1)))
            raise ValueError(f"{self.source}: {key} holds NaN or infinity, first in row {row}.")

    def _check_observation(self, key: str, array: np.ndarray, space: spaces.Space[Any]) -> None:
        if array.shape[1:] != space.shape:
            raise ValueError(
                f"{self.source}: {key} has shape {array.shape}, wanted (steps, {_numbers(space.shape)}) for this environment."
            )
        if (array.dtype == np.uint8) != (space.dtype == np.uint8):
            raise ValueError(f"{self.source}: {key} is of type {array.dtype}, wanted {space.dtype} for this environment.")


def _take(observations: Observations, rows: np.ndarray) -> Observations:
    if isinstance(observations, dict):
        return {key: _take(value, rows) for key, value in observations.items()}  # type: ignore[misc]
    if isinstance(observations, LazyRows):
        return observations.take(rows)
    return observations[rows]


def _choose(where: np.ndarray, one: Observations | None, other: Observations) -> Observations:
    """Row by row one or the other, read into memory."""
    if one is None:
        return other
    if isinstance(other, dict):
        assert isinstance(one, dict)
        return {key: _choose(where, one[key], other[key]) for key in other}  # type: ignore[misc]
    assert not isinstance(one, dict)
    chosen = np.array(other)
    chosen[where] = one[where]
    return chosen


def _take_scenes(scenes: Sequence[str] | None, episodes: np.ndarray) -> Sequence[str] | None:
    if scenes is None:
        return None
    return scenes.take(episodes) if isinstance(scenes, LazyScenes) else [scenes[episode] for episode in episodes]


def _items(name: str, observations: Observations) -> Iterator[tuple[str, np.ndarray]]:
    """Pairs of key and array; the entries of a dictionary are called ``name/key``."""
    if isinstance(observations, dict):
        for key, value in observations.items():
            yield f"{name}/{key}", value
    else:
        yield name, observations


def _channel_first(array: np.ndarray, shape: tuple[int, ...] | None) -> np.ndarray:
    if array.dtype == np.uint8 and array.ndim == 4 and array.shape[1:] != shape:
        if isinstance(array, LazyRows):
            moved_rows = array.channels_first()
            return moved_rows if moved_rows.shape[1:] == shape else array
        moved = np.moveaxis(array, -1, 1)
        return np.ascontiguousarray(moved) if moved.shape[1:] == shape else array
    return array


def _fits(array: np.ndarray, space: spaces.Box) -> bool:
    return array.shape[1:] == space.shape and (array.dtype == np.uint8) == (space.dtype == np.uint8)


def _numbers(shape: tuple[int, ...] | None) -> str:
    return ", ".join(map(str, shape or ())) or "1"
