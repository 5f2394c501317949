"""The command ``python -m ogpo_sb3.compare``: plan, runs, report."""

import argparse
import os
import pathlib
import shlex
import sys
from collections.abc import Mapping
from typing import Any

from rich.console import Console

from ogpo_sb3.common.files import locked, read_json, write_json
from ogpo_sb3.compare import plan as plans
from ogpo_sb3.compare.defaults import PRESETS
from ogpo_sb3.compare.engines import LocalEngine, RayEngine
from ogpo_sb3.compare.scheduling import Engine, Job, success_line, terminable, work
from ogpo_sb3.compare.settings import flat, parse_assignments
from ogpo_sb3.evaluation.statistics import require_rliable


def parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    p = argparse.ArgumentParser(
        prog="python -m ogpo_sb3.compare", description="A fair contest of algorithms: plan, runs, report."
    )
    p.add_argument("--algos", nargs="+", metavar="ID", help="algorithms by their zoo ids")
    p.add_argument("--envs", nargs="+", metavar="ID", help="environments")
    p.add_argument("--seeds", type=int, default=3, help="number of seeds (default: %(default)s)")
    p.add_argument("--first-seed", type=int, default=0, help="seeds are counted from here (default: %(default)s)")
    p.add_argument("--steps", type=float, default=20_000, help="environment steps of every run (default: %(default)s)")
    p.add_argument("--out", type=pathlib.Path, default=pathlib.Path("runs/compare"), help="folder (default: %(default)s)")
    p.add_argument("--preset", default="laptop", help=f"one of {', '.join(PRESETS)} (default: %(default)s)")
    p.add_argument(
        "--set", nargs="+", action="extend", default=[], metavar="[ALGO.]NAME=VALUE", help="for all algorithms, or for one"
    )
    p.add_argument(
        "--tuned", type=pathlib.Path, help="YAML of settings by algorithm and environment: runs beside the fixed ones"
    )
    p.add_argument(
        "--variants",
        type=pathlib.Path,
        help="YAML of settings by algorithm and name: runs beside the fixed ones, on every task",
    )
    p.add_argument("--policy", default="FlowPolicy", help="of all algorithms (default: %(default)s)")
    p.add_argument(
        "--demonstrations", nargs="+", action="extend", default=[], metavar="ENV=SOURCE", help="in place of a task's own"
    )
    p.add_argument("--eval-freq", type=int, help="environment steps between evaluations and checkpoints (default: steps / 10)")
    p.add_argument("--eval-episodes", type=int, default=50, help="of the evaluations on a curve (default: %(default)s)")
    p.add_argument("--final-episodes", type=int, default=100, help="of those before and after (default: %(default)s)")
    p.add_argument("--device", default="cpu", help="of every run (default: %(default)s)")
    p.add_argument("--engine", default="local", choices=["local", "ray"], help="where runs are (default: %(default)s)")
    p.add_argument("--ray-address", help="of the Ray cluster (default: RAY_ADDRESS, else a local one)")
    p.add_argument("--jobs", type=int, help="runs at a time (default: all cores, or all of the cluster's)")
    p.add_argument("--threads", type=int, default=1, help="of each run (default: %(default)s)")
    p.add_argument("--dry-run", action="store_true", help="check the plan and print the commands of the runs that are left")
    p.add_argument("--report-only", action="store_true", help="write the report of --out as it is now")
    return p


