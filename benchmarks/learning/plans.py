"""
What is run: tasks with their base settings, variants of one factor at a time, and named plans of both. Dictionaries only.

A variant is a dictionary of overrides on the task's base, with the dotted names of ``settings.py``. To add one, add a line.
"""

import argparse
from typing import Any, NamedTuple

from ogpo_sb3 import presets
from ogpo_sb3.compare.settings import flat

from benchmarks.learning.settings import base

Settings = dict[str, Any]

# Ending an episode must never cost reward. The engine's dense rewards pay several points a step for a door almost open,
# a nail almost in, a pen almost turned, for as long as the episode does not end: success would be the worse choice.
_SPARSE: Settings = {"env.reward": "sparse", "env.reward_scale": 0.1, "env.success_bonus": 0.0}
_DENSE: Settings = {"env.reward": "dense", "env.reward_scale": 0.1, "env.success_bonus": 5.0}
_SUCCESS_RATE: Settings = {"reward": "sparse", "reward_scale": 0.0, "success_bonus": 1.0}
_SUCCESS: Settings = {f"env.{name}": value for name, value in _SUCCESS_RATE.items()}
_COVERAGE: Settings = {"env.reward": "coverage", "env.reward_scale": 1.0, "env.success_bonus": 0.0}
_LARGE_BATCHES: Settings = {"bc_batch_size": 256, "bc_tau": 0.005}  # cloning of human demonstrations
_MINUS_ONE: Settings = {"reward_shift": -1.0}  # -1 per step and 0 at success, from 0 and 1

# The preset's values for tasks that it has none of its own for: the others are studied from where their own came from.
_GENERAL: Settings = {**flat(presets.laptop("")), "policy_kwargs.normalize_observations": False}


def _adroit(name: str, **settings: Any) -> dict[str, Any]:
    """A task from where the presets came from: success alone as reward."""
    return dict(
        env=f"ogpo/Adroit{name}-v0",
        evaluation=_SUCCESS_RATE,
        steps=30_000,
        eval_freq=2_500,
        settings={**_GENERAL, **_SUCCESS, **settings},
    )


_EARLIER: Settings = {"policy_kwargs.n_critics": 5, "utd_critic": 1.0, "critic_warmup_updates": 10_000, "group_size": 16}


def _preset(name: str) -> dict[str, Any]:
    """A task from its own preset, before the study found that less of everything and more steps serve it better (``lean``)."""
    return dict(env=f"ogpo/Adroit{name}-v0", evaluation=_SUCCESS_RATE, steps=25_000, eval_freq=5_000, settings=_EARLIER)


def _kitchen(eval_freq: int, **settings: Any) -> dict[str, Any]:
    """Kitchen from its preset, before the study found targets of the lowest head better."""
    return dict(
        env="ogpo/KitchenComplete-v0",
        evaluation={"reward_scale": 1.0},
        steps=60_000,
        eval_freq=eval_freq,
        settings={**_LARGE_BATCHES, "bc_eval_freq": 1_000, "q_agg": "mean", **settings},
    )


