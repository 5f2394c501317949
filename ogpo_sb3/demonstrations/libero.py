"""Read .hdf5 files as LIBERO publishes them: robomimic's container with other keys, one file per task (Liu et al. 2023)."""

import json
from collections.abc import Sequence
from pathlib import Path

from ogpo_sb3.demonstrations import robomimic
from ogpo_sb3.demonstrations.dataset import DemonstrationSet

# The end effector's position and orientation (axis-angle), the fingers, the joints.
VECTORS = ("ee_pos", "ee_ori", "gripper_states", "joint_states")
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
    :param keys: vectors to concatenate to "state"; None for ``ee_pos``, ``ee_ori``, ``gripper_states``, ``joint_states``.
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
        vectors = tuple(key for key in VECTORS if key in present) if keys is None else tuple(keys)
        layout = robomimic.Layout(vectors, pictures, upside_down)
        meta = {"source": str(path), "format": "LIBERO", "observation_keys": robomimic.widths(file, path, demos[0], layout)}
        if "problem_info" in attributes:
            instruction = json.loads(attributes["problem_info"])["language_instruction"]
            meta["instruction"] = instruction if isinstance(instruction, str) else "".join(instruction)
        for key in ("bddl_file_name", "env_name"):
            if key in attributes:
                meta[key] = str(attributes[key])
        if "env_args" in attributes:
            meta["env_args"] = json.loads(attributes["env_args"])
        columns = robomimic.steps(file, path, demos, **robomimic.outcomes(file, demos))
        observations, final = robomimic.read_observations(file, path, demos, layout)
    return DemonstrationSet(observations=observations, final_observations=final, **columns, meta=meta)


def is_libero(file: object, demo: str) -> bool:
    """Whether an open file with episodes is LIBERO's.

    :param file: an open ``h5py.File``.
    :param demo: name of an episode.
    """
    data = file["data"]  # type: ignore[index]
    return "problem_info" in data.attrs or any(key in data[demo].get("obs", ()) for key in PICTURES.values())
