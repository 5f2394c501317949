"""ReinFlow: PPO on flow policies with learned noise."""

from ogpo_sb3.reinflow.policies import FlowPolicy
from ogpo_sb3.reinflow.reinflow import ReinFlow

__all__ = ["FlowPolicy", "ReinFlow"]
