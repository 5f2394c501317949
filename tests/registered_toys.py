"""Toy environments under ids of Gymnasium, for commands that are given ids: ``tests.registered_toys:toy/Reach-v0``."""

import pathlib

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from tests.toys import Reach

REACH = "tests.registered_toys:toy/Reach-v0"


class Fragile(Reach):
    """
    Breaks when a file exists.

    :param flag: the file
    """

    def __init__(self, flag: str = ""):
        super().__init__()
        self.flag = flag

    def reset(self, *, seed=None, options=None):
        if self.flag and pathlib.Path(self.flag).exists():
            raise RuntimeError("the simulator broke")
        return super().reset(seed=seed, options=options)


class Keyed(Reach):
    """Observes position and goal under names."""

    def __init__(self):
        super().__init__()
        self.observation_space = spaces.Dict({key: spaces.Box(-2.0, 2.0, (1,), np.float32) for key in ("goal", "position")})

    def _obs(self):
        position, goal = super()._obs()
        return {"goal": goal[None], "position": position[None]}


gym.register("toy/Reach-v0", entry_point="tests.toys:Reach")
gym.register("toy/Fragile-v0", entry_point="tests.registered_toys:Fragile")
gym.register("toy/Keyed-v0", entry_point="tests.registered_toys:Keyed")
