"""All runs of a plan over the cores: one process and one thread each; finished ones are skipped, failed ones are named."""

import argparse
import os
import pathlib
import shlex
import sys

from ogpo_sb3.common.names import check_known
from ogpo_sb3.compare.engines import LocalEngine
from ogpo_sb3.compare.scheduling import Job, success_line, terminable, work
from rich.console import Console

from benchmarks.learning import plans
from benchmarks.learning.run import folder_of

REFRESH = 0.5


def jobs_of(args: argparse.Namespace) -> list[Job]:
    """
    All runs of the command line, the seeds of a variant side by side.

    :param args: parsed
    :raises ValueError: a plan, task, factor or variant that there is not
    """
    found = []
    planned = plans.runs(args.plan)
    for name in ("task", "factor", "variant"):
        held = {getattr(run, name) for run in planned}
        for given in getattr(args, f"{name}s") or []:
            check_known(f"{name} of plan {args.plan!r}", given, held)
    for run in planned:
        wanted = (args.tasks or [run.task], run.task), (args.variants or [run.variant], run.variant)
        factor = args.factors or [run.factor]
        if any(value not in allowed for allowed, value in wanted) or run.factor not in [*factor, "base"]:
            continue
        for seed in dict.fromkeys(args.seeds):
            steps = args.steps or plans.TASKS[run.task]["steps"]
            command = [sys.executable, "-m", "benchmarks.learning", "run", "--task", run.task, "--variant", run.variant]
            command += ["--seed", str(seed), "--steps", str(steps), "--out", str(args.out), "--threads", "1"]
            name = f"{run.task} {run.variant} seed {seed}"
            found.append(Job(name, folder_of(args.out, run.task, run.variant, seed), command, steps))
    return found


def main(argv: list[str]) -> int:
    """
    :param argv: command-line arguments
    :return: 0; 1 where runs failed; 130 after an interruption
    """
    p = argparse.ArgumentParser(prog="python -m benchmarks.learning study", description="All runs of a plan.")
    p.add_argument("--plan", required=True, help=f"one of {', '.join(plans.PLANS)}")
    p.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    p.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="runs at a time (default: all cores)")
    p.add_argument("--out", type=pathlib.Path, default=pathlib.Path("runs/study"))
    p.add_argument("--tasks", nargs="+", help="only these of the plan")
    p.add_argument("--factors", nargs="+", help="only these of the plan, and the base")
    p.add_argument("--variants", nargs="+", help="only these of the plan")
    p.add_argument("--steps", type=int, help="environment steps of every run (default: the task's)")
    p.add_argument("--dry-run", action="store_true", help="print the commands of the runs that are left")
    args = p.parse_args(argv)
    try:
        jobs = jobs_of(args)
    except ValueError as error:
        p.error(str(error))
    if not jobs or args.jobs < 1:
        p.error(
            f"plan {args.plan!r} holds none of the runs asked for"
            if not jobs
            else f"--jobs must be at least 1, found {args.jobs}"
        )
    left = [job for job in jobs if not job.finished]
    if args.dry_run:
        for job in left:
            print(shlex.join(["python", *job.command[1:]]))
        return 0
    console = Console()
    console.print(f"{len(jobs)} runs, {len(jobs) - len(left)} of them finished; results go to {args.out}")
    try:
        with terminable():
            failed = work(jobs, LocalEngine(args.jobs), console, success_line, REFRESH)
    except KeyboardInterrupt:
        console.print("Interrupted; the same command goes on from the last checkpoints.")
        return 130
    for job in failed:
        console.print(f"failed: {job.name}, see {job.folder / 'log.txt'}", highlight=False)
    console.print(
        f"{len(jobs) - len(failed)} of {len(jobs)} runs finished. python -m benchmarks.learning summary --out {args.out}"
    )
    return 1 if failed else 0
