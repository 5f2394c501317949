"""What an on-policy algorithm keeps of a rollout: decisions, with the chains that produced them."""

import math
from collections.abc import Generator
from typing import Any, NamedTuple

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.running_mean_std import RunningMeanStd

from ogpo_sb3.envs.chunking import chunk_size_of
from ogpo_sb3.extraction.gae import chunk_gae

Observations = np.ndarray | dict[str, np.ndarray]


class ChunkRolloutSamples(NamedTuple):
    """
    A minibatch of B decisions.

    :param observations: (B, ...) or a dict of them
    :param states: (F+1, B, D) states of the chain that produced the action
    :param old_log_prob: (F, B) of its transitions, or (1, B) of the whole, as the algorithm defined it
    :param advantages: (B,)
    :param returns: (B,) what values are regressed on
    """

    observations: Any
    states: th.Tensor
    old_log_prob: th.Tensor
    advantages: th.Tensor
    returns: th.Tensor


class ChunkRolloutBuffer(RolloutBuffer):
    """
    Rollout of decisions, for box and Dict observations.

    A decision counts with gamma^k for its k executed steps, and an episode that was cut by a time limit is continued by the
    value of its last observation.

    :param buffer_size: environment steps per environment, rounded up to whole decisions
    :param observation_space: observation space
    :param action_space: (chunked) action space
    :param device: where minibatches go
    :param gae_lambda: lambda of the advantages, per decision
    :param gamma: discount per environment step
    :param n_envs: number of environments
    """

    discounts: np.ndarray
    next_values: np.ndarray
    ends: np.ndarray
    states: np.ndarray

    def __init__(
        self,
        buffer_size: int,
        observation_space: spaces.Space,
        action_space: spaces.Space,
        device: th.device | str = "auto",
        gae_lambda: float = 0.95,
        gamma: float = 0.99,
        n_envs: int = 1,
    ):
        decisions = math.ceil(buffer_size / chunk_size_of(action_space))
        super().__init__(decisions, observation_space, action_space, device, gae_lambda, gamma, n_envs)

    def reset(self) -> None:
        """Forget everything."""
        shape = (self.buffer_size, self.n_envs)
        space = self.observation_space
        parts = space.spaces if isinstance(space, spaces.Dict) else {"": space}
        shapes = self.obs_shape if isinstance(self.obs_shape, dict) else {"": self.obs_shape}
        arrays = {key: np.zeros((*shape, *shapes[key]), dtype=part.dtype) for key, part in parts.items()}
        self.observations = arrays if isinstance(space, spaces.Dict) else arrays[""]  # type: ignore[assignment]
        for name in ("rewards", "discounts", "values", "next_values", "ends", "advantages", "returns", "episode_starts"):
            setattr(self, name, np.zeros(shape, dtype=np.float32))
        self.states = self.log_probs = np.zeros(0, dtype=np.float32)  # their shapes are known with the first chain
        self.pos, self.full = 0, False

    def add(  # type: ignore[override]
        self,
        obs: Observations,
        states: np.ndarray,
        log_prob: np.ndarray,
        values: np.ndarray,
        rewards: list[np.ndarray],
        ends: np.ndarray,
        final_values: np.ndarray,
    ) -> None:
        """
        Store one decision of each environment.

        :param obs: (N, ...) what the decisions were taken on
        :param states: (F+1, N, D) the chains
        :param log_prob: (F, N) or (1, N) their log-likelihoods
        :param values: (N,) of ``obs``
        :param rewards: per environment, the (k,) rewards of the steps executed
        :param ends: (N,) whether the episode ended
        :param final_values: (N,) value of the last observation of an episode that a time limit cut, else 0
        """
        if self.pos == 0:
            self.states = np.zeros((self.buffer_size, self.n_envs, *np.delete(states.shape, 1)), dtype=np.float32)
            self.log_probs = np.zeros((self.buffer_size, self.n_envs, len(log_prob)), dtype=np.float32)
        t = self.pos
        if isinstance(self.observations, dict):
            for key, array in self.observations.items():
                array[t] = np.asarray(obs[key]).reshape(array[t].shape)
        else:
            self.observations[t] = np.asarray(obs).reshape(self.observations[t].shape)
        self.states[t], self.log_probs[t] = states.swapaxes(0, 1), log_prob.T
        self.values[t], self.ends[t], self.next_values[t] = values, ends, final_values
        for i, chunk in enumerate(rewards):
            powers = self.gamma ** np.arange(len(chunk) + 1)
            self.rewards[t, i] = (powers[:-1] * chunk).sum()
            self.discounts[t, i] = powers[-1]
        self.pos += 1
        self.full = self.pos == self.buffer_size

    def compute_returns_and_advantage(self, last_values: np.ndarray, scaling: "RewardScaling | None" = None) -> None:  # type: ignore[override]
        """
        Advantages by :func:`ogpo_sb3.extraction.chunk_gae`, returns as advantages plus values.

        :param last_values: (N,) of the observations after the last decisions
        :param scaling: divides rewards first
        """
        if scaling is not None:
            self.rewards /= scaling.update(self.rewards, self.discounts, self.ends)
        going_on = 1.0 - self.ends
        following = np.concatenate([self.values[1:], last_values[None]])
        self.next_values = going_on * following + self.ends * self.next_values
        self.advantages = chunk_gae(
            self.rewards, self.discounts, self.values, self.next_values, self.ends, self.gae_lambda
        ).astype(np.float32)
        self.returns = self.advantages + self.values

    def flat_observations(self) -> Observations:
        """All that decisions were taken on, (T * N, ...) or a dict of them."""
        obs = self.observations
        if isinstance(obs, dict):
            return {key: array.reshape(-1, *array.shape[2:]) for key, array in obs.items()}
        return obs.reshape(-1, *obs.shape[2:])

    def get(self, batch_size: int | None = None) -> Generator[ChunkRolloutSamples, None, None]:  # type: ignore[override]
        """
        Every decision once, in random order.

        :param batch_size: largest number per minibatch; all of about the same size
        """
        assert self.full, "the rollout is not complete"
        total = self.buffer_size * self.n_envs
        n = 1 if batch_size is None else math.ceil(total / batch_size)
        for rows in np.array_split(np.random.permutation(total), n):
            yield self._get_samples(rows)

    def _get_samples(self, batch_inds: np.ndarray, env: Any = None) -> ChunkRolloutSamples:  # type: ignore[override]
        t, i = np.unravel_index(batch_inds, (self.buffer_size, self.n_envs))
        obs = self.observations
        return ChunkRolloutSamples(
            {key: self.to_torch(array[t, i]) for key, array in obs.items()}
            if isinstance(obs, dict)
            else self.to_torch(obs[t, i]),
            self.to_torch(self.states[t, i].swapaxes(0, 1)),
            self.to_torch(self.log_probs[t, i].T),
            self.to_torch(self.advantages[t, i]),
            self.to_torch(self.returns[t, i]),
        )


