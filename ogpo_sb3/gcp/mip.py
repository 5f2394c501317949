"""Minimal iterative policy: two regressions, the second of which refines what the first found."""

from collections.abc import Sequence
from typing import ClassVar

import torch as th
from torch import nn

from ogpo_sb3.gcp.backbones import TRAINED_FOR, make_network
from ogpo_sb3.gcp.base import weighted_mean
from ogpo_sb3.gcp.chains import GaussianChainGCP, Tables
from ogpo_sb3.gcp.networks import VelocityNet


class MIPGCP(GaussianChainGCP):
    """
    Minimal iterative policy (Pan et al., Much Ado About Noising, 2025; OGPO C.4): f(s, x, t) regresses the action twice,
    from noise and from an action with a trace of noise. With x_0 ~ N(0, I),

        L = (f(s, x_0, 0) - a)^2 + (f(s, (1 - t*) x_0 + a, t*) - a)^2.

    A chain has two steps, x_1 ~ N(f(s, x_0, 0), sigma^2) and x_2 ~ N(f(s, x_1, t*), sigma^2); x_2 is the action. The
    deterministic sampler is the same without noise. The noise is constant: a step's mean does not depend on where its own
    path would lead, so there is no marginal to keep and no score to correct by.

    x_0 is independent of the action, so that the best f(s, x_0, 0) is the mean action of a state. The second step draws that
    to the actions there are; but a policy of this family has no way to choose between two modes.

    :param features_dim: F
    :param action_dim: D
    :param net_arch: widths of the hidden layers, or of the blocks
    :param denoising_steps: 2, the only number there is
    :param noise_std: sigma, standard deviation of both steps
    :param t_star: t*, below 1
    :param ratio_norm: see :class:`ogpo_sb3.gcp.GenerativeControlPolicy`
    :param noise_clip: draws of xi ~ N(0, I) are clamped to +- this value (the density is not renormalised)
    :param activation_fn: activation of the network
    :param time_embed_dim: width of the time embedding
    :param time_scale: factor on t before the embedding's sinusoids
    :param network: "mlp", "residual", "transformer" or "unet", see :func:`ogpo_sb3.gcp.backbones.make_network`
    :param unet_channels: channels of the U-Net's levels
    :param attention_heads: heads of the transformer's blocks
    :param chunk_size: h, the steps that D numbers stand for; for "transformer" and "unet", and policies pass it themselves
    :raises ValueError: other than two steps, or numbers outside their range
    """

    trained_for: ClassVar[tuple[str, ...]] = (*TRAINED_FOR, "t_star")

    std_table: th.Tensor

    def __init__(
        self,
        features_dim: int,
        action_dim: int,
        net_arch: Sequence[int] = (512, 512, 512, 512),
        denoising_steps: int = 2,
        noise_std: float = 0.05,
        t_star: float = 0.999,
        ratio_norm: str = "mean",
        noise_clip: float = 3.0,
        activation_fn: type[nn.Module] = nn.GELU,
        time_embed_dim: int = 32,
        time_scale: float = 1000.0,
        network: str = "mlp",
        unet_channels: Sequence[int] = (64, 128),
        attention_heads: int = 4,
        chunk_size: int = 1,
    ):
        if denoising_steps != 2:
            raise ValueError(f"denoising_steps of a minimal iterative policy must be 2, found {denoising_steps}")
        super().__init__(features_dim, action_dim, denoising_steps, ratio_norm, noise_clip)
        if not noise_std > 0:
            raise ValueError(f"noise_std must be positive (a chain without noise has no likelihood), found {noise_std}")
        if not 0 < t_star < 1:
            raise ValueError(f"t_star must lie in (0, 1), found {t_star}")
        self.t_star = t_star
        self.regression_net = make_network(
            network,
            features_dim,
            action_dim,
            net_arch,
            activation_fn,
            time_embed_dim,
            time_scale,
            unet_channels,
            attention_heads,
            chunk_size,
        )
        # Tables do not train and follow from the constructor: they stay out of the state dict.
        self.register_buffer("times", th.tensor([0.0, t_star]), persistent=False)
        self.register_buffer("std_table", th.full((2,), noise_std), persistent=False)

    @property
    def network(self) -> VelocityNet:
        return self.regression_net

    @property
    def stochastic_steps(self) -> int:
        return 2

    def regression(self, features: th.Tensor, x: th.Tensor, step: int) -> th.Tensor:
        """
        :param features: (B, F)
        :param x: (B, D)
        :param step: 0 from noise, 1 from an action
        :return: (B, D), f at this step's time
        """
        time = self.regression_net.embed_times(self.times[step : step + 1])
        return self.regression_net(self.regression_net.condition(features), time, x)

    def bc_loss(self, features: th.Tensor, actions: th.Tensor, weights: th.Tensor | None = None) -> th.Tensor:
        """Sum of the two regressions' squared errors, with one x_0 per sample for both (OGPO C.4). See the base class."""
        x0 = th.randn_like(actions)
        error = (self.regression(features, x0, 0) - actions).square()
        error = error + (self.regression(features, (1.0 - self.t_star) * x0 + actions, 1) - actions).square()
        return weighted_mean(error, weights)

    def _split(self, condition: th.Tensor) -> tuple[th.Tensor, Tables]:
        return condition, (self.std_table[:, None, None],)

    def _mean(self, x: th.Tensor, output: th.Tensor, *tables: th.Tensor) -> th.Tensor:
        return output

    def _noiseless(self, x: th.Tensor, output: th.Tensor, step: int) -> th.Tensor:
        return output
