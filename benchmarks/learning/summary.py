"""Table, CSV files and pictures of a study, finished or not."""

import argparse
import csv
import io
import pathlib
import sys
from collections.abc import Sequence
from typing import Any

from ogpo_sb3.common.files import atomic_write
from ogpo_sb3.common.names import check_known
from rich.console import Console
from rich.table import Table

from benchmarks.learning import differences
from benchmarks.learning.collect import COLUMNS, Record, collect, estimates, recorded


def write_csv(path: pathlib.Path, columns: Sequence[str], rows: Sequence[dict[str, Any]]) -> None:
    """
    :param path: file, replaced as a whole
    :param columns: in order
    :param rows: by column; None is written as an empty field
    """
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    for row in rows:
        values = {c: row.get(c) for c in columns}
        writer.writerow({c: round(v, 4) if isinstance(v, float) else v for c, v in values.items()})
    with atomic_write(path) as file:
        file.write(text.getvalue().encode())


def print_table(rows: list[dict[str, Any]], records: list[Record], console: Console) -> None:
    """
    :param rows: see :func:`benchmarks.learning.collect.estimates`, of the gain
    :param records: for the columns beside it
    :param console: where to
    """
    table = Table(title="Gain in success over the cloned policy: interquartile mean, stratified bootstrap 95 %")
    for name in ("task", "variant", "runs", "gain", "95 %", "bc", "final", "dip", "steps to +30"):
        table.add_column(name, justify="left" if name in ("task", "variant") else "right")
    for row in rows:
        mine = [r.row() for r in records if r.run["variant"] == row["variant"] and row["task"] in (r.run["task"], "all")]
        done = [r for r in mine if r.get("gain") is not None]
        dips = [r["dip"] for r in done if r["dip"] is not None]  # a curve may have its start alone
        reached = sorted(r["steps_to_plus30"] for r in done if r["steps_to_plus30"] is not None)
        table.add_row(
            row["task"],
            row["variant"],
            str(row["runs"]),
            f"{row['iqm']:+.2f}",
            "" if row["low"] != row["low"] else f"{row['low']:+.2f} to {row['high']:+.2f}",
            f"{_mean(done, 'bc_success'):.2f}",
            f"{_mean(done, 'final_success'):.2f}",
            f"{min(dips):+.2f}" if dips else "",
            f"{reached[len(reached) // 2]} ({len(reached)}/{len(done)})" if reached else f"(0/{len(done)})",
        )
    console.print(table)


def _mean(rows: list[dict[str, Any]], key: str) -> float:
    return float(sum(row[key] for row in rows) / len(rows))


def main(argv: list[str]) -> int:
    """
    :param argv: command-line arguments
    :return: exit status
    """
    p = argparse.ArgumentParser(prog="python -m benchmarks.learning summary", description="What a study found.")
    p.add_argument("--out", type=pathlib.Path, default=pathlib.Path("runs/study"), help="folder of the study")
    p.add_argument("--tasks", nargs="+", help="only these")
    p.add_argument(
        "--recorded",
        nargs="+",
        type=pathlib.Path,
        default=[],
        metavar="CSV",
        help="runs of earlier summaries, beside the study's",
    )
    p.add_argument("--no-figures", action="store_true")
    args = p.parse_args(argv)
    try:
        found = [*recorded(args.recorded), *collect(args.out, may_be_empty=bool(args.recorded))]
        for name in args.tasks or []:
            check_known("task among these runs", name, {r.run["task"] for r in found})
        records = [r for r in found if not args.tasks or r.run["task"] in args.tasks]
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    console = Console(width=None if sys.stdout.isatty() else 140)
    args.out.mkdir(parents=True, exist_ok=True)
    write_csv(args.out / "summary.csv", COLUMNS, [record.row() for record in records])
    gains = estimates(records, "gain")
    finals = {(row["task"], row["variant"]): row for row in estimates(records, "final_success")}
    wide = [
        {**row, **{f"final_{key}": finals[row["task"], row["variant"]][key] for key in ("iqm", "low", "high")}}
        for row in gains
    ]
    columns = ("task", "variant", "runs", "iqm", "low", "high", "final_iqm", "final_low", "final_high")
    write_csv(args.out / "variants.csv", columns, wide)
    print_table(gains, records, console)
    by_status = {s: [r for r in records if r.status == s] for s in ("finished", "unfinished", "failed")}
    console.print(", ".join(f"{len(found)} {status}" for status, found in by_status.items()))
    for record in by_status["failed"]:
        console.print(f"failed: {record.run['task']} {record.run['variant']} seed {record.run['seed']}", highlight=False)
    against_base, spread = differences.differences(records)
    write_csv(args.out / "differences.csv", differences.COLUMNS, against_base)
    if spread is not None:
        console.print(f"A single difference from the base varies by {spread:.2f} from seed to seed (standard deviation)")
    written = ["summary.csv", "variants.csv", "differences.csv"]
    if not args.no_figures:
        from benchmarks.learning.figures import draw, draw_differences

        written += [path.name for path in draw(records, args.out)]
        if against_base:
            written.append(draw_differences(against_base, spread, args.out).name)
    console.print(f"Wrote {', '.join(written)} to {args.out}", highlight=False)
    return 0
