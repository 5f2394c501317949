"""EXPO: a cloned base policy and a Gaussian edit of its actions."""

from ogpo_sb3.expo.expo import EXPO
from ogpo_sb3.expo.policies import DiffusionPolicy, FASTPolicy, FlowPolicy, MIPPolicy, ShortcutPolicy

__all__ = ["EXPO", "DiffusionPolicy", "FASTPolicy", "FlowPolicy", "MIPPolicy", "ShortcutPolicy"]
