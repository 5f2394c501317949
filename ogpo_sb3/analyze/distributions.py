"""Where a policy's actions lie at some states, and how training moves them (OGPO, figures 13 and 22)."""

from pathlib import Path
from typing import Any

import numpy as np
import torch as th

from ogpo_sb3.analyze.context import Context
from ogpo_sb3.analyze.episodes import Observations, take
from ogpo_sb3.analyze.figures import numbers, stage_colours, table
from ogpo_sb3.analyze.projection import chosen, project
from ogpo_sb3.common.policies import GCPPolicy
from ogpo_sb3.common.randomness import drawing_from
from ogpo_sb3.evaluation.document import Block, Text
from ogpo_sb3.evaluation.plots import grid, save

TITLE = "Action distributions"
MIN_STAGES = 2


def compute(context: Context) -> dict[str, Any]:
    """
    Actions that each stage's policy explores with, at the same states.

    :param context: of the run
    :return: per state its origin, the projection, and by stage the projected ``points``, their ``centre``, the ``spread`` of
        the actions (root mean square distance from their mean) and the ``shift`` of that mean from the first stage's
    """
    settings = context.settings
    how = chosen(settings.projection)
    observations, origins = context.states()
    clouds = [sampled(context, i, observations) for i in range(len(context.stages))]
    states = []
    for s, origin in enumerate(origins):
        actions = [cloud[s] for cloud in clouds]  # per stage (n, D)
        points, axes = project(np.concatenate(actions), how, settings.seed)
        first = actions[0].mean(axis=0)
        per_stage = []
        for a, own in zip(actions, np.split(points, len(actions)), strict=True):
            mean = a.mean(axis=0)
            spread = np.sqrt(((a - mean) ** 2).sum(axis=1).mean())
            shift = np.linalg.norm(mean - first)
            per_stage.append(
                dict(points=numbers(own), centre=numbers(own.mean(axis=0)), spread=numbers(spread), shift=numbers(shift))
            )
        states.append(dict(**origin, **axes, stages=per_stage))
    return dict(stages=[stage.title for stage in context.stages], samples=settings.n_samples, states=states)


@th.no_grad()
def sampled(context: Context, i: int, observations: Observations) -> np.ndarray:
    """
    :param context: of the run
    :param i: of a stage
    :param observations: (S, ...), or a dict of them
    :return: (S, n_samples, D) actions in [-1, 1]: chains of the generative actor, or what an algorithm that adds to it
        explores with; the choice among candidates is left out
    """
    policy, n = context.model(i).policy, context.settings.n_samples
    own = context.stages[i].trained and type(policy).explore is not GCPPolicy.explore
    count = len(next(iter(observations.values())) if isinstance(observations, dict) else observations)
    result = []
    with drawing_from(context.settings.seed, policy.device):
        for s in range(count):
            obs, _ = policy.obs_to_tensor(take(observations, [s] * n if own else [s]))
            actions = policy.explore(obs) if own else policy.actor_ema.sample_chain(obs, n).actions
            result.append(actions.cpu().numpy().astype(np.float64))
    return np.stack(result)


def draw(found: dict[str, Any], path: Path) -> None:
    """
    One panel per state: every stage's actions in its colour, and the way of their mean.

    :param found: of :func:`compute`
    :param path: PNG file
    """
    states, titles = found["states"], found["stages"]
    figure, axes = grid((4.3 * len(states) + 0.4, 4.6), 1, len(states))
    colours = stage_colours(len(titles))
    for ax, state in zip(axes[0], states, strict=True):
        for stage, colour, title in zip(state["stages"], colours, titles, strict=True):
            points = np.array(stage["points"])
            ax.scatter(points[:, 0], points[:, 1], s=9, alpha=0.4, color=colour, linewidths=0)
            ax.scatter(*stage["centre"], s=70, color=colour, edgecolors="black", linewidths=0.8, zorder=4, label=title)
        centres = np.array([stage["centre"] for stage in state["stages"]])
        ax.plot(centres[:, 0], centres[:, 1], color="black", linewidth=0.9, zorder=3)
        shares = state.get("explained")
        names = [
            f"component {k + 1}" + ("" if shares is None else f" ({share:.0%})") for k, share in enumerate(shares or (0, 0))
        ]
        names = names + ["component 2 (0%)"] * (2 - len(names)) if shares is not None else ["UMAP 1", "UMAP 2"]
        ax.set(title=f"decision {state['decision']} of seed {state['seed']}", xlabel=names[0], ylabel=names[1])
        ax.grid(alpha=0.25)
    handles, labels = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(titles), frameon=False)
    save(figure, path)


def blocks(found: dict[str, Any]) -> list[Block]:
    """
    :param found: of :func:`compute`
    :return: what the report says beside the picture
    """
    states = found["states"]
    rows: dict[str, list[Any]] = {}
    for k, state in enumerate(states):
        rows[f"spread, state {k + 1}"] = [stage["spread"] for stage in state["stages"]]
        rows[f"shift, state {k + 1}"] = [stage["shift"] for stage in state["stages"]]
    text = (
        f"{found['samples']} actions per stage at the same states, drawn as it explores. Spread is the root mean square "
        "distance of the actions from their mean, shift the distance of that mean from the first stage's, both in all "
        "dimensions of the scaled action chunk. The line joins the stages' means."
    )
    return [Text(text), table("stage", found["stages"], rows)]
