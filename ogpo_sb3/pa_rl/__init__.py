"""PA-RL: a policy cloned from actions that the critics have improved."""

from ogpo_sb3.pa_rl.pa_rl import PARL
from ogpo_sb3.pa_rl.policies import DiffusionPolicy, FASTPolicy, FlowPolicy, MIPPolicy, ShortcutPolicy

__all__ = ["PARL", "DiffusionPolicy", "FASTPolicy", "FlowPolicy", "MIPPolicy", "ShortcutPolicy"]
