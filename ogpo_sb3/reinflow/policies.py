"""The policy that ReinFlow accepts by name."""

from typing import Any

from ogpo_sb3.common import policies
from ogpo_sb3.common.actor_value_policies import ActorValuePolicy

# The mean of a step is plain Euler and its noise a network's output; bounds as in the official Hopper configuration.
NOISE: dict[str, Any] = dict(noise_schedule="learned", sde_correction="none", min_noise_std=0.1, max_noise_std=0.24)


class FlowPolicy(ActorValuePolicy, policies.FlowPolicy):
    """
    Flow actor with learned noise, and value network.

    :param args: as :class:`ogpo_sb3.common.actor_value_policies.ActorValuePolicy`
    :param kwargs: likewise; of :class:`ogpo_sb3.gcp.FlowGCP`'s, noise_schedule is "learned", sde_correction "none",
        min_noise_std 0.1 and max_noise_std 0.24 unless given
    """

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **{**NOISE, **kwargs})
