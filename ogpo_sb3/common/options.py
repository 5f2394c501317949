"""Refusal of constructor options that are out of range or contradict each other."""

import copy
import math
import numbers
import pathlib
import sys
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from stable_baselines3.common.noise import ActionNoise, VectorizedActionNoise
from stable_baselines3.common.type_aliases import TrainFreq, TrainFrequencyUnit

from ogpo_sb3.common.names import check_known
from ogpo_sb3.critics.ensemble import Q_AGGREGATIONS


def check_shared(
    tau: float,
    actor_tau: float,
    gamma: float,
    utd_critic: float | None,
    utd_actor: float,
    offline_ratio: float,
    max_grad_norm: float,
    bc_offline_ratio: float = 0.0,
) -> None:
    """Ranges of the arguments that every algorithm has, see :class:`ogpo_sb3.OGPO`."""
    for name, value, low, high in (
        ("tau", tau, 0.0, 1.0),
        ("actor_tau", actor_tau, 0.0, 1.0),
        ("gamma", gamma, 0.0, 1.0),
        ("utd_critic", 0.0 if utd_critic is None else utd_critic, 0.0, sys.float_info.max),
        ("utd_actor", utd_actor, 0.0, sys.float_info.max),
        ("offline_ratio", offline_ratio, 0.0, 1.0),
        ("bc_offline_ratio", bc_offline_ratio, 0.0, 1.0),
    ):
        check_number(name, value)
        if not low <= value <= high:
            raise ValueError(f"{name} must lie in [{low:g}, {high:g}], found {value}")
    check_positive("max_grad_norm", max_grad_norm, finite=False)


# Shares of batches that are drawn from the demonstrations
OFFLINE_SHARES = ("offline_ratio", "bc_offline_ratio")


def draws_demonstrations(settings: Mapping[str, Any]) -> bool:
    """
    :param settings: arguments of an algorithm
    :return: whether its updates draw windows of demonstrations, so that these must be at hand beside a cloned policy
    """
    return any(settings.get(name) for name in OFFLINE_SHARES)


def check_number(name: str, value: Any) -> None:
    """
    :param name: of the argument
    :param value: given
    :raises ValueError: no real number
    """
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise ValueError(f"{name} must be a number, found {value!r}")


def check_class(name: str, value: Any, base: type, module: str) -> None:
    """
    :param name: of the argument
    :param value: given
    :param base: what it must derive from
    :param module: where such classes are, for the error
    :raises ValueError: a name, a function or another class
    """
    if not (isinstance(value, type) and issubclass(value, base)):
        raise ValueError(f"{name} must be a class of {module}, found {value!r}")


def check_at_least(**limits: tuple[float, int]) -> None:
    """
    :param limits: by argument name, the value given and the smallest that makes sense
    :raises ValueError: a value below its minimum, NaN or infinite
    """
    for name, (value, least) in limits.items():
        check_number(name, value)
        if not least <= value < math.inf:
            raise ValueError(f"{name} must be at least {least}{' and finite' if value == math.inf else ''}, found {value}")


def whole(name: str, value: Any) -> Any:
    """
    A count written as a float (8.0, 4e4), as ``learn(3e6)`` takes one.

    :param name: of the argument
    :param value: given; None passes
    :return: as int where it is a number
    :raises ValueError: a fraction, not finite, or no number
    """
    if value is None or (isinstance(value, numbers.Integral) and not isinstance(value, bool)):
        return value
    if not isinstance(value, float) or not value.is_integer():  # false for infinities and NaN too
        raise ValueError(f"{name} must be a whole number, found {value!r}")
    return int(value)


def make_whole(model: Any, names: Iterable[str]) -> None:
    """
    :param model: an algorithm whose arguments have been stored
    :param names: of those that are counts
    :raises ValueError: one that is a fraction
    """
    for name in names:
        setattr(model, name, whole(name, getattr(model, name)))


def check_off_policy(values: Mapping[str, Any]) -> None:
    """
    :param values: arguments of :class:`ogpo_sb3.common.off_policy.GCPOffPolicyAlgorithm` by name
    :raises ValueError: one out of range
    """
    rates = ("tau", "actor_tau", "gamma", "utd_critic", "utd_actor", "max_grad_norm", *OFFLINE_SHARES)
    check_shared(**{name: values[name] for name in rates})
    for least, names in (
        (1, ("buffer_size", "batch_size", "actor_batch_size")),
        (0, ("learning_starts", "critic_warmup_updates", "critic_pretrain_updates", "calql_coef", "bc_coef", "mc_coef")),
    ):
        check_at_least(**{name: (values[name], least) for name in names})
    if values["bc_offline_ratio"] > 0 and not values["success_bc"]:
        raise ValueError(
            f"bc_offline_ratio={values['bc_offline_ratio']} is a share of what success_bc clones, found success_bc=False"
        )
    if values["calql_coef"] > 0 and values["critic_pretrain_updates"] == 0:
        raise ValueError(f"calql_coef={values['calql_coef']} is part of critic pre-training, but critic_pretrain_updates is 0")
    check_targets(values["q_agg"], values["target_range"])
    check_cloning(values)


