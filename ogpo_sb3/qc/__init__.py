"""QC: Q-chunking."""

from ogpo_sb3.qc.policies import DiffusionPolicy, FlowPolicy
from ogpo_sb3.qc.qc import QC

__all__ = ["QC", "DiffusionPolicy", "FlowPolicy"]
