"""Attempts of a collection, written one by one so that it can be stopped and continued."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from ogpo_sb3.common.files import atomic_write

_SETTINGS = "settings.json"


class Journal:
    """A folder with one file per attempt.

    :param folder: where; None keeps nothing.
    :param settings: what the attempts depend on.
    :raises ValueError: the folder holds attempts with other settings.
    """

    def __init__(self, folder: str | Path | None, settings: dict[str, Any]) -> None:
        self.folder = None if folder is None else Path(folder)
        if self.folder is None:
            return
        # Through JSON and back, as the recorded ones were.
        settings = json.loads(json.dumps(settings))
        path = self.folder / _SETTINGS
        if path.exists() and any(self.folder.glob("*.npz")):
            before = json.loads(path.read_text())
            differing = sorted(key for key in {*before, *settings} if before.get(key) != settings.get(key))
            if differing:
                raise ValueError(
                    f"{self.folder} holds attempts with another {differing[0]} ({before.get(differing[0])}, now "
                    f"{settings.get(differing[0])}): remove the folder or collect as before."
                )
        else:
            with atomic_write(path) as file:
                file.write(json.dumps(settings).encode())

    def read(self, attempt: int) -> dict[str, Any] | None:
        """An attempt made before; None if it was not.

        :param attempt: its number.
        """
        if self.folder is None or not self._path(attempt).exists():
            return None
        with np.load(self._path(attempt), allow_pickle=False) as archive:
            arrays = {key: archive[key] for key in archive.files}
        episode: dict[str, Any] = {}
        for key, array in arrays.items():
            name, _, entry = key.partition("/")
            if entry:
                episode.setdefault(name, {})[entry] = array
            else:
                episode[name] = array.item() if array.ndim == 0 else array
        return episode

    def write(self, attempt: int, episode: dict[str, Any]) -> None:
        """Keep an attempt.

        :param attempt: its number.
        :param episode: arrays, dictionaries of arrays, numbers and strings.
        """
        if self.folder is None:
            return
        flat: dict[str, Any] = {}
        for key, value in episode.items():
            flat.update({f"{key}/{k}": v for k, v in value.items()} if isinstance(value, dict) else {key: value})
        with atomic_write(self._path(attempt)) as file:
            np.savez_compressed(file, **flat)

    def _path(self, attempt: int) -> Path:
        assert self.folder is not None
        return self.folder / f"{attempt:06d}.npz"
