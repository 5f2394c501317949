"""
Everything that is measured of OGPO's update, printed as tables and written as CSV.

    python -m benchmarks.update [--parts speed scaling end-to-end import] [--sizes small paper] [--device cpu cuda]
                                [--threads N] [--repeats N] [--contenders "jax fp32" ...] [--cases vanilla]
                                [--csv FILE] [--quick]

An update is one critic step and one actor step, sampling of the batches included. The contenders take turns within each
round, so that a drift of the machine favours none; ratios are medians over rounds of straightforward time over the
contender's. Rows are B x G x K, all chains' denoising steps. "of rate" is the time that the update's matrix products would
take at the rate measured in the same rounds at the same shapes and precision, over the time taken: of all products
of the straightforward update ("all": above one where a contender leaves work out), and of those that the sampled chains need
("needed": chains with an advantage are scored, chains that are not clipped have a gradient).
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import pathlib
import statistics
import subprocess
import sys
import time

from tqdm import tqdm

from benchmarks.update import report
from benchmarks.update.measure import CASES, FIELDS, REFERENCE, Case, Recorder, measure_size
from benchmarks.update.sizes import SIZES
from benchmarks.update.worker import CONTENDERS, ROOT

PARTS = ("speed", "scaling", "end-to-end", "import")
QUICK_CASES = (Case("mean", 0.2, 0.0), Case("conservative", 0.2, 0.5))
SPEED_COLUMNS = (
    "case",
    "contender",
    ("updates_per_second", "updates/s"),
    ("rows_per_second", "rows/s"),
    "ratio",
    ("ratio_low", "low"),
    ("ratio_high", "high"),
    ("critic_ms", "critic ms"),
    ("actor_ms", "actor ms"),
    ("rate_share_all", "of rate, all"),
    ("rate_share_needed", "of rate, needed"),
    ("peak_mb", "peak MB"),
    ("before_mb", "before MB"),
    ("cuda_peak_mb", "CUDA MB"),
    ("agreement", "agree"),
    ("clip_share", "clipped"),
    ("gradient_share", "gradient"),
)
UNIT_COLUMNS = ("case", "contender", "sampling", "target_critics", "scoring", "backward", "optimiser", "all")


def speed(args: argparse.Namespace) -> None:
    """Contenders against each other at each size."""
    file = report.CsvFile(args.csv, FIELDS)
    rows: list[report.Row] = []
    steps = len(args.device) * len(args.sizes) * (1 + len(args.cases) * (2 + args.repeats))
    with tqdm(total=steps, desc="update speed") as bar:

        def advance(what: str) -> None:
            bar.set_description(what)
            bar.update()

        def on_row(row: report.Row) -> None:
            rows.append(row)
            file.write(row)

        recorder = Recorder(on_row, advance)
        for device in args.device:
            for size in args.sizes:
                measure_size(size, device, args.cases, args.threads, args.repeats, args.contenders, recorder)
    for device in args.device:
        for size in args.sizes:
            here = [row for row in rows if (row["device"], row["size"]) == (device, size)]
            on_cuda = device == "cuda"
            columns = [c for c in SPEED_COLUMNS if on_cuda or c[0] != "cuda_peak_mb"]
            report.table(f"{size} size, {device}: ratios are against {REFERENCE}", here, columns)
            units = [row for row in recorder.units if (row["device"], row["size"]) == (device, size)]
            report.table(
                "Parts of an actor step, unit: all rows once through the straightforward network", units, UNIT_COLUMNS
            )
            rates = [row for row in recorder.rates if (row["device"], row["size"]) == (device, size)]
            report.table("Measured products, GFLOP/s", rates, [key for key in rates[0] if key not in ("size", "device")])
    for note in recorder.notes:
        report.CONSOLE.print(f"not measured: {note}")
    for name, content in (("units", recorder.units), ("rates", recorder.rates)):
        part = report.CsvFile(report.beside(args.csv, name), list(content[0]))
        for row in content:
            part.write(row)


def import_time(repeats: int) -> None:
    """
    Seconds of ``import ogpo_sb3`` in a fresh interpreter, the interpreter's own start taken off.

    :param repeats: of each
    """

    def run(code: str) -> float:
        started = time.perf_counter()
        subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
        return time.perf_counter() - started

    run("import ogpo_sb3")
    seconds = [run("import ogpo_sb3") - run("pass") for _ in range(repeats)]
    report.CONSOLE.print(
        f"import ogpo_sb3: {statistics.median(seconds):.2f} s (median of {repeats}; {min(seconds):.2f} at best)"
    )


def main() -> None:
    """Run the parts that are asked for."""
    parser = argparse.ArgumentParser(
        "python -m benchmarks.update", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS), help="default: all")
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES))
    parser.add_argument("--device", nargs="+", choices=("cpu", "cuda"), help="default: cpu, and cuda where there is one")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--repeats", type=int, help="timed rounds per case (default 5, quick 1)")
    parser.add_argument(
        "--contenders", nargs="+", choices=list(CONTENDERS), default=list(CONTENDERS), help=f"beside {REFERENCE}"
    )
    parser.add_argument(
        "--cases", nargs="+", default=[""], metavar="START", help='those whose names begin so, such as "CA 0.2"'
    )
    parser.add_argument("--csv", type=pathlib.Path, help="of the speed part; other parts write beside it")
    parser.add_argument("--quick", action="store_true", help="two cases, one round, short runs: whether it works")
    args = parser.parse_args()
    cases = QUICK_CASES if args.quick else CASES
    wanted, args.cases = args.cases, [case for case in cases if str(case).startswith(tuple(args.cases))]
    if not args.cases:
        parser.error(f"--cases found {wanted}, wanted beginnings of {[str(case) for case in cases]}")
    args.repeats = args.repeats or (1 if args.quick else 5)
    has_cuda = report.cuda_name() is not None
    args.device = args.device or ["cpu", *(["cuda"] if has_cuda else [])]
    if "cuda" in args.device and not has_cuda:
        args.device.remove("cuda")
    report.CONSOLE.print(report.machine(args.threads))
    if "import" in args.parts:
        import_time(3 if args.quick else 5)
    if "speed" in args.parts:
        if importlib.util.find_spec("jax") is not None:
            report.CONSOLE.print(
                subprocess.check_output([sys.executable, "-m", "benchmarks.update.check_jax"], cwd=ROOT, text=True)
            )
        speed(args)
    # The other two measure in this process, which must not weigh on the first one's memory.
    if "scaling" in args.parts:
        from benchmarks.update import scaling

        for device in args.device:
            scaling.run(device, args.threads, args.repeats, report.beside(args.csv, f"scaling-{device}"), quick=args.quick)
    if "end-to-end" in args.parts:
        from benchmarks.update import end_to_end

        for device in args.device:
            path = report.beside(args.csv, f"end-to-end-{device}")
            end_to_end.run(args.threads, args.repeats, path, quick=args.quick, device=device)


if __name__ == "__main__":
    main()
