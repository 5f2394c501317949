"""
The hidden layers of an MLP over denoising chains, with a backward pass that visits only chains that have a gradient.

A clipped objective gives most chains a gradient of exactly zero: those whose advantage is zero and those whose ratio has left
the interval on their advantage's side. Backward costs twice what forward does, so that leaving them out is where the time is.
The result is the dense one: rows of zeros add nothing to any product.
"""

from collections.abc import Sequence
from typing import Any

import torch as th
import torch.nn.functional as F
from torch import nn


def hidden_layers(
    pre: th.Tensor, activations: Sequence[nn.Module], params: Sequence[th.Tensor], outputs: list[th.Tensor] | None = None
) -> list[th.Tensor]:
    """
    The pre-activations of every hidden layer, in the dtype of the first.

    :param pre: (R, H_1) pre-activations of the first hidden layer
    :param activations: one per hidden layer
    :param params: weight and bias of the second, third, ... hidden layer
    :param outputs: gets what all activations but the last give
    :return: one tensor (R, H_l) per hidden layer
    """
    pre_activations = [pre]
    for activation, weight, bias in zip(activations, params[::2], params[1::2], strict=False):
        output = activation(pre_activations[-1])
        if outputs is not None:
            outputs.append(output)
        pre_activations.append(F.linear(output, weight.to(pre.dtype), bias.to(pre.dtype)))
    return pre_activations


class SparseRowsMLP(th.autograd.Function):
    """
    v(condition, time, x) for T denoising steps of n chains: first layer split into its three inputs, then an MLP.

    ``apply(condition, owner, time, x, first, activations, dtypes, *params)`` with condition (S, H), owner (n,) the state of
    each chain, time (T, H), x (T, n, D) without gradient, first (H, D) the columns of the first layer that see x, dtypes those
    of the hidden layers' products forward and backward, and params the weights and biases of all later layers. Returns
    (T, n, D_out).

    Which chains have a gradient depends on the data: a GPU would have to wait for the host, and there all are visited.
    """

    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> th.Tensor:
        condition, owner, time, x, first, activations, dtypes, *params = inputs
        steps, n, _ = x.shape
        pre = (condition.index_select(0, owner) + time[:, None]).flatten(0, 1).addmm_(x.flatten(0, 1), first.T)
        outputs: list[th.Tensor] = []
        pre_activations = hidden_layers(pre.to(dtypes[0]), activations, params[:-2], outputs if x.is_cuda else None)
        output = activations[-1](pre_activations[-1])
        # A GPU has the memory to keep what the activations give; a CPU's caches have not, and it is computed again.
        kept = [value.to(dtypes[1]) for value in (*outputs, output)] if x.is_cuda else []
        ctx.save_for_backward(owner, x, first, *params, *pre_activations, *kept)
        ctx.n_params, ctx.activations, ctx.n_states, ctx.dtype = len(params), activations, len(condition), dtypes[1]
        # The narrow last layer, whose rounding the likelihood would see directly, is never rounded.
        return F.linear(output.to(x.dtype), params[-2], params[-1]).view(steps, n, -1)

    @staticmethod
    @th.autograd.function.once_differentiable
    def backward(ctx: Any, grad: th.Tensor) -> tuple[Any, ...]:
        owner, x, first, *tensors = ctx.saved_tensors
        params, pre_activations = tensors[: ctx.n_params], tensors[ctx.n_params : ctx.n_params + len(ctx.activations)]
        kept = tensors[ctx.n_params + len(ctx.activations) :]
        steps, n, _ = x.shape
        chains = owner if grad.is_cuda else grad.ne(0).any(dim=2).any(dim=0).nonzero()[:, 0]
        if len(chains) < n:
            grad, x, owner = grad.index_select(1, chains), x.index_select(1, chains), owner.index_select(0, chains)
            pre_activations = [pre.view(steps, n, -1).index_select(1, chains).flatten(0, 1) for pre in pre_activations]
        grad = grad.flatten(0, 1).to(ctx.dtype)
        grads: list[th.Tensor] = []
        for layer in range(len(pre_activations) - 1, -1, -1):
            weight, pre, activation = params[2 * layer], pre_activations[layer].to(ctx.dtype), ctx.activations[layer]
            # Sums over blocks are in the parameters' precision.
            output = kept[layer] if kept else activation(pre)
            grads = [(grad.T @ output).to(weight.dtype), grad.sum(dim=0, dtype=weight.dtype), *grads]
            grad = activation_backward(activation, pre, grad @ weight.to(ctx.dtype))
        grad = grad.to(x.dtype)
        grad_first = grad.T @ x.flatten(0, 1)
        grad = grad.view(steps, len(chains), len(first))
        grad_condition = grad.new_zeros(ctx.n_states, grad.shape[-1]).index_add_(0, owner, grad.sum(dim=0))
        return grad_condition, None, grad.sum(dim=1), None, grad_first, None, None, *grads


def activation_backward(activation: nn.Module, pre: th.Tensor, grad: th.Tensor) -> th.Tensor:
    """
    :param activation: elementwise, without parameters
    :param pre: its input
    :param grad: gradient of its output
    :return: gradient of its input
    """
    if isinstance(activation, nn.GELU):
        return th.ops.aten.gelu_backward(grad, pre, approximate=activation.approximate)
    with th.enable_grad():
        pre = pre.detach().requires_grad_()
        return th.autograd.grad(activation(pre), pre, grad)[0]
