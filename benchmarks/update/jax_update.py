"""The update of :mod:`benchmarks.update.straightforward` as one jitted JAX function: for measurements alone."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

Arrays = list[jax.Array]
BETA1, BETA2, EPSILON = 0.9, 0.999, 1e-8  # AdamW's defaults in PyTorch


class Settings(NamedTuple):
    """What the compiled function is specialised to."""

    frequencies: np.ndarray
    times: list[float]
    stds: list[float]
    corrections: list[float]
    noise_clip: float
    group: int
    action_dim: int
    clip_range: float
    advantage: str
    actor_rate: float
    critic_rate: float
    tau: float
    actor_tau: float
    max_grad_norm: float


class State(NamedTuple):
    """Parameters in the order of the PyTorch modules and AdamW's moments: first of all parameters, second, steps."""

    actor: Arrays
    ema: Arrays
    critic: Arrays
    target: Arrays
    actor_moments: tuple[Arrays, Arrays, jax.Array]
    critic_moments: tuple[Arrays, Arrays, jax.Array]


def velocity(p: Arrays, s: Settings, observations: jax.Array, x: jax.Array, t: jax.Array) -> jax.Array:
    """v(s, x, t) for (N, S), (N, D), (N,); PyTorch's linear layers hold (out, in)."""
    angles = t[:, None] * s.frequencies
    time = jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)
    time = _gelu(time @ p[0].T + p[1]) @ p[2].T + p[3]
    x = jnp.concatenate([observations, x, time], axis=-1)
    for weight, bias in zip(p[4:-2:2], p[5:-2:2], strict=True):
        x = _gelu(x @ weight.T + bias)
    return x @ p[-2].T + p[-1]


def critics(p: Arrays, observations: jax.Array, actions: jax.Array) -> jax.Array:
    """(M, N) values of (N, S) and (N, D)."""
    x = jnp.concatenate([observations, actions], axis=-1)
    x = jnp.broadcast_to(x, (len(p[0]), *x.shape))
    for i in range(0, len(p) - 2, 4):
        weight, bias, scale, shift = p[i : i + 4]
        x = x @ weight + bias
        x = (x - x.mean(axis=-1, keepdims=True)) * jax.lax.rsqrt(x.var(axis=-1, keepdims=True) + 1e-5)
        x = _gelu(x * scale + shift)
    return (x @ p[-2] + p[-1])[..., 0]


def mean_of_step(p: Arrays, s: Settings, observations: jax.Array, x: jax.Array, i: int) -> jax.Array:
    """Mean of step i of the SDE."""
    t = s.times[i]
    v = velocity(p, s, observations, x, jnp.full(len(x), t))
    return x + v / len(s.times) + s.corrections[i] * (t * v - x)


def log_density(s: Settings, x: jax.Array, mean: jax.Array, i: int) -> jax.Array:
    """Share of step i in the mean log-likelihood."""
    density = -0.5 * ((x - mean) / s.stds[i]) ** 2 - math.log(s.stds[i]) - 0.5 * math.log(2 * math.pi)
    return density.sum(axis=-1) / (len(s.times) * s.action_dim)


def sample(p: Arrays, s: Settings, observations: jax.Array, draws: jax.Array) -> tuple[Arrays, jax.Array]:
    """Chains from draws (K + 1, N, D), the initial noise first, and their log-likelihood."""
    states, log_prob = [draws[0]], jnp.zeros(len(observations))
    for i, noise in enumerate(draws[1:]):
        mean = mean_of_step(p, s, observations, states[-1], i)
        states.append(mean + s.stds[i] * jnp.clip(noise, -s.noise_clip, s.noise_clip))
        log_prob += log_density(s, states[-1], mean, i)
    return states, log_prob


def group_advantage(s: Settings, q: jax.Array) -> jax.Array:
    """(B, G) from (M, B, G)."""
    if s.advantage == "conservative":
        advantage = q - q.mean(axis=-1, keepdims=True)
        return jax.nn.relu(advantage.min(axis=0)) - jax.nn.relu(-advantage.max(axis=0))
    value = q.mean(axis=0)
    advantage = value - value.mean(axis=-1, keepdims=True)
    return jax.nn.relu(advantage) if s.advantage == "positive" else advantage


