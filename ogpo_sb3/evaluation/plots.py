"""Pictures of training runs; matplotlib is imported when one is drawn."""

import os
from collections.abc import Mapping, Sequence
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
    figure, (axes,) = _figure((6.4, 4.0), 1)
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
    save(figure, path, dpi=150)


# Okabe and Ito: told apart by colour-blind readers.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#999933", "#882255", "#44aa99")


def plot_curves(
    panels: Sequence[tuple[str, Mapping[str, tuple[Any, Any, Any, Any, int]]]],
    path: str | os.PathLike[str],
    title: str,
    before: Sequence[float | None] = (),
) -> None:
    """
    Curves of several algorithms with their intervals, one panel per measure.

    :param panels: of each the label of its axis and, by algorithm, steps, estimates, lower and upper ends and number of runs
    :param path: PNG file
    :param title: above all panels
    :param before: of each panel, what the cloned policy has, drawn as a line
    """
    figure, axes = _figure((5.6 * len(panels), 4.0), len(panels))
    for ax, (label, curves), level in zip(axes, panels, [*before, *[None] * len(panels)], strict=False):
        shade = 0.15 if len(curves) <= 5 else 0.04  # many bands on each other hide what lies below
        for i, (name, (steps, estimate, low, high, runs)) in enumerate(curves.items()):
            colour, style = COLOURS[i % len(COLOURS)], ("-", "--", "-.", ":")[i % 4]  # curves may lie on each other
            thousands = [step / 1000 for step in steps]
            ax.plot(thousands, estimate, linestyle=style, marker="o", markersize=3, color=colour, label=f"{name} ({runs})")
            ax.fill_between(thousands, low, high, alpha=shade, linewidth=0, color=colour)
        if level is not None:
            ax.axhline(level, color="gray", linestyle="--", linewidth=1, label="behaviour cloning")
        ax.set(xlabel="environment steps (thousands)", ylabel=label)
        if label.startswith("success"):
            ax.set_ylim(-0.02, 1.02)
        ax.set_xlim(left=0)
        ax.grid(alpha=0.3)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside right upper", fontsize=8)
    figure.suptitle(title)
    save(figure, path)


def plot_intervals(
    panels: Sequence[tuple[str, Mapping[str, tuple[float, float, float]]]],
    path: str | os.PathLike[str],
    line: float | None = None,
) -> None:
    """
    Estimates with their intervals as horizontal bars, one panel per quantity.

    :param panels: of each the quantity and, by name, estimate, lower and upper end (nan for none)
    :param path: PNG file
    :param line: value to draw a line at
    """
    rows = max(len(values) for _, values in panels)
    figure, axes = _figure((4.8 * len(panels), 0.9 + 0.38 * rows), len(panels))
    for ax, (label, values) in zip(axes, panels, strict=True):
        for i, (value, low, high) in enumerate(values.values()):
            colour = COLOURS[i % len(COLOURS)]
            if low == low:
                ax.barh(i, high - low, left=low, height=0.6, color=colour, alpha=0.35)
            ax.plot([value, value], [i - 0.3, i + 0.3], color=colour, linewidth=2)
        ax.set_yticks(range(len(values)), list(values))
        ax.invert_yaxis()
        ax.set(xlabel=label, xlim=(-0.02, 1.02))
        if line is not None:
            ax.axvline(line, color="gray", linestyle="--", linewidth=1)
        ax.grid(alpha=0.3, axis="x")
    save(figure, path)


def _figure(size: tuple[float, float], panels: int) -> tuple[Any, Any]:
    figure, axes = grid(size, 1, panels)
    return figure, axes[0]


def grid(size: tuple[float, float], rows: int, columns: int, **options: Any) -> tuple[Any, Any]:
    """
    A figure without a display.

    :param size: inches
    :param rows: of panels
    :param columns: of panels
    :param options: of matplotlib's ``subplots``, ``sharey`` for instance
    :return: matplotlib's figure, and its axes as an array (rows, columns)
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(rows, columns, squeeze=False, **options)


def save(figure: Any, path: str | os.PathLike[str], dpi: int = 110) -> None:
    """
    :param figure: matplotlib's
    :param path: PNG file; equal pictures are equal files
    :param dpi: dots per inch
    """
    # Without matplotlib's version in the file.
    with atomic_write(path) as file:
        figure.savefig(file, format="png", dpi=dpi, metadata={"Software": None})
