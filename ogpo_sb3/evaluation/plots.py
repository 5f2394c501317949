"""Pictures of training runs; matplotlib is imported when one is drawn."""

import os
from collections.abc import Sequence
from typing import Any

from ogpo_sb3.common.files import atomic_write


def plot_learning_curve(
    rows: Sequence[dict[str, float]], path: str | os.PathLike[str], title: str, before: float | None = None
) -> None:
    """
    Success over environment steps with its 95 % interval.

    :param rows: see :func:`ogpo_sb3.evaluation.callback.read_rows`; ``success_rate`` in each
    :param path: PNG file
    :param title: above the axes
    :param before: success of the behaviour-cloned policy, drawn as a line
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4.0), layout="constrained")
    FigureCanvasAgg(figure)
    axes: Any = figure.subplots()
    steps = [row["timesteps"] / 1000 for row in rows]
    axes.plot(steps, [100 * row["success_rate"] for row in rows], marker="o", markersize=3, label="fine-tuned")
    axes.fill_between(
        steps, [100 * row["success_low"] for row in rows], [100 * row["success_high"] for row in rows], alpha=0.2, linewidth=0
    )
    if before is not None:
        axes.axhline(100 * before, color="gray", linestyle="--", linewidth=1, label="behaviour cloning")
    axes.set(xlabel="environment steps (thousands)", ylabel="success (%)", ylim=(-2, 102), title=title)
    axes.set_xlim(left=0)
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right")
    with atomic_write(path) as file:
        figure.savefig(file, format="png", dpi=150)
