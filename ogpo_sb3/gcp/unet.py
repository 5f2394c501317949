"""A network of convolutions over the steps of an action chunk."""

from collections.abc import Sequence
from itertools import pairwise

import torch as th
import torch.nn.functional as F
from torch import nn

from ogpo_sb3.gcp.networks import TimeEmbedding, VelocityNet, dense


class FilmBlock(nn.Module):
    """
    Two convolutions with a shortcut; between them the condition scales and shifts every channel (FiLM).

    :param in_channels: channels in
    :param out_channels: channels out
    :param cond_dim: C, width of the condition
    :param activation_fn: activation
    """

    def __init__(self, in_channels: int, out_channels: int, cond_dim: int, activation_fn: type[nn.Module]):
        super().__init__()
        self.first = nn.Sequential(nn.Conv1d(in_channels, out_channels, 3, padding=1), _norm(out_channels), activation_fn())
        self.second = nn.Sequential(nn.Conv1d(out_channels, out_channels, 3, padding=1), _norm(out_channels), activation_fn())
        self.film = nn.Sequential(activation_fn(), dense(cond_dim, 2 * out_channels))
        self.shortcut = nn.Conv1d(in_channels, out_channels, 1) if in_channels != out_channels else nn.Identity()

    def forward(self, x: th.Tensor, condition: th.Tensor) -> th.Tensor:
        """
        :param x: (B, channels, h)
        :param condition: (B, C)
        :return: (B, out channels, h)
        """
        scale, shift = self.film(condition)[:, :, None].chunk(2, dim=1)
        return self.second((1.0 + scale) * self.first(x) + shift) + self.shortcut(x)


class ConditionalUNet(VelocityNet):
    """
    A one-dimensional U-Net over the h steps of a chunk, whose channels are a step's action (Diffusion Policy, 2303.04137).

    Features and time meet as the sum of two embeddings, so that the features' is computed once per state.

    :param features_dim: F
    :param action_dim: D, flat dimension of the action chunk
    :param chunk_size: h, a divisor of D
    :param channels: of each level; every further level halves the number of steps
    :param activation_fn: activation
    :param time_embed_dim: width of the time embedding
    :param time_scale: see :class:`TimeEmbedding`
    :param time_inputs: numbers of the time embedding
    """

    def __init__(
        self,
        features_dim: int,
        action_dim: int,
        chunk_size: int,
        channels: Sequence[int] = (64, 128),
        activation_fn: type[nn.Module] = nn.GELU,
        time_embed_dim: int = 32,
        time_scale: float = 1000.0,
        time_inputs: int = 1,
    ):
        super().__init__()
        if action_dim % chunk_size:
            raise ValueError(f"a chunk of {action_dim} numbers cannot have {chunk_size} steps")
        if not channels or any(width < 1 for width in channels):
            raise ValueError(f"unet_channels must hold widths of at least 1, found {list(channels)}")
        if chunk_size < 2 ** (len(channels) - 1):
            raise ValueError(
                f"network='unet' with {len(channels)} levels needs chunks of at least {2 ** (len(channels) - 1)} steps, "
                f"found chunk_size={chunk_size}: shorten unet_channels={list(channels)} or use network='mlp'"
            )
        self.chunk_size, width, cond_dim = chunk_size, action_dim // chunk_size, 2 * channels[0]
        self.time_embedding = TimeEmbedding(time_embed_dim, time_scale, time_inputs)
        self.of_time = dense(time_embed_dim, cond_dim)
        self.of_features = dense(features_dim, cond_dim)
        blocks = [
            FilmBlock(before, after, cond_dim, activation_fn)
            for before, after in zip([width, *channels[:-1]], channels, strict=True)
        ]
        self.down = nn.ModuleList(blocks)
        self.shrink = nn.ModuleList(nn.Conv1d(c, c, 3, stride=2, padding=1) for c in channels[:-1])
        self.middle = FilmBlock(channels[-1], channels[-1], cond_dim, activation_fn)
        pairs = list(pairwise(channels))[::-1]
        self.up = nn.ModuleList(FilmBlock(after + before, before, cond_dim, activation_fn) for before, after in pairs)
        self.out = nn.Conv1d(channels[0], width, 1)

    def condition(self, features: th.Tensor) -> th.Tensor:
        """See the base class."""
        return self.of_features(features)

    def embed_times(self, t: th.Tensor) -> th.Tensor:
        """See the base class."""
        return self.of_time(self.time_embedding(t))

    def forward(self, condition: th.Tensor, time: th.Tensor, x: th.Tensor) -> th.Tensor:
        """See the base class."""
        condition = condition + time
        y = x.unflatten(1, (self.chunk_size, -1)).transpose(1, 2)
        skipped = []
        for level, block in enumerate(self.down):
            y = block(y, condition)
            if level < len(self.shrink):
                skipped.append(y)
                y = self.shrink[level](y)
        y = self.middle(y, condition)
        for block in self.up:
            skip = skipped.pop()
            y = block(th.cat([F.interpolate(y, skip.shape[-1]), skip], dim=1), condition)
        return self.out(y).transpose(1, 2).flatten(1)


def _norm(channels: int) -> nn.GroupNorm:
    """Up to eight groups."""
    return nn.GroupNorm(next(groups for groups in (8, 4, 2, 1) if channels % groups == 0), channels)
