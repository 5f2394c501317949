"""Models from files, whatever of this package or of Stable-Baselines3 wrote them."""

import io
import json
import zipfile
from pathlib import Path
from typing import Any

import gymnasium as gym
from stable_baselines3.common.base_class import BaseAlgorithm

from ogpo_sb3.common.actor_value_policies import ActorValuePolicy
from ogpo_sb3.common.policy_files import check_spaces, read_policy_file
from ogpo_sb3.common.pretraining import adopt_checkpoint
from ogpo_sb3.common.saving import CHECKPOINT_SUFFIX
from ogpo_sb3.zoo import ALGORITHMS


def load_model(algo: str, file: str | Path, env: gym.Env) -> BaseAlgorithm:
    """A model for prediction, on the CPU.

    :param algo: zoo id of an algorithm of this package, or name of one of Stable-Baselines3's or sb3-contrib's.
    :param file: zip of ``model.save``, a checkpoint of ``model.save_checkpoint`` (without what it has collected), or a zip of
        ``model.policy.save``, of any family that the algorithm knows, which becomes an untrained model with that policy.
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
        content = read_policy_file(file)
    except ValueError:
        return algorithm.load(file, device="cpu", custom_objects=custom)
    return _around_policy(algorithm, file, content, env)


def _around_policy(algorithm: type[BaseAlgorithm], file: Path, content: dict[str, Any], env: gym.Env) -> BaseAlgorithm:
    """An untrained model with the policy of a file."""
    family = content["policy_class"]
    if family not in algorithm.policy_aliases:
        raise ValueError(f"{file} holds a {family}, wanted one that {algorithm.__name__} knows: {[*algorithm.policy_aliases]}")
    policy_class: Any = algorithm.policy_aliases[family]
    settings: dict[str, Any] = dict(
        device="cpu", **({"buffer_size": 1000} if hasattr(algorithm, "load_replay_buffer") else {})
    )
    if not (content["data"].get("frozen_steps") and issubclass(policy_class, ActorValuePolicy)):
        return algorithm(family, env, pretrained_policy=str(file), **settings)  # type: ignore[call-arg]
    # Two networks share the steps of DPPO's fine-tuned policy: it cannot be started from, but it acts as it is.
    chunk_size, policy_kwargs = adopt_checkpoint(file, family, None)
    model = algorithm(family, env, chunk_size=chunk_size, policy_kwargs=policy_kwargs, **settings)  # type: ignore[call-arg]
    check_spaces(file, content, model)
    model.policy = policy_class.load(file, device="cpu")
    return model


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
