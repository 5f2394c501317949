"""Generative control policies: plain torch, they know neither environments nor Stable-Baselines3."""

from ogpo_sb3.gcp.base import Chain, GenerativeControlPolicy, owners, row_blocks
from ogpo_sb3.gcp.chains import GaussianChainGCP
from ogpo_sb3.gcp.diffusion import DiffusionGCP
from ogpo_sb3.gcp.fast import FASTGCP
from ogpo_sb3.gcp.flow import FlowGCP
from ogpo_sb3.gcp.mip import MIPGCP
from ogpo_sb3.gcp.shortcut import ShortcutGCP

__all__ = [
    "FASTGCP",
    "MIPGCP",
    "Chain",
    "DiffusionGCP",
    "FlowGCP",
    "GaussianChainGCP",
    "GenerativeControlPolicy",
    "ShortcutGCP",
    "owners",
    "row_blocks",
]
