"""``python -m ogpo_sb3.analyze runs/ogpo/PushT_1 --out analysis``."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import gymnasium as gym

from ogpo_sb3.analyze.context import Settings
from ogpo_sb3.analyze.report import ANALYSES, analyse
from ogpo_sb3.analyze.stages import find
from ogpo_sb3.demos import _keyword


def build_parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    parser = argparse.ArgumentParser(
        prog="python -m ogpo_sb3.analyze",
        description="Look into a trained run: action distributions over the stages of training, calibration of the critics, "
        "ratios and advantages, denoising chains, success against speed. The same command goes on after an interruption.",
    )
    parser.add_argument(
        "runs",
        nargs="+",
        metavar="RUN_OR_FILE",
        help="folder of a run (zoo, quickstart, comparison, any with models), or [TITLE=]FILE of model.save, save_checkpoint "
        "or policy.save; several files are stages in the order given",
    )
    parser.add_argument("--out", type=Path, required=True, help="folder of the pictures, numbers and report.md")
    parser.add_argument("--algo", help="zoo id (default: what the run says)")
    parser.add_argument("--env", help="environment id (default: what the run says)")
    parser.add_argument("--env-kwargs", type=_keyword, nargs="+", default=[], metavar="KEY:VALUE", help="its arguments")
    parser.add_argument("--only", nargs="+", choices=list(ANALYSES), help="some analyses (default: all that are possible)")
    parser.add_argument("--max-stages", type=int, default=5, help="at most so many, evenly spaced (default: %(default)s)")
    parser.add_argument("--episodes", type=int, default=20, help="per stage (default: %(default)s)")
    parser.add_argument(
        "--sampler", default="ode", choices=("ode", "behaviour"), help="of the episodes (default: %(default)s)"
    )
    parser.add_argument("--states", type=int, default=3, help="that actions are compared at (default: %(default)s)")
    parser.add_argument("--samples", type=int, default=200, help="actions per state and stage (default: %(default)s)")
    parser.add_argument(
        "--projection", default="auto", choices=("auto", "pca", "umap"), help="auto: UMAP where it is installed, else PCA"
    )
    parser.add_argument("--dims", type=int, nargs=2, metavar=("I", "J"), help="entries of the action that chains are drawn in")
    parser.add_argument("--seed", type=int, default=0, help="of all draws beside the episodes' (default: %(default)s)")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    :param arguments: command line without the program's name; None takes ``sys.argv``.
    :return: exit status: 0, or 1 after a message on standard error.
    """
    options = build_parser().parse_args(arguments)
    try:
        source = find(options.runs, options.algo, options.env, dict(options.env_kwargs), options.max_stages)
        settings = Settings(
            n_episodes=options.episodes,
            sampler=options.sampler,
            n_states=options.states,
            n_samples=options.samples,
            projection=options.projection,
            dims=None if options.dims is None else tuple(options.dims),
            seed=options.seed,
        )
        results = analyse(source, options.out, settings, options.only, progress_bar=not options.quiet)
    except (ValueError, RuntimeError, ImportError, OSError, gym.error.Error) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    print(f"Wrote {', '.join(results)} of {len(source.stages)} stages: {options.out / 'report.md'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
