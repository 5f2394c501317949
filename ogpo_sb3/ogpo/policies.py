"""Policies that OGPO accepts by name."""

from ogpo_sb3.common.policies import FlowPolicy

__all__ = ["FlowPolicy"]
