"""Where the runs of a comparison are: processes on this machine, or tasks on a Ray cluster that start them."""

import os
import pathlib
import signal
import subprocess
import threading
import time
from typing import Any

from ogpo_sb3.compare.scheduling import Job

GRACE = 10.0  # seconds that a child has to end after SIGTERM
_SCHEDULER = "OGPO_SB3_SCHEDULER"


def spawn(command: list[str], folder: pathlib.Path, threads: int = 1) -> "subprocess.Popen[bytes]":
    """
    :param command: of the run
    :param folder: its output is appended to log.txt there
    :param threads: of its linear algebra
    :return: the process, which leads a session of its own: Ctrl-C reaches only the scheduler, which ends it in order
    """
    n = str(threads)
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": n,
        "MKL_NUM_THREADS": n,
        "PYTHONUNBUFFERED": "1",
        _SCHEDULER: str(os.getpid()),
    }
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "log.txt").open("ab") as log:
        return subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment, start_new_session=True
        )


def end_with_scheduler(every: float = 0.1) -> None:
    """
    In a run: end when the process that started it is gone, however that ended. Without this a killed scheduler would leave
    runs behind that nothing stops.

    :param every: seconds between two looks
    """
    parent = os.environ.get(_SCHEDULER)
    if parent is None:
        return

    def watch() -> None:
        while os.getppid() == int(parent):
            time.sleep(every)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


class LocalEngine:
    """
    One process per run on this machine.

    :param jobs: runs at a time
    :param threads: of each run
    """

    def __init__(self, jobs: int, threads: int = 1):
        self.slots, self.threads = jobs, threads

    def start(self, job: Job) -> None:
        """See :class:`ogpo_sb3.compare.scheduling.Engine`."""
        job.process = spawn(job.command, job.folder, self.threads)

    def exit_status(self, job: Job) -> int | None:
        """See :class:`ogpo_sb3.compare.scheduling.Engine`."""
        status: int | None = job.process.poll()
        return status

    def stop(self, jobs: list[Job]) -> None:
        """See :class:`ogpo_sb3.compare.scheduling.Engine`: SIGTERM first, SIGKILL to what is left."""
        end([job.process for job in jobs if job.process is not None])


def end(processes: "list[subprocess.Popen[bytes]]") -> None:
    """
    :param processes: leaders of their groups; some may have ended
    """
    running = [process for process in processes if process.poll() is None]
    for sign in (signal.SIGTERM, signal.SIGKILL):
        for process in running:
            if process.poll() is None:
                os.killpg(process.pid, sign)
        deadline = time.monotonic() + GRACE
        while running and time.monotonic() < deadline:
            running = [process for process in running if process.poll() is None]
            time.sleep(0.05)


class RayEngine:
    """
    One Ray task per run, on the cluster that ``RAY_ADDRESS`` or ``address`` names, else on a local one.

    Nodes must have the package and its simulators, and see the folder of the comparison under the same path.

    :param jobs: runs that are handed to Ray at a time; by default one per ``threads`` CPUs of the cluster
    :param threads: CPUs and threads of each run
    :param address: as in ``ray.init``
    :raises ImportError: Ray is not installed
    """

    def __init__(self, jobs: int | None = None, threads: int = 1, address: str | None = None):
        try:
            import ray
        except ImportError as error:
            raise ImportError('--engine ray needs ray: pip install "ogpo_sb3[ray]"') from error
        self._ray = ray
        if not ray.is_initialized():
            address = address or os.environ.get("RAY_ADDRESS")
            local: dict[str, Any] = (
                {} if address else {"num_cpus": max(jobs or os.cpu_count() or 1, 1) * threads, "include_dashboard": False}
            )
            ray.init(address=address, log_to_driver=False, **local)
        self.slots = jobs or max(int(ray.cluster_resources().get("CPU", 1)) // threads, 1)
        self.threads = threads
        self._task = ray.remote(num_cpus=threads, max_retries=0)(_run_in_task)

    def start(self, job: Job) -> None:
        """See :class:`ogpo_sb3.compare.scheduling.Engine`."""
        job.process = self._task.remote(job.command, str(job.folder.absolute()), os.getcwd(), self.threads)

    def exit_status(self, job: Job) -> int | None:
        """See :class:`ogpo_sb3.compare.scheduling.Engine`; a lost node counts as a failed run."""
        ready, _ = self._ray.wait([job.process], timeout=0)
        if not ready:
            return None
        try:
            status: int = self._ray.get(job.process)
        except self._ray.exceptions.RayError:
            return 1
        return status

    def stop(self, jobs: list[Job]) -> None:
        """See :class:`ogpo_sb3.compare.scheduling.Engine`."""
        for job in jobs:
            if job.process is not None and self.exit_status(job) is None:
                self._ray.cancel(job.process, force=True)  # the run sees that its parent is gone


def _run_in_task(command: list[str], folder: str, cwd: str, threads: int) -> Any:
    """Runs on a node of the cluster: a process of its own, as on one machine."""
    if os.path.isdir(cwd):
        os.chdir(cwd)
    return spawn(command, pathlib.Path(folder), threads).wait()
