"""Storage of observations for the chunk replay buffer: each one once, next ones only where the stream is interrupted."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.preprocessing import check_for_nested_spaces, get_obs_shape, is_image_space

Rows = slice | np.ndarray | int
Arrays = dict[str, np.ndarray]

# Name under which an observation that is no Dict is kept
ONLY = ""


def check_finite(name: str, values: np.ndarray, *, unit: str = "env") -> None:
    """
    Refuse NaN and infinity, which would spoil every later batch unnoticed.

    :param name: the quantity, for the message
    :param values: array whose first axis counts environments (or rows)
    :param unit: what the first axis counts
    """
    if values.dtype.kind != "f" or np.isfinite(values).all():
        return
    bad = int(np.argmin(np.isfinite(values).reshape(len(values), -1).all(axis=1)))
    raise ValueError(f"{name} of {unit} {bad} holds NaN or infinity, wanted finite numbers.")


def trim(array: np.ndarray, rows: int) -> np.ndarray:
    """
    First rows of an array, for a file without the unused rest.

    :param array: any array
    :param rows: rows in use
    :return: a view of them
    """
    return array[:rows]


def untrim(array: np.ndarray, rows: int, fill: int = 0) -> np.ndarray:
    """
    Undo :func:`trim`.

    :param array: trimmed array
    :param rows: rows wanted
    :param fill: value of the rows that were left out
    :return: array of that many rows; zeros cost no memory before they are written
    """
    if len(array) == rows:
        return array
    shape = (rows, *array.shape[1:])
    full = np.zeros(shape, dtype=array.dtype) if fill == 0 else np.full(shape, fill, dtype=array.dtype)
    full[: len(array)] = array
    return full


class ObservationLayout:
    """
    How the observations of a space are stored: one array per key, channel-first images, the dtypes of the space.

    :param space: observation space as Stable-Baselines3 sees it (channel-first images); no nested Dict
    """

    def __init__(self, space: spaces.Space):
        check_for_nested_spaces(space)
        self.is_dict = isinstance(space, spaces.Dict)
        parts: dict[str, spaces.Space] = dict(space.spaces) if isinstance(space, spaces.Dict) else {ONLY: space}
        self.shapes: dict[str, tuple[int, ...]] = {key: get_obs_shape(part) for key, part in parts.items()}  # type: ignore[misc]
        self.dtypes = {key: part.dtype for key, part in parts.items()}
        self.images = {key for key, part in parts.items() if is_image_space(part)}

    def zeros(self, *leading: int) -> Arrays:
        """
        Arrays of zeros, which take memory only as they are written.

        :param leading: leading axes
        :return: one array (*leading, ...) per key
        """
        return {key: np.zeros((*leading, *shape), dtype=self.dtypes[key]) for key, shape in self.shapes.items()}

    def unwrap(self, arrays: Arrays) -> Any:
        """
        Hand arrays out as the space has them.

        :param arrays: one array per key
        :return: the dict for a Dict space, its only array otherwise
        """
        return arrays if self.is_dict else arrays[ONLY]

    def convert(self, observations: Any, n: int, name: str, unit: str = "env") -> Arrays:
        """
        Bring a batch into storage layout: one array per key, cast, channel-last images moved to channel-first, checked.

        :param observations: array (n, ...) or dict of such arrays, in the layout of the space or of the raw environment
        :param n: number of observations expected
        :param name: the quantity, for messages
        :param unit: what the first axis counts, for messages
        :return: one array (n, ...) per key; may share memory with the input
        """
        if self.is_dict and not isinstance(observations, dict):
            raise ValueError(f"{name} is {type(observations).__name__}, wanted a dict with the keys {sorted(self.shapes)}.")
        converted = {}
        for key, shape in self.shapes.items():
            label = f"{name}[{key!r}]" if self.is_dict else name
            if self.is_dict and key not in observations:
                raise ValueError(f"{label} is missing, found the keys {sorted(observations)}.")
            value = np.asarray(observations[key] if self.is_dict else observations)
            if key in self.images and value.shape != (n, *shape) and value.shape == (n, *shape[1:], shape[0]):
                value = np.moveaxis(value, -1, 1)
            elif shape == (1,) and value.shape == (n,):
                value = value[:, None]  # Discrete observations come as plain numbers
            if value.shape != (n, *shape) or value.dtype.kind == "O":
                raise ValueError(f"{label} has shape {value.shape} and dtype {value.dtype}, wanted shape {(n, *shape)}.")
            converted[key] = value.astype(self.dtypes[key], copy=False)
            check_finite(label, converted[key], unit=unit)
        return converted

    def stack(self, observations: Sequence[Any], name: str) -> Arrays:
        """
        Bring single raw observations into storage layout.

        :param observations: k observations as the environment returned them
        :param name: the quantity, for messages
        :return: one array (k, ...) per key
        """
        n = len(observations)
        if not self.is_dict:
            return self.convert(np.asarray(observations), n, name, unit="step")
        for observation in observations:
            if not isinstance(observation, dict) or not self.shapes.keys() <= observation.keys():
                raise ValueError(f"{name} has an entry that is no dict with the keys {sorted(self.shapes)}.")
        stacked = {key: np.stack([np.asarray(observation[key]) for observation in observations]) for key in self.shapes}
        return self.convert(stacked, n, name, unit="step")


class ObservationStore:
    """
    Ring rows of observations for several environments, with a pool for the next observations that no row holds.

    The next observation of a row is the following row's, except where the stream of an environment is interrupted after it
    (end of an episode, cut) or where the row is the newest one. Those next observations lie in pool slots;
    ``end_slot[row, env]`` is the slot, -1 where there is none. Slot i < n_envs belongs to the newest row of environment i for
    good, the others come from a free list and go back to it when their row is overwritten. Beside each next observation the
    pool keeps the actions that were chosen but not executed because the chunk ended early ("rest").

    :param layout: how observations are stored
    :param n_rows: ring rows per environment
    :param n_envs: number of environments
    :param rest_shape: shape of the unexecuted rest of a chunk, (h - 1, d); None to keep none
    :param rest_dtype: its dtype
    """

    def __init__(
        self,
        layout: ObservationLayout,
        n_rows: int,
        n_envs: int,
        rest_shape: tuple[int, ...] | None = None,
        rest_dtype: Any = np.float32,
    ):
        self.layout = layout
        self.n_rows, self.n_envs = n_rows, n_envs
        self.rows = layout.zeros(n_rows, n_envs)
        self.end_slot = np.full((n_rows, n_envs), -1, dtype=np.int32)
        self.capacity = n_envs + 8
        self.pool = layout.zeros(self.capacity)
        self.rest = None if rest_shape is None else np.zeros((self.capacity, *rest_shape), dtype=rest_dtype)
        self.free = list(range(self.capacity - 1, n_envs - 1, -1))

    @property
    def slots_in_use(self) -> int:
        """Pool slots taken by interruptions, those of the newest rows not counted."""
        return self.capacity - self.n_envs - len(self.free)

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays."""
        rest = 0 if self.rest is None else self.rest.nbytes
        return sum(array.nbytes for array in (*self.rows.values(), *self.pool.values())) + self.end_slot.nbytes + rest

    def write(self, rows: Rows, env: int, values: Arrays) -> None:
        """
        Put observations into rows.

        :param rows: ring rows of the environment
        :param env: index of the environment
        :param values: one array per key in storage layout
        """
        for key, array in self.rows.items():
            array[rows, env] = values[key]

    def forget(self, rows: slice | np.ndarray, env: int) -> None:
        """
        Give back the pool slots of rows that are about to be overwritten.

        :param rows: ring rows of the environment
        :param env: index of the environment
        """
        slots = self.end_slot[rows, env]
        self.free.extend(slots[slots >= self.n_envs].tolist())
        self.end_slot[rows, env] = -1

    def set_next(self, row: int, env: int, values: Arrays, rest: np.ndarray | None, *, lasting: bool) -> None:
        """
        Keep the next observation of the newest row.

        :param row: the newest row of the environment
        :param env: index of the environment
        :param values: the next observation, one array per key in storage layout
        :param rest: unexecuted actions of the chunk, (m, d) with m < h; ignored where none are kept
        :param lasting: True if the stream is interrupted after the row, False if the next row is expected to follow on
        """
        slot = self._take() if lasting else env
        for key, array in self.pool.items():
            array[slot] = values[key]
        if self.rest is not None:
            self.rest[slot] = 0
            if rest is not None:
                self.rest[slot, : len(rest)] = rest
        self.end_slot[row, env] = slot

    def make_lasting(self, row: int, env: int) -> None:
        """
        The stream is interrupted after the newest row after all: keep what was expected to become the next row.

        :param row: the newest row of the environment
        :param env: index of the environment
        """
        self.set_next(row, env, self.pending(env), None if self.rest is None else self.rest[env], lasting=True)

    def pending(self, env: int) -> Arrays:
        """
        Next observation of an environment's newest row, while nothing interrupts the stream there.

        :param env: index of the environment
        :return: one array per key
        """
        return {key: array[env].copy() for key, array in self.pool.items()}

    def follows(self, env: int, values: Arrays) -> bool:
        """
        Whether an observation is the one that the newest row of an environment led to.

        :param env: index of the environment
        :param values: one array per key in storage layout
        """
        return all(np.array_equal(array[env], values[key]) for key, array in self.pool.items())

    def _take(self) -> int:
        if not self.free:
            grown = self.capacity * 2
            self.pool = {key: untrim(array, grown) for key, array in self.pool.items()}
            self.rest = None if self.rest is None else untrim(self.rest, grown)
            self.free = list(range(grown - 1, self.capacity - 1, -1))
            self.capacity = grown
        return self.free.pop()

    # Reading
    def read(self, flat: np.ndarray) -> Any:
        """
        Observations of rows.

        :param flat: row * n_envs + env, (B,)
        :return: array (B, ...), or a dict of them
        """
        return self.layout.unwrap({key: self._flat(key).take(flat, axis=0) for key in self.rows})

    def read_next(self, last_rows: np.ndarray, envs: np.ndarray) -> Any:
        """
        Next observations of rows.

        :param last_rows: ring rows, (B,)
        :param envs: their environments, (B,)
        :return: array (B, ...), or a dict of them
        """
        slots = self.end_slot[last_rows, envs]
        pooled = np.flatnonzero(slots >= 0)
        slots = slots[pooled]
        flat = (last_rows + 1) % self.n_rows * self.n_envs + envs
        found = {}
        for key, pool in self.pool.items():
            found[key] = self._flat(key).take(flat, axis=0)
            found[key][pooled] = pool[slots]
        return self.layout.unwrap(found)

    def _flat(self, key: str) -> np.ndarray:
        return self.rows[key].reshape(self.n_rows * self.n_envs, *self.layout.shapes[key])

    # Saving
    def trimmed(self, rows: int) -> "ObservationStore":
        """
        Copy of this store (arrays shared) without the ring rows that were never written.

        :param rows: rows in use
        """
        small = ObservationStore.__new__(ObservationStore)
        small.__dict__.update(self.__dict__)
        small.rows = {key: trim(array, rows) for key, array in self.rows.items()}
        small.end_slot = trim(self.end_slot, rows)
        return small

    def untrimmed(self) -> "ObservationStore":
        """Undo :meth:`trimmed`, in place."""
        self.rows = {key: untrim(array, self.n_rows) for key, array in self.rows.items()}
        self.end_slot = untrim(self.end_slot, self.n_rows, fill=-1)
        return self
