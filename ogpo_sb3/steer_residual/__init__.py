"""SteerResidual: a chosen latent and an edit of what becomes of it."""

from ogpo_sb3.steer_residual.policies import DiffusionPolicy, FlowPolicy, MIPPolicy, ShortcutPolicy
from ogpo_sb3.steer_residual.steer_residual import SteerResidual

__all__ = ["DiffusionPolicy", "FlowPolicy", "MIPPolicy", "ShortcutPolicy", "SteerResidual"]
