"""How a policy is improved from Q-values: one function per objective, plain torch."""

from ogpo_sb3.extraction.advantages import agreement, group_advantage
from ogpo_sb3.extraction.awr import awr_loss, awr_weights
from ogpo_sb3.extraction.blocks import backward_in_blocks
from ogpo_sb3.extraction.bptt import bptt_loss
from ogpo_sb3.extraction.distillation import distillation_loss
from ogpo_sb3.extraction.fpo import aspo_loss, fpo_error, fpo_log_ratio, fpo_loss
from ogpo_sb3.extraction.gae import chunk_gae
from ogpo_sb3.extraction.ppo_clip import Surrogate, centred_clip_backward, ppo_clip_backward, ppo_clip_loss
from ogpo_sb3.extraction.regularizers import PenalisedQ, penalise_q
from ogpo_sb3.extraction.sft import best_of_group

__all__ = [
    "PenalisedQ",
    "Surrogate",
    "agreement",
    "aspo_loss",
    "awr_loss",
    "awr_weights",
    "backward_in_blocks",
    "best_of_group",
    "bptt_loss",
    "centred_clip_backward",
    "chunk_gae",
    "distillation_loss",
    "fpo_error",
    "fpo_log_ratio",
    "fpo_loss",
    "group_advantage",
    "penalise_q",
    "ppo_clip_backward",
    "ppo_clip_loss",
]
