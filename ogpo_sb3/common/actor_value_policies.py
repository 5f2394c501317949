"""Policies of on-policy algorithms: a generative actor, and a value network in place of critics."""

from typing import Any, ClassVar

import torch as th
from gymnasium import spaces
from stable_baselines3.common.type_aliases import PyTorchObs, Schedule

from ogpo_sb3.common.features import ChunkValue, frozen_copy
from ogpo_sb3.common.policies import GCPPolicy


class ActorValuePolicy(GCPPolicy):
    """
    Actor, EMA actor and value network.

    The EMA actor averages the actor during behaviour cloning. From then on it is PPO's old policy: it draws the rollouts, is
    what predicts and is evaluated, and is made equal to the actor after each round of updates.

    :param observation_space: observation space
    :param action_space: (chunked) Box action space
    :param lr_schedule: learning rate at construction
    :param net_arch: hidden layers: a list for both networks, or dict(pi=[...], vf=[...])
    :param n_critics: networks of the value ensemble, whose mean is the value
    :param frozen_steps: the first so many denoising steps are made by a copy of the actor that is never trained
    :param use_sde: refused; SB3 passes it
    :param kwargs: as :class:`GCPPolicy`
    """

    no_candidates = "which this policy does not have"
    has_subsample_bon = False
    settings: ClassVar[dict[str, Any]] = {}  # it acts by chains, whose likelihood it needs
    critic_class = ChunkValue
    critic: ChunkValue  # type: ignore[assignment]

    def __init__(
        self,
        observation_space: spaces.Space,
        action_space: spaces.Box,
        lr_schedule: Schedule,
        net_arch: list[int] | dict[str, list[int]] | None = None,
        n_critics: int = 1,
        frozen_steps: int = 0,
        use_sde: bool = False,
        **kwargs: Any,
    ):
        if use_sde:
            raise ValueError("use_sde=True is not supported: a generative policy explores by the noise of its steps")
        if kwargs.get("critic_head", "mse") != "mse":
            raise ValueError(
                f"critic_head={kwargs['critic_head']!r} is of critics of actions, which this policy does not have"
            )
        if isinstance(net_arch, dict) and "vf" in net_arch:
            net_arch = {"pi": net_arch["pi"], "qf": net_arch["vf"]}
        super().__init__(observation_space, action_space, lr_schedule, net_arch, n_critics=n_critics, **kwargs)
        self.freeze_steps(frozen_steps)

    def _build(self, lr_schedule: Schedule) -> None:
        self.actor = self.make_actor()
        self.actor_ema = frozen_copy(self.actor)
        self.actor_slow = frozen_copy(self.actor) if self.slow_actor else None
        self.actor.gcp.take_teacher(self.actor_ema.gcp)
        self.critic = self.make_critic()
        self.actor.optimizer = self.make_optimizer(self.actor, lr_schedule(1), weight_decay=0.0)
        self.critic.optimizer = self.make_optimizer(self.critic, lr_schedule(1), weight_decay=1e-5)

    @property
    def critic_target(self) -> ChunkValue:  # type: ignore[override]
        """There is none: values are regressed on returns."""
        return self.critic

    def freeze_steps(self, n: int) -> None:
        """
        Let the first denoising steps be made by a copy of the actor that is never trained, the slow actor (DPPO).

        :param n: how many, in generation order; 0 for none
        :raises ValueError: no step with a density would be left to train, or chains that cannot be made in parts
        """
        if n != 0 and not self.actor.gcp.has_parts:
            raise ValueError(f"frozen_steps must be 0 for a {self.family()}, which draws all tokens itself, found {n}")
        if n < 0 or n >= self.actor.gcp.stochastic_steps:
            raise ValueError(
                f"frozen_steps must lie in [0, {self.actor.gcp.stochastic_steps - 1}], below the number of stochastic steps, "
                f"found {n}"
            )
        self.frozen_steps = n
        if n > 0:
            self.add_slow_actor()

    def predict_values(self, obs: PyTorchObs) -> th.Tensor:
        """
        :param obs: observations (B)
        :return: (B,)
        """
        return self.critic(obs).mean(dim=0)

    def draw(self, obs: PyTorchObs) -> tuple[th.Tensor, th.Tensor]:
        """
        One chain of the old policy per observation.

        :param obs: observations (B)
        :return: (B, D) actions in [-1, 1]; (F+1, B, D) the states that the F trained steps with a density go through
        """
        start = None
        if self.frozen_steps:
            assert self.actor_slow is not None
            early = self.actor_slow.gcp.sample_chain(self.actor_slow.features(obs), end=self.frozen_steps)
            start = early.states[-1]
        gcp = self.actor_ema.gcp
        chain = gcp.sample_chain(self.actor_ema.features(obs), start=start, begin=self.frozen_steps)
        return chain.actions, chain.states[: gcp.stochastic_steps - self.frozen_steps + 1]

    def decide(self, observation: PyTorchObs, latents: th.Tensor) -> th.Tensor:
        """Deterministic sampler of the old policy. See the base class."""
        noise = latents[:, 0]
        if self.frozen_steps:
            assert self.actor_slow is not None
            noise = self.actor_slow.gcp.sample(self.actor_slow.features(observation), noise, end=self.frozen_steps)
        return self.actor_ema.gcp.sample(self.actor_ema.features(observation), noise, begin=self.frozen_steps)

    def _predict(self, observation: PyTorchObs, deterministic: bool = False) -> th.Tensor:
        """Deterministic: :meth:`decide` from the stored latent. Otherwise what rollouts execute, :meth:`explore`."""
        if not deterministic:
            return self.explore(observation)
        n = len(next(iter(observation.values())) if isinstance(observation, dict) else observation)
        return self.decide(observation, self.actor_ema.latent.expand(n, 1, -1))

    def explore(self, observation: PyTorchObs) -> th.Tensor:
        """The action of a chain of the old policy."""
        return self.draw(observation)[0]

    @th.no_grad()
    def renew_old_policy(self) -> None:
        """Make the old policy equal to the actor."""
        for ours, theirs in zip(self.actor_ema.state_dict().values(), self.actor.state_dict().values(), strict=True):
            ours.copy_(theirs)

    def _get_constructor_parameters(self) -> dict[str, Any]:
        return {**super()._get_constructor_parameters(), "frozen_steps": self.frozen_steps}
