"""Writing files so that an interruption never leaves half a file or destroys the previous one."""

import os
import pathlib
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO


def with_suffix(path: str | os.PathLike[str], suffix: str) -> pathlib.Path:
    """
    SB3's rule: the suffix is added only where the name has none.

    :param path: target
    :param suffix: with the dot
    """
    path = pathlib.Path(path)
    return path if path.suffix else path.with_name(path.name + suffix)


@contextmanager
def atomic_write(path: str | os.PathLike[str]) -> Iterator[IO[bytes]]:
    """
    A binary file that takes its name only once it is complete and on disk; folders are made.

    :param path: final path
    """
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(temporary, 0o666 & ~umask)  # mkstemp makes private files; a saved model follows the user's umask
        os.replace(temporary, path)
    except BaseException:
        pathlib.Path(temporary).unlink(missing_ok=True)
        raise
