"""Demonstrations: one in-memory form, and a reader for every format it is published in."""

from ogpo_sb3.demonstrations.dataset import DemonstrationSet
from ogpo_sb3.demonstrations.loading import load

__all__ = ["DemonstrationSet", "load"]
