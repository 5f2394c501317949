"""What each algorithm gets in a comparison before the user changes anything."""

from collections.abc import Callable
from typing import Any

from ogpo_sb3 import presets
from ogpo_sb3.common.names import check_known
from ogpo_sb3.compare.settings import CLONING, flat
from ogpo_sb3.envs.registry import task_of

PRESETS: dict[str, Callable[[str], dict[str, Any]]] = {
    "quick": lambda env_id: presets.quick(),
    "laptop": presets.laptop,
    "paper": presets.paper,
}
# Of a preset, what all algorithms share beside networks, environment and cloning: data, horizon and critics' budget.
_SHARED = {"chunk_size", "gamma", "batch_size", "buffer_size", "learning_starts", "critic_learning_rate", "utd_critic"}
# In which the members of a family differ: a preset must not set it for all of them.
_DEFINING = {"best_of_n", "success_bc", "advantage", "chi2_coef", "kl_coef", "extraction"}
# The presets are OGPO's: its family takes all of them. Others have their own defaults, and by preset what those lack.
FAMILY = ("ogpo", "ogpo_plus", "ogpo_ca", "ogpo_chi2")
_ON_POLICY: dict[str, Any] = dict(critic_learning_rate=1e-3, finetuned_steps=None)
# Rollouts small enough for several updates within a comparison of 20 000 steps.
_SMALL_ROLLOUTS: dict[str, Any] = dict(n_steps=256, batch_size=128, n_epochs=5, **_ON_POLICY)
# Under the small presets values lie in [0, 1], which the entropy at a temperature of 1 would drown.
_COLD: dict[str, Any] = dict(initial_temperature=0.01)
_SMALL = ("quick", "laptop")
OWN: dict[str, dict[str, dict[str, Any]]] = {
    **{algo: {} for algo in (*FAMILY, "qc")},
    **{algo: dict.fromkeys(_SMALL, _COLD) for algo in ("expo", "dsrl", "steer_residual")},
    # They follow the critics wherever these lead: not before there are any, as OGPO in the laptop preset.
    **{
        algo: dict(quick=dict(critic_warmup_updates=1_000), laptop=dict(critic_warmup_updates=5_000))
        for algo in ("fql", "pa_rl")
    },
    # Half of RLPD's batches are demonstrations, which need rewards; SACfD weighs them by their number.
    **{
        algo: {**{preset: dict(offline_ratio=0.5, **_COLD) for preset in _SMALL}, "paper": dict(offline_ratio=0.5)}
        for algo in ("rlpd", "sacfd")
    },
    **{algo: dict(quick=_SMALL_ROLLOUTS, laptop=_SMALL_ROLLOUTS, paper=_ON_POLICY) for algo in ("dppo", "reinflow")},
}
_CLONING: dict[str, dict[str, Any]] = {
    "quick": {},
    "laptop": dict(bc_eval_freq=100),  # Door, Hammer and Pen reach clip_bc within a few hundred updates
    "paper": dict(bc_batch_size=256, bc_tau=0.005, bc_eval_freq=5_000),
}


def shared(preset: str, env_id: str) -> dict[str, Any]:
    """
    Flat settings of a preset that all algorithms share on a task, those of cloning and of the environment included.

    :param preset: key of ``PRESETS``
    :param env_id: registered task
    :raises ValueError: unknown preset, or one that does not know the task
    """
    check_known("preset", preset, PRESETS)
    kept = {name: value for name, value in _flat(preset, env_id).items() if _is_shared(name)}
    found = {**CLONING, **_CLONING[preset], **kept}
    found.setdefault("gamma", 0.99)
    if "chunk_size" not in found:
        task = task_of(env_id)
        found["chunk_size"] = task.chunk_size if task is not None else 1
    if preset == "laptop":
        found["demo_noise"] = presets.laptop_noise(env_id)
    if preset != "paper":
        found.update({f"env.{name}": value for name, value in presets.laptop_env(env_id).items()})
    return found


def own(preset: str, algo: str, env_id: str) -> dict[str, Any]:
    """
    Flat settings of one algorithm on top of :func:`shared`.

    :param preset: key of ``PRESETS``
    :param algo: zoo id
    :param env_id: registered task
    :raises ValueError: the algorithm has no presets
    """
    if algo not in OWN:
        raise ValueError(f"algorithm {algo!r} has no preset {preset!r} for comparisons, wanted one of {sorted(OWN)}")
    if algo not in FAMILY:
        return OWN[algo].get(preset, {})
    return {name: value for name, value in _flat(preset, env_id).items() if not (_is_shared(name) or name in _DEFINING)}


def _flat(preset: str, env_id: str) -> dict[str, Any]:
    found = flat(PRESETS[preset](env_id))
    found.pop("demonstrations", None)  # of the plan, not of an algorithm
    return found


def _is_shared(name: str) -> bool:
    return name in _SHARED or name in CLONING or name.startswith("policy_kwargs.")
