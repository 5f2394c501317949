"""Videos of one or several models in an environment: single, side by side, or a grid of episodes."""

import math
import os
import pathlib
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
import torch as th

from ogpo_sb3.common.chunked_env import chunk_like
from ogpo_sb3.common.files import atomic_path
from ogpo_sb3.common.progress import progress
from ogpo_sb3.common.randomness import drawing_from
from ogpo_sb3.envs.chunking import ChunkBox, chunk_size_of, success_of
from ogpo_sb3.evaluation.rollouts import Deployed, check_fits

# Pixels of white above each picture, for its title.
_TITLE_HEIGHT = 24
# The first of evaluate()'s seeds: the videos show episodes that the success rates count.
FIRST_SEED = 10_000


class Clip:
    """Frames of one episode, kept in a temporary file so that long grids do not fill the memory.

    :param title: written above the frames.
    """

    def __init__(self, title: str = "") -> None:
        self.title = title
        self.success: bool | None = False
        self._file = tempfile.TemporaryFile()
        self._shape: tuple[int, ...] = ()
        self._n = 0

    def append(self, frame: np.ndarray) -> None:
        """
        :param frame: (H, W, 3) uint8, of the same size as the others
        """
        frame = np.ascontiguousarray(frame, dtype=np.uint8)
        if self._n and frame.shape != self._shape:
            raise ValueError(f"a frame of shape {frame.shape} follows frames of shape {self._shape}")
        self._shape = frame.shape
        self._file.seek(0, os.SEEK_END)
        self._file.write(frame.tobytes())
        self._n += 1

    def __len__(self) -> int:
        return self._n

    def __getitem__(self, index: int) -> np.ndarray:
        if not 0 <= index < self._n:
            raise IndexError(f"frame {index} of {self._n}")
        size = math.prod(self._shape)
        self._file.seek(index * size)
        return np.frombuffer(self._file.read(size), dtype=np.uint8).reshape(self._shape)


@dataclass(frozen=True)
class Video:
    """
    A video that was written.

    :param path: the file
    :param seeds: (E,) seeds of the episodes
    :param successes: (models, E) whether each episode succeeded; None where the environment does not say
    """

    path: pathlib.Path
    seeds: np.ndarray
    successes: np.ndarray | None


