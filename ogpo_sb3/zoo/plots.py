"""RL-Zoo's plots of a log folder, which also work without a display."""

import argparse
import importlib
import os
import re
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

from ogpo_sb3.common.names import check_known
from ogpo_sb3.zoo.arguments import asks_for_help

_FIGURES = "figures"


def prepare_plot(argv: list[str]) -> list[str]:
    """
    Arguments of ``plot_train`` and ``all_plots``: folders of runs carry "-" where an environment's id has "/".

    :param argv: arguments as typed
    :raises ValueError: no runs of an algorithm or an environment; names the nearest
    """
    if asks_for_help(argv):
        return argv
    reader = argparse.ArgumentParser(add_help=False)
    reader.add_argument("-a", "--algo", "--algos", nargs="+", default=[])
    reader.add_argument("-f", "--exp-folder", "--exp-folders", nargs="+", default=[])
    taken = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    for parser in (reader, taken):
        parser.add_argument("-e", "--env", nargs="+", default=[])
    given, (_, rest) = reader.parse_known_args(argv)[0], taken.parse_known_args(argv)
    if not (given.algo and given.env and given.exp_folder):
        return argv  # the command says what is missing
    folders = [Path(folder) for folder in given.exp_folder]
    for folder in folders:
        if not folder.is_dir():
            raise ValueError(f"there is no log folder {folder}")
    algorithms = [path for folder in folders for path in folder.iterdir() if path.is_dir()]
    where = " ".join(given.exp_folder)
    for algo in given.algo:
        check_known(f"algorithm in {where}:", algo, {path.name for path in algorithms})
    runs = [run.name for path in algorithms if path.name in given.algo for run in path.iterdir() if run.is_dir()]
    environments = [env.replace("/", "-") for env in given.env]
    for env in environments:
        if not any(env in run for run in runs):
            check_known(f"environment in {where}:", env, {re.sub(r"_\d+$", "", run) for run in runs})
    return [*rest, "-e", *environments]


def draw(module: str, name: str) -> Callable[[list[str]], None]:
    """
    A plotting function of RL-Zoo; with ``--figures FOLDER``, or where nothing can be shown, figures become PNG files.

    :param module: its module
    :param name: the function, which reads ``sys.argv``
    """

    def run(arguments: list[str]) -> None:
        parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
        parser.add_argument("--figures")
        given, rest = parser.parse_known_args(arguments)
        if asks_for_help(arguments):
            print("--figures FOLDER: write each figure there as PNG instead of showing it (default without a display)\n")
        if given.figures is not None:
            os.environ["MPLBACKEND"] = "Agg"
        import matplotlib
        from matplotlib import pyplot

        if given.figures is not None:
            matplotlib.use("Agg")
        sys.argv = [sys.argv[0], *rest]
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*non-interactive.*")
            getattr(importlib.import_module(module), name)()
        if given.figures is not None or matplotlib.get_backend().lower() == "agg":
            _write_figures(Path(given.figures or _FIGURES))
        pyplot.close("all")

    return run


def _write_figures(folder: Path) -> None:
    from matplotlib import pyplot

    from ogpo_sb3.common.files import atomic_write

    for number in pyplot.get_fignums():
        figure = pyplot.figure(number)
        title = re.sub(r"\W+", "-", str(figure.get_label() or f"figure {number}")).strip("-").lower()
        with atomic_write(folder / f"{title}.png") as file:
            figure.savefig(file, format="png", dpi=150)
        print(f"Saved {folder / f'{title}.png'}")
