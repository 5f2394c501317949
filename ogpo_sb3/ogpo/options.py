"""Refusal of OGPO's options that are out of range, contradict each other or mean nothing together."""

from typing import TYPE_CHECKING

import torch as th

from ogpo_sb3.common.gcp_policy import ROLLOUT_SAMPLERS
from ogpo_sb3.common.options import check_at_least, check_choice
from ogpo_sb3.extraction.advantages import STRATEGIES
from ogpo_sb3.gcp import GenerativeControlPolicy
from ogpo_sb3.ogpo.objectives import Objective

if TYPE_CHECKING:
    from ogpo_sb3.ogpo.ogpo import OGPO

BASELINES = ("group_mean", "value")


def check_options(model: "OGPO", objective: Objective) -> None:
    """
    What can be told from the arguments alone.

    :param model: whose arguments have been stored
    :param objective: of ``extraction``
    :raises ValueError: an impossible value or combination
    """
    check_choice("advantage", model.advantage, STRATEGIES)
    check_choice("baseline", model.baseline, BASELINES)
    check_choice("rollout_sampler", model.rollout_sampler, ROLLOUT_SAMPLERS)
    positive = ("group_size", "best_of_n", "q_variance_samples")
    coefficients = ("chi2_coef", "kl_coef", "pessimism", "entropy_coef", "forward_kl_coef")
    check_at_least(**{name: (getattr(model, name), 1) for name in positive})
    check_at_least(**{name: (getattr(model, name), 0) for name in coefficients})
    if model.group_size < 2:
        raise ValueError("group_size=1 has no advantage: a chain is compared with its group, wanted at least 2")
    if model.group_latents is not None:
        _check_latents(model, objective)
    if not 0.0 <= model.slow_tau <= 1.0:
        raise ValueError(f"slow_tau must lie in [0, 1], found {model.slow_tau}")
    if model.chi2_coef > 0 and model.kl_coef > 0:
        raise ValueError(f"chi2_coef={model.chi2_coef} and kl_coef={model.kl_coef} exclude each other: give one penalty")
    if model.penalty is not None and model.advantage in ("conservative", "penultimate"):
        raise ValueError(
            f"advantage={model.advantage!r} looks at each head and {model.penalty}_coef mixes the heads first: choose one"
        )
    if model.penalty is not None and model.baseline == "value":
        raise ValueError(f"baseline='value' knows nothing of the penalty of {model.penalty}_coef: use baseline='group_mean'")
    if model.penalty is not None and model.q_variance_samples == 1 and model.q_agg != "mean":
        raise ValueError(
            f"q_agg={model.q_agg!r} is of no use with {model.penalty}_coef, which mixes mean and minimum of the heads itself "
            "unless q_variance_samples is above 1: use q_agg='mean'"
        )
    _check_objective(model, objective)


def _check_latents(model: "OGPO", objective: Objective) -> None:
    """Latents that cannot be shared evenly, or what compares chains across them."""
    latents, group = model.group_latents, model.group_size
    assert latents is not None
    check_at_least(group_latents=(latents, 1))
    if group % latents != 0 or group // latents < 2:
        raise ValueError(
            f"group_latents={latents} must divide group_size={group} into at least 2 chains each, which are compared"
        )
    if not objective.chain_ratio:
        raise ValueError(
            f"group_latents={latents} is about the ratio of chains, which extraction={model.extraction!r} does not have"
        )
    if model.baseline == "value":
        raise ValueError(f"group_latents={latents} compares chains of a latent, and baseline='value' knows none: choose one")


