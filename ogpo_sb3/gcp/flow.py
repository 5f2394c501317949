"""Flow-matching policy: behaviour cloning, ODE and SDE samplers, chain likelihood."""

from collections.abc import Sequence
from typing import ClassVar

import torch as th
from torch import nn

from ogpo_sb3.gcp.backbones import TRAINED_FOR, make_network
from ogpo_sb3.gcp.base import weighted_mean
from ogpo_sb3.gcp.chains import GaussianChainGCP, Tables
from ogpo_sb3.gcp.networks import NoiseMLP, VelocityNet
from ogpo_sb3.gcp.score import VelocityAndScore

NOISE_SCHEDULES = ("tapered", "constant", "learned")
SDE_CORRECTIONS = ("exact", "official", "none", "learned")


class FlowGCP(GaussianChainGCP):
    """
    Flow policy on the straight path x_t = (1 - t) x_0 + t a with x_0 ~ N(0, I).

    One step of the ODE is x + v/K. One step of the SDE is N(mu, sigma_i^2) with

        mu = x + v/K + c_i (t_i v - x),

    where (t v - x)/(1 - t) is the score of the path, so that c_i = sigma_i^2 / (2 (1 - t_i)) leaves the marginals
    unchanged to first order (OGPO A.4-A.5, Albergo et al. 2023). :meth:`drift` is the only place where mu is computed:
    sampling and scoring cannot disagree.

    ``sde_correction="learned"`` takes the score from a network of its own (OGPO A.4, E.13). With z ~ N(0, I), it sees x +
    s_t z, where s_t = sigma sqrt(1 - t), and predicts z. By Tweedie's formula the score of what it sees is -E[z | x] / s_t,
    so that

        mu = x + v/K - sigma_i^2 / (2 s_{t_i}) z(s, x, t_i),

    that is x + v/K - (sigma_i / 2) z for tapered noise. It is the score of the path smoothed by s_t; the velocity is
    trained on the path itself, or the ODE would end in smoothed actions.

    :param features_dim: F
    :param action_dim: D
    :param net_arch: widths of the velocity network's hidden layers
    :param denoising_steps: K
    :param noise_std: sigma, standard deviation per step
    :param noise_schedule: "tapered": sigma_i = sigma sqrt(1 - t_i), all K steps stochastic; "constant": sigma_i = sigma
        except for the last step, which is a plain Euler step; "learned": a network of features and time (ReinFlow)
    :param sde_correction: "exact": c_i above; "official": the code's value, which is K times too small; "none": c_i = 0;
        "learned": the score network above, trained by :meth:`bc_loss` and by nothing else
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
    :param network: "mlp", "residual", "transformer" or "unet", see :func:`ogpo_sb3.gcp.backbones.make_network`
    :param unet_channels: channels of the U-Net's levels
    :param attention_heads: heads of the transformer's blocks
    :param chunk_size: h, the steps that D numbers stand for; for "transformer" and "unet", and policies pass it themselves
    :raises ValueError: an unknown choice, or numbers outside their range
    """

    trained_for: ClassVar[tuple[str, ...]] = TRAINED_FOR
    not_cloned: ClassVar[tuple[str, ...]] = ("noise_net.",)
    not_needed: ClassVar[tuple[str, ...]] = ("score_",)
    # Numbers that the velocity network is told of a step: its time.
    time_inputs: ClassVar[int] = 1

    std_table: th.Tensor
    correction_table: th.Tensor
    score_smoothing: th.Tensor

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
        network: str = "mlp",
        unet_channels: Sequence[int] = (64, 128),
        attention_heads: int = 4,
        chunk_size: int = 1,
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

        embedding = (activation_fn, time_embed_dim, time_scale)
        sizes = (unet_channels, attention_heads, chunk_size)
        self.velocity_net = make_network(
            network, features_dim, action_dim, net_arch, *embedding, *sizes, time_inputs=self.time_inputs
        )
        self.score_net: VelocityNet | None = None
        if sde_correction == "learned":
            self.score_net = make_network(network, features_dim, action_dim, net_arch, *embedding, *sizes)
            # What the score was trained for travels with it: a model may then sample with another noise.
            self.register_buffer("score_smoothing", th.tensor(float(noise_std)))
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
        if self.score_net is None:
            correction = correction * self._correction_scale
        self.register_buffer("correction_table", correction.float(), persistent=False)

    @property
    def _correction_scale(self) -> float | th.Tensor:
        """The correction's factor over sigma_i^2 / (2 (1 - t_i))."""
        if self.score_net is not None:
            return (1.0 - self.times[:, None, None]).sqrt() / self.score_smoothing
        return {"exact": 1.0, "official": 1.0 / self.denoising_steps, "none": 0.0}[self.sde_correction]

    @property
    def network(self) -> VelocityNet:
        return self.velocity_net if self.score_net is None else VelocityAndScore(self.velocity_net, self.score_net)

    @property
    def noiseless_network(self) -> VelocityNet:
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
        """
        Flow matching: E |v(s, x_t, t) - (a - x_0)|^2 with one t ~ U(0, 1) per sample, plus :meth:`score_loss` where a score is
        learned. See the base class.
        """
        x0 = th.randn_like(actions)
        t = th.rand(len(actions), device=actions.device, dtype=actions.dtype)
        x_t = th.lerp(x0, actions, t[:, None])
        loss = weighted_mean((self.velocity(features, x_t, t) - (actions - x0)).square(), weights)
        return loss if self.score_net is None else loss + self.score_loss(features, x_t, t, weights)

    def score_loss(self, features: th.Tensor, x: th.Tensor, t: th.Tensor, weights: th.Tensor | None = None) -> th.Tensor:
        """
        Denoising score matching: E |z(s, x + s_t z, t) - z|^2 (OGPO A.4, E.13; equal weight beside flow matching).

        :param features: (B, F)
        :param x: (B, D) on the path
        :param t: (B,) in [0, 1]
        :param weights: as of :meth:`bc_loss`
        :return: scalar
        :raises ValueError: there is no score network
        """
        if self.score_net is None:
            raise ValueError(f"score_loss needs sde_correction='learned', found {self.sde_correction!r}")
        z = th.randn_like(x)
        noisy = x + self.score_smoothing * (1.0 - t).sqrt()[:, None] * z
        predicted = self.score_net(self.score_net.condition(features), self.score_net.embed_times(t), noisy)
        return weighted_mean((predicted - z).square(), weights)

    def _noiseless(self, x: th.Tensor, output: th.Tensor, step: int) -> th.Tensor:
        """Euler's method for the ODE."""
        return x + output / self.denoising_steps

    # -- the SDE: one drift for sampling and scoring --------------------------------------------------------------

    def condition(self, features: th.Tensor) -> th.Tensor:
        """The network's condition, and with learned noise every step's standard deviation. See the base class."""
        condition = self.network.condition(features)
        if self.noise_net is None:
            return condition
        rows, steps = len(features), self.denoising_steps
        std = self.noise_net(features.repeat_interleave(steps, dim=0), self.times.repeat(rows))
        return th.cat([condition, std.view(rows, -1)], dim=1)

    def _split(self, condition: th.Tensor) -> tuple[th.Tensor, Tables]:
        """The network's condition; standard deviations, times and correction factors."""
        times = self.times[:, None, None]
        if self.noise_net is None:
            correction = self.correction_table[:, None, None]
            if self.score_net is not None:
                correction = correction * self._correction_scale
            return condition, (self.std_table[:, None, None], times, correction)
        width = condition.shape[1] - self.denoising_steps * self.action_dim
        std = condition[:, width:].unflatten(1, (self.denoising_steps, -1)).transpose(0, 1)
        correction = self._correction_scale * 0.5 * std.square() / (1.0 - times)
        return condition[:, :width], (std, times, correction)

    def drift(
        self, x: th.Tensor, v: th.Tensor, t: th.Tensor | float, correction: th.Tensor, noise: th.Tensor | None = None
    ) -> th.Tensor:
        """
        Mean of an SDE step: the single drift function of sampling and scoring.

        :param x: (..., D)
        :param v: (..., D) velocity at x
        :param t: flow time, broadcastable
        :param correction: c of the class's equation, broadcastable; with a learned score sigma_i^2 / (2 s_t)
        :param noise: (..., D) z at x, from the learned score; None: the velocity's score
        :return: (..., D)
        """
        direction = t * v - x if noise is None else -noise
        mean = x + v / self.denoising_steps + correction * direction
        return mean.clamp(-1.0, 1.0) if self.clip_intermediate else mean

    def _mean(self, x: th.Tensor, output: th.Tensor, *tables: th.Tensor) -> th.Tensor:
        t, correction = tables
        v, noise = (output, None) if self.score_net is None else output.chunk(2, dim=-1)
        return self.drift(x, v, t, correction, noise)
