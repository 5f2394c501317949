"""Advantage-weighted regression: of the cloning error (AWR-FM), or as weights of the clipped ratio (AW-OGPO)."""

import math

import torch as th


def awr_weights(
    advantage: th.Tensor, temperature: float = 10.0, max_weight: float = 20.0, positive_only: bool = False
) -> th.Tensor:
    """
    Exponentiated advantages (OGPO H.1, Peng et al. 2019): w = min(exp(A / beta), w_max).

    With the advantage strategy "positive" this is exp(max(A, 0) / beta). AW-OGPO puts w in the place of A in
    :func:`ogpo_sb3.extraction.ppo_clip_loss`.

    :param advantage: (B, G), or any shape
    :param temperature: beta, in units of Q
    :param max_weight: w_max
    :param positive_only: w = 0 where A <= 0. The mask is taken of A: every exponential is positive
    :return: same shape, in [0, w_max]
    """
    # Clamped before the exponential, which would overflow otherwise.
    weights = (advantage / temperature).clamp_max(math.log(max_weight)).exp()
    return weights * (advantage > 0) if positive_only else weights


def normalised(weights: th.Tensor) -> th.Tensor:
    """
    :param weights: any shape, non-negative
    :return: divided by their mean; zeros stay zeros where there is nothing else
    """
    return weights / weights.mean().clamp_min(1e-8)


def awr_loss(residual: th.Tensor, weights: th.Tensor) -> th.Tensor:
    """
    AWR-FM (equation H.2): the cloning error of sampled actions, weighted by their advantage.

    L = mean_{b,g} w mean_n sum_d (v(s, x_n, t_n) - (a - e_n))_d^2

    :param residual: (T, n, D) of n actions at T draws of time and noise, with gradient, see
        :meth:`ogpo_sb3.gcp.GenerativeControlPolicy.cloning_residual`
    :param weights: (n,) normalised :func:`awr_weights`, no gradient
    :return: scalar
    """
    return (weights.detach() * residual.square().sum(dim=-1).mean(dim=0)).mean()
