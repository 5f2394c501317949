"""
Updates per second, shares of an update and peak memory of OGPO, at the small preset and at the paper's size.

    python benchmarks/update_speed.py [--sizes small paper] [--threads N] [--repeats N] [--csv FILE]

Observation and action sizes are Robomimic Square's (23 numbers, chunks of 4 x 7). Each size runs in its own process, so
that the peak memory is its own. The replay buffer is filled with random transitions: nothing depends on a simulator.
"""

import argparse
import csv
import json
import os
import pathlib
import platform
import resource
import statistics
import subprocess
import sys
import time

SIZES = ("small", "paper")
FIELDS = (
    "size",
    "updates_per_second",
    "critic_ms",
    "actor_ms",
    "sampling_share",
    "target_critics_share",
    "scoring_share",
    "critic_update_share",
    "other_share",
    "peak_memory_mb",
    "memory_before_mb",
)


def build(size: str):
    """A model of the given size whose buffer holds 2000 random steps."""
    import gymnasium as gym
    import numpy as np
    from gymnasium import spaces
    from ogpo_sb3 import OGPO, presets

    class Random(gym.Env):
        observation_space = spaces.Box(-1.0, 1.0, (23,), np.float32)
        action_space = spaces.Box(-1.0, 1.0, (7,), np.float32)

        def reset(self, *, seed=None, options=None):
            super().reset(seed=seed)
            return self.observation_space.sample(), {}

        def step(self, action):
            return self.observation_space.sample(), -1.0, False, bool(self.np_random.random() < 0.005), {}

    if size == "paper":
        kwargs = presets.paper("ogpo/RobomimicSquare-v0")
        for name in ("bc_steps", "clip_bc"):
            kwargs.pop(name)
    else:
        kwargs = {**presets.quick(), "chunk_size": 4}
    kwargs.update(learning_starts=10_000, critic_warmup_updates=0, buffer_size=10_000, device="cpu", seed=0)
    return OGPO("FlowPolicy", Random(), **kwargs).learn(2000)


def measure(size: str, threads: int, repeats: int) -> dict[str, float]:
    """Times of the parts in milliseconds (medians over repeats) and the process's peak memory."""
    import torch as th

    th.set_num_threads(threads)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    model = build(size)
    model.policy.set_training_mode(True)

    def median_ms(call) -> float:
        call()
        times = []
        for _ in range(repeats):
            start = time.perf_counter()
            call()
            times.append(1e3 * (time.perf_counter() - start))
        return statistics.median(times)

    batch = model._sample(model.actor_batch_size)
    group = model.group_size
    with th.no_grad():
        chain = model.actor_ema.sample_chain(batch.observations, group)
        sampling = median_ms(lambda: model.actor_ema.sample_chain(batch.observations, group))
        actions = chain.actions.unflatten(0, (-1, group))
        target_critics = median_ms(lambda: model.critic_target(batch.observations, actions))

    def score() -> None:
        features = model.actor.features(batch.observations).repeat_interleave(group, dim=0)
        model.actor.gcp.chain_log_prob(features, chain.states).mean().backward()
        model.actor.zero_grad(set_to_none=True)

    scoring = median_ms(score)
    critic = median_ms(lambda: model._update_critic(model.batch_size))
    actor = median_ms(model._update_actor)
    both = critic * (model.utd_critic or 1.0) + actor * model.utd_actor
    actor_share = model.utd_actor / both
    shares = {
        "sampling_share": sampling * actor_share,
        "target_critics_share": target_critics * actor_share,
        "scoring_share": scoring * actor_share,
        "critic_update_share": critic * (model.utd_critic or 1.0) / both,
    }
    return {
        "size": size,
        "updates_per_second": 1e3 / both,
        "critic_ms": critic,
        "actor_ms": actor,
        **shares,
        "other_share": 1.0 - sum(shares.values()),
        "peak_memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "memory_before_mb": before,
    }


def main() -> None:
    """Measure each size in a process of its own and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=SIZES)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--csv", type=pathlib.Path)
    parser.add_argument("--worker", choices=SIZES, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        print(json.dumps(measure(args.worker, args.threads, args.repeats)))
        return
    rows = []
    for size in args.sizes:
        command = [sys.executable, __file__, "--worker", size, "--threads", str(args.threads), "--repeats", str(args.repeats)]
        output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        rows.append(json.loads(output.splitlines()[-1]))
    import torch as th

    print(
        f"{platform.processor() or platform.machine()}, {args.threads} threads, torch {th.__version__}, Python "
        f"{platform.python_version()}; an update is one critic step and utd_actor actor steps per environment step"
    )
    for field in FIELDS:
        values = [row[field] if isinstance(row[field], str) else f"{row[field]:.3g}" for row in rows]
        print(f"{field:22}" + "".join(f"{value:>12}" for value in values))
    if args.csv is not None:
        with args.csv.open("w", newline="") as file:
            writer = csv.DictWriter(file, FIELDS)
            writer.writeheader()
            writer.writerows(rows)


if __name__ == "__main__":
    main()
