"""What a file of this package holds, told without loading it: the sentence for one that was mixed up with another."""

import io
import json
import os
import pathlib
import zipfile
from typing import Any

from stable_baselines3.common.base_class import BaseAlgorithm

# Entry of a saved model's data, an attribute of the model: the algorithm that wrote it. Absent in files of earlier versions.
WRITTEN_BY = "written_by"

CHECKPOINT = "a checkpoint of save_checkpoint (load_checkpoint reads it)"


def kind_of(file: str | os.PathLike[str] | io.BufferedIOBase) -> str:
    """
    :param file: its name, or an open one, which is left where it was
    :return: what it is, for an error message
    """
    if not isinstance(file, io.IOBase):
        if pathlib.Path(file).is_dir():
            return "a folder"
        if not pathlib.Path(file).exists():
            return "no file"
    names = _members(file)
    if names is None:
        return "another kind of file, or a part of one"
    if "about.json" in names:
        return CHECKPOINT
    if "data" in names:
        return "a model of model.save (load reads it)"
    if any(name.endswith("/data.pkl") for name in names):  # torch.save's layout
        return "a file of torch.save, as of model.policy.save (pretrained_policy= takes it)"
    return "another kind of file"


def check_model_file(file: str | pathlib.Path | io.BufferedIOBase, algorithm: type[BaseAlgorithm]) -> None:
    """
    :param file: that ``algorithm.load`` is to read; one that is missing is left to it
    :param algorithm: of this package, or derived from one
    :raises ValueError: it is no model, or one that another algorithm of this package wrote
    """
    name = "the file"
    if not isinstance(file, io.IOBase):
        path = pathlib.Path(file)
        path = path if path.exists() or path.suffix else pathlib.Path(f"{path}.zip")  # as SB3 looks for it
        if not path.exists():
            return
        name, file = str(path), path
    if "data" not in (_members(file) or ()):
        raise ValueError(f"{name} should be a model written by {algorithm.__name__}.save, found {kind_of(file)}")
    start = file.tell() if isinstance(file, io.IOBase) else 0
    with zipfile.ZipFile(file) as archive:
        found = json.loads(archive.read("data")).get(WRITTEN_BY)
    if isinstance(file, io.IOBase):
        file.seek(start)
    wanted = algorithm_name(algorithm)
    if found is not None and found != wanted:
        raise ValueError(f"{name} was written by {found}, wanted a model of {wanted}: use {found}.load")


def algorithm_name(algorithm: type[Any]) -> str:
    """
    :param algorithm: of this package, or derived from one
    :return: the name that it has in this package; files of a user's subclass are those of its base
    """
    own = (cls.__name__ for cls in algorithm.__mro__ if cls.__module__.partition(".")[0] == "ogpo_sb3")
    return next(own, algorithm.__name__)


def _members(file: Any) -> list[str] | None:
    """Names in a zip archive; None for what is none, or only the beginning of one."""
    start = file.tell() if isinstance(file, io.IOBase) else 0
    try:
        with zipfile.ZipFile(file) as archive:
            return archive.namelist()
    except (zipfile.BadZipFile, OSError):
        return None
    finally:
        if isinstance(file, io.IOBase):
            file.seek(start)