def actor_loss(p: Arrays, state: State, s: Settings, observations: jax.Array, draws: jax.Array) -> jax.Array:
    """Clipped objective; everything but the scores is constant in the parameters ``p``."""
    observations = jnp.repeat(observations, s.group, axis=0)
    states, old_log_prob = sample(state.ema, s, observations, draws)
    q = critics(state.target, observations, jnp.clip(states[-1], -1.0, 1.0))
    advantage = group_advantage(s, q.reshape(len(q), -1, s.group)).ravel()
    states, old_log_prob, advantage = jax.lax.stop_gradient((states, old_log_prob, advantage))
    log_prob = jnp.zeros(len(observations))
    for i in range(len(s.times)):
        log_prob += log_density(s, states[i + 1], mean_of_step(p, s, observations, states[i], i), i)
    ratio = jnp.exp(log_prob - old_log_prob)
    clipped = jnp.clip(ratio, 1.0 - s.clip_range, 1.0 + s.clip_range)
    return -jnp.minimum(ratio * advantage, clipped * advantage).mean()


def critic_loss(p: Arrays, state: State, s: Settings, batch: dict[str, jax.Array], draws: jax.Array) -> jax.Array:
    """Mean squared TD error over heads and windows."""
    states, _ = sample(state.ema, s, batch["next_observations"], draws)
    next_q = critics(state.target, batch["next_observations"], jnp.clip(states[-1], -1.0, 1.0)).mean(axis=0)
    target = batch["rewards"] + batch["discounts"] * (1.0 - batch["dones"]) * next_q
    return ((critics(p, batch["observations"], batch["actions"]) - jax.lax.stop_gradient(target)) ** 2).mean()


def adamw(
    p: Arrays, gradient: Arrays, moments: tuple[Arrays, Arrays, jax.Array], rate: float, decay: float, limit: float
) -> tuple[Arrays, tuple[Arrays, Arrays, jax.Array]]:
    """One step on the gradient, clipped to a norm."""
    norm = jnp.sqrt(sum((g**2).sum() for g in gradient))
    factor = jnp.minimum(1.0, limit / (norm + 1e-6))
    gradient = [factor * g for g in gradient]
    step = moments[2] + 1
    first = [BETA1 * m + (1 - BETA1) * g for m, g in zip(moments[0], gradient, strict=True)]
    second = [BETA2 * v + (1 - BETA2) * g**2 for v, g in zip(moments[1], gradient, strict=True)]
    p = [
        x * (1 - rate * decay) - rate * m / (1 - BETA1**step) / (jnp.sqrt(v / (1 - BETA2**step)) + EPSILON)
        for x, m, v in zip(p, first, second, strict=True)
    ]
    return p, (first, second, step)


def step(
    state: State, s: Settings, batch: dict[str, jax.Array], observations: jax.Array, critic_draws: jax.Array, draws: jax.Array
) -> tuple[State, tuple[jax.Array, jax.Array]]:
    """A critic step, then an actor step, each followed by its average; both losses."""
    td, gradient = jax.value_and_grad(critic_loss)(state.critic, state, s, batch, critic_draws)
    critic, critic_moments = adamw(state.critic, gradient, state.critic_moments, s.critic_rate, 1e-5, s.max_grad_norm)
    target = _polyak(critic, state.target, s.tau)
    state = state._replace(critic=critic, critic_moments=critic_moments, target=target)
    loss, gradient = jax.value_and_grad(actor_loss)(state.actor, state, s, observations, draws)
    actor, actor_moments = adamw(state.actor, gradient, state.actor_moments, s.actor_rate, 0.0, s.max_grad_norm)
    return state._replace(actor=actor, actor_moments=actor_moments, ema=_polyak(actor, state.ema, s.actor_tau)), (td, loss)


