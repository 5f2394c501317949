"""A generative policy that acts by the best of N candidates."""

import torch as th
from stable_baselines3.common.type_aliases import PyTorchObs

from ogpo_sb3.common.policies import GCPPolicy, for_families


class BestOfNPolicy(GCPPolicy):
    """
    Acts by the candidate, among ``best_of_n`` ODE samples of the EMA actor, that the online critics value most.

    An actor over tokens, whose deterministic sampler knows one action only, is drawn from instead, by the same latents.
    """

    has_subsample_bon = False  # by the mean

    @property
    def n_latents(self) -> int:
        return self.best_of_n

    def decide(self, observation: PyTorchObs, latents: th.Tensor) -> th.Tensor:
        """The best candidate by the mean over the online critics' heads. See the base class."""
        return self.best_candidate(observation, self.actor_ema.sample_each(observation, latents), self.critic, "mean")

    def explore(self, observation: PyTorchObs) -> th.Tensor:
        """The same from fresh latents. See the base class."""
        return self.decide(observation, self.fresh_latents(observation))


POLICIES = for_families(BestOfNPolicy, __name__)
FlowPolicy, DiffusionPolicy, ShortcutPolicy, MIPPolicy, FASTPolicy = POLICIES
