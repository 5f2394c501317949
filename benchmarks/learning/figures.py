"""Pictures of a study."""

import math
import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from ogpo_sb3.evaluation.plots import grid, save

from benchmarks.learning.collect import Record, on_grid
from benchmarks.learning.curves import bootstrap

COLUMNS = 3


def draw(records: list[Record], out: pathlib.Path) -> list[pathlib.Path]:
    """
    One picture of gains, one of curves and one of calibration per task.

    :param records: of a study
    :param out: folder
    :return: files written
    """
    written = []
    for task in sorted({r.run["task"] for r in records}):
        mine = [r for r in records if r.run["task"] == task]
        for name, (told, function) in _PICTURES.items():
            picture = function(mine)
            if picture is None:
                continue
            picture.suptitle(f"{task}: {told}")
            path = out / f"{name}_{task}.png"
            save(picture, path)
            written.append(path)
    return written


def _panels(names: list[str]) -> tuple[Figure, dict[str, Any]]:
    columns = min(COLUMNS, len(names))
    rows = math.ceil(len(names) / columns)
    figure, axes = grid((4.4 * columns, 3.2 * rows + 0.4), rows, columns)
    axes = axes.flatten()
    for spare in axes[len(names) :]:
        spare.remove()
    return figure, dict(zip(names, axes, strict=False))


def _variants(records: list[Record]) -> dict[str, list[Record]]:
    found: dict[str, list[Record]] = {}
    for record in records:
        found.setdefault(record.run["variant"], []).append(record)
    return found


def _gains(records: list[Record]) -> Figure | None:
    """A line per variant, grouped by factor: every run's gain, their interquartile mean, and how far chance alone reaches."""
    records = [r for r in records if r.row().get("gain") is not None]
    if not records:
        return None
    lines = [(runs[0].run["factor"], variant, runs) for variant, runs in _variants(records).items()]
    lines.sort(key=lambda line: (line[0] != "base", line[0]))
    colours = {
        factor: "black" if factor == "base" else f"C{i % 10}" for i, factor in enumerate(dict.fromkeys(f for f, *_ in lines))
    }
    figure, [[axes]] = grid((7.5, 1.4 + 0.22 * len(lines)), 1, 1)
    axes.axvline(0, color="gray", linestyle="--", linewidth=1)
    for y, (factor, _, runs) in enumerate(lines):
        gains = [100 * run.row()["gain"] for run in runs]
        estimate, low, high = bootstrap({"": gains})
        axes.plot(gains, [y] * len(gains), "o", color=colours[factor], markersize=4, alpha=0.6)
        if len(gains) > 1:
            axes.plot([low, high], [y, y], color=colours[factor], linewidth=1.5)
            axes.plot(estimate, y, "|", color=colours[factor], markersize=12, markeredgewidth=2)
        if factor == "base":
            # Of two runs from the same cloned policy: binomial spread of the difference of their final evaluations.
            after = float(np.mean([run.row()["final_success"] for run in runs]))
            reach = 196 * math.sqrt(2 * after * (1 - after) / runs[0].run["final_episodes"])
            axes.axvspan(estimate - reach, estimate + reach, color="gray", alpha=0.15, linewidth=0)
            axes.axvline(estimate, color="black", linewidth=1)
    axes.set_yticks(range(len(lines)), [f"{variant} ({len(runs)})" for _, variant, runs in lines], fontsize=8)
    axes.set(xlabel="gain over the cloned policy, points", ylim=(len(lines) - 0.5, -0.5))
    axes.grid(axis="x", alpha=0.3)
    return figure


