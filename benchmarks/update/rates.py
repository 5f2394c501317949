"""How fast this machine multiplies matrices of the update's shapes, and how long the update would take at that rate."""

from __future__ import annotations

import time

from benchmarks.update.sizes import Work

PRECISIONS = {"cpu": ("fp32", "bf16"), "cuda": ("fp32", "tf32", "bf16")}


class Rates:
    """
    Measured rates in operations per second.

    :param work: sizes
    :param device: "cpu" or "cuda"
    """

    def __init__(self, work: Work, device: str):
        import torch as th

        self.device, self.precisions = device, PRECISIONS[device]
        width, critic = max(work.actor_widths), max(work.critic_widths)
        # The hidden layers' products stand for all layers of a network.
        self.shapes = {
            "next_actions": ((work.batch, width), (width, width)),
            "td": ((work.heads, work.batch, critic), (work.heads, critic, critic)),
            "sampling": ((work.chains, width), (width, width)),
            "target_critics": ((work.heads, work.chains, critic), (work.heads, critic, critic)),
            "scoring": ((work.rows, width), (width, width)),
            "backward_input": ((work.rows, width), (width, width)),
            "backward_weight": ((width, work.rows), (work.rows, width)),
        }
        self._th = th

    def measure(self, seconds: float | None = None) -> dict[str, dict[str, float]]:
        """
        :param seconds: least time per shape; by default what some products on a CPU take, or some hundred on a GPU
        :return: operations per second by precision and part of the update
        """
        seconds = (0.2 if self.device == "cpu" else 0.02) if seconds is None else seconds
        rates: dict[str, dict[str, float]] = {}
        for precision in self.precisions:
            self._th.backends.cuda.matmul.allow_tf32 = precision == "tf32"
            known: dict[tuple, float] = {}
            for shape in self.shapes.values():
                if shape not in known:
                    known[shape] = self._rate(*shape, precision, seconds)
            rates[precision] = {name: known[shape] for name, shape in self.shapes.items()}
        self._th.backends.cuda.matmul.allow_tf32 = False
        return rates

    def _rate(self, left: tuple[int, ...], right: tuple[int, ...], precision: str, seconds: float) -> float:
        th = self._th
        dtype = th.bfloat16 if precision == "bf16" else th.float32
        a, b = (th.randn(shape, device=self.device).to(dtype) for shape in (left, right))
        out = th.matmul(a, b)
        operations = 2.0 * a.numel() * right[-1]
        best, total = float("inf"), 0.0
        while total < seconds:
            self._wait()
            started = time.perf_counter()
            th.matmul(a, b, out=out)
            self._wait()
            taken = time.perf_counter() - started
            best, total = min(best, taken), total + taken
        return operations / best

    def _wait(self) -> None:
        if self.device == "cuda":
            self._th.cuda.synchronize()


def ideal_seconds(operations: dict[str, float], rates: dict[str, float]) -> float:
    """
    :param operations: by part, see :meth:`benchmarks.update.sizes.Work.operations`
    :param rates: by part, of one precision
    """
    return sum(count / rates[part] for part, count in operations.items())
