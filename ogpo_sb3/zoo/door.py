"""
One door to RL-Zoo: ``python -m ogpo_sb3.zoo COMMAND ...``, installed as ``ogpo-zoo``.

Each command checks and completes its arguments and then calls RL-Zoo's own function with all its options; ``--help`` after a
command shows them.
"""

import argparse
import importlib
import runpy
import sys
from collections.abc import Callable
from traceback import walk_tb
from types import TracebackType
from typing import NamedTuple

from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.vec_env import VecEnv

from ogpo_sb3.common.names import check_known
from ogpo_sb3.zoo import register
from ogpo_sb3.zoo.arguments import asks_for_help, prepare_train
from ogpo_sb3.zoo.plots import draw, prepare_plot
from ogpo_sb3.zoo.runs import prepare_enjoy, prepare_video

PROGRAM = "python -m ogpo_sb3.zoo"


class Command(NamedTuple):
    """
    :param help: what it does
    :param prepare: from the arguments typed to those of ``run``; raises ValueError for what is wrong with them
    :param run: gets the prepared arguments
    """

    help: str
    prepare: Callable[[list[str]], list[str]]
    run: Callable[[list[str]], int | None]


def _function(path: str) -> Callable[[list[str]], int | None]:
    """A function of RL-Zoo that reads ``sys.argv``."""

    def run(arguments: list[str]) -> int | None:
        module, _, name = path.partition(":")
        result: int | None = getattr(importlib.import_module(module), name)()
        return result

    return run


def _run(command: Command, arguments: list[str]) -> int:
    """A command; what it refuses before an agent learns or acts is a sentence, as what the door refuses is."""
    reader = argparse.ArgumentParser(add_help=False)
    reader.add_argument("--verbose", type=int, default=1)
    try:
        return command.run(arguments) or 0
    except Exception as error:
        if _at_work(error.__traceback__) or reader.parse_known_args(arguments)[0].verbose > 1:
            raise
        sentence = " ".join(str(error).split()).removeprefix("Error: ")
        if not sentence or isinstance(error, LookupError):  # these say what was looked for, and nothing else
            sentence = f"{type(error).__name__}: {sentence}"
        print(f"{sys.argv[0]}: error: {sentence}", file=sys.stderr)
        return 1


def _at_work(traceback: TracebackType | None) -> bool:
    """Whether an error comes from an agent that learns or from its environment: the tracebacks are for those who mend it."""
    from rl_zoo3.exp_manager import ExperimentManager

    after = {ExperimentManager.learn.__code__, ExperimentManager.save_trained_model.__code__}
    return any(
        frame.f_code in after
        or (frame.f_code.co_name == "learn" and isinstance(frame.f_locals.get("self"), BaseAlgorithm))  # of a trial
        or (frame.f_code.co_name in ("reset", "step") and isinstance(frame.f_locals.get("self"), VecEnv))
        for frame, _ in walk_tb(traceback)
    )


def _script(arguments: list[str]) -> None:
    runpy.run_module("rl_zoo3.record_video", run_name="__main__")


def _optimize(argv: list[str]) -> list[str]:
    return prepare_train(argv if asks_for_help(argv) else ["-optimize", *argv])


def _benchmark(arguments: list[str]) -> int:
    from ogpo_sb3.zoo.benchmark import main as benchmark

    return benchmark(arguments)


_train = _function("rl_zoo3.train:train")

COMMANDS: dict[str, Command] = {
    "train": Command("train an agent, or continue one with -i", prepare_train, _train),
    "enjoy": Command("watch a trained agent", prepare_enjoy, _function("rl_zoo3.enjoy:enjoy")),
    "record-video": Command("record a trained agent", prepare_video, _script),
    "optimize": Command("search hyperparameters with Optuna (train -optimize)", _optimize, _train),
    "benchmark": Command("evaluate every trained agent of a log folder", list, _benchmark),
    "plot-train": Command(
        "draw training curves from Monitor files", prepare_plot, draw("rl_zoo3.plots.plot_train", "plot_train")
    ),
    "all-plots": Command("draw evaluations and print a table", prepare_plot, draw("rl_zoo3.plots.all_plots", "all_plots")),
    "plot-from-file": Command(
        "draw what all-plots -o saved, with rliable", list, draw("rl_zoo3.plots.plot_from_file", "plot_from_file")
    ),
}


def usage() -> str:
    """The commands, one per line."""
    lines = [f"usage: {PROGRAM} COMMAND [options]; COMMAND --help shows its options", ""]
    return "\n".join([*lines, *(f"  {name:<16}{command.help}" for name, command in COMMANDS.items())])


def main(argv: list[str] | None = None) -> int:
    """
    :param argv: command and its arguments; the process's when None
    :return: exit status: 0, 2 after a sentence on standard error about arguments that are wrong, or 1 after one about what
        could not be made of them
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    if not argv or argv[0] in ("-h", "--help"):
        print(usage())
        return 0 if argv else 2
    name = argv[0].replace("_", "-")
    try:
        check_known("command", name, COMMANDS)
        command = COMMANDS[name]
        register()
        arguments = command.prepare(argv[1:])
    except (ValueError, ImportError) as error:
        print(f"{PROGRAM} {name}: error: {error}", file=sys.stderr)
        return 2
    before, sys.argv = sys.argv, [f"{PROGRAM} {name}", *arguments]
    try:
        return _run(command, arguments)
    finally:
        sys.argv = before
