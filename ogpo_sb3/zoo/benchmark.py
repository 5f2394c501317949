"""Evaluate every trained agent of a log folder; RL-Zoo's own benchmark needs its repository as working directory."""

import argparse
import csv
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
from tqdm import tqdm

from ogpo_sb3.common.files import atomic_write
from ogpo_sb3.common.names import check_known
from ogpo_sb3.zoo.runs import Run, find_runs

FIELDS: tuple[str, ...] = (
    "algorithm",
    "environment",
    "run",
    "model",
    "timesteps",
    "episodes",
    "mean_return",
    "std_return",
    "mean_length",
)
FIELDS += ("success_rate", "success_low", "success_high")


def parse(argv: list[str]) -> argparse.Namespace:
    """
    :param argv: arguments
    """
    parser = argparse.ArgumentParser(
        prog="python -m ogpo_sb3.zoo benchmark", description="Evaluate every trained agent of a log folder on fixed seeds."
    )
    parser.add_argument("--log-dir", type=Path, default=Path("logs"), help="log folder (default: %(default)s)")
    parser.add_argument("--benchmark-dir", type=Path, help="results (default: <log-dir>/benchmark)")
    parser.add_argument("--algos", nargs="+", help="algorithms to include (default: all)")
    parser.add_argument("-n", "--n-episodes", type=int, default=50, help="episodes per agent (default: %(default)s)")
    parser.add_argument("--load-best", action="store_true", help="best model instead of the last one")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--fresh", action="store_true", help="evaluate again what the results hold already")
    args = parser.parse_args(argv)
    if args.n_episodes < 1:
        parser.error(f"--n-episodes must be at least 1, found {args.n_episodes}")
    if not args.log_dir.is_dir():
        parser.error(f"there is no log folder {args.log_dir}")
    known = {path.name for path in args.log_dir.iterdir() if path.is_dir()}
    try:
        for algo in args.algos or []:
            check_known(f"algorithm in {args.log_dir}:", algo, known)
    except ValueError as error:
        parser.error(str(error))
    args.benchmark_dir = args.benchmark_dir or args.log_dir / "benchmark"
    return args


def main(argv: list[str]) -> int:
    """
    Writes ``benchmark.csv`` row by row and ``benchmark.md``; the same command goes on where it was stopped.

    :param argv: arguments
    :return: exit status: 1 where an agent could not be evaluated
    """
    args = parse(argv)
    table = args.benchmark_dir / "benchmark.csv"
    if args.fresh:
        table.unlink(missing_ok=True)
    runs = find_runs(args.log_dir, args.algos)
    if not runs:
        print(f"{args.log_dir} holds no trained agent", file=sys.stderr)
        return 1
    failures = []
    for run in tqdm(runs, desc="benchmark", unit="agent"):
        path = run.folder / ("best_model.zip" if args.load_best else f"{run.name}.zip")
        stamp = f"{path.name}@{path.stat().st_mtime_ns}" if path.exists() else path.name
        if any(row["run"] == str(run.folder) and row["model"] == stamp for row in _rows(table)):
            continue
        try:
            row = evaluate_run(run, path, args.n_episodes, args.device)
        except (AssertionError, ImportError, OSError, RuntimeError, TypeError, ValueError) as error:
            failures.append(f"{run.folder} was not evaluated: {error}")
            continue
        _append(table, {**row, "run": str(run.folder), "model": stamp})
    with atomic_write(args.benchmark_dir / "benchmark.md") as file:
        file.write(report(_rows(table)).encode())
    print(f"Results written to {args.benchmark_dir / 'benchmark.md'}")
    for failure in failures:
        print(failure, file=sys.stderr)
    return 1 if failures else 0


def evaluate_run(run: Run, path: Path, n_episodes: int, device: str) -> dict[str, Any]:
    """
    :param run: the run
    :param path: its model
    :param n_episodes: episodes, on the seeds of :func:`ogpo_sb3.evaluate`
    :param device: where the policy runs
    :return: a row of the table
    :raises ValueError: no such model
    """
    import rl_zoo3
    from rl_zoo3.utils import create_test_env, get_saved_hyperparams, get_wrapper_class

    from ogpo_sb3 import evaluate

    if not path.exists():
        raise ValueError(f"there is no model {path}")
    hyperparameters, statistics = get_saved_hyperparams(str(run.folder / run.name), test_mode=True)
    wrap: Callable[[gym.Env], gym.Env] = get_wrapper_class(run.hyperparameters) or (lambda env: env)
    env = create_test_env(
        run.env_id,
        stats_path=statistics,
        should_render=False,
        hyperparams=hyperparameters,
        env_kwargs=dict(run.env_kwargs),
    )
    try:
        model = rl_zoo3.ALGOS[run.algorithm].load(path, env=env, device=device, custom_objects={"learning_rate": 0.0})
        result = evaluate(model, lambda: wrap(gym.make(run.env_id, **run.env_kwargs)), n_episodes=n_episodes)
    finally:
        env.close()
    low, high = result.success_interval or (None, None)
    return dict(
        algorithm=run.algorithm,
        environment=run.env_id,
        timesteps=model.num_timesteps,
        episodes=n_episodes,
        mean_return=result.mean_return,
        std_return=float(result.returns.std()),
        mean_length=float(result.lengths.mean()),
        success_rate=result.success_rate,
        success_low=low,
        success_high=high,
    )


def _rows(path: Path) -> list[dict[str, str]]:
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def _append(path: Path, row: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    new = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, FIELDS)
        if new:
            writer.writeheader()
        writer.writerow(row)


def report(rows: list[dict[str, str]]) -> str:
    """
    :param rows: of benchmark.csv
    :return: Markdown table, one agent per line
    """
    head = "| algorithm | environment | run | steps | episodes | return | length | success (95 % interval) |"
    return "\n".join(["# Trained agents", "", head, "|---|---|---|" + "---:|" * 5, *_lines(rows), ""])


def _lines(rows: list[dict[str, str]]) -> Iterator[str]:
    for row in sorted(rows, key=lambda r: (r["environment"], r["algorithm"], r["run"])):
        success = "–"
        if row["success_rate"]:
            rate, low, high = (float(row[name]) for name in ("success_rate", "success_low", "success_high"))
            success = f"{rate:.2f} ({low:.2f} to {high:.2f})"
        numbers = f"{float(row['mean_return']):.2f} ± {float(row['std_return']):.2f} | {float(row['mean_length']):.1f}"
        run = Path(row["run"]).name
        yield (
            f"| {row['algorithm']} | {row['environment']} | {run} | {row['timesteps']} | {row['episodes']} | {numbers} "
            f"| {success} |"
        )
