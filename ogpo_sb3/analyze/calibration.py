"""What the critics predict against what then happened (OGPO, figure 7)."""

from pathlib import Path
from typing import Any

import numpy as np
import torch as th

from ogpo_sb3.analyze.context import Context, q_values
from ogpo_sb3.analyze.figures import FIRST, LAST, columns_for, numbers, table
from ogpo_sb3.common.randomness import drawing_from
from ogpo_sb3.evaluation.document import Block, Text
from ogpo_sb3.evaluation.plots import grid, save

TITLE = "Calibration of the critics"
MIN_STAGES = 1
N_BINS = 10
_DRAWN = 400  # points per stage in the picture


def compute(context: Context) -> dict[str, Any]:
    """
    Predicted values of the decisions of fresh episodes against the discounted returns that followed.

    An episode that the time limit cut is completed by the critics' own value of where it was cut, as in training.

    :param context: of the run
    :return: per stage ``bias`` (predicted minus found), ``rmse`` and ``rank_correlation`` of the heads' mean and, under
        ``heads``, of each head; ``bins`` of equal size by prediction; a sample of ``points`` (predicted, spread of the heads,
        found, whether the episode was cut); ``n`` decisions and ``cut``, the share of those from cut episodes
    :raises NotApplicable: there are no trained critics of actions
    """
    stages = []
    for i in context.critics():
        model, episodes = context.model(i), context.episodes(i)
        q = q_values(model.policy, episodes.observations, episodes.actions)
        found = episodes.returns_to_go(_tails(context, i))
        cut = ~episodes.terminated[episodes.episode]
        stages.append(dict(title=context.stages[i].title, **calibration(q, found, cut, context.settings.seed)))
    return dict(
        stages=stages, gamma=float(model.gamma), episodes=context.settings.n_episodes, sampler=context.settings.sampler
    )


def calibration(q: np.ndarray, found: np.ndarray, cut: np.ndarray, seed: int = 0) -> dict[str, Any]:
    """
    :param q: (M, N) predicted values
    :param found: (N,) returns
    :param cut: (N,) bool, whether the return was completed by a prediction
    :param seed: of the points that are kept
    :return: see :func:`compute`
    """
    mean, spread = q.mean(axis=0), q.std(axis=0)
    kept = np.arange(len(found))
    if len(kept) > _DRAWN:
        kept = np.sort(np.random.default_rng(seed).choice(kept, _DRAWN, replace=False))
    order = np.argsort(mean, kind="stable")
    bins = [[mean[rows].mean(), found[rows].mean()] for rows in np.array_split(order, N_BINS) if len(rows)]
    return dict(
        n=len(found),
        cut=numbers(cut.mean()),
        heads_spread=numbers(spread.mean()),
        **_errors(mean, found),
        heads=[_errors(head, found) for head in q],
        bins=numbers(bins),
        points=[[*numbers([mean[k], spread[k], found[k]]), bool(cut[k])] for k in kept],
    )


def _errors(predicted: np.ndarray, found: np.ndarray) -> dict[str, float | None]:
    error = predicted - found
    return dict(
        bias=numbers(error.mean()),
        rmse=numbers(np.sqrt((error**2).mean())),
        rank_correlation=numbers(rank_correlation(predicted, found)),
    )


def rank_correlation(a: np.ndarray, b: np.ndarray) -> float:
    """
    Spearman's rho: the correlation of the ranks, equal values sharing theirs.

    :param a: (N,)
    :param b: (N,)
    :return: in [-1, 1]; nan where one of them is constant
    """
    x, y = (ranks(values) - (len(a) + 1) / 2 for values in (a, b))
    norm = np.sqrt((x**2).sum() * (y**2).sum())
    return float((x * y).sum() / norm) if norm > 0 else float("nan")


def ranks(values: np.ndarray) -> np.ndarray:
    """
    :param values: (N,)
    :return: (N,) from 1, equal values having the mean of theirs
    """
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (counts.cumsum() - (counts - 1) / 2)[inverse]


