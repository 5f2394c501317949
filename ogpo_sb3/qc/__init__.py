"""QC: Q-chunking."""

from ogpo_sb3.qc.policies import DiffusionPolicy, FASTPolicy, FlowPolicy, MIPPolicy, ShortcutPolicy
from ogpo_sb3.qc.qc import QC

__all__ = ["QC", "DiffusionPolicy", "FASTPolicy", "FlowPolicy", "MIPPolicy", "ShortcutPolicy"]
