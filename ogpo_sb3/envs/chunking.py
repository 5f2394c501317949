"""Action chunking on the environment side: a wrapper that executes chunks open loop, and the space of chunks."""

import copy
from typing import Any, Literal, SupportsFloat

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.utils import RecordConstructorArgs
from stable_baselines3.common.env_util import is_wrapped
from stable_baselines3.common.monitor import Monitor


def chunk_size_of(space: spaces.Space) -> int:
    """
    Number of environment steps that one action of a space stands for.

    :param space: an action space
    :return: its ``chunk_size``; 1 for any space that is not a :class:`ChunkBox`
    """
    return int(getattr(space, "chunk_size", 1))


def steps_in(info: dict[str, Any]) -> int:
    """
    Number of environment steps k that a decision really executed (1 <= k <= chunk size).

    :param info: what ``step`` returned as info
    :return: the length of the executed chunk; 1 for the info of an environment without chunks
    """
    chunk = info.get("chunk")
    return 1 if chunk is None else len(chunk["rewards"])


def success_of(info: dict[str, Any]) -> bool | None:
    """
    Whether an episode has succeeded, as its environment says: ``info["is_success"]``, Stable-Baselines3's key, before
    ``info["success"]``, that of gymnasium-robotics' Adroit.

    :param info: of the episode's last step
    :return: None where the environment says neither
    """
    success = info.get("is_success", info.get("success"))
    return None if success is None else bool(success)


def _positive_int(name: str, value: Any) -> int:
    """Return ``value`` as int, or say in one sentence what was wanted instead."""
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, np.integer)) or value < 1:
        raise ValueError(f"{name} is {value!r}, wanted an integer of at least 1.")
    return int(value)


class ChunkBox(spaces.Box):
    """
    Box of whole chunks: h actions of one step, flattened one after the other, ``[a_0 | a_1 | ... | a_{h-1}]``.

    It is flat (and not of shape ``(h, d)``) because exploration noise, replay buffers and RL-Zoo read ``shape[0]`` as the
    action dimension. It compares equal to the plain Box of the same bounds, and it remembers ``chunk_size`` when it is
    pickled, so that a saved model knows its chunk size without an environment.

    :param step_space: action space of a single step, any shape; d is its number of entries
    :param chunk_size: number h of steps in a chunk
    """

    def __init__(self, step_space: spaces.Box, chunk_size: int):
        if not isinstance(step_space, spaces.Box):
            raise ValueError(f"The single-step action space is {type(step_space).__name__}, wanted Box.")
        self.chunk_size = _positive_int("chunk_size", chunk_size)
        self.step_shape = tuple(step_space.shape)
        super().__init__(
            low=np.tile(step_space.low.reshape(-1), self.chunk_size),
            high=np.tile(step_space.high.reshape(-1), self.chunk_size),
            dtype=step_space.dtype,
        )

    def __repr__(self) -> str:
        return f"ChunkBox(chunk_size={self.chunk_size}, step_shape={self.step_shape}, {super().__repr__()})"


class ChunkActionWrapper(gym.Wrapper, RecordConstructorArgs):
    """
    Turns an environment of single steps into one of decisions: each action is a chunk, executed open loop.

    A decision ends early, after k < h steps, at the first terminated or truncated step. The reward is the **undiscounted**
    sum over the executed steps, so that returns mean what they mean without chunks. The info is that of the last executed step
    plus ``info["chunk"] = {"rewards": float32 (k,), "next_observations": list of k raw observations}``, from which
    :class:`~ogpo_sb3.common.buffers.ChunkReplayBuffer` rebuilds the stream of single steps and its targets (OGPO,
    arXiv 2605.03065, A.1).

    Episode statistics count environment steps only if ``Monitor`` sits inside this wrapper; one is added when there is none.

    :param env: environment with a Box action space; its time limit is inside, where ``gymnasium.make`` puts it
    :param chunk_size: number h of environment steps per decision
    :param emit: "full" reports rewards and observations of each sub-step; "rewards" leaves the observations out (images are
        costly to pass between processes), and a replay buffer then offers only windows that begin at a decision
    """

    def __init__(self, env: gym.Env, chunk_size: int, emit: Literal["full", "rewards"] = "full"):
        RecordConstructorArgs.__init__(self, chunk_size=chunk_size, emit=emit)
        if not isinstance(env.action_space, spaces.Box):
            raise ValueError(f"The action space of the environment is {type(env.action_space).__name__}, wanted Box.")
        if isinstance(env.action_space, ChunkBox) or is_wrapped(env, ChunkActionWrapper):
            raise ValueError(
                f"The environment is chunked already ({chunk_size_of(env.action_space)} steps), wanted one of single steps."
            )
        if emit not in ("full", "rewards"):
            raise ValueError(f'emit is {emit!r}, wanted "full" or "rewards".')
        self.chunk_size = _positive_int("chunk_size", chunk_size)
        self.emit = emit
        # Outside the wrapper Stable-Baselines3 would put its Monitor where it counts decisions instead of steps
        self._added_monitor = not is_wrapped(env, Monitor)
        gym.Wrapper.__init__(self, Monitor(env) if self._added_monitor else env)
        self.action_space: spaces.Space = ChunkBox(env.action_space, self.chunk_size)

    @property
    def spec(self) -> Any:  # type: ignore[override]
        """Specification that ``gymnasium.make`` turns into an equal environment; None if the environment has none."""
        if self._cached_spec is None:
            # The Monitor added here is left out: this wrapper's constructor adds it again
            inner = self.env.env if self._added_monitor else self.env  # type: ignore[attr-defined]
            if inner.spec is None:
                return None
            spec = copy.deepcopy(inner.spec)
            spec.additional_wrappers += (self.wrapper_spec(**self._saved_kwargs),)
            self._cached_spec = spec
        return self._cached_spec

    def step(self, action: Any) -> tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]:
        """
        Execute a chunk until it is used up or the episode ends.

        :param action: chunk of shape (h * d,), in the environment's own scale
        :return: last observation, undiscounted sum of rewards, terminated, truncated, info of the last step plus "chunk"
        """
        step_actions = self._split(action)
        rewards: list[float] = []
        next_observations: list[Any] = []
        for step_action in step_actions:
            observation, reward, terminated, truncated, info = self.env.step(step_action)
            rewards.append(float(reward))
            if self.emit == "full":
                # Copied, as an environment may reuse one array for all its observations
                next_observations.append(copy.deepcopy(observation))
            if terminated or truncated:
                break
        chunk: dict[str, Any] = {"rewards": np.array(rewards, dtype=np.float32)}
        if self.emit == "full":
            chunk["next_observations"] = next_observations
        return observation, sum(rewards), terminated, truncated, {**info, "chunk": chunk}

    def _split(self, action: Any) -> np.ndarray:
        """Check a chunk and return a copy of shape (h, *single shape), in which environments may write."""
        dtype = action.dtype if isinstance(action, np.ndarray) else self.action_space.dtype
        chunk = np.array(action, dtype=dtype)
        space = self.action_space
        assert isinstance(space, ChunkBox)
        if chunk.shape != space.shape:
            raise ValueError(f"The action has shape {chunk.shape}, wanted {space.shape} ({self.chunk_size} steps in a row).")
        if np.issubdtype(chunk.dtype, np.floating) and np.isnan(chunk).any():
            raise ValueError(f"The action holds NaN at entry {int(np.isnan(chunk).argmax())}, wanted numbers only.")
        return chunk.reshape(self.chunk_size, *space.step_shape)
