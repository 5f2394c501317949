"""Demonstrations: one in-memory form, and a file for every format it is published in."""

from ogpo_sb3.demonstrations.dataset import DemonstrationSet
from ogpo_sb3.demonstrations.loading import load
from ogpo_sb3.demonstrations.saving import save

__all__ = ["DemonstrationSet", "load", "save"]