class JaxUpdate:
    """
    The compiled update with its state.

    :param model: an OGPO model on vector observations, from which parameters (copied) and settings are taken
    """

    def __init__(self, model: Any):
        gcp = model.actor.gcp
        self.settings = Settings(
            frequencies=_numpy(next(b for name, b in gcp.velocity_net.named_buffers() if name.endswith("frequencies"))),
            times=gcp.times.tolist(),
            stds=gcp.std_table.tolist(),
            corrections=gcp.correction_table.tolist(),
            noise_clip=gcp.noise_clip,
            group=model.group_size,
            action_dim=gcp.action_dim,
            clip_range=float(model.clip_schedule(1.0)),
            advantage=model.advantage,
            actor_rate=model.actor.optimizer.param_groups[0]["lr"],
            critic_rate=model.critic.optimizer.param_groups[0]["lr"],
            tau=model.tau,
            actor_tau=model.actor_tau,
            max_grad_norm=model.max_grad_norm,
        )
        sources = (gcp.velocity_net, model.actor_ema.gcp.velocity_net, model.critic.ensemble, model.critic_target.ensemble)
        nets = [[_numpy(p) for p in net.parameters()] for net in sources]
        moments = [([np.zeros_like(p) for p in net], [np.zeros_like(p) for p in net], np.float32(0)) for net in nets]
        self.saved = State(*nets, moments[0], moments[2])
        self.key = jax.random.PRNGKey(0)
        shape = (len(self.settings.times) + 1, -1, self.settings.action_dim)

        def at_draws(state, batch, observations, critic_draws, draws):
            return step(state, self.settings, batch, observations, critic_draws, draws)

        def drawing(state, batch, observations, key):
            keys, rows = jax.random.split(key), (len(batch["rewards"]), len(observations) * self.settings.group)
            draws = [jax.random.normal(k, (shape[0], n, shape[2])) for k, n in zip(keys, rows, strict=True)]
            return at_draws(state, batch, observations, *draws)

        # The old state's memory is reused for the new one, as a training loop would have it.
        self._drawing, self._at_draws = jax.jit(drawing, donate_argnums=0), jax.jit(at_draws)
        self.restore()

    def restore(self) -> None:
        """Go back to the parameters at construction."""
        self.state = jax.tree.map(lambda array: jnp.array(array, copy=True), self.saved)
        jax.block_until_ready(self.state)

    def update(self, batch: Any, observations: Any) -> None:
        """One critic step and one actor step on batches of the package's replay buffer."""
        self.key, key = jax.random.split(self.key)
        self.state, _ = self._drawing(self.state, _batch(batch), _numpy(observations), key)

    def wait(self) -> None:
        """Until everything asked of the device is done."""
        jax.block_until_ready(self.state)

    def losses_at(self, batch: Any, observations: Any, draws: list[Any]) -> list[float]:
        """The same at given draws, a pair (initial noise, noise of each step) for each of the two; both losses."""
        stacked = [np.stack([_numpy(initial), *map(_numpy, noises)]) for initial, noises in draws]
        self.state, losses = self._at_draws(self.state, _batch(batch), _numpy(observations), *stacked)
        return [float(loss) for loss in losses]

    def parameters(self, name: str) -> list[np.ndarray]:
        """:param name: "actor", "ema", "critic" or "target"; in the order of the PyTorch modules"""
        return [np.array(p) for p in getattr(self.state, name)]


def _gelu(x: jax.Array) -> jax.Array:
    return jax.nn.gelu(x, approximate=False)


def _polyak(source: Arrays, average: Arrays, tau: float) -> Arrays:
    return [tau * p + (1.0 - tau) * q for p, q in zip(source, average, strict=True)]


def _numpy(tensor: Any) -> np.ndarray:
    return tensor.detach().cpu().numpy()


def _batch(batch: Any) -> dict[str, np.ndarray]:
    arrays = {name: _numpy(getattr(batch, name)) for name in ("observations", "actions", "next_observations")}
    return arrays | {name: _numpy(getattr(batch, name))[:, 0] for name in ("rewards", "discounts", "dones")}
