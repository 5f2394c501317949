"""Toy environments under ids of Gymnasium, for commands that are given ids: ``tests.registered_toys:toy/Reach-v0``."""

import pathlib

import gymnasium as gym

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


gym.register("toy/Reach-v0", entry_point="tests.toys:Reach")
gym.register("toy/Fragile-v0", entry_point="tests.registered_toys:Fragile")
