"""Policies that solve a task, and the loop that records them."""

from ogpo_sb3.demonstrations.experts.adroit import AdroitExpert
from ogpo_sb3.demonstrations.experts.rollout import Expert, collect

__all__ = ["AdroitExpert", "Expert", "collect"]
