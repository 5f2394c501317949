"""
Updates per second against one size at a time, from a middle size on.

    python -m benchmarks.update.scaling [--axes batch group steps heads] [--device cpu] [--threads N]
                                        [--repeats N] [--csv FILE] [--quick]

The middle size is 64 states x 16 chains x 5 steps, three layers of 256, five heads. All models of an axis take turns.
"""

from __future__ import annotations

import argparse
import contextlib
import pathlib
import statistics
from typing import Any

from tqdm import tqdm

from benchmarks.update import report, sizes
from benchmarks.update.contenders import Eager, Package, Unavailable, build
from benchmarks.update.measure import REFERENCE
from benchmarks.update.rates import PRECISIONS

AXES = {  # name: values; half and double the middle, and on
    "batch": (32, 64, 128, 256),
    "group": (8, 16, 32, 64),
    "steps": (3, 5, 10, 20),
    "heads": (2, 5, 10, 20),
}
QUICK_VALUES = 2
FIELDS = ("device", "axis", "value", "contender", "updates_per_second", "rows_per_second", "ratio", "critic_ms", "actor_ms")


def varied(axis: str, value: int) -> dict[str, Any]:
    """
    :param axis: a key of ``AXES``; "batch" is both the critic's windows and the actor's states
    :param value: of it
    :return: keyword arguments of OGPO at the middle size
    """
    kwargs = sizes.settings("mid")
    if axis == "batch":
        kwargs.update(batch_size=value, actor_batch_size=value)
    elif axis == "group":
        kwargs["group_size"] = value
    else:
        kwargs["policy_kwargs"][{"steps": "denoising_steps", "heads": "n_critics"}[axis]] = value
    return kwargs


def contenders(kwargs: dict[str, Any], device: str) -> dict[str, Any]:
    """The straightforward update and the package's in every precision that it accepts, all with vanilla advantages."""
    found: dict[str, Any] = {REFERENCE: Eager(build(kwargs, device, "fp32"))}
    for precision in PRECISIONS[device]:
        with contextlib.suppress(Unavailable):
            found[f"package {precision}"] = Package(build(kwargs, device, precision))
    return found


def run(
    device: str,
    threads: int,
    repeats: int,
    path: pathlib.Path | None,
    axes: tuple[str, ...] = tuple(AXES),
    quick: bool = False,
) -> None:
    """
    Measure and print.

    :param device: "cpu" or "cuda"
    :param threads: of torch
    :param repeats: rounds
    :param path: CSV file, None for none
    :param axes: keys of ``AXES``
    :param quick: only the first values
    """
    import torch as th

    th.set_num_threads(threads)
    file, rows = report.CsvFile(path, FIELDS), []
    for axis in axes:
        values = AXES[axis][:QUICK_VALUES] if quick else AXES[axis]
        teams = {value: contenders(varied(axis, value), device) for value in tqdm(values, f"models for {axis}")}
        times: dict[tuple[int, str], list[dict[str, float]]] = {(v, n): [] for v, team in teams.items() for n in team}
        for turn in tqdm(range(repeats + 1), f"rounds for {axis}"):
            for value, name in times:
                contender = teams[value][name]
                contender.restore()
                taken = contender.update()
                if turn > 0:  # the first round warms up
                    times[value, name].append(taken)
        for (value, name), rounds in times.items():
            totals = [sum(t.values()) for t in rounds]
            reference = [sum(t.values()) for t in times[value, REFERENCE]]
            seconds = statistics.median(totals)
            row = {
                "device": device,
                "axis": axis,
                "value": value,
                "contender": name,
                "updates_per_second": 1.0 / seconds,
                "rows_per_second": sizes.Work.of(varied(axis, value)).rows / seconds,
                "ratio": statistics.median(a / b for a, b in zip(reference, totals, strict=True)),
                "critic_ms": 1e3 * statistics.median(t["critic"] for t in rounds),
                "actor_ms": 1e3 * statistics.median(t["actor"] for t in rounds),
            }
            rows.append(row)
            file.write(row)
    report.table(f"Scaling on {device}: one size varied, the others at the middle size", rows, FIELDS[1:])


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        "python -m benchmarks.update.scaling", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--axes", nargs="+", choices=list(AXES), default=list(AXES))
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--csv", type=pathlib.Path)
    parser.add_argument("--quick", action="store_true")
    args = parser.parse_args()
    report.CONSOLE.print(report.machine(args.threads))
    run(args.device, args.threads, args.repeats, args.csv, tuple(args.axes), args.quick)


if __name__ == "__main__":
    main()
