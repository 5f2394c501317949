"""
Environment steps per second of ``learn()``, updates included, against the number of environments.

    python -m benchmarks.update.end_to_end [--envs pendulum relocate] [--n-envs 1 2 4] [--device cpu] [--precision fp32]
                                           [--threads N] [--steps N] [--csv FILE]

Pendulum runs with ``presets.quick()``, Adroit Relocate with ``presets.laptop()`` (random first policy, no demonstrations), and
"paper", for a GPU, is the paper's size on an environment of random numbers, which costs nothing.
Updates are owed per environment step, so that more environments save collection time and not updates. With more than one
environment each runs in a process of its own. All settings of a task take turns.
"""

from __future__ import annotations

import argparse
import pathlib
import statistics
import time
from typing import Any

from tqdm import tqdm

from benchmarks.update import report, sizes

FIELDS = (
    "task",
    "device",
    "precision",
    "n_envs",
    "threads",
    "steps_per_second",
    "low",
    "high",
    "critic_updates_per_step",
    "actor_updates_per_step",
)
TASKS = {"pendulum": "Pendulum-v1", "relocate": "ogpo/AdroitRelocate-v0", "paper": "random numbers"}
USUAL = ("pendulum", "relocate")
N_ENVS = (1, 2, 4)
_STARTED = 256  # environment steps before the first update


def build(task: str, n_envs: int, device: str, precision: str) -> Any:
    """
    :param task: a key of ``TASKS``
    :param n_envs: environments
    :param device: "cpu" or "cuda"
    :param precision: of OGPO
    :return: a model that has begun to update
    """
    from ogpo_sb3 import OGPO, OGPOCA, ChunkActionWrapper, presets
    from stable_baselines3.common.env_util import make_vec_env
    from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv

    env_id = TASKS[task]
    algorithm, kwargs, env_kwargs = OGPO, presets.quick(), {}
    if task == "paper":
        kwargs = sizes.settings("paper")
    elif task != "pendulum":
        algorithm, kwargs, env_kwargs = OGPOCA, presets.laptop(env_id), presets.laptop_env(env_id)
        for name in ("bc_steps", "clip_bc"):
            kwargs.pop(name)
    kwargs.update(learning_starts=_STARTED, critic_warmup_updates=0, buffer_size=50_000)
    env = make_vec_env(
        sizes.make_env if task == "paper" else env_id,
        n_envs=n_envs,
        seed=0,
        env_kwargs=env_kwargs,
        vec_env_cls=DummyVecEnv if n_envs == 1 else SubprocVecEnv,
        wrapper_class=ChunkActionWrapper,
        wrapper_kwargs=dict(chunk_size=kwargs.get("chunk_size", 1)),
    )
    return algorithm("FlowPolicy", env, device=device, precision=precision, seed=0, **kwargs).learn(_STARTED + 64)


def run(
    threads: int,
    repeats: int,
    path: pathlib.Path | None,
    tasks: tuple[str, ...] = USUAL,
    n_envs: tuple[int, ...] = N_ENVS,
    steps: int = 1000,
    quick: bool = False,
    device: str = "cpu",
    precision: str = "fp32",
) -> None:
    """
    Measure and print.

    :param threads: of torch, in the learning process; each environment's process has one
    :param repeats: rounds
    :param path: CSV file, None for none
    :param tasks: keys of ``TASKS``
    :param n_envs: numbers of environments
    :param steps: environment steps per round
    :param quick: a tenth of the steps
    :param device: "cpu" or "cuda"
    :param precision: of OGPO
    """
    import torch as th

    th.set_num_threads(threads)
    file, rows = report.CsvFile(path, FIELDS), []
    steps = max(steps // 10, 50) if quick else steps
    for task in tasks:
        models = {n: build(task, n, device, precision) for n in tqdm(n_envs, f"models for {task}")}
        rates: dict[int, list[float]] = {n: [] for n in models}
        for _ in tqdm(range(repeats), f"rounds for {task}"):
            for n, model in models.items():
                before, started = model.num_timesteps, time.perf_counter()
                model.learn(steps, reset_num_timesteps=False)
                rates[n].append((model.num_timesteps - before) / (time.perf_counter() - started))
        for n, model in models.items():
            row = {
                "task": TASKS[task],
                "device": device,
                "precision": precision,
                "n_envs": n,
                "threads": threads,
                "steps_per_second": statistics.median(rates[n]),
                "low": min(rates[n]),
                "high": max(rates[n]),
                "critic_updates_per_step": model.critic_updates_per_step,
                "actor_updates_per_step": model.utd_actor,
            }
            rows.append(row)
            file.write(row)
            model.get_env().close()
    report.table("Environment steps per second of learn()", rows, FIELDS)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        "python -m benchmarks.update.end_to_end", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--envs", nargs="+", choices=list(TASKS), default=list(USUAL))
    parser.add_argument("--n-envs", nargs="+", type=int, default=list(N_ENVS))
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--precision", default="fp32", help="of the updates, such as tf32 on a GPU")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--csv", type=pathlib.Path)
    parser.add_argument("--quick", action="store_true")
    args = parser.parse_args()
    report.CONSOLE.print(report.machine(args.threads))
    options = dict(tasks=tuple(args.envs), n_envs=tuple(args.n_envs), steps=args.steps, quick=args.quick)
    run(args.threads, args.repeats, args.csv, **options, device=args.device, precision=args.precision)


if __name__ == "__main__":
    main()
