"""What stands between two products of the critics as one kernel of a GPU; imported where Triton is, with torch for CUDA."""

import torch as th
import triton
import triton.language as tl

EPSILON = 1e-5  # of torch's LayerNorm


@triton.jit
def _normalised_gelu(x, bias, scale, shift, rows, rows_of_a_bias, width, EPSILON: tl.constexpr, BLOCK: tl.constexpr):
    # One program per row: it is read once, kept in registers and written once.
    row = tl.program_id(0).to(tl.int64)
    head = row // rows
    column = tl.arange(0, BLOCK)
    inside = column < width
    value = tl.load(x + row * width + column, inside, 0.0).to(tl.float32)
    value += tl.load(bias + (row // rows_of_a_bias) * width + column, inside, 0.0).to(tl.float32)
    centred = tl.where(inside, value - tl.sum(value) / width, 0.0)
    normalised = centred * tl.rsqrt(tl.sum(centred * centred) / width + EPSILON)
    normalised *= tl.load(scale + head * width + column, inside, 0.0).to(tl.float32)
    normalised += tl.load(shift + head * width + column, inside, 0.0).to(tl.float32)
    value = 0.5 * normalised * (1.0 + tl.erf(normalised * 0.7071067811865476))
    tl.store(x + row * width + column, value.to(x.dtype.element_ty), inside)


def normalised_gelu_(x: th.Tensor, bias: th.Tensor, scale: th.Tensor, shift: th.Tensor) -> th.Tensor:
    """
    GELU(scale * LayerNorm(x + bias) + shift), written over x and without gradient.

    The activations of an ensemble fill a GPU's caches several times over. This reads and writes them once, where the
    operations one by one do so five times.

    :param x: (M, B, W) on a GPU, contiguous
    :param bias: (M, 1, W), or (M, S, W): each of S states has B / S rows of x, one behind the other
    :param scale: (M, 1, W) of the LayerNorm
    :param shift: (M, 1, W) of the LayerNorm
    :return: x
    """
    heads, rows, width = x.shape
    if x.numel() > 0:
        with th.cuda.device(x.device):
            _normalised_gelu[(heads * rows,)](
                x,
                bias.contiguous(),
                scale.contiguous(),
                shift.contiguous(),
                rows,
                rows // bias.shape[1],
                width,
                EPSILON=EPSILON,
                BLOCK=triton.next_power_of_2(width),
            )
    return x
