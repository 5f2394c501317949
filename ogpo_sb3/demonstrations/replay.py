"""Execute recorded actions again: do they still succeed, and which rewards and ends would the environment have given?"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import gymnasium as gym
import numpy as np

from ogpo_sb3.common.progress import progress
from ogpo_sb3.demonstrations.dataset import BOUNDS_TOLERANCE, DemonstrationSet
from ogpo_sb3.envs.registry import TASKS, Task, make_with, register_environments, resolve

logger = logging.getLogger("ogpo_sb3")

# Observations that differ by no more than this count as equal.
_EXACT = 1e-5


@dataclass(frozen=True)
class Replay:
    """What came of a replay.

    :param demonstrations: what the environment showed: observations, rewards, terminations and successes of the recorded
        actions, each episode up to the step that ended it.
    :param start: how episodes were started: "states", "observations", "seeds" or "reset".
    :param deviations: (E,) largest difference between a recorded and a replayed vector observation; None where they cannot be
        compared.
    """

    demonstrations: DemonstrationSet
    start: str
    deviations: np.ndarray | None

    @property
    def succeeded(self) -> int:
        """Number of episodes that succeeded."""
        assert self.demonstrations.successes is not None
        return int(self.demonstrations.successes.sum())

    @property
    def exact(self) -> int | None:
        """Number of episodes whose observations are the recorded ones to 1e-5; None where they cannot be compared."""
        return None if self.deviations is None else int((self.deviations <= _EXACT).sum())


def replay(
    demonstrations: DemonstrationSet,
    env_id: str | None = None,
    env_kwargs: Mapping[str, Any] | None = None,
    set_states: bool = False,
    show_progress: bool = False,
) -> Replay:
    """Execute the recorded actions in a task's environment.

    An episode starts from its recorded simulator state where there is one (in the data or in its observations), else from its
    recorded seed, else from a reset. It ends where the environment ends it, or with the recorded actions; the time limit is
    set beyond the longest recording. Actions beyond the bounds are clipped and counted in ``meta["clipped_steps"]``. A
    recorded scene that does not fit the installed simulator is left out with a warning.

    :param demonstrations: what to replay, adapted to the task or not.
    :param env_id: a task of the registry; None for the one the data name.
    :param env_kwargs: arguments of ``gym.make``; None for those the data name.
    :param set_states: restore every recorded state instead of executing the actions between them, so that observations
        follow the recording even where physics have changed since (robosuite tasks).
    :param show_progress: draw a bar over the episodes.
    :return: the outcome.
    :raises ValueError: an unknown task, actions of another shape, ``set_states`` without states.
    """
    task = task_for(demonstrations, env_id)
    if env_kwargs is None:
        env_kwargs = demonstrations.meta.get("env_kwargs", {})
    if set_states and demonstrations.states is None:
        raise ValueError(f"{demonstrations.source}: there are no simulator states to restore; replay the actions instead.")
    register_environments()
    env = make_with(task.id, env_kwargs, max_episode_steps=int(demonstrations.episode_lengths.max()) + 1)
    try:
        adapted, clipped = _fitted(demonstrations, task, env, env_kwargs)
        starts, how = _starts(demonstrations, task, env)
        follow = _restore_all if set_states else _execute
        episodes = []
        for index in progress(range(adapted.n_episodes), f"replay in {task.id}", adapted.n_episodes, show_progress):
            episodes.append(follow(env, adapted.episode(index), starts[index], index))
        meta = _meta(adapted, task, dict(env_kwargs), env, how)
        if clipped:
            meta["clipped_steps"] = clipped
    finally:
        env.close()
    return Replay(_assemble(adapted, episodes, meta), how, _deviations(adapted, episodes))


def task_for(demonstrations: DemonstrationSet, env_id: str | None = None) -> Task:
    """The task that data belong to.

    :param demonstrations: its ``meta["env_id"]`` or ``meta["task"]`` (DAPG) may name it.
    :param env_id: wins over what the data say.
    :raises ValueError: none is known.
    """
    env_id = env_id or demonstrations.meta.get("env_id") or f"ogpo/{demonstrations.meta.get('task')}-v0"
    if env_id not in TASKS:
        raise ValueError(
            f"{demonstrations.source}: replay needs a task to replay in, found {env_id!r}, wanted one of {', '.join(TASKS)}."
        )
    return TASKS[env_id]


def check_fit(demonstrations: DemonstrationSet, task: Task, env_kwargs: Mapping[str, Any]) -> None:
    """Refuse data, adapted already, that cannot have come from a task. Where its simulator is missing, nothing is checked.

    :param demonstrations: what is to be called the task's.
    :param task: of the registry.
    :param env_kwargs: arguments of ``gym.make``.
    :raises ValueError: observations or actions are others than the environment's.
    """
    register_environments()
    try:
        env = make_with(task.id, env_kwargs)
    except ImportError as error:
        logger.warning(f"{demonstrations.source} is not compared with {task.id}: {error}")
        return
    spaces = env.observation_space, env.action_space
    env.close()
    try:
        demonstrations.for_space(spaces[0]).validate_for(*spaces)
    except ValueError as error:
        raise ValueError(f"These are no data of {task.id}: {error}") from error


def _fitted(
    demonstrations: DemonstrationSet, task: Task, env: gym.Env, env_kwargs: Mapping[str, Any]
) -> tuple[DemonstrationSet, int]:
    """The data with actions on the environment's scale, and how many had to be clipped.

    Data on that scale stay whole, since an adapter also cuts episodes.
    """
    space = env.action_space
    assert isinstance(space, gym.spaces.Box)
    if demonstrations.actions.shape[1:] == space.shape and not outside(demonstrations, space).any():
        return demonstrations, 0
    adapted = task.adapt(demonstrations, **{**task.kwargs, **env_kwargs})
    if adapted.actions.shape[1:] == space.shape and (clipped := int(outside(adapted, space).sum())):
        # The simulators clip too, so what was executed at the time is what is executed now.
        adapted = replace(adapted, actions=np.clip(adapted.actions, space.low, space.high))
        return adapted, clipped
    adapted.check_actions(space)
    return adapted, 0


def outside(demonstrations: DemonstrationSet, space: gym.spaces.Box) -> np.ndarray:
    """Which actions leave an environment's bounds, (n,) bool.

    :param demonstrations: with actions of the space's shape.
    :param space: of one environment step.
    """
    low, high = space.low - BOUNDS_TOLERANCE, space.high + BOUNDS_TOLERANCE
    return np.any((demonstrations.actions < low) | (demonstrations.actions > high), axis=1)


def _starts(demonstrations: DemonstrationSet, task: Task, env: gym.Env) -> tuple[list[dict[str, Any]], str]:
    """How each episode is started: arguments of ``_begin``."""
    meta, n = demonstrations.meta, demonstrations.n_episodes
    if hasattr(env.unwrapped, "set_state"):
        if demonstrations.states is not None:
            scenes: Sequence[str | None] = demonstrations.scenes or [None] * n
            firsts = demonstrations.states[demonstrations.episode_starts]
            return [{"state": state, "scene": scenes[index]} for index, state in enumerate(firsts)], "states"
        if "initial_states" in meta:
            return [{"state": np.array(state)} for state in meta["initial_states"]], "states"
    if "reset_seeds" in meta:
        return [{"seed": seed} for seed in meta["reset_seeds"]], "seeds"
    if task.recorded_states is not None:
        states = resolve(task.recorded_states)(demonstrations)
        if states is not None:
            return [{"state": state} for state in states[demonstrations.episode_starts]], "observations"
    return [{} for _ in range(n)], "reset"


def _begin(
    env: gym.Env, index: int, seed: int | None = None, state: np.ndarray | None = None, scene: str | None = None
) -> Any:
    """Start an episode; the observation."""
    unwrapped: Any = env.unwrapped
    seed = index if seed is None else seed
    observation, _ = env.reset(seed=seed)
    if state is None:
        return observation
    if scene is None:
        return unwrapped.set_state(state)
    try:
        return unwrapped.set_state(state, scene)
    except ValueError as error:
        logger.warning(f"{str(error)[:120]}...: states are restored in the simulator's present scene.")
        env.reset(seed=seed)
        return unwrapped.set_state(state)


def _execute(env: gym.Env, episode: DemonstrationSet, start: dict[str, Any], index: int) -> dict[str, Any]:
    """Execute an episode's actions."""
    observations, rewards, terminals, states = [_begin(env, index, **start)], [], [], []
    unwrapped: Any = env.unwrapped
    has_states = hasattr(unwrapped, "model_xml")
    success = False
    for action in episode.actions:
        if has_states:
            states.append(unwrapped.state)
        observation, reward, terminated, truncated, info = env.step(action)
        observations.append(observation)
        rewards.append(float(reward))
        terminals.append(terminated)
        success = success or bool(info["is_success"])
        if terminated or truncated:
            break
    recorded = np.stack(states) if has_states else None
    return dict(observations=observations, rewards=rewards, terminals=terminals, success=success, states=recorded)