# ``evaluation``: reward of the evaluations, by default the preset's. Success is the measure, the return what precedes it.
# ``sampler``: of the evaluations after cloning, by default one ODE sample a decision.
# Door, Hammer and Pen are cloned within a thousand updates: clip_bc must be looked at often to stop in time.
TASKS: dict[str, dict[str, Any]] = {
    "relocate": _adroit("Relocate"),
    # From the presets that the plan "balanced" led to: one factor at a time around what works.
    "relocate-preset": _preset("Relocate"),
    "hammer-preset": _preset("Hammer"),
    "pen-preset": _preset("Pen"),
    # Relocate from its present preset: what there is to change once there are many steps with little for each
    "relocate-lean": dict(env="ogpo/AdroitRelocate-v0", evaluation=_SUCCESS_RATE, steps=70_000, eval_freq=14_000, settings={}),
    "door": _adroit("Door", bc_steps=2_000, bc_eval_freq=100),
    "hammer": _adroit("Hammer", bc_steps=500, bc_eval_freq=100),
    "pen": _adroit("Pen", bc_steps=500, bc_eval_freq=25),
    "pusht": dict(
        env="ogpo/PushT-v0",
        evaluation={"reward": "coverage"},
        steps=100_000,
        eval_freq=20_000,
        settings={
            **_GENERAL,
            **_COVERAGE,
            "chunk_size": 8,
            **_LARGE_BATCHES,
            "bc_steps": 40_000,
            "bc_learning_rate": "lin_1e-3",
            "clip_bc": None,
            "policy_kwargs.network": "mlp",
            "policy_kwargs.net_arch": [512, 512, 512],
            "policy_kwargs.critic_net_arch": [256, 256],
            "policy_kwargs.normalize_observations": True,
        },
    ),
    # Its actor stays as cloned and is watched as it is deployed, by the best of N (probe --of choice looks at several N).
    "pusht-preset": dict(
        env="ogpo/PushT-v0",
        evaluation={"reward": "coverage"},
        sampler=presets.laptop_sampler("ogpo/PushT-v0"),
        steps=100_000,
        eval_freq=20_000,
        settings=_LARGE_BATCHES,
    ),
    # The preset's noise and rollouts before the study found others better: what is recorded stands around them.
    "kitchen": _kitchen(10_000, **{"policy_kwargs.noise_std": 0.05, "rollout_sampler": "sde"}),
    "kitchen-preset": _kitchen(20_000),
    "smoke": dict(
        env="ogpo/PushT-v0",
        evaluation={"reward": "dense"},
        steps=300,
        eval_freq=100,
        episodes=2,
        final_episodes=3,
        settings={
            **_GENERAL,
            "bc_steps": 20,
            "clip_bc": None,
            "learning_starts": 60,
            "critic_warmup_updates": 2,
            "utd_critic": 0.1,
            "batch_size": 8,
            "actor_batch_size": 4,
            "group_size": 4,
            "best_of_n": 2,
            **_COVERAGE,
            "env.reward": "dense",
            "reward_shift": -1.0,
            "policy_kwargs.network": "mlp",
            "policy_kwargs.net_arch": [16, 16],
            "policy_kwargs.n_critics": 2,
            "policy_kwargs.denoising_steps": 2,
        },
    ),
}
EPISODES, FINAL_EPISODES = 50, 100


def _values(name: str, *values: Any) -> dict[str, Settings]:
    return {f"{name.removeprefix('policy_kwargs.')}={value}": {name: value} for value in values}


