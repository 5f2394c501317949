"""Read .hdf5 files as LIBERO publishes them: robomimic's container with other keys, one file per task (Liu et al. 2023)."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ogpo_sb3.demonstrations import robomimic
from ogpo_sb3.demonstrations.dataset import DemonstrationSet

# What the files call robot_states, under the simulator's names.
ROBOT_STATES = {"robot0_gripper_qpos": 2, "robot0_eef_pos": 3, "robot0_eef_quat": 4}
# The simulator's names of the cameras, and what the files call their pictures.
PICTURES = {"agentview": "agentview_rgb", "robot0_eye_in_hand": "eye_in_hand_rgb"}


def read(
    path: Path,
    filter_key: str | None = None,
    keys: Sequence[str] | None = None,
    images: Sequence[str] | None = None,
) -> DemonstrationSet:
    """Read a LIBERO file; its pictures, stored upside down, are handed out upright and stay in the file until indexed.

    :param path: the file.
    :param filter_key: as in :func:`ogpo_sb3.demonstrations.robomimic.read`.
    :param keys: vectors of ``obs`` to concatenate to "state", such as ``ee_pos`` and ``joint_states``; None for the nine
        numbers of ``robot_states``, which an environment made with ``state_keys=tuple(ROBOT_STATES)`` observes too.
    :param images: cameras to read, () for none; None for those the file has.
    :return: its data set; ``meta["instruction"]`` is the task in words.
    """
    with robomimic.opened(path) as file:
        demos = robomimic.demo_names(file, path, filter_key)
        present = file["data"][demos[0]]["obs"]
        pictures = {name: key for name, key in PICTURES.items() if key in present}
        for name in images or ():
            if name not in pictures:
                raise ValueError(f"{path}: there is no camera {name}, found {sorted(pictures)}.")
        if images is not None:
            pictures = {name: pictures[name] for name in images}
        attributes = file["data"].attrs
        # The convention of the renderer that recorded them; LIBERO's own recordings are all OpenGL's.
        upside_down = attributes.get("macros_image_convention", "opengl") == "opengl"
        layout = robomimic.Layout(tuple(keys or ()), pictures, upside_down)
        widths = ROBOT_STATES if keys is None else robomimic.widths(file, path, demos[0], layout)
        meta = {"source": str(path), "format": "LIBERO", "observation_keys": dict(widths)}
        if "problem_info" in attributes:
            instruction = json.loads(attributes["problem_info"])["language_instruction"]
            meta["instruction"] = instruction if isinstance(instruction, str) else "".join(instruction)
        for key in ("bddl_file_name", "env_name"):
            if key in attributes:
                meta[key] = str(attributes[key])
        if "env_args" in attributes:
            meta["env_args"] = json.loads(attributes["env_args"])
        columns = robomimic.steps(file, path, demos)
        columns.update(robomimic.outcomes(file, demos))
        observations, final = robomimic.read_observations(file, path, demos, layout)
        if keys is None:
            states = _robot_states(file, path, demos)
            observations = {"state": states, **observations} if pictures else states
            final = None  # robot_states holds nothing after the last action
    return DemonstrationSet(observations=observations, final_observations=final, **columns, meta=meta)


def _robot_states(file: Any, path: Path, demos: Sequence[str]) -> np.ndarray:
    width = sum(ROBOT_STATES.values())
    found = []
    for name in demos:
        group = file["data"][name]
        wanted = (len(group["actions"]), width)
        if "robot_states" not in group or group["robot_states"].shape != wanted:
            shape = group["robot_states"].shape if "robot_states" in group else sorted(group)
            raise ValueError(f"{path}: data/{name}/robot_states must have the shape {wanted}, found {shape}.")
        found.append(group["robot_states"][()])
    return np.concatenate(found).astype(np.float32)


def is_libero(file: Any, demo: str) -> bool:
    """Whether an open file with episodes is LIBERO's.

    :param file: an open ``h5py.File``.
    :param demo: name of an episode.
    """
    data = file["data"]
    return "problem_info" in data.attrs or any(key in data[demo].get("obs", ()) for key in PICTURES.values())
