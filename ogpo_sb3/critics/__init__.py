"""Critics over action chunks: batched ensembles of several kinds of heads, aggregation, TD targets, Cal-QL's term."""

from ogpo_sb3.critics.calql import calibrated_gap
from ogpo_sb3.critics.ensemble import CriticEnsemble, aggregate
from ogpo_sb3.critics.heads import make_ensemble
from ogpo_sb3.critics.hl_gauss import HLGaussEnsemble
from ogpo_sb3.critics.mip_q import MIPQEnsemble
from ogpo_sb3.critics.regression import Fit, Regression, td_loss
from ogpo_sb3.critics.targets import next_value, td_target

__all__ = [
    "CriticEnsemble",
    "Fit",
    "HLGaussEnsemble",
    "MIPQEnsemble",
    "Regression",
    "aggregate",
    "calibrated_gap",
    "make_ensemble",
    "next_value",
    "td_loss",
    "td_target",
]
