"""A generative base policy whose actions a Gaussian policy edits."""

from ogpo_sb3.common.edits import EditPolicy
from ogpo_sb3.common.policies import for_families


POLICIES = for_families(EditPolicy, __name__)
FlowPolicy, DiffusionPolicy, ShortcutPolicy, MIPPolicy, FASTPolicy = POLICIES
