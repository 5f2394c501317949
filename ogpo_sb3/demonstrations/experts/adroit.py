"""The expert policies published with DAPG (Rajeswaran et al. 2018) for the four Adroit tasks.

Trained with natural policy gradient from human demonstrations in the mujoco-py environments of 2018; their weights
(Apache-2.0, see NOTICE) ship with this package as plain arrays. In gymnasium-robotics' v1 environments they still
succeed in most episodes.
"""

from importlib import resources
from typing import Any

import gymnasium as gym
import numpy as np

TASKS = ("door", "hammer", "pen", "relocate")


class AdroitExpert:
    """A small tanh network that maps the engine's state vector to joint targets.

    :param name: door, hammer, pen or relocate; an environment's task name in any capitalisation.
    """

    source = "DAPG expert policy"

    def __init__(self, name: str) -> None:
        name = name.lower()
        if name not in TASKS:
            raise ValueError(f"There are DAPG policies for {', '.join(TASKS)}, not for {name!r}.")
        self.name = name
        archive = resources.files("ogpo_sb3.demonstrations") / "data" / f"dapg_policy_{name}-v0.npz"
        with resources.as_file(archive) as path, np.load(path) as arrays:
            weights = {key: arrays[key].astype(np.float64) for key in arrays.files}
        self.layers = [(weights[f"w{i}"], weights[f"b{i}"]) for i in range(sum(key.startswith("w") for key in weights))]
        self.in_shift, self.in_scale = weights["in_shift"], weights["in_scale"]
        self.out_shift, self.out_scale = weights["out_shift"], weights["out_scale"]
        self.std = np.exp(weights["log_std"])

    def act(self, observation: np.ndarray, rng: np.random.Generator, noise: float = 0.0) -> np.ndarray:
        """The expert's action.

        :param observation: the environment's state vector, shape (observation_dim,).
        :param rng: source of the exploration noise.
        :param noise: multiple of the policy's own standard deviation; 0 is its mean, 1 the policy as trained.
        :return: action of shape (action_dim,), float32, clipped to ±1.
        """
        hidden = (observation - self.in_shift) / (self.in_scale + 1e-8)
        for weight, bias in self.layers[:-1]:
            hidden = np.tanh(weight @ hidden + bias)
        weight, bias = self.layers[-1]
        action = (weight @ hidden + bias) * self.out_scale + self.out_shift
        if noise > 0.0:
            action = action + noise * self.std * rng.standard_normal(action.shape)
        return np.clip(action, -1.0, 1.0).astype(np.float32)


def make_expert(env: gym.Env[Any, Any]) -> AdroitExpert:
    """The expert of an Adroit environment (``Task.expert`` of the registry points here).

    :param env: an ``ogpo/Adroit*-v0`` environment.
    :return: its DAPG policy.
    """
    return AdroitExpert(env.unwrapped.task)  # type: ignore[attr-defined]
