"""What a data set holds, in a few lines, and what should make its user suspicious."""

from typing import Any

import numpy as np

from ogpo_sb3.demonstrations.dataset import DemonstrationSet
from ogpo_sb3.demonstrations.lazy import LazyRows

# Rows read at once of what stays in its file.
_BLOCK = 256
# A vector whose entries reach this far is probably in pixels or the like.
_LARGE = 20.0
# An entry that moves less than this over the whole set is constant.
_STILL = 1e-6
_LEFT_OUT = ("source", "reset_seeds", "initial_states", "env_args", "env_info", "observation_keys")


def summary(demonstrations: DemonstrationSet) -> str:
    """Episodes, lengths, successes, shapes, ranges and origin.

    :param demonstrations: the data set.
    :return: text without a final newline.
    """
    lengths = demonstrations.episode_lengths
    lines = [
        demonstrations.source,
        f"  episodes      {demonstrations.n_episodes}, {lengths.min()} to {lengths.max()} steps, mean {lengths.mean():.1f}",
        f"  steps         {demonstrations.n_steps}",
    ]
    for key, array in [*_entries(demonstrations), ("actions", demonstrations.actions)]:
        shape = "x".join(map(str, array.shape[1:]))
        low, high = _range(array)
        unread = ", read when used" if isinstance(array, LazyRows) else ""
        lines.append(f"  {key:<13} {shape} {array.dtype}, {low:.4g} to {high:.4g}{unread}")
    if demonstrations.rewards is not None:
        returns = np.add.reduceat(demonstrations.rewards, demonstrations.episode_starts)
        lines.append(f"  return        {returns.min():.4g} to {returns.max():.4g}, mean {returns.mean():.4g}")
    if demonstrations.successes is not None:
        lines.append(f"  successes     {int(demonstrations.successes.sum())} of {demonstrations.n_episodes} episodes")
    if demonstrations.states is not None:
        lines.append(f"  states        {demonstrations.states.shape[1]} numbers of the simulator")
    if "observation_keys" in demonstrations.meta:
        parts = demonstrations.meta["observation_keys"].items()
        lines.append(f"  state is      {', '.join(f'{key} ({width})' for key, width in parts)}")
    lines += [f"  {key:<13} {value}" for key, value in demonstrations.meta.items() if key not in _LEFT_OUT]
    return "\n".join(lines)


def warnings(demonstrations: DemonstrationSet) -> list[str]:
    """What does not look right, one sentence each.

    NaN and infinity are not among it: data that hold them are refused when they are read.

    :param demonstrations: the data set.
    """
    found = []
    actions, n = demonstrations.actions, demonstrations.n_steps
    outside = np.abs(actions).max(axis=1) > 1.0 + 1e-3
    if outside.any():
        found.append(f"actions leave ±1 in {outside.sum()} of {n} steps, up to {np.abs(actions).max():.4g}.")
    still = np.flatnonzero(np.ptp(actions, axis=0) < _STILL)
    if n > 1 and len(still):
        found.append(f"actions have {len(still)} constant entries: {_shortened(still)}.")
    for key, array in _entries(demonstrations):
        if isinstance(array, LazyRows) or array.dtype == np.uint8 or array.ndim != 2:
            continue
        still = np.flatnonzero(np.ptp(array, axis=0) < _STILL)
        if n > 1 and len(still):
            found.append(f"{key} has {len(still)} constant entries: {_shortened(still)}.")
        if np.abs(array).max() > _LARGE:
            found.append(f"{key} reaches {np.abs(array).max():.4g}: not normalised, see normalize_observations.")
    repeated = _repeated(demonstrations)
    if repeated:
        found.append(f"{repeated} of {n} steps repeat the observation and the action of the step before.")
    if demonstrations.rewards is None:
        found.append("there are no rewards: replay the data to have them, offline_ratio needs them.")
    if demonstrations.successes is None:
        found.append("successes are unknown: replay the data to find out.")
    elif not demonstrations.successes.any():
        found.append("no episode is successful.")
    if demonstrations.final_observations is None:
        found.append("the observation after each episode's last action is unknown.")
    if (demonstrations.episode_lengths < 2).any():
        single = int((demonstrations.episode_lengths < 2).sum())
        found.append(f"{single} of {demonstrations.n_episodes} episodes have a single step.")
    return found


def _entries(demonstrations: DemonstrationSet) -> list[tuple[str, Any]]:
    observations = demonstrations.observations
    return list(observations.items()) if isinstance(observations, dict) else [("observations", observations)]


def _range(array: Any) -> tuple[float, float]:
    if not isinstance(array, LazyRows):
        return float(array.min()), float(array.max())
    blocks = (array[start : start + _BLOCK] for start in range(0, len(array), _BLOCK))
    lows, highs = zip(*((block.min(), block.max()) for block in blocks), strict=True)
    return float(min(lows)), float(max(highs))


def _repeated(demonstrations: DemonstrationSet) -> int:
    """Steps equal to their predecessor in the same episode, judged by the vectors."""
    if demonstrations.n_steps < 2:
        return 0
    same = (demonstrations.actions[1:] == demonstrations.actions[:-1]).all(axis=1)
    vectors = [array for _, array in _entries(demonstrations) if not isinstance(array, LazyRows) and array.ndim == 2]
    for array in vectors:
        same &= (array[1:] == array[:-1]).all(axis=1)
    same[demonstrations.episode_ends[:-1] - 1] = False
    return int(same.sum()) if vectors else 0


def _shortened(indices: np.ndarray) -> str:
    return ", ".join(map(str, indices[:8])) + (", ..." if len(indices) > 8 else "")
