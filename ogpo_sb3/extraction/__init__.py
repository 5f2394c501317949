"""How a policy is improved from Q-values: one function per objective, plain torch."""

from ogpo_sb3.extraction.advantages import agreement, group_advantage
from ogpo_sb3.extraction.gae import chunk_gae
from ogpo_sb3.extraction.ppo_clip import Surrogate, ppo_clip_backward, ppo_clip_loss
from ogpo_sb3.extraction.regularizers import PenalisedQ, penalise_q

__all__ = [
    "PenalisedQ",
    "Surrogate",
    "agreement",
    "chunk_gae",
    "group_advantage",
    "penalise_q",
    "ppo_clip_backward",
    "ppo_clip_loss",
]
