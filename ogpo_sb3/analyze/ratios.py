"""Likelihood ratios and advantages as an actor update would find them."""

from pathlib import Path
from typing import Any

import numpy as np
import torch as th

from ogpo_sb3.analyze.context import Context
from ogpo_sb3.analyze.figures import numbers, stage_colours, table
from ogpo_sb3.common.randomness import drawing_from
from ogpo_sb3.evaluation.document import Block, Text
from ogpo_sb3.evaluation.plots import grid, save
from ogpo_sb3.extraction import agreement, group_advantage
from ogpo_sb3.extraction.advantages import STRATEGIES

TITLE = "Ratios and advantages"
MIN_STAGES = 1
N_BINS = 61
N_STATES = 64
GROUP = 16  # chains per state, where the algorithm has no number of its own


def compute(context: Context) -> dict[str, Any]:
    """
    Chains of the EMA policy at states of each stage's own episodes, scored by the online policy and by the target critics.

    :param context: of the run
    :return: per stage statistics and ``counts`` over the common ``ratio_edges`` and ``advantage_edges``; what lies beyond the
        outermost edges counts in the outermost bins
    :raises NotApplicable: there are no trained critics of actions
    """
    drawn = [(i, *_drawn(context, i)) for i in context.critics()]
    clip = _clip_range(context.model(drawn[-1][0]))
    ratios, advantages = [np.exp(d[1]) for d in drawn], [d[2] for d in drawn]
    # A few chains far out would squeeze all others into one bin.
    reach = max(np.quantile(np.abs(np.concatenate(ratios) - 1.0), 0.995), 1.5 * (clip or 0.0), 1e-4)
    size = max(np.quantile(np.abs(np.concatenate(advantages)), 0.995), 1e-6)
    ratio_edges, advantage_edges = 1.0 + reach * _edges(), size * _edges()
    stages = []
    for (i, log_ratio, advantage, agree), ratio in zip(drawn, ratios, strict=True):
        own_clip = _clip_range(context.model(i))
        stages.append(
            dict(
                title=context.stages[i].title,
                n=len(ratio),
                clip_range=own_clip,
                ratio_mean=numbers(ratio.mean()),
                ratio_std=numbers(ratio.std()),
                beyond_clip=None if own_clip is None else numbers((np.abs(ratio - 1.0) > own_clip).mean()),
                approx_kl=numbers((ratio - 1.0 - log_ratio).mean(), 8),
                advantage_std=numbers(advantage.std(), 8),
                advantage_zero=numbers((advantage == 0.0).mean()),
                advantage_positive=numbers((advantage > 0.0).mean()),
                agreement=numbers(agree),
                ratio_counts=histogram(ratio, ratio_edges).tolist(),
                advantage_counts=histogram(advantage, advantage_edges).tolist(),
            )
        )
    return dict(
        stages=stages,
        strategy=_strategy(context.model(drawn[-1][0])),
        ratio_edges=numbers(ratio_edges, 8),
        advantage_edges=numbers(advantage_edges, 8),
    )


def histogram(values: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """
    :param values: (n,)
    :param edges: (b + 1,) ascending
    :return: (b,) counts, whose sum is n: the outermost bins have no end
    """
    return np.bincount(np.clip(np.searchsorted(edges, values, side="right") - 1, 0, len(edges) - 2), minlength=len(edges) - 1)


@th.no_grad()
def _drawn(context: Context, i: int) -> tuple[np.ndarray, np.ndarray, float]:
    """Log-ratios and advantages (n,) of a stage's chains, and the share on whose sign all heads agree."""
    model, episodes = context.model(i), context.episodes(i)
    policy = model.policy
    group = getattr(model, "group_size", GROUP)
    generator = np.random.default_rng(context.settings.seed)
    rows = generator.choice(len(episodes.episode), min(N_STATES, len(episodes.episode)), replace=False)
    obs, _ = policy.obs_to_tensor(episodes.at(np.sort(rows)))
    with drawing_from(context.settings.seed, policy.device):
        chain = policy.actor_ema.sample_chain(obs, group)
        log_ratio = policy.actor.chain_log_prob(obs, chain.states) - chain.log_prob
        if getattr(getattr(model, "_objective", None), "centred", False):
            log_ratio -= log_ratio.view(-1, group).mean(dim=1).repeat_interleave(group)
        q = policy.critic_target(obs, chain.actions.unflatten(0, (-1, group)))
        advantage = group_advantage(q, _strategy(model), model.q_agg)
    return log_ratio.double().cpu().numpy(), advantage.flatten().double().cpu().numpy(), float(agreement(q))


def _strategy(model: Any) -> str:
    """The algorithm's own, where it is a difference from the group's mean."""
    own = getattr(model, "advantage", "mean")
    return own if own in STRATEGIES and getattr(model, "penalty", None) is None else "mean"


def _clip_range(model: Any) -> float | None:
    """Of the update that would be next; None for an algorithm without."""
    if not hasattr(model, "clip_schedule") or not hasattr(model, "group_size"):
        return None
    return float(model.clip_schedule(model._current_progress_remaining))


def _edges() -> np.ndarray:
    """From -1 to 1, with 0 in the middle of a bin."""
    return np.linspace(-1.0, 1.0, N_BINS + 1)


def draw(found: dict[str, Any], path: Path) -> None:
    """
    Two panels, ratios and advantages; one line per stage.

    :param found: of :func:`compute`
    :param path: PNG file
    """
    figure, axes = grid((10.5, 4.2), 1, 2)
    colours = stage_colours(len(found["stages"]))
    for ax, kind, label in zip(
        axes[0], ("ratio", "advantage"), ("likelihood ratio, online over EMA", "advantage"), strict=True
    ):
        edges = np.array(found[f"{kind}_edges"])
        for stage, colour in zip(found["stages"], colours, strict=True):
            share = np.array(stage[f"{kind}_counts"]) / stage["n"]
            ax.stairs(share, edges, color=colour, linewidth=1.6, label=stage["title"])
        ax.set(
            xlabel=label,
            ylabel="share of chains",
            xlim=(edges[0], edges[-1]),
            yscale="log",
            ylim=(0.5 / found["stages"][0]["n"], 1.5),
        )
        ax.grid(alpha=0.25)
    clip = found["stages"][-1]["clip_range"]
    if clip is not None:
        axes[0][0].axvspan(1.0 - clip, 1.0 + clip, color="gray", alpha=0.18, linewidth=0, label=f"clip range {clip:g}")
    axes[0][0].axvline(1.0, color="gray", linewidth=0.8)
    axes[0][1].axvline(0.0, color="gray", linewidth=0.8)
    handles, labels = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False)
    save(figure, path)


def blocks(found: dict[str, Any]) -> list[Block]:
    """
    :param found: of :func:`compute`
    :return: what the report says beside the picture
    """
    stages = found["stages"]
    text = (
        f"{stages[-1]['n']} chains of the EMA policy per stage at states of its own episodes, advantages of kind "
        f"{found['strategy']!r}. The outermost bins have no end. Agreement is the share of chains on whose sign all "
        "heads agree."
    )
    names = (
        "ratio_mean",
        "ratio_std",
        "beyond_clip",
        "approx_kl",
        "advantage_std",
        "advantage_zero",
        "advantage_positive",
        "agreement",
    )
    columns = {name.replace("_", " "): [s[name] for s in stages] for name in names}
    return [Text(text), table("stage", [s["title"] for s in stages], columns)]
