"""Observations that stay in their file: rows are read when they are indexed."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np


class LazyRows:
    """Rows of several HDF5 arrays laid end to end, read from the file at every access.

    It behaves as a read-only array where data sets and behaviour cloning use one: ``shape``, ``dtype``, ``len``, indexing
    by number, slice, mask or list of rows, and ``np.asarray``, which reads everything. Pickling and copying take the name of
    the file along, not its content.

    :param path: the HDF5 file.
    :param keys: one array of the file per episode.
    :param lengths: rows of each array, (E,).
    :param shape: shape of one row as it lies in the file.
    :param dtype: of the file. Floating-point numbers are handed out as float32, checked for NaN and infinity.
    :param upside_down: the file's pictures have their first line at the bottom; they are handed out upright.
    """

    def __init__(
        self,
        path: Path,
        keys: Sequence[str],
        lengths: Sequence[int],
        shape: tuple[int, ...],
        dtype: Any,
        upside_down: bool = False,
    ) -> None:
        self.path, self.keys, self.upside_down = Path(path), tuple(keys), upside_down
        self._ends = np.cumsum(np.asarray(lengths, dtype=np.int64))
        self._row_shape = tuple(shape)
        self._file_dtype = np.dtype(dtype)
        self._rows = np.arange(self._ends[-1] if len(self._ends) else 0)
        self._channel_first = False
        self._file: Any = None
        self._opened_by = 0

    @property
    def dtype(self) -> np.dtype:
        """Type of what indexing returns: uint8 or float32."""
        return self._file_dtype if self._file_dtype == np.uint8 else np.dtype(np.float32)

    @property
    def shape(self) -> tuple[int, ...]:
        """(rows, *shape of one row)."""
        row = self._row_shape
        return (len(self._rows), *((row[-1], *row[:-1]) if self._channel_first else row))

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: Any) -> np.ndarray:
        rows = self._rows[index]
        return self._read(rows[None])[0] if np.ndim(rows) == 0 else self._read(rows)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        everything = self._read(self._rows)
        return everything if dtype is None else everything.astype(dtype, copy=False)

    def take(self, rows: np.ndarray) -> "LazyRows":
        """Some of the rows, still unread.

        :param rows: numbers of rows, any order.
        """
        taken = self._copy()
        taken._rows = self._rows[rows]
        return taken

    def channels_first(self) -> "LazyRows":
        """The same pictures, handed out as (channels, height, width)."""
        moved = self._copy()
        moved._channel_first = True
        return moved

    def _copy(self) -> "LazyRows":
        other = LazyRows.__new__(LazyRows)
        other.__dict__.update(self.__getstate__())
        return other

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_file": None}

    def _open(self) -> Any:
        # A handle that a forked process inherits shares its file position with the parent's.
        if self._file is None or self._opened_by != os.getpid():
            import h5py

            self._file, self._opened_by = h5py.File(self.path, "r"), os.getpid()
        return self._file

    def _read(self, rows: np.ndarray) -> np.ndarray:
        # HDF5 wants increasing rows without repetition.
        unique, inverse = np.unique(rows, return_inverse=True)
        episodes = np.searchsorted(self._ends, unique, side="right")
        found = np.empty((len(unique), *self._row_shape), dtype=self._file_dtype)
        for episode in np.unique(episodes):
            here = np.flatnonzero(episodes == episode)
            local = unique[here] - (self._ends[episode - 1] if episode else 0)
            array = self._open()[self.keys[episode]]
            if local[-1] - local[0] + 1 == len(local):
                found[here[0] : here[-1] + 1] = array[local[0] : local[-1] + 1]
            else:
                found[here] = array[local]
        if self.upside_down:
            found = found[:, ::-1]
        if self._channel_first:
            found = np.moveaxis(found, -1, 1)
        values = found.astype(self.dtype, copy=False)[inverse]
        if values.dtype.kind == "f" and not np.isfinite(values).all():
            raise ValueError(f"{self.path}: {self.keys[0].rpartition('/')[2]} holds NaN or infinity.")
        return values


class LazyScenes(Sequence[str]):
    """Scene descriptions that stay in their HDF5 file, as the attribute ``model_file`` of each episode's group.

    :param path: the file.
    :param groups: the episodes' groups.
    """

    def __init__(self, path: Path, groups: Sequence[str]) -> None:
        self.path, self.groups = Path(path), tuple(groups)

    def __len__(self) -> int:
        return len(self.groups)

    def __getitem__(self, index: Any) -> Any:
        import h5py

        if isinstance(index, slice):
            return LazyScenes(self.path, self.groups[index])
        with h5py.File(self.path, "r") as file:
            return str(file[self.groups[index]].attrs["model_file"])

    def take(self, episodes: np.ndarray) -> "LazyScenes":
        """Some of the scenes, still unread.

        :param episodes: their indices.
        """
        return LazyScenes(self.path, [self.groups[episode] for episode in episodes])
