"""
One door to RL-Zoo: ``python -m ogpo_sb3.zoo COMMAND ...``, installed as ``ogpo-zoo``.

Each command checks and completes its arguments and then calls RL-Zoo's own function with all its options; ``--help`` after a
command shows them.
"""

import importlib
import runpy
import sys
from collections.abc import Callable
from typing import NamedTuple

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


def _script(arguments: list[str]) -> None:
    runpy.run_module("rl_zoo3.record_video", run_name="__main__")


def _optimize(argv: list[str]) -> list[str]:
    return prepare_train(argv if asks_for_help(argv) else ["-optimize", *argv])


def _benchmark(arguments: list[str]) -> int:
    from ogpo_sb3.zoo.benchmark import main as benchmark

    return benchmark(arguments)


COMMANDS: dict[str, Command] = {
    "train": Command("train an agent, or continue one with -i", prepare_train, _function("rl_zoo3.train:train")),
    "enjoy": Command("watch a trained agent", prepare_enjoy, _function("rl_zoo3.enjoy:enjoy")),
    "record-video": Command("record a trained agent", prepare_video, _script),
    "optimize": Command("search hyperparameters with Optuna (train -optimize)", _optimize, _function("rl_zoo3.train:train")),
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
    :return: exit status: 0, or 2 after a sentence on standard error about arguments that are wrong
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
        return command.run(arguments) or 0
    finally:
        sys.argv = before
