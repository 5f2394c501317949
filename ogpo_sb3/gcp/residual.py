"""A residual MLP: deeper networks than a plain one stays trainable with."""

from collections.abc import Sequence

import torch as th
from torch import nn

from ogpo_sb3.gcp.networks import SplitFirstLayer, dense

# Hidden width of a block over its outer width, as in SimBa and in the feed-forward part of a transformer.
EXPANSION = 4


def block_width(network: str, net_arch: Sequence[int]) -> int:
    """
    Width of the blocks of a network whose blocks are added to what goes through them.

    :param network: its name, for the message
    :param net_arch: a width per block, all equal
    :raises ValueError: no block, or different widths
    """
    if not net_arch or len(set(net_arch)) > 1 or net_arch[0] < 1:
        raise ValueError(
            f"network={network!r} needs one width for each of its blocks, all equal, found net_arch={list(net_arch)}"
        )
    return net_arch[0]


def feed_forward(width: int, activation_fn: type[nn.Module]) -> nn.Sequential:
    """
    :param width: of input and output
    :param activation_fn: between the two layers
    """
    return nn.Sequential(dense(width, EXPANSION * width), activation_fn(), dense(EXPANSION * width, width))


class ResidualMLP(SplitFirstLayer):
    """
    v(s, x, t): a linear layer on the concatenation of features, x and time embedding, then blocks h + MLP(LayerNorm(h)),
    then a LayerNorm and a linear layer (SimBa, arXiv 2410.09754).

    :param features_dim: F
    :param action_dim: D, flat dimension of the action chunk
    :param net_arch: width of every block, all equal; an MLP inside is four times as wide
    :param activation_fn: activation
    :param time_embed_dim: width of the time embedding
    :param time_scale: see :class:`TimeEmbedding`
    :param time_inputs: numbers of the time embedding
    :raises ValueError: ``net_arch`` is empty or has different widths
    """

    def __init__(
        self,
        features_dim: int,
        action_dim: int,
        net_arch: Sequence[int],
        activation_fn: type[nn.Module] = nn.GELU,
        time_embed_dim: int = 32,
        time_scale: float = 1000.0,
        time_inputs: int = 1,
    ):
        super().__init__(features_dim, action_dim, time_embed_dim, time_scale, time_inputs)
        width = block_width("residual", net_arch)
        self.first = dense(sum(self.widths), width)
        self.blocks = nn.ModuleList(nn.Sequential(nn.LayerNorm(width), *feed_forward(width, activation_fn)) for _ in net_arch)
        self.last = nn.Sequential(nn.LayerNorm(width), dense(width, action_dim))

    @property
    def first_layer(self) -> nn.Linear:
        return self.first

    def forward(self, condition: th.Tensor, time: th.Tensor, x: th.Tensor) -> th.Tensor:
        """See the base class."""
        hidden = self._pre_activation(condition, time, x)
        for block in self.blocks:
            hidden = hidden + block(hidden)
        return self.last(hidden)
