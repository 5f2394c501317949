"""Whether critics can have a GPU's kernel of their own on this machine."""

import importlib.util
import subprocess
import warnings
from collections.abc import Callable
from functools import cache

import torch as th


@cache
def gpu_kernel() -> Callable[..., th.Tensor] | None:
    """
    :return: :func:`ogpo_sb3.critics.kernels.normalised_gelu_`; None where there is no Triton, which comes with torch for CUDA
        on Linux, and, with a warning, where it cannot compile
    """
    if importlib.util.find_spec("triton") is None:
        return None
    try:
        from ogpo_sb3.critics.kernels import normalised_gelu_

        normalised_gelu_(*th.zeros(4, 1, 1, 8, device="cuda"))
    except (RuntimeError, OSError, ImportError, subprocess.SubprocessError) as error:  # no C compiler, say
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        warnings.warn(f"the critics' layers are done operation by operation, as Triton cannot compile: {reason}", stacklevel=2)
        return None
    return normalised_gelu_
