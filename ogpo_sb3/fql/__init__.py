"""FQL: a flow and the one-step policy that is distilled from it."""

from ogpo_sb3.fql.fql import FQL
from ogpo_sb3.fql.policies import DiffusionPolicy, FlowPolicy, MIPPolicy, ShortcutPolicy

__all__ = ["FQL", "DiffusionPolicy", "FlowPolicy", "MIPPolicy", "ShortcutPolicy"]