class RewardScaling:
    """
    Running standard deviation of discounted returns, which rewards are divided by (as DPPO and VecNormalize do).

    Estimated from whole rollouts, so that a rollout's first decisions are not divided by the spread of a handful.

    :param n_envs: number of environments
    """

    def __init__(self, n_envs: int):
        # SB3's default pretends to have seen a little of variance 1, which would be all there is where returns are equal.
        self.statistics = RunningMeanStd(epsilon=0.0, shape=())
        self.returns = np.zeros(n_envs)

    def update(self, rewards: np.ndarray, discounts: np.ndarray, ends: np.ndarray) -> float:
        """
        :param rewards: (T, N) of decisions
        :param discounts: (T, N) gamma^k
        :param ends: (T, N) whether the episode ended
        :return: what to divide by; 1 as long as returns have not differed
        """
        if len(self.returns) != rewards.shape[1]:
            self.returns = np.zeros(rewards.shape[1])
        seen = np.zeros(rewards.shape)
        for t in range(len(rewards)):
            seen[t] = self.returns = self.returns * discounts[t] + rewards[t]
            self.returns = self.returns * (1.0 - ends[t])
        self.statistics.update(seen.flatten())
        std = float(np.sqrt(self.statistics.var))
        return std if std > 1e-6 else 1.0
