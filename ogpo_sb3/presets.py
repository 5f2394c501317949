"""Keyword dictionaries for OGPO and its variants (other algorithms take other arguments): for two cores, and the paper's."""

from copy import deepcopy
from typing import Any

from ogpo_sb3.common.names import check_known
from ogpo_sb3.common.schedules import WarmupCosine
from ogpo_sb3.envs.registry import TASKS


def quick() -> dict[str, Any]:
    """
    Small networks, groups and batches: thousands of updates a minute on two CPU cores. For learning from nothing: its actor
    takes larger steps from the first update on than a cloned policy survives, for which :func:`laptop` is made.

    :return: keyword arguments of :class:`ogpo_sb3.OGPO`; copy and change freely
    """
    return dict(
        learning_rate="lin_5e-4",
        critic_learning_rate=1e-3,
        buffer_size=200_000,
        learning_starts=1_000,
        batch_size=128,
        actor_batch_size=32,
        group_size=16,
        utd_critic=1.0,
        utd_actor=0.5,
        clip_range=0.2,
        actor_tau=0.05,
        tau=0.01,
        policy_kwargs=dict(net_arch=[128, 128, 128], n_critics=5, denoising_steps=4, noise_std=0.15),
    )


def laptop(env_id: str) -> dict[str, Any]:
    """
    What the quickstart uses: fine-tuning a behaviour-cloned policy within minutes on two CPU cores.

    On Hammer the policy gradient and cloning of the policy's own successes each carry the gain alone; on Relocate it takes the
    policy gradient (docs/guide/what_matters.md). Values are of the order of 1, with a discount that reaches from an episode's
    end to its beginning, or a dense reward.

    :param env_id: a task of the package; any other environment has the values that most of them have
    :return: keyword arguments of :class:`ogpo_sb3.OGPOCA`, pre-training included
    :raises ValueError: a name "ogpo/..." that is no task
    """
    _check_task(env_id)
    settings: dict[str, Any] = dict(
        chunk_size=2,
        gamma=0.99,
        bc_steps=_BC_STEPS.get(env_id, 6_000),
        clip_bc=0.35,
        learning_rate="lin_3e-4",
        critic_learning_rate=3e-4,
        buffer_size=200_000,
        learning_starts=5_000,
        critic_warmup_updates=5_000,
        batch_size=128,
        actor_batch_size=32,
        group_size=16,
        utd_critic=1.0,
        utd_actor=0.5,
        clip_range=0.04,
        tau=0.02,
        actor_tau=0.02,
        bc_coef=1.0,
        best_of_n=8,
        policy_kwargs=dict(net_arch=[256, 256], n_critics=5, denoising_steps=4, noise_std=0.05),
    )
    special = deepcopy(_LAPTOP.get(env_id, {}))
    settings["policy_kwargs"].update(special.pop("policy_kwargs", {}))
    return {**settings, **special}


def _check_task(env_id: str) -> None:
    if env_id.startswith("ogpo/"):
        check_known("task", env_id, TASKS)


def laptop_steps(env_id: str) -> int:
    """
    Environment steps of the quickstart, those before the first update included.

    :param env_id: as of :func:`laptop`
    :raises ValueError: as :func:`laptop`
    """
    _check_task(env_id)
    return _LAPTOP_STEPS.get(env_id, 25_000)


def laptop_sampler(env_id: str) -> str:
    """
    How the quickstart's policy is watched: by one ODE sample per decision, or on Push-T, whose policy does not move, by the
    best of N, which its critics choose.

    :param env_id: as of :func:`laptop`
    :return: ``sampler`` of :func:`ogpo_sb3.evaluate`
    :raises ValueError: as :func:`laptop`
    """
    _check_task(env_id)
    return "behaviour" if _LAPTOP.get(env_id, {}).get("utd_actor") == 0.0 else "ode"


def laptop_noise(env_id: str) -> float:
    """
    Noise of the expert that the quickstart clones. Robomimic's scripted experts go one way only; pushed off it, they show how
    to come back. Tool Hang and Transport leave no room for that.

    :param env_id: as of :func:`laptop`
    :return: ``noise`` of :func:`ogpo_sb3.demonstrations.experts.collect`
    :raises ValueError: as :func:`laptop`
    """
    _check_task(env_id)
    return 1.0 if env_id in ("ogpo/RobomimicLift-v0", "ogpo/RobomimicCan-v0", "ogpo/RobomimicSquare-v0") else 0.0


# Where cloning reaches clip_bc, which is looked at twenty times in these updates, within a few hundred.
_BC_STEPS = {
    "ogpo/AdroitDoor-v0": 2_000,
    "ogpo/AdroitHammer-v0": 500,
    "ogpo/RobomimicLift-v0": 1_000,
}


