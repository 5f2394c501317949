"""Generative control policies: plain torch, they know neither environments nor Stable-Baselines3."""

from ogpo_sb3.gcp.base import Chain, GenerativeControlPolicy, owners, row_blocks
from ogpo_sb3.gcp.flow import FlowGCP

__all__ = ["Chain", "FlowGCP", "GenerativeControlPolicy", "owners", "row_blocks"]