def _restore_all(env: gym.Env, episode: DemonstrationSet, start: dict[str, Any], index: int) -> dict[str, Any]:
    """Observe every recorded state; only the last action is executed, since nothing is recorded after it."""
    assert episode.states is not None
    unwrapped: Any = env.unwrapped
    observations, rewards, terminals = [_begin(env, index, **start)], [], []
    success = False
    for step in range(episode.n_steps):
        if step + 1 < episode.n_steps:
            observations.append(unwrapped.set_state(episode.states[step + 1]))
            success = bool(unwrapped.robosuite._check_success())
        else:
            observation, _, _, _, info = env.step(episode.actions[step])
            observations.append(observation)
            success = bool(info["is_success"])
        rewards.append(0.0 if success else -1.0)
        terminals.append(success)
        if success:
            break
    states = episode.states[: len(rewards)]
    return dict(observations=observations, rewards=rewards, terminals=terminals, success=success, states=states)


def _assemble(recorded: DemonstrationSet, episodes: list[dict[str, Any]], meta: dict[str, Any]) -> DemonstrationSet:
    lengths = [len(episode["rewards"]) for episode in episodes]
    actions = [recorded.episode(index).actions[:length] for index, length in enumerate(lengths)]
    states = [episode["states"] for episode in episodes]
    return DemonstrationSet(
        observations=_stack([observation for episode in episodes for observation in episode["observations"][:-1]]),
        actions=np.concatenate(actions),
        episode_ends=np.cumsum(lengths),
        rewards=np.concatenate([episode["rewards"] for episode in episodes]),
        terminals=np.concatenate([episode["terminals"] for episode in episodes]),
        final_observations=_stack([episode["observations"][-1] for episode in episodes]),
        successes=np.array([episode["success"] for episode in episodes]),
        states=None if any(state is None for state in states) else np.concatenate(states),
        scenes=recorded.scenes,
        meta=meta,
    )


