"""Writing files so that an interruption never leaves half a file or destroys the previous one."""

import fcntl
import json
import os
import pathlib
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any


def with_suffix(path: str | os.PathLike[str], suffix: str) -> pathlib.Path:
    """
    SB3's rule: the suffix is added only where the name has none.

    :param path: target
    :param suffix: with the dot
    """
    path = pathlib.Path(path)
    return path if path.suffix else path.with_name(path.name + suffix)


def check_folder(path: str | os.PathLike[str], name: str) -> None:
    """
    :param path: of a folder that is to be made, or used
    :param name: of the argument that asks for it
    :raises ValueError: a file stands in its place, or in that of a folder above it
    """
    if (file := _file_in_the_way(pathlib.Path(path))) is not None:
        raise ValueError(f"{name}: {file} is a file, wanted a folder")


def check_out(path: pathlib.Path) -> None:
    """
    :param path: what a command's ``--out`` says
    :raises ValueError: as :func:`check_folder`
    """
    if (file := _file_in_the_way(path)) is not None:
        raise ValueError(f"--out must be a folder, found the file {file}")


def _file_in_the_way(path: pathlib.Path) -> pathlib.Path | None:
    return next((p for p in (path, *path.parents) if p.exists() and not p.is_dir()), None)


@contextmanager
def atomic_write(path: str | os.PathLike[str]) -> Iterator[IO[bytes]]:
    """
    A binary file that takes its name only once it is complete and on disk; folders are made.

    :param path: final path
    """
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        yield file


@contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[pathlib.Path]:
    """
    The name of an empty file beside the final one, for libraries that open their file themselves; what they have written
    takes its final name once it is complete and on disk. Folders are made.

    :param path: final path
    :return: a hidden path with the same suffix
    """
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem}.", suffix=path.suffix)
    os.close(handle)
    temporary = pathlib.Path(name)
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(temporary, 0o666 & ~umask)  # mkstemp makes private files; a saved model follows the user's umask
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_json(path: str | os.PathLike[str], content: Any) -> None:
    """
    :param path: file, replaced as a whole
    :param content: what JSON can hold
    """
    with atomic_write(path) as file:
        file.write(json.dumps(content, indent=2).encode())


def read_json(path: str | os.PathLike[str]) -> Any:
    """
    :param path: file written by :func:`write_json`
    :return: its content
    :raises ValueError: it is cut off, or something else
    """
    try:
        return json.loads(pathlib.Path(path).read_text())
    except ValueError as error:  # of the text's encoding too
        raise ValueError(
            f"{path} should hold JSON and cannot be read ({error}): remove it or choose another folder"
        ) from error


@contextmanager
def locked(path: pathlib.Path, wait: bool = True, patience: float = 0.0) -> Iterator[None]:
    """
    One process at a time; the lock goes with the process, however it ends.

    :param path: lock file
    :param wait: until it is free
    :param patience: without ``wait``, seconds to try for
    :raises RuntimeError: another process has it
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    deadline = time.monotonic() + patience
    with path.open("w") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
                break
            except BlockingIOError as error:
                if time.monotonic() >= deadline:
                    raise RuntimeError(
                        f"{path.parent} is in use by another process: wait for it or choose another --out"
                    ) from error
                time.sleep(0.1)
        yield
