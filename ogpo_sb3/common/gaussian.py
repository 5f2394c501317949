"""Squashed Gaussian actors and their temperature, as in SAC: what several algorithms add to a generative policy."""

import math
from collections.abc import Sequence
from typing import Any

import torch as th
import torch.nn.functional as F
from stable_baselines3.common.preprocessing import get_action_dim
from stable_baselines3.common.type_aliases import PyTorchObs
from torch import nn

from ogpo_sb3.common.features import FeatureModel
from ogpo_sb3.gcp.base import gaussian_log_prob
from ogpo_sb3.gcp.networks import mlp

_LOG_STD_RANGE = (-20.0, 2.0)  # SAC's


class TanhGaussian(FeatureModel):
    """
    u = tanh(mean + std xi) in (-1, 1)^D, given an observation and possibly a further vector (SAC, arXiv 1801.01290).

    Densities are those of u, before an algorithm scales it: an entropy target then means the same at every scale.

    :param net_arch: widths of the hidden layers
    :param activation_fn: activation
    :param context_dim: width of the further input, 0 for none
    """

    optimizer: th.optim.Optimizer

    def __init__(
        self, *args: Any, net_arch: Sequence[int], activation_fn: type[nn.Module], context_dim: int = 0, **kwargs: Any
    ):
        super().__init__(*args, **kwargs)
        action_dim = get_action_dim(self.action_space)
        features_dim = self.features_extractor.features_dim
        self.trunk = mlp(features_dim + context_dim, net_arch, 2 * action_dim, activation_fn)

    def forward(self, obs: PyTorchObs, context: th.Tensor | None = None) -> tuple[th.Tensor, th.Tensor]:
        """
        :param obs: observations (B)
        :param context: (B, C), or (B, N, C) for N further inputs per observation
        :return: mean and standard deviation before the tanh, (B, D) or (B, N, D)
        """
        x = self.features(obs)
        if context is not None:
            if context.dim() == 3:
                x = x[:, None].expand(-1, context.shape[1], -1)
            x = th.cat([x, context], dim=-1)
        mean, log_std = self.trunk(x).chunk(2, dim=-1)
        return mean, log_std.clamp(*_LOG_STD_RANGE).exp()

    def sample(self, obs: PyTorchObs, context: th.Tensor | None = None, n: int | None = None) -> tuple[th.Tensor, th.Tensor]:
        """
        :param obs: observations (B)
        :param context: see :meth:`forward`
        :param n: draws per observation; None for one, without a dimension of its own
        :return: u (B, D) or (B, N, D), differentiable, and its log-density (B) or (B, N)
        """
        mean, std = self(obs, context)
        if n is not None:
            mean, std = (y[:, None].expand(-1, n, -1) for y in (mean, std))
        raw = mean + std * th.randn_like(mean)
        # log(1 - tanh(x)^2), in a form that does not overflow
        log_slope = 2.0 * (math.log(2.0) - raw - F.softplus(-2.0 * raw))
        return raw.tanh(), gaussian_log_prob(raw, mean, std) - log_slope.sum(dim=-1)

    def mode(self, obs: PyTorchObs, context: th.Tensor | None = None) -> th.Tensor:
        """
        :param obs: observations (B)
        :param context: see :meth:`forward`
        :return: tanh of the mean
        """
        return self(obs, context)[0].tanh()


class Temperature(nn.Module):
    """
    The coefficient alpha of the entropy, adjusted towards a target entropy (SAC, arXiv 1812.05905).

    :param initial: value before training
    """

    optimizer: th.optim.Optimizer

    def __init__(self, initial: float = 1.0):
        super().__init__()
        self.log_value = nn.Parameter(th.tensor(math.log(initial)))

    def reset(self, initial: float) -> None:
        """
        :param initial: the value to begin with
        """
        with th.no_grad():
            self.log_value.fill_(math.log(initial))

    def value(self) -> th.Tensor:
        """Alpha, without gradient."""
        return self.log_value.detach().exp()

    def loss(self, log_prob: th.Tensor, target_entropy: float) -> th.Tensor:
        """
        :param log_prob: of the actor's draws, any shape
        :param target_entropy: entropy below which alpha grows
        :return: scalar
        """
        return -(self.log_value * (log_prob.detach() + target_entropy)).mean()
