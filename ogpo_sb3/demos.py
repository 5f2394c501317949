"""Collect and inspect demonstrations: ``python -m ogpo_sb3.demos collect --env ogpo/AdroitRelocate-v0 -o relocate.npz``."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ogpo_sb3.demonstrations import DemonstrationSet, load
from ogpo_sb3.demonstrations.experts import collect


def build_parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    parser = argparse.ArgumentParser(prog="python -m ogpo_sb3.demos", description="Collect and inspect demonstrations.")
    commands = parser.add_subparsers(dest="command", required=True)

    gather = commands.add_parser("collect", help="roll a task's expert out and write an .npz file")
    gather.add_argument("--env", required=True, help="environment id, such as ogpo/AdroitRelocate-v0")
    gather.add_argument("--episodes", type=int, default=25, help="episodes to keep (default: %(default)s)")
    gather.add_argument("-o", "--output", type=Path, required=True, help="the .npz file to write")
    gather.add_argument(
        "--noise",
        type=float,
        default=0.0,
        metavar="SCALE",
        help="multiple of the expert's own exploration noise; 0 is its mean action, 1 the policy as trained (default: 0)",
    )
    gather.add_argument("--seed", type=int, default=0, help="seeds starts and noise (default: %(default)s)")
    gather.add_argument("--reward", choices=("sparse", "dense"), default="sparse", help="reward to record (default: sparse)")
    gather.add_argument("--keep-failures", action="store_true", help="also keep episodes without success")
    gather.add_argument("--quiet", action="store_true", help="no progress bar")

    inspect = commands.add_parser("inspect", help="print what a source of demonstrations holds")
    inspect.add_argument("source", help="file, minari:<id> or shipped:<name>")
    return parser


def summary(demonstrations: DemonstrationSet) -> str:
    """A few lines about a data set.

    :param demonstrations: the data set.
    :return: text without a final newline.
    """
    lengths = demonstrations.episode_lengths
    lines = [
        demonstrations.source,
        f"  episodes      {demonstrations.n_episodes}, {lengths.min()} to {lengths.max()} steps, mean {lengths.mean():.1f}",
        f"  steps         {demonstrations.n_steps}",
    ]
    observations = demonstrations.observations
    entries = observations.items() if isinstance(observations, dict) else [("observations", observations)]
    for key, array in [*entries, ("actions", demonstrations.actions)]:
        shape = "x".join(map(str, array.shape[1:]))
        lines.append(f"  {key:<13} {shape} {array.dtype}, {array.min():.4g} to {array.max():.4g}")
    if demonstrations.rewards is not None:
        returns = np.add.reduceat(demonstrations.rewards, demonstrations.episode_starts)
        lines.append(f"  return        {returns.min():.4g} to {returns.max():.4g}, mean {returns.mean():.4g}")
    if demonstrations.successes is not None:
        lines.append(f"  successes     {int(demonstrations.successes.sum())} of {demonstrations.n_episodes} episodes")
    lines += [f"  {key:<13} {value}" for key, value in demonstrations.meta.items() if key not in ("source", "reset_seeds")]
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    :param arguments: command line without the program's name; None takes ``sys.argv``.
    :return: exit status: 0, or 1 after a message on standard error.
    """
    options = build_parser().parse_args(arguments)
    try:
        if options.command == "inspect":
            print(summary(load(options.source)))
            return 0
        if options.output.is_dir():  # said before the work, not after it
            raise ValueError(f"{options.output} is a directory; -o names the file to write.")
        demonstrations = collect(
            options.env,
            options.episodes,
            seed=options.seed,
            noise=options.noise,
            keep_failures=options.keep_failures,
            progress=not options.quiet,
            env_kwargs={"reward": options.reward},
        )
        output = demonstrations.save(options.output)
    except (ValueError, RuntimeError, ImportError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    succeeded, attempts = demonstrations.meta["attempts_succeeded"], demonstrations.meta["attempts"]
    failed = "kept" if options.keep_failures else "left out"
    print(
        f"{options.env}: the expert succeeded in {succeeded} of {attempts} attempts ({succeeded / attempts:.0%}); "
        f"{attempts - succeeded} failed and were {failed}."
    )
    print(f"{output}: {demonstrations.n_episodes} episodes, {demonstrations.n_steps} steps.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
