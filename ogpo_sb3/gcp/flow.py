"""Flow-matching policy: behaviour cloning, ODE and SDE samplers, chain likelihood."""

from collections.abc import Sequence
from typing import ClassVar

import torch as th
from torch import nn

from ogpo_sb3.gcp.base import weighted_mean
from ogpo_sb3.gcp.chains import GaussianChainGCP, Tables
from ogpo_sb3.gcp.networks import NoiseMLP, VelocityMLP

NOISE_SCHEDULES = ("tapered", "constant", "learned")
SDE_CORRECTIONS = ("exact", "official", "none")


class FlowGCP(GaussianChainGCP):
    """
    Flow policy on the straight path x_t = (1 - t) x_0 + t a with x_0 ~ N(0, I).

    One step of the ODE is x + v/K. One step of the SDE is N(mu, sigma_i^2) with

        mu = x + v/K + c_i (t_i v - x),

    where (t v - x)/(1 - t) is the score of the path, so that c_i = sigma_i^2 / (2 (1 - t_i)) leaves the marginals
    unchanged to first order (OGPO A.4-A.5, Albergo et al. 2023). :meth:`drift` is the only place where mu is computed:
    sampling and scoring cannot disagree.

    :param features_dim: F
    :param action_dim: D
    :param net_arch: widths of the velocity network's hidden layers
    :param denoising_steps: K
    :param noise_std: sigma, standard deviation per step
    :param noise_schedule: "tapered": sigma_i = sigma sqrt(1 - t_i), all K steps stochastic; "constant": sigma_i = sigma
        except for the last step, which is a plain Euler step; "learned": a network of features and time (ReinFlow)
    :param sde_correction: "exact": c_i above; "official": the code's value, which is K times too small; "none": c_i = 0
    :param ratio_norm: see :class:`GenerativeControlPolicy`
    :param clip_intermediate: clamp every mean to [-1, 1] in the SDE and its likelihood, as the official code does;
        off by default because it does not preserve the marginals
    :param noise_clip: draws of xi ~ N(0, I) are clamped to +- this value (the density is not renormalised)
    :param activation_fn: activation of the velocity network
    :param time_embed_dim: width of the time embedding
    :param time_scale: factor on t before the embedding's sinusoids
    :param min_noise_std: lower bound of the learned noise
    :param max_noise_std: upper bound of the learned noise
    :param noise_net_arch: hidden layers of the learned noise network
    """

    not_cloned: ClassVar[tuple[str, ...]] = ("noise_net.",)

    std_table: th.Tensor
    correction_table: th.Tensor

    def __init__(
        self,
        features_dim: int,
        action_dim: int,
        net_arch: Sequence[int] = (512, 512, 512, 512),
        denoising_steps: int = 10,
        noise_std: float = 0.05,
        noise_schedule: str = "tapered",
        sde_correction: str = "exact",
        ratio_norm: str = "mean",
        clip_intermediate: bool = False,
        noise_clip: float = 3.0,
        activation_fn: type[nn.Module] = nn.GELU,
        time_embed_dim: int = 32,
        time_scale: float = 1000.0,
        min_noise_std: float = 0.02,
        max_noise_std: float = 0.2,
        noise_net_arch: Sequence[int] = (256, 256),
    ):
        super().__init__(features_dim, action_dim, denoising_steps, ratio_norm, noise_clip)
        if noise_schedule not in NOISE_SCHEDULES:
            raise ValueError(f"noise_schedule must be one of {NOISE_SCHEDULES}, found {noise_schedule!r}")
        if sde_correction not in SDE_CORRECTIONS:
            raise ValueError(f"sde_correction must be one of {SDE_CORRECTIONS}, found {sde_correction!r}")
        if not noise_std > 0:
            raise ValueError(f"noise_std must be positive (a chain without noise has no likelihood), found {noise_std}")
        if noise_schedule == "constant" and denoising_steps < 2:
            raise ValueError("noise_schedule='constant' has no stochastic step with denoising_steps=1, wanted at least 2")
        self.noise_schedule = noise_schedule
        self.sde_correction = sde_correction
        self.clip_intermediate = clip_intermediate

        self.velocity_net = VelocityMLP(features_dim, action_dim, net_arch, activation_fn, time_embed_dim, time_scale)
        self.noise_net: NoiseMLP | None = None
        if noise_schedule == "learned":
            self.noise_net = NoiseMLP(
                features_dim, action_dim, min_noise_std, max_noise_std, noise_net_arch, time_embed_dim, time_scale
            )

        steps = th.arange(denoising_steps, dtype=th.float64)
        times = steps / denoising_steps
        std = noise_std * (1.0 - times).sqrt() if noise_schedule == "tapered" else th.full_like(times, noise_std)
        if noise_schedule == "constant":
            std[-1] = 0.0  # the score is singular at t -> 1; the official code switches the last step's noise off too
        correction = 0.5 * std.square() / (1.0 - times)
        # Tables do not train and follow from the constructor: they stay out of the state dict.
        self.register_buffer("times", times.float(), persistent=False)
        self.register_buffer("std_table", std.float(), persistent=False)
        self.register_buffer("correction_table", (correction * self._correction_scale).float(), persistent=False)

    @property
    def _correction_scale(self) -> float:
        return {"exact": 1.0, "official": 1.0 / self.denoising_steps, "none": 0.0}[self.sde_correction]

    @property
    def network(self) -> VelocityMLP:
        return self.velocity_net

    @property
    def stochastic_steps(self) -> int:
        return self.denoising_steps - (self.noise_schedule == "constant")

    def velocity(self, features: th.Tensor, x: th.Tensor, t: th.Tensor) -> th.Tensor:
        """
        :param features: (B, F)
        :param x: (B, D)
        :param t: (B,) in [0, 1]
        :return: (B, D)
        """
        return self.velocity_net(self.velocity_net.condition(features), self.velocity_net.embed_times(t), x)

    def bc_loss(self, features: th.Tensor, actions: th.Tensor, weights: th.Tensor | None = None) -> th.Tensor:
        """Flow matching: E |v(s, x_t, t) - (a - x_0)|^2 with one t ~ U(0, 1) per sample. See the base class."""
        x0 = th.randn_like(actions)
        t = self.cloning_times(len(actions), actions)
        x_t, target = self._corrupt(actions, x0, t[:, None])
        return weighted_mean((self.velocity(features, x_t, t) - target).square(), weights)

    @property
    def cloned_network(self) -> VelocityMLP:
        """The velocity. See the base class."""
        return self.velocity_net

    def cloning_times(self, n: int, like: th.Tensor) -> th.Tensor:
        """Flow times, uniform on [0, 1). See the base class."""
        return th.rand(n, device=like.device, dtype=like.dtype)

    def _corrupt(self, actions: th.Tensor, noise: th.Tensor, time: th.Tensor) -> tuple[th.Tensor, th.Tensor]:
        return th.lerp(noise, actions, time), actions - noise

    def _noiseless(self, x: th.Tensor, output: th.Tensor, step: int) -> th.Tensor:
        """Euler's method for the ODE."""
        return x + output / self.denoising_steps

    # -- the SDE: one drift for sampling and scoring --------------------------------------------------------------

    def condition(self, features: th.Tensor) -> th.Tensor:
        """The velocity network's condition, and with learned noise every step's standard deviation. See the base class."""
        condition = self.velocity_net.condition(features)
        if self.noise_net is None:
            return condition
        rows, steps = len(features), self.denoising_steps
        std = self.noise_net(features.repeat_interleave(steps, dim=0), self.times.repeat(rows))
        return th.cat([condition, std.view(rows, -1)], dim=1)

    def _split(self, condition: th.Tensor) -> tuple[th.Tensor, Tables]:
        """The velocity network's condition; standard deviations, times and correction factors."""
        times = self.times[:, None, None]
        if self.noise_net is None:
            return condition, (self.std_table[:, None, None], times, self.correction_table[:, None, None])
        width = condition.shape[1] - self.denoising_steps * self.action_dim
        std = condition[:, width:].unflatten(1, (self.denoising_steps, -1)).transpose(0, 1)
        correction = self._correction_scale * 0.5 * std.square() / (1.0 - times)
        return condition[:, :width], (std, times, correction)

    def drift(self, x: th.Tensor, v: th.Tensor, t: th.Tensor | float, correction: th.Tensor) -> th.Tensor:
        """
        Mean of an SDE step: the single drift function of sampling and scoring.

        :param x: (..., D)
        :param v: (..., D) velocity at x
        :param t: flow time, broadcastable
        :param correction: c of the class's equation, broadcastable
        :return: (..., D)
        """
        mean = x + v / self.denoising_steps + correction * (t * v - x)
        return mean.clamp(-1.0, 1.0) if self.clip_intermediate else mean

    def _mean(self, x: th.Tensor, output: th.Tensor, *tables: th.Tensor) -> th.Tensor:
        return self.drift(x, output, *tables)
