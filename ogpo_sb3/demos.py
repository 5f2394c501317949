"""Demonstrations on the command line: ``python -m ogpo_sb3.demos {collect,inspect,convert,replay}``."""

import argparse
import ast
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ogpo_sb3.demonstrations import DemonstrationSet, load, save
from ogpo_sb3.demonstrations.experts import collect
from ogpo_sb3.demonstrations.inspection import summary, warnings
from ogpo_sb3.demonstrations.replay import Replay, check_fit, replay, task_for
from ogpo_sb3.demonstrations.saving import check_target, is_minari

_TARGET = "<file>.npz, <file>.hdf5 (robomimic's layout) or minari:<id>"
_SOURCE = "file, folder, minari:<id> or shipped:<name>; a robomimic file takes ?filter=<key>&images=<cameras>"


def build_parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    parser = argparse.ArgumentParser(prog="python -m ogpo_sb3.demos", description="Collect, inspect, convert, replay.")
    commands = parser.add_subparsers(dest="command", required=True)

    gather = commands.add_parser("collect", help="roll a task's expert out and keep its episodes")
    gather.add_argument("--env", required=True, help="environment id, such as ogpo/AdroitRelocate-v0")
    gather.add_argument("--episodes", type=int, default=25, help="episodes to keep (default: %(default)s)")
    gather.add_argument("-o", "--output", required=True, help=_TARGET)
    gather.add_argument(
        "--noise",
        type=float,
        default=0.0,
        metavar="SCALE",
        help="multiple of the expert's own exploration noise; 0 is its mean action, 1 the policy as trained (default: 0)",
    )
    gather.add_argument("--seed", type=int, default=0, help="seeds starts and noise (default: %(default)s)")
    gather.add_argument("--reward", help="reward to record, such as dense (default: the environment's)")
    gather.add_argument("--keep-failures", action="store_true", help="also keep episodes without success")
    gather.add_argument(
        "--max-success",
        type=int,
        metavar="N",
        help="keep N successful episodes at most, the others failed (with --keep-failures)",
    )
    _add_env_kwargs(gather)
    _add_quiet(gather)

    inspect = commands.add_parser("inspect", help="print what a source of demonstrations holds, and what looks wrong")
    inspect.add_argument("source", help=_SOURCE)

    convert = commands.add_parser("convert", help="write demonstrations in another format")
    convert.add_argument("source", help=_SOURCE)
    convert.add_argument("output", help=_TARGET)
    convert.add_argument(
        "--env", help="bring the data to this task's conventions; recordings without observations are replayed"
    )
    convert.add_argument("--episodes", type=int, help="only the first episodes")
    convert.add_argument("--successful", action="store_true", help="only successful episodes")
    convert.add_argument(
        "--split",
        type=float,
        default=0.0,
        metavar="SHARE",
        help="robomimic's layout: filter keys train and valid, this share valid",
    )
    convert.add_argument("--seed", type=int, default=0, help="seeds the split (default: %(default)s)")
    _add_env_kwargs(convert)
    _add_quiet(convert)

    again = commands.add_parser("replay", help="execute the recorded actions again and count successes")
    again.add_argument("source", help=_SOURCE)
    again.add_argument("--env", help="task to replay in (default: the one the data name)")
    again.add_argument("--episodes", type=int, help="only the first episodes")
    again.add_argument("-o", "--output", help=f"keep what the environment showed: {_TARGET}")
    _add_env_kwargs(again)
    _add_quiet(again)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    :param arguments: command line without the program's name; None takes ``sys.argv``.
    :return: exit status: 0, or 1 after a message on standard error.
    """
    options = build_parser().parse_args(arguments)
    try:
        {"collect": _collect, "inspect": _inspect, "convert": _convert, "replay": _replay}[options.command](options)
    except (ValueError, RuntimeError, ImportError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def _collect(options: argparse.Namespace) -> None:
    check_target(options.output, generated=True)  # said before the work, not after it
    env_kwargs = {**({} if options.reward is None else {"reward": options.reward}), **dict(options.env_kwargs)}
    work = None if is_minari(options.output) else Path(f"{options.output}.attempts")
    demonstrations = collect(
        options.env,
        options.episodes,
        seed=options.seed,
        noise=options.noise,
        keep_failures=options.keep_failures,
        progress=not options.quiet,
        env_kwargs=env_kwargs,
        max_success=options.max_success,
        work=work,
    )
    output = save(demonstrations, options.output)
    if work is not None:
        shutil.rmtree(work)
    succeeded, attempts = demonstrations.meta["attempts_succeeded"], demonstrations.meta["attempts"]
    failed = "kept" if options.keep_failures else "left out"
    print(
        f"{options.env}: the expert succeeded in {succeeded} of {attempts} attempts ({succeeded / attempts:.0%}); "
        f"{attempts - succeeded} failed and were {failed}."
    )
    print(_written(output, demonstrations))


def _inspect(options: argparse.Namespace) -> None:
    demonstrations = load(options.source)
    print(summary(demonstrations))
    for sentence in warnings(demonstrations):
        print(f"  warning: {sentence}")


def _convert(options: argparse.Namespace) -> None:
    demonstrations = _load_anyway(options.source, options.env)
    check_target(options.output, generated="generated_by" in demonstrations.meta, masks=options.split != 0.0)
    if not 0.0 <= options.split < 1.0:
        raise ValueError(f"--split is a share of at least 0 and below 1, not {options.split}.")
    env_kwargs = dict(options.env_kwargs)
    if options.episodes is not None:
        demonstrations = demonstrations.subset(options.episodes)
    if demonstrations.meta.get("observations") == "states":
        demonstrations = replay(
            demonstrations, options.env, env_kwargs, set_states=True, show_progress=not options.quiet
        ).demonstrations
    elif options.env is not None:
        task = task_for(demonstrations, options.env)
        demonstrations = task.adapt(demonstrations, **{**task.kwargs, **env_kwargs})
        check_fit(demonstrations, task, env_kwargs)
        demonstrations.meta.update(env_id=task.id, env_kwargs=env_kwargs)
    if options.successful:
        if demonstrations.successes is None:
            raise ValueError(f"{demonstrations.source}: successes are unknown, replay the data first.")
        demonstrations = demonstrations.select(np.flatnonzero(demonstrations.successes))
    output = save(demonstrations, options.output, _split(demonstrations, options), show_progress=not options.quiet)
    print(_written(output, demonstrations))


def _replay(options: argparse.Namespace) -> None:
    demonstrations = _load_anyway(options.source, options.env)
    if options.output is not None:
        check_target(options.output, generated="generated_by" in demonstrations.meta)
    if options.episodes is not None:
        demonstrations = demonstrations.subset(options.episodes)
    env_kwargs = dict(options.env_kwargs) if options.env_kwargs or options.env else None
    outcome = replay(demonstrations, options.env, env_kwargs, show_progress=not options.quiet)
    print("\n".join(_report(demonstrations, outcome)))
    if options.output is not None:
        print(_written(save(outcome.demonstrations, options.output), outcome.demonstrations))


def _report(recorded: DemonstrationSet, outcome: Replay) -> list[str]:
    n = recorded.n_episodes
    before = "unknown" if recorded.successes is None else f"{int(recorded.successes.sum())} of {n}"
    starts = {
        "states": "recorded simulator states",
        "observations": "states found in the recorded observations",
        "seeds": "recorded seeds",
        "reset": "resets, since nothing is recorded about them",
    }
    lines = [
        recorded.source,
        f"  replayed in   {outcome.demonstrations.meta['env_id']}, episodes started from {starts[outcome.start]}",
        f"  recorded      successes {before}",
        f"  replayed      successes {outcome.succeeded} of {n}",
    ]
    if outcome.deviations is not None:
        worst = outcome.deviations.max()
        lines.append(f"  observations  equal in {outcome.exact} of {n} episodes, largest difference {worst:.3g}")
    if "clipped_steps" in outcome.demonstrations.meta:
        clipped = outcome.demonstrations.meta["clipped_steps"]
        lines.append(f"  actions       {clipped} of {recorded.n_steps} steps left the bounds and were clipped")
    if recorded.rewards is None:
        lines.append("  rewards       not recorded; the replay has them")
    return lines


def _load_anyway(source: str, env_id: str | None) -> DemonstrationSet:
    """A recording without observations too, where the task is known that can make them."""
    try:
        return load(source)
    except ValueError as error:
        if env_id is None or "no obs" not in str(error):
            raise
        return load(source, observations="states")


def _split(demonstrations: DemonstrationSet, options: argparse.Namespace) -> dict[str, list[int]]:
    if options.split == 0.0:
        return {}
    order = np.random.default_rng(options.seed).permutation(demonstrations.n_episodes)
    if demonstrations.n_episodes < 2:
        raise ValueError(f"{demonstrations.source}: --split needs 2 episodes, found {demonstrations.n_episodes}.")
    n_valid = max(1, min(round(options.split * demonstrations.n_episodes), demonstrations.n_episodes - 1))
    return {"valid": sorted(order[:n_valid].tolist()), "train": sorted(order[n_valid:].tolist())}


def _written(output: str, demonstrations: DemonstrationSet) -> str:
    return f"{output}: {demonstrations.n_episodes} episodes, {demonstrations.n_steps} steps."


def _add_quiet(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--quiet", action="store_true", help="no progress bar")


def _add_env_kwargs(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--env-kwargs", type=_keyword, nargs="+", default=[], metavar="KEY:VALUE", help="arguments of the environment"
    )


def _keyword(text: str) -> tuple[str, Any]:
    """RL-Zoo's notation for arguments: ``key:value``, the value being Python's literal or a string."""
    key, colon, value = text.partition(":")
    if not colon or not key:
        raise argparse.ArgumentTypeError(f"{text!r} is not KEY:VALUE")
    try:
        return key, ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return key, value


if __name__ == "__main__":
    sys.exit(main())
