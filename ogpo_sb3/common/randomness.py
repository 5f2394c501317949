"""Draws that leave the training's random generators as they were."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch as th


@contextmanager
def drawing_from(seed: int, device: th.device) -> Iterator[None]:
    """
    torch draws from a seed within; afterwards its generators go on where they were.

    :param seed: of the draws
    :param device: where they are made, beside the CPU
    """
    with th.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        th.manual_seed(seed)
        yield