FACTORS: dict[str, dict[str, Settings]] = {
    "utd_critic": _values("utd_critic", 0.1, 0.5, 2.0, 4.0),
    "warmup": _values("critic_warmup_updates", 0, 2_000, 20_000),
    "learning_starts": _values("learning_starts", 2_500, 5_000, 20_000),
    "utd_actor": _values("utd_actor", 0.02, 0.05, 0.25, 0.5),
    "actor_lr": _values("learning_rate", 3e-5, 1e-4, 3e-4, 1e-3),
    "critic_lr": _values("critic_learning_rate", 1e-4, 1e-3),
    "actor_tau": _values("actor_tau", 0.005, 0.01, 0.1),
    "tau": _values("tau", 0.005, 0.05),
    "bc_coef": _values("bc_coef", 0.0, 0.03, 0.1, 0.3, 1.0),
    "clip": _values("clip_range", 0.01, 0.02, 0.1, 0.2, 0.5),
    "ratio_norm": {
        f"sum,clip={clip}": {"policy_kwargs.ratio_norm": "sum", "clip_range": clip} for clip in (0.1, 0.2, 0.5, 2.0)
    },
    "sigma": _values("policy_kwargs.noise_std", 0.01, 0.03, 0.05, 0.1, 0.2, 0.3),
    "noise_schedule": _values("policy_kwargs.noise_schedule", "constant"),
    "K": _values("policy_kwargs.denoising_steps", 2, 8, 10),
    "chunk": _values("chunk_size", 1, 2, 4, 8),
    "group": _values("group_size", 4, 8, 32, 64),
    "rollout_sampler": _values("rollout_sampler", "ode"),
    "latents": _values("group_latents", 1, 4),
    "heads": _values("policy_kwargs.n_critics", 2, 10),
    "q_agg": _values("q_agg", "min", "subsample"),
    "advantage": _values("advantage", "mean", "penultimate", "positive", "std"),
    "best_of_n": _values("best_of_n", 1, 4, 16),
    "reward": {
        "dense": _DENSE,
        "sparse": _SPARSE,
        "sparse,scale=1": {**_SPARSE, "env.reward_scale": 1.0},
        "sparse,bonus=5": {**_SPARSE, "env.success_bonus": 5.0},
        "success_only": _SUCCESS,
    },
    "reward_scale": _values("reward_scale", 0.03, 0.3, 1.0),
    "observations": _values("policy_kwargs.normalize_observations", True, False),
    "success_critic": _values("success_critic", True),
    "mc": _values("mc_coef", 0.1, 1.0),
    "q_variance": _values("q_variance_samples", 4),
    "gamma": _values("gamma", 0.95, 0.97, 0.99, 0.995),
    "n_envs": _values("n_envs", 4, 10),
    "batch": _values("batch_size", 64, 256),
    "states": _values("actor_batch_size", 16, 128),
    "clip_bc": _values("clip_bc", 0.2, 0.3),
    "algo": _values("algo", "OGPO", "OGPOPlus", "OGPOChi2"),
    # Which part carries a gain: the policy gradient, cloning of successes, the choice among candidates
    "parts": {
        "no_policy_gradient": {"algo": "NoPolicyGradient"},
        "cloning_alone": {"algo": "NoPolicyGradient", "best_of_n": 1},
        "no_candidates": {"best_of_n": 1},
        "no_cloning": {"success_bc": False},
    },
    # What might make the policy gradient pay where successes are cloned, and critics know the last chunk of an episode
    "remedies": {
        "centred": {"extraction_kwargs": {"centred": True}},
        "replay_padding": {"replay_buffer_kwargs": {"pad_actions": "replay"}},
        "both_remedies": {"extraction_kwargs": {"centred": True}, "replay_buffer_kwargs": {"pad_actions": "replay"}},
    },
}
_ADROIT_ONLY = {"reward"}  # factors whose settings other environments do not have

_PATIENT: Settings = {
    "gamma": 0.97,
    "learning_starts": 15_000,
    "critic_warmup_updates": 10_000,
    "utd_actor": 0.1,
    "learning_rate": 1e-4,
    "clip_range": 0.05,
    "tau": 0.05,
    "actor_tau": 0.1,
    "bc_coef": 0.1,
    "best_of_n": 1,
    "policy_kwargs.noise_std": 0.1,
}

_BALANCED: Settings = {
    **_DENSE,
    "gamma": 0.97,
    "learning_starts": 10_000,
    "critic_warmup_updates": 10_000,
    "utd_actor": 0.25,
    "clip_range": 0.05,
    "tau": 0.05,
    "actor_tau": 0.05,
    "bc_coef": 0.02,
    "policy_kwargs.noise_std": 0.1,
    "policy_kwargs.normalize_observations": True,
}

_LEAN: Settings = {"policy_kwargs.n_critics": 2, "utd_critic": 0.5, "critic_warmup_updates": 0}

