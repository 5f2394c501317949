"""A generative policy and a one-step policy that makes an action from a latent at once."""

from collections.abc import Sequence
from typing import Any, ClassVar

import torch as th
from stable_baselines3.common.preprocessing import get_action_dim
from stable_baselines3.common.torch_layers import get_actor_critic_arch
from stable_baselines3.common.type_aliases import PyTorchObs, Schedule
from torch import nn

from ogpo_sb3.common.features import FeatureModel, frozen_copy
from ogpo_sb3.common.policies import GCPPolicy, for_families
from ogpo_sb3.gcp.networks import mlp


class OneStepActor(FeatureModel):
    """
    mu(s, z): an MLP on features and a latent.

    :param net_arch: widths of the hidden layers
    :param activation_fn: activation
    """

    optimizer: th.optim.Optimizer

    def __init__(self, *args: Any, net_arch: Sequence[int], activation_fn: type[nn.Module], **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.action_dim = get_action_dim(self.action_space)
        self.trunk = mlp(self.features_extractor.features_dim + self.action_dim, net_arch, self.action_dim, activation_fn)

    def forward(self, obs: PyTorchObs, latents: th.Tensor) -> th.Tensor:
        """
        :param obs: observations (B)
        :param latents: (B, D), or (B, N, D) for N per observation
        :return: same shape, not clamped
        """
        features = self.features(obs)
        if latents.dim() == 3:
            features = features[:, None].expand(-1, latents.shape[1], -1)
        return self.trunk(th.cat([features, latents], dim=-1))


class OneStepPolicy(GCPPolicy):
    """Acts by the EMA of the one-step policy; the best of ``best_of_n`` latents by the target critics."""

    needs_latent: ClassVar[bool] = True
    actor_names: tuple[str, ...] = ("actor", "one_step")
    one_step: OneStepActor
    one_step_ema: OneStepActor

    def _build(self, lr_schedule: Schedule) -> None:
        super()._build(lr_schedule)
        net_arch, _ = get_actor_critic_arch(self.net_arch)
        self.one_step = OneStepActor(
            **self._model_kwargs(), keys=self.actor_keys, net_arch=net_arch, activation_fn=self.activation_fn
        )
        self.one_step_ema = frozen_copy(self.one_step)
        self.one_step.optimizer = self.make_optimizer(self.one_step, lr_schedule(1), weight_decay=0.0)

    @property
    def n_latents(self) -> int:
        return self.best_of_n

    def decide(self, observation: PyTorchObs, latents: th.Tensor) -> th.Tensor:
        """Candidates are ranked by the minimum over heads. See the base class."""
        return self._best(observation, latents, "min")

    def explore(self, observation: PyTorchObs) -> th.Tensor:
        """From fresh latents. See the base class."""
        return self._best(observation, self.fresh_latents(observation), None)

    def _best(self, observation: PyTorchObs, latents: th.Tensor, how: str | None) -> th.Tensor:
        candidates = self.one_step_ema(observation, latents).clamp(-1.0, 1.0)
        return candidates[:, 0] if self.best_of_n == 1 else self.best_candidate(observation, candidates, how=how)


POLICIES = for_families(OneStepPolicy, __name__)
FlowPolicy, DiffusionPolicy, ShortcutPolicy, MIPPolicy = POLICIES
