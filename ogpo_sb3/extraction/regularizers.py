"""Penalties towards a slow policy (OGPO v1 section 4.6, Lemma E.1)."""

import math
from typing import NamedTuple

import torch as th

# Largest rho of the chi-squared penalty (the official R_max): objectives that do not hold the likelihood of chains in bounds
# can move it by hundreds of nats, whose exponential would leave no other digit of Q.
MAX_RATIO = 100.0


class PenalisedQ(NamedTuple):
    """
    :param q: (B, G) head-aggregated, pessimism-mixed and penalised values, to be centred over the group
    :param beta: scalar, the penalty's adaptive coefficient
    :param next_pessimism: scalar in [0, 1], the weight of the minimum over heads in the next critic target
    """

    q: th.Tensor
    beta: th.Tensor
    next_pessimism: th.Tensor


def penalise_q(q: th.Tensor, log_ratio: th.Tensor, kind: str, coef: float, pessimism: float = 5.0) -> PenalisedQ:
    """
    Mix mean and minimum of the heads by how far a chain is from the slow policy, and subtract the penalty.

    With rho = pi / pi_slow on the same chain: beta = coef * mean std_m Q (the ensemble's disagreement sets the scale),
    chi2: w = sigmoid(alpha (rho - 1)), Q' = (1 - w) mean_m Q + w min_m Q - beta rho. Since E[rho] = 1 + chi^2(pi, slow)
    and rho is a constant in the surrogate, the effective coefficient of the divergence is beta / 2. rho is at most 100.
    kl: the same with log rho in place of rho - 1 and rho.

    :param q: (M, B, G)
    :param log_ratio: (B, G) chain log-likelihood of the current policy minus that of the slow policy
    :param kind: "chi2" or "kl"
    :param coef: beta_0
    :param pessimism: alpha, sensitivity of the mixture
    """
    if kind not in ("chi2", "kl"):
        raise ValueError(f"kind must be 'chi2' or 'kl', found {kind!r}")
    log_ratio = log_ratio.detach()
    ratio = log_ratio.clamp_max(math.log(MAX_RATIO)).exp()
    distance, penalty = (ratio - 1.0, ratio) if kind == "chi2" else (log_ratio, log_ratio)
    beta = coef * q.std(dim=0, unbiased=False).mean()
    weight = th.sigmoid(pessimism * distance)
    mixed = th.lerp(q.mean(dim=0), q.min(dim=0).values, weight)
    return PenalisedQ(mixed - beta * penalty, beta, th.sigmoid(pessimism * distance.mean()))
