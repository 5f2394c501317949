"""What all variants of a task and seed share: demonstrations and one cloned policy."""

import pathlib
from typing import Any

from ogpo_sb3.common.files import locked, write_json
from ogpo_sb3.common.versions import versions
from ogpo_sb3.compare import cloning
from ogpo_sb3.compare.cloning import Cloned

from benchmarks.learning.settings import cloning_settings, digest, make_env, part

__all__ = ["Cloned", "clone", "demonstrations", "locked", "versions", "write_json"]


def demonstrations(env_id: str, settings: dict[str, Any], seed: int, folder: pathlib.Path) -> str:
    """
    Source of a task's demonstrations; an expert's are collected once and recorded with the rewards of the variant.

    :param env_id: registered task
    :param settings: flat
    :param seed: of the run
    :param folder: shared by all runs
    """
    episodes, noise = settings["demo_episodes"], settings["demo_noise"]
    return cloning.demonstrations(env_id, part(settings, "env"), episodes, noise, seed, folder)


def clone(
    env_id: str, settings: dict[str, Any], seed: int, source: str, folder: pathlib.Path, episodes: int, evaluation_env: Any
) -> Cloned:
    """
    See :func:`ogpo_sb3.compare.cloning.clone`; one checkpoint for each set of cloning settings.

    :param env_id: registered task
    :param settings: flat
    :param seed: of the run
    :param source: of the demonstrations
    :param folder: shared by all runs
    :param episodes: of the evaluation
    :param evaluation_env: function that makes one
    """
    own = cloning_settings(settings)
    stem = folder / f"bc_seed{seed}_{digest([own, episodes])}"
    return cloning.clone(own, lambda: make_env(env_id, settings), evaluation_env, seed, source, stem, episodes)