def check_on_policy(values: Mapping[str, Any]) -> None:
    """
    :param values: arguments of :class:`ogpo_sb3.common.on_policy.GCPOnPolicyAlgorithm` by name
    :raises ValueError: one out of range
    """
    check_shared(0.0, values["actor_tau"], values["gamma"], None, 0.0, 0.0, values["max_grad_norm"])
    finetuned = values["finetuned_steps"]
    check_at_least(
        **{name: (values[name], 1) for name in ("n_steps", "batch_size", "n_epochs", "bc_batch_size")},
        **{name: (values[name], 0) for name in ("ent_coef", "vf_coef")},
        finetuned_steps=(1 if finetuned is None else finetuned, 1),
    )
    if not 0.0 <= values["gae_lambda"] <= 1.0:
        raise ValueError(f"gae_lambda must lie in [0, 1], found {values['gae_lambda']}")
    check_cloning(values)


def check_cloning(values: Mapping[str, Any]) -> None:
    """
    :param values: arguments of an algorithm by name
    :raises ValueError: sources of a first policy that exclude each other, or options of cloning out of range
    """
    bc_steps, clip_bc, pretrained_policy = values["bc_steps"], values["clip_bc"], values["pretrained_policy"]
    check_at_least(bc_steps=(bc_steps, 0))
    if bc_steps > 0 and pretrained_policy is not None:
        raise ValueError(f"bc_steps={bc_steps} and pretrained_policy={str(pretrained_policy)!r} exclude each other: give one")
    if clip_bc is not None and not 0.0 < clip_bc <= 1.0:
        raise ValueError(f"clip_bc is a success rate in (0, 1], found {clip_bc}")
    if clip_bc is not None and bc_steps == 0:
        raise ValueError(f"clip_bc={clip_bc} stops behaviour cloning, but bc_steps is 0")


def check_demonstrations(values: Mapping[str, Any]) -> None:
    """
    What a constructor needs and ``load`` may do without: a model goes on predicting where its demonstrations are not.

    :param values: arguments of an algorithm by name
    :raises ValueError: options that need demonstrations, and none
    """
    if values["demonstrations"] is not None:
        return
    for name, what in (
        ("bc_steps", "demonstrations"),
        ("critic_pretrain_updates", "demonstrations with rewards"),
        ("offline_ratio", "demonstrations with rewards"),
        ("bc_offline_ratio", "demonstrations"),
    ):
        if values.get(name, 0) > 0:
            raise ValueError(f"{name}={values[name]} needs {what}, found None")


def check_horizon(total_timesteps: float, log_interval: int | None) -> None:
    """
    What ``learn`` is given.

    :param total_timesteps: environment steps
    :param log_interval: episodes or rollouts between two logs, None for none
    :raises ValueError: out of range
    """
    check_at_least(total_timesteps=(total_timesteps, 0))
    if log_interval is not None:
        check_at_least(log_interval=(log_interval, 1))


def check_rhythm(train_freq: TrainFreq, n_envs: int) -> None:
    """
    :param train_freq: as SB3 understood it
    :param n_envs: environments
    :raises ValueError: nothing would be collected, or episodes that end at different times
    """
    if train_freq.frequency < 1:
        raise ValueError(f"train_freq must be at least 1, found {train_freq.frequency}")
    if train_freq.unit == TrainFrequencyUnit.EPISODE and n_envs > 1:
        raise ValueError(f"train_freq counts episodes of one environment, found {n_envs}: give it in steps")


def noise_for(noise: ActionNoise | None, n_envs: int) -> ActionNoise | None:
    """
    A saved model's noise, which SB3 made for as many environments as the run had.

    :param noise: as saved
    :param n_envs: environments now
    :return: the noise of one of them where their number is another; SB3 makes one for each again
    """
    other = isinstance(noise, VectorizedActionNoise) and noise.n_envs != n_envs
    return noise.base_noise if other else noise  # type: ignore[union-attr]


def check_action_noise(noise: Any, action_shape: tuple[int, ...], n_envs: int | None) -> None:
    """
    :param noise: ``action_noise``; None passes
    :param action_shape: of one decision
    :param n_envs: environments, None while there are none
    :raises ValueError: no ActionNoise of SB3, or one whose samples cannot be added to actions
    """
    if noise is None:
        return
    if not isinstance(noise, ActionNoise):
        raise ValueError(f"action_noise must be an ActionNoise of Stable-Baselines3, found {noise!r}")
    sample = np.asarray(copy.deepcopy(noise)())  # of a copy: a correlated noise remembers what it gave
    rows = n_envs or (sample.shape[0] if sample.ndim > len(action_shape) else 1)
    try:
        np.broadcast_to(sample, (rows, *action_shape))
    except ValueError:
        raise ValueError(
            f"action_noise has shape {sample.shape}, wanted {action_shape}, that of a decision's actions"
        ) from None


