"""Generative control policies: flow today, further families behind the same interface."""

from ogpo_sb3.gcp.base import Chain, GenerativeControlPolicy
from ogpo_sb3.gcp.flow import FlowGCP

__all__ = ["Chain", "FlowGCP", "GenerativeControlPolicy"]
