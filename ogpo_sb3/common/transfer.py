"""Batches of numpy arrays as tensors on a GPU."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch as th

Arrays = Any  # numpy arrays in dictionaries; None stays None


def map_arrays(function: Callable[[np.ndarray], Any], arrays: Arrays) -> Any:
    """
    :param function: of an array
    :param arrays: numpy arrays in dictionaries
    :return: the same structure with what the function gives
    """
    if isinstance(arrays, dict):
        return {name: map_arrays(function, value) for name, value in arrays.items()}
    return None if arrays is None else function(arrays)


def to_gpu(arrays: Arrays, device: th.device) -> Any:
    """
    Copy a batch to a GPU: all that is float32 in one piece, as each copy costs the host more than these small arrays do.

    Copies are made from page-locked memory, which torch keeps for the next batch once they are done: the host goes on drawing
    batches while the device is busy with earlier ones.

    :param arrays: numpy arrays in dictionaries
    :param device: the GPU
    :return: tensors in the same structure
    """
    floats: list[np.ndarray] = []
    map_arrays(lambda array: floats.append(array) if array.dtype == np.float32 else None, arrays)
    host = th.empty(sum(array.size for array in floats), pin_memory=True)
    if floats:
        np.concatenate([array.ravel() for array in floats], out=host.numpy())
    parts = iter(host.to(device, non_blocking=True).split([array.size for array in floats]))

    def tensor(array: np.ndarray) -> th.Tensor:
        if array.dtype == np.float32:
            return next(parts).view(array.shape)
        return th.from_numpy(np.ascontiguousarray(array)).pin_memory().to(device, non_blocking=True)

    return map_arrays(tensor, arrays)
