"""QC: Q-chunking."""

from ogpo_sb3.qc.policies import FlowPolicy
from ogpo_sb3.qc.qc import QC

__all__ = ["QC", "FlowPolicy"]
