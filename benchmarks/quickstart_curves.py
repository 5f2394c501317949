"""
The quickstart's curves of every task that it was run on, side by side, from the evaluations that those runs left.

    python benchmarks/quickstart_curves.py [--out FILE]

``benchmarks/results/<task>-quickstart-seed<n>.csv`` is the ``curve.csv`` of a run's folder. A panel per task, a line per
seed with its evaluations' 95 % intervals; the dashed line is the cloned policy. Files with other names are left out.
"""

import argparse
import pathlib
import re
from typing import Any

from ogpo_sb3.evaluation.callback import read_rows
from ogpo_sb3.evaluation.plots import grid, save

RESULTS = pathlib.Path(__file__).parent / "results"
COLUMNS = 4


def curves(folder: pathlib.Path) -> dict[str, list[tuple[int, list[dict[str, float]]]]]:
    """
    :param folder: of the CSV files
    :return: by task, seeds and their evaluations, the cloned policy's first
    :raises ValueError: there is no such file
    """
    found: dict[str, list[tuple[int, list[dict[str, float]]]]] = {}
    for path in sorted(folder.glob("*.csv")):
        if named := re.fullmatch(r"(\w+)-quickstart-seed(\d+)", path.stem):
            found.setdefault(named[1], []).append((int(named[2]), read_rows(path)))
    if not found:
        raise ValueError(f"{folder} must have files like hammer-quickstart-seed0.csv, found none")
    return found


def draw(found: dict[str, list[tuple[int, list[dict[str, float]]]]]) -> Any:
    """
    :param found: see :func:`curves`
    :return: the picture, matplotlib's figure
    """
    rows = -(-len(found) // COLUMNS)
    figure, axes = grid((2.9 * COLUMNS, 2.4 * rows), rows, COLUMNS, sharey=True)
    axes = axes.flatten()
    for spare in axes[len(found) :]:
        spare.remove()
    for panel, (task, runs) in zip(axes, found.items(), strict=False):
        for seed, evaluations in runs:
            steps = [row["timesteps"] / 1000 for row in evaluations]
            (line,) = panel.plot(
                steps, [100 * row["success_rate"] for row in evaluations], marker=".", linewidth=1.2, label=f"seed {seed}"
            )
            low, high = ([100 * row[name] for row in evaluations] for name in ("success_low", "success_high"))
            panel.fill_between(steps, low, high, alpha=0.12, linewidth=0, color=line.get_color())
            panel.axhline(
                100 * evaluations[0]["success_rate"], color=line.get_color(), linestyle="--", linewidth=0.7, alpha=0.6
            )
        panel.set(title=task, ylim=(-2, 102))
        panel.set_xlim(left=0)
        panel.grid(alpha=0.3)
        panel.legend(fontsize=6, loc="lower right")
    figure.supxlabel("environment steps (thousands)", fontsize=9)
    figure.supylabel("success (%)", fontsize=9)
    return figure


def main() -> None:
    """Draw what is recorded."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("docs/_static/quickstart_tasks.png"))
    args = parser.parse_args()
    args.out.parent.mkdir(parents=True, exist_ok=True)
    save(draw(curves(RESULTS)), args.out, dpi=100)
    print(f"Wrote {args.out}")


if __name__ == "__main__":
    main()
