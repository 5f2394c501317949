"""
Environment steps per second of one core: the raw engine, the same engine as our environment, and in chunks.

    python -m benchmarks.environments --csv benchmarks/results/environments.csv

The three are measured in turn from the same starts with the same actions, and compared round by round; what is timed is the
process's CPU time, which other work on the machine changes less than it changes the wall clock. Rows are written as they
come, and a second run with the same file measures only what is missing.
"""

import argparse
import csv
import os
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np

from ogpo_sb3 import ChunkActionWrapper
from ogpo_sb3.common.progress import progress
from ogpo_sb3.envs.registry import TASKS

FIELDS = ("env", "obs", "rounds", "steps", "raw", "wrapped", "chunked", "wrapper_cost", "chunk_cost", "reset_s")
# Pictures are drawn by software where there is no GPU: fewer steps.
PICTURES = ("ogpo/PushT-v0", "ogpo/AdroitRelocate-v0", "ogpo/RobomimicLift-v0")


def raw_step(env: gym.Env) -> Callable[[np.ndarray], Any]:
    """
    How the engine itself is stepped.

    :param env: one of ours
    """
    bare: Any = env.unwrapped
    engine = bare.robosuite if hasattr(bare, "robosuite") else bare.engine
    if "PushT" in type(bare).__name__:
        return lambda action: engine.step((action + 1.0) * 256.0)
    return engine.step


def measure(env_id: str, obs_type: str, rounds: int, steps: int) -> dict[str, Any]:
    """
    :param env_id: registered task
    :param obs_type: "state" or "image"; with pictures the raw engine of robosuite draws them as well, the others have none
    :param rounds: how often the three are measured in turn
    :param steps: environment steps of each measurement
    :return: a row of the table: medians of steps per CPU second, and of the paired costs relative to the raw engine
    """
    task = TASKS[env_id]
    # Small actions can turn the pen, and a finished episode could not be stepped on.
    env = gym.make(env_id, obs_type=obs_type, **({"terminate_on_success": False} if "Adroit" in env_id else {}))
    chunked = ChunkActionWrapper(env, task.chunk_size)
    step = raw_step(env)
    steps -= steps % task.chunk_size
    rng = np.random.default_rng(0)
    # Small actions: episodes go on, and hands stay off the table.
    actions = (0.1 * rng.uniform(-1, 1, (steps, *env.action_space.shape))).astype(np.float32)  # type: ignore[misc]
    chunks = actions.reshape(steps // task.chunk_size, -1)
    ways: dict[str, tuple[Callable[[Any], Any], np.ndarray]] = {
        "raw": (step, actions),
        "wrapped": (env.step, actions),
        "chunked": (chunked.step, chunks),
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    resets = []
    for index in progress(range(rounds + 1), f"{env_id} {obs_type}", rounds + 1, True):
        order = list(ways)[index % 3 :] + list(ways)[: index % 3]
        for name in order:
            call, inputs = ways[name]
            begun = time.process_time()
            chunked.reset(seed=index)
            resets.append(time.process_time() - begun)
            begun = time.process_time()
            for item in inputs:
                call(item)
            if index > 0:  # the first round warms caches and compilers up
                seconds[name].append(time.process_time() - begun)
    env.close()
    rate = {name: steps / statistics.median(values) for name, values in seconds.items()}
    cost = {
        name: statistics.median(one / raw for one, raw in zip(seconds[name], seconds["raw"], strict=True)) - 1.0
        for name in ("wrapped", "chunked")
    }
    row: dict[str, Any] = dict(
        env=env_id,
        obs=obs_type,
        rounds=rounds,
        steps=steps,
        raw=round(rate["raw"], 1),
        wrapped=round(rate["wrapped"], 1),
        chunked=round(rate["chunked"], 1),
        wrapper_cost=round(cost["wrapped"], 4),
        chunk_cost=round(cost["chunked"], 4),
        reset_s=round(statistics.median(resets[3:]), 3),
    )
    if obs_type == "image" and not hasattr(env.unwrapped, "robosuite"):
        row.update(raw="", wrapper_cost="", chunk_cost="")
    return row


def main(arguments: Sequence[str] | None = None) -> None:
    """
    :param arguments: command line without the program's name
    """
    parser = argparse.ArgumentParser(prog="python -m benchmarks.environments", description=__doc__)
    parser.add_argument("--csv", type=Path, default=Path("environments.csv"), help="rows are added to it")
    parser.add_argument("--envs", nargs="*", help="ids (default: all but LIBERO, whose meshes may be missing)")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--steps", type=int, default=200, help="environment steps per measurement of states")
    parser.add_argument("--picture-steps", type=int, default=16, help="environment steps per measurement of pictures")
    options = parser.parse_args(arguments)
    known = [env_id for env_id in TASKS if "Libero" not in env_id]
    jobs = [(env_id, "state") for env_id in options.envs or known]
    jobs += [(env_id, "image") for env_id in PICTURES if env_id in (options.envs or known)]
    done = set()
    if options.csv.exists():
        with open(options.csv, newline="") as file:
            done = {(row["env"], row["obs"]) for row in csv.DictReader(file)}
    for env_id, obs_type in jobs:
        if (env_id, obs_type) in done:
            continue
        row = measure(env_id, obs_type, options.rounds, options.steps if obs_type == "state" else options.picture_steps)
        new = not options.csv.exists()
        with open(options.csv, "a", newline="") as file:
            writer = csv.DictWriter(file, FIELDS)
            if new:
                writer.writeheader()
            writer.writerow(row)
            file.flush()
            os.fsync(file.fileno())
        print(row)


if __name__ == "__main__":
    main()
