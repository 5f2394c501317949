"""Many runs over the cores or a cluster: finished ones are skipped, failed ones are named, progress is shown."""

import json
import pathlib
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from ogpo_sb3.common.files import write_json

REFRESH = 0.5


@dataclass
class Job:
    """
    One process to run.

    :param name: for people
    :param folder: where it writes status.json, log.txt and its result
    :param command: that makes it
    :param steps: environment steps; 0 for a job without any
    :param result: file in ``folder`` that is there once it has finished
    :param after: job that must have finished before
    :param process: the engine's handle, while it runs
    :param bar: its line on the screen
    """

    name: str
    folder: pathlib.Path
    command: list[str]
    steps: int
    result: str = "results.json"
    after: "Job | None" = None
    process: Any = field(default=None, repr=False)
    bar: TaskID | None = None

    @property
    def finished(self) -> bool:
        """Results are there."""
        return (self.folder / self.result).exists()

    def progress(self) -> int:
        """Environment steps done, as the run last reported."""
        return self.steps if self.finished else min(self._status().get("steps", 0), self.steps)

    def stage(self) -> str:
        """What the run is at."""
        return str(self._status().get("stage", "starting"))

    def _status(self) -> dict[str, Any]:
        path = self.folder / "status.json"
        return json.loads(path.read_text()) if path.exists() else {}  # replaced as a whole: never half a file

    def error(self, status: int | None = None) -> str:
        """
        Why it failed.

        :param status: of the process that ended
        """
        path, log = self.folder / "failure.json", self.folder / "log.txt"
        if path.exists():
            return str(json.loads(path.read_text())["error"])
        lines = log.read_text(errors="replace").strip().splitlines() if log.exists() else []
        ended = f"exit status {'?' if status is None else status}"
        return f"{lines[-1]} ({ended})" if lines else f"no output, {ended}"


class Engine(Protocol):
    """Where jobs run."""

    slots: int

    def start(self, job: Job) -> None:
        """
        :param job: to begin or to go on with; its output is appended to log.txt
        """

    def exit_status(self, job: Job) -> int | None:
        """
        :param job: that was started
        :return: None while it runs
        """

    def stop(self, jobs: list[Job]) -> None:
        """
        End running jobs; what they had saved stays.

        :param jobs: some may have ended
        """


@contextmanager
def terminable() -> Iterator[None]:
    """SIGTERM ends the command as Ctrl-C does."""

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def work(
    jobs: list[Job],
    engine: Engine,
    console: Console,
    told: Callable[[Job], str] = lambda job: f"finished {job.name}",
    refresh: float = REFRESH,
) -> list[Job]:
    """
    Run all that are not finished.

    :param jobs: in the order in which they are begun, as far as what they need is there
    :param engine: where
    :param console: where progress is shown
    :param told: line that is printed when one has finished
    :param refresh: seconds between two looks
    :return: those that failed, with those that needed them
    """
    waiting = [job for job in jobs if not job.finished]
    running: list[Job] = []
    failed: list[Job] = []
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    try:
        # Runs differ in speed and stand still while they clone: the rate is that of the last hour.
        with Progress(*columns, console=console, speed_estimate_period=3600, refresh_per_second=2) as screen:

            def fail(job: Job, status: int | None) -> None:
                failed.append(job)
                reason = job.error(status)
                if not (job.folder / "failure.json").exists():  # it had no time to say why: killed, or out of memory
                    write_json(job.folder / "failure.json", dict(error=reason))
                screen.console.print(f"[red]failed[/red]  {job.name}: {reason}", markup=True, highlight=False)

            done = sum(job.progress() for job in jobs)
            total = screen.add_task("environment steps", total=sum(job.steps for job in jobs), completed=done)
            while waiting or running:
                for job in [job for job in waiting if job.after is not None and job.after in failed]:
                    assert job.after is not None
                    waiting.remove(job)
                    write_json(job.folder / "failure.json", dict(error=f"{job.after.name} failed: {job.after.error()}"))
                    fail(job, None)
                while len(running) < engine.slots and (ready := _next(waiting)) is not None:
                    job = ready
                    waiting.remove(job)
                    job.folder.mkdir(parents=True, exist_ok=True)
                    (job.folder / "failure.json").unlink(missing_ok=True)
                    engine.start(job)
                    job.bar = screen.add_task(job.name, total=job.steps or None)
                    running.append(job)
                time.sleep(refresh)
                for job in list(running):
                    assert job.bar is not None
                    screen.update(job.bar, completed=job.progress(), description=f"{job.name}: {job.stage()}")
                    status = engine.exit_status(job)
                    if status is None:
                        continue
                    running.remove(job)
                    screen.remove_task(job.bar)
                    if job.finished:
                        screen.console.print(told(job), highlight=False)
                    else:
                        fail(job, status)
                screen.update(total, completed=sum(job.progress() for job in jobs))
    finally:
        engine.stop(running)
    return failed


def _next(waiting: list[Job]) -> Job | None:
    return next((job for job in waiting if job.after is None or job.after.finished), None)


def success_line(job: Job) -> str:
    """
    :param job: finished run of a policy
    """
    results = json.loads((job.folder / job.result).read_text())
    if "final" not in results:
        return f"finished {job.name}"
    before, after = results["bc"]["success"], results["final"]["success"]
    measured = "no success reported" if before is None or after is None else f"success {before:.2f} -> {after:.2f}"
    return f"finished {job.name}: {measured}, {results['seconds'] / 60:.1f} minutes"
