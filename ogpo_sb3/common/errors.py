"""Errors of the package that a caller may want to catch, and what tells where NaN came from."""

from typing import Any

import numpy as np


class TrainingDivergedError(ValueError):
    """
    A quantity became NaN or infinite; raised before it could reach the parameters.

    A ValueError, because RL-Zoo's hyperparameter search prunes a trial on that.

    :param quantity: its name
    :param num_timesteps: environment steps done
    """

    def __init__(self, quantity: str, num_timesteps: int):
        super().__init__(
            f"{quantity} is not finite after {num_timesteps} environment steps: training stopped before the update, "
            "parameters and the last checkpoint are unharmed"
        )
        self.quantity = quantity


def is_finite(observation: Any) -> bool:
    """
    :param observation: array, or dict of arrays
    """
    values = observation.values() if isinstance(observation, dict) else [observation]
    return all(bool(np.isfinite(value).all()) for value in values)
