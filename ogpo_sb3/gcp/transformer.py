"""A transformer over the steps of an action chunk."""

from collections.abc import Sequence

import torch as th
import torch.nn.functional as F
from torch import nn

from ogpo_sb3.gcp.networks import TimeEmbedding, VelocityNet, dense
from ogpo_sb3.gcp.residual import block_width, feed_forward


class AdaptiveBlock(nn.Module):
    """
    Self-attention and a feed-forward part, both scaled, shifted and gated by the condition (adaLN-Zero of DiT).

    The modulation begins at zero: a new block passes on what it is given.

    :param width: of every token
    :param heads: of the attention, a divisor of the width
    :param activation_fn: activation of the feed-forward part
    """

    def __init__(self, width: int, heads: int, activation_fn: type[nn.Module]):
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(width, elementwise_affine=False)  # the condition scales and shifts
        self.queries_keys_values, self.mix = dense(width, 3 * width), dense(width, width)
        self.feed_forward = feed_forward(width, activation_fn)
        self.modulation = zero_dense(width, 6 * width)

    def forward(self, tokens: th.Tensor, condition: th.Tensor) -> th.Tensor:
        """
        :param tokens: (B, h, width)
        :param condition: (B, width)
        :return: (B, h, width)
        """
        shift, scale, gate, late_shift, late_scale, late_gate = self.modulation(condition)[:, None].chunk(6, dim=-1)
        tokens = tokens + gate * self._attend((1.0 + scale) * self.norm(tokens) + shift)
        return tokens + late_gate * self.feed_forward((1.0 + late_scale) * self.norm(tokens) + late_shift)

    def _attend(self, tokens: th.Tensor) -> th.Tensor:
        """Every step of the chunk to every other, in both directions."""
        # (B, h, 3 width) to three of (B, heads, h, width / heads)
        q, k, v = self.queries_keys_values(tokens).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        return self.mix(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class ChunkTransformer(VelocityNet):
    """
    A transformer whose tokens are the h steps of a chunk (DiT, arXiv 2212.09748).

    Features and time meet as the sum of two embeddings, so that the features' is computed once per state. The last layer
    begins at zero, as DiT's does: a new network returns zeros.

    :param features_dim: F
    :param action_dim: D, flat dimension of the action chunk
    :param chunk_size: h, a divisor of D
    :param net_arch: width of every block, all equal
    :param attention_heads: heads of every block, a divisor of the width
    :param activation_fn: activation
    :param time_embed_dim: width of the time embedding
    :param time_scale: see :class:`TimeEmbedding`
    :param time_inputs: numbers of the time embedding
    :raises ValueError: ``net_arch`` is empty or has different widths, or something does not divide what it should
    """

    def __init__(
        self,
        features_dim: int,
        action_dim: int,
        chunk_size: int,
        net_arch: Sequence[int],
        attention_heads: int = 4,
        activation_fn: type[nn.Module] = nn.GELU,
        time_embed_dim: int = 32,
        time_scale: float = 1000.0,
        time_inputs: int = 1,
    ):
        super().__init__()
        if action_dim % chunk_size:
            raise ValueError(f"a chunk of {action_dim} numbers cannot have {chunk_size} steps")
        width, step_dim = block_width("transformer", net_arch), action_dim // chunk_size
        if attention_heads < 1 or width % attention_heads:
            raise ValueError(f"attention_heads must divide the width {width} of net_arch, found {attention_heads}")
        self.chunk_size = chunk_size
        self.time_embedding = TimeEmbedding(time_embed_dim, time_scale, time_inputs)
        self.of_time, self.of_features = dense(time_embed_dim, width), dense(features_dim, width)
        self.of_step = dense(step_dim, width)
        self.positions = nn.Parameter(0.02 * th.randn(chunk_size, width))
        self.activation = activation_fn()
        self.blocks = nn.ModuleList(AdaptiveBlock(width, attention_heads, activation_fn) for _ in net_arch)
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.modulation, self.last = zero_dense(width, 2 * width), zero_dense(width, step_dim)

    def condition(self, features: th.Tensor) -> th.Tensor:
        """See the base class."""
        return self.of_features(features)

    def embed_times(self, t: th.Tensor) -> th.Tensor:
        """See the base class."""
        return self.of_time(self.time_embedding(t))

    def forward(self, condition: th.Tensor, time: th.Tensor, x: th.Tensor) -> th.Tensor:
        """See the base class."""
        condition = self.activation(condition + time).expand(len(x), -1)
        tokens = self.of_step(x.unflatten(1, (self.chunk_size, -1))) + self.positions
        for block in self.blocks:
            tokens = block(tokens, condition)
        shift, scale = self.modulation(condition)[:, None].chunk(2, dim=-1)
        return self.last((1.0 + scale) * self.norm(tokens) + shift).flatten(1)


def zero_dense(in_dim: int, out_dim: int) -> nn.Linear:
    """
    A linear layer that begins at zero.

    :param in_dim: input dimension
    :param out_dim: output dimension
    """
    layer = nn.Linear(in_dim, out_dim)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer
