"""Diffusion policy: noise prediction, DDIM and DDPM samplers, chain likelihood."""

import math
from collections.abc import Sequence
from typing import ClassVar

import torch as th
from torch import nn

from ogpo_sb3.gcp.backbones import TRAINED_FOR, make_network
from ogpo_sb3.gcp.base import weighted_mean
from ogpo_sb3.gcp.chains import GaussianChainGCP, Tables
from ogpo_sb3.gcp.networks import VelocityNet


class DiffusionGCP(GaussianChainGCP):
    """
    Diffusion policy with noise prediction on the cosine schedule (DDPM, Ho et al. 2020; Nichol and Dhariwal 2021).

    With n = K ... 1 the diffusion step (n = K is the noise), abar_n the share of signal left and eps the network's output,

        x0 = clip((x_n - sqrt(1 - abar_n) eps) / sqrt(abar_n)),    e = (x_n - sqrt(abar_n) x0) / sqrt(1 - abar_n),
        mu = sqrt(abar_{n-1}) x0 + sqrt(1 - abar_{n-1} - s_n^2) e,

    where s_n is eta times the posterior's standard deviation (DDIM, Song et al. 2021). A stochastic step is N(mu, max(s_n,
    min_noise_std)^2); with eta = 1, mu is DDPM's posterior mean. The deterministic sampler is eta = 0 without noise.
    Chains are stored and scored in generation order like a flow's: state 0 is the noise.

    :param features_dim: F
    :param action_dim: D
    :param net_arch: widths of the hidden layers, or of the blocks
    :param denoising_steps: K, of training and of sampling
    :param min_noise_std: lower bound of a stochastic step's standard deviation, in sampling and in the likelihood (DPPO,
        arXiv 2409.00588); with 0 the last step is deterministic and has no density
    :param eta: noise of the stochastic steps, from 0 (DDIM; only ``min_noise_std`` is left) to 1 (DDPM)
    :param ratio_norm: see :class:`GenerativeControlPolicy`
    :param denoised_clip: x0 is clamped to +- this value; None for not at all
    :param noise_clip: draws of xi ~ N(0, I) are clamped to +- this value (the density is not renormalised)
    :param activation_fn: activation of the network
    :param time_embed_dim: width of the time embedding
    :param time_scale: factor on n / K before the embedding's sinusoids
    :param network: "mlp", "residual", "transformer" or "unet", see :func:`ogpo_sb3.gcp.backbones.make_network`
    :param unet_channels: channels of the U-Net's levels
    :param attention_heads: heads of the transformer's blocks
    :param chunk_size: h, the steps that D numbers stand for; for "transformer" and "unet", and policies pass it themselves
    """

    trained_for: ClassVar[tuple[str, ...]] = (*TRAINED_FOR, "denoising_steps")

    noise_table: th.Tensor
    signal_table: th.Tensor
    std_table: th.Tensor
    stochastic_table: th.Tensor
    deterministic_table: th.Tensor

    def __init__(
        self,
        features_dim: int,
        action_dim: int,
        net_arch: Sequence[int] = (512, 512, 512, 512),
        denoising_steps: int = 20,
        min_noise_std: float = 0.1,
        eta: float = 1.0,
        ratio_norm: str = "mean",
        denoised_clip: float | None = 1.0,
        noise_clip: float = 3.0,
        activation_fn: type[nn.Module] = nn.GELU,
        time_embed_dim: int = 32,
        time_scale: float = 1000.0,
        network: str = "mlp",
        unet_channels: Sequence[int] = (64, 128),
        attention_heads: int = 4,
        chunk_size: int = 1,
    ):
        super().__init__(features_dim, action_dim, denoising_steps, ratio_norm, noise_clip)
        if not min_noise_std >= 0:
            raise ValueError(f"min_noise_std must be at least 0, found {min_noise_std}")
        if not 0 <= eta <= 1:
            raise ValueError(f"eta must lie in [0, 1], found {eta}")
        if min_noise_std == 0 and (eta == 0 or denoising_steps == 1):
            raise ValueError(
                f"min_noise_std=0 leaves no noise with eta={eta} and denoising_steps={denoising_steps}: a chain without noise "
                "has no likelihood"
            )
        if denoised_clip is not None and not denoised_clip > 0:
            raise ValueError(f"denoised_clip must be None or positive, found {denoised_clip}")
        self.min_noise_std, self.denoised_clip = min_noise_std, denoised_clip
        self.denoiser_net: VelocityNet = make_network(
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

        # In generation order: entry i belongs to the step from n = K - i to n - 1.
        signal = cosine_signal(denoising_steps).flip(0)
        now, after = signal[:-1], signal[1:]
        std = eta * ((1.0 - after) / (1.0 - now) * (1.0 - now / after)).sqrt()
        # mu = a x0 + b x, once the noise direction e has been written in terms of the two
        tables = dict(
            times=1.0 - th.arange(denoising_steps, dtype=th.float64) / denoising_steps,
            noise_table=(1.0 - now).sqrt(),
            signal_table=now.sqrt(),
            std_table=std.clamp_min(min_noise_std),
            stochastic_table=_mean_coefficients(now, after, std),
            deterministic_table=_mean_coefficients(now, after, th.zeros_like(std)),
        )
        for name, table in tables.items():
            # Tables do not train and follow from the constructor: they stay out of the state dict.
            self.register_buffer(name, table.float(), persistent=False)

    @property
    def network(self) -> VelocityNet:
        return self.denoiser_net

    @property
    def stochastic_steps(self) -> int:
        return self.denoising_steps - (self.min_noise_std == 0)

    def predicted_noise(self, features: th.Tensor, x: th.Tensor, t: th.Tensor) -> th.Tensor:
        """
        :param features: (B, F)
        :param x: (B, D)
        :param t: (B,) n / K in (0, 1]
        :return: (B, D) eps
        """
        return self.denoiser_net(self.denoiser_net.condition(features), self.denoiser_net.embed_times(t), x)

    def bc_loss(self, features: th.Tensor, actions: th.Tensor, weights: th.Tensor | None = None) -> th.Tensor:
        """
        Squared error of the predicted noise at x_n = sqrt(abar_n) a + sqrt(1 - abar_n) e, one n per sample; see the base.
        """
        step = th.randint(self.denoising_steps, (len(actions),), device=actions.device)
        noise = th.randn_like(actions)
        noisy = self.signal_table[step, None] * actions + self.noise_table[step, None] * noise
        return weighted_mean((self.predicted_noise(features, noisy, self.times[step]) - noise).square(), weights)

    def denoised(self, x: th.Tensor, noise: th.Tensor, signal_share: th.Tensor, noise_share: th.Tensor) -> th.Tensor:
        """
        x0 of the class's equation.

        :param x: (..., D)
        :param noise: (..., D) eps at x
        :param signal_share: sqrt(abar_n), broadcastable
        :param noise_share: sqrt(1 - abar_n), broadcastable
        :return: (..., D)
        """
        x0 = (x - noise_share * noise) / signal_share
        return x0 if self.denoised_clip is None else x0.clamp(-self.denoised_clip, self.denoised_clip)

    def _split(self, condition: th.Tensor) -> tuple[th.Tensor, Tables]:
        """The network's condition; standard deviations, shares of signal and noise, and the mean's two coefficients."""
        tables = (self.std_table, self.signal_table, self.noise_table, *self.stochastic_table)
        return condition, tuple(table[:, None, None] for table in tables)

    def _mean(self, x: th.Tensor, output: th.Tensor, *tables: th.Tensor) -> th.Tensor:
        signal_share, noise_share, of_x0, of_x = tables
        return of_x0 * self.denoised(x, output, signal_share, noise_share) + of_x * x

    def _noiseless(self, x: th.Tensor, output: th.Tensor, step: int) -> th.Tensor:
        """DDIM with eta = 0."""
        of_x0, of_x = self.deterministic_table[:, step]
        return of_x0 * self.denoised(x, output, self.signal_table[step], self.noise_table[step]) + of_x * x


def cosine_signal(steps: int, offset: float = 0.008, max_beta: float = 0.999) -> th.Tensor:
    """
    abar of the cosine schedule (Nichol and Dhariwal 2021, equation 17), with their bound on a step's share of noise.

    :param steps: K
    :param offset: keeps the first steps' noise above zero
    :param max_beta: upper bound of beta_n = 1 - abar_n / abar_{n-1}
    :return: (K + 1,) in float64, from abar_0 = 1 down
    """
    angles = (th.linspace(0, 1, steps + 1, dtype=th.float64) + offset) / (1.0 + offset) * math.pi / 2
    signal = angles.cos().square()
    beta = (1.0 - signal[1:] / signal[:-1]).clamp_max(max_beta)
    return th.cat([th.ones(1, dtype=th.float64), (1.0 - beta).cumprod(dim=0)])


def _mean_coefficients(now: th.Tensor, after: th.Tensor, std: th.Tensor) -> th.Tensor:
    """(2, K) coefficients of x0 and x in sqrt(abar') x0 + sqrt(1 - abar' - s^2) (x - sqrt(abar) x0) / sqrt(1 - abar)."""
    of_x = ((1.0 - after - std.square()).clamp_min(0.0) / (1.0 - now)).sqrt()
    return th.stack([after.sqrt() - of_x * now.sqrt(), of_x])
