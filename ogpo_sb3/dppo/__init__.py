"""DPPO: PPO over the denoising steps of diffusion and flow policies."""

from ogpo_sb3.dppo.dppo import DPPO
from ogpo_sb3.dppo.policies import DiffusionPolicy, FASTPolicy, FlowPolicy, MIPPolicy, ShortcutPolicy

__all__ = ["DPPO", "DiffusionPolicy", "FASTPolicy", "FlowPolicy", "MIPPolicy", "ShortcutPolicy"]
