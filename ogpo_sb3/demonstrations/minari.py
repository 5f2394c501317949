"""Read local Minari data sets."""

from typing import Any

import numpy as np

from ogpo_sb3.demonstrations.dataset import DemonstrationSet

# A goal-conditioned environment's observation; where the goals are constants of the task only "observation" says anything.
_GOAL_KEYS = ("achieved_goal", "desired_goal")
_SUCCESS_KEYS = ("is_success", "success")


def read(data_id: str) -> DemonstrationSet:
    """Read a Minari data set that lies on this machine; nothing is downloaded.

    Dictionary observations stay dictionaries, except that of a goal-conditioned environment only "observation" is taken.

    :param data_id: as Minari names it, ``D4RL/kitchen/complete-v2`` for instance.
    :return: the data set.
    """
    from ogpo_sb3.demonstrations.loading import import_reader

    source = f"minari:{data_id}"
    minari = import_reader("minari", source)
    try:
        dataset = minari.load_dataset(data_id)
    except (FileNotFoundError, ValueError) as error:
        raise FileNotFoundError(
            f"{source} is not on this machine ({error}); fetch it with `minari download {data_id}`."
        ) from error
    episodes = list(dataset.iterate_episodes())
    if not episodes:
        raise ValueError(f"{source}: there is no data (0 steps, 0 episodes).")
    observations = [_observation(episode.observations, source) for episode in episodes]
    successes = [_success(episode.infos) for episode in episodes]
    return DemonstrationSet(
        # Minari keeps the observation after the last action in the same array.
        observations=_join([_rows(observation, slice(None, -1)) for observation in observations]),
        actions=np.concatenate([np.asarray(episode.actions, dtype=np.float32) for episode in episodes]),
        episode_ends=np.cumsum([len(episode.actions) for episode in episodes]),
        rewards=np.concatenate([episode.rewards for episode in episodes]),
        terminals=np.concatenate([episode.terminations for episode in episodes]),
        final_observations=_join([_rows(observation, slice(-1, None)) for observation in observations]),
        successes=None if None in successes else np.array(successes),
        meta={"source": source, "format": "Minari", "env_id": dataset.spec.env_spec.id if dataset.spec.env_spec else None},
    )


def _observation(observation: Any, source: str) -> Any:
    if not isinstance(observation, dict):
        return observation
    if "observation" in observation and any(key in observation for key in _GOAL_KEYS):
        return _observation(observation["observation"], source)
    for key, value in observation.items():
        if isinstance(value, dict):
            raise ValueError(f"{source}: observations/{key} is a dictionary inside a dictionary, wanted an array.")
    return observation


def _success(infos: Any) -> bool | None:
    """Whether any step succeeded, None where the data set does not say."""
    for key in _SUCCESS_KEYS:
        if infos and key in infos:
            return bool(np.any(infos[key]))
    return None


def _rows(observation: Any, rows: slice) -> Any:
    if isinstance(observation, dict):
        return {key: np.asarray(value)[rows] for key, value in observation.items()}
    return np.asarray(observation)[rows]


def _join(parts: list[Any]) -> Any:
    if isinstance(parts[0], dict):
        return {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
    return np.concatenate(parts)