def draw_differences(rows: list[dict[str, Any]], spread: float | None, out: pathlib.Path) -> pathlib.Path:
    """
    A table in colour: a line per variant, a column per task and one over all of them.

    :param rows: see :func:`benchmarks.learning.differences.differences`
    :param spread: likewise
    :param out: folder
    :return: the file written
    """
    columns = sorted({row["task"] for row in rows}, key=lambda task: (task == "all", task))
    variants = list(dict.fromkeys(row["variant"] for row in sorted(rows, key=lambda row: (row["factor"], row["variant"]))))
    figure, [[axes]] = grid((3.2 + 1.25 * len(columns), 1.6 + 0.24 * len(variants)), 1, 1)
    values = np.full((len(variants), len(columns)), np.nan)
    for row in rows:
        at = variants.index(row["variant"]), columns.index(row["task"])
        values[at] = 100 * row["difference"]
        beyond = row["reach"] is not None and abs(row["difference"]) > row["reach"]
        runs = f" ({row['runs']})" if row["runs"] > 1 else ""
        points = round(float(values[at]))
        text = (f"{points:+d}" if points else "0") + ("" if row["same_clone"] else "°") + runs
        axes.text(at[1], at[0], text, ha="center", va="center", fontsize=8, fontweight="bold" if beyond else "normal")
    axes.imshow(values, cmap="RdBu", vmin=-60, vmax=60, aspect="auto", alpha=0.7)
    axes.set_xticks(range(len(columns)), columns, fontsize=8)
    axes.xaxis.tick_top()
    axes.set_yticks(range(len(variants)), variants, fontsize=8)
    reach = "" if spread is None else f"\nbold: beyond the 95 % reach of chance, {196 * spread:.0f} points for a single run"
    axes.set_xlabel(f"points of success against the base (runs, where several); ° from another clone{reach}", fontsize=8)
    path = out / "differences.png"
    save(figure, path)
    return path


def _curves(records: list[Record]) -> Figure | None:
    """A panel per factor: the base, and what the factor makes of it."""
    records = [r for r in records if r.success]
    if not records:
        return None
    bases = [r for r in records if r.run["factor"] == "base"]
    factors = sorted({r.run["factor"] for r in records} - {"base"}) or ["base"]
    figure, panels = _panels(factors)
    for factor, axes in panels.items():
        mine = [r for r in records if r.run["factor"] == factor]
        if bases and factor != "base":
            _curve(axes, bases, "base", color="black")
        for variant, runs in _variants(mine).items():
            _curve(axes, runs, variant)
        axes.set(title=factor, xlabel="environment steps (thousands)", ylim=(-2, 102))
        axes.set_xlim(left=0)
        axes.grid(alpha=0.3)
        axes.legend(fontsize=7)
    return figure


def _curve(axes: Any, runs: list[Record], label: str, **style: Any) -> None:
    steps, values = on_grid(runs)
    estimate, low, high = np.array([bootstrap({"": v[~np.isnan(v)].tolist()}, repetitions=1000) for v in values.T]).T
    (line,) = axes.plot(steps / 1000, 100 * estimate, marker=".", markersize=3, label=f"{label} ({len(runs)})", **style)
    axes.fill_between(steps / 1000, 100 * low, 100 * high, alpha=0.15, linewidth=0, color=line.get_color())


def _calibration(records: list[Record]) -> Figure | None:
    """A panel per factor, as for the curves: bins of the last evaluation of each run against the diagonal."""
    records = [r for r in records if r.calibration]
    if not records:
        return None
    factors = sorted({r.run["factor"] for r in records})
    figure, panels = _panels(factors)
    for factor, axes in panels.items():
        ends: list[float] = []
        for variant, runs in _variants([r for r in records if r.run["factor"] == factor]).items():
            label: str | None = variant
            colour = None
            for run in runs:
                last = run.calibration[-1]["timesteps"]
                bins = [b for b in run.calibration if b["timesteps"] == last]
                q, returns = [b["q"] for b in bins], [b["mc_return"] for b in bins]
                (line,) = axes.plot(q, returns, marker=".", linewidth=0.8, label=label, color=colour)
                label, colour = None, line.get_color()
                ends += [*q, *returns]
        axes.plot([min(ends), max(ends)], [min(ends), max(ends)], color="gray", linestyle="--", linewidth=1)
        axes.set(title=factor, xlabel="predicted Q", ylabel="discounted return")
        axes.grid(alpha=0.3)
        axes.legend(fontsize=7)
    return figure


_PICTURES: dict[str, tuple[str, Callable[[list[Record]], Figure | None]]] = {
    "gains": ("gain in success", _gains),
    "curves": ("success (%)", _curves),
    "calibration": ("predicted Q against the return that followed", _calibration),
}
