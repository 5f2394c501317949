"""RLPD and SAC from demonstrations: off-policy references without a generative policy."""

from ogpo_sb3.rlpd.policies import DiffusionPolicy, FASTPolicy, FlowPolicy, MIPPolicy, ShortcutPolicy
from ogpo_sb3.rlpd.rlpd import RLPD, SACfD

__all__ = ["RLPD", "DiffusionPolicy", "FASTPolicy", "FlowPolicy", "MIPPolicy", "SACfD", "ShortcutPolicy"]
