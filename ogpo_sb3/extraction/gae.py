"""Generalised advantage estimation over decisions of different lengths."""

import numpy as np


def chunk_gae(
    rewards: np.ndarray,
    discounts: np.ndarray,
    values: np.ndarray,
    next_values: np.ndarray,
    ends: np.ndarray,
    gae_lambda: float,
) -> np.ndarray:
    """
    GAE (Schulman et al. 2016) where a decision executes k steps, k varying: gamma^k takes the place of gamma.

    A_t = R_t + gamma^k_t V_{t+1} - V_t + (1 - end_t) gamma^k_t lambda A_{t+1}

    :param rewards: (T, N) R = sum_{j<k} gamma^j r_j of each decision
    :param discounts: (T, N) gamma^k
    :param values: (T, N) V of the state that a decision was taken in
    :param next_values: (T, N) V of the state that it led to: zero after a termination, that of the last observation after a
        truncation
    :param ends: (T, N) whether the episode ended with this decision, either way
    :param gae_lambda: lambda, per decision
    :return: (T, N) advantages
    """
    advantages = np.zeros_like(values)
    running = np.zeros_like(values[0])
    for t in reversed(range(len(values))):
        delta = rewards[t] + discounts[t] * next_values[t] - values[t]
        running = delta + (1.0 - ends[t]) * discounts[t] * gae_lambda * running
        advantages[t] = running
    return advantages