def record(
    model: Any,
    env: str | Callable[[], gym.Env] | gym.Env,
    path: str | os.PathLike[str],
    n_episodes: int = 1,
    seeds: Sequence[int] | None = None,
    columns: int | None = None,
    size: int | None = None,
    every: int = 1,
    max_steps: int | None = None,
    fps: float | None = None,
    progress_bar: bool = False,
    env_kwargs: Mapping[str, Any] | None = None,
) -> Video:
    """
    Record episodes of a model, or of several models on the same seeds.

    One model fills a grid of episodes; several models stand side by side, one column each and one row per episode. A shorter
    episode rests on its last frame. Titles name model, seed and outcome, where the environment says it.

    :param model: an algorithm of this package (one ODE sample of the EMA actor per decision, as :func:`ogpo_sb3.evaluate`) or
        any Stable-Baselines3 model (its deterministic action); or a dictionary from titles to models
    :param env: an id, a function that makes an environment of single steps with ``render_mode="rgb_array"``, or one such
        environment, which stays open
    :param path: .mp4 or .gif file; it appears complete or not at all
    :param n_episodes: with the seeds 10 000, 10 001, ...: those that ``evaluate`` counts
    :param seeds: the episodes' seeds, in place of ``n_episodes``
    :param columns: episodes beside each other, for one model; by default as square as possible
    :param size: height of a picture in pixels; by default the environment's where one is shown, else at most 240
    :param every: environment steps per frame (software rendering is slow)
    :param max_steps: environment steps after which an episode is left
    :param fps: frames per second; by default the environment's speed, ``render_fps / every``
    :param progress_bar: show progress in episodes
    :param env_kwargs: arguments of ``gym.make`` for an id
    :return: the file and what happened
    :raises ValueError: no model, episode or picture, a number out of range, or an environment that does not fit a model
    :raises ImportError: the extra ``video`` is missing
    """
    models = dict(model) if isinstance(model, Mapping) else {"": model}
    seeds = list(range(FIRST_SEED, FIRST_SEED + n_episodes)) if seeds is None else list(seeds)
    if not models or not seeds:
        raise ValueError(f"record() needs a model and an episode, found {len(models)} models and {len(seeds)} episodes")
    check_path(path)
    if fps is not None and not fps > 0:
        raise ValueError(f"fps must be positive, found {fps}")
    for name, value in (("every", every), ("columns", columns), ("size", size), ("max_steps", max_steps)):
        if value is not None and value < 1:
            raise ValueError(f"{name} must be at least 1, found {value}")
    _import_imageio()
    made = _make(env, env_kwargs)
    if made.render_mode != "rgb_array":
        raise ValueError(f'record() needs an environment with render_mode="rgb_array", found {made.render_mode!r}')
    if size is None and len(models) * len(seeds) > 1:
        size = 240
    clips: dict[tuple[str, int], Clip] = {}
    jobs = [(title, seed) for seed in seeds for title in models]
    try:
        _check_models(models, made)
        for job in progress(range(len(jobs)), "episodes recorded", len(jobs), progress_bar):
            title, seed = jobs[job]
            clip = clips[title, seed] = Clip()
            clip.success = _roll_out(models[title], made, seed, clip, every, max_steps, size)
            outcome = {True: ": success", False: ": no success", None: ""}[clip.success]
            clip.title = f"{title}, seed {seed}{outcome}" if title else f"seed {seed}{outcome}"
    finally:
        if made is not env:
            made.close()
    if fps is None:
        fps = max(1.0, made.metadata.get("render_fps", 25) / every)
    ordered = [clips[job] for job in jobs]
    if len(models) > 1:
        width = len(models)
    else:
        width = math.ceil(math.sqrt(len(seeds))) if columns is None else min(columns, len(seeds))
    rows = [ordered[start : start + width] for start in range(0, len(ordered), width)]
    write_grid([[(clip.title, clip) for clip in row] for row in rows], path, fps)
    said = [[clips[title, seed].success for seed in seeds] for title in models]
    successes = None if any(success is None for row in said for success in row) else np.array(said)
    return Video(pathlib.Path(path), np.array(seeds), successes)


def record_episode(
    model: Any, env: gym.Env, seed: int, every: int = 1, max_steps: int | None = None, sampler: str = "ode"
) -> tuple[list[np.ndarray], bool]:
    """
    One episode.

    :param model: see :func:`record`
    :param env: per-step environment with ``render_mode="rgb_array"``
    :param seed: of the environment and the latents
    :param every: environment steps per rendered frame (software rendering is slow)
    :param max_steps: stop after so many environment steps
    :param sampler: as in :func:`ogpo_sb3.evaluate`
    :return: frames (H, W, 3) uint8 and whether the episode succeeded
    :raises ValueError: an environment that does not fit the model, or draws nothing
    """
    _check_models({"": model}, env)
    frames: list[np.ndarray] = []
    with drawing_from(seed, model.device):
        success = bool(_roll_out(model, env, seed, frames, every, max_steps, None, sampler))
    return frames, success


def write_side_by_side(
    clips: Sequence[tuple[str, Sequence[np.ndarray] | Clip]], path: str | os.PathLike[str], fps: float = 25
) -> None:
    """
    Clips beside each other under their titles; a shorter one rests on its last frame.

    :param clips: (title, frames) pairs of equal frame size
    :param path: .mp4 (or .gif) file
    :param fps: frames per second
    """
    write_grid([clips], path, fps)


def write_grid(
    rows: Sequence[Sequence[tuple[str, Sequence[np.ndarray] | Clip]]], path: str | os.PathLike[str], fps: float = 25
) -> None:
    """
    Rows of clips under their titles; a shorter clip rests on its last frame, a shorter row ends in white.

    :param rows: (title, frames) pairs of equal frame size
    :param path: .mp4 or .gif file
    :param fps: frames per second
    :raises ValueError: another suffix, or a clip without frames
    """
    imageio = _import_imageio()
    path = check_path(path)
    empty = [title for row in rows for title, frames in row if not len(frames)]
    if empty:
        raise ValueError(f"the clip {empty[0]!r} has no frames")
    length = max(len(frames) for row in rows for _, frames in row)
    columns = max(len(row) for row in rows)
    mp4 = path.suffix.lower() == ".mp4"
    options: dict[str, Any] = {"fps": fps, "macro_block_size": 2} if mp4 else {"duration": 1000 / fps, "loop": 0}
    writer: Any
    with atomic_path(path) as temporary, imageio.get_writer(temporary, **options) as writer:
        for i in range(length):
            lines = []
            for row in rows:
                panels = [_titled(frames[min(i, len(frames) - 1)], title) for title, frames in row]
                panels += [np.full_like(panels[0], 255)] * (columns - len(panels))
                lines.append(np.concatenate(panels, axis=1))
            writer.append_data(np.concatenate(lines, axis=0))


