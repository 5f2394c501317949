"""Policies that DPPO accepts by name: those of OGPO with a value network; the same BC checkpoints start them."""

from ogpo_sb3.common.actor_value_policies import ActorValuePolicy
from ogpo_sb3.gcp import DiffusionGCP, FlowGCP


class FlowPolicy(ActorValuePolicy):
    """Flow actor and value network, for Box, image and Dict observations. See :class:`ActorValuePolicy`."""

    gcp_class = FlowGCP


class DiffusionPolicy(ActorValuePolicy):
    """Diffusion actor and value network, for Box, image and Dict observations. See :class:`ActorValuePolicy`."""

    gcp_class = DiffusionGCP