# Combinations that single factors suggest; the screening decides what is confirmed.
COMBINATIONS: dict[str, Settings] = {
    "base": {},
    "careful": {"actor_tau": 0.01, "clip_range": 0.02, "success_critic": True},
    "brisk": {"utd_critic": 2.0, "utd_actor": 0.25},
    "brisk,mc": {"utd_critic": 2.0, "utd_actor": 0.25, "mc_coef": 0.1},
    # The base before its values were scaled to [0, 1]: the paper's reward, a short horizon.
    "imitate": {"gamma": 0.97, "learning_rate": 3e-4, "actor_tau": 0.05, **_MINUS_ONE, "reward_scale": 0.1},
    # The policy gradient on an equal footing with cloning, unscaled reward.
    "gradient": {
        "gamma": 0.97,
        "bc_coef": 0.1,
        "utd_actor": 0.1,
        "learning_rate": 1e-4,
        "actor_tau": 0.05,
        "learning_starts": 10_000,
        "critic_warmup_updates": 8_000,
        "policy_kwargs.n_critics": 10,
        **_MINUS_ONE,
    },
    # Many steps and few, small updates: the actor moves less than its own noise before the critics have seen where it went.
    "gentle": {
        "learning_starts": 40_000,
        "critic_warmup_updates": 4_000,
        "batch_size": 256,
        "utd_critic": 0.1,
        "utd_actor": 0.01,
        "learning_rate": 3e-5,
        "clip_range": 0.05,
        "tau": 0.05,
        "actor_tau": 0.05,
        "actor_batch_size": 64,
        "policy_kwargs.noise_std": 0.1,
    },
    # Critics that know the cloned policy before the actor moves, few actor updates, an old policy that follows at once.
    "patient": {**_PATIENT, **_MINUS_ONE},
    "patient,normalised": {**_PATIENT, **_MINUS_ONE, "policy_kwargs.normalize_observations": True},
    "patient,centred": {**_PATIENT, **_MINUS_ONE, "extraction_kwargs": {"centred": True}},
    "patient,dense": {**_PATIENT, **_DENSE, "best_of_n": 8},
    "patient,dense,normalised": {**_PATIENT, **_DENSE, "best_of_n": 8, "policy_kwargs.normalize_observations": True},
    # Cloning of successes held down to the size of the policy gradient: the preset's values for Relocate.
    "balanced": _BALANCED,
    "balanced,cloning": {**_BALANCED, "algo": "NoPolicyGradient"},
    # For dense rewards that pay as much for staying just short of success: Door's, Hammer's and Pen's.
    "balanced,scale=0.01": {**_BALANCED, "env.reward_scale": 0.01},
    "balanced,scale=0.01,cloning": {**_BALANCED, "env.reward_scale": 0.01, "algo": "NoPolicyGradient"},
    "balanced,centred": {**_BALANCED, "extraction_kwargs": {"centred": True}},
    # What saves time and cost nothing that one factor at a time could show, together: Adroit's presets since.
    "lean": {**_LEAN, "group_size": 4},
    "lean,group_size=16": _LEAN,
}

# ``factors``: each variant changes one of them; ``variants``: named combinations; both with the base where it is named.
_FOUR = ["relocate", "hammer", "pusht", "kitchen"]
PLANS: dict[str, dict[str, Any]] = {
    "screen": dict(tasks=_FOUR, factors=list(FACTORS), variants=["base"]),
    "around": dict(tasks=["relocate-preset", "hammer-preset", "kitchen-preset"], factors=list(FACTORS), variants=["base"]),
    "base": dict(tasks=["relocate", "door", "hammer", "pen", "pusht", "kitchen"], variants=["base"]),
    "confirm": dict(
        tasks=_FOUR, variants=[name for name, what in COMBINATIONS.items() if "env.reward" not in what and "lean" not in name]
    ),
    "critic": dict(
        tasks=_FOUR, factors=["utd_critic", "warmup", "critic_lr", "tau", "heads", "q_agg", "gamma", "mc"], variants=["base"]
    ),
    "actor": dict(
        tasks=_FOUR, factors=["utd_actor", "actor_lr", "actor_tau", "bc_coef", "clip", "ratio_norm"], variants=["base"]
    ),
    "parts": dict(tasks=_FOUR, factors=["parts"], variants=["base"]),
    "remedies": dict(tasks=_FOUR, factors=["remedies"], variants=["base"]),
    "patient": dict(tasks=["relocate", "hammer"], variants=[name for name in COMBINATIONS if name.startswith("patient")]),
    "balanced": dict(
        tasks=["relocate"], variants=[name for name in COMBINATIONS if name.startswith("balanced") and "scale" not in name]
    ),
    "lean": dict(tasks=["hammer-preset", "relocate-preset", "pen-preset"], variants=["base", "lean", "lean,group_size=16"]),
    "around-lean": dict(tasks=["relocate-lean"], factors=["K", "ratio_norm", "chunk", "sigma", "gamma"], variants=["base"]),
    # What there is to change where the actor stays as it is
    "choice": dict(
        tasks=["pusht-preset"],
        factors=[
            *("utd_critic", "warmup", "learning_starts", "critic_lr", "tau", "batch", "heads", "q_agg", "gamma", "mc"),
            *("best_of_n", "rollout_sampler", "sigma", "K", "chunk", "reward_scale", "observations", "success_critic"),
            "n_envs",
        ],
        variants=["base"],
    ),
    "reward": dict(tasks=["relocate", "door", "hammer", "pen"], factors=["reward"], variants=["base"]),
    "smoke": dict(tasks=["smoke"], factors=["bc_coef"], variants=["base"]),
}