@th.no_grad()
def _tails(context: Context, i: int) -> np.ndarray:
    """(E,) value where each episode ended, of an action without noise."""
    policy, episodes = context.model(i).policy, context.episodes(i)
    obs, _ = policy.obs_to_tensor(episodes.last_observations)
    with drawing_from(context.settings.seed, policy.device):
        actions = policy.actor_ema.sample(obs).cpu().numpy()
    return q_values(policy, episodes.last_observations, actions).mean(axis=0)


def draw(found: dict[str, Any], path: Path) -> None:
    """
    One panel per stage: returns over predictions, with the means of ten bins and the line where they agree.

    :param found: of :func:`compute`
    :param path: PNG file
    """
    stages = found["stages"]
    rows, columns = columns_for(len(stages))
    figure, axes = grid((3.5 * columns + 0.3, 3.6 * rows + 0.4), rows, columns)
    every = np.concatenate([np.array([point[:3] for point in stage["points"]], dtype=float) for stage in stages])
    low, high = min(every[:, 0].min(), every[:, 2].min()), max(every[:, 0].max(), every[:, 2].max())
    margin = 0.04 * (high - low) or 1.0
    for ax, stage in zip(axes.flat, stages, strict=False):
        points = np.array([point[:3] for point in stage["points"]], dtype=float)
        cut = np.array([point[3] for point in stage["points"]], dtype=bool)
        ax.plot([low, high], [low, high], color="gray", linewidth=1, zorder=1)
        for mask, face, label in ((~cut, FIRST, "finished"), (cut, "none", "cut by the time limit")):
            if mask.any():
                ax.scatter(
                    points[mask, 0],
                    points[mask, 2],
                    s=12,
                    alpha=0.45,
                    facecolors=face,
                    edgecolors=FIRST,
                    linewidths=0.6,
                    label=label,
                )
        bins = np.array(stage["bins"])
        ax.plot(bins[:, 0], bins[:, 1], color=LAST, marker="o", markersize=4, linewidth=1.5, label="tenths by prediction")
        correlation = "-" if stage["rank_correlation"] is None else f"{stage['rank_correlation']:.2f}"
        ax.set_title(f"{stage['title']}\nrank correlation {correlation}, bias {stage['bias']:+.2g}", fontsize=10)
        ax.set(xlabel="predicted Q (mean of heads)", xlim=(low - margin, high + margin), ylim=(low - margin, high + margin))
        ax.locator_params(nbins=5)
        ax.grid(alpha=0.25)
    for ax in list(axes.flat)[len(stages) :]:
        ax.set_visible(False)
    for line in axes:
        line[0].set_ylabel("discounted return that followed")
    labels = {label: handle for ax in axes.flat for handle, label in zip(*ax.get_legend_handles_labels(), strict=True)}
    figure.legend(labels.values(), labels.keys(), loc="outside lower center", ncols=3 if columns > 1 else 1, frameon=False)
    save(figure, path)


def blocks(found: dict[str, Any]) -> list[Block]:
    """
    :param found: of :func:`compute`
    :return: what the report says beside the picture
    """
    stages = found["stages"]
    text = (
        f"Decisions of {found['episodes']} episodes per stage (sampler {found['sampler']}), discount {found['gamma']:g} per "
        "environment step. Bias is predicted minus found. An episode that the time limit cut is completed by the critics' own "
        "value there. The range of a head's correlations says whether the heads rank alike."
    )
    columns: dict[str, list[Any]] = {
        name: [s[name] for s in stages] for name in ("rank_correlation", "bias", "rmse", "heads_spread")
    }
    for label, pick in (("worst head", min), ("best head", max)):
        known = [[h["rank_correlation"] for h in s["heads"] if h["rank_correlation"] is not None] for s in stages]
        columns[label] = [pick(values) if values else None for values in known]
    columns.update({"decisions": [s["n"] for s in stages], "share cut": [s["cut"] for s in stages]})
    return [Text(text), table("stage", [s["title"] for s in stages], {k.replace("_", " "): v for k, v in columns.items()})]
