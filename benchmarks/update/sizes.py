"""The sizes that are measured, models of them, and how many operations their update needs."""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any

OBSERVATION_DIM, STEP_DIM, CHUNK = 23, 7, 4  # Robomimic Square
SIZES = ("small", "paper")


def settings(size: str) -> dict[str, Any]:
    """
    :param size: "small" (``presets.quick()``), "mid" (where scaling starts) or "paper" (``presets.paper`` of Square)
    :return: keyword arguments of OGPO, without pre-training
    """
    from ogpo_sb3 import presets

    if size == "paper":
        kwargs = presets.paper("ogpo/RobomimicSquare-v0")
        for name in ("bc_steps", "clip_bc", "demonstrations"):
            kwargs.pop(name, None)
    else:
        kwargs = presets.quick()
    if size == "mid":
        kwargs.update(batch_size=64, actor_batch_size=64)
        kwargs["policy_kwargs"] = dict(kwargs["policy_kwargs"], net_arch=[256] * 3, denoising_steps=5)
    kwargs.update(chunk_size=CHUNK, learning_starts=10_000, critic_warmup_updates=0, buffer_size=10_000)
    return kwargs


def make_env() -> Any:
    """An environment of random numbers: nothing depends on a simulator."""
    import gymnasium as gym
    import numpy as np
    from gymnasium import spaces

    class Random(gym.Env):
        observation_space = spaces.Box(-1.0, 1.0, (OBSERVATION_DIM,), np.float32)
        action_space = spaces.Box(-1.0, 1.0, (STEP_DIM,), np.float32)

        def _observe(self) -> np.ndarray:
            return self.np_random.uniform(-1.0, 1.0, OBSERVATION_DIM).astype(np.float32)

        def reset(self, *, seed=None, options=None):
            super().reset(seed=seed)
            return self._observe(), {}

        def step(self, action):
            return self._observe(), -1.0, False, bool(self.np_random.random() < 0.005), {}

    return Random()


def build(kwargs: dict[str, Any], device: str = "cpu", **changes: Any) -> Any:
    """
    A model whose replay buffer holds a thousand random steps.

    :param kwargs: of OGPO, as :func:`settings` gives them
    :param device: "cpu" or "cuda"
    :param changes: further arguments of OGPO
    :raises ValueError: OGPO does not know an option's value, such as a precision
    """
    from ogpo_sb3 import OGPO

    model = OGPO("FlowPolicy", make_env(), device=device, seed=0, **{**kwargs, **changes}).learn(1000)
    model.policy.set_training_mode(True)
    return model


@dataclasses.dataclass(frozen=True)
class Work:
    """
    What one update (a critic step and an actor step) computes.

    :param batch: windows per critic step
    :param states: states per actor step, B
    :param group: chains per state, G
    :param steps: denoising steps, K
    :param heads: critics, M
    :param actor_widths: hidden layers of the velocity network
    :param critic_widths: hidden layers of a critic
    """

    batch: int
    states: int
    group: int
    steps: int
    heads: int
    actor_widths: tuple[int, ...]
    critic_widths: tuple[int, ...]

    @classmethod
    def of(cls, kwargs: dict[str, Any]) -> Work:
        """:param kwargs: of OGPO, as :func:`settings` gives them"""
        policy = kwargs["policy_kwargs"]
        widths = tuple(policy["net_arch"])
        critic = tuple(policy.get("critic_net_arch", widths))
        return cls(
            kwargs["batch_size"],
            kwargs["actor_batch_size"],
            kwargs["group_size"],
            policy["denoising_steps"],
            policy["n_critics"],
            widths,
            critic,
        )

    @property
    def chains(self) -> int:
        """Chains per actor step, B x G."""
        return self.states * self.group

    @property
    def rows(self) -> int:
        """Rows of the velocity network in one pass over all chains, B x G x K: the row of "rows per second"."""
        return self.chains * self.steps

    def operations(self, scored: float = 1.0, with_gradient: float = 1.0) -> dict[str, float]:
        """
        Floating-point operations in matrix products, by the shape whose rate :mod:`benchmarks.update.rates` measures.

        A product's backward pass is two products of its size. Time embedding and elementwise work are not counted.

        :param scored: share of the chains whose likelihood under the current policy is needed
        :param with_gradient: share of the chains that contribute to the gradient
        """
        action_dim, time_dim = CHUNK * STEP_DIM, 32
        actor = _per_row((OBSERVATION_DIM + action_dim + time_dim, *self.actor_widths, action_dim))
        critic = _per_row((OBSERVATION_DIM + action_dim, *self.critic_widths, 1))
        return {
            "next_actions": self.batch * self.steps * actor,
            "td": 4.0 * self.batch * self.heads * critic,  # target forward, critic forward and backward
            "sampling": self.rows * actor,
            "target_critics": self.chains * self.heads * critic,
            "scoring": scored * self.rows * actor,
            "backward_input": with_gradient * self.rows * actor,
            "backward_weight": with_gradient * self.rows * actor,
        }


def _per_row(widths: tuple[int, ...]) -> float:
    return 2.0 * sum(a * b for a, b in itertools.pairwise(widths))
