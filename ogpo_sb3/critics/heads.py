"""Kinds of critic heads, by name."""

import inspect
from typing import Any

from ogpo_sb3.critics.ensemble import CriticEnsemble
from ogpo_sb3.critics.hl_gauss import HLGaussEnsemble, support_of
from ogpo_sb3.critics.mip_q import MIPQEnsemble

HEADS: dict[str, type[CriticEnsemble]] = {"mse": CriticEnsemble, "hl_gauss": HLGaussEnsemble, "mip_q": MIPQEnsemble}


def options_of(head: str) -> set[str]:
    """
    :param head: one of ``HEADS``
    :return: names of the arguments that only this kind has
    :raises ValueError: no such kind
    """
    if head not in HEADS:
        raise ValueError(f"critic_head must be one of {tuple(HEADS)}, found {head!r}")
    own, common = (set(inspect.signature(kind).parameters) for kind in (HEADS[head], CriticEnsemble))
    return own - common


def make_ensemble(head: str, options: dict[str, Any] | None, *args: Any) -> CriticEnsemble:
    """
    :param head: one of ``HEADS``
    :param options: arguments that only this kind has
    :param args: those that all have, see :class:`CriticEnsemble`
    :raises ValueError: an unknown kind or option
    """
    unknown = sorted(set(options or {}) - options_of(head))
    if unknown:
        known = sorted(options_of(head)) or "no options"
        raise ValueError(f"critic_head_kwargs {unknown} are unknown to critic_head={head!r}, which has {known}")
    return HEADS[head](*args, **(options or {}))


def with_support(policy_kwargs: dict[str, Any] | None, target_range: tuple[float, float] | None) -> dict[str, Any] | None:
    """
    Derive a histogram's support from the range that TD targets are clamped to, where none is given.

    :param policy_kwargs: of a policy
    :param target_range: of an algorithm
    :return: ``policy_kwargs``, with ``v_min`` and ``v_max`` where they were missing and a range is known
    :raises ValueError: too few bins
    """
    if policy_kwargs is None or target_range is None or policy_kwargs.get("critic_head") != "hl_gauss":
        return policy_kwargs
    options = dict(policy_kwargs.get("critic_head_kwargs") or {})
    if options.get("v_min") is not None or options.get("v_max") is not None:
        return policy_kwargs
    smoothing = {name: options[name] for name in ("n_bins", "sigma_ratio") if name in options}
    options["v_min"], options["v_max"] = support_of(target_range, **smoothing)
    return {**policy_kwargs, "critic_head_kwargs": options}
