"""All runs of a plan over the cores: one process and one thread each; finished ones are skipped, failed ones are named."""

import argparse
import json
import os
import pathlib
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from benchmarks.learning import plans
from benchmarks.learning.run import folder_of

REFRESH = 0.5
GRACE = 10.0  # seconds that a child has to end after SIGTERM


@dataclass
class Job:
    """
    One run of the study.

    :param run: cell of the plan
    :param seed: of the run
    :param steps: environment steps
    :param folder: of the run
    :param command: that makes it, from the repository's root
    :param process: while it runs
    :param bar: its line on the screen
    """

    run: plans.Run
    seed: int
    steps: int
    folder: pathlib.Path
    command: list[str]
    process: "subprocess.Popen[bytes] | None" = field(default=None, repr=False)
    bar: TaskID | None = None

    @property
    def name(self) -> str:
        """For people."""
        return f"{self.run.task} {self.run.variant} seed {self.seed}"

    @property
    def finished(self) -> bool:
        """Results are there."""
        return (self.folder / "results.json").exists()

    def progress(self) -> int:
        """Environment steps done, as the run last reported."""
        return self.steps if self.finished else min(self._status().get("steps", 0), self.steps)

    def stage(self) -> str:
        """What the run is at."""
        return str(self._status().get("stage", "starting"))

    def _status(self) -> dict[str, Any]:
        path = self.folder / "status.json"
        return json.loads(path.read_text()) if path.exists() else {}  # replaced as a whole: never half a file

    def error(self) -> str:
        """Why it failed."""
        path = self.folder / "failure.json"
        if path.exists():
            return str(json.loads(path.read_text())["error"])
        lines = (self.folder / "log.txt").read_text(errors="replace").strip().splitlines()
        return lines[-1] if lines else f"no output, exit status {self.process.returncode if self.process else '?'}"


def jobs_of(args: argparse.Namespace) -> list[Job]:
    """
    All runs of the command line, the seeds of a variant side by side.

    :param args: parsed
    """
    found = []
    for run in plans.runs(args.plan):
        wanted = (args.tasks or [run.task], run.task), (args.variants or [run.variant], run.variant)
        factor = args.factors or [run.factor]
        if any(value not in allowed for allowed, value in wanted) or run.factor not in [*factor, "base"]:
            continue
        for seed in args.seeds:
            steps = args.steps or plans.TASKS[run.task]["steps"]
            command = [sys.executable, "-m", "benchmarks.learning", "run", "--task", run.task, "--variant", run.variant]
            command += ["--seed", str(seed), "--steps", str(steps), "--out", str(args.out), "--threads", "1"]
            found.append(Job(run, seed, steps, folder_of(args.out, run.task, run.variant, seed), command))
    return found


def start(job: Job) -> None:
    """
    :param job: to begin or to go on with; its output is appended to log.txt
    """
    job.folder.mkdir(parents=True, exist_ok=True)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    with (job.folder / "log.txt").open("ab") as log:
        # A session of its own: Ctrl-C reaches only this process, which then ends its children in order.
        job.process = subprocess.Popen(
            job.command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment, start_new_session=True
        )


def stop(jobs: list[Job]) -> None:
    """
    End running children, at first kindly; what they had saved stays.

    :param jobs: some may have ended
    """
    running = [job.process for job in jobs if job.process is not None and job.process.poll() is None]
    for sign, patience in ((signal.SIGTERM, GRACE), (signal.SIGKILL, GRACE)):
        for process in running:
            if process.poll() is None:
                os.killpg(process.pid, sign)
        deadline = time.monotonic() + patience
        while running and time.monotonic() < deadline:
            running = [process for process in running if process.poll() is None]
            time.sleep(0.05)


@contextmanager
def terminable() -> Iterator[None]:
    """SIGTERM ends the study as Ctrl-C does."""

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def work(jobs: list[Job], n_jobs: int, console: Console) -> list[Job]:
    """
    Run all that are not finished.

    :param jobs: of the study
    :param n_jobs: at a time
    :param console: where progress is shown
    :return: those that failed
    """
    waiting = [job for job in jobs if not job.finished][::-1]
    running: list[Job] = []
    failed: list[Job] = []
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    try:
        # Runs differ in speed and stand still while they clone: the rate is that of the last hour.
        with Progress(*columns, console=console, speed_estimate_period=3600, refresh_per_second=2) as screen:
            done = sum(job.progress() for job in jobs)
            total = screen.add_task("environment steps", total=sum(job.steps for job in jobs), completed=done)
            while waiting or running:
                while waiting and len(running) < n_jobs:
                    job = waiting.pop()
                    start(job)
                    job.bar = screen.add_task(job.name, total=job.steps)
                    running.append(job)
                time.sleep(REFRESH)
                for job in list(running):
                    assert job.process is not None and job.bar is not None
                    screen.update(job.bar, completed=job.progress(), description=f"{job.name}: {job.stage()}")
                    if job.process.poll() is None:
                        continue
                    running.remove(job)
                    screen.remove_task(job.bar)
                    if job.finished:
                        screen.console.print(_line(job))
                    else:
                        failed.append(job)
                        screen.console.print(f"[red]failed[/red]  {job.name}: {job.error()}", markup=True, highlight=False)
                screen.update(total, completed=sum(job.progress() for job in jobs))
    finally:
        stop(running)
    return failed


def _line(job: Job) -> str:
    results = json.loads((job.folder / "results.json").read_text())
    before, after = results["bc"]["success"], results["final"]["success"]
    return f"finished {job.name}: success {before:.2f} -> {after:.2f}, {results['seconds'] / 60:.1f} minutes"


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
            failed = work(jobs, args.jobs, console)
    except KeyboardInterrupt:
        console.print("Interrupted; the same command goes on from the last checkpoints.")
        return 130
    for job in failed:
        console.print(f"failed: {job.name}, see {job.folder / 'log.txt'}", highlight=False)
    console.print(
        f"{len(jobs) - len(failed)} of {len(jobs)} runs finished. python -m benchmarks.learning summary --out {args.out}"
    )
    return 1 if failed else 0