def _check_objective(model: "OGPO", objective: Objective) -> None:
    """Options that an objective has no use for, where ignoring them would mislead."""
    name = f"extraction={model.extraction!r}"
    if model.penalty is not None and objective.draws != "chains":
        raise ValueError(f"{model.penalty}_coef penalises the likelihood of chains, and {name} draws none: leave one out")
    if objective.draws is None:
        for option, default in (("advantage", "mean"), ("baseline", "group_mean")):
            found = getattr(model, option)
            if found != default:
                raise ValueError(f"{option}={found!r} compares actions of a group, and {name} draws none: use {default!r}")
    if model.ratio_steps is not None:
        if not objective.chain_ratio:
            raise ValueError(f"ratio_steps={model.ratio_steps} is a part of the ratio of chains, which {name} does not have")
        check_at_least(ratio_steps=(model.ratio_steps, 1))
    if model.extraction == "fql":
        if model.rollout_sampler != "sde":
            raise ValueError(f"rollout_sampler={model.rollout_sampler!r} is of no use with {name}, where another network acts")
        if model.q_variance_samples > 1:
            raise ValueError(
                f"q_variance_samples={model.q_variance_samples} is of no use with {name}, whose targets have one action of "
                "the one-step policy: use 1"
            )
        for option in ("entropy_coef", "forward_kl_coef"):
            if getattr(model, option) > 0:
                raise ValueError(f"{option}={getattr(model, option)} is of no use with {name}, where the flow only clones")
    top = getattr(objective, "top", 1)
    if top > model.group_size:
        raise ValueError(f"top={top} of extraction_kwargs must not exceed group_size={model.group_size}")


def check_policy(model: "OGPO", objective: Objective) -> None:
    """
    What the policy decides.

    :param model: the algorithm, with its networks
    :param objective: of ``extraction``
    :raises ValueError: a policy or a generative family that the options do not suit
    """
    for option, value, network in (("extraction", "fql", "one_step"), ("baseline", "value", "state_value")):
        if getattr(model, option) == value and getattr(model.policy, network, None) is None:
            raise ValueError(
                f"{option}={value!r} needs a policy with the network {network!r}, found one that was made without"
            )
    gcp: GenerativeControlPolicy = model.policy.actor.gcp
    family = type(gcp)
    if objective.by_cloning_error and not family.has_cloning_error():
        raise ValueError(
            f"extraction={model.extraction!r} needs a cloning error per sample, as of flow and diffusion policies, "
            f"found {family.__name__}"
        )
    if model.extraction in ("bptt", "fql") and not family.has_latent:
        raise ValueError(
            f"extraction={model.extraction!r} needs actions that follow from a latent, by differentiable steps, found "
            f"{family.__name__}"
        )
    if model.ratio_steps is not None and not family.has_parts:
        raise ValueError(
            f"ratio_steps={model.ratio_steps} is a part of a chain, and those of {family.__name__} are scored whole"
        )
    if model.ratio_steps is not None and model.ratio_steps > gcp.stochastic_steps:
        raise ValueError(
            f"ratio_steps={model.ratio_steps} must not exceed the {gcp.stochastic_steps} denoising steps that have a density"
        )
    if model.group_latents is not None and not family.has_latent:
        raise ValueError(f"group_latents={model.group_latents}: chains of {family.__name__} begin without a latent")
    if model.entropy_coef > 0 and family.has_parts:  # that of tokens always follows from what is trained
        probe = next(gcp.parameters()).new_zeros(1, gcp.features_dim)
        with th.enable_grad():
            trained = gcp.entropy(gcp.condition(probe)).requires_grad
        if not trained:
            raise ValueError(
                f"entropy_coef={model.entropy_coef} rewards noise that is trained, and that of this {family.__name__} is "
                "fixed: use policy_kwargs=dict(noise_schedule='learned')"
            )
    if model.baseline == "value" and model.policy.n_heads != model.policy.n_critics:
        raise ValueError(
            f"baseline='value' has a state value for each of n_critics={model.policy.n_critics} heads, and the critics' "
            f"implicit ensemble has {model.policy.n_heads}: use n_noises=1"
        )
    if model.advantage == "penultimate" and model.policy.n_heads < 3:
        raise ValueError(f"advantage='penultimate' needs n_critics >= 3, found {model.policy.n_heads}")
