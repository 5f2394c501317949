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
from benchmarks.update.sizes import SIZES
from benchmarks.update.worker import CONTENDERS, Worker

COLUMNS = ("size", "contender", ("ms", "ms per update"), "low", "high", ("critic_ms", "critic ms"), ("actor_ms", "actor ms"))


def measure(contender: str, repeats: int, **options: object) -> report.Row | None:
    """
    :param contender: key of ``CONTENDERS``
    :param repeats: timed rounds of half a second, after one that warms up
    :param options: size, threads and device
    :return: milliseconds: median, least and most of the rounds; None where it cannot run
    """
    worker = Worker(contender, advantage="mean", **options)
    try:
        reason = worker.answer().get("unavailable")
        if reason is not None:
            report.CONSOLE.print(f"not measured: {contender}: {reason}")
            return None
        worker.ask("update")
        rounds = [worker.ask("update") for _ in range(repeats)]
    finally:
        worker.close()
    totals = [1e3 * sum(parts.values()) for parts in rounds]
    row = dict(size=options["size"], contender=contender, ms=statistics.median(totals), low=min(totals), high=max(totals))
    parts = {f"{p}_ms": 1e3 * statistics.median(r[p] for r in rounds) for p in ("critic", "actor") if p in rounds[0]}
    return row | parts


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
    rows = []
    for size in args.sizes:
        for contender in tqdm(args.contenders, desc=f"{size} size"):
            row = measure(contender, args.repeats, size=size, threads=args.threads, device=args.device)
            if row is not None:
                rows.append(row)
    report.table(f"Updates on {args.device}, one contender at a time", rows, COLUMNS)


if __name__ == "__main__":
    main()
