"""
One contender in a process of its own, doing what it is asked to on its standard input: see :class:`Worker`.

Its own process makes its peak memory its own; answering one request at a time lets contenders take turns.
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

CONTENDERS = {  # name: class in benchmarks.update.contenders, precision
    "straightforward fp32": ("Eager", "fp32"),
    "jax fp32": ("Jax", "fp32"),
    "jax tf32": ("Jax", "tf32"),
    "package fp32": ("Package", "fp32"),
    "package tf32": ("Package", "tf32"),
    "package bf16": ("Package", "bf16"),
    "package bf16_full": ("Package", "bf16_full"),
}
ROOT = pathlib.Path(__file__).resolve().parents[2]


class WorkerError(RuntimeError):
    """The process ended without an answer."""


class Worker:
    """
    The near side of a contender's process.

    :param role: a key of ``CONTENDERS``, "rates" or "prepare"
    :param options: size, advantage, state (file), threads, device
    """

    def __init__(self, role: str, **options: Any):
        self.role = role
        arguments = [f"--{name}={value}" for name, value in options.items()]
        environment = {
            **os.environ,
            "OMP_NUM_THREADS": str(options["threads"]),
            "JAX_PLATFORMS": "cpu" if options["device"] == "cpu" else "",
            "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
            # Its search among Triton's products takes minutes at the paper's size; cuBLAS is searched as ever.
            "XLA_FLAGS": os.environ.get("XLA_FLAGS", "--xla_gpu_enable_triton_gemm=false"),
        }
        self.process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.update.worker", role, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env=environment,
        )

    def ask(self, request: str) -> dict[str, Any]:
        """
        :param request: name of a method of the far side
        """
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(request + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            pass  # the missing answer says the same
        return self.answer()

    def answer(self) -> dict[str, Any]:
        """The next answer; the first one is given unasked, when the process is ready."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise WorkerError(f"{self.role} ended with status {self.process.wait()}; its message is above")
        return json.loads(line)

    def close(self) -> None:
        """End the process."""
        self.process.kill()
        self.process.wait()


def peak_memory_mb() -> float:
    """
    Most memory that this process ever had resident.

    ``ru_maxrss`` also counts what its parent had when it was started, hence Linux's own figure first.
    """
    try:
        status = pathlib.Path("/proc/self/status").read_text()
        return int(status.split("VmHWM:")[1].split()[0]) / 1024
    except (OSError, IndexError):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1024 * 1024 if sys.platform == "darwin" else 1024)


def _take_cores(threads: int) -> None:
    """JAX uses every core that it is allowed: allow all contenders the same number."""
    if hasattr(os, "sched_setaffinity"):
        allowed = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, allowed[:threads])


class _Far:
    """The far side: builds the contender, answers requests by name."""

    def __init__(self, options: argparse.Namespace):
        import torch as th

        from benchmarks.update import contenders, sizes

        th.set_num_threads(options.threads)
        kind, precision = CONTENDERS[options.role]
        self.options, self.before = options, peak_memory_mb()
        device, own = options.device, {}
        if kind == "Jax":  # of the model it takes parameters and batches alone
            device, precision, own = "cpu", "fp32", dict(device=device, precision=precision)
        model = contenders.build(sizes.settings(options.size), device, precision, advantage=options.advantage)
        if options.state:
            model.policy.load_state_dict(th.load(options.state, map_location=device))
        self.contender = getattr(contenders, kind)(model, **own)
        self.device = options.device

    def update(self) -> dict[str, Any]:
        return self._turn(self.contender.update)

    def parts(self) -> dict[str, Any]:
        return self._turn(self.contender.parts)

    def _turn(self, call: Callable[[], dict[str, float]], seconds: float = 0.5) -> dict[str, float]:
        """Medians over as many calls as fit into the time, at least one: short updates need more than one per turn."""
        found: list[dict[str, float]] = []
        ends = time.perf_counter() + seconds
        while not found or time.perf_counter() < ends:
            self.contender.restore()
            found.append(call())
        return {part: statistics.median(f[part] for f in found) for part in found[0]}

    def shares(self) -> dict[str, Any]:
        if self.contender.in_a_row > 1:  # each has moved the parameters
            self.contender.restore()
            self.contender.update(1)
        return self.contender.shares()

    def memory(self) -> dict[str, Any]:
        result = {"peak_mb": peak_memory_mb(), "before_mb": self.before}
        if self.device == "cuda":
            if self.options.role.startswith("jax"):
                import jax

                result["cuda_peak_mb"] = jax.devices()[0].memory_stats()["peak_bytes_in_use"] / 2**20
            else:
                import torch as th

                result["cuda_peak_mb"] = th.cuda.max_memory_allocated() / 2**20
        return result


class _Rates:
    """The far side of "rates"."""

    def __init__(self, options: argparse.Namespace):
        import torch as th

        from benchmarks.update.rates import Rates
        from benchmarks.update.sizes import Work, settings

        th.set_num_threads(options.threads)
        self.rates = Rates(Work.of(settings(options.size)), options.device)

    def update(self) -> dict[str, Any]:
        return self.rates.measure()


class _Prepare:
    """The far side of "prepare": writes the parameter files into the folder ``state`` before it is ready."""

    def __init__(self, options: argparse.Namespace):
        import torch as th

        from benchmarks.update import sizes, states

        th.set_num_threads(options.threads)
        states.prepare(sizes.build(sizes.settings(options.size), options.device), pathlib.Path(options.state))


def main() -> None:
    """Answer requests until the other side closes the pipe or kills this process."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("role")
    parser.add_argument("--size", default="small")
    parser.add_argument("--advantage", default="mean")
    parser.add_argument("--state", default="")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    # Answers have the pipe to themselves: whatever libraries print goes to standard error.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def answer(content: dict[str, Any]) -> None:
        print(json.dumps(content), file=answers, flush=True)

    _take_cores(options.threads)
    from benchmarks.update.contenders import Unavailable

    try:
        far = {"rates": _Rates, "prepare": _Prepare}.get(options.role, _Far)(options)
    except Unavailable as reason:
        answer({"unavailable": str(reason)})
        return
    answer({"ready": True})
    for line in sys.stdin:
        answer(getattr(far, line.strip())())


if __name__ == "__main__":
    main()
