"""Shortcut policy: a flow whose network knows how large a step it is asked for."""

import math
from collections.abc import Sequence
from typing import ClassVar

import torch as th
from torch import nn

from ogpo_sb3.gcp.base import GenerativeControlPolicy, weighted_mean
from ogpo_sb3.gcp.flow import FlowGCP

# Bound of the state between the teacher's two half steps.
_HALFWAY_CLIP = 4.0


class ShortcutGCP(FlowGCP):
    """
    Shortcut policy (Frans et al., arXiv 2410.12557; OGPO C.3): v(s, x, t, d), the mean velocity of a step from t to t + d.

    At d = 0 it is a flow's velocity, learned by flow matching. For d = 1, 1/2, 1/4, ... 1/``max_steps`` it learns to agree
    with two steps of half that size, whose sizes are d/2, or 0 where d is the smallest:

        v(s, x, t, d) = (v_1 + v_2) / 2,    v_1 = v(s, x, t, d/2),    v_2 = v(s, x + v_1 d/2, t + d/2, d/2).

    The two steps on the right have no gradient. They are made by the teacher, a moving average of the network; by the
    network itself where none was given. Policies give the EMA actor's.

    Samplers and likelihood are those of :class:`FlowGCP` with steps of size 1/K: K may be any power of two up to
    ``max_steps`` and need not be the same in training and in use. The score in the mean of a stochastic step is computed
    from the same v, which for d > 0 is exact at t = 0 only.

    :param features_dim: F
    :param action_dim: D
    :param net_arch: widths of the hidden layers, or of the blocks
    :param denoising_steps: K, a power of two, at most ``max_steps``
    :param max_steps: a power of two; 1/``max_steps`` is the smallest step that is learned beside the flow's velocity
    :param noise_std: see :class:`FlowGCP`
    :param noise_schedule: see :class:`FlowGCP`
    :param sde_correction: see :class:`FlowGCP`; a learned score knows the time alone
    :param ratio_norm: see :class:`ogpo_sb3.gcp.GenerativeControlPolicy`
    :param clip_intermediate: see :class:`FlowGCP`
    :param noise_clip: see :class:`FlowGCP`
    :param activation_fn: activation of the network
    :param time_embed_dim: width of the embedding of t, and of that of d
    :param time_scale: factor on t and d before the embedding's sinusoids
    :param min_noise_std: lower bound of the learned noise
    :param max_noise_std: upper bound of the learned noise
    :param noise_net_arch: hidden layers of the learned noise network
    :param network: "mlp", "residual", "transformer" or "unet", see :func:`ogpo_sb3.gcp.backbones.make_network`
    :param unet_channels: channels of the U-Net's levels
    :param attention_heads: heads of the transformer's blocks
    :param chunk_size: h, the steps that D numbers stand for; for "transformer" and "unet", and policies pass it themselves
    :raises ValueError: a number of steps that is no power of two or above ``max_steps``; or as :class:`FlowGCP`
    """

    trained_for: ClassVar[tuple[str, ...]] = (*FlowGCP.trained_for, "max_steps")
    time_inputs: ClassVar[int] = 2

    def __init__(
        self,
        features_dim: int,
        action_dim: int,
        net_arch: Sequence[int] = (512, 512, 512, 512),
        denoising_steps: int = 4,
        max_steps: int = 8,
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
        for name, steps in (("denoising_steps", denoising_steps), ("max_steps", max_steps)):
            if steps < 1 or not math.log2(steps).is_integer():
                raise ValueError(f"{name} of a shortcut policy must be a power of two, found {steps}")
        if denoising_steps > max_steps:
            raise ValueError(f"denoising_steps must be at most max_steps={max_steps}, found {denoising_steps}")
        super().__init__(
            features_dim,
            action_dim,
            net_arch=net_arch,
            denoising_steps=denoising_steps,
            noise_std=noise_std,
            noise_schedule=noise_schedule,
            sde_correction=sde_correction,
            ratio_norm=ratio_norm,
            clip_intermediate=clip_intermediate,
            noise_clip=noise_clip,
            activation_fn=activation_fn,
            time_embed_dim=time_embed_dim,
            time_scale=time_scale,
            min_noise_std=min_noise_std,
            max_noise_std=max_noise_std,
            noise_net_arch=noise_net_arch,
            network=network,
            unet_channels=unet_channels,
            attention_heads=attention_heads,
            chunk_size=chunk_size,
        )
        self.max_steps = max_steps
        # A tuple, so that the teacher's parameters do not become this policy's.
        self._teacher: tuple[ShortcutGCP, ...] = ()

    def take_teacher(self, teacher: GenerativeControlPolicy) -> None:
        """Whose steps are the targets of self-consistency. See the base class."""
        if not isinstance(teacher, ShortcutGCP) or teacher.max_steps != self.max_steps:
            raise ValueError(f"the teacher of a shortcut policy must be one with max_steps={self.max_steps}, found {teacher}")
        self._teacher = (teacher,)

    @property
    def step_times(self) -> th.Tensor:
        """(K, 2): the time and the size 1/K of each step."""
        return th.stack([self.times, th.full_like(self.times, 1.0 / self.denoising_steps)], dim=1)

    def velocity(self, features: th.Tensor, x: th.Tensor, t: th.Tensor, size: th.Tensor | None = None) -> th.Tensor:
        """
        :param features: (B, F)
        :param x: (B, D)
        :param t: (B,) in [0, 1]
        :param size: (B,) d in [0, 1 - t]; 0, the flow's velocity, when None
        :return: (B, D)
        """
        step = th.stack([t, th.zeros_like(t) if size is None else size], dim=1)
        return self.velocity_net(self.velocity_net.condition(features), self.velocity_net.embed_times(step), x)

    def bc_loss(self, features: th.Tensor, actions: th.Tensor, weights: th.Tensor | None = None) -> th.Tensor:
        """
        Flow matching on half of the samples, drawn at random, and self-consistency (OGPO C.3) on the other half, where the
        size of the step is drawn evenly from 1, 1/2, ... 1/``max_steps`` and t from its multiples below 1. An odd sample
        goes to flow matching. See the base class.
        """
        # Which half must not depend on the order in a batch: batches of two sources are concatenated.
        order = th.rand(len(actions), device=actions.device).argsort()
        features, actions = features[order], actions[order]
        weights = None if weights is None else weights[order]
        n = len(actions) // 2
        x0 = th.randn_like(actions)
        t = th.rand(len(actions), device=actions.device, dtype=actions.dtype)
        levels = round(math.log2(self.max_steps)) + 1
        pieces = 2.0 ** th.randint(levels, (n,), device=actions.device).to(actions.dtype)
        t_start = (t[:n] * pieces).floor() / pieces
        t = th.cat([t_start, t[n:]])
        size = th.cat([1.0 / pieces, th.zeros_like(t[n:])])
        x_t = th.lerp(x0, actions, t[:, None])
        target = actions - x0
        teacher = self._teacher[0] if self._teacher else self
        with th.no_grad():
            target = th.cat([teacher.two_half_steps(features[:n], x_t[:n], t[:n], size[:n]), target[n:]])
        loss = weighted_mean((self.velocity(features, x_t, t, size) - target).square(), weights)
        return loss if self.score_net is None else loss + self.score_loss(features, x_t, t, weights)

    def two_half_steps(self, features: th.Tensor, x: th.Tensor, t: th.Tensor, size: th.Tensor) -> th.Tensor:
        """
        What a step should agree with: the mean velocity of two steps of half the size.

        :param features: (B, F)
        :param x: (B, D)
        :param t: (B,) in [0, 1)
        :param size: (B,) d of the whole step, from 1/``max_steps`` to 1
        :return: (B, D)
        """
        half = 0.5 * size
        known = th.where(size * self.max_steps > 1.5, half, 0.0)  # below the smallest step there is the flow's velocity alone
        first = self.velocity(features, x, t, known)
        middle = (x + half[:, None] * first).clamp(-_HALFWAY_CLIP, _HALFWAY_CLIP)
        return 0.5 * (first + self.velocity(features, middle, t + half, known))