def check_critic_rate(utd_critic: float | None, gradient_steps: int | None) -> None:
    """
    :param utd_critic: given or saved
    :param gradient_steps: given
    :raises ValueError: both
    """
    if utd_critic is not None and gradient_steps is not None:
        raise ValueError(f"utd_critic={utd_critic} and gradient_steps={gradient_steps} both set the critic's rate: give one")


def check_replacements(saved: Mapping[str, Any], chunk_size: int, given: Mapping[str, Any]) -> None:
    """
    What ``load`` cannot change, because the saved networks have it or another saved option takes precedence.

    :param saved: attributes of the saved model
    :param chunk_size: of its action space
    :param given: attributes that are to replace them
    :raises ValueError: one that would have no effect
    """
    if given.get("chunk_size") not in (None, chunk_size):
        raise ValueError(
            f"chunk_size={given['chunk_size']} would have no effect: networks of the saved model decide about {chunk_size} "
            "steps at once"
        )
    pretrained = given.get("pretrained_policy")
    if pretrained is not None and pathlib.Path(pretrained) != pathlib.Path(saved.get("pretrained_policy") or ""):
        raise ValueError(
            f"pretrained_policy={str(pretrained)!r} would have no effect: a saved model brings its own parameters, begin a "
            "new one to start from that policy"
        )
    kept = saved.get("initial_temperature")
    temperature = given.get("initial_temperature", kept)
    if temperature != kept:
        check_positive("initial_temperature", temperature)
        raise ValueError(f"initial_temperature={temperature} would have no effect: a saved model brings its own temperature")
    check_critic_rate(given.get("utd_critic", saved.get("utd_critic")), given.get("gradient_steps"))


def check_policy(algorithm: str, policy: Any, base: type, aliases: Iterable[str]) -> None:
    """
    :param algorithm: name of the algorithm
    :param policy: as the user gave it
    :param base: what a policy class must derive from
    :param aliases: the policies that it knows by name
    :raises ValueError: a name that is none of them, or a class that the algorithm cannot use
    """
    if isinstance(policy, str):
        check_known(f"policy of {algorithm}", policy, aliases)
    elif not (isinstance(policy, type) and issubclass(policy, base)):
        found = getattr(policy, "__name__", repr(policy))
        raise ValueError(
            f"{algorithm} needs a policy derived from {base.__name__}, found {found}; the names {list(aliases)} choose "
            "a suitable one"
        )


def check_trained(what: str, policy: Any, trained: Iterable[str], critics: type[Any]) -> None:
    """
    :param what: is made, for the sentence
    :param policy: class of the policy
    :param trained: its networks that the algorithm knows of, by name
    :param critics: class of the critics that the algorithm trains
    :raises ValueError: the policy acts by another network too, which would stay as it is, or has critics of another kind
    """
    found = f"{policy.__module__}.{policy.__name__}"
    if not issubclass(policy.critic_class, critics):
        raise ValueError(
            f"{what} wants a policy with a {critics.__name__}, found {found} with a {policy.critic_class.__name__}"
        )
    others = [name for name in policy.actor_names if name not in trained]
    if others:
        raise ValueError(
            f"{what} wants a policy that acts by {' and '.join(map(repr, trained))}, found {found}, which acts by "
            f"{' and '.join(map(repr, others))} too: that would never be trained"
        )


def check_choice(name: str, value: Any, allowed: tuple[str, ...]) -> None:
    """
    :param name: of the argument
    :param value: given
    :param allowed: what it may be
    :raises ValueError: it is something else
    """
    if value not in allowed:
        raise ValueError(f"{name} must be one of {allowed}, found {value!r}")


def check_targets(q_agg: str, target_range: tuple[float, float] | None) -> None:
    """What TD targets are made of, see :class:`ogpo_sb3.common.off_policy.GCPOffPolicyAlgorithm`."""
    check_choice("q_agg", q_agg, Q_AGGREGATIONS)
    if target_range is not None and not (len(target_range) == 2 and target_range[0] < target_range[1]):
        raise ValueError(f"target_range must be (low, high) with low < high, found {target_range}")


def check_heads(q_agg: str, n_critics: int) -> None:
    """An aggregation that needs more heads than there are."""
    if q_agg == "subsample" and n_critics < 2:
        raise ValueError(f"q_agg='subsample' needs n_critics >= 2, found {n_critics}")


def check_positive(name: str, value: float, most: float = math.inf, finite: bool = True) -> None:
    """
    :param name: of the argument
    :param value: given
    :param most: the largest that makes sense
    :param finite: infinity does not, where it would mean no bound
    :raises ValueError: it is not in (0, most]
    """
    check_number(name, value)
    if 0.0 < value <= most and not (finite and value == math.inf):
        return
    if most < math.inf:
        raise ValueError(f"{name} must lie in (0, {most:g}], found {value}")
    raise ValueError(f"{name} must be positive{' and finite' if value == math.inf else ''}, found {value}")
