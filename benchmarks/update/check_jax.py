"""
Whether JAX's update and the straightforward one are the same mathematics: losses and parameters after a step, at equal draws.

    python -m benchmarks.update.check_jax

Done by ``python -m benchmarks.update`` before it measures anything, where jax is installed.
"""

from __future__ import annotations

import jax
import numpy as np
import torch as th

from benchmarks.update.jax_update import JaxUpdate
from benchmarks.update.sizes import build, settings
from benchmarks.update.states import set_agreement, set_clip_share
from benchmarks.update.straightforward import Straightforward

TOLERANCE = 2e-5  # relative; sums are taken in another order


def check() -> float:
    """
    :return: the largest relative difference
    :raises ArithmeticError: it is above the tolerance
    """
    jax.config.update("jax_default_matmul_precision", "highest")
    model = build(settings("small"), advantage="conservative")
    th.manual_seed(0)
    np.random.seed(0)
    set_agreement(model, 0.5)
    set_clip_share(model, 0.5)
    reference, compiled = Straightforward(model), JaxUpdate(model)
    sizes = model.batch_size, model.actor_batch_size
    windows, states = (model.replay_buffer.sample(size) for size in sizes)
    draws = [reference.noise(rows, th.device("cpu")) for rows in (sizes[0], sizes[1] * model.group_size)]
    found = compiled.losses_at(windows, states.observations, draws)
    wanted = reference.critic_step(windows, draws[0]), reference.actor_step(states.observations, draws[1])
    scale = [abs(float(wanted[0])), max(abs(float(wanted[1])), 1e-2)]
    worst = max(abs(a - float(b)) / c for a, b, c in zip(found, wanted, scale, strict=True))
    for name in ("actor", "ema", "critic", "target"):
        ours = th.cat([th.as_tensor(p).flatten() for p in compiled.parameters(name)])
        theirs = th.cat([p.detach().flatten() for p in getattr(reference, name).parameters()])
        worst = max(worst, float((ours - theirs).norm() / theirs.norm()))
    if not worst <= TOLERANCE:
        raise ArithmeticError(f"JAX's update differs from the straightforward one by {worst:.1e}, wanted at most {TOLERANCE}")
    return worst


if __name__ == "__main__":
    print(f"JAX's update and the straightforward one agree to {check():.1e}")
