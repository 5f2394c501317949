"""The objectives that ``OGPO(extraction=...)`` chooses from: each composes one function of ``ogpo_sb3.extraction``."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields
from typing import Any, ClassVar, NamedTuple

import torch as th

from ogpo_sb3.common.options import check_at_least, check_choice, check_positive
from ogpo_sb3.extraction import (
    Surrogate,
    awr_loss,
    awr_weights,
    backward_in_blocks,
    best_of_group,
    bptt_loss,
    centred_clip_backward,
    fpo_error,
    fpo_log_ratio,
    fpo_loss,
    ppo_clip_backward,
)
from ogpo_sb3.extraction.awr import normalised
from ogpo_sb3.gcp import Chain, GenerativeControlPolicy, owners, row_blocks


class Update(NamedTuple):
    """
    What one update of the actor has to go on: S states, and G actions for each where the objective draws them.

    :param gcp: the policy that is improved
    :param features: (S, F) its features, with gradient
    :param old_gcp: the EMA policy, which drew the actions
    :param old_features: (S, F) its features
    :param values: (S, n, D) actions to the (M, S, n) values of the target critics, differentiable
    :param q_agg: how heads are combined
    :param clip_range: epsilon
    :param begin: first denoising step that counts in the ratio of chains
    :param chain: the S * G chains, those of a state adjacent; None where actions alone are drawn, or nothing is
    :param actions: (S * G, D) in [-1, 1]; empty where nothing is drawn
    :param advantage: (S, G); empty where nothing is drawn
    """

    gcp: GenerativeControlPolicy
    features: th.Tensor
    old_gcp: GenerativeControlPolicy
    old_features: th.Tensor
    values: Callable[[th.Tensor], th.Tensor]
    q_agg: str
    clip_range: th.Tensor
    begin: int
    chain: Chain | None
    actions: th.Tensor
    advantage: th.Tensor

    @property
    def owner(self) -> th.Tensor:
        """(S * G,) state of each action."""
        states, group = self.advantage.shape
        return owners(states, group, self.actions.device)

    def blocks(self, rows_per_action: int) -> Callable[[int], Iterable[slice]] | None:
        """
        How the actions are cut into blocks. A GPU wants the same shapes in every update and gets None, all at once; a CPU as
        few rows as possible, at a size that suits its caches.

        :param rows_per_action: rows of the network that each action makes
        """
        return None if self.actions.is_cuda else lambda n: row_blocks(n, self.actions, rows_per_action)


class Objective(ABC):
    """How the generative actor is improved. Options are a subclass's fields, given by ``extraction_kwargs``."""

    # What is drawn per state: G "chains" of the SDE, G "actions", or None
    draws: str | None = "chains"
    # Whether the loss has the ratio of chains' likelihoods (``ratio_steps``)
    chain_ratio: ClassVar[bool] = False
    # Whether it compares cloning errors, which not every family has
    by_cloning_error: ClassVar[bool] = False

    @abstractmethod
    def backward(self, update: Update) -> dict[str, th.Tensor]:
        """
        Add the objective's gradient to the actor's parameters.

        :param update: states, actions, advantages
        :return: scalars without gradient: "policy_loss", and what else is logged
        """


@dataclass(frozen=True)
class ClippedChains(Objective):
    """
    OGPO's own: the clipped ratio of chains, current over EMA policy (equations 3.2-3.3).

    :param centred: divide each ratio by its group's geometric mean, r_g exp(-mean_g log r_g). Not in the paper.
        Advantages compare the chains of a state, and a factor that these have in common prefers none of them. But it decides
        which are clipped: success cloning moves the current policy away from the EMA policy, which lowers the likelihood of
        all its chains at once, and beyond the interval negative advantages no longer have a gradient
    """

    chain_ratio = True
    centred: bool = False

    def weigh(self, advantage: th.Tensor) -> th.Tensor:
        """
        What multiplies the ratio: here the advantage itself.

        :param advantage: (S, G)
        """
        return advantage

    def backward(self, update: Update) -> dict[str, th.Tensor]:
        """See the base class."""
        gcp, chain, owner = update.gcp, update.chain, update.owner
        assert chain is not None
        weights, blocks = self.weigh(update.advantage), update.blocks(gcp.denoising_steps)

        def log_prob_of(condition: th.Tensor, chains: th.Tensor) -> th.Tensor:
            return gcp.log_prob_of(condition, chain.states[:, chains], owner[chains], update.begin)

        scored = log_prob_of, gcp.condition(update.features), chain.log_prob
        if self.centred:
            surrogate, centre = centred_clip_backward(*scored, weights, update.clip_range, blocks)
            logged = dict(ratio_centre=centre.exp().mean())
        else:
            surrogate, logged = ppo_clip_backward(*scored, weights.flatten(), update.clip_range, blocks), {}
        return dict(policy_loss=surrogate.loss, **surrogate.statistics(weights.numel(), update.clip_range), **logged)


