"""How often and how fast a policy succeeds: with a penalty per step the two pull against each other (OGPO, section 4)."""

from pathlib import Path
from typing import Any

import numpy as np

from ogpo_sb3.analyze.context import Context, NotApplicable
from ogpo_sb3.analyze.figures import numbers, stage_colours, table
from ogpo_sb3.evaluation.document import Block, Text
from ogpo_sb3.evaluation.plots import grid, save
from ogpo_sb3.evaluation.rollouts import EvaluationResult

TITLE = "Success and speed"
MIN_STAGES = 2


def compute(context: Context) -> dict[str, Any]:
    """
    Success and length of each stage's episodes, all on the same seeds.

    :param context: of the run
    :return: per stage ``success`` with its 95 % ``interval``, ``steps_to_success`` (mean length of successful episodes; None
        where there are none) and every episode's ``lengths`` and ``successes``
    :raises NotApplicable: the environment does not say whether an episode succeeded
    """
    stages = []
    for i, stage in enumerate(context.stages):
        episodes = context.episodes(i)
        if episodes.successes is None:
            raise NotApplicable(f"it needs successes, and {context.source.env_id} does not report them")
        result = EvaluationResult(episodes.seeds, episodes.returns, episodes.lengths, episodes.successes)
        stages.append(
            dict(
                title=stage.title,
                success=numbers(episodes.successes.mean()),
                interval=numbers(list(result.success_interval or ())),
                steps_to_success=None if result.steps_to_success is None else numbers(result.steps_to_success),
                lengths=episodes.lengths.tolist(),
                successes=episodes.successes.tolist(),
            )
        )
    return dict(stages=stages, episodes=context.settings.n_episodes, sampler=context.settings.sampler)


def draw(found: dict[str, Any], path: Path) -> None:
    """
    Left the way of the run through success and speed, right the lengths of every stage's successful episodes.

    :param found: of :func:`compute`
    :param path: PNG file
    """
    stages = found["stages"]
    figure, ((left, right),) = grid((10.5, 4.2), 1, 2)
    colours = stage_colours(len(stages))
    known = [(s, c) for s, c in zip(stages, colours, strict=True) if s["steps_to_success"] is not None]
    points = np.array([[s["steps_to_success"], 100 * s["success"]] for s, _ in known]).reshape(-1, 2)
    left.plot(points[:, 0], points[:, 1], color="black", linewidth=0.9, zorder=1)
    for (stage, colour), (x, y) in zip(known, points, strict=True):
        low, high = stage["interval"]
        left.errorbar(x, y, [[y - 100 * low], [100 * high - y]], color=colour, linewidth=1.2, alpha=0.6, zorder=2)
        left.scatter(x, y, s=60, color=colour, edgecolors="black", linewidths=0.8, zorder=3, label=stage["title"])
    left.set(xlabel="mean steps to success", ylabel="success (%)", ylim=(-3, 103))
    left.grid(alpha=0.25)
    left.set_title("success against speed", fontsize=10)
    for k, (stage, colour) in enumerate(zip(stages, colours, strict=True)):
        lengths = np.array(stage["lengths"])[np.array(stage["successes"], dtype=bool)]
        if len(lengths):
            box = right.boxplot([lengths], positions=[k], widths=0.55, patch_artist=True, showfliers=True)
            box["boxes"][0].set(facecolor=colour, alpha=0.55)
            box["medians"][0].set(color="black")
    names = [f"{s['title']}\n{sum(s['successes'])} of {len(s['successes'])}" for s in stages]
    right.set_xticks(range(len(stages)), names, fontsize=8)
    right.set(ylabel="steps to success", xlim=(-0.6, len(stages) - 0.4))
    right.set_ylim(bottom=0)
    right.grid(alpha=0.25, axis="y")
    right.set_title("lengths of successful episodes", fontsize=10)
    handles, labels = left.get_legend_handles_labels()
    if handles:
        figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False)
    save(figure, path)


def blocks(found: dict[str, Any]) -> list[Block]:
    """
    :param found: of :func:`compute`
    :return: what the report says beside the picture
    """
    stages = found["stages"]
    text = (
        f"{found['episodes']} episodes per stage on the same seeds (sampler {found['sampler']}), success with its 95 % Wilson "
        "interval. Where steps cost, a policy can trade success for speed: its way in the left panel then leads left and down."
    )
    columns = {
        "success": [s["success"] for s in stages],
        "low": [s["interval"][0] for s in stages],
        "high": [s["interval"][1] for s in stages],
        "mean steps to success": [s["steps_to_success"] for s in stages],
        "mean length": [float(np.mean(s["lengths"])) for s in stages],
    }
    return [Text(text), table("stage", [s["title"] for s in stages], columns)]
