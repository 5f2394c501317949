"""A loss over many chains and its gradient, block by block."""

from collections.abc import Callable, Iterable

import torch as th


def backward_in_blocks(
    loss_of: Callable[[th.Tensor, th.Tensor], th.Tensor],
    condition: th.Tensor,
    chains: th.Tensor,
    blocks: Callable[[int], Iterable[slice]] | None = None,
) -> th.Tensor:
    """
    Accumulate the gradient of a sum over chains, holding no more than one block's activations.

    :param loss_of: (condition, chains) to the scalar share in the loss of the chains with these numbers, with gradient
    :param condition: (S, C) what all chains of a state share; its own backward pass is done once, at the end
    :param chains: (n,) numbers of the chains that count
    :param blocks: cuts a number of chains into blocks; None for all at once
    :return: scalar, the loss without gradient
    """
    shared = condition.detach().requires_grad_()
    loss = condition.new_zeros(())
    for block in [slice(0, len(chains))] if blocks is None else blocks(len(chains)):
        part = loss_of(shared, chains[block])
        part.backward()
        loss = loss + part.detach()
    if shared.grad is not None and condition.requires_grad:
        condition.backward(shared.grad)
    return loss
