"""Rounds of timed updates in which all contenders take turns, and what follows from them."""

from __future__ import annotations

import contextlib
import pathlib
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

from benchmarks.update.rates import PRECISIONS, ideal_seconds
from benchmarks.update.sizes import Work, settings
from benchmarks.update.worker import CONTENDERS, Worker

REFERENCE = "straightforward fp32"
_PAUSE = 0.5  # seconds between two turns
FIELDS = (
    "device",
    "size",
    "case",
    "contender",
    "updates_per_second",
    "rows_per_second",
    "ratio",
    "ratio_low",
    "ratio_high",
    "critic_ms",
    "actor_ms",
    "rate_share_all",
    "rate_share_needed",
    "peak_mb",
    "before_mb",
    "cuda_peak_mb",
    "agreement",
    "clip_share",
    "scored_share",
    "gradient_share",
    "repeats",
    "threads",
)
Row = dict[str, Any]


class Case(NamedTuple):
    """
    :param advantage: of OGPO
    :param agreement: share of chains on whose sign all heads agree
    :param clip_share: share of chains whose ratio left the clip range
    """

    advantage: str
    agreement: float
    clip_share: float

    def __str__(self) -> str:
        name = "vanilla" if self.advantage == "mean" else f"CA {self.agreement:g}"
        return f"{name}, clip {self.clip_share:g}"


CASES = tuple(
    Case(advantage, agreement, clip_share)
    for advantage, agreement in (("mean", 0.2), ("conservative", 0.2), ("conservative", 0.5))
    for clip_share in (0.0, 0.5)
)


class Recorder:
    """
    What the report consists of; rows are handed on as they come.

    :param on_row: called with every finished row
    :param advance: called with a description before every step of the work
    """

    def __init__(self, on_row: Callable[[Row], None], advance: Callable[[str], None]):
        self.on_row, self.advance = on_row, advance
        self.units: list[Row] = []
        self.rates: list[Row] = []
        self.notes: list[str] = []


def measure_size(
    size: str, device: str, cases: Sequence[Case], threads: int, repeats: int, contenders: list[str], recorder: Recorder
) -> None:
    """
    All cases of one size.

    :param size: "small" or "paper"
    :param device: "cpu" or "cuda"
    :param cases: what the update is like
    :param threads: of every contender
    :param repeats: rounds per case, after one that warms up
    :param contenders: keys of ``CONTENDERS``; the straightforward update always takes part
    :param recorder: gets rows, units and notes
    """
    shared = dict(size=size, threads=threads, device=device)
    names = [name for name in CONTENDERS if name in {REFERENCE, *contenders}]
    names = [name for name in names if _products(name) in PRECISIONS[device]]
    with tempfile.TemporaryDirectory() as folder:
        recorder.advance(f"{size}: heads and ratios as wanted")
        with workers_of(["prepare"], {**shared, "state": folder}, recorder.notes):
            pass
        for case in cases:
            state = pathlib.Path(folder) / f"{case.agreement}-{case.clip_share}.pt"
            recorder.advance(f"{size}, {case}: start and warm-up")
            options = {**shared, "advantage": case.advantage, "state": state}
            with workers_of([*names, "rates"], options, recorder.notes) as workers:
                _measure_case(case, workers, repeats, shared, recorder)


@contextlib.contextmanager
def workers_of(roles: list[str], options: dict[str, Any], notes: list[str]) -> Iterator[dict[str, Worker]]:
    """
    Processes of the roles that are available here, ready to be asked, by role.

    :param roles: of :class:`benchmarks.update.worker.Worker`
    :param options: theirs
    :param notes: gets the reason for which one is not available, once
    """
    started = [Worker(role, **options) for role in roles]
    try:
        ready = {}
        for worker in started:
            reason = worker.answer().get("unavailable")
            if reason is None:
                ready[worker.role] = worker
            elif (note := f"{worker.role}: {reason}") not in notes:
                notes.append(note)
        yield ready
    finally:
        for worker in started:
            worker.close()


