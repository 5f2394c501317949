"""Networks that generative control policies are made of: plain torch, (batch, dim) in and out."""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch as th
import torch.nn.functional as F
from torch import nn

from ogpo_sb3.gcp.sparse_rows import SparseRowsMLP, hidden_layers


def dense(in_dim: int, out_dim: int) -> nn.Linear:
    """
    A linear layer with the initialisation of the OGPO code: variance scaling (fan average, uniform), zero bias.

    :param in_dim: input dimension
    :param out_dim: output dimension
    """
    layer = nn.Linear(in_dim, out_dim)
    nn.init.xavier_uniform_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


def mlp(in_dim: int, net_arch: Sequence[int], out_dim: int, activation_fn: type[nn.Module] = nn.GELU) -> nn.Sequential:
    """
    A multi-layer perceptron without normalisation layers (OGPO's actor has none).

    :param in_dim: input dimension
    :param net_arch: widths of the hidden layers; empty for a linear map
    :param out_dim: output dimension
    :param activation_fn: activation between the layers
    """
    if any(width < 1 for width in net_arch):
        raise ValueError(f"net_arch must hold widths of at least 1, found {list(net_arch)}")
    layers: list[nn.Module] = []
    for width in net_arch:
        layers += [dense(in_dim, width), activation_fn()]
        in_dim = width
    return nn.Sequential(*layers, dense(in_dim, out_dim))


class TimeEmbedding(nn.Module):
    """
    Sinusoidal features of the flow time followed by two linear layers.

    The official code feeds t in [0, 1] unscaled, which leaves about ten of the sixteen frequencies almost constant;
    scaling by 1000 (the default) spreads them over the interval. ``time_scale=1`` reproduces the official embedding.

    :param dim: width of the embedding, an even number
    :param time_scale: factor applied to t before the sinusoids
    :param inputs: numbers to embed together; above 1 the flow time is followed by others in [0, 1], a step's size say
    """

    frequencies: th.Tensor

    def __init__(self, dim: int = 32, time_scale: float = 1000.0, inputs: int = 1):
        super().__init__()
        if dim < 4 or dim % 2:
            raise ValueError(f"time_embed_dim must be an even number of at least 4, found {dim}")
        half = dim // 2
        exponents = -math.log(1e4) * th.arange(half, dtype=th.float32) / (half - 1)
        self.register_buffer("frequencies", time_scale * th.exp(exponents), persistent=False)
        self.net = nn.Sequential(dense(inputs * dim, 2 * dim), nn.GELU(), dense(2 * dim, dim))

    def forward(self, t: th.Tensor) -> th.Tensor:
        """
        :param t: (B,) flow times in [0, 1], or (B, inputs)
        :return: (B, dim)
        """
        angles = (t[..., None] * self.frequencies).flatten(1)
        return self.net(th.cat([angles.sin(), angles.cos()], dim=-1))


class VelocityNet(nn.Module, ABC):
    """
    v(s, x, t) in the form that chains are sampled and scored in: what depends on the observation alone, and on the time alone,
    is computed once and shared by all chains of a state and all states of a step.

    A subclass gives :meth:`condition`, :meth:`embed_times` and :meth:`forward`.
    """

    # Precision of the hidden layers' products, forward and in the backward pass over chains, set for the duration of an
    # update; None: that of the parameters. docs/guide/speed.md tells what rounding velocities does to the ratio.
    matmul_dtype: th.dtype | None = None
    backward_dtype: th.dtype | None = None

    @abstractmethod
    def condition(self, features: th.Tensor) -> th.Tensor:
        """
        :param features: (S, F)
        :return: (S, C), all that the network needs to know of the observation
        """

    @abstractmethod
    def embed_times(self, t: th.Tensor) -> th.Tensor:
        """
        :param t: (T,) flow times in [0, 1], or (T, inputs) where the time embedding has several inputs
        :return: (T, E)
        """

    @abstractmethod
    def forward(self, condition: th.Tensor, time: th.Tensor, x: th.Tensor) -> th.Tensor:
        """
        :param condition: (B, C)
        :param time: (B, E) or (1, E)
        :param x: (B, D)
        :return: (B, D)
        """

    def chains(self, condition: th.Tensor, owner: th.Tensor, time: th.Tensor, x: th.Tensor) -> th.Tensor:
        """
        The velocity at every step of many chains, in one pass.

        :param condition: (S, C)
        :param owner: (n,) row of ``condition`` that each chain belongs to
        :param time: (T, E), one per step
        :param x: (T, n, D)
        :return: (T, n, D)
        """
        steps, n, _ = x.shape
        rows = condition.index_select(0, owner).repeat(steps, 1)
        return self(rows, time.repeat_interleave(n, dim=0), x.flatten(0, 1)).view(steps, n, -1)


