"""
Settings of a run as one flat dictionary with dotted names, and what becomes of them.

``utd_critic`` is an argument of the algorithm, ``policy_kwargs.noise_std`` one of its policy, ``env.reward`` one of the
environment; the rest are the study's own (``STUDY``). Overriding is then a plain ``dict.update``.
"""

import ast
import hashlib
import inspect
import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

import gymnasium as gym
import ogpo_sb3
from ogpo_sb3 import presets
from ogpo_sb3.common.off_policy import GCPOffPolicyAlgorithm
from ogpo_sb3.envs.registry import TASKS, resolve

from benchmarks.learning.ablations import ABLATIONS

STUDY: dict[str, Any] = dict(
    algo="OGPOCA",  # any algorithm that ogpo_sb3 exports, or one of ablations.py
    policy="FlowPolicy",
    n_envs=1,
    reward_scale=1.0,  # training rewards become scale * (reward + shift), plus the bonus on the step that succeeds;
    reward_shift=0.0,  # evaluations keep the task's own, so that returns of variants can be compared
    success_bonus=0.0,
    demo_episodes=25,  # of the expert, for tasks without human data
    demo_noise=0.0,
    bc_batch_size=128,  # cloning does not change with the variant's batch size and EMA rate
    bc_tau=0.05,
    bc_eval_freq=300,  # updates between two looks at clip_bc, each of which costs 50 episodes
)
# What the harness gives itself.
_OWN = {"self", "args", "kwargs", "policy", "env", "seed", "device", "verbose", "tensorboard_log", "_init_setup_model"}
_OWN |= {"demonstrations", "pretrained_policy"}
# Everything that decides which policy cloning ends with; a variant of anything else starts from the same checkpoint.
_BC = ("policy", "chunk_size", "bc_steps", "clip_bc", "bc_learning_rate", "demo_episodes", "demo_noise")
_BC += ("bc_batch_size", "bc_tau", "bc_eval_freq")
_NOT_BC = ("n_critics", "critic_net_arch", "critic_layer_norm", "noise_std", "noise_schedule", "sde_correction", "ratio_norm")
_NOT_BC += ("clip_intermediate", "noise_clip", "best_of_n", "subsample_bon", "slow_actor", "critic_keys")
_REWARD = ("reward", "reward_scale", "success_bonus")


def base(env_id: str) -> dict[str, Any]:
    """
    Every setting of the laptop preset, flat.

    :param env_id: registered task
    """
    settings = dict(STUDY)
    for name, value in presets.laptop(env_id).items():
        nested = {f"{name}.{key}": v for key, v in value.items()} if name == "policy_kwargs" else {name: value}
        settings.update(nested)
    settings.update({f"env.{key}": value for key, value in presets.laptop_env(env_id).items()})
    return settings


def parse_assignments(assignments: Iterable[str]) -> dict[str, Any]:
    """
    :param assignments: "name=value" with a Python literal or a bare word as value
    :raises ValueError: no "=" or a value that is neither
    """
    parsed: dict[str, Any] = {}
    for text in assignments:
        name, equals, value = text.partition("=")
        if not (equals and name):
            raise ValueError(f"--set wants name=value, found {text!r}")
        try:
            parsed[name] = ast.literal_eval(value)
        except (ValueError, SyntaxError) as error:
            if not re.fullmatch(r"[A-Za-z][\w.:/-]*", value):
                raise ValueError(f"--set {name} wants a Python literal or a word, found {value!r}") from error
            parsed[name] = value
    return parsed


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
    policy = algo.policy_aliases[settings["policy"]]
    gcp = getattr(policy, "gcp_class", None)
    known = {
        "": _arguments(algo) - _OWN - {"policy_kwargs"} | set(STUDY),
        "env.": set(inspect.signature(resolve(TASKS[env_id].entry_point)).parameters) - {"render_mode", "task", "subtasks"},
        "policy_kwargs.": _arguments(policy) - {"observation_space", "action_space", "lr_schedule"}
        | (set() if gcp is None else _arguments(gcp) - {"features_dim", "action_dim"}),
    }
    for name in settings:
        prefix, dot, rest = name.rpartition(".")
        if rest not in known.get(prefix + dot, set()):
            options = sorted(known.get(prefix + dot, [*STUDY, "env.*", "policy_kwargs.*"]))
            raise ValueError(f"{name} is no setting of {algo.__name__} on {env_id}, wanted one of {options}")
    if not (isinstance(settings["n_envs"], int) and settings["n_envs"] >= 1):
        raise ValueError(f"n_envs must be an integer of at least 1, found {settings['n_envs']!r}")
    changed = [name for name in ("reward_scale", "reward_shift", "success_bonus") if settings[name] != STUDY[name]]
    if changed and settings.get("offline_ratio", 0) > 0:
        raise ValueError(
            f"offline_ratio={settings['offline_ratio']} excludes {changed}: demonstrations keep their own rewards"
        )


def _arguments(cls: type) -> set[str]:
    """Names that a class and those it hands ``**kwargs`` to take; SB3's own parents are not configured from here."""
    own = [c for c in cls.__mro__ if c.__module__.startswith("ogpo_sb3") and "__init__" in vars(c)]
    names = {n for c in own for n in inspect.signature(c.__init__).parameters}  # type: ignore[misc]
    return names - {"self", "args", "kwargs", "gcp_kwargs"}


def part(settings: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """
    :param settings: flat
    :param prefix: "env" or "policy_kwargs"
    :return: the settings under it, without it
    """
    return {name.removeprefix(f"{prefix}."): value for name, value in settings.items() if name.startswith(f"{prefix}.")}


def algorithm_kwargs(settings: Mapping[str, Any], pretraining: bool = False) -> dict[str, Any]:
    """
    Keyword arguments of the algorithm.

    :param settings: flat
    :param pretraining: with those of cloning; RL starts from the shared checkpoint instead
    """
    left_out = set(STUDY) | (set() if pretraining else {"bc_steps", "clip_bc"})
    kwargs = {name: value for name, value in settings.items() if "." not in name and name not in left_out}
    return {**kwargs, "policy_kwargs": part(settings, "policy_kwargs")}


def cloning_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """
    The part that decides the cloned policy: a function of it alone, so that all variants that share it share a checkpoint.

    :param settings: flat
    """
    kept = {name: settings[name] for name in _BC if name in settings}
    learned_noise = settings.get("policy_kwargs.noise_schedule") == "learned"  # has parameters in the actor
    for key, value in part(settings, "policy_kwargs").items():
        if key == "net_arch" and isinstance(value, dict):
            value = value["pi"]
        if key not in _NOT_BC or (learned_noise and key == "noise_schedule"):
            kept[f"policy_kwargs.{key}"] = value
    kept.update({f"env.{key}": value for key, value in part(settings, "env").items() if key not in _REWARD})
    return kept


def digest(content: Any) -> str:
    """
    :param content: anything that JSON can hold
    :return: a short name for it
    """
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()[:10]


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
    own = {key: value for key, value in part(settings, "env").items() if key not in _REWARD}
    return gym.make(env_id, **{**(presets.laptop_env(env_id) if reward is None else reward), **own})
