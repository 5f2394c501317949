"""Evaluation: rollouts on fixed seeds, a callback, pictures and videos."""

from ogpo_sb3.evaluation.callback import EvaluateCallback
from ogpo_sb3.evaluation.rollouts import EvaluationResult, evaluate

__all__ = ["EvaluateCallback", "EvaluationResult", "evaluate"]
