"""
How often the experts solve their tasks, and in how many steps.

    python benchmarks/experts.py [--tasks RobomimicLift ...] [--noise 0 1 2] [--episodes 50] [--csv FILE]

Episode i of a task is the attempt i of ``demos collect --seed 0``: same start, same noise. One row per episode is written
as soon as it is over; episodes that the file has already are not repeated, so the command can be stopped and continued.
"""

import argparse
import csv
import io
import pathlib
import time

import gymnasium as gym
import numpy as np
from ogpo_sb3.common.files import atomic_write
from ogpo_sb3.demonstrations.experts import Expert
from ogpo_sb3.envs.registry import TASKS, register_environments, resolve
from rich.console import Console
from rich.table import Table
from tqdm import tqdm

SEED = 0
FIELDS = ("task", "noise", "episode", "success", "steps", "seconds")
ROBOMIMIC = [f"Robomimic{name}" for name in ("Lift", "Can", "Square", "ToolHang", "Transport")]


def read(path: pathlib.Path) -> list[dict[str, str]]:
    """Rows of an earlier run; none where there is no file."""
    if not path.exists():
        return []
    with path.open(newline="") as file:
        rows = csv.DictReader(file)
        if tuple(rows.fieldnames or ()) != FIELDS:
            raise SystemExit(f"{path} has the columns {rows.fieldnames}, not {list(FIELDS)}; name another file.")
        return list(rows)


def write(path: pathlib.Path, rows: list[dict[str, str]]) -> None:
    """Replace the file by these rows."""
    text = io.StringIO()
    table = csv.DictWriter(text, FIELDS, lineterminator="\n")
    table.writeheader()
    table.writerows(rows)
    with atomic_write(path) as file:
        file.write(text.getvalue().encode())


def attempt(env: gym.Env, expert: Expert, episode: int, noise: float) -> tuple[bool, int]:
    """One episode up to its first success or the time limit: whether it succeeded, and its number of steps."""
    start, stream = np.random.SeedSequence((SEED, episode)).spawn(2)
    rng = np.random.default_rng(stream)
    observation, _ = env.reset(seed=int(start.generate_state(1)[0]))
    steps = 0
    done = success = False
    while not (done or success):
        observation, _, terminated, truncated, info = env.step(expert.act(observation, rng, noise))
        steps += 1
        done, success = terminated or truncated, bool(info["is_success"])
    return success, steps


def measure(task: str, noise: float, episodes: int, rows: list[dict[str, str]], path: pathlib.Path) -> None:
    """Roll out what is missing and append it to ``rows`` and the file."""
    done = {int(row["episode"]) for row in rows if row["task"] == task and float(row["noise"]) == noise}
    missing = [episode for episode in range(episodes) if episode not in done]
    if not missing:
        return
    env_id = f"ogpo/{task}-v0"
    env = gym.make(env_id)
    expert = resolve(TASKS[env_id].expert)(env)
    with tqdm(missing, desc=f"{task}, noise {noise:g}", unit="episode", initial=len(done), total=episodes) as bar:
        for episode in bar:
            start = time.perf_counter()
            success, steps = attempt(env, expert, episode, noise)
            seconds = time.perf_counter() - start
            values = (task, f"{noise:g}", episode, int(success), steps, f"{seconds:.1f}")
            rows.append(dict(zip(FIELDS, map(str, values), strict=True)))
            write(path, rows)
    env.close()


def report(rows: list[dict[str, str]]) -> Table:
    """Success rates and the lengths of successful episodes."""
    table = Table("task", "noise", "episodes", "successes", "rate", "steps to success: least, median, most")
    for task, noise in dict.fromkeys((row["task"], row["noise"]) for row in rows):
        chosen = [row for row in rows if (row["task"], row["noise"]) == (task, noise)]
        steps = [int(row["steps"]) for row in chosen if row["success"] == "1"]
        lengths = f"{min(steps)}, {np.median(steps):g}, {max(steps)}" if steps else "none"
        table.add_row(task, noise, str(len(chosen)), str(len(steps)), f"{len(steps) / len(chosen):.0%}", lengths)
    return table


def main() -> None:
    """Measure, then print the table."""
    parser = argparse.ArgumentParser(description=__doc__.strip().splitlines()[0])
    known = [task.id.removeprefix("ogpo/").removesuffix("-v0") for task in TASKS.values() if task.expert is not None]
    parser.add_argument("--tasks", nargs="+", default=ROBOMIMIC, choices=known, metavar="TASK", help=", ".join(known))
    parser.add_argument("--noise", nargs="+", type=float, default=[0.0, 1.0], help="multiples of the expert's own noise")
    parser.add_argument("--episodes", type=int, default=50, help="per task and noise (default: %(default)s)")
    parser.add_argument("--csv", type=pathlib.Path, default=pathlib.Path("experts.csv"), help="rows (default: %(default)s)")
    options = parser.parse_args()
    register_environments()
    rows = read(options.csv)
    for task in options.tasks:
        for noise in options.noise:
            measure(task, noise, options.episodes, rows, options.csv)
    Console().print(report(rows))


if __name__ == "__main__":
    main()
