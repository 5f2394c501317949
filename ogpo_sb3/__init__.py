"""Fine-tuning of generative control policies (flow, diffusion) with off-policy RL, on Stable-Baselines3."""

from pathlib import Path

from ogpo_sb3 import presets
from ogpo_sb3.dppo import DPPO
from ogpo_sb3.dsrl import DSRL
from ogpo_sb3.envs.chunking import ChunkActionWrapper
from ogpo_sb3.envs.registry import register_environments
from ogpo_sb3.evaluation import EvaluateCallback, evaluate
from ogpo_sb3.expo import EXPO
from ogpo_sb3.fql import FQL
from ogpo_sb3.ogpo import OGPO, OGPOCA, OGPOChi2, OGPOPlus
from ogpo_sb3.reinflow import ReinFlow
from ogpo_sb3.pa_rl import PARL
from ogpo_sb3.qc import QC
from ogpo_sb3.rlpd import RLPD, SACfD
from ogpo_sb3.steer_residual import SteerResidual

__version__ = (Path(__file__).parent / "version.txt").read_text().strip()

register_environments()

__all__ = [
    "DPPO",
    "DSRL",
    "EXPO",
    "FQL",
    "OGPO",
    "OGPOCA",
    "PARL",
    "QC",
    "RLPD",
    "ChunkActionWrapper",
    "EvaluateCallback",
    "OGPOChi2",
    "OGPOPlus",
    "ReinFlow",
    "SACfD",
    "SteerResidual",
    "evaluate",
    "presets",
]
