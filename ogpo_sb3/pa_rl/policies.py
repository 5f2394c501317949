"""A generative policy whose samples are ranked and moved along the critics' gradient before they are executed."""

from typing import Any, ClassVar

import torch as th
from stable_baselines3.common.type_aliases import PyTorchObs

from ogpo_sb3.common.policies import GCPPolicy, for_families


class OptimisedActionPolicy(GCPPolicy):
    """
    Acts by the best of ``best_of_n`` samples, of which the ``keep`` best were moved by ``ascent_steps`` steps of size
    ``ascent_rate`` along the gradient of the target critics' mean.
    """

    has_subsample_bon = False  # by the mean
    settings: ClassVar[dict[str, Any]] = dict(keep=10, ascent_steps=10, ascent_rate=3e-4)
    keep: int
    ascent_steps: int
    ascent_rate: float

    @property
    def n_latents(self) -> int:
        return self.best_of_n

    def decide(self, observation: PyTorchObs, latents: th.Tensor) -> th.Tensor:
        """From ODE samples. See the base class."""
        return self.optimised(observation, self.actor_ema.sample_each(observation, latents))

    def explore(self, observation: PyTorchObs) -> th.Tensor:
        """From SDE samples. See the base class."""
        candidates = self.actor_ema.sample_chain(observation, self.best_of_n).actions
        return self.optimised(observation, candidates.unflatten(0, (-1, self.best_of_n)))

    def optimised(self, observation: PyTorchObs, candidates: th.Tensor) -> th.Tensor:
        """
        Global, then local optimisation of actions.

        :param observation: observations (B)
        :param candidates: (B, N, D) in [-1, 1]
        :return: (B, D) in [-1, 1], the best in the end
        """
        keep = min(self.keep, candidates.shape[1])
        with th.no_grad():
            features = self.critic_target.features(observation)
            best = self._value(features, candidates).topk(keep, dim=1).indices
            actions = candidates.gather(1, best[..., None].expand(-1, -1, candidates.shape[-1]))
        for _ in range(self.ascent_steps):
            with th.enable_grad():
                moved = actions.detach().requires_grad_()
                (slope,) = th.autograd.grad(self._value(features, moved).sum(), moved)
            actions = (moved.detach() + self.ascent_rate * slope).clamp(-1.0, 1.0)
        with th.no_grad():
            best = self._value(features, actions).argmax(dim=1)
        return actions[th.arange(len(best), device=best.device), best]

    def _value(self, features: th.Tensor, actions: th.Tensor) -> th.Tensor:
        return self.critic_target.ensemble(features, actions).mean(dim=0)


POLICIES = for_families(OptimisedActionPolicy, __name__)
FlowPolicy, DiffusionPolicy, ShortcutPolicy, MIPPolicy, FASTPolicy = POLICIES
