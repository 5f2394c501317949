"""What of a comparison is refused before its runs fail of it one after the other: cloning, data, device, folder."""

import math
import pathlib
from collections.abc import Mapping
from typing import Any

import torch as th

from ogpo_sb3.common.schedules import as_schedule
from ogpo_sb3.compare.settings import decode
from ogpo_sb3.envs.registry import TASKS

# Smallest counts of cloning, and ranges of its numbers.
_COUNTS = {"bc_steps": 0, "demo_episodes": 1, "bc_batch_size": 1, "bc_eval_freq": 1}
_RANGES = {"demo_noise": (0.0, math.inf), "bc_tau": (0.0, 1.0)}


def check_cloning(env: str, own: Mapping[str, Any]) -> None:
    """
    :param env: id, for the sentence
    :param own: flat settings of a cloned policy
    :raises ValueError: one that cloning cannot have
    """
    for name, least in _COUNTS.items():
        value = own.get(name, least)
        # As everywhere, a count may be written as a float: 4e4.
        if not _is_number(value) or not math.isfinite(value) or value < least or value != int(value):
            raise ValueError(f"{name} on {env} must be a whole number of at least {least}, found {value!r}")
    for name, (low, high) in _RANGES.items():
        value = own.get(name, low)
        if not _is_number(value) or not (low <= value <= high and math.isfinite(value)):
            raise ValueError(f"{name} on {env} must be a number in [{low:g}, {high:g}], found {value!r}")
    clip = own.get("clip_bc")
    if clip is not None and not (_is_number(clip) and 0.0 < clip <= 1.0):
        raise ValueError(f"clip_bc on {env} must be a success rate in (0, 1] or None, found {clip!r}")
    if "bc_learning_rate" in own:
        as_schedule(decode(own["bc_learning_rate"]), "bc_learning_rate")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def check_source(env: str, source: str) -> None:
    """
    Read demonstrations, unless an expert would have to collect them.

    :param env: id, for the sentence
    :param source: of its demonstrations
    :raises ValueError: there are none, or they cannot be read
    """
    from ogpo_sb3.demonstrations import load

    if source.startswith("expert:"):
        name = source.removeprefix("expert:").partition("?")[0]
        # The number of episodes may follow.
        task = TASKS.get(name) or TASKS.get(name.rpartition(":")[0])
        if task is None or task.expert is None:
            known = ", ".join(f"expert:{known.id}" for known in TASKS.values() if known.expert is not None)
            raise ValueError(f"demonstrations of {env}: there is no expert {source!r}, wanted one of {known}")
        return
    if ":" not in source and not pathlib.Path(source.partition("?")[0]).expanduser().exists():
        raise ValueError(f"demonstrations of {env} should be a file or <kind>:<name>, found no file {source}")
    try:
        load(source)
    except (ValueError, OSError, ImportError, LookupError, RuntimeError) as error:
        raise ValueError(f"demonstrations of {env}: {' '.join(str(error).split())}") from error


def check_device(device: str) -> None:
    """
    :param device: of every run
    :raises ValueError: torch has none of that name; whether the machine has it, only the machine of a run knows
    """
    try:
        known = device == "auto" or bool(th.device(device))
    except RuntimeError:
        known = False
    if not known:
        raise ValueError(f"--device must be a device of torch, such as cpu, cuda or cuda:1, or auto, found {device!r}")
