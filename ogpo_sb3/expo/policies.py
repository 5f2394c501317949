"""A generative base policy whose actions a Gaussian policy edits."""

from ogpo_sb3.common import policies
from ogpo_sb3.common.edits import EditPolicy


class FlowPolicy(EditPolicy, policies.FlowPolicy):
    """A flow and its edits. See :class:`ogpo_sb3.common.policies.GCPPolicy` for the arguments."""


class DiffusionPolicy(EditPolicy, policies.DiffusionPolicy):
    """A diffusion policy and its edits. See :class:`ogpo_sb3.common.policies.GCPPolicy` for the arguments."""