def check_path(path: str | os.PathLike[str]) -> pathlib.Path:
    """
    :param path: of a video
    :raises ValueError: another suffix, or a folder
    """
    path = pathlib.Path(path)
    if path.suffix.lower() not in (".mp4", ".gif"):
        raise ValueError(f"{path}: videos are written as .mp4 or .gif")
    if path.is_dir():
        raise ValueError(f"{path} is a folder, wanted the name of a video")
    return path


def _make(env: Any, env_kwargs: Mapping[str, Any] | None) -> gym.Env:
    if isinstance(env, gym.Env):
        return env
    if isinstance(env, str):
        return gym.make(env, render_mode="rgb_array", **(env_kwargs or {}))
    return env()


def _check_models(models: Mapping[str, Any], env: gym.Env) -> None:
    """
    :raises ValueError: a chunked environment, or one whose actions or observations are not a model's
    """
    if isinstance(env.action_space, ChunkBox):
        found = env.action_space.chunk_size
        raise ValueError(f"a video shows single steps: env should be one without ChunkActionWrapper, found chunks of {found}")
    for title, model in models.items():
        check_fits(chunk_like(env, chunk_size_of(model.action_space)), model, title)


def _roll_out(
    model: Any, env: gym.Env, seed: int, frames: Any, every: int, max_steps: int | None, size: int | None, sampler: str = "ode"
) -> bool | None:
    """Append an episode's frames; whether it succeeded, None where the environment does not say."""
    chunk_size = chunk_size_of(model.action_space)
    act, generator = Deployed(model, sampler, model.get_vec_normalize_env()), th.Generator().manual_seed(seed)
    obs, info = env.reset(seed=seed)
    frames.append(_picture(env, size))
    done, steps = False, 0
    while not done:
        chunk = act([obs], [generator])[0]
        for action in chunk.reshape(chunk_size, *env.action_space.shape):  # type: ignore[misc]
            obs, _, terminated, truncated, info = env.step(action)
            steps += 1
            done = terminated or truncated or steps == max_steps
            if done or steps % every == 0:
                frames.append(_picture(env, size))
            if done:
                break
    return success_of(info)


def _picture(env: gym.Env, size: int | None) -> np.ndarray:
    frame: Any = env.render()
    if frame is None:
        raise ValueError('the environment draws nothing: make it with render_mode="rgb_array"')
    frame = np.asarray(frame)
    if size is None or frame.shape[0] <= size:
        return frame
    from PIL import Image  # comes with matplotlib

    width = max(2, round(frame.shape[1] * size / frame.shape[0]))
    return np.asarray(Image.fromarray(frame).resize((width, size), Image.Resampling.BILINEAR))


def _import_imageio() -> Any:
    try:
        import imageio.v2 as imageio
        import imageio_ffmpeg  # noqa: F401  (imageio's mp4 writer)
    except ImportError as error:
        raise ImportError('videos need imageio with ffmpeg: pip install "ogpo_sb3[video]"') from error
    return imageio


def _titled(frame: np.ndarray, title: str) -> np.ndarray:
    from PIL import Image, ImageDraw  # comes with matplotlib

    image = Image.new("RGB", (frame.shape[1], frame.shape[0] + _TITLE_HEIGHT), "white")
    image.paste(Image.fromarray(frame), (0, _TITLE_HEIGHT))
    ImageDraw.Draw(image).text((6, 6), title, fill="black")
    array = np.asarray(image)
    # Even sizes: the common video codecs refuse odd ones.
    return array[: array.shape[0] // 2 * 2, : array.shape[1] // 2 * 2]
