"""Which benchmarks run here, and what is missing for the others: ``python -m ogpo_sb3.doctor``.

Each benchmark is tried in a process of its own under a time limit, since a broken OpenGL driver hangs instead of failing.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from typing import Any

from packaging.requirements import Requirement

from ogpo_sb3.common.progress import progress
from ogpo_sb3.envs import libero, registry, rendering

# Long enough for the slowest import and a software-rendered picture beside other work.
TIME_LIMIT = 180.0


@dataclass(frozen=True)
class Benchmark:
    """What there is to check.

    :param name: for the report.
    :param env_id: a registered task that stands for it.
    :param packages: distributions whose versions are told, the engine first.
    :param extra: pip extra; None for the core.
    :param data: where its demonstrations come from.
    """

    name: str
    env_id: str
    packages: tuple[str, ...]
    extra: str | None
    data: str


BENCHMARKS = (
    Benchmark("Push-T", "ogpo/PushT-v0", ("gym-pusht", "pymunk"), None, "shipped:pusht"),
    Benchmark("Kitchen", "ogpo/KitchenComplete-v0", ("gymnasium-robotics", "mujoco"), "kitchen", "shipped:kitchen-complete"),
    Benchmark("Adroit", "ogpo/AdroitRelocate-v0", ("gymnasium-robotics", "mujoco"), "adroit", "expert policies shipped"),
    Benchmark(
        "Robomimic",
        "ogpo/RobomimicLift-v0",
        ("robosuite", "robomimic", "mujoco"),
        "robomimic",
        "scripted experts; robomimic's own files by path",
    ),
    Benchmark(
        "LIBERO",
        "ogpo/Libero-v0",
        ("hf-libero", "bddl", "robosuite", "mujoco"),
        "libero",
        "LIBERO's own files by path",
    ),
)


@dataclass(frozen=True)
class Finding:
    """One line of the report.

    :param name: the benchmark.
    :param ready: it runs.
    :param text: versions and times, or exactly what to do.
    :param expected: nothing is broken: it runs, or was never installed, or its assets are to be fetched.
    """

    name: str
    ready: bool
    text: str
    expected: bool


def examine(benchmark: Benchmark, limit: float = TIME_LIMIT) -> Finding:
    """Check one benchmark: packages and versions, then import, assets, reset, step and picture in another process.

    :param benchmark: what to check.
    :param limit: seconds for that process.
    :return: the finding.
    """
    installed = {name: _version(name) for name in benchmark.packages}
    install = registry.install_command(benchmark.extra)
    absent = [name for name, version in installed.items() if version is None]
    if absent:
        return Finding(benchmark.name, False, f"not installed ({', '.join(absent)} missing): run {install}", True)
    versions = ", ".join(f"{name} {version}" for name, version in installed.items())
    for conflict in _conflicts(benchmark.extra, installed):
        return Finding(benchmark.name, False, f"{conflict}: run {install} with -c constraints.txt", False)
    try:
        ran = subprocess.run(
            [sys.executable, "-c", f"from ogpo_sb3 import doctor; doctor.trial({benchmark.env_id!r})"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=limit,
        )
    except subprocess.TimeoutExpired:
        return Finding(benchmark.name, False, f"no picture within {limit:.0f} s ({versions}): {_other_backend()}", False)
    if ran.returncode != 0:
        lines = [line.strip() for line in ran.stderr.splitlines() if line.strip()]
        told = lines[-1] if lines else f"exit status {ran.returncode}"
        return Finding(benchmark.name, False, f"fails ({versions}): {told}; {_other_backend()}", False)
    seen = json.loads(ran.stdout.splitlines()[-1])
    if "missing" in seen:
        return Finding(benchmark.name, False, f"installed ({versions}), but {seen['missing']}", True)
    return Finding(
        benchmark.name,
        True,
        f"ready: {versions}; start {seen['start']:.1f} s, picture {seen['picture']:.1f} s "
        f"(MUJOCO_GL={seen['backend']}); data: {benchmark.data}",
        True,
    )


def trial(env_id: str) -> None:
    """Reset a task, step it, draw it, and print as JSON how long that took, or which assets are missing.

    Runs in the process that ``examine`` starts.

    :param env_id: a registered id.
    """
    import gymnasium as gym

    registry.register_environments()
    begun = time.perf_counter()
    try:
        env: gym.Env[Any, Any] = gym.make(env_id, render_mode="rgb_array")
    except libero.AssetsMissing as error:
        print(json.dumps({"missing": str(error)}))
        return
    env.reset(seed=0)
    env.step(0.0 * env.action_space.sample())
    started = time.perf_counter()
    picture: Any = env.render()
    drawn = time.perf_counter()
    if picture.std() == 0:
        raise RuntimeError("the picture is empty")
    env.close()
    # robosuite chooses for itself where nothing was chosen.
    backend = os.environ.get("MUJOCO_GL", "unset")
    print(json.dumps({"start": started - begun, "picture": drawn - started, "backend": backend}))


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _conflicts(extra: str | None, installed: dict[str, str | None]) -> list[str]:
    """Versions outside what this package declares, one sentence each."""
    declared = [Requirement(line) for line in _requirements()]
    declared += [Requirement(line) for line in registry.WITHOUT_DEPENDENCIES.get(extra or "", "").split()]
    found = []
    for requirement in declared:
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": extra or ""}):
            continue
        version = installed.get(requirement.name)
        if version is not None and not requirement.specifier.contains(version, prereleases=True):
            found.append(f"{requirement.name} {version} is installed, {requirement.specifier} is wanted")
    return found


def _requirements() -> list[str]:
    """What the installed package declares; nothing where it runs from a folder that was never installed."""
    try:
        return metadata.requires("ogpo_sb3") or []
    except metadata.PackageNotFoundError:
        return []


def _other_backend() -> str:
    """What to set MUJOCO_GL to, found by trying."""
    current = os.environ.get("MUJOCO_GL", "")
    problems = []
    for backend in ("egl", "osmesa"):
        problem = rendering.probe(backend)
        if problem is None:
            return (
                f"set MUJOCO_GL={backend}, which draws here" if backend != current else f"MUJOCO_GL={backend} draws by itself"
            )
        problems.append(problem)
    return f"install libegl1 or libosmesa6 ({'; '.join(problems)})"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    :param arguments: command line without the program's name; None takes ``sys.argv``.
    :return: exit status: 0, or 1 if something that is installed does not work.
    """
    parser = argparse.ArgumentParser(prog="python -m ogpo_sb3.doctor", description="Say which benchmarks run here.")
    names = [benchmark.name.lower() for benchmark in BENCHMARKS]
    parser.add_argument("benchmarks", nargs="*", metavar="NAME", help=f"only these of: {', '.join(names)}")
    parser.add_argument(
        "--time-limit", type=float, default=TIME_LIMIT, help="seconds for each benchmark (default: %(default)s)"
    )
    options = parser.parse_args(arguments)
    unknown = [name for name in options.benchmarks if name.lower() not in names]
    if unknown:
        parser.error(f"benchmarks are {', '.join(names)}, found {unknown[0]!r}")
    if options.time_limit <= 0:
        parser.error(f"--time-limit must be positive, found {options.time_limit}")
    wanted = {name.lower() for name in options.benchmarks} or set(names)
    chosen = [benchmark for benchmark in BENCHMARKS if benchmark.name.lower() in wanted]
    findings = []
    bar = progress(range(len(chosen)), "checking", len(chosen), sys.stderr.isatty())
    for index in bar:
        findings.append(examine(chosen[index], options.time_limit))
        bar.clear()
        print(f"{findings[-1].name:<10} {findings[-1].text}", flush=True)
    return 0 if all(finding.expected for finding in findings) else 1


if __name__ == "__main__":
    sys.exit(main())
