"""The precision of an update's matrix products: chosen by name, in force for an update, and changing nothing global."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch as th
from torch import nn

PRECISIONS = ("fp32", "tf32", "bf16", "bf16_full")


def check_precision(precision: str, device: th.device) -> None:
    """
    :param precision: "fp32"; "tf32", a GPU's products of float32 rounded to 10 bits of mantissa; "bf16", hidden layers of the
        critics and the backward pass over chains in bfloat16, whereas chains are drawn and scored in float32; "bf16_full",
        these in bfloat16 too, which blurs the likelihood ratio (docs/guide/speed.md). Parameters are always float32
    :param device: where the networks are
    :raises ValueError: an unknown precision, or "tf32" on a device that does not have it
    """
    if precision not in PRECISIONS:
        raise ValueError(f"precision must be one of {PRECISIONS}, found {precision!r}")
    if precision == "tf32" and device.type != "cuda":
        raise ValueError(f"precision='tf32' needs device 'cuda', found {device.type!r}: choose 'fp32' or 'bf16'")
    if precision.startswith("bf16") and device.type == "cpu" and not cpu_has_bf16():
        warnings.warn(
            f"precision={precision!r} is slower than 'fp32' on this processor, which has no bfloat16 instructions",
            stacklevel=2,
        )


def cpu_has_bf16() -> bool:
    """Whether the processor multiplies bfloat16 numbers (AVX-512 BF16, AMX or ARM BF16)."""
    capabilities = th.cpu.get_capabilities()
    return any(bool(capabilities.get(name)) for name in ("avx512_bf16", "amx_bf16", "bf16", "arm_bf16"))


@contextmanager
def matmul_precision(networks: nn.Module, precision: str) -> Iterator[None]:
    """
    Evaluate networks in a precision until the block ends.

    :param networks: whose parts with a ``matmul_dtype`` or ``backward_dtype`` are switched
    :param precision: one of ``PRECISIONS``
    """
    if precision == "fp32":
        yield
        return
    if precision == "tf32":
        products: Any = th.backends.cuda.matmul
        # torch 2.9 renamed the switch, and refuses a program that uses both names.
        name, value = ("fp32_precision", "tf32") if hasattr(products, "fp32_precision") else ("allow_tf32", True)
        before = getattr(products, name)
        setattr(products, name, value)
        try:
            yield
        finally:
            setattr(products, name, before)
        return
    switched: list[tuple[Any, str]] = []
    for part in networks.modules():
        if hasattr(part, "backward_dtype"):
            switched.append((part, "backward_dtype"))
        if hasattr(part, "matmul_dtype") and (precision == "bf16_full" or not hasattr(part, "backward_dtype")):
            switched.append((part, "matmul_dtype"))
    for part, kind in switched:
        setattr(part, kind, th.bfloat16)
    try:
        yield
    finally:
        for part, kind in switched:
            setattr(part, kind, None)