class SplitFirstLayer(VelocityNet):
    """
    Networks that begin with a linear layer on the concatenation of features, noisy action chunk and time embedding: a sum of
    three products, of which two are shared between rows.

    A subclass gives :attr:`first_layer`.

    :param features_dim: F
    :param action_dim: D
    :param time_embed_dim: width of the time embedding
    :param time_scale: see :class:`TimeEmbedding`
    :param time_inputs: numbers of the time embedding
    """

    def __init__(self, features_dim: int, action_dim: int, time_embed_dim: int, time_scale: float, time_inputs: int):
        super().__init__()
        self.widths = (features_dim, action_dim, time_embed_dim)
        self.time_embedding = TimeEmbedding(time_embed_dim, time_scale, time_inputs)

    @property
    @abstractmethod
    def first_layer(self) -> nn.Linear:
        """Its inputs are as wide as ``widths`` say, in their order."""

    def _columns(self) -> tuple[th.Tensor, ...]:
        """The columns of the first layer that see the features, x and the time."""
        return self.first_layer.weight.split(self.widths, dim=1)

    def condition(self, features: th.Tensor) -> th.Tensor:
        """The features' part of the first layer, bias included: (S, F) to (S, H_1)."""
        return F.linear(features, self._columns()[0], self.first_layer.bias)

    def embed_times(self, t: th.Tensor) -> th.Tensor:
        """The time's part of the first layer: (T,) to (T, H_1)."""
        return F.linear(self.time_embedding(t), self._columns()[2])

    def _pre_activation(self, condition: th.Tensor, time: th.Tensor, x: th.Tensor) -> th.Tensor:
        """(B, H_1) what the first layer gives, its three products together."""
        return (condition + time).addmm_(x, self._columns()[1].T)  # added to the sum in place, not to a copy of it


class VelocityMLP(SplitFirstLayer):
    """
    v(s, x, t): an MLP on the concatenation of features, noisy action chunk and time embedding.

    :param features_dim: F, dimension of the observation features
    :param action_dim: D, flat dimension of the action chunk
    :param net_arch: widths of the hidden layers
    :param activation_fn: activation between the layers
    :param time_embed_dim: width of the time embedding
    :param time_scale: see :class:`TimeEmbedding`
    :param time_inputs: numbers of the time embedding
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
        self.trunk = mlp(features_dim + action_dim + time_embed_dim, net_arch, action_dim, activation_fn)
        self._activations = [layer for layer in self.trunk if not isinstance(layer, nn.Linear)]
        # An activation with parameters of its own (PReLU) is left to autograd.
        self._sparse = bool(net_arch) and not any(True for a in self._activations for _ in a.parameters())

    def _linears(self) -> list[nn.Linear]:
        return [layer for layer in self.trunk if isinstance(layer, nn.Linear)]

    @property
    def first_layer(self) -> nn.Linear:
        return self._linears()[0]

    def _later(self) -> list[th.Tensor]:
        """Weight and bias of every layer after the first."""
        return [p for layer in self._linears()[1:] for p in (layer.weight, layer.bias)]

    def forward(self, condition: th.Tensor, time: th.Tensor, x: th.Tensor) -> th.Tensor:
        """See the base class."""
        pre = self._pre_activation(condition, time, x)
        if not self._activations:
            return pre
        params = self._later()
        pre = hidden_layers(pre.to(self.matmul_dtype or x.dtype), self._activations, params[:-2])[-1]
        return F.linear(self._activations[-1](pre).to(x.dtype), params[-2], params[-1])

    def chains(self, condition: th.Tensor, owner: th.Tensor, time: th.Tensor, x: th.Tensor) -> th.Tensor:
        """See the base class. On a CPU the backward pass leaves out chains without a gradient."""
        if not self._sparse or x.requires_grad:
            return super().chains(condition, owner, time, x)
        dtypes = (self.matmul_dtype or x.dtype, self.backward_dtype or x.dtype)
        return SparseRowsMLP.apply(condition, owner, time, x, self._columns()[1], self._activations, dtypes, *self._later())


class NoiseMLP(nn.Module):
    """
    Learned, state-dependent noise level of ReinFlow: the log of the standard deviation is bounded by a tanh.

    :param features_dim: F
    :param action_dim: D
    :param min_std: smallest standard deviation per step
    :param max_std: largest standard deviation per step
    :param net_arch: widths of the hidden layers
    :param time_embed_dim: width of the time embedding
    :param time_scale: see :class:`TimeEmbedding`
    """

    def __init__(
        self,
        features_dim: int,
        action_dim: int,
        min_std: float,
        max_std: float,
        net_arch: Sequence[int] = (256, 256),
        time_embed_dim: int = 32,
        time_scale: float = 1000.0,
    ):
        super().__init__()
        if not 0 < min_std < max_std:
            raise ValueError(f"learned noise needs 0 < min_noise_std < max_noise_std, found {min_std} and {max_std}")
        self.log_min, self.log_max = math.log(min_std), math.log(max_std)
        self.time_embedding = TimeEmbedding(time_embed_dim, time_scale)
        self.trunk = mlp(features_dim + time_embed_dim, net_arch, action_dim, nn.Tanh)

    def forward(self, features: th.Tensor, t: th.Tensor) -> th.Tensor:
        """
        :param features: (B, F)
        :param t: (B,) in [0, 1]
        :return: (B, D) standard deviations in [min_std, max_std]
        """
        squashed = th.tanh(self.trunk(th.cat([features, self.time_embedding(t)], dim=-1)))
        return th.exp(self.log_min + 0.5 * (squashed + 1.0) * (self.log_max - self.log_min))
