"""What each algorithm gets in a comparison before the user changes anything."""

from collections.abc import Callable
from typing import Any

from ogpo_sb3 import presets
from ogpo_sb3.common.names import check_known
from ogpo_sb3.compare.settings import CLONING, flat
from ogpo_sb3.envs.registry import task_of

PRESETS: dict[str, Callable[[str], dict[str, Any]]] = {
    "quick": lambda env_id: presets.quick(),
    "laptop": presets.laptop,
    "paper": presets.paper,
}
# In which an algorithm differs from its rivals: never set for all of them.
_DEFINING = {"best_of_n", "success_bc", "advantage", "chi2_coef", "kl_coef", "extraction"}
# By algorithm and preset, what it needs besides the values that all share. An algorithm that is not listed has no presets.
OWN: dict[str, dict[str, dict[str, Any]]] = {"ogpo": {}, "ogpo_plus": {}, "ogpo_ca": {}, "ogpo_chi2": {}}
_CLONING: dict[str, dict[str, Any]] = {
    "quick": {},
    "laptop": dict(bc_eval_freq=100),  # Door, Hammer and Pen reach clip_bc within a few hundred updates
    "paper": dict(bc_batch_size=256, bc_tau=0.005, bc_eval_freq=5_000),
}


def shared(preset: str, env_id: str) -> dict[str, Any]:
    """
    Flat settings of a preset that all algorithms share on a task, those of cloning and of the environment included.

    :param preset: key of ``PRESETS``
    :param env_id: registered task
    :raises ValueError: unknown preset, or one that does not know the task
    """
    check_known("preset", preset, PRESETS)
    found = {**CLONING, **_CLONING[preset], **flat(PRESETS[preset](env_id))}
    for name in (*_DEFINING, "demonstrations"):
        found.pop(name, None)
    if "chunk_size" not in found:
        task = task_of(env_id)
        found["chunk_size"] = task.chunk_size if task is not None else 1
    if preset != "paper":
        found.update({f"env.{name}": value for name, value in presets.laptop_env(env_id).items()})
    return found


def own(preset: str, algo: str) -> dict[str, Any]:
    """
    Flat settings of one algorithm on top of :func:`shared`.

    :param preset: key of ``PRESETS``
    :param algo: zoo id
    :raises ValueError: the algorithm has no presets
    """
    if algo not in OWN:
        raise ValueError(f"algorithm {algo!r} has no preset {preset!r} for comparisons, wanted one of {sorted(OWN)}")
    return OWN[algo].get(preset, {})