_KITCHENS = ("ogpo/KitchenComplete-v0", "ogpo/KitchenMixed-v0", "ogpo/KitchenPartial-v0")
_LONG_ROBOMIMIC = ("ogpo/RobomimicSquare-v0", "ogpo/RobomimicToolHang-v0", "ogpo/RobomimicTransport-v0")
# What the study found for single tasks. Robomimic's steps cost twenty to a hundred times Adroit's: larger batches, half
# the updates.
_LIFT_AND_CAN: dict[str, Any] = dict(
    chunk_size=4,
    clip_bc=0.5,
    batch_size=256,
    actor_batch_size=64,
    utd_critic=0.5,
    utd_actor=0.25,
    policy_kwargs=dict(normalize_observations=True),
)
# Updates that cost little: on Adroit two heads, groups of four and half the updates, for more steps in the same time, serve
# better than five, sixteen and all of them.
_LEAN: dict[str, Any] = dict(
    critic_warmup_updates=0, group_size=4, utd_critic=0.5, utd_actor=0.25, policy_kwargs=dict(n_critics=2)
)
# The policy gradient on an equal footing with cloning of successes.
_BALANCED: dict[str, Any] = {
    **_LEAN,
    "gamma": 0.97,
    "learning_starts": 10_000,
    "clip_range": 0.05,
    "tau": 0.05,
    "actor_tau": 0.05,
    "bc_coef": 0.02,
    "policy_kwargs": dict(**_LEAN["policy_kwargs"], noise_std=0.1, normalize_observations=True),
}
# What is hard to clone is cloned to the end, for longer and by the residual network, which is far better at it.
_CLONED_LONG: dict[str, Any] = dict(
    bc_steps=40_000,
    clip_bc=None,
    bc_learning_rate="lin_1e-3",
    batch_size=256,
    learning_starts=20_000,
    policy_kwargs=dict(network="residual", critic_net_arch=[256, 256], normalize_observations=True),
)
# Few actor updates, and rollouts without the SDE's noise: with it they hardly ever succeed, and there is nothing to clone.
_GENTLE: dict[str, Any] = {
    **_CLONED_LONG,
    "utd_actor": 0.05,
    "bc_coef": 0.1,
    "rollout_sampler": "ode",
    "policy_kwargs": dict(**_CLONED_LONG["policy_kwargs"], noise_std=0.03),
}
_LAPTOP: dict[str, dict[str, Any]] = {
    "ogpo/AdroitDoor-v0": _LEAN,
    **dict.fromkeys(("ogpo/AdroitHammer-v0", "ogpo/AdroitPen-v0", "ogpo/AdroitRelocate-v0"), _BALANCED),
    **dict.fromkeys(("ogpo/RobomimicLift-v0", "ogpo/RobomimicCan-v0"), _LIFT_AND_CAN),
    # Targets of the lowest head: better from each of three clones of Complete (docs/guide/study_human_data.md).
    **{name: {**_GENTLE, "chunk_size": 8, "utd_critic": 0.25, "q_agg": "min"} for name in _KITCHENS},
    **{name: {**_GENTLE, "chunk_size": 4, "utd_critic": 0.5} for name in _LONG_ROBOMIMIC},
    # The critics choose well among the policy's own samples, and nothing that was tried made the policy itself succeed more
    # often (docs/guide/what_matters.md): it stays as it was cloned, and is deployed with best-of-N inference.
    "ogpo/PushT-v0": {
        **_CLONED_LONG,
        "chunk_size": 8,
        "utd_critic": 0.2,
        "utd_actor": 0.0,
        "policy_kwargs": dict(**_CLONED_LONG["policy_kwargs"], noise_std=0.02),
    },
}
_LAPTOP_STEPS = {
    "ogpo/AdroitDoor-v0": 50_000,
    **dict.fromkeys(("ogpo/AdroitPen-v0", "ogpo/AdroitRelocate-v0"), 70_000),
    **dict.fromkeys((*_KITCHENS, "ogpo/RobomimicCan-v0", *_LONG_ROBOMIMIC), 60_000),
    "ogpo/PushT-v0": 100_000,
}


def laptop_env(env_id: str) -> dict[str, Any]:
    """
    Environment arguments of the quickstart: rewards under which values are of the order of 1.

    On Door and Robomimic's tasks 1 at success and 0 before. That is the sparse reward -1/0 on another scale: with discount
    gamma its values are those of -1/0 times (1 - gamma) plus 1, so that they lie in [0, 1] whatever gamma is. Hammer, Pen and
    Relocate have the engine's dense rewards. Those of Hammer and Pen pay 10 to 25 points per step for a state just short of
    success, which ends the episode; they are scaled down until success is worth more than to stay there for ever.

    :param env_id: as of :func:`laptop`
    :return: keyword arguments of ``gymnasium.make``; none where a task's own reward serves
    :raises ValueError: as :func:`laptop`
    """
    _check_task(env_id)
    return dict(_REWARDS.get(env_id, {}))


