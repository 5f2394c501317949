"""Models from files, whatever of this package or of Stable-Baselines3 wrote them."""

import io
import json
import zipfile
from pathlib import Path
from typing import Any

import gymnasium as gym
from stable_baselines3.common.base_class import BaseAlgorithm

from ogpo_sb3.common.policy_files import read_policy_file
from ogpo_sb3.common.saving import CHECKPOINT_SUFFIX
from ogpo_sb3.zoo import ALGORITHMS


def load_model(algo: str, file: str | Path, env: gym.Env) -> BaseAlgorithm:
    """A model for prediction, on the CPU.

    :param algo: zoo id of an algorithm of this package, or name of one of Stable-Baselines3's or sb3-contrib's.
    :param file: zip of ``model.save``, a checkpoint of ``model.save_checkpoint`` (without what it has collected), or a zip of
        ``model.policy.save``, which becomes an untrained model with that policy.
    :param env: an environment of single steps.
    :raises ValueError: an unknown algorithm, no such file, or a checkpoint of another algorithm.
    """
    file = Path(file).expanduser()
    if not file.exists() and file.with_suffix(".zip").exists():
        file = file.with_suffix(".zip")
    if not file.exists():
        raise ValueError(f"{file}: there is no such model file")
    algorithm = algorithm_of(algo)
    # A replay buffer of the training's size would be allocated for nothing.
    custom: dict[str, Any] = {"buffer_size": 1} if hasattr(algorithm, "load_replay_buffer") else {}
    if file.suffix == CHECKPOINT_SUFFIX:
        found = about_checkpoint(file)["algorithm"]
        if found != algorithm.__name__:
            raise ValueError(f"{file} is a checkpoint of {found}, wanted one of {algorithm.__name__}")
        with zipfile.ZipFile(file) as archive:
            return algorithm.load(io.BytesIO(archive.read("model.zip")), device="cpu", custom_objects=custom)
    try:
        read_policy_file(file)
    except ValueError:
        return algorithm.load(file, device="cpu", custom_objects=custom)
    return algorithm("FlowPolicy", env, pretrained_policy=str(file), buffer_size=1000, device="cpu")  # type: ignore[call-arg]


def about_checkpoint(file: Path) -> dict[str, Any]:
    """
    :param file: written by ``model.save_checkpoint``
    :return: ``algorithm`` (a class's name), ``num_timesteps``, ``format``
    :raises ValueError: another kind of file
    """
    try:
        with zipfile.ZipFile(file) as archive:
            return dict(json.loads(archive.read("about.json")))
    except (zipfile.BadZipFile, KeyError, OSError) as error:
        raise ValueError(f"{file} should be a checkpoint written by save_checkpoint, found another kind of file") from error


def algorithm_of(name: str) -> type[BaseAlgorithm]:
    """
    :param name: zoo id, or name of an algorithm of Stable-Baselines3 or sb3-contrib in lower case
    :raises ValueError: there is none
    """
    import stable_baselines3

    if name in ALGORITHMS:
        return ALGORITHMS[name]
    found = getattr(stable_baselines3, name.upper(), None)
    if found is None:
        try:
            import sb3_contrib
        except ImportError:
            pass
        else:
            found = getattr(sb3_contrib, name.upper(), None)
    if found is None:
        raise ValueError(f"there is no algorithm {name!r}, wanted one of {', '.join(ALGORITHMS)} or Stable-Baselines3's")
    return found