def main(argv: list[str] | None = None) -> int:
    """
    :param argv: command-line arguments; the process's when None
    :return: 0; 1 where runs failed; 2 where the plan is refused; 130 after an interruption
    """
    argv = sys.argv[1:] if argv is None else argv
    args = parser().parse_args(argv)
    command = f"python -m ogpo_sb3.compare {shlex.join(argv)}"
    console = Console(width=None if sys.stdout.isatty() else 140)
    try:
        require_rliable()
        if args.report_only:
            plan, command = plans.read(args.out), read_json(args.out / "command.json")
            _report(plan, args.out, command, console)
            return 0
        plan = _plan(args)
        if args.dry_run:
            for job in (job for job in jobs_of(plan, args.out, args.threads) if not job.finished):
                console.print(shlex.join(["python", *job.command[1:]]), highlight=False, soft_wrap=True)
            return 0
        engine = _engine(args)
    except (ValueError, ImportError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    try:
        # The processes of a killed command end by themselves, but it takes them a moment.
        with terminable(), locked(args.out / ".lock", wait=False):
            plan.write(args.out)
            write_json(args.out / "command.json", command)
            failed = _run(plan, args.out, args.threads, engine, console)
            _report(plan, args.out, command, console)
    except KeyboardInterrupt:
        console.print("Interrupted; the same command goes on from the last checkpoints.")
        return 130
    except (ValueError, RuntimeError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 1 if failed else 0


def _plan(args: argparse.Namespace) -> plans.Plan:
    from ogpo_sb3.compare.runner import try_out

    for name in ("algos", "envs"):
        if not getattr(args, name):
            raise ValueError(f"--{name} must name at least one, found none")
    for name in ("jobs", "threads"):
        if getattr(args, name) is not None and getattr(args, name) < 1:
            raise ValueError(f"--{name} must be at least 1, found {getattr(args, name)}")
    sources = [text.partition("=") for text in args.demonstrations]
    for env, equals, source in sources:
        if not (equals and env and source):
            raise ValueError(f"--demonstrations wants ENV=SOURCE, found {env + equals + source!r}")
    plan = plans.build(
        args.algos,
        args.envs,
        args.seeds,
        args.steps,
        preset=args.preset,
        overrides=parse_assignments(args.set),
        tuned=None if args.tuned is None else read_settings(args.tuned, "tuned"),
        variants=None if args.variants is None else read_settings(args.variants, "variants"),
        demonstrations={env: source for env, _, source in sources},
        policy=args.policy,
        device=args.device,
        eval_freq=args.eval_freq,
        eval_episodes=args.eval_episodes,
        final_episodes=args.final_episodes,
        first_seed=args.first_seed,
    )
    plan.check_folder(args.out)
    try_out(plan)
    return plan


def read_settings(path: pathlib.Path, what: str) -> dict[str, dict[str, dict[str, Any]]]:
    """
    :param path: YAML file: algorithm, environment or variant, settings (``policy_kwargs`` as a mapping or by dotted names)
    :param what: "tuned" or "variants", the option it was given to
    :raises ValueError: it holds something else
    """
    import yaml

    inner_key = {"tuned": "environments", "variants": "names"}[what]

    if not path.exists():
        raise ValueError(f"--{what} should be a YAML file, found no file {path}")
    try:
        content = yaml.safe_load(path.read_text())
    except yaml.YAMLError as error:
        raise ValueError(f"--{what} should be a YAML file, found in {path}: {' '.join(str(error).split())}") from error
    levels = [content, *(content.values() if isinstance(content, Mapping) else [])]
    levels += [inner for level in levels[1:] if isinstance(level, Mapping) for inner in level.values()]
    if len(levels) < 3 or not all(isinstance(level, Mapping) for level in levels):
        raise ValueError(f"{path} should map algorithms to {inner_key} to settings, found something else")
    return {algo: {name: flat(settings) for name, settings in inner.items()} for algo, inner in content.items()}


def _engine(args: argparse.Namespace) -> Engine:
    if args.engine == "ray":
        return RayEngine(args.jobs, args.threads, args.ray_address)
    return LocalEngine(args.jobs or max((os.cpu_count() or 1) // args.threads, 1), args.threads)


def jobs_of(plan: plans.Plan, out: pathlib.Path, threads: int = 1) -> list[Job]:
    """
    The processes of a comparison: of each task and seed the cloned policy, then the runs that start from it.

    :param plan: of the comparison
    :param out: its folder
    :param threads: of each process
    """
    base = [sys.executable, "-m", "ogpo_sb3.compare.runner", "--out", str(out), "--threads", str(threads), "--run"]
    jobs: list[Job] = []
    clones: dict[str, Job] = {}
    for run in plan.runs():
        cloned = plan.cloned(run)
        if cloned not in clones:
            kind = plan.cloning_of(run)["policy"]
            name = f"cloned {'policy' if kind == plan.policy else kind}, {run.env} seed {run.seed}"
            clones[cloned] = Job(name, out / cloned, [*base, cloned], 0, result="policy.json")
            jobs.append(clones[cloned])
        name = f"{run.algo}{'' if run.mode == 'fixed' else f' ({run.mode})'}, {run.env} seed {run.seed}"
        jobs.append(Job(name, out / run.name, [*base, run.name], plan.steps, after=clones[cloned]))
    return jobs


def _run(plan: plans.Plan, out: pathlib.Path, threads: int, engine: Engine, console: Console) -> list[Job]:
    jobs = jobs_of(plan, out, threads)
    runs = [job for job in jobs if job.steps]
    done = sum(job.finished for job in runs)
    console.print(f"{len(runs)} runs, {done} of them finished; results go to {out}", highlight=False)
    failed = work(jobs, engine, console, success_line)
    for job in failed:
        console.print(f"failed: {job.name}, see {job.folder / 'log.txt'}", highlight=False)
    console.print(f"{sum(job.finished for job in runs)} of {len(runs)} runs finished.", highlight=False)
    return failed


def _report(plan: plans.Plan, out: pathlib.Path, command: str, console: Console) -> None:
    from ogpo_sb3.compare.report import make

    written = make(plan, out, command)
    console.print(f"Wrote {', '.join(path.name for path in written)} to {out}", highlight=False)


if __name__ == "__main__":
    sys.exit(main())