class Run(NamedTuple):
    """
    One cell of a plan.

    :param task: key of ``TASKS``
    :param variant: name, unique within the task
    :param factor: what the variant changes; "combination" where several
    :param overrides: on the task's base
    """

    task: str
    variant: str
    factor: str
    overrides: Settings


def task_of(name: str) -> dict[str, Any]:
    """
    :param name: key of ``TASKS``
    :raises ValueError: there is none
    """
    if name not in TASKS:
        raise ValueError(f"task must be one of {sorted(TASKS)}, found {name!r}")
    return TASKS[name]


def task_settings(name: str) -> Settings:
    """
    :param name: key of ``TASKS``
    :return: the base that variants override, flat
    """
    task = task_of(name)
    return {**base(task["env"]), **task["settings"]}


def find(name: str) -> tuple[str, Settings] | None:
    """
    :param name: of a variant
    :return: its factor and overrides; None for an unknown one
    """
    if name in COMBINATIONS:
        return "base" if not COMBINATIONS[name] else "combination", COMBINATIONS[name]
    return next(((factor, variants[name]) for factor, variants in FACTORS.items() if name in variants), None)


def runs(plan: str) -> list[Run]:
    """
    Every task and variant of a plan, the base first; variants that are the task's base already are left out.

    :param plan: key of ``PLANS``
    :raises ValueError: there is none
    """
    if plan not in PLANS:
        raise ValueError(f"plan must be one of {sorted(PLANS)}, found {plan!r}")
    content = PLANS[plan]
    names = [*content.get("variants", []), *(v for f in content.get("factors", []) for v in FACTORS[f])]
    found = []
    for name in names:
        factor, overrides = find(name) or ("", {})
        for task in content["tasks"]:
            settings = task_settings(task)
            same = all(settings.get(key) == value for key, value in overrides.items())
            foreign = factor in _ADROIT_ONLY and "Adroit" not in TASKS[task]["env"]
            if not foreign and (factor == "base" or not same):
                found.append(Run(task, name, factor, overrides))
    return found


def main(argv: list[str]) -> int:
    """
    Print what plans consist of.

    :param argv: command-line arguments
    """
    parser = argparse.ArgumentParser(prog="python -m benchmarks.learning plans", description="What a plan consists of.")
    parser.add_argument("plan", nargs="*", default=list(PLANS), help="names (default: all)")
    for plan in parser.parse_args(argv).plan:
        try:
            content = runs(plan)
        except ValueError as error:
            parser.error(str(error))
        steps = sum(TASKS[run.task]["steps"] for run in content)
        print(f"{plan}: {len(content)} runs a seed, {steps:,} environment steps a seed")
        for run in content:
            print(f"  {run.task:<9} {run.variant:<28} {run.overrides}")
    return 0
