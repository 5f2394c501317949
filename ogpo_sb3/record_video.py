"""Videos on the command line: ``python -m ogpo_sb3.record_video --algo ogpo --env ogpo/PushT-v0 --model m.zip -o m.mp4``."""

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

import gymnasium as gym

from ogpo_sb3.demos import _keyword
from ogpo_sb3.envs.registry import make_with
from ogpo_sb3.evaluation.video import Video, check_path, record


def build_parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    parser = argparse.ArgumentParser(
        prog="python -m ogpo_sb3.record_video",
        description="Record a model, or several side by side on the same seeds (before and after, for example).",
    )
    parser.add_argument(
        "--algo", default="ogpo", help="algorithm of the model files: a zoo id, or sac, tqc, ... (default: ogpo)"
    )
    parser.add_argument("--env", required=True, help="environment id")
    parser.add_argument(
        "--model",
        action="append",
        required=True,
        metavar="[TITLE=]FILE",
        help="zip of model.save, or of model.policy.save (a cloned policy); repeat it to compare",
    )
    parser.add_argument("-o", "--output", type=Path, required=True, help=".mp4 or .gif file")
    parser.add_argument("--episodes", type=int, default=4, help="episodes per model (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=10_000, help="of the first episode, as in evaluate (default: %(default)s)")
    parser.add_argument("--columns", type=int, help="episodes beside each other, for one model")
    parser.add_argument(
        "--size", type=int, help="height of a picture, pixels (default: 240, or the environment's where alone)"
    )
    parser.add_argument("--every", type=int, default=1, help="environment steps per frame (default: %(default)s)")
    parser.add_argument("--max-steps", type=int, help="leave an episode after so many environment steps")
    parser.add_argument("--fps", type=float, help="frames per second (default: the environment's speed)")
    parser.add_argument(
        "--env-kwargs", type=_keyword, nargs="+", default=[], metavar="KEY:VALUE", help="arguments of the environment"
    )
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    :param arguments: command line without the program's name; None takes ``sys.argv``.
    :return: exit status: 0, or 1 after a message on standard error.
    """
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    options = build_parser().parse_args(arguments)
    try:
        video = _record(options)
    except (ValueError, RuntimeError, ImportError, OSError, gym.error.Error) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    if video.successes is None:
        print(f"{options.env} does not say whether an episode succeeds")
    else:
        for (title, file), successes in zip(_titles(options.model), video.successes, strict=True):
            print(f"{title or file}: {int(successes.sum())} of {len(successes)} episodes succeed")
    print(f"Wrote {video.path}")
    return 0


def _record(options: argparse.Namespace) -> Video:
    if options.episodes < 1:
        raise ValueError(f"--episodes must be at least 1, found {options.episodes}")
    check_path(options.output)  # before the models are read
    env_kwargs = dict(options.env_kwargs)
    named = _titles(options.model)
    if len({title for title, _ in named}) < len(named):
        raise ValueError(f"the models need different titles, found {[title for title, _ in named]}: write TITLE=FILE")
    env = make_with(options.env, env_kwargs, render_mode="rgb_array")
    try:
        from ogpo_sb3.zoo.models import load_model

        models = {title: load_model(options.algo, file, env) for title, file in named}
        return record(
            models,
            env,
            options.output,
            seeds=range(options.seed, options.seed + options.episodes),
            columns=options.columns,
            size=options.size,
            every=options.every,
            max_steps=options.max_steps,
            fps=options.fps,
            progress_bar=not options.quiet,
        )
    finally:
        env.close()


def _titles(arguments: Sequence[str]) -> list[tuple[str, str]]:
    """Titles and files; without titles the files' names where several models are compared."""
    pairs = [argument.partition("=") for argument in arguments]
    named = [
        (title, file) if mark else ("" if len(arguments) == 1 else Path(title).stem, title) for title, mark, file in pairs
    ]
    return named


if __name__ == "__main__":
    sys.exit(main())