@dataclass(frozen=True)
class AdvantageWeightedChains(ClippedChains):
    """
    AW-OGPO: the clipped ratio of chains with exponentiated advantages (H.1) in the place of advantages.

    :param centred: see :class:`ClippedChains`
    :param temperature: beta, in units of Q
    :param max_weight: largest weight
    :param positive_only: only chains with a positive advantage count
    """

    temperature: float = 10.0
    max_weight: float = 20.0
    positive_only: bool = False

    def __post_init__(self) -> None:
        check_positive("temperature", self.temperature)
        check_positive("max_weight", self.max_weight, finite=False)

    def weigh(self, advantage: th.Tensor) -> th.Tensor:
        """See the base class."""
        return awr_weights(advantage, self.temperature, self.max_weight, self.positive_only)


@dataclass(frozen=True)
class AdvantageWeightedRegression(Objective):
    """
    AWR-FM: the cloning error of sampled actions, weighted by exponentiated advantages (H.1-H.2).

    :param temperature: beta, in units of Q
    :param max_weight: largest weight before all are divided by their mean
    :param positive_only: only actions with a positive advantage count
    :param samples: draws of time and noise per action
    :param sampler: actions of the EMA policy's "ode", as in the official code, or "sde"
    """

    by_cloning_error = True
    temperature: float = 10.0
    max_weight: float = 20.0
    positive_only: bool = False
    samples: int = 16
    sampler: str = "ode"

    def __post_init__(self) -> None:
        check_positive("temperature", self.temperature)
        check_positive("max_weight", self.max_weight, finite=False)
        check_at_least(samples=(self.samples, 1))
        check_choice("sampler", self.sampler, ("ode", "sde"))
        object.__setattr__(self, "draws", "actions" if self.sampler == "ode" else "chains")

    def backward(self, update: Update) -> dict[str, th.Tensor]:
        """See the base class."""
        gcp, actions, owner, n = update.gcp, update.actions, update.owner, len(update.actions)
        raw = awr_weights(update.advantage.flatten(), self.temperature, self.max_weight, self.positive_only)
        weights = normalised(raw)
        noise, times = _draw(gcp, actions, self.samples)
        blocks = update.blocks(self.samples)
        scored = th.arange(n, device=actions.device) if blocks is None else weights.nonzero()[:, 0]

        def share(condition: th.Tensor, rows: th.Tensor) -> th.Tensor:
            residual = gcp.cloning_residual(condition, owner[rows], actions[rows], noise[:, rows], times)
            return awr_loss(residual, weights[rows]) * (len(rows) / n)

        loss = backward_in_blocks(share, gcp.cloning_condition(update.features), scored, blocks)
        return dict(policy_loss=loss, weight_max=weights.max(), gradient_fraction=(weights > 0).float().mean())


@dataclass(frozen=True)
class FlowPolicyOptimisation(Objective):
    """
    FPO: the clipped objective on a ratio made of cloning errors (H.3); FPO++ is the same with other defaults.

    :param samples: draws of time and noise per action, shared by the two policies
    :param per_sample: a ratio per draw instead of one of the mean errors
    :param huber: errors grow linearly beyond 1
    :param error_limit: errors are clamped to this; None for not at all
    :param log_ratio_limit: log-ratios are clamped to +- this; None for not at all
    :param aspo: the asymmetric trust region for negative advantages (H.4)
    """

    by_cloning_error = True
    samples: int = 16
    per_sample: bool = False
    huber: bool = False
    error_limit: float | None = None
    log_ratio_limit: float | None = 5.0
    aspo: bool = False

    def __post_init__(self) -> None:
        check_at_least(samples=(self.samples, 1))
        for name in ("error_limit", "log_ratio_limit"):
            if getattr(self, name) is not None:
                check_positive(name, getattr(self, name), finite=False)

    def backward(self, update: Update) -> dict[str, th.Tensor]:
        """See the base class."""
        gcp, actions, owner, n = update.gcp, update.actions, update.owner, len(update.actions)
        advantage, clip_range = update.advantage.flatten(), update.clip_range
        noise, times = _draw(gcp, actions, self.samples)
        blocks = update.blocks(self.samples)
        scored = th.arange(n, device=actions.device) if blocks is None else advantage.nonzero()[:, 0]
        with th.no_grad():
            old_condition = update.old_gcp.cloning_condition(update.old_features)
        log_ratios = []

        def error(policy: GenerativeControlPolicy, condition: th.Tensor, rows: th.Tensor) -> th.Tensor:
            residual = policy.cloning_residual(condition, owner[rows], actions[rows], noise[:, rows], times)
            return fpo_error(residual, self.huber, self.error_limit)

        def share(condition: th.Tensor, rows: th.Tensor) -> th.Tensor:
            with th.no_grad():
                old = error(update.old_gcp, old_condition, rows)
            log_ratio = fpo_log_ratio(error(gcp, condition, rows), old, self.per_sample, self.log_ratio_limit)
            log_ratios.append(log_ratio.detach())
            return fpo_loss(log_ratio, advantage[rows], clip_range, self.aspo) * (len(rows) / n)

        loss = backward_in_blocks(share, gcp.cloning_condition(update.features), scored, blocks)
        log_ratio = th.cat(log_ratios, dim=1) if log_ratios else advantage.new_zeros(1, 0)
        beyond = (log_ratio.exp() - 1.0) * advantage[scored].sign() > clip_range
        if self.aspo:
            beyond = beyond & (advantage[scored] > 0)
        moved = (advantage[scored] != 0).expand_as(log_ratio)
        surrogate = Surrogate(loss, log_ratio.flatten(), beyond.flatten(), moved.flatten())
        return dict(policy_loss=loss, **surrogate.statistics(n * len(log_ratio), clip_range))


