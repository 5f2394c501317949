"""Before-and-after videos."""

import os
import pathlib
from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
import torch as th

from ogpo_sb3.envs.chunking import chunk_size_of
from ogpo_sb3.evaluation.rollouts import Deployed


def record_episode(
    model: Any, env: gym.Env, seed: int, every: int = 1, max_steps: int | None = None
) -> tuple[list[np.ndarray], bool]:
    """
    One episode of the policy as it is deployed.

    :param model: an algorithm of this package
    :param env: per-step environment with ``render_mode="rgb_array"``
    :param seed: of the environment and the latents
    :param every: environment steps per rendered frame (software rendering is slow)
    :param max_steps: stop after so many environment steps
    :return: frames (H, W, 3) uint8 and whether the episode succeeded
    """
    act, chunk_size = Deployed(model, "ode", model.get_vec_normalize_env()), chunk_size_of(model.action_space)
    generator = th.Generator().manual_seed(seed)
    obs, info = env.reset(seed=seed)
    frames: list[np.ndarray] = [np.asarray(env.render())]
    done, steps = False, 0
    while not done:
        chunk = act([obs], [generator])[0]
        for action in chunk.reshape(chunk_size, *env.action_space.shape):  # type: ignore[misc]
            obs, _, terminated, truncated, info = env.step(action)
            steps += 1
            done = terminated or truncated or steps == max_steps
            if done or steps % every == 0:
                frames.append(np.asarray(env.render()))
            if done:
                break
    return frames, bool(info.get("is_success", False))


def write_side_by_side(clips: Sequence[tuple[str, list[np.ndarray]]], path: str | os.PathLike[str], fps: int = 25) -> None:
    """
    Clips beside each other under their titles; a shorter one rests on its last frame.

    :param clips: (title, frames) pairs of equal frame size
    :param path: .mp4 (or .gif) file
    :param fps: frames per second
    """
    try:
        import imageio.v2 as imageio
        import imageio_ffmpeg  # noqa: F401  (imageio's mp4 writer)
    except ImportError as error:
        raise ImportError('videos need imageio with ffmpeg: pip install "ogpo_sb3[video]"') from error
    length = max(len(frames) for _, frames in clips)
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name.removesuffix(path.suffix)}.part{path.suffix}")
    writer: Any
    with imageio.get_writer(temporary, fps=fps, macro_block_size=2) as writer:
        for i in range(length):
            panels = [_titled(frames[min(i, len(frames) - 1)], title) for title, frames in clips]
            writer.append_data(np.concatenate(panels, axis=1))
    os.replace(temporary, path)


def _titled(frame: np.ndarray, title: str) -> np.ndarray:
    from PIL import Image, ImageDraw  # comes with matplotlib

    image = Image.new("RGB", (frame.shape[1], frame.shape[0] + 24), "white")
    image.paste(Image.fromarray(frame), (0, 24))
    ImageDraw.Draw(image).text((6, 6), title, fill="black")
    array = np.asarray(image)
    # Even sizes: the common video codecs refuse odd ones.
    return array[: array.shape[0] // 2 * 2, : array.shape[1] // 2 * 2]
