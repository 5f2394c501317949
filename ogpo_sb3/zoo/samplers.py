"""What Optuna varies for each algorithm, in RL-Zoo's form."""

from collections.abc import Callable
from typing import Any

from ogpo_sb3.common.arguments import constructor_arguments
from ogpo_sb3.zoo import ALGORITHMS

Sampler = Callable[[Any, int, int, dict[str, Any]], dict[str, Any]]

# By parameter of a trial: how it is drawn. "_pow" stands for a power of two, as in RL-Zoo's own search spaces.
_SPACE: dict[str, tuple[str, dict[str, Any]]] = {
    "learning_rate": ("suggest_float", dict(low=1e-5, high=2e-3, log=True)),
    "critic_learning_rate": ("suggest_float", dict(low=1e-5, high=2e-3, log=True)),
    "one_minus_gamma": ("suggest_float", dict(low=1e-3, high=0.1, log=True)),
    "batch_size_pow": ("suggest_int", dict(low=6, high=9)),
    "actor_batch_size_pow": ("suggest_int", dict(low=4, high=8)),
    "group_size_pow": ("suggest_int", dict(low=2, high=5)),
    "gae_lambda": ("suggest_categorical", dict(choices=[0.9, 0.95, 0.98])),
    "n_epochs": ("suggest_categorical", dict(choices=[1, 5, 10])),
    "clip_range": ("suggest_float", dict(low=1e-3, high=0.3, log=True)),
    "tau": ("suggest_float", dict(low=1e-3, high=0.1, log=True)),
    "actor_tau": ("suggest_float", dict(low=1e-3, high=0.1, log=True)),
    "utd_critic": ("suggest_categorical", dict(choices=[0.5, 1.0, 2.0])),
    "utd_actor": ("suggest_categorical", dict(choices=[0.25, 0.5, 1.0])),
    "best_of_n": ("suggest_categorical", dict(choices=[1, 4, 8])),
    "bc_coef": ("suggest_float", dict(low=0.03, high=3.0, log=True)),
    "chi2_coef": ("suggest_float", dict(low=0.01, high=1.0, log=True)),
    "pessimism": ("suggest_categorical", dict(choices=[1.0, 5.0])),
    "slow_tau": ("suggest_float", dict(low=1e-4, high=1e-2, log=True)),
    "net_arch": ("suggest_categorical", dict(choices=["small", "medium", "large", "verybig"])),
    "n_critics": ("suggest_categorical", dict(choices=[2, 5, 10])),
    "denoising_steps": ("suggest_categorical", dict(choices=[4, 7, 10])),
    "noise_std": ("suggest_float", dict(low=0.02, high=0.3, log=True)),
}
_COMMON = ("learning_rate", "critic_learning_rate", "one_minus_gamma", "batch_size_pow", "tau", "actor_tau", "net_arch")
_OF_THE_POLICY = ("n_critics", "denoising_steps", "noise_std")
_OGPO = ("actor_batch_size_pow", "group_size_pow", "clip_range", "utd_critic", "utd_actor", *_OF_THE_POLICY)
_PLUS = ("best_of_n", "bc_coef")
_ON_POLICY = ("clip_range", "gae_lambda", "n_epochs", "denoising_steps")
# Beside what all have. An algorithm that is not listed varies of the common ones those that its constructor takes.
_OWN: dict[str, tuple[str, ...]] = {
    "ogpo": _OGPO,
    "dppo": _ON_POLICY,
    "reinflow": _ON_POLICY,
    "ogpo_plus": (*_OGPO, *_PLUS),
    "ogpo_ca": (*_OGPO, *_PLUS),
    "ogpo_chi2": (*_OGPO, *_PLUS, "chi2_coef", "pessimism", "slow_tau"),
}


def sampler_for(name: str) -> Sampler:
    """
    :param name: id of an algorithm of the package
    :return: RL-Zoo's ``sample(trial, n_actions, n_envs, additional_args)``, which gives constructor arguments; its
        ``policy_kwargs`` take the place of the configuration's
    """
    keys = {*constructor_arguments(ALGORITHMS[name]), "net_arch"}
    parameters = [p for p in _COMMON if _argument(p) in keys] + list(_OWN.get(name, ()))

    def sample(trial: Any, n_actions: int, n_envs: int, additional_args: dict[str, Any]) -> dict[str, Any]:
        drawn = {}
        for parameter in parameters:
            method, options = _SPACE[parameter]
            drawn[parameter] = getattr(trial, method)(parameter, **options)
        return convert_params(drawn)

    sample.__name__ = f"sample_{name}_params"
    return sample


def convert_params(drawn: dict[str, Any]) -> dict[str, Any]:
    """
    From a trial's parameters to constructor arguments, also for ``--trial-id``.

    :param drawn: parameters by the names they have in the study
    """
    from rl_zoo3.hyperparams_opt import convert_offpolicy_params

    arguments = convert_offpolicy_params(drawn)
    for name in [n for n in arguments if n.endswith("_pow")]:
        arguments[name.removesuffix("_pow")] = 2 ** arguments.pop(name)
    for name in _OF_THE_POLICY:
        if name in arguments:
            arguments["policy_kwargs"][name] = arguments.pop(name)
    return arguments


def varied(name: str) -> set[str]:
    """
    :param name: id of an algorithm of the package
    :return: constructor arguments that its search sets
    """
    return {_argument(parameter) for parameter in (*_COMMON, *_OWN.get(name, ()))}


def _argument(parameter: str) -> str:
    return "gamma" if parameter == "one_minus_gamma" else parameter.removesuffix("_pow")


sample_ogpo_params = sampler_for("ogpo")
