"""Episodes of a deployed policy with every decision kept: what was seen, done and earned."""

import io
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch as th

from ogpo_sb3.common.chunked_env import chunk_like
from ogpo_sb3.common.files import atomic_write
from ogpo_sb3.common.randomness import drawing_from
from ogpo_sb3.envs.chunking import chunk_size_of, success_of
from ogpo_sb3.evaluation.rollouts import Deployed

FIRST_SEED = 10_000  # evaluate()'s
Observations = np.ndarray | dict[str, np.ndarray]


@dataclass(frozen=True)
class Episodes:
    """
    E episodes of N decisions in all, in order.

    :param seeds: (E,)
    :param lengths: (E,) environment steps
    :param returns: (E,) undiscounted
    :param successes: (E,) bool; None where the environment does not say
    :param terminated: (E,) bool: ended by the task, not by the time limit
    :param episode: (N,) which episode a decision belongs to
    :param observations: (N, ...), or a dict of them
    :param actions: (N, D) in [-1, 1]
    :param rewards: (N,) discounted sum over the executed steps
    :param discounts: (N,) gamma to the number of executed steps
    :param last_observations: (E, ...) after each episode, or a dict of them
    """

    seeds: np.ndarray
    lengths: np.ndarray
    returns: np.ndarray
    successes: np.ndarray | None
    terminated: np.ndarray
    episode: np.ndarray
    observations: Observations
    actions: np.ndarray
    rewards: np.ndarray
    discounts: np.ndarray
    last_observations: Observations

    def returns_to_go(self, tail: np.ndarray) -> np.ndarray:
        """
        :param tail: (E,) value of what follows an episode that the time limit cut; not used after others
        :return: (N,) discounted return from each decision on
        """
        result = np.empty(len(self.rewards))
        for i in reversed(range(len(result))):
            e = self.episode[i]
            is_last = i + 1 == len(result) or self.episode[i + 1] != e
            following = (0.0 if self.terminated[e] else tail[e]) if is_last else result[i + 1]
            result[i] = self.rewards[i] + self.discounts[i] * following
        return result

    def at(self, indices: Any) -> Observations:
        """
        :param indices: of decisions
        :return: their observations
        """
        return take(self.observations, indices)

    def save(self, path: Path) -> None:
        """
        :param path: npz file, written as a whole
        """
        arrays: dict[str, np.ndarray] = {}
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, dict):
                arrays.update({f"{field.name}/{key}": entry for key, entry in value.items()})
            elif value is not None:
                arrays[field.name] = value
        with atomic_write(path) as file:
            np.savez_compressed(file, **arrays)  # type: ignore[arg-type]

    @classmethod
    def load(cls, path: Path) -> "Episodes":
        """
        :param path: file of :meth:`save`
        """
        content: dict[str, Any] = {"successes": None}
        with np.load(io.BytesIO(path.read_bytes())) as arrays:
            for name in arrays.files:
                field, slash, key = name.partition("/")
                if slash:
                    content.setdefault(field, {})[key] = arrays[name]
                else:
                    content[field] = arrays[name]
        return cls(**content)


def take(observations: Observations, indices: Any) -> Observations:
    """
    :param observations: (N, ...), or a dict of them
    :param indices: of the first dimension
    """
    if isinstance(observations, dict):
        return {key: value[indices] for key, value in observations.items()}
    return observations[indices]


def matched(model: Any, env: gym.Env) -> gym.Env:
    """
    :param model: an algorithm of this package
    :param env: environment of single steps, or chunked like the model
    :return: the environment with the model's chunks
    :raises ValueError: another environment than the model's
    """
    chunked = chunk_like(env, chunk_size_of(model.action_space))
    for name in ("observation_space", "action_space"):
        found, wanted = getattr(chunked, name), getattr(model, name)
        if found != wanted:
            raise ValueError(f"the environment's {name.replace('_', ' ')} is {found}, the model's {wanted}")
    return chunked


def run_episodes(model: Any, env: gym.Env, n_episodes: int, sampler: str, bar: Any = None) -> Episodes:
    """
    Episodes of :func:`ogpo_sb3.evaluate`'s seeds and latents, one after the other: with the sampler "ode" they are those that
    it counts.

    :param model: an algorithm of this package
    :param env: environment of single steps, or chunked like the model
    :param n_episodes: E, at least 1
    :param sampler: see :func:`ogpo_sb3.evaluate`
    :param bar: tqdm's, moved by one per episode
    :raises ValueError: another environment than the model's
    """
    chunked = matched(model, env)
    act, policy = Deployed(model, sampler, None), model.policy
    policy.set_training_mode(False)
    per_episode: dict[str, list[Any]] = {name: [] for name in ("lengths", "returns", "successes", "terminated", "last")}
    decisions: dict[str, list[Any]] = {name: [] for name in ("episode", "obs", "actions", "rewards", "discounts")}
    seeds = np.arange(FIRST_SEED, FIRST_SEED + n_episodes)
    with drawing_from(FIRST_SEED, policy.device):
        for e, seed in enumerate(seeds):
            generator = th.Generator().manual_seed(int(seed))
            obs, _ = chunked.reset(seed=int(seed))
            length, total, done = 0, 0.0, False
            while not done:
                action = act([obs], [generator])[0]
                decisions["episode"].append(e)
                decisions["obs"].append(obs)
                decisions["actions"].append(policy.scale_action(action).reshape(-1))
                obs, reward, terminated, truncated, info = chunked.step(action)
                rewards = np.asarray(info["chunk"]["rewards"] if "chunk" in info else [reward], np.float64)
                decisions["rewards"].append(float((model.gamma ** np.arange(len(rewards)) * rewards).sum()))
                decisions["discounts"].append(model.gamma ** len(rewards))
                length, total, done = length + len(rewards), total + float(reward), terminated or truncated
            success = success_of(info)
            for name, value in zip(per_episode, (length, total, success, bool(terminated), obs), strict=True):
                per_episode[name].append(value)
            if bar is not None:
                bar.update(1)
    known = all(success is not None for success in per_episode["successes"])
    return Episodes(
        seeds=seeds,
        lengths=np.array(per_episode["lengths"]),
        returns=np.array(per_episode["returns"]),
        successes=np.array(per_episode["successes"], dtype=bool) if known else None,
        terminated=np.array(per_episode["terminated"], dtype=bool),
        episode=np.array(decisions["episode"]),
        observations=_stack(decisions["obs"]),
        actions=np.array(decisions["actions"], dtype=np.float32),
        rewards=np.array(decisions["rewards"]),
        discounts=np.array(decisions["discounts"]),
        last_observations=_stack(per_episode["last"]),
    )


def _stack(observations: list[Any]) -> Observations:
    if isinstance(observations[0], dict):
        return {key: np.stack([obs[key] for obs in observations]) for key in observations[0]}
    return np.stack(observations)
