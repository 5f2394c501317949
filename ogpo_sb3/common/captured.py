"""
Updates as CUDA graphs: recorded once, replayed as a whole.

An update of these small networks consists of some hundred short operations; a GPU finishes each before the host has issued the
next. A graph issues all of them at once. It needs fixed shapes, fixed addresses and no question to the host.
"""

from collections.abc import Callable
from typing import Any

import torch as th

Tree = Any  # tensors in tuples and dictionaries; None and numbers are constants
_WARMUP = 3  # runs on a side stream before recording, as torch asks for


class CapturedStep:
    """
    A function of tensors that updates parameters and returns scalars by name.

    The first calls run it as it is (each is a real update), the next records it, and from then on it is replayed on copies of
    the inputs. Whatever it reads or writes besides its inputs must keep its address.

    :param function: what is recorded
    """

    def __init__(self, function: Callable[..., dict[str, th.Tensor]]):
        self.function = function
        self.graph: th.cuda.CUDAGraph | None = None
        self.calls = 0
        self.inputs: tuple[Tree, ...] = ()
        self.names: list[str] = []
        self.values = th.empty(0)

    def __call__(self, *inputs: Tree) -> dict[str, th.Tensor]:
        """
        :param inputs: of the same structure and shapes in every call
        :return: the function's scalars, copied
        """
        self.calls += 1
        if self.calls <= _WARMUP:
            return self._on_side_stream(*inputs)
        if self.graph is None:
            self.inputs = tuple(copy_tree(tree) for tree in inputs)
            self.graph = th.cuda.CUDAGraph()
            with th.cuda.graph(self.graph):
                self.names, self.values = self._run(*self.inputs)
        th._foreach_copy_(leaves(self.inputs), leaves(inputs), non_blocking=True)
        self.graph.replay()
        return dict(zip(self.names, self.values.clone().unbind(), strict=True))

    def _run(self, *inputs: Tree) -> tuple[list[str], th.Tensor]:
        named = self.function(*inputs)
        return list(named), th.stack([value.detach().float() for value in named.values()])

    def _on_side_stream(self, *inputs: Tree) -> dict[str, th.Tensor]:
        stream = th.cuda.Stream()
        stream.wait_stream(th.cuda.current_stream())
        with th.cuda.stream(stream):
            names, values = self._run(*inputs)
        th.cuda.current_stream().wait_stream(stream)
        return dict(zip(names, values.unbind(), strict=True))


def leaves(tree: Tree) -> list[th.Tensor]:
    """
    :param tree: tensors in tuples and dictionaries
    :return: its tensors, in order
    """
    if isinstance(tree, th.Tensor):
        return [tree]
    if isinstance(tree, dict):
        return [leaf for value in tree.values() for leaf in leaves(value)]
    return [leaf for value in tree for leaf in leaves(value)] if isinstance(tree, tuple) else []


def copy_tree(tree: Tree) -> Tree:
    """
    :param tree: tensors in tuples, named tuples and dictionaries
    :return: the same structure with copies of the tensors
    """
    if isinstance(tree, th.Tensor):
        return tree.clone()
    if isinstance(tree, dict):
        return {key: copy_tree(value) for key, value in tree.items()}
    if isinstance(tree, tuple):
        copies = [copy_tree(value) for value in tree]
        return type(tree)(*copies) if hasattr(tree, "_fields") else tuple(copies)
    return tree


def signature(tree: Tree) -> tuple[Any, ...]:
    """
    :param tree: inputs of a step
    :return: shapes and dtypes, equal for inputs that one recording serves
    """
    return tuple((tuple(leaf.shape), leaf.dtype) for leaf in leaves(tree))