def _meta(demonstrations: DemonstrationSet, task: Task, env_kwargs: dict[str, Any], env: gym.Env, how: str) -> dict[str, Any]:
    left_out = ("observations", "format", "env_info", "observation_keys", "ignored", "filter", "clipped_steps")
    meta = {key: value for key, value in demonstrations.meta.items() if key not in left_out}
    meta.update(env_id=task.id, env_kwargs=env_kwargs, replayed=f"recorded actions, episodes started from {how}")
    meta.update(described(env))
    return meta


def described(env: gym.Env) -> dict[str, Any]:
    """What other tools want to know about an environment, where it tells.

    :param env: a task's environment.
    :return: entries of ``meta``: ``env_args`` (robomimic's description) and ``observation_keys`` (width of each part of the
        state vector).
    """
    unwrapped: Any = env.unwrapped
    found: dict[str, Any] = {"env_args": unwrapped.env_args} if hasattr(unwrapped, "env_args") else {}
    if hasattr(unwrapped, "state_keys"):
        spec = unwrapped.robosuite.observation_spec()
        # robosuite concatenates what belongs to the objects under a name of its own.
        widths = {"object" if key == "object-state" else key: int(np.size(spec[key])) for key in unwrapped.state_keys}
        found["observation_keys"] = widths
    return found


def _stack(observations: list[Any]) -> Any:
    if isinstance(observations[0], dict):
        return {key: np.stack([observation[key] for observation in observations]) for key in observations[0]}
    return np.stack(observations)


def _deviations(recorded: DemonstrationSet, episodes: list[dict[str, Any]]) -> np.ndarray | None:
    """Largest difference of the vector observations, episode by episode, where both have one of equal shape."""

    def vector(observations: Any) -> Any:
        return observations.get("state") if isinstance(observations, dict) else observations

    before = vector(recorded.observations)
    if before is None or before.ndim != 2 or vector(episodes[0]["observations"][0]).shape != before.shape[1:]:
        return None
    found = []
    for index, episode in enumerate(episodes):
        after = np.stack([vector(observation) for observation in episode["observations"][:-1]])
        found.append(float(np.abs(after - vector(recorded.episode(index).observations)[: len(after)]).max()))
    return np.array(found)
