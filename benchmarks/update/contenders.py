"""The implementations that take turns: each is restored to the same parameters and then does timed updates."""

from __future__ import annotations

import contextlib
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import torch as th

from benchmarks.update import sizes
from benchmarks.update.straightforward import Straightforward

Parts = dict[str, float]
IN_A_ROW = 10  # steps on a GPU


class Unavailable(Exception):
    """This contender cannot run here; the message says why."""


def build(kwargs: dict[str, Any], device: str, precision: str, **changes: Any) -> Any:
    """
    As :func:`benchmarks.update.sizes.build`.

    :param precision: of OGPO
    :raises Unavailable: OGPO refuses the precision, here or altogether
    """
    try:
        return sizes.build(kwargs, device, precision=precision, **changes)
    except ValueError as error:
        if "precision" not in str(error):
            raise
        raise Unavailable(f"OGPO refuses precision={precision!r} on {device}: {error}") from error


class Contender(ABC):
    """
    :param model: an OGPO model
    :param device: "cpu" or "cuda", where updates are made
    """

    def __init__(self, model: Any, device: str):
        self.model = model
        self.in_a_row = IN_A_ROW if device == "cuda" else 1

    @abstractmethod
    def restore(self) -> None:
        """Parameters as at the start, so that agreement and clip share stay where they were set."""

    @abstractmethod
    def calls(self) -> dict[str, Callable[[], None]]:
        """The steps of an update by name, each with the drawing of its batch."""

    def wait(self) -> None:
        """Until everything asked of the device is done."""
        now(self.model)

    def update(self, in_a_row: int | None = None) -> Parts:
        """
        :param in_a_row: how often each step is done before it is waited for; by default several times on a GPU, as in a run,
            which draws a batch while the device is busy with the one before
        :return: seconds of an update by step
        """
        times, seconds = in_a_row or self.in_a_row, {}
        for name, call in self.calls().items():
            self.wait()
            started = time.perf_counter()
            for _ in range(times):
                call()
            self.wait()
            seconds[name] = (time.perf_counter() - started) / times
        return seconds

    def shares(self) -> Parts:
        """Agreement and clip share of the last update, where they are at hand."""
        return {}

    def parts(self) -> Parts:
        """Seconds of the parts of an actor step, where they can be told apart."""
        return {}


class Package(Contender):
    """
    The package's own update.

    :param model: an OGPO model
    """

    def __init__(self, model: Any):
        super().__init__(model, model.device.type)
        self.saved = {name: value.clone() for name, value in model.policy.state_dict().items()}

    def restore(self) -> None:
        """See the base class."""
        self.model.policy.load_state_dict(self.saved)
        self.model._metrics.clear()

    def calls(self) -> dict[str, Callable[[], None]]:
        """See the base class."""
        return {"critic": lambda: self.model._update_critic(self.model.batch_size), "actor": self.model._update_actor}

    def shares(self) -> Parts:
        """Agreement and clip share of the last update as the package itself logs them."""
        names = {"agreement": "train/agreement", "clip_share": "train/clip_fraction"}
        metrics = self.model._metrics
        return {name: float(metrics[key][-1]) for name, key in names.items() if metrics.get(key)}

    def parts(self) -> Parts:
        """
        Seconds of the parts of an actor step, seen from outside.

        What is called by name (the EMA actor's chains, the target critics, backward passes, the optimiser) is timed where
        it is called; a part that an implementation does elsewhere counts as "scoring".

        On a GPU the update is a recording that calls nothing: there these are the parts of the update done by operation.
        """
        model, seconds = self.model, {"sampling": 0.0, "target_critics": 0.0, "backward": 0.0, "optimiser": 0.0}
        watched = [
            (model.actor_ema.gcp, "sample_scored", "sampling"),
            (model.critic_target, "forward", "target_critics"),
            (th.autograd, "backward", "backward"),
            (th.autograd, "grad", "backward"),
            (model.actor.optimizer, "step", "optimiser"),
        ]
        model.actor.gcp.on_device = False
        with contextlib.ExitStack() as stack:
            for target, name, part in watched:
                stack.enter_context(_timed(model, target, name, seconds, part))
            started = now(model)
            model._update_actor()
            total = now(model) - started
        model.actor.gcp.on_device = True
        return {**seconds, "scoring": total - sum(seconds.values())}


