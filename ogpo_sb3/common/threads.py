"""How many threads a command-line tool should give torch. The library itself never changes that number."""

import os


def free_cores(workers: int = 0) -> int:
    """
    Cores that nobody else uses: more threads than that and each small operation waits for one that has no core to run on
    (measured with two threads beside one busy process: a critic step of 620 ms instead of 19 ms).

    :param workers: environment processes of this run
    :return: at least 1
    """
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    busy = round(os.getloadavg()[0]) if hasattr(os, "getloadavg") else 0
    return max(1, usable - workers - busy)
