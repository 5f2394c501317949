"""An ensemble of Q-functions evaluated as batched matrix products, and how its heads are combined."""

from collections.abc import Callable, Sequence

import torch as th
import torch.nn.functional as F
from torch import nn

from ogpo_sb3.critics.fused import gpu_kernel
from ogpo_sb3.critics.regression import Fit, Regression, td_loss, weighted_sum

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
        return th.baddbmm(self.bias.to(x.dtype), x, self.weight.to(x.dtype))


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
        return th.addcmul(self.bias.to(x.dtype), self.weight.to(x.dtype), F.layer_norm(x, x.shape[-1:]))


# On a CPU many rows are evaluated head by head in blocks of this many: their activations stay in its caches. With ten heads
# of four layers of 512 and 8192 rows that takes two thirds of the time of one batched product per layer.
CPU_ROWS = 1024


class CriticEnsemble(nn.Module):
    """
    M independent Q-functions of a state and a whole action chunk (OGPO A.1): linear, LayerNorm, GELU per layer.

    The first layer is linear in (features, actions), hence a sum: its part for the features is computed once per state.

    :param features_dim: F
    :param action_dim: D
    :param n_critics: M
    :param net_arch: widths of the hidden layers
    :param layer_norm: LayerNorm before each activation
    :param activation_fn: activation
    :param n_outputs: of a head's network; other kinds of heads have more than a value
    :param n_inputs: E, inputs beside state and actions, of which each head has its own
    :raises ValueError: no head, or a layer without width
    """

    def __init__(
        self,
        features_dim: int,
        action_dim: int,
        n_critics: int = 10,
        net_arch: Sequence[int] = (512, 512, 512, 512),
        layer_norm: bool = True,
        activation_fn: type[nn.Module] = nn.GELU,
        n_outputs: int = 1,
        n_inputs: int = 0,
    ):
        super().__init__()
        if n_critics < 1:
            raise ValueError(f"n_critics must be at least 1, found {n_critics}")
        if any(width < 1 for width in net_arch):
            raise ValueError(f"the critics' net_arch must hold widths of at least 1, found {list(net_arch)}")
        self.n_critics = n_critics
        self.features_dim = features_dim
        # Precision of the hidden layers' products, set for the duration of an update; None: that of the parameters.
        self.matmul_dtype: th.dtype | None = None
        layers: list[nn.Module] = []
        in_dim = features_dim + action_dim + n_inputs
        for width in net_arch:
            layers.append(EnsembleLinear(n_critics, in_dim, width))
            if layer_norm:
                layers.append(EnsembleLayerNorm(n_critics, width))
            layers.append(activation_fn())
            in_dim = width
        self.net = nn.Sequential(*layers, EnsembleLinear(n_critics, in_dim, n_outputs))
        exact_gelu = all(isinstance(layer, nn.GELU) and layer.approximate == "none" for layer in layers[2::3])
        self._fusable = bool(net_arch) and layer_norm and exact_gelu

    @property
    def n_heads(self) -> int:
        """First dimension of what :meth:`forward` gives."""
        return self.n_critics

    def forward(self, features: th.Tensor, actions: th.Tensor) -> th.Tensor:
        """
        :param features: (S, F)
        :param actions: (S, D) in [-1, 1], or (S, G, D) for G actions per state
        :return: (M, S), or (M, S, G)
        """
        return self.values(features, actions)

    def loss(self, features: th.Tensor, actions: th.Tensor, *regressions: Regression) -> Fit:
        """
        How far the heads are from their targets: mean squared errors, the first with coefficient 1.

        :param features: (B, F)
        :param actions: (B, D) in [-1, 1]
        :param regressions: what the values are regressed on
        """
        q = self(features, actions)
        return Fit(weighted_sum(regressions, [td_loss(q, r.target, r.weights) for r in regressions]), q, {})

    def read_out(self, outputs: th.Tensor) -> th.Tensor:
        """
        :param outputs: (..., n_outputs) of the networks
        :return: (...) values
        """
        return outputs.squeeze(-1)

    def values(self, features: th.Tensor, actions: th.Tensor, inputs: th.Tensor | None = None) -> th.Tensor:
        """
        :param features: (S, F)
        :param actions: (S, D), or (S, G, D)
        :param inputs: (M, S, E), or (M, S, G, E): each head's further inputs
        :return: (M, S), or (M, S, G)
        """
        rows = actions.shape[:-1].numel()
        in_blocks = rows >= CPU_ROWS // 2 and features.device.type == "cpu" and not th.is_grad_enabled()
        if not in_blocks:
            return self.read_out(self.outputs(features, actions, inputs))
        flat = None if inputs is None else inputs.reshape(self.n_critics, rows, -1)
        group = actions.shape[1:-1].numel()
        return self._values_in_blocks(features, actions.reshape(rows, -1), group, flat).view(-1, *actions.shape[:-1])

    def outputs(self, features: th.Tensor, actions: th.Tensor, inputs: th.Tensor | None = None) -> th.Tensor:
        """
        All heads and rows at once; arguments as of :meth:`values`.

        :param features: (S, F)
        :param actions: (S, D), or (S, G, D)
        :param inputs: (M, S, E), or (M, S, G, E)
        :return: (M, S, n_outputs), or (M, S, G, n_outputs)
        """
        group, rows = actions.shape[1:-1].numel(), actions.shape[:-1].numel()
        flat = None if inputs is None else inputs.reshape(self.n_critics, rows, -1)
        outputs = self._evaluate(features, actions.reshape(rows, -1), group, flat)
        return outputs.view(self.n_critics, *actions.shape[:-1], -1)

    def _evaluate(self, features: th.Tensor, actions: th.Tensor, group: int, inputs: th.Tensor | None) -> th.Tensor:
        """Features (S, F), actions (S * group, D) and inputs (M, S * group, E) to (M, S * group, n_outputs)."""
        first, *later = self.net
        assert isinstance(first, EnsembleLinear)
        weight, bias = first.weight, first.bias
        end = self.features_dim + actions.shape[-1]
        shared = th.baddbmm(bias, features.expand(self.n_critics, *features.shape), weight[:, : self.features_dim])
        if self._fusable and actions.is_cuda and not th.is_grad_enabled() and (kernel := gpu_kernel()) is not None:
            return self._fused(kernel, shared, actions, inputs)
        if group > 1:
            shared = shared.repeat_interleave(group, dim=1)
        x = shared.baddbmm_(actions.expand(self.n_critics, *actions.shape), weight[:, self.features_dim : end])
        if inputs is not None:
            x = x.baddbmm_(inputs, weight[:, end:])
        if not later:
            return x
        x = x.to(self.matmul_dtype or x.dtype)
        for layer in later[:-1]:
            x = layer(x)
        return later[-1](x.to(actions.dtype))

    def _fused(
        self, kernel: Callable[..., th.Tensor], shared: th.Tensor, actions: th.Tensor, inputs: th.Tensor | None
    ) -> th.Tensor:
        """As :meth:`_evaluate`, given the features' part (M, S, H_1) of the first layer: one kernel between two products."""
        first, *later = self.net
        assert isinstance(first, EnsembleLinear)
        end = self.features_dim + actions.shape[-1]
        x = th.bmm(actions.expand(self.n_critics, *actions.shape), first.weight[:, self.features_dim : end])
        if inputs is not None:
            x = x.baddbmm_(inputs, first.weight[:, end:])
        x, bias = x.to(self.matmul_dtype or x.dtype), shared
        for layer in later[:-1]:
            if isinstance(layer, EnsembleLayerNorm):
                x = kernel(x, bias, layer.weight, layer.bias)
            elif isinstance(layer, EnsembleLinear):
                x, bias = th.bmm(x, layer.weight.to(x.dtype)), layer.bias
        return later[-1](x.to(actions.dtype))

    def _values_in_blocks(self, features: th.Tensor, actions: th.Tensor, group: int, inputs: th.Tensor | None) -> th.Tensor:
        """As :meth:`_evaluate` and :meth:`read_out`, head by head and block by block, without gradient."""
        first, *later = self.net
        assert isinstance(first, EnsembleLinear)
        out = actions.new_empty(self.n_critics, len(actions))
        owner = th.arange(len(features)).repeat_interleave(group)
        dtype, end = self.matmul_dtype or actions.dtype, self.features_dim + actions.shape[-1]
        for m in range(self.n_critics):
            shared = th.addmm(first.bias[m], features, first.weight[m, : self.features_dim])
            steps = [_head(layer, m, dtype if layer is not later[-1] else actions.dtype) for layer in later]
            for begin in range(0, len(actions), CPU_ROWS):
                rows = slice(begin, begin + CPU_ROWS)
                x = th.addmm(shared[owner[rows]], actions[rows], first.weight[m, self.features_dim : end])
                if inputs is not None:
                    x = th.addmm(x, inputs[m, rows], first.weight[m, end:])
                x = x.to(dtype)
                for step in steps[:-1]:
                    x = step(x)
                out[m, rows] = self.read_out(steps[-1](x.to(actions.dtype)) if steps else x)
        return out


def _head(layer: nn.Module, m: int, dtype: th.dtype) -> Callable[[th.Tensor], th.Tensor]:
    """One member's share of a batched layer, in the given precision."""
    if isinstance(layer, EnsembleLinear):
        weight, bias = layer.weight[m].to(dtype), layer.bias[m].to(dtype)
        return lambda x: th.addmm(bias, x, weight)
    if isinstance(layer, EnsembleLayerNorm):
        scale, shift = layer.weight[m, 0].to(dtype), layer.bias[m, 0].to(dtype)
        return lambda x: F.layer_norm(x, x.shape[-1:], scale, shift)
    return layer


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
