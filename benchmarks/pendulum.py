"""
OGPO as a plain RL algorithm: Pendulum-v1 from nothing with presets.quick(), several seeds.

    python benchmarks/pendulum.py [--seeds 0 1 2 3 4] [--steps 20000] [--threads 1] [--csv FILE]

The wanted result is a median over seeds of the mean return above -200 (100 episodes, fixed seeds, ODE sampler).
"""

import argparse
import csv
import pathlib
import statistics
import time

import torch as th
from ogpo_sb3 import OGPO, EvaluateCallback, evaluate, presets


def main() -> None:
    """Train and evaluate each seed; rows appear as they come."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--steps", type=float, default=2e4)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--csv", type=pathlib.Path)
    args = parser.parse_args()
    th.set_num_threads(args.threads)
    returns = []
    for seed in args.seeds:
        start = time.perf_counter()
        model = OGPO("FlowPolicy", "Pendulum-v1", seed=seed, device="cpu", **presets.quick())
        model.learn(args.steps, callback=EvaluateCallback(5000, n_episodes=30, verbose=1), progress_bar=True)
        seconds = time.perf_counter() - start
        returns.append(evaluate(model, "Pendulum-v1", n_episodes=100).mean_return)
        print(f"seed {seed}: mean return {returns[-1]:.1f} after {model.num_timesteps} steps, {seconds:.0f} s", flush=True)
        if args.csv is not None:
            new = not args.csv.exists()
            with args.csv.open("a", newline="") as file:
                writer = csv.writer(file)
                if new:
                    writer.writerow(["seed", "timesteps", "mean_return", "seconds"])
                writer.writerow([seed, model.num_timesteps, round(returns[-1], 1), round(seconds)])
    print(f"median over {len(returns)} seeds: {statistics.median(returns):.1f}")


if __name__ == "__main__":
    main()
