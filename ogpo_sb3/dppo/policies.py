"""Policies that DPPO accepts by name: those of OGPO with a value network; the same BC checkpoints start them."""

from ogpo_sb3.common.actor_value_policies import ActorValuePolicy
from ogpo_sb3.common.policies import for_families


POLICIES = for_families(ActorValuePolicy, __name__)
FlowPolicy, DiffusionPolicy, ShortcutPolicy, MIPPolicy, FASTPolicy = POLICIES
