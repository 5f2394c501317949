"""Batches that come from more than one buffer."""

from typing import Any

import torch as th

from ogpo_sb3.common.buffers import ChunkReplaySamples


def concatenate_samples(first: ChunkReplaySamples, second: ChunkReplaySamples) -> ChunkReplaySamples:
    """
    :param first: windows (B1, ...)
    :param second: windows of the same spaces (B2, ...)
    :return: (B1 + B2, ...); observations may be dictionaries, fields that either side lacks are None
    """

    def join(a: Any, b: Any) -> Any:
        if a is None or b is None:
            return None
        if isinstance(a, dict):
            return {key: th.cat([a[key], b[key]]) for key in a}
        return th.cat([a, b])

    return ChunkReplaySamples(*(join(a, b) for a, b in zip(first, second, strict=True)))
