"""
Settings of a run as one flat dictionary with dotted names, and what becomes of them.

``utd_critic`` is an argument of the algorithm, ``policy_kwargs.noise_std`` one of its policy, ``env.reward`` one of the
environment; the rest are the study's own (``STUDY``). Overriding is then a plain ``dict.update``.
"""

import inspect
from collections.abc import Mapping
from typing import Any

import gymnasium as gym
import ogpo_sb3
from ogpo_sb3 import presets
from ogpo_sb3.common.off_policy import GCPOffPolicyAlgorithm
from ogpo_sb3.compare.settings import (
    CLONING,
    REWARD,
    cloning_settings,
    digest,
    env_arguments,
    flat,
    names_of,
    parse_assignments,
    part,
)

from benchmarks.learning.ablations import ABLATIONS

STUDY: dict[str, Any] = dict(
    algo="OGPOCA",  # any algorithm that ogpo_sb3 exports, or one of ablations.py
    policy="FlowPolicy",
    n_envs=1,
    reward_scale=1.0,  # training rewards become scale * (reward + shift), plus the bonus on the step that succeeds;
    reward_shift=0.0,  # evaluations keep the task's own, so that returns of variants can be compared
    success_bonus=0.0,
    # Cloning does not change with the variant's batch size and EMA rate.
    **{name: value for name, value in CLONING.items() if name not in ("bc_steps", "clip_bc", "bc_learning_rate")},
)
__all__ = ["STUDY", "cloning_settings", "digest", "parse_assignments", "part"]


def base(env_id: str) -> dict[str, Any]:
    """
    Every setting of the laptop preset, flat.

    :param env_id: registered task
    """
    settings = {**STUDY, **flat(presets.laptop(env_id))}
    settings.update({f"env.{key}": value for key, value in presets.laptop_env(env_id).items()})
    return settings


def algorithm(name: str) -> type[GCPOffPolicyAlgorithm]:
    """
    :param name: of a class that ogpo_sb3 exports, or of an ablation
    :raises ValueError: there is none, or it is no algorithm
    """
    found = {
        n: c for n in ogpo_sb3.__all__ if inspect.isclass(c := getattr(ogpo_sb3, n)) and issubclass(c, GCPOffPolicyAlgorithm)
    }
    found.update({c.__name__: c for c in ABLATIONS})
    if name not in found:
        raise ValueError(f"algo must be one of {sorted(found)}, found {name!r}")
    return found[name]


def check(settings: Mapping[str, Any], env_id: str) -> None:
    """
    :param settings: flat
    :param env_id: registered task
    :raises ValueError: a name that nothing takes, or options that this harness cannot combine
    """
    algo = algorithm(settings["algo"])
    if settings["policy"] not in algo.policy_aliases:
        raise ValueError(f"policy must be one of {sorted(algo.policy_aliases)}, found {settings['policy']!r}")
    known = {
        *names_of(algo, settings["policy"]),
        *STUDY,
        *(f"env.{name}" for name in env_arguments(env_id) - {"task", "subtasks"}),
    }
    for name in settings:
        if name not in known:
            near = sorted(other for other in known if other.rpartition(".")[0] == name.rpartition(".")[0])
            wanted = near or sorted(known)
            raise ValueError(f"{name} is no setting of {algo.__name__} on {env_id}, wanted one of {wanted}")
    if not (isinstance(settings["n_envs"], int) and settings["n_envs"] >= 1):
        raise ValueError(f"n_envs must be an integer of at least 1, found {settings['n_envs']!r}")
    changed = [name for name in ("reward_scale", "reward_shift", "success_bonus") if settings[name] != STUDY[name]]
    if changed and settings.get("offline_ratio", 0) > 0:
        raise ValueError(
            f"offline_ratio={settings['offline_ratio']} excludes {changed}: demonstrations keep their own rewards"
        )


def algorithm_kwargs(settings: Mapping[str, Any], pretraining: bool = False) -> dict[str, Any]:
    """
    Keyword arguments of the algorithm.

    :param settings: flat
    :param pretraining: with those of cloning; RL starts from the shared checkpoint instead
    """
    left_out = set(STUDY) | (set() if pretraining else {"bc_steps", "clip_bc"})
    kwargs = {name: value for name, value in settings.items() if "." not in name and name not in left_out}
    return {**kwargs, "policy_kwargs": part(settings, "policy_kwargs")}


class ShapedReward(gym.Wrapper):
    """
    scale * (reward + shift), plus a bonus on the step that ends the episode in success.

    :param env: per-step environment
    :param scale: factor
    :param shift: added before; a negative one takes the point out of staying alive in tasks that end at success
    :param bonus: added after
    """

    def __init__(self, env: gym.Env, scale: float = 1.0, shift: float = 0.0, bonus: float = 0.0):
        super().__init__(env)
        self.scale, self.shift, self.bonus = scale, shift, bonus

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """As in the environment."""
        obs, reward, terminated, truncated, info = self.env.step(action)
        bonus = self.bonus if terminated and info.get("is_success", False) else 0.0
        return obs, self.scale * (float(reward) + self.shift) + bonus, terminated, truncated, info


def make_env(env_id: str, settings: Mapping[str, Any]) -> gym.Env:
    """
    The training environment.

    :param env_id: registered task
    :param settings: flat
    """
    env = gym.make(env_id, **part(settings, "env"))
    shape = settings["reward_scale"], settings["reward_shift"], settings["success_bonus"]
    return env if shape == (1.0, 0.0, 0.0) else ShapedReward(env, *shape)


def make_evaluation_env(env_id: str, settings: Mapping[str, Any], reward: Mapping[str, Any] | None = None) -> gym.Env:
    """
    The same task with the same reward for all variants, whatever they train on.

    :param env_id: registered task
    :param settings: flat
    :param reward: environment arguments of that reward; the preset's when None
    """
    own = {key: value for key, value in part(settings, "env").items() if key not in REWARD}
    return gym.make(env_id, **{**(presets.laptop_env(env_id) if reward is None else reward), **own})
