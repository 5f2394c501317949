"""A frozen generative policy whose initial latent another policy chooses."""

from typing import Any, ClassVar

import torch as th
from stable_baselines3.common.type_aliases import PyTorchObs, Schedule

from ogpo_sb3.common.features import ChunkCritic
from ogpo_sb3.common.gaussian import TanhGaussian, Temperature
from ogpo_sb3.common.policies import GCPPolicy, for_families


class NoisePolicy(GCPPolicy):
    """
    a = ODE(s, w) of the EMA actor, w = ``action_magnitude`` u with u in (-1, 1)^D from a squashed Gaussian.

    :param noise_aliasing: keep a further critic of (s, w) beside the one of (s, a)
    """

    needs_latent: ClassVar[bool] = True
    no_candidates: ClassVar[str | None] = "where this policy's noise actor chooses the latent"
    has_subsample_bon: ClassVar[bool] = False
    actor_names: tuple[str, ...] = ("actor", "noise_actor", "noise_temperature")
    settings: ClassVar[dict[str, Any]] = dict(action_magnitude=1.0, noise_aliasing=False)
    noise_actor: TanhGaussian
    noise_temperature: Temperature
    noise_critic: ChunkCritic
    action_magnitude: float
    noise_aliasing: bool

    def _build(self, lr_schedule: Schedule) -> None:
        super()._build(lr_schedule)
        self.noise_actor = self.make_gaussian()
        self.noise_actor.optimizer = self.make_optimizer(self.noise_actor, lr_schedule(1), weight_decay=0.0)
        self.noise_temperature = self.make_temperature(1.0, lr_schedule)
        if self.noise_aliasing:
            self.critic_names = ("critic", "noise_critic")
            self.noise_critic = self.make_critic()
            self.noise_critic.optimizer = self.make_optimizer(self.noise_critic, lr_schedule(1), weight_decay=1e-5)

    def decode(self, observation: PyTorchObs, latents: th.Tensor) -> th.Tensor:
        """
        :param observation: observations (B)
        :param latents: (B, D)
        :return: (B, D) in [-1, 1]
        """
        return self.actor_ema.sample(observation, latents)

    def latents(self, observation: PyTorchObs, deterministic: bool = False) -> th.Tensor:
        """
        :param observation: observations (B)
        :param deterministic: the noise actor's mode instead of a draw
        :return: (B, D) in +- ``action_magnitude``
        """
        unscaled = self.noise_actor.mode(observation) if deterministic else self.noise_actor.sample(observation)[0]
        return self.action_magnitude * unscaled

    def act(self, observation: PyTorchObs, latents: th.Tensor, deterministic: bool = False) -> th.Tensor:
        """
        :param observation: observations (B)
        :param latents: (B, D) chosen by :meth:`latents`
        :param deterministic: nothing is drawn
        :return: (B, D) what is executed
        """
        return self.decode(observation, latents)

    def decide(self, observation: PyTorchObs, latents: th.Tensor) -> th.Tensor:
        """From the mode of the noise actor, which chooses the latent: those given are not used. See the base class."""
        return self.act(observation, self.latents(observation, deterministic=True), deterministic=True)

    def explore(self, observation: PyTorchObs) -> th.Tensor:
        """From a draw of the noise actor. See the base class."""
        return self.act(observation, self.latents(observation))


POLICIES = for_families(NoisePolicy, __name__)
FlowPolicy, DiffusionPolicy, ShortcutPolicy, MIPPolicy = POLICIES
