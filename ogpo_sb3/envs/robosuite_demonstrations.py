"""Bring robomimic's and LIBERO's recordings to the conventions of this package's robosuite environments.

Published files reward a step in the goal with 1 and others with 0, and their episodes go on in the goal for a while; the
environments here reward with -1 until success, which ends the episode.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from ogpo_sb3.demonstrations import DemonstrationSet

_MARK = "robosuite_rewards"


def adapt_robomimic(
    demonstrations: "DemonstrationSet",
    task: str = "Square",
    obs_type: str = "state",
    state_keys: Sequence[str] | None = None,
    **env_kwargs: Any,
) -> "DemonstrationSet":
    """Observations, rewards and ends of a :class:`~ogpo_sb3.envs.robomimic.RobomimicEnv` from recorded ones.

    :param demonstrations: read from a robomimic file, collected or replayed here.
    :param task: of the environment, as the next two.
    :param obs_type: the parts of the state vector that it observes are taken where their names are known.
    :param state_keys: their names.
    :param env_kwargs: the environment's other arguments; those of the reward count.
    :return: the adapted set; the same object where everything agrees.
    """
    from ogpo_sb3.envs.robomimic import low_dim_keys

    wanted = low_dim_keys(task, objects=obs_type == "state") if state_keys is None else tuple(state_keys)
    return _with_rewards(_with_state(demonstrations, wanted, alone=obs_type == "state"), **env_kwargs)


def adapt_libero(
    demonstrations: "DemonstrationSet",
    obs_type: str = "state_image",
    state_keys: Sequence[str] | None = None,
    instruction: str | Callable[[str], np.ndarray] | None = "bytes",
    **env_kwargs: Any,
) -> "DemonstrationSet":
    """Observations, rewards and ends of a :class:`~ogpo_sb3.envs.libero.LiberoEnv` from recorded ones.

    :param demonstrations: read from a LIBERO file.
    :param obs_type: of the environment, as the next two.
    :param state_keys: the parts of the state vector.
    :param instruction: how the instruction is observed; it is the same in every step.
    :param env_kwargs: the environment's other arguments; those of the reward count.
    :return: the adapted set; the same object where everything agrees.
    """
    adapted = demonstrations if state_keys is None else _with_state(demonstrations, tuple(state_keys), alone=False)
    if instruction is not None and "instruction" in adapted.meta:
        from ogpo_sb3.envs.libero import _encoded

        encoded = _encoded(instruction, adapted.meta["instruction"])
        adapted = replace(
            adapted,
            observations=_add(adapted.observations, encoded),
            final_observations=_add(adapted.final_observations, encoded),
        )
    return _with_rewards(adapted, **env_kwargs)


def _add(observations: Any, encoded: Any) -> Any:
    if observations is None or (isinstance(observations, dict) and "instruction" in observations):
        return observations
    parts = observations if isinstance(observations, dict) else {"state": observations}
    n = len(next(iter(parts.values())))
    return {**parts, "instruction": np.broadcast_to(encoded, (n, len(encoded)))}


def _with_state(demonstrations: "DemonstrationSet", wanted: tuple[str, ...], alone: bool) -> "DemonstrationSet":
    """The wanted parts of the state vector; without the pictures where it is observed alone."""
    known: Mapping[str, int] | None = demonstrations.meta.get("observation_keys")
    if not known or not set(wanted) <= set(known):
        return demonstrations  # what does not fit is for validate_for to name
    ends = dict(zip(known, np.cumsum(list(known.values())), strict=True))
    columns = np.concatenate([np.arange(ends[key] - known[key], ends[key]) for key in wanted])
    same = tuple(known) == wanted

    def pick(observations: Any) -> Any:
        if isinstance(observations, dict):
            state = observations["state"] if same else observations["state"][:, columns]
            return state if alone else {**observations, "state": state}
        return observations if same or observations is None else observations[:, columns]

    if same and not (alone and isinstance(demonstrations.observations, dict)):
        return demonstrations
    meta = {**demonstrations.meta, "observation_keys": {key: known[key] for key in wanted}}
    return replace(
        demonstrations,
        observations=pick(demonstrations.observations),
        final_observations=pick(demonstrations.final_observations),
        meta=meta,
    )


def _with_rewards(
    demonstrations: "DemonstrationSet",
    reward: str = "sparse",
    reward_scale: float = 1.0,
    success_bonus: float = 0.0,
    post_success_steps: int = 0,
    **_: Any,
) -> "DemonstrationSet":
    """Rewards and ends of the environment where it is known which steps succeed; no rewards where it is not."""
    wanted = [reward, reward_scale, success_bonus, post_success_steps]
    meta = demonstrations.meta
    made_here = str(meta.get("env_id")).startswith(("ogpo/Robomimic", "ogpo/Libero")) and "env_kwargs" in meta
    defaults = {"reward": "sparse", "reward_scale": 1.0, "success_bonus": 0.0, "post_success_steps": 0}
    recorded = meta.get(_MARK)
    if recorded is None and made_here:
        recorded = [meta["env_kwargs"].get(key, default) for key, default in defaults.items()]
    if recorded == wanted or (demonstrations.rewards is None and demonstrations.successes is None):
        return demonstrations
    succeeds = _succeeding_steps(demonstrations, recorded)
    if succeeds is None or reward != "sparse":
        return replace(demonstrations, rewards=None, terminals=None)
    lengths = []
    for start, end in zip(demonstrations.episode_starts, demonstrations.episode_ends, strict=True):
        hits = np.flatnonzero(succeeds[start:end])
        lengths.append(min(end - start, hits[0] + 1 + post_success_steps) if len(hits) else end - start)
    adapted = demonstrations.shortened(lengths)
    kept = np.concatenate([np.arange(s, s + k) for s, k in zip(demonstrations.episode_starts, lengths, strict=True)])
    success = succeeds[kept]
    terminals = np.zeros(len(kept), dtype=bool)
    successes = np.logical_or.reduceat(success, adapted.episode_starts)
    terminals[adapted.episode_ends - 1] = successes
    return replace(
        adapted,
        rewards=reward_scale * (success - 1.0) + success_bonus * success,
        terminals=terminals,
        successes=successes,
        meta={**meta, _MARK: wanted},
    )


def _succeeding_steps(demonstrations: "DemonstrationSet", recorded: Any) -> np.ndarray | None:
    """(n,) bool: zeros and ones of published files tell; an episode made here ends with its success, if it has one."""
    rewards, successes = demonstrations.rewards, demonstrations.successes
    if recorded is None and rewards is not None and np.isin(rewards, (0.0, 1.0)).all():
        return rewards == 1.0
    if recorded is None or successes is None or recorded[3]:
        return None
    found = np.zeros(demonstrations.n_steps, dtype=bool)
    found[demonstrations.episode_ends - 1] = successes
    return found
