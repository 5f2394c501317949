"""The interface of generative control policies (GCPs): what every extraction objective and sampler relies on."""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import ClassVar, NamedTuple

import numpy as np
import torch as th
from torch import nn

RATIO_NORMS = ("mean", "sum")
_LOG_SQRT_2PI = 0.5 * math.log(2.0 * math.pi)


class Chain(NamedTuple):
    """
    A denoising chain in generation order.

    :param states: (K+1, B, D); ``states[0]`` is the initial noise, ``states[-1]`` the *unclamped* action, so that the
        density of the stored chain is exactly the one it was drawn from
    :param log_prob: (B,) normalised log-likelihood of the chain under the policy that drew it
    :param decoded: (B, D) the actions of a family whose last state is none: tokens, then ``states`` is (L, B)
    """

    states: th.Tensor
    log_prob: th.Tensor
    decoded: th.Tensor | None = None

    @property
    def actions(self) -> th.Tensor:
        """(B, D) what the environment and the critic see: the clamped copy of the last state, or what it stands for."""
        return self.states[-1].clamp(-1.0, 1.0) if self.decoded is None else self.decoded


class GenerativeControlPolicy(nn.Module, ABC):
    """
    A policy that makes an action chunk by K denoising steps (OGPO, arXiv 2605.03065, section 2).

    Knows nothing of environments: features (B, F) in, flat action chunks (B, D) in [-1, 1] out.

    :param features_dim: F
    :param action_dim: D = chunk length x action dimension
    :param denoising_steps: K
    :param ratio_norm: "mean" divides the chain's log-likelihood by (stochastic steps x D), the official convention;
        "sum" is the joint log-likelihood of the paper's E.5, for which the clip range must be rescaled, and the
        coefficients of the terms beside it: its gradient is as many times larger
    """

    # Constructor arguments that a network's training has fixed: a BC checkpoint is of no use with others.
    trained_for: ClassVar[tuple[str, ...]] = ("time_scale",)
    # Parameters that behaviour cloning does not train, by their names' beginning: a BC checkpoint may lack them.
    not_cloned: ClassVar[tuple[str, ...]] = ()
    # Likewise, of parameters that a policy can do without although a BC checkpoint has them.
    not_needed: ClassVar[tuple[str, ...]] = ()
    # ``sample`` makes different actions from different latents; some algorithms choose or rank latents.
    has_latent: ClassVar[bool] = True
    # Chains can be drawn and scored in parts, of which the first may be another policy's.
    has_parts: ClassVar[bool] = True
    # Nothing asks the host: on a GPU an update can be recorded once and replayed.
    on_device: ClassVar[bool] = True

    def __init__(self, features_dim: int, action_dim: int, denoising_steps: int, ratio_norm: str = "mean"):
        super().__init__()
        if denoising_steps < 1:
            raise ValueError(f"denoising_steps must be at least 1, found {denoising_steps}")
        if ratio_norm not in RATIO_NORMS:
            raise ValueError(f"ratio_norm must be one of {RATIO_NORMS}, found {ratio_norm!r}")
        self.features_dim = features_dim
        self.action_dim = action_dim
        self.denoising_steps = denoising_steps
        self.ratio_norm = ratio_norm

    @property
    @abstractmethod
    def stochastic_steps(self) -> int:
        """Number of transitions that have a density, at most K."""

    @property
    def likelihood_terms(self) -> int:
        """What ``ratio_norm="mean"`` divides a chain's log-likelihood by, at most."""
        return self.stochastic_steps * self.action_dim

    def fit_actions(self, windows: th.Tensor | np.ndarray) -> None:
        """
        Adapt to the demonstrated actions before cloning; most families have nothing to adapt.

        :param windows: (n, D) action chunks in [-1, 1]
        """

    def check_ready(self) -> None:
        """
        Called before training, so that what is missing is told at once; most families miss nothing.

        :raises ValueError: what :meth:`fit_actions` makes is not there
        """

    @abstractmethod
    def bc_loss(self, features: th.Tensor, actions: th.Tensor, weights: th.Tensor | None = None) -> th.Tensor:
        """
        Behaviour-cloning loss.

        :param features: (B, F)
        :param actions: (B, D) in [-1, 1]
        :param weights: (B,) or (B, D), non-negative; the mean is over their sum
        :return: scalar
        """

    def take_teacher(self, teacher: "GenerativeControlPolicy") -> None:
        """
        Learn from another policy's predictions, where the cloning loss has targets of that kind; by default there are none.

        :param teacher: same family and architecture, a slow copy of this one; it stays another policy's
        """

    @classmethod
    def has_cloning_error(cls) -> bool:
        """
        Whether :meth:`bc_loss` is the mean square of :meth:`cloning_residual`. A family says so by giving
        :meth:`cloning_times`, :meth:`cloning_condition` and :meth:`cloning_residual`; one that derives from it and changes
        the loss must give them anew.
        """
        loss, times = (next(c for c in cls.__mro__ if name in vars(c)) for name in ("bc_loss", "cloning_times"))
        return times is not GenerativeControlPolicy and issubclass(times, loss)

    def cloning_condition(self, features: th.Tensor) -> th.Tensor:
        """
        As :meth:`condition`, of what is cloned.

        :param features: (S, F)
        :return: (S, C'), differentiable
        :raises NotImplementedError: see :meth:`has_cloning_error`
        """
        raise NotImplementedError(f"{type(self).__name__} has no cloning error per sample at a given noise and time")

    def cloning_times(self, n: int, like: th.Tensor) -> th.Tensor:
        """
        Times at which :meth:`bc_loss` compares, drawn from its distribution. See :meth:`has_cloning_error`.

        :param n: how many
        :param like: a tensor on the device and of the dtype of the actions
        :return: (n,) for :meth:`cloning_residual`
        :raises NotImplementedError: see :meth:`has_cloning_error`
        """
        raise NotImplementedError(f"{type(self).__name__} has no cloning error per sample at a given noise and time")

    def cloning_residual(
        self, condition: th.Tensor, owner: th.Tensor, actions: th.Tensor, noise: th.Tensor, times: th.Tensor
    ) -> th.Tensor:
        """
        What the network answers minus what it should, at chosen noise and times: the mean of its square is :meth:`bc_loss`.

        Objectives that work by it compare two policies under the same noise (AWR-FM and FPO, OGPO H.2-H.3).

        :param condition: (S, C') from :meth:`cloning_condition`
        :param owner: (n,) row of ``condition`` that each action belongs to
        :param actions: (n, D) in [-1, 1], without gradient
        :param noise: (T, n, D) standard normal
        :param times: (T,) from :meth:`cloning_times`, shared by all actions
        :return: (T, n, D)
        :raises NotImplementedError: see :meth:`has_cloning_error`
        """
        raise NotImplementedError(f"{type(self).__name__} has no cloning error per sample at a given noise and time")

    @abstractmethod
    def sample(self, features: th.Tensor, noise: th.Tensor | None = None, begin: int = 0, end: int | None = None) -> th.Tensor:
        """
        Deterministic sampler: the same action for the same noise.

        :param features: (B, F)
        :param noise: (B, D) the state before step ``begin``: the initial latent; a fresh standard normal draw when None
        :param begin: first step, in generation order (0 = noisiest)
        :param end: step to stop before; all K when None
        :return: (B, D) in [-1, 1]; the unclamped state where it stops early
        """

    def candidate(self, features: th.Tensor, noise: th.Tensor) -> th.Tensor:
        """
        One of several actions to choose among, which differ by their noise.

        :param features: (B, F)
        :param noise: (B, D) standard normal
        :return: (B, D) in [-1, 1]; the deterministic sampler's where it has a latent
        """
        return self.sample(features, noise)

    @abstractmethod
    def condition(self, features: th.Tensor) -> th.Tensor:
        """
        What the networks need to know of an observation, computed once and shared by all chains and steps of a state.

        :param features: (S, F)
        :return: (S, C), differentiable
        """

    @abstractmethod
    def sample_chain(
        self, features: th.Tensor, n: int = 1, start: th.Tensor | None = None, begin: int = 0, end: int | None = None
    ) -> Chain:
        """
        Stochastic sampler that keeps the whole chain.

        :param features: (B, F)
        :param n: chains per row of features, adjacent in the result
        :param start: (B * n, D) states before step ``begin``; fresh standard normal draws when None
        :param begin: first step, in generation order (0 = noisiest)
        :param end: step to stop before; all K when None
        :return: B * n chains; parts of chains have end - begin + 1 states, and their ``log_prob`` add up to the whole's
        """

    @abstractmethod
    def transition_log_prob(self, condition: th.Tensor, states: th.Tensor, owner: th.Tensor, begin: int = 0) -> th.Tensor:
        """
        Log-density of each number that each transition of given chains drew.

        :param condition: (S, C) from :meth:`condition`
        :param states: (T+1, n, D), the states from before step ``begin`` on
        :param owner: (n,) row of ``condition`` that each chain belongs to
        :param begin: step of the first transition
        :return: (T, n, D) in generation order; zero for deterministic transitions
        """

    def sample_scored(self, features: th.Tensor, n: int = 1, begin: int = 0, latents: int | None = None) -> Chain:
        """
        As :meth:`sample_chain`, whole chains, whose ``log_prob`` counts the transitions from step ``begin`` on alone.

        :param features: (B, F)
        :param n: chains per row of features, adjacent in the result
        :param begin: first step that counts
        :param latents: n / latents chains, adjacent in the result, share what comes before that step: their initial latent,
            and the steps that do not count; each has its own when None
        :return: B * n chains of K + 1 states; ``log_prob`` is that of :meth:`log_prob_of` with the same ``begin``
        """
        if begin == 0 and latents is None:
            return self.sample_chain(features, n)
        latents = n if latents is None else latents
        if begin == 0:
            shape = len(features) * latents, self.action_dim
            early = th.randn(1, *shape, device=features.device, dtype=features.dtype)
        else:
            early = self.sample_chain(features, latents, end=begin).states
        early = early.repeat_interleave(n // latents, dim=1)
        late = self.sample_chain(features, n, start=early[-1], begin=begin)
        # Parts of chains are normalised as the whole, so that they add up.
        scale = self.stochastic_steps / (self.stochastic_steps - begin) if self.ratio_norm == "mean" else 1.0
        return Chain(th.cat([early, late.states[1:]]), scale * late.log_prob)

    def step_log_prob_of(self, condition: th.Tensor, states: th.Tensor, owner: th.Tensor, begin: int = 0) -> th.Tensor:
        """
        Log-density of each transition of given chains, summed over dimensions.

        :param condition: (S, C) from :meth:`condition`
        :param states: (K+1, n, D)
        :param owner: (n,) row of ``condition`` that each chain belongs to
        :param begin: first step that counts
        :return: (K - begin, n) in generation order (0 = noisiest); zero for deterministic transitions
        """
        return self.transition_log_prob(condition, states[begin:], owner, begin).sum(dim=-1)

    def step_log_prob(self, features: th.Tensor, states: th.Tensor) -> th.Tensor:
        """
        Log-density of each transition of given chains, one chain per row of features.

        :param features: (B, F)
        :param states: (K+1, B, D)
        :return: (K, B), see :meth:`step_log_prob_of`
        """
        return self.step_log_prob_of(self.condition(features), states, owners(len(features), 1, features.device))

    def log_prob_of(self, condition: th.Tensor, states: th.Tensor, owner: th.Tensor, begin: int = 0) -> th.Tensor:
        """
        Normalised log-likelihood of given chains, several of which may belong to one state.

        :param condition: (S, C) from :meth:`condition`
        :param states: (K+1, n, D)
        :param owner: (n,) row of ``condition`` that each chain belongs to
        :param begin: first step that counts, below the number of stochastic steps
        :return: (n,)
        """
        return self.normalise_log_prob(self.step_log_prob_of(condition, states, owner, begin), begin)

    def chain_log_prob(self, features: th.Tensor, states: th.Tensor) -> th.Tensor:
        """
        Normalised log-likelihood of given chains, one per row of features.

        :param features: (B, F)
        :param states: (K+1, B, D)
        :return: (B,); equals ``sample_chain``'s ``log_prob`` at equal parameters
        """
        return self.normalise_log_prob(self.step_log_prob(features, states))

    @abstractmethod
    def entropy(self, condition: th.Tensor, begin: int = 0) -> th.Tensor:
        """
        Mean entropy of a number that a stochastic step draws (ReinFlow, arXiv 2505.22094, calls it the entropy rate).

        :param condition: (S, C) from :meth:`condition`
        :param begin: first step counted
        :return: (S,), or (1,) where the noise does not depend on the state
        """

    def normalise_log_prob(self, step_log_prob: th.Tensor, begin: int = 0) -> th.Tensor:
        """
        The one place where a chain's log-likelihood is normalised (sampling and scoring must agree).

        :param step_log_prob: (K - begin, B)
        :param begin: first step that counts
        :return: (B,)
        """
        total = step_log_prob.sum(dim=0)
        terms = self.likelihood_terms - begin * self.action_dim
        return total / terms if self.ratio_norm == "mean" else total


def gaussian_log_density(x: th.Tensor, mean: th.Tensor, std: th.Tensor) -> th.Tensor:
    """
    Log-density of independent Gaussians, number by number.

    :param x: (..., D)
    :param mean: (..., D)
    :param std: broadcastable to (..., D), positive
    :return: (..., D)
    """
    z = (x - mean) / std
    return -0.5 * z.square() - th.log(std) - _LOG_SQRT_2PI


def gaussian_log_prob(x: th.Tensor, mean: th.Tensor, std: th.Tensor) -> th.Tensor:
    """
    Log-density of a diagonal Gaussian: :func:`gaussian_log_density` summed over the last dimension.

    :param x: (..., D)
    :param mean: (..., D)
    :param std: broadcastable to (..., D), positive
    :return: (...)
    """
    return gaussian_log_density(x, mean, std).sum(dim=-1)


def weighted_mean(error: th.Tensor, weights: th.Tensor | None) -> th.Tensor:
    """
    :param error: (B, D)
    :param weights: (B,) or (B, D), non-negative; None for equal ones
    :return: scalar, the mean over the weights' sum
    """
    if weights is None:
        return error.mean()
    if weights.dim() == 1:
        weights = weights[:, None].expand_as(error)
    # An all-zero weight (no valid sample) gives a zero loss rather than 0/0.
    return (weights * error).sum() / weights.sum().clamp_min(1e-8)


def owners(n_states: int, n: int, device: th.device) -> th.Tensor:
    """
    :param n_states: S
    :param n: chains per state, adjacent
    :param device: where
    :return: (S * n,) the state that each chain belongs to
    """
    return th.arange(n_states, device=device).repeat_interleave(n)


# Rows that are worked on at a time on a CPU: their activations stay in its caches, and memory that is given back is found
# again (larger arrays are mapped anew by the allocator, page by page).
CPU_ROWS = 2048


def row_blocks(n: int, like: th.Tensor, rows_per_item: int = 1) -> Iterator[slice]:
    """
    Blocks that cover n items in order: of a size that suits the caches on a CPU, all at once elsewhere.

    :param n: number of items
    :param like: a tensor on the device in question
    :param rows_per_item: rows of the networks that each item makes
    """
    size = max(CPU_ROWS // rows_per_item, 1) if like.device.type == "cpu" else max(n, 1)
    for begin in range(0, n, size):
        yield slice(begin, min(begin + size, n))
