"""OGPO and its variants."""

from ogpo_sb3.ogpo.ogpo import OGPO
from ogpo_sb3.ogpo.policies import FlowPolicy
from ogpo_sb3.ogpo.variants import OGPOCA, OGPOChi2, OGPOPlus

__all__ = ["OGPO", "OGPOCA", "FlowPolicy", "OGPOChi2", "OGPOPlus"]
