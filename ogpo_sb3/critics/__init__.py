"""Critics over action chunks: the batched ensemble, head aggregation, TD targets, Cal-QL's term."""

from ogpo_sb3.critics.calql import calibrated_gap
from ogpo_sb3.critics.ensemble import CriticEnsemble, aggregate
from ogpo_sb3.critics.targets import next_value, td_loss, td_target

__all__ = ["CriticEnsemble", "aggregate", "calibrated_gap", "next_value", "td_loss", "td_target"]
