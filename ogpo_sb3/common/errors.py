"""Errors of the package that a caller may want to catch."""


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
