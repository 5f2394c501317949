"""An ensemble of Q-functions evaluated as batched matrix products, and how its heads are combined."""

from collections.abc import Sequence

import torch as th
import torch.nn.functional as F
from torch import nn

Q_AGGREGATIONS = ("mean", "min", "subsample")


class EnsembleLinear(nn.Module):
    """
    M linear layers as one batched product.

    :param n_members: M
    :param in_dim: input dimension of each
    :param out_dim: output dimension of each
    """

    def __init__(self, n_members: int, in_dim: int, out_dim: int):
        super().__init__()
        self.weight = nn.Parameter(th.empty(n_members, in_dim, out_dim))
        self.bias = nn.Parameter(th.zeros(n_members, 1, out_dim))
        for head in self.weight.data:
            nn.init.xavier_uniform_(head)

    def forward(self, x: th.Tensor) -> th.Tensor:
        """
        :param x: (M, B, in_dim), or (B, in_dim) shared by all members
        :return: (M, B, out_dim)
        """
        if x.dim() == 2:
            x = x.expand(len(self.weight), *x.shape)
        return th.baddbmm(self.bias, x, self.weight)


class EnsembleLayerNorm(nn.Module):
    """
    LayerNorm with a scale and shift per member.

    :param n_members: M
    :param dim: normalised dimension
    """

    def __init__(self, n_members: int, dim: int):
        super().__init__()
        self.weight = nn.Parameter(th.ones(n_members, 1, dim))
        self.bias = nn.Parameter(th.zeros(n_members, 1, dim))

    def forward(self, x: th.Tensor) -> th.Tensor:
        """
        :param x: (M, B, dim)
        :return: (M, B, dim)
        """
        return th.addcmul(self.bias, self.weight, F.layer_norm(x, x.shape[-1:]))


class CriticEnsemble(nn.Module):
    """
    M independent Q-functions of a state and a whole action chunk (OGPO A.1): linear, LayerNorm, GELU per layer.

    :param features_dim: F
    :param action_dim: D
    :param n_critics: M
    :param net_arch: widths of the hidden layers
    :param layer_norm: LayerNorm before each activation
    :param activation_fn: activation
    """

    def __init__(
        self,
        features_dim: int,
        action_dim: int,
        n_critics: int = 10,
        net_arch: Sequence[int] = (512, 512, 512, 512),
        layer_norm: bool = True,
        activation_fn: type[nn.Module] = nn.GELU,
    ):
        super().__init__()
        if n_critics < 1:
            raise ValueError(f"n_critics must be at least 1, found {n_critics}")
        if any(width < 1 for width in net_arch):
            raise ValueError(f"the critics' net_arch must hold widths of at least 1, found {list(net_arch)}")
        self.n_critics = n_critics
        layers: list[nn.Module] = []
        in_dim = features_dim + action_dim
        for width in net_arch:
            layers.append(EnsembleLinear(n_critics, in_dim, width))
            if layer_norm:
                layers.append(EnsembleLayerNorm(n_critics, width))
            layers.append(activation_fn())
            in_dim = width
        self.net = nn.Sequential(*layers, EnsembleLinear(n_critics, in_dim, 1))

    def forward(self, features: th.Tensor, actions: th.Tensor) -> th.Tensor:
        """
        :param features: (B, F)
        :param actions: (B, D) in [-1, 1]
        :return: (M, B)
        """
        return self.net(th.cat([features, actions], dim=-1)).squeeze(-1)


def aggregate(q: th.Tensor, how: str = "mean") -> th.Tensor:
    """
    Combine the heads of an ensemble (OGPO A.2).

    :param q: (M, ...) values, the first dimension being the heads
    :param how: "mean"; "min"; "subsample": the minimum of two different heads, one random pair per entry of the second
        dimension (per state) that all further dimensions (the group) share. The official code draws one pair per group
        index, with replacement, which adds noise to group advantages.
    :return: (...)
    """
    if how == "mean":
        return q.mean(dim=0)
    if how == "min":
        return q.min(dim=0).values
    if how == "subsample":
        n_heads = q.shape[0]
        if n_heads < 2:
            raise ValueError(f"q_agg='subsample' draws two different heads, found n_critics={n_heads}")
        n_states = q.shape[1] if q.dim() > 1 else 1
        first = th.randint(n_heads, (n_states,), device=q.device)
        second = (first + th.randint(1, n_heads, (n_states,), device=q.device)) % n_heads
        pairs = th.stack([first, second]).view(2, n_states, *[1] * max(q.dim() - 2, 0)).expand(2, *q.shape[1:])
        return q.gather(0, pairs).min(dim=0).values if q.dim() > 1 else q[pairs.flatten()].min()
    raise ValueError(f"q_agg must be one of {Q_AGGREGATIONS}, found {how!r}")
