"""Critics that regress in two steps, the second of which corrects a noisy value (MIP-Q)."""

from collections.abc import Sequence

import torch as th
from torch import nn

from ogpo_sb3.critics.ensemble import CriticEnsemble
from ogpo_sb3.critics.regression import Fit, Regression, td_loss, weighted_sum


class MIPQEnsemble(CriticEnsemble):
    """
    M heads q(s, a, z, t), minimal iterative policies' two regressions (OGPO C.4) with a scalar in place of an action.

    Trained with z uniform in [-u, u]:  L = ( q(s, a, z, 0) - y )^2 + ( q(s, a, (1 - t*) z + y, t*) - y )^2

    Evaluated in the same two steps:  y_1 = q(s, a, z, 0),  Q = q(s, a, (1 - t*) z + y_1, t*)

    at fixed noises, the midpoints of ``n_noises`` equal parts of [-u, u] (one: z = 0), so that a value is a function of state
    and action. Each of them counts as a head: one network gives an implicit ensemble of ``n_noises``.

    :param features_dim: F
    :param action_dim: D
    :param n_critics: networks; heads are ``n_critics * n_noises``
    :param net_arch: widths of the hidden layers
    :param layer_norm: LayerNorm before each activation
    :param activation_fn: activation
    :param refinement_time: t*, in (0, 1)
    :param noise_bound: u, in units of values, above 0
    :param n_noises: noises that a network is evaluated at, at least 1
    :param value_scale: the networks see a noisy value divided by this, above 0: about the size of the values, where that is
        far from 1
    :raises ValueError: arguments out of range
    """

    noises: th.Tensor

    def __init__(
        self,
        features_dim: int,
        action_dim: int,
        n_critics: int = 10,
        net_arch: Sequence[int] = (512, 512, 512, 512),
        layer_norm: bool = True,
        activation_fn: type[nn.Module] = nn.GELU,
        refinement_time: float = 0.9,
        noise_bound: float = 1.0,
        n_noises: int = 1,
        value_scale: float = 1.0,
    ):
        if not 0.0 < refinement_time < 1.0:
            raise ValueError(f"refinement_time must lie between 0 and 1, found {refinement_time}")
        for name, value in dict(noise_bound=noise_bound, value_scale=value_scale).items():
            if not 0.0 < value < float("inf"):
                raise ValueError(f"{name} must be positive and finite, found {value}")
        if n_noises < 1:
            raise ValueError(f"n_noises must be at least 1, found {n_noises}")
        super().__init__(features_dim, action_dim, n_critics, net_arch, layer_norm, activation_fn, n_inputs=2)
        self.refinement_time, self.noise_bound, self.value_scale = refinement_time, noise_bound, value_scale
        midpoints = (2.0 * th.arange(n_noises) + 1.0) / n_noises - 1.0
        self.register_buffer("noises", noise_bound * midpoints)

    @property
    def n_heads(self) -> int:
        """First dimension of what :meth:`forward` gives: networks times noises."""
        return self.n_critics * len(self.noises)

    def forward(self, features: th.Tensor, actions: th.Tensor) -> th.Tensor:
        """
        :param features: (S, F)
        :param actions: (S, D) in [-1, 1], or (S, G, D) for G actions per state
        :return: (M, S), or (M, S, G); the heads of one network are adjacent
        """
        n = len(self.noises)
        repeated = actions[..., None, :].expand(*actions.shape[:-1], n, -1)
        noise = self.noises.expand(self.n_critics, *repeated.shape[:-1])
        first = self.values(features, repeated, self._inputs(noise, 0.0))
        second = self.values(features, repeated, self._inputs(self._noisy(noise, first), self.refinement_time))
        return second.movedim(-1, 1).flatten(0, 1)

    def loss(self, features: th.Tensor, actions: th.Tensor, *regressions: Regression) -> Fit:
        """
        Squared errors of both steps. The values given have no gradient.

        :param features: (B, F)
        :param actions: (B, D) in [-1, 1]
        :param regressions: what the values are regressed on; of targets per head a network has the mean of its heads'
        """
        n_steps = 1 + len(regressions)
        noise = self.noise_bound * (2.0 * th.rand(self.n_critics, len(actions), device=actions.device) - 1.0)
        targets = [self._per_network(r.target.detach()) for r in regressions]
        # The first step is the same for all regressions: one row per state for it, then one per regression.
        refined = [self._inputs(self._noisy(noise, target), self.refinement_time) for target in targets]
        inputs = th.stack([self._inputs(noise, 0.0), *refined], dim=2)
        q = self.values(features, actions[:, None].expand(-1, n_steps, -1), inputs)
        losses = [
            td_loss(q[..., 0], target, r.weights) + td_loss(q[..., i], target, r.weights)
            for i, (r, target) in enumerate(zip(regressions, targets, strict=True), start=1)
        ]
        with th.no_grad():
            second = self._inputs(self._noisy(noise, q[..., 0]), self.refinement_time)
            values = self.values(features, actions, second)
        return Fit(weighted_sum(regressions, losses), values, {})

    def _noisy(self, noise: th.Tensor, value: th.Tensor) -> th.Tensor:
        """z_* of the second step."""
        return (1.0 - self.refinement_time) * noise + value

    def _inputs(self, noisy: th.Tensor, time: float) -> th.Tensor:
        """(..., 2): what the networks see of a noisy value and the step's time."""
        scaled = noisy / self.value_scale
        return th.stack([scaled, th.full_like(scaled, time)], dim=-1)

    def _per_network(self, target: th.Tensor) -> th.Tensor:
        """(B,) as it is, (M * n, B) to (M, B)."""
        return target if target.dim() == 1 else target.view(self.n_critics, -1, target.shape[-1]).mean(dim=1)
