"""ReinFlow."""

from typing import Any, ClassVar

from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import GymEnv

from ogpo_sb3.common.actor_value_policies import ActorValuePolicy
from ogpo_sb3.common.schedules import Schedule
from ogpo_sb3.dppo import DPPO
from ogpo_sb3.reinflow.policies import NOISE, FlowPolicy


class ReinFlow(DPPO):
    """
    ReinFlow (arXiv 2505.22094): PPO on a flow policy whose noise is learned.

    A network of observation and time gives the standard deviation of every step, which makes the ODE's steps Gaussian; the
    ratio is that of whole chains, the entropy of the noise is rewarded, and evaluation runs the ODE without noise. The noise
    network is not part of a BC checkpoint: that of any flow policy starts ReinFlow.

    :param policy: "FlowPolicy" or a policy class
    :param env: environment, its id or a chunked vectorised environment
    :param learning_rate: of the actor and its noise
    :param kwargs: as :class:`ogpo_sb3.DPPO`, by name; here ratio is "chain", log_prob_clip (-1, 1), finetuned_steps None,
        ent_coef 0.03 and n_epochs 5 unless given
    """

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {"FlowPolicy": FlowPolicy}
    own_policy_kwargs = tuple(NOISE)

    def __init__(
        self,
        policy: str | type[ActorValuePolicy],
        env: GymEnv | str | None,
        learning_rate: float | str | Schedule = 4.5e-5,
        **kwargs: Any,
    ):
        own = dict(ratio="chain", log_prob_clip=(-1.0, 1.0), finetuned_steps=None, ent_coef=0.03, n_epochs=5)
        super().__init__(policy, env, learning_rate, **{**own, **kwargs})
