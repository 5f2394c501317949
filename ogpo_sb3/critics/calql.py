"""The conservative term of Cal-QL."""

import torch as th


def calibrated_gap(q: th.Tensor, q_random: th.Tensor, q_policy: th.Tensor, floor: th.Tensor) -> th.Tensor:
    """
    How far proposed actions are valued above the data's, the policy's no lower than a known return (Cal-QL, arXiv 2303.05479):

    mean [ logsumexp( Q(s, random), max(Q(s, policy), V) ) - Q(s, a) ]

    :param q: (M, B) values of the data's actions
    :param q_random: (M, B, n) values of uniform actions
    :param q_policy: (M, B, m) values of the policy's actions
    :param floor: (B,) Monte-Carlo return V; minus infinity where it is not known
    :return: scalar
    """
    calibrated = th.maximum(q_policy, floor[:, None])
    return (th.cat([q_random, calibrated], dim=-1).logsumexp(dim=-1) - q).mean()
