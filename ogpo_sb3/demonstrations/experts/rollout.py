"""Roll an expert out in an environment and keep what it did."""

from importlib import metadata
from typing import Any, Protocol

import gymnasium as gym
import numpy as np
from tqdm import tqdm

from ogpo_sb3.demonstrations.dataset import DemonstrationSet
from ogpo_sb3.envs.registry import TASKS, register_environments, resolve

# More failures than this per wanted success means that the expert does not solve the task, with this noise at least.
ATTEMPTS_PER_EPISODE = 20


class Expert(Protocol):
    """What a task's expert factory returns."""

    source: str

    def act(self, observation: Any, rng: np.random.Generator, noise: float) -> np.ndarray:
        """The action for an observation, perturbed by ``noise`` times the expert's own scale."""


def collect(
    env_id: str,
    episodes: int,
    seed: int = 0,
    noise: float = 0.0,
    keep_failures: bool = False,
    progress: bool = False,
    env_kwargs: dict[str, Any] | None = None,
) -> DemonstrationSet:
    """Demonstrations of a task's expert; every episode stops at its first success.

    Attempt i starts from a seed that depends on ``seed`` and i only, and the data record what was executed, noise
    included, so a run can be repeated exactly.

    :param env_id: an id of the registry with an expert.
    :param episodes: episodes to keep: successes, or attempts when ``keep_failures``.
    :param seed: seeds the starts and the noise.
    :param noise: multiple of the expert's own exploration noise.
    :param keep_failures: also keep episodes that ran into the time limit.
    :param progress: show a progress bar.
    :param env_kwargs: arguments for ``gym.make``, such as ``{"reward": "dense"}``.
    :return: the data set; ``meta`` says who made it, how, with which versions, and how often the expert succeeded.
    """
    task = TASKS.get(env_id)
    if task is None or task.expert is None:
        known = ", ".join(task.id for task in TASKS.values() if task.expert is not None)
        raise ValueError(f"There is no expert for {env_id!r}; there is one for {known}.")
    if episodes < 1:
        raise ValueError(f"At least one episode must be collected, not {episodes}.")
    if noise < 0.0:
        raise ValueError(f"The noise scale is not negative, but {noise} was given.")
    register_environments()
    env = gym.make(env_id, **(env_kwargs or {}))
    expert: Expert = resolve(task.expert)(env)
    kept: list[dict[str, Any]] = []
    attempts = succeeded = 0
    try:
        with tqdm(total=episodes, desc=env_id, unit="episode", disable=not progress) as bar:
            while len(kept) < episodes:
                if attempts >= ATTEMPTS_PER_EPISODE * episodes:
                    raise RuntimeError(
                        f"The expert of {env_id} succeeded in {succeeded} of {attempts} attempts at noise {noise}: "
                        f"{episodes} successful episodes are out of reach."
                    )
                episode = _roll_out(env, expert, np.random.SeedSequence((seed, attempts)), noise)
                attempts += 1
                succeeded += episode["success"]
                if episode["success"] or keep_failures:
                    kept.append(episode)
                    bar.update()
                bar.set_postfix(success=f"{succeeded}/{attempts}")
    finally:
        env.close()
    meta = {
        "source": f"collected with the {expert.source}",
        "env_id": env_id,
        "env_kwargs": dict(env_kwargs or {}),
        "seed": seed,
        "noise": noise,
        "attempts": attempts,
        "attempts_succeeded": succeeded,
        "success_rate": succeeded / attempts,
        "keep_failures": keep_failures,
        "reset_seeds": [episode["reset_seed"] for episode in kept],
        "versions": _versions(),
    }
    return DemonstrationSet(
        observations=_join([episode["observations"] for episode in kept]),
        actions=np.concatenate([episode["actions"] for episode in kept]),
        episode_ends=np.cumsum([len(episode["actions"]) for episode in kept]),
        rewards=np.concatenate([episode["rewards"] for episode in kept]),
        terminals=np.concatenate([episode["terminals"] for episode in kept]),
        final_observations=_join([[episode["final_observation"]] for episode in kept]),
        successes=np.array([episode["success"] for episode in kept]),
        meta=meta,
    )


def _roll_out(env: gym.Env[Any, Any], expert: Expert, seeds: np.random.SeedSequence, noise: float) -> dict[str, Any]:
    """One episode, up to its first success or its end."""
    start, stream = seeds.spawn(2)
    reset_seed = int(start.generate_state(1)[0])
    rng = np.random.default_rng(stream)
    observation, _ = env.reset(seed=reset_seed)
    observations, actions, rewards, terminals = [], [], [], []
    done = success = False
    while not (done or success):
        action = expert.act(observation, rng, noise)
        observations.append(observation)
        observation, reward, terminated, truncated, info = env.step(action)
        actions.append(action)
        rewards.append(reward)
        terminals.append(terminated)
        done, success = terminated or truncated, bool(info["is_success"])
    return {
        "observations": observations,
        "actions": np.stack(actions),
        "rewards": np.array(rewards, dtype=np.float32),
        "terminals": np.array(terminals),
        "final_observation": observation,
        "success": success,
        "reset_seed": reset_seed,
    }


def _join(parts: list[list[Any]]) -> Any:
    """Stack lists of observations, entry by entry where they are dictionaries."""
    flat = [observation for part in parts for observation in part]
    if isinstance(flat[0], dict):
        return {key: np.stack([observation[key] for observation in flat]) for key in flat[0]}
    return np.stack(flat)


def _versions() -> dict[str, str]:
    """Versions of whatever decides the physics, for the record."""
    found = {}
    for package in ("gymnasium", "gymnasium-robotics", "mujoco", "robosuite", "numpy"):
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found
