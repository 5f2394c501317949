"""From what the user passed as ``env`` to an environment whose action space carries the chunk size."""

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from stable_baselines3.common.base_class import maybe_make_env
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.env_util import is_wrapped
from stable_baselines3.common.vec_env import VecEnv, VecFrameStack, is_vecenv_wrapped

from ogpo_sb3.envs.chunking import ChunkActionWrapper, ChunkBox, chunk_size_of
from ogpo_sb3.envs.registry import task_of


def check_chunk_size(chunk_size: int | None) -> None:
    """
    :param chunk_size: environment steps per decision
    :raises ValueError: not None and not an integer of at least 1
    """
    if chunk_size is not None and (isinstance(chunk_size, bool) or not isinstance(chunk_size, int) or chunk_size < 1):
        raise ValueError(f"chunk_size must be None or an integer of at least 1, found {chunk_size!r}")


def check_action_space(space: spaces.Space) -> None:
    """
    :param space: of an environment, or of its chunks
    :raises ValueError: a Box of integers, or one that leaves an entry no room
    """
    if not isinstance(space, spaces.Box):
        return  # Stable-Baselines3 names the kinds that it supports
    if not np.issubdtype(space.dtype, np.floating):
        raise ValueError(f"the action space is a Box of {space.dtype}, wanted one of floating-point numbers")
    stuck = np.flatnonzero(space.low.reshape(-1) >= space.high.reshape(-1))
    if len(stuck):
        raise ValueError(
            f"the action space allows {space.low.flat[stuck[0]]} to {space.high.flat[stuck[0]]} at entry {stuck[0]}, wanted "
            "low < high everywhere"
        )


def named(thing: object) -> str:
    """
    :param thing: given in place of an environment
    :return: what it is, for a sentence
    """
    return f"the class {thing.__name__}" if isinstance(thing, type) else type(thing).__name__


def chunk_env(
    env: gym.Env | VecEnv | str, chunk_size: int | None, pretrained_chunk_size: int | None = None, verbose: int = 0
) -> gym.Env | VecEnv:
    """
    Decide the chunk size and wrap a plain environment accordingly, outside its Monitor.

    None means: the wrapper's where the environment is chunked already, else the BC checkpoint's, else the environment's
    recommendation, else 1.

    :param env: environment, its id, or a vectorised environment
    :param chunk_size: what the user asked for
    :param pretrained_chunk_size: of the BC checkpoint, if any
    :param verbose: as in SB3
    :return: the environment, chunked unless the chunk size is 1
    :raises ValueError: something else than an environment, a chunk size that contradicts the wrapper's, a plain VecEnv where
        one above 1 is needed, or actions as in :func:`check_action_space`
    """
    check_chunk_size(chunk_size)
    if not isinstance(env, gym.Env | VecEnv | str):
        raise ValueError(
            f"env must be an environment, its id or a VecEnv of Stable-Baselines3 (make_vec_env), found {named(env)}"
        )
    env = maybe_make_env(env, verbose)
    space = env.action_space
    check_action_space(space)
    if isinstance(space, ChunkBox):
        if chunk_size not in (None, space.chunk_size):
            raise ValueError(f"chunk_size={chunk_size} contradicts the environment, which is wrapped with {space.chunk_size}")
        chunk_size = space.chunk_size
    elif chunk_size is None:
        task = task_of(env)
        chunk_size = pretrained_chunk_size or (task.chunk_size if task is not None else 1)
    if isinstance(env, VecEnv):
        if chunk_size > 1 and is_vecenv_wrapped(env, VecFrameStack):
            raise ValueError(
                "VecFrameStack sees one observation per chunk, not per step: stack frames below the chunk wrapper with "
                "gymnasium.wrappers.FrameStackObservation"
            )
        if chunk_size != chunk_size_of(space):
            raise ValueError(
                f"a VecEnv with single-step actions was passed where chunk_size is {chunk_size}: make it with "
                "make_vec_env(env_id, n_envs, wrapper_class=ogpo_sb3.ChunkActionWrapper, "
                f"wrapper_kwargs=dict(chunk_size={chunk_size})), or pass chunk_size=1"
            )
        return env
    return chunk_like(env, chunk_size)


def chunk_like(env: gym.Env, chunk_size: int) -> gym.Env:
    """
    Wrap a single environment for chunks of the given size, unless it is chunked already or the size is 1.

    :param env: environment
    :param chunk_size: environment steps per decision
    """
    if chunk_size == 1 or isinstance(env.action_space, ChunkBox) or not isinstance(env.action_space, spaces.Box):
        return env
    if not is_wrapped(env, Monitor):
        env = Monitor(env)
    return ChunkActionWrapper(env, chunk_size)