_REWARDS: dict[str, dict[str, Any]] = {
    **{
        name: dict(reward="sparse", reward_scale=0.0, success_bonus=1.0)
        for name in ("ogpo/AdroitDoor-v0", *(task for task in TASKS if "Robomimic" in task))
    },
    # A nail that is almost in pays 0.25 per step: worth 8 with the discount of 0.97
    "ogpo/AdroitHammer-v0": dict(reward="dense", reward_scale=0.01, success_bonus=10.0),
    "ogpo/AdroitPen-v0": dict(reward="dense", reward_scale=0.01, success_bonus=5.0),
    "ogpo/AdroitRelocate-v0": dict(reward="dense", reward_scale=0.1, success_bonus=5.0),
    # From -7 per step: values in about [-1, 0]
    **{name: dict(reward_scale=0.0015) for name in _KITCHENS},
    # What is not covered costs up to 0.02 per step; a success is worth a bonus, or the last few per cent would not pay
    "ogpo/PushT-v0": dict(reward="coverage", reward_scale=0.02, success_bonus=1.0),
}


# What differs between tasks in the paper's tables; where paper and official scripts disagree, the scripts' value.
# Chunk sizes and discounts are the registry's.
_ROBOMIMIC = dict(bc_steps=500_000, clip_bc=0.45, learning_starts=40_000)
_KITCHEN = dict(bc_steps=500_000, learning_starts=20_000)
_ADROIT = dict(bc_steps=50_000, learning_starts=20_000, actor_tau=0.05, utd_critic=4.0, utd_actor=4.0, _denoising_steps=3)
_SQUARE = {**_ROBOMIMIC, "learning_starts": 20_000}
# The paper's table for LIBERO; no script of it is public. A quarter of a million steps of two cameras take 25 GB.
_LIBERO = dict(
    bc_steps=50_000,
    learning_starts=20_000,
    actor_tau=0.001,
    batch_size=64,
    actor_batch_size=64,
    group_size=8,
    buffer_size=250_000,
    q_variance_samples=8,
    _critic=[128] * 3,
)
_PAPER: dict[str, dict[str, Any]] = {
    # Lift and Can are not in the paper; they are set as Square.
    **dict.fromkeys(("ogpo/RobomimicLift-v0", "ogpo/RobomimicCan-v0", "ogpo/RobomimicSquare-v0"), _SQUARE),
    "ogpo/RobomimicToolHang-v0": {**_ROBOMIMIC, "_width": 5},
    "ogpo/RobomimicTransport-v0": {**_ROBOMIMIC, "bc_steps": 1_000_000, "_width": 5},
    **dict.fromkeys(_KITCHENS, _KITCHEN),
    **dict.fromkeys(("ogpo/AdroitDoor-v0", "ogpo/AdroitHammer-v0", "ogpo/AdroitPen-v0", "ogpo/AdroitRelocate-v0"), _ADROIT),
    "ogpo/Libero-v0": _LIBERO,
    "ogpo/PushT-v0": dict(bc_steps=500_000, learning_starts=20_000, bc_coef=0.1),
}


def paper(env_id: str) -> dict[str, Any]:
    """
    The paper's values for a task: four layers of 512, ten heads, K = 10, 256 states x 32 chains. Meant for a GPU.

    Behaviour cloning is part of them, so that ``demonstrations`` must be given where none ship with the package.

    :param env_id: one of the paper's tasks, or Robomimic's Lift and Can, which are set as Square
    :return: keyword arguments of :class:`ogpo_sb3.OGPO` and its variants; chunk size and discount are the registry's
    :raises ValueError: a task that the paper has no values for
    """
    if env_id not in _PAPER:
        raise ValueError(f"presets.paper knows the tasks {sorted(_PAPER)}, found {env_id!r}")
    special = deepcopy(_PAPER[env_id])
    policy_kwargs = dict(
        net_arch=[512] * special.pop("_width", 4),
        n_critics=10,
        denoising_steps=special.pop("_denoising_steps", 10),
        noise_std=0.05,
        noise_schedule="tapered",
    )
    if "_critic" in special:
        policy_kwargs["critic_net_arch"] = list(special.pop("_critic"))
    task = TASKS[env_id]
    settings: dict[str, Any] = dict(
        learning_rate=WarmupCosine(),
        critic_learning_rate=3e-4,
        bc_learning_rate=3e-4,
        buffer_size=2_000_000,
        batch_size=256,
        actor_batch_size=256,
        group_size=32,
        clip_range=0.01,
        tau=0.05,
        actor_tau=0.005,
        utd_critic=1.0,
        utd_actor=1.0,
        policy_kwargs=policy_kwargs,
        chunk_size=task.chunk_size,
        gamma=task.gamma,
    )
    if task.demonstrations is not None:
        settings["demonstrations"] = task.demonstrations
    settings.update(special)
    settings.setdefault("critic_warmup_updates", settings["learning_starts"])
    return settings
