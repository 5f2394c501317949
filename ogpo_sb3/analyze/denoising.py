"""The ways that denoising chains take from noise to an action."""

from pathlib import Path
from typing import Any

import numpy as np
import torch as th

from ogpo_sb3.analyze.context import Context, NotApplicable
from ogpo_sb3.analyze.episodes import take
from ogpo_sb3.analyze.figures import numbers, table
from ogpo_sb3.analyze.projection import PCA
from ogpo_sb3.common.randomness import drawing_from
from ogpo_sb3.evaluation.document import Block, Text
from ogpo_sb3.evaluation.plots import grid, save

TITLE = "Denoising chains"
MIN_STAGES = 1
_CHAINS = 40  # drawn per state and stage


def compute(context: Context) -> dict[str, Any]:
    """
    Chains of each stage's EMA actor at the same states, from the same noise, in two dimensions.

    These are two entries of the action (``dims``), or the first two principal components of the actions that all stages'
    chains end in.

    :param context: of the run
    :return: per state its origin, what the axes are, and per stage ``paths`` (n, K+1, 2), ``step_lengths`` (K,) (mean distance
        that a denoising step covers, in all dimensions) and ``spreads`` (K+1,) (root mean square distance from the mean)
    :raises NotApplicable: a family without continuous chains
    :raises ValueError: ``dims`` that the action does not have
    """
    observations, origins = context.states()
    n, dims = min(context.settings.n_samples, _CHAINS), context.settings.dims
    chains = [_chains(context, i, observations, len(origins), n) for i in range(len(context.stages))]
    size = chains[0][0].shape[-1]
    if dims is not None and not all(0 <= d < size for d in dims):
        raise ValueError(f"dims must lie in [0, {size - 1}], the entries of an action chunk, found {list(dims)}")
    states = []
    for s, origin in enumerate(origins):
        if dims is None:
            components = PCA(np.concatenate([chain[s][-1] for chain in chains]))
            project: Any = components
            axes: dict[str, Any] = dict(axes="pca", explained=numbers(components.explained))
        else:
            project, axes = lambda x: x[..., list(dims)], dict(axes=list(dims))
        stages = []
        for chain in chains:
            x = chain[s]  # (K+1, n, D)
            steps = np.linalg.norm(np.diff(x, axis=0), axis=-1).mean(axis=1)
            spreads = np.sqrt(((x - x.mean(axis=1, keepdims=True)) ** 2).sum(axis=-1).mean(axis=1))
            paths = np.moveaxis(project(x), 0, 1)
            stages.append(dict(paths=numbers(paths, 4), step_lengths=numbers(steps), spreads=numbers(spreads)))
        states.append(dict(**origin, **axes, stages=stages))
    return dict(stages=[stage.title for stage in context.stages], states=states)


@th.no_grad()
def _chains(context: Context, i: int, observations: Any, count: int, n: int) -> list[np.ndarray]:
    """Per state (K+1, n, D), unclamped."""
    policy = context.model(i).policy
    result = []
    with drawing_from(context.settings.seed, policy.device):
        for s in range(count):
            obs, _ = policy.obs_to_tensor(take(observations, [s]))
            states = policy.actor_ema.sample_chain(obs, n).states
            if not states.is_floating_point() or states.shape[-1] != policy.actor_ema.gcp.action_dim:
                raise NotApplicable(f"it needs chains of actions, and {type(policy.actor_ema.gcp).__name__} has none")
            result.append(states.double().cpu().numpy())
    return result


def draw(found: dict[str, Any], path: Path) -> None:
    """
    A panel per state (row) and stage (column): chains from noise (grey) to action (orange), the steps between darkening.

    :param found: of :func:`compute`
    :param path: PNG file
    """
    import matplotlib
    from matplotlib.collections import LineCollection

    states, titles = found["states"], found["stages"]
    figure, axes = grid((2.9 * len(titles) + 0.5, 2.8 * len(states) + 0.3), len(states), len(titles))
    for row, state in zip(axes, states, strict=True):
        all_paths = np.concatenate([np.array(stage["paths"]).reshape(-1, 2) for stage in state["stages"]])
        low, high = all_paths.min(axis=0), all_paths.max(axis=0)
        margin = 0.05 * (high - low) + 1e-6
        for ax, stage in zip(row, state["stages"], strict=True):
            paths = np.array(stage["paths"])
            k = paths.shape[1] - 1
            segments = np.stack([paths[:, :-1], paths[:, 1:]], axis=2).reshape(-1, 2, 2)
            shades = matplotlib.colormaps["Blues"](np.tile(np.linspace(0.35, 1.0, k), len(paths)))
            ax.add_collection(LineCollection(list(segments), colors=shades, linewidths=0.8, alpha=0.7))
            ax.scatter(paths[:, 0, 0], paths[:, 0, 1], s=8, color="0.65", zorder=3, label="noise")
            ax.scatter(paths[:, -1, 0], paths[:, -1, 1], s=14, color="#d55e00", zorder=4, label="action")
            ax.set(xlim=(low[0] - margin[0], high[0] + margin[0]), ylim=(low[1] - margin[1], high[1] + margin[1]))
            ax.grid(alpha=0.25)
        first, second = _axis_names(state)
        row[0].set_ylabel(f"decision {state['decision']}\n{second}")
        for ax in row:
            ax.set_xlabel(first)
    for ax, title in zip(axes[0], titles, strict=True):
        ax.set_title(title, fontsize=10)
    handles, labels = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2, frameon=False)
    save(figure, path)


def _axis_names(state: dict[str, Any]) -> tuple[str, str]:
    if state["axes"] != "pca":
        return f"entry {state['axes'][0]}", f"entry {state['axes'][1]}"
    shares = [*state["explained"], 0.0][:2]
    return f"component 1 ({shares[0] or 0:.0%})", f"component 2 ({shares[1] or 0:.0%})"


def blocks(found: dict[str, Any]) -> list[Block]:
    """
    :param found: of :func:`compute`
    :return: what the report says beside the picture
    """
    rows: dict[str, list[Any]] = {}
    for k, state in enumerate(found["states"]):
        rows[f"first step, state {k + 1}"] = [stage["step_lengths"][0] for stage in state["stages"]]
        rows[f"last step, state {k + 1}"] = [stage["step_lengths"][-1] for stage in state["stages"]]
        rows[f"spread of actions, state {k + 1}"] = [stage["spreads"][-1] for stage in state["stages"]]
    text = (
        "Chains of the EMA actor from the same noise at the same states. Lengths of steps and spreads are in all dimensions."
    )
    return [Text(text), table("stage", found["stages"], rows)]
