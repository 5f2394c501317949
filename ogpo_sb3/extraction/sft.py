"""Supervised fine-tuning on the best of a group."""

import torch as th


def best_of_group(actions: th.Tensor, advantage: th.Tensor, top: int = 1) -> tuple[th.Tensor, th.Tensor]:
    """
    The actions that are cloned: those of a group with the largest advantages, where these are positive.

    Rejection sampling: cloning them by the family's own loss moves the policy towards the best of G, the distribution that
    best-of-N acts by (OGPO 4.4; QC and PA-RL do so with executed or improved actions).

    :param actions: (B, G, D)
    :param advantage: (B, G); with a strategy that looks at every head a state without agreement has none that is positive
    :param top: how many of each group
    :return: (B * top, D) actions, adjacent per state, and (B * top,) weights in {0, 1}
    """
    best = advantage.topk(top, dim=1)
    chosen = actions.gather(1, best.indices[:, :, None].expand(-1, -1, actions.shape[-1]))
    return chosen.flatten(0, 1), (best.values > 0).to(actions.dtype).flatten()
