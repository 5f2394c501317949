"""DSRL: reinforcement learning in the latent space of a frozen policy."""

from ogpo_sb3.dsrl.dsrl import DSRL
from ogpo_sb3.dsrl.policies import DiffusionPolicy, FlowPolicy, MIPPolicy, ShortcutPolicy

__all__ = ["DSRL", "DiffusionPolicy", "FlowPolicy", "MIPPolicy", "ShortcutPolicy"]
