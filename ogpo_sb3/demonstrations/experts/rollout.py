"""Roll an expert out in an environment and keep what it did."""

from importlib import metadata
from pathlib import Path
from typing import Any, Protocol

import gymnasium as gym
import numpy as np
from tqdm import tqdm

import ogpo_sb3
from ogpo_sb3.demonstrations.dataset import DemonstrationSet
from ogpo_sb3.demonstrations.experts.journal import Journal
from ogpo_sb3.demonstrations.replay import described
from ogpo_sb3.envs.registry import TASKS, make_with, register_environments, resolve

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
    max_success: int | None = None,
    work: str | Path | None = None,
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
    :param max_success: keep no more successful episodes than that; the others are failures. Needs ``keep_failures``.
    :param work: folder in which every attempt is written as it ends; a run with the same arguments goes on from there. None
        writes nothing.
    :return: the data set; ``meta`` says who made it, how, with which versions, and how often the expert succeeded.
    :raises ValueError: no expert, arguments out of range, or a folder with another run's attempts.
    :raises RuntimeError: the expert hardly ever succeeds.
    """
    task = TASKS.get(env_id)
    if task is None or task.expert is None:
        known = ", ".join(task.id for task in TASKS.values() if task.expert is not None)
        raise ValueError(f"There is no expert for {env_id!r}; there is one for {known}.")
    if episodes < 1:
        raise ValueError(f"At least one episode must be collected, not {episodes}.")
    if noise < 0.0:
        raise ValueError(f"The noise scale is not negative, but {noise} was given.")
    if max_success is not None and (max_success < 0 or not keep_failures):
        raise ValueError(f"max_success={max_success} fills up with failures: it is not negative and needs keep_failures.")
    register_environments()
    settings = {"env_id": env_id, "env_kwargs": dict(env_kwargs or {}), "seed": seed, "noise": noise}
    # Before the journal: its settings must not be those of an environment that cannot be made.
    env = make_with(env_id, env_kwargs or {})
    try:
        journal = Journal(work, {**settings, "versions": _versions()})
    except BaseException:
        env.close()
        raise
    expert: Expert = resolve(task.expert)(env)
    kept: list[dict[str, Any]] = []
    attempts = succeeded = 0
    try:
        with tqdm(total=episodes, desc=env_id, unit="episode", disable=not progress, dynamic_ncols=True) as bar:
            while len(kept) < episodes:
                if attempts >= ATTEMPTS_PER_EPISODE * episodes:
                    raise RuntimeError(
                        f"The expert of {env_id} succeeded in {succeeded} of {attempts} attempts at noise {noise}: "
                        f"{len(kept)} of {episodes} episodes were kept, the others are out of reach."
                    )
                episode = journal.read(attempts)
                if episode is None:
                    episode = _roll_out(env, expert, np.random.SeedSequence((seed, attempts)), noise)
                    journal.write(attempts, episode)
                attempts += 1
                succeeded += episode["success"]
                full = max_success is not None and sum(other["success"] for other in kept) >= max_success
                if (keep_failures and not episode["success"]) or (episode["success"] and not full):
                    kept.append(episode)
                    bar.update()
                bar.set_postfix(success=f"{succeeded}/{attempts}")
        more = described(env)
    finally:
        env.close()
    meta = {
        "source": f"collected with the {expert.source}",
        "generated_by": f"ogpo_sb3 {ogpo_sb3.__version__}",
        "expert": expert.source,
        **settings,
        "attempts": attempts,
        "attempts_succeeded": succeeded,
        "success_rate": succeeded / attempts,
        "keep_failures": keep_failures,
        "reset_seeds": [episode["reset_seed"] for episode in kept],
        "versions": _versions(),
        **more,
    }
    has_states, has_scenes = ("states" in kept[0], "scene" in kept[0])
    return DemonstrationSet(
        observations=_join([episode["observations"] for episode in kept]),
        actions=np.concatenate([episode["actions"] for episode in kept]),
        episode_ends=np.cumsum([len(episode["actions"]) for episode in kept]),
        rewards=np.concatenate([episode["rewards"] for episode in kept]),
        terminals=np.concatenate([episode["terminals"] for episode in kept]),
        final_observations=_join([episode["final_observation"] for episode in kept]),
        successes=np.array([episode["success"] for episode in kept]),
        states=np.concatenate([episode["states"] for episode in kept]) if has_states else None,
        scenes=[episode["scene"] for episode in kept] if has_scenes else None,
        meta=meta,
    )


def _roll_out(env: gym.Env[Any, Any], expert: Expert, seeds: np.random.SeedSequence, noise: float) -> dict[str, Any]:
    """One episode, up to its first success or its end."""
    start, stream = seeds.spawn(2)
    reset_seed = int(start.generate_state(1)[0])
    rng = np.random.default_rng(stream)
    observation, _ = env.reset(seed=reset_seed)
    unwrapped: Any = env.unwrapped
    observations, actions, rewards, terminals, states = [], [], [], [], []
    # A robosuite task builds a scene of its own at every reset: state and scene together restore it anywhere.
    scene = {"scene": unwrapped.model_xml} if hasattr(unwrapped, "model_xml") else {}
    done = success = False
    while not (done or success):
        action = expert.act(observation, rng, noise)
        observations.append(observation)
        if scene:
            states.append(unwrapped.state)
        observation, reward, terminated, truncated, info = env.step(action)
        actions.append(action)
        rewards.append(reward)
        terminals.append(terminated)
        done, success = terminated or truncated, bool(info["is_success"])
    return {
        "observations": _stack(observations),
        "actions": np.stack(actions),
        "rewards": np.array(rewards, dtype=np.float32),
        "terminals": np.array(terminals),
        "final_observation": _stack([observation]),
        "success": success,
        "reset_seed": reset_seed,
        **scene,
        **({"states": np.stack(states)} if states else {}),
    }


def _stack(observations: list[Any]) -> Any:
    """Entry by entry where they are dictionaries."""
    if isinstance(observations[0], dict):
        return {key: np.stack([observation[key] for observation in observations]) for key in observations[0]}
    return np.stack(observations)


def _join(parts: list[Any]) -> Any:
    if isinstance(parts[0], dict):
        return {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
    return np.concatenate(parts)


def _versions() -> dict[str, str]:
    """Versions of whatever decides the physics, for the record."""
    found = {}
    for package in ("gymnasium", "gymnasium-robotics", "mujoco", "robosuite", "numpy"):
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found
