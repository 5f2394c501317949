"""The policies that algorithms accept by name: one per generative family, and how an algorithm makes its own of each."""

from collections.abc import Sequence
from typing import TypeVar, cast

from stable_baselines3.common.policies import BasePolicy

from ogpo_sb3.common.gcp_policy import GCPPolicy
from ogpo_sb3.gcp import FASTGCP, MIPGCP, DiffusionGCP, FlowGCP, ShortcutGCP

__all__ = [
    "FAMILIES",
    "DiffusionPolicy",
    "FASTPolicy",
    "FlowPolicy",
    "GCPPolicy",
    "MIPPolicy",
    "ShortcutPolicy",
    "by_name",
    "for_families",
]


class FlowPolicy(GCPPolicy):
    """Policy with a flow-matching actor, for Box, image and Dict observations. See :class:`GCPPolicy`."""

    gcp_class = FlowGCP


class DiffusionPolicy(GCPPolicy):
    """Policy with a diffusion actor, for Box, image and Dict observations. See :class:`GCPPolicy`."""

    gcp_class = DiffusionGCP


class ShortcutPolicy(GCPPolicy):
    """Policy with a shortcut actor, for Box, image and Dict observations. See :class:`GCPPolicy`."""

    gcp_class = ShortcutGCP


class MIPPolicy(GCPPolicy):
    """Policy with a minimal iterative actor, for Box, image and Dict observations. See :class:`GCPPolicy`."""

    gcp_class = MIPGCP


class FASTPolicy(GCPPolicy):
    """Policy with an autoregressive actor over action tokens, for Box, image and Dict observations. See :class:`GCPPolicy`."""

    gcp_class = FASTGCP


# Every family that a policy can be made of. A further one is added here, and to the names that each policies.py unpacks.
FAMILIES: tuple[type[GCPPolicy], ...] = (FlowPolicy, DiffusionPolicy, ShortcutPolicy, MIPPolicy, FASTPolicy)

PolicyT = TypeVar("PolicyT", bound=GCPPolicy)


def for_families(
    base: type[PolicyT], module: str, families: Sequence[type[GCPPolicy]] = FAMILIES
) -> tuple[type[PolicyT], ...]:
    """
    An algorithm's own policy for every generative family, under the family's name.

    The classes must be assigned to these names in ``module``, by which saved models find them again.

    :param base: what the algorithm adds, a subclass of :class:`GCPPolicy`; where it has ``needs_latent``, families without a
        latent are left out
    :param module: the caller's ``__name__``
    :param families: subclasses of :class:`GCPPolicy` that set ``gcp_class``
    :return: a subclass of base and family for each of the families that suit, in their order
    """
    made = []
    for family in families:
        if base.needs_latent and not family.gcp_class.has_latent:
            continue
        text = f"{base.__name__} around a {family.gcp_class.__name__}. See :class:`ogpo_sb3.common.policies.GCPPolicy`."
        attributes = {"__module__": module, "__qualname__": family.__name__, "__doc__": text}
        made.append(cast(type[PolicyT], type(family.__name__, (base, family), attributes)))
    return tuple(made)


def by_name(policies: Sequence[type[GCPPolicy]]) -> dict[str, type[BasePolicy]]:
    """
    An algorithm's ``policy_aliases``.

    :param policies: from :func:`for_families`
    :return: the same by their names
    """
    return {policy.__name__: policy for policy in policies}
