"""Which OpenGL back-end MuJoCo draws with where there is no display."""

import logging
import os
import sys

from ogpo_sb3.envs.rendering import probe

logger = logging.getLogger("ogpo_sb3")

# In order of preference: EGL can use a GPU, OSMesa draws on the CPU everywhere.
BACKENDS = ("egl", "osmesa")


def choose_backend() -> str | None:
    """Settle on a back-end before MuJoCo's renderer is imported, and say which in the log of ``ogpo_sb3``.

    A display, ``MUJOCO_GL`` set by the user, and systems other than Linux are left as they are. Otherwise the first of
    EGL and OSMesa that draws a picture, tried in another process under a time limit, is written into ``MUJOCO_GL``, which
    worker processes inherit.

    :return: the back-end; None where the choice is MuJoCo's.
    """
    if os.environ.get("MUJOCO_GL"):
        return os.environ["MUJOCO_GL"]
    if os.environ.get("DISPLAY") or not sys.platform.startswith("linux"):
        return None
    problems: list[str] = []
    for backend in BACKENDS:
        problem = probe(backend)
        if problem is None:
            os.environ["MUJOCO_GL"] = backend
            # PyOpenGL, which EGL and OSMesa contexts go through, has a switch of its own.
            os.environ.setdefault("PYOPENGL_PLATFORM", backend)
            without = f" ({'; '.join(problems)})" if problems else ""
            logger.info(f"Drawing without a display through {backend.upper()}{without}.")
            return backend
        problems.append(problem)
    logger.warning(
        f"Nothing draws without a display: {'; '.join(problems)}. Install libegl1 or libosmesa6, see docs/install.md."
    )
    return None
