"""
Settings of a run as one flat dictionary with dotted names.

``utd_critic`` is an argument of the algorithm, ``policy_kwargs.noise_std`` one of its policy, ``env.reward`` one of the
environment; the rest say how policies are cloned. Overriding is then a plain ``dict.update``.
"""

import ast
import hashlib
import importlib
import inspect
import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

import gymnasium as gym

from ogpo_sb3.common.names import check_known
from ogpo_sb3.common.schedules import WarmupCosine
from ogpo_sb3.envs.registry import resolve
from ogpo_sb3.zoo.parameters import read_word

# How the shared policy is cloned; the same for all algorithms, so that these are no settings of one.
CLONING: dict[str, Any] = dict(
    bc_steps=2_000,
    clip_bc=None,
    bc_learning_rate=3e-4,
    demo_episodes=25,  # of the expert, for tasks without human data
    demo_noise=0.0,
    bc_batch_size=128,  # cloning does not change with an algorithm's batch size and EMA rate
    bc_tau=0.05,
    bc_eval_freq=300,  # updates between two looks at clip_bc, each of which costs 50 episodes
)
# What a run gets from the harness.
GIVEN = {"self", "args", "kwargs", "policy", "env", "seed", "device", "verbose", "tensorboard_log", "_init_setup_model"}
GIVEN |= {"demonstrations", "pretrained_policy", "policy_kwargs"}
# Arguments of a policy that neither its networks nor cloning know of.
NOT_CLONED = {"n_critics", "critic_net_arch", "critic_layer_norm", "noise_std", "noise_schedule", "sde_correction"}
NOT_CLONED |= {
    "critic_head",
    "critic_head_kwargs",
    "ratio_norm",
    "clip_intermediate",
    "noise_clip",
    "best_of_n",
    "subsample_bon",
    "slow_actor",
    "critic_keys",
}
NOT_NETWORKS = NOT_CLONED - {
    "n_critics",
    "critic_net_arch",
    "critic_layer_norm",
    "critic_keys",
    "critic_head",
    "critic_head_kwargs",
}
NOT_NETWORKS |= {"optimizer_class", "optimizer_kwargs"}
REWARD = ("reward", "reward_scale", "success_bonus")  # arguments of environments that cloning does not depend on


def parse_assignments(assignments: Iterable[str]) -> dict[str, Any]:
    """
    :param assignments: "name=value" with a Python literal or a bare word as value, where true, false and none are no text
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
            parsed[name] = read_word(name, value)
    return parsed


def arguments_of(cls: type) -> set[str]:
    """
    Names that a class and those it hands ``**kwargs`` to take; SB3's own parents are not configured from here.

    :param cls: an algorithm, a policy or a generative family
    """
    own = [c for c in cls.__mro__ if c.__module__.startswith("ogpo_sb3") and "__init__" in vars(c)]
    names = {n for c in own for n in inspect.signature(c.__init__).parameters}  # type: ignore[misc]
    return names - {"self", "args", "kwargs", "gcp_kwargs"}


def names_of(algorithm: type, policy: str) -> set[str]:
    """
    Every dotted name that an algorithm takes.

    :param algorithm: its class
    :param policy: alias
    """
    policy_class = algorithm.policy_aliases[policy]  # type: ignore[attr-defined]
    gcp = getattr(policy_class, "gcp_class", None)
    inner = arguments_of(policy_class) - {"observation_space", "action_space", "lr_schedule"}
    # Of a generative family its own constructor's alone: a family may fix what its base class asks for.
    inner |= set() if gcp is None else set(inspect.signature(gcp).parameters) - {"features_dim", "action_dim", "chunk_size"}
    return (arguments_of(algorithm) - GIVEN) | {f"policy_kwargs.{name}" for name in inner}


def environment_spec(env_id: str) -> gym.envs.registration.EnvSpec:
    """
    :param env_id: registered in Gymnasium, or "module:id", whose module registers it when imported
    :raises ValueError: there is none; suggests the nearest
    """
    module, colon, name = env_id.rpartition(":")
    if colon:
        try:
            importlib.import_module(module)
        except ImportError as error:
            raise ValueError(f"environment {env_id!r} cannot be found: {error}") from error
    check_known("environment", name, gym.registry)
    return gym.spec(name)


def env_arguments(env_id: str) -> set[str]:
    """
    Names that an environment's class takes.

    :param env_id: see :func:`environment_spec`
    """
    entry = environment_spec(env_id).entry_point
    found = inspect.signature(resolve(entry) if isinstance(entry, str) else entry).parameters  # type: ignore[arg-type]
    return set(found) - {"render_mode", "args", "kwargs"}


def flat(kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """
    :param kwargs: of an algorithm
    :return: the same with ``policy_kwargs`` under dotted names
    """
    found: dict[str, Any] = {}
    for name, value in kwargs.items():
        found.update({f"{name}.{k}": v for k, v in value.items()} if name == "policy_kwargs" else {name: value})
    return found


def part(settings: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """
    :param settings: flat
    :param prefix: "env" or "policy_kwargs"
    :return: the settings under it, without it
    """
    return {name.removeprefix(f"{prefix}."): value for name, value in settings.items() if name.startswith(f"{prefix}.")}


def cloning_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """
    The part that decides the cloned policy: a function of it alone, so that all runs that share it share a checkpoint.

    :param settings: flat
    """
    kept = {name: settings[name] for name in ("policy", "chunk_size", *CLONING) if name in settings}
    learned_noise = settings.get("policy_kwargs.noise_schedule") == "learned"  # has parameters in the actor
    for key, value in part(settings, "policy_kwargs").items():
        if key == "net_arch" and isinstance(value, dict):
            value = value["pi"]
        if key not in NOT_CLONED or (learned_noise and key == "noise_schedule"):
            kept[f"policy_kwargs.{key}"] = value
    kept.update({f"env.{key}": value for key, value in part(settings, "env").items() if key not in REWARD})
    return kept


def encode(value: Any) -> Any:
    """
    :param value: of a setting
    :return: what JSON can hold
    :raises ValueError: it cannot
    """
    if isinstance(value, WarmupCosine):
        return {"WarmupCosine": vars(value)}
    try:
        return json.loads(json.dumps(value))
    except TypeError as error:
        raise ValueError(f"a setting must be something that JSON can hold, found {value!r}") from error


def decode(value: Any) -> Any:
    """
    :param value: from :func:`encode`
    """
    return WarmupCosine(**value["WarmupCosine"]) if isinstance(value, dict) and set(value) == {"WarmupCosine"} else value


def digest(content: Any) -> str:
    """
    :param content: anything that JSON can hold
    :return: ten characters that stand for it
    """
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()[:10]
