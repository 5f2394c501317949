"""What to look at when a run fails. Nothing here changes the run: generators and records are as before."""

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch as th
from ogpo_sb3 import OGPO
from stable_baselines3.common.logger import Logger

# Means since the previous evaluation, as docs/modules/ogpo.md explains them.
METRICS = (
    "agreement",
    "clip_fraction",
    "q_mean",
    "q_std",
    "target_mean",
    "critic_loss",
    "critic_grad_norm",
    "approx_kl",
    "ratio_mean",
    "ratio_std",
    "advantage_std",
    "policy_loss",
    "bc_loss",
    "actor_grad_norm",
    "learning_rate",
)
N_BINS = 10


def training_metrics(model: Any) -> dict[str, float]:
    """
    What the logger has averaged since it was last dumped, success and return of the latest rollouts; then dump it.

    :param model: an algorithm that learns with ``log_interval=None``, so that nothing else dumps
    """
    logger: Logger = model.logger
    row = {name: logger.name_to_value[f"train/{name}"] for name in METRICS if f"train/{name}" in logger.name_to_value}
    row.update(n_updates=model._n_updates, n_actor_updates=getattr(model, "_n_actor_updates", 0))
    if model.ep_success_buffer:
        row["rollout_success"] = float(np.mean(model.ep_success_buffer))
    if model.ep_info_buffer:
        row["rollout_return"] = float(np.mean([info["r"] for info in model.ep_info_buffer]))
    logger.dump(model.num_timesteps)
    return row


def calibration(model: Any, n_windows: int = 1000) -> list[dict[str, float]]:
    """
    Predicted Q of replayed windows against the discounted return that followed them, in bins of equal size by prediction.

    Episodes that ran into the time limit count with the return up to it, and the return is that of the policies that
    collected it: a policy that has improved since then is worth more. What this finds is critics that invent values.

    :param model: an algorithm with replay and critics
    :param n_windows: how many to draw; those of finished episodes are used
    :return: one dictionary per bin: mean ``q``, mean ``mc_return``, ``heads_std``, ``n``; empty without finished episodes
    """
    if model.replay_buffer.size() == 0:
        return []
    with undisturbed(model), th.no_grad():
        batch = model._sample(n_windows)
        q = model.critic(batch.observations, batch.actions)
        valid = batch.mc_valid[:, 0] > 0
    if not bool(valid.any()):
        return []
    mean, spread = q.mean(dim=0)[valid], q.std(dim=0, unbiased=False)[valid]
    returns = batch.mc_returns[:, 0][valid]
    order = mean.argsort()
    return [
        dict(q=float(mean[i].mean()), mc_return=float(returns[i].mean()), heads_std=float(spread[i].mean()), n=len(i))
        for i in th.tensor_split(order, N_BINS)
        if len(i)
    ]


def calibration_summary(bins: list[dict[str, float]]) -> dict[str, float]:
    """
    :param bins: see :func:`calibration`
    :return: means over all windows, and by how much Q is too high
    """
    if not bins:
        return {}
    n = np.array([b["n"] for b in bins])
    means = {key: float(np.average([b[key] for b in bins], weights=n)) for key in ("q", "mc_return", "heads_std")}
    return dict(
        replay_q=means["q"],
        replay_return=means["mc_return"],
        overestimation=means["q"] - means["mc_return"],
        heads_std=means["heads_std"],
    )


def gradient_shares(model: Any) -> dict[str, float]:
    """
    Norms of the two parts of OGPO's actor gradient on one batch, its objective's and the cloning term's with its coefficient.

    :param model: an algorithm; empty for one that is not OGPO or has no batch yet
    :return: ``pg_grad_norm``; with success cloning also ``bc_grad_norm``, ``bc_share`` in [0, 1], and their ``bc_cosine``
    """
    if not isinstance(model, OGPO) or model.replay_buffer.size() < model.actor_batch_size:
        return {}
    if model.extraction == "fql" or model.policy.state_value is not None:  # whose updates are not the actor's alone
        return {}
    with undisturbed(model):
        clip_range = th.full((), model.clip_schedule(model._current_progress_remaining))
        update, _ = model._imagine(model._sample(model.actor_batch_size), clip_range)
        policy = _gradient(model, lambda: model._objective.backward(update))
        result = dict(pg_grad_norm=float(policy.norm()))
        successes = model._success_batch()
        if successes is not None:
            cloning = _gradient(model, lambda: (model.bc_coef * model._cloning_loss(successes)).backward())
            norm = float(cloning.norm())
            result.update(bc_grad_norm=norm, bc_share=norm / max(norm + result["pg_grad_norm"], 1e-12))
            result["bc_cosine"] = float(th.nn.functional.cosine_similarity(policy, cloning, dim=0))
    return result


def _gradient(model: Any, backward: Callable[[], Any]) -> th.Tensor:
    """All entries of the actor's gradient; an update begins without one, and so it is left."""
    model.actor.optimizer.zero_grad(set_to_none=True)
    backward()
    parameters = [p for p in model.actor.parameters() if p.requires_grad]
    gradient = th.cat([th.zeros(p.numel()) if p.grad is None else p.grad.flatten() for p in parameters])
    model.actor.optimizer.zero_grad(set_to_none=True)
    return gradient


@contextmanager
def undisturbed(model: Any) -> Iterator[None]:
    """
    Draws and records inside leave no trace in the training.

    :param model: an algorithm
    """
    drawn, metrics = np.random.get_state(), {name: list(values) for name, values in model._metrics.items()}
    pessimism = copy.deepcopy(getattr(model, "_next_pessimism", None))
    try:
        with th.random.fork_rng(devices=[]):
            yield
    finally:
        np.random.set_state(drawn)
        model._metrics.clear()
        model._metrics.update(metrics)
        if hasattr(model, "_next_pessimism"):
            model._next_pessimism = pessimism