def _measure_case(case: Case, workers: dict[str, Worker], repeats: int, shared: dict[str, Any], recorder: Recorder) -> None:
    size, device = shared["size"], shared["device"]
    with ThreadPoolExecutor() as pool:  # XLA compiles for as long as all others take together
        list(pool.map(lambda worker: worker.ask("update"), workers.values()))
    times: dict[str, list[dict]] = defaultdict(list)
    for turn in range(repeats):
        recorder.advance(f"{size}, {case}: round {turn + 1} of {repeats}")
        for name, worker in workers.items():
            # The one before may still be busy: XLA's threads wait actively for a while and give memory back.
            time.sleep(_PAUSE)
            times[name].append(worker.ask("update"))
    shares = workers[REFERENCE].ask("shares")
    rates = _median_rates(times.pop("rates"))
    if not any(row["size"] == size and row["device"] == device for row in recorder.rates):
        for precision, parts in rates.items():
            giga = {part: rate / 1e9 for part, rate in parts.items()}
            recorder.rates.append({"device": device, "size": size, "precision": precision, **giga})
    totals = {name: [sum(t.values()) for t in rounds] for name, rounds in times.items()}
    for name, rounds in times.items():
        seconds = statistics.median(totals[name])
        row = {
            "device": device,
            "size": size,
            "case": str(case),
            "contender": name,
            "repeats": repeats,
            "threads": shared["threads"],
        }
        row |= _speed(seconds, name, shares, rates, Work.of(settings(size)))
        ratios = [a / b for a, b in zip(totals[REFERENCE], totals[name], strict=True)]
        row |= {"ratio": statistics.median(ratios), "ratio_low": min(ratios), "ratio_high": max(ratios)}
        row |= milliseconds(rounds) | workers[name].ask("memory")
        # An implementation's own figures where it has them, so that the table shows that all did the same work.
        row |= {**shares, **workers[name].ask("shares")}
        recorder.on_row(row)
    recorder.advance(f"{size}, {case}: parts")
    recorder.units += _units(str(case), workers, max(1, repeats // 2), size, device)


def milliseconds(rounds: list[dict]) -> Row:
    """
    :param rounds: seconds of an update by part
    :return: medians of the parts that an implementation tells apart
    """
    return {
        f"{part}_ms": 1e3 * statistics.median(t[part] for t in rounds) for part in ("critic", "actor") if part in rounds[0]
    }


def _products(name: str) -> str:
    """The fastest kind of product that a contender uses."""
    return CONTENDERS[name][1].removesuffix("_full")


def _median_rates(rounds: list[dict]) -> dict[str, dict[str, float]]:
    return {
        precision: {part: statistics.median(r[precision][part] for r in rounds) for part in parts}
        for precision, parts in rounds[0].items()
    }


def _speed(seconds: float, name: str, shares: Row, rates: dict[str, dict[str, float]], work: Work) -> Row:
    """Rates that follow from the seconds of an update."""
    rate = rates[_products(name)]
    needed = work.operations(shares["scored_share"], shares["gradient_share"])
    return {
        "updates_per_second": 1.0 / seconds,
        "rows_per_second": work.rows / seconds,
        "rate_share_all": ideal_seconds(work.operations(), rate) / seconds,
        "rate_share_needed": ideal_seconds(needed, rate) / seconds,
    }


def _units(case: str, workers: dict[str, Worker], repeats: int, size: str, device: str) -> list[Row]:
    """Parts of an actor step, in units of one pass of all chains' rows through the straightforward velocity network."""
    rounds = [{name: worker.ask("parts") for name, worker in workers.items() if name != "rates"} for _ in range(repeats)]
    rows = []
    for name in rounds[0]:
        parts = [part for part in rounds[0][name] if part != "unit"]
        if parts:
            units = {p: statistics.median(r[name][p] / r[REFERENCE]["unit"] for r in rounds) for p in parts}
            rows.append({"device": device, "size": size, "case": case, "contender": name, **units, "all": sum(units.values())})
    return rows
