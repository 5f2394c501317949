"""A frozen generative policy that is steered by its latent and whose actions are edited."""

from typing import Any, ClassVar

import torch as th
from stable_baselines3.common.type_aliases import PyTorchObs

from ogpo_sb3.common.edits import EditPolicy
from ogpo_sb3.dsrl.policies import NoisePolicy
from ogpo_sb3.common.policies import for_families


class SteerResidualPolicy(NoisePolicy, EditPolicy):
    """
    Acts by the best, by the target critics, of an action and its edits; the action is the ODE's from the latent that the noise
    critic values most among some of the noise actor's.
    """

    has_subsample_bon: ClassVar[bool] = True  # of its edits
    actor_names: tuple[str, ...] = ("actor", "noise_actor", "noise_temperature", "edit_actor", "edit_temperature")
    settings: ClassVar[dict[str, Any]] = dict(
        action_magnitude=1.5, noise_aliasing=True, edit_scale=0.5, noise_candidates=16, n_edits=8
    )
    noise_candidates: int
    n_edits: int

    @property
    def n_latents(self) -> int:
        return 1

    def draw(self, observation: PyTorchObs) -> tuple[th.Tensor, th.Tensor]:
        """
        :param observation: observations (B)
        :return: the best of ``noise_candidates`` latents (B, D), and the log-density (B,) of it before scaling
        """
        unscaled, log_prob = self.noise_actor.sample(observation, n=self.noise_candidates)
        latents = self.action_magnitude * unscaled
        best = self.noise_critic(observation, latents).mean(dim=0).argmax(dim=1)
        rows = th.arange(len(best), device=best.device)
        return latents[rows, best], log_prob[rows, best]

    def latents(self, observation: PyTorchObs, deterministic: bool = False) -> th.Tensor:
        """The best of several draws, or the noise actor's mode. See the base class."""
        return super().latents(observation, deterministic=True) if deterministic else self.draw(observation)[0]

    def act(self, observation: PyTorchObs, latents: th.Tensor, deterministic: bool = False) -> th.Tensor:
        """The best of the ODE's action and its edits: ``n_edits`` draws, or the edit actor's mode. See the base class."""
        base = self.decode(observation, latents)[:, None]
        repeated = base.expand(-1, 1 if deterministic else self.n_edits, -1)
        if deterministic:
            edits = self.edit_actor.mode(observation, repeated)
        else:
            edits = self.edit_actor.sample(observation, repeated)[0]
        candidates = th.cat([base, self.edited(repeated, edits)], dim=1)
        return self.best_candidate(observation, candidates, how="min" if deterministic else None)


POLICIES = for_families(SteerResidualPolicy, __name__)
FlowPolicy, DiffusionPolicy, ShortcutPolicy, MIPPolicy = POLICIES