class Eager(Contender):
    """
    The straightforward update.

    :param model: an OGPO model, whose parameters are copied and whose replay buffer is used
    """

    names: ClassVar[tuple[str, ...]] = ("actor", "ema", "critic", "target")

    def __init__(self, model: Any):
        super().__init__(model, model.device.type)
        self.run = Straightforward(model)
        model.policy = model.actor = model.actor_ema = model.critic = model.critic_target = None
        self.saved = [[p.detach().clone() for p in getattr(self.run, name).parameters()] for name in self.names]

    def restore(self) -> None:
        """See the base class."""
        with th.no_grad():
            for name, saved in zip(self.names, self.saved, strict=True):
                for p, q in zip(getattr(self.run, name).parameters(), saved, strict=True):
                    p.copy_(q)

    def calls(self) -> dict[str, Callable[[], None]]:
        """See the base class."""
        replay, model = self.model.replay_buffer, self.model
        return {
            "critic": lambda: self.run.critic_step(replay.sample(model.batch_size)),
            "actor": lambda: self.run.actor_step(replay.sample(model.actor_batch_size).observations),
        }

    def shares(self) -> Parts:
        """Shares of agreeing, clipped, scored and differentiated chains in the last update."""
        return {name: float(value) for name, value in self.run.shares.items()}

    def parts(self) -> Parts:
        """Seconds of the parts of an actor step, and "unit": one pass of all chains' rows through the network."""
        model, run, seconds = self.model, self.run, {}
        observations = model.replay_buffer.sample(model.actor_batch_size).observations
        last = now(model)

        def lap(name: str) -> None:
            nonlocal last
            seconds[name], last = now(model) - last, now(model)

        run.lap = lap
        run.actor_step(observations)
        run.lap = lambda name: None
        rows = observations.repeat_interleave(model.group_size, dim=0)
        x, t = th.randn(len(rows), run.action_dim, device=model.device), th.zeros(len(rows), device=model.device)
        with th.no_grad():
            started = now(model)
            for _ in range(run.steps):
                run.ema(rows, x, t)
            seconds["unit"] = now(model) - started
        return seconds


class Jax(Contender):
    """
    The same update jitted in JAX.

    :param model: an OGPO model on the CPU, whose parameters are copied and whose replay buffer is used: batches go to JAX's
        device as arrays, once
    :param device: "cpu" or "cuda", JAX's
    :param precision: "fp32" or "tf32"
    """

    def __init__(self, model: Any, device: str = "cpu", precision: str = "fp32"):
        try:
            import jax
        except ImportError as error:
            raise Unavailable("jax not installed") from error
        if device == "cuda" and jax.default_backend() != "gpu":
            raise Unavailable("jax has no CUDA device")
        if device == "cpu" and precision == "tf32":
            raise Unavailable("tf32 needs a GPU")
        # Products of float32 are TF32 by default on GPUs.
        jax.config.update("jax_default_matmul_precision", {"fp32": "highest", "tf32": "tensorfloat32"}[precision])
        from benchmarks.update.jax_update import JaxUpdate

        super().__init__(model, device)
        self.run = JaxUpdate(model)
        model.policy = model.actor = model.actor_ema = model.critic = model.critic_target = None

    def restore(self) -> None:
        """See the base class."""
        self.run.restore()

    def calls(self) -> dict[str, Callable[[], None]]:
        """Critic and actor step are one compiled function."""
        replay, model = self.model.replay_buffer, self.model
        return {
            "both": lambda: self.run.update(
                replay.sample(model.batch_size), replay.sample(model.actor_batch_size).observations
            )
        }

    def wait(self) -> None:
        """See the base class."""
        self.run.wait()


def now(model: Any) -> float:
    """Seconds, when everything asked of the device is done."""
    if model.device.type == "cuda":
        th.cuda.synchronize()
    return time.perf_counter()


@contextlib.contextmanager
def _timed(model: Any, target: Any, name: str, seconds: Parts, part: str) -> Iterator[None]:
    """Add the time of every call of a function, found by name, to a part."""
    function: Callable = getattr(target, name)
    own = vars(target).get(name)

    def timing(*args: Any, **kwargs: Any) -> Any:
        started = now(model)
        try:
            return function(*args, **kwargs)
        finally:
            seconds[part] += now(model) - started

    setattr(target, name, timing)
    try:
        yield
    finally:
        if own is None:
            delattr(target, name)
        else:
            setattr(target, name, own)
