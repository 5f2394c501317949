"""Pictures as observations: their spaces, the choice between state and pictures, a camera for Gymnasium's MuJoCo engines."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from gymnasium import spaces

from ogpo_sb3.envs.rendering import watched

OBS_TYPES = ("state", "image", "state_image")


def check_obs_type(environment: str, obs_type: str, known: tuple[str, ...] = OBS_TYPES) -> None:
    """Refuse an unknown kind of observation.

    :param environment: name for the message.
    :param obs_type: what was asked for.
    :param known: what there is.
    :raises ValueError: it is not among them.
    """
    if obs_type not in known:
        raise ValueError(f"{environment}: obs_type is one of {', '.join(known)}, not {obs_type!r}.")


def picture_size(environment: str, image_size: int | tuple[int, int]) -> tuple[int, int]:
    """Height and width of a picture, checked.

    :param environment: name for the message.
    :param image_size: pixels: one number for a square, or (height, width).
    :return: (height, width).
    :raises ValueError: not one or two whole numbers of at least 8.
    """
    sides = (image_size, image_size) if isinstance(image_size, (int, np.integer)) else image_size
    whole = isinstance(sides, (tuple, list)) and len(sides) == 2
    if not whole or not all(isinstance(side, (int, np.integer)) and side >= 8 for side in sides):
        raise ValueError(f"{environment}: image_size is one or two whole numbers of at least 8, not {image_size!r}.")
    return int(sides[0]), int(sides[1])


def picture_space(size: tuple[int, int]) -> spaces.Box:
    """Space of a picture.

    :param size: (height, width).
    :return: Box of (height, width, 3) uint8.
    """
    return spaces.Box(0, 255, (*size, 3), np.uint8)


def observation_space(obs_type: str, state: spaces.Box, others: Mapping[str, spaces.Space[Any]]) -> spaces.Space[Any]:
    """The space that belongs to a kind of observation.

    :param obs_type: "image" leaves the state out, all others have it.
    :param state: space of the state vector.
    :param others: spaces of what is observed beside it, by name: pictures, none for "state".
    :return: the only part as it is, or a Dict of several, "state" first.
    """
    parts = {**({} if obs_type == "image" else {"state": state}), **others}
    return spaces.Dict(parts) if len(parts) > 1 else next(iter(parts.values()))


def observation(obs_type: str, state: np.ndarray, others: Mapping[str, np.ndarray]) -> Any:
    """What ``observation_space`` describes.

    :param obs_type: as there.
    :param state: the state vector.
    :param others: what is observed beside it, by name.
    :return: an array, or a dictionary of several.
    """
    parts = {**({} if obs_type == "image" else {"state": state}), **others}
    return parts if len(parts) > 1 else next(iter(parts.values()))


class EngineCamera:
    """The default camera of one of Gymnasium's MuJoCo environments, at a size of its own.

    The engine's own renderer keeps drawing videos at its size. Each has its OpenGL context, and neither makes it the current
    one before it draws, so whoever draws must do that.

    :param engine: a ``gymnasium.envs.mujoco.MujocoEnv``.
    :param size: (height, width).
    :param name: the environment, for the message about a renderer that hangs.
    """

    def __init__(self, engine: Any, size: tuple[int, int], name: str) -> None:
        from gymnasium.envs.mujoco.mujoco_rendering import MujocoRenderer

        theirs = engine.mujoco_renderer
        self._name = name
        self._renderer = MujocoRenderer(
            theirs.model, theirs.data, default_cam_config=theirs.default_cam_config, height=size[0], width=size[1]
        )

    def draw(self) -> np.ndarray:
        """The picture of now: (height, width, 3) uint8, an array of its own."""
        with watched(self._name):
            make_current(self._renderer)
            return np.array(self._renderer.render("rgb_array"))

    def close(self) -> None:
        """Free the renderer."""
        make_current(self._renderer)
        self._renderer.close()


def make_current(renderer: Any) -> None:
    """Let a renderer draw into its own context, where another has drawn in between.

    :param renderer: a ``MujocoRenderer``; one that has not drawn yet has nothing to make current.
    """
    if renderer.viewer is not None:
        renderer.viewer.make_context_current()
