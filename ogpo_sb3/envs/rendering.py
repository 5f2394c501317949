"""Drawing without a display: whether an OpenGL back-end works, tried in another process, and a watch over what hangs.

A broken or contended OpenGL driver does not fail, it waits, inside C code that no exception reaches. Hence processes and
time limits.
"""

import logging
import multiprocessing
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

logger = logging.getLogger("ogpo_sb3")

# Seconds that one picture may take; software rendering on a loaded machine needs a few.
DRAWING_LIMIT = 120.0

_ONE_PICTURE = """
import mujoco
model = mujoco.MjModel.from_xml_string(
    '<mujoco><worldbody><light pos="0 0 2"/><camera name="above" pos="0 0 2"/><geom size=".4"/></worldbody></mujoco>'
)
data = mujoco.MjData(model)
mujoco.mj_forward(model, data)
with mujoco.Renderer(model, 64, 64) as renderer:
    renderer.update_scene(data, camera="above")
    assert renderer.render().std() > 0, "the picture is empty"
"""


@cache
def probe(backend: str, limit: float = 60.0) -> str | None:
    """Draw one small picture in a process of its own; the answer is kept.

    :param backend: value of ``MUJOCO_GL``: "egl", "osmesa" or "glfw".
    :param limit: seconds after which the process is ended.
    :return: None if the picture came, else one line about what happened instead.
    """
    try:
        ran = subprocess.run(
            [sys.executable, "-c", _ONE_PICTURE],
            env={**os.environ, "MUJOCO_GL": backend},
            capture_output=True,
            text=True,
            timeout=limit,
        )
    except subprocess.TimeoutExpired:
        return f"MUJOCO_GL={backend} drew nothing within {limit:.0f} s"
    if ran.returncode == 0:
        return None
    lines = [line for line in ran.stderr.splitlines() if line.strip()]
    return f"MUJOCO_GL={backend} fails: {lines[-1].strip() if lines else f'exit status {ran.returncode}'}"


@contextmanager
def watched(what: str, limit: float | None = None) -> Iterator[None]:
    """Watch over code that draws: if it does not come back, say what to change.

    A worker process (of ``SubprocVecEnv``, say) is ended as well, since its parent would wait for it forever; the parent
    then fails with an ``EOFError`` or ``BrokenPipeError`` below the message.

    :param what: the environment, for the message.
    :param limit: seconds; ``DRAWING_LIMIT`` when None.
    """
    seconds = DRAWING_LIMIT if limit is None else limit
    timer = threading.Timer(seconds, _hangs, (what, seconds))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _hangs(what: str, seconds: float) -> None:
    backend = os.environ.get("MUJOCO_GL", "unset")
    logger.error(
        f"{what} has not finished a picture in {seconds:.0f} s (MUJOCO_GL is {backend}). Set MUJOCO_GL to another of egl and "
        'osmesa, start worker processes with start_method="spawn", or run fewer of them at once.'
    )
    if multiprocessing.parent_process() is not None:
        logging.shutdown()
        os._exit(1)
