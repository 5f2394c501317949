"""Refusal of constructor options that are out of range or contradict each other."""

import math
import sys
from typing import Any


def check_shared(
    tau: float,
    actor_tau: float,
    gamma: float,
    utd_critic: float | None,
    utd_actor: float,
    offline_ratio: float,
    max_grad_norm: float,
) -> None:
    """Ranges of the arguments that every algorithm has, see :class:`ogpo_sb3.OGPO`."""
    for name, value, low, high in (
        ("tau", tau, 0.0, 1.0),
        ("actor_tau", actor_tau, 0.0, 1.0),
        ("gamma", gamma, 0.0, 1.0),
        ("utd_critic", 0.0 if utd_critic is None else utd_critic, 0.0, sys.float_info.max),
        ("utd_actor", utd_actor, 0.0, sys.float_info.max),
        ("offline_ratio", offline_ratio, 0.0, 1.0),
        ("max_grad_norm", max_grad_norm, sys.float_info.min, math.inf),
    ):
        if not low <= value <= high:
            raise ValueError(f"{name} must lie in [{low:g}, {high:g}], found {value}")


def check_at_least(**limits: tuple[float, int]) -> None:
    """
    :param limits: by argument name, the value given and the smallest that makes sense
    :raises ValueError: a value below its minimum
    """
    for name, (value, least) in limits.items():
        if value < least:
            raise ValueError(f"{name} must be at least {least}, found {value}")


def check_pretraining(
    demonstrations: Any, bc_steps: int, clip_bc: float | None, pretrained_policy: Any, offline_ratio: float
) -> None:
    """Sources of a first policy that are missing or exclude each other, see :class:`ogpo_sb3.OGPO`."""
    if bc_steps < 0:
        raise ValueError(f"bc_steps must be at least 0, found {bc_steps}")
    if bc_steps > 0 and demonstrations is None:
        raise ValueError(f"bc_steps={bc_steps} needs demonstrations, found None")
    if bc_steps > 0 and pretrained_policy is not None:
        raise ValueError(f"bc_steps={bc_steps} and pretrained_policy={str(pretrained_policy)!r} exclude each other: give one")
    if clip_bc is not None and not 0.0 < clip_bc <= 1.0:
        raise ValueError(f"clip_bc is a success rate in (0, 1], found {clip_bc}")
    if clip_bc is not None and bc_steps == 0:
        raise ValueError(f"clip_bc={clip_bc} stops behaviour cloning, but bc_steps is 0")
    if offline_ratio > 0 and demonstrations is None:
        raise ValueError(f"offline_ratio={offline_ratio} needs demonstrations with rewards, found None")
