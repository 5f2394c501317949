"""
Seconds of an update, each contender by itself and one after another.

    python -m benchmarks.update.alone [--sizes paper] [--device cuda] [--contenders "package tf32" ...] [--repeats 30]

``python -m benchmarks.update`` lets all contenders take turns, which keeps all of them in memory and XLA's compiler busy. This
is the quick reading, of a GPU say, where few minutes are to be had: vanilla advantages, fresh parameters, no ratios between
rounds.
"""

from __future__ import annotations

import argparse
import statistics

from tqdm import tqdm

from benchmarks.update import report
from benchmarks.update.measure import milliseconds, workers_of
from benchmarks.update.sizes import SIZES
from benchmarks.update.worker import CONTENDERS, Worker

COLUMNS = ("size", "contender", ("ms", "ms per update"), "low", "high", ("critic_ms", "critic ms"), ("actor_ms", "actor ms"))


def measure(worker: Worker, repeats: int) -> report.Row:
    """
    :param worker: of a contender
    :param repeats: timed rounds of half a second, after one that warms up
    :return: milliseconds: median, least and most of the rounds, medians of the parts
    """
    worker.ask("update")
    rounds = [worker.ask("update") for _ in range(repeats)]
    totals = [1e3 * sum(parts.values()) for parts in rounds]
    return dict(ms=statistics.median(totals), low=min(totals), high=max(totals)) | milliseconds(rounds)


def main() -> None:
    """Measure what is asked for."""
    parser = argparse.ArgumentParser(
        "python -m benchmarks.update.alone", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=["paper"])
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--contenders", nargs="+", choices=list(CONTENDERS), default=list(CONTENDERS))
    args = parser.parse_args()
    if args.device == "cuda" and report.cuda_name() is None:
        parser.error("--device cuda found no CUDA device")
    report.CONSOLE.print(report.machine(args.threads))
    rows: list[report.Row] = []
    notes: list[str] = []
    for size in args.sizes:
        options = dict(size=size, threads=args.threads, device=args.device, advantage="mean")
        for contender in tqdm(args.contenders, desc=f"{size} size"):
            with workers_of([contender], options, notes) as ready:
                rows += [dict(size=size, contender=name) | measure(worker, args.repeats) for name, worker in ready.items()]
    for note in notes:
        report.CONSOLE.print(f"not measured: {note}")
    report.table(f"Updates on {args.device}, one contender at a time", rows, COLUMNS)


if __name__ == "__main__":
    main()