@dataclass(frozen=True)
class FlowPolicyOptimisationPlus(FlowPolicyOptimisation):
    """
    OFPO++: a ratio per draw, Huber errors clamped to 4, and the asymmetric trust region.

    :param per_sample: see :class:`FlowPolicyOptimisation`
    :param huber: likewise
    :param error_limit: likewise
    :param aspo: likewise; the paper describes it so, its scripts switch it off
    """

    per_sample: bool = True
    huber: bool = True
    error_limit: float | None = 4.0
    aspo: bool = True


@dataclass(frozen=True)
class BestOfGroup(Objective):
    """
    Supervised fine-tuning: the best of a group is cloned by the family's own loss.

    :param top: how many of a group
    """

    top: int = 1

    def __post_init__(self) -> None:
        check_at_least(top=(self.top, 1))

    def backward(self, update: Update) -> dict[str, th.Tensor]:
        """See the base class."""
        states, group = update.advantage.shape
        actions, weights = best_of_group(update.actions.view(states, group, -1), update.advantage, self.top)
        loss = update.gcp.bc_loss(update.features.repeat_interleave(self.top, dim=0), actions, weights)
        loss.backward()
        return dict(policy_loss=loss.detach(), gradient_fraction=weights.sum() / (states * group))


@dataclass(frozen=True)
class Backpropagation(Objective):
    """
    BPTT: the critics' gradient through the deterministic sampler (section 3, H.1).

    :param samples: latents per state
    """

    draws = None
    samples: int = 4

    def __post_init__(self) -> None:
        check_at_least(samples=(self.samples, 1))

    def backward(self, update: Update) -> dict[str, th.Tensor]:
        """See the base class."""
        gcp, features, n = update.gcp, update.features, self.samples
        noise = th.randn(len(features), n, gcp.action_dim, device=features.device, dtype=features.dtype)
        repeated = features.repeat_interleave(n, dim=0)
        loss = bptt_loss(lambda z: gcp.sample(repeated, z), update.values, noise, update.q_agg)
        loss.backward()
        return dict(policy_loss=loss.detach())


@dataclass(frozen=True)
class OneStep(Objective):
    """
    FQL: the flow only clones; a one-step policy is distilled from it, improved by the critics' gradient, and acts.

    Its update is :class:`ogpo_sb3.common.one_step.OneStepMixin`'s, which two algorithms share.

    :param alpha: coefficient of the distillation
    """

    draws = None
    alpha: float = 10.0

    def __post_init__(self) -> None:
        check_at_least(alpha=(self.alpha, 0))

    def backward(self, update: Update) -> dict[str, th.Tensor]:
        """See the base class."""
        raise NotImplementedError


OBJECTIVES: dict[str, type[Objective]] = {
    "ppo": ClippedChains,
    "awr_fm": AdvantageWeightedRegression,
    "aw_ogpo": AdvantageWeightedChains,
    "fpo": FlowPolicyOptimisation,
    "fpo++": FlowPolicyOptimisationPlus,
    "bptt": Backpropagation,
    "fql": OneStep,
    "best_of_n_sft": BestOfGroup,
}


def make_objective(name: str, options: dict[str, Any] | None) -> Objective:
    """
    :param name: key of ``OBJECTIVES``
    :param options: its options, see its class
    :return: the objective
    :raises ValueError: an unknown name or option, or an impossible value
    """
    check_choice("extraction", name, tuple(OBJECTIVES))
    cls, options = OBJECTIVES[name], options or {}
    known = [field.name for field in fields(cls)]  # type: ignore[arg-type]  # every entry is a dataclass
    unknown = sorted(set(options) - set(known))
    if unknown:
        raise ValueError(f"extraction_kwargs {unknown} are unknown to extraction={name!r}, wanted some of {known}")
    return cls(**options)


def _draw(gcp: GenerativeControlPolicy, actions: th.Tensor, samples: int) -> tuple[th.Tensor, th.Tensor]:
    """Noise (T, n, D) and times (T,) of the cloning error; the times are shared by all actions."""
    noise = th.randn(samples, *actions.shape, device=actions.device, dtype=actions.dtype)
    return noise, gcp.cloning_times(samples, actions)
