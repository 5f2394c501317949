"""A squashed Gaussian policy over whole chunks, beside a generative one that only explores at first."""

import torch as th
from stable_baselines3.common.type_aliases import PyTorchObs, Schedule

from ogpo_sb3.common.gaussian import TanhGaussian, Temperature
from ogpo_sb3.common.policies import GCPPolicy, for_families


class GaussianPolicy(GCPPolicy):
    """Acts by a squashed Gaussian; the generative actor is only that of a BC checkpoint, which explores at first."""

    no_candidates = "where this policy's Gaussian makes the action"
    has_subsample_bon = False
    actor_names: tuple[str, ...] = ("actor", "gaussian", "temperature")
    gaussian: TanhGaussian
    temperature: Temperature

    def _build(self, lr_schedule: Schedule) -> None:
        super()._build(lr_schedule)
        self.gaussian = self.make_gaussian()
        self.gaussian.optimizer = self.make_optimizer(self.gaussian, lr_schedule(1), weight_decay=0.0)
        self.temperature = self.make_temperature(1.0, lr_schedule)

    def decide(self, observation: PyTorchObs, latents: th.Tensor) -> th.Tensor:
        """The mode; latents are not used. See the base class."""
        return self.gaussian.mode(observation)

    def explore(self, observation: PyTorchObs) -> th.Tensor:
        """A draw. See the base class."""
        return self.gaussian.sample(observation)[0]


POLICIES = for_families(GaussianPolicy, __name__)
FlowPolicy, DiffusionPolicy, ShortcutPolicy, MIPPolicy, FASTPolicy = POLICIES
