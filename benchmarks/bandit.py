"""
OGPO's objectives on a bandit with several modes and a known Q.

    python -m benchmarks.bandit [--seeds 5] [--updates 400] [--out runs/bandit] [--jobs 1]

A flow is cloned from four equally frequent modes of different value, 0.1 beside the peaks of Q. Then only the actor is
updated, by each objective, with Q itself in the place of the critics ("exact") or with five heads that err ("rough").
An interrupted command goes on where it was. Written: curves.csv, summary.csv, bandit.png.
"""

import argparse
import csv
import os
import pathlib
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from typing import Any

import gymnasium as gym
import numpy as np
import torch as th
from gymnasium import spaces
from ogpo_sb3 import OGPO
from ogpo_sb3.common.errors import TrainingDivergedError
from ogpo_sb3.common.files import atomic_write
from ogpo_sb3.demonstrations import DemonstrationSet
from tqdm import tqdm

MODES = th.tensor([[-0.5, -0.5], [0.5, -0.5], [-0.5, 0.5], [0.5, 0.5]])
VALUES = th.tensor([0.25, 0.5, 0.75, 1.0])
# Where Q has its peaks: the cloned modes can be improved upon.
PEAKS = MODES + 0.1 * MODES.sign() * th.tensor([1.0, 0.0])
SPREAD, WIDTH = 0.06, 0.15  # standard deviation of the cloned modes, and of Q's peaks
NEAR = 0.35  # an action that is no further from a peak belongs to its mode
CRITICS = ("exact", "rough")
SAMPLES, EVERY, BC_STEPS, DISTILLATION_STEPS = 2000, 20, 4000, 1000
# The temperature is a tenth of the range of Q, as the official 10 is of [-100, 0]. FPO's ratio has a trust region of its own
# scale, and collapses at the others' learning rate of 3e-3.
OBJECTIVES: dict[str, dict[str, Any]] = {
    "ppo": {},
    "aw_ogpo": dict(extraction_kwargs=dict(temperature=0.1)),
    "awr_fm": dict(extraction_kwargs=dict(temperature=0.1)),
    "fpo": dict(clip_range=0.05, learning_rate=1e-3),
    "fpo++": dict(clip_range=0.05, learning_rate=1e-3),
    "best_of_n_sft": {},
    "bptt": {},
    "fql": dict(extraction_kwargs=dict(alpha=1.0)),
}
NETWORKS = dict(net_arch=[64, 64, 64], denoising_steps=10, noise_std=0.05, n_critics=1, critic_net_arch=[8])
FIELDS = ["critic", "extraction", "seed", "update", "q", "mode_1", "mode_2", "mode_3", "mode_4", "elsewhere", "diverged"]


def true_q(actions: th.Tensor) -> th.Tensor:
    """
    :param actions: (..., 2)
    :return: (...) in [0, 1]: the highest of four bumps
    """
    distance = (actions[..., None, :] - PEAKS).square().sum(-1)
    return (VALUES * (-distance / (2 * WIDTH**2)).exp()).max(dim=-1).values


class KnownQ(th.nn.Module):
    """
    Q in the place of the target critics.

    :param rough: five heads that err by ripples of standard deviation 0.15, a quarter of whose variance they share
    :param seed: of the ripples
    """

    def __init__(self, rough: bool, seed: int):
        super().__init__()
        generator = th.Generator().manual_seed(seed)
        self.heads, self.rough = (5, True) if rough else (1, False)
        self.frequencies = 20.0 * th.randn(self.heads + 1, 64, 2, generator=generator)
        self.phases = 2 * th.pi * th.rand(self.heads + 1, 64, generator=generator)

    def forward(self, obs: th.Tensor, actions: th.Tensor) -> th.Tensor:
        """
        :param obs: ignored
        :param actions: (..., 2)
        :return: (M, ...)
        """
        q = true_q(actions).expand(self.heads, *actions.shape[:-1])
        if not self.rough:
            return q
        phases = self.phases.view(self.heads + 1, *[1] * (actions.dim() - 1), 64)
        waves = (th.einsum("...d,mfd->m...f", actions, self.frequencies) + phases).cos()
        ripples = waves.sum(-1) * (2 / 64) ** 0.5
        return q + 0.15 * (0.5 * ripples[:1] + 0.75**0.5 * ripples[1:])


class Bandit(gym.Env):
    """One step, one state; the reward is Q."""

    def __init__(self) -> None:
        self.observation_space = spaces.Box(-1.0, 1.0, (1,), np.float32)
        self.action_space = spaces.Box(-1.0, 1.0, (2,), np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict[str, Any]]:
        """The only state."""
        super().reset(seed=seed)
        return np.zeros(1, np.float32), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Ends at once."""
        return np.zeros(1, np.float32), true_q(th.as_tensor(action)).item(), True, False, {}


def demonstrations(seed: int, n: int = 4000) -> DemonstrationSet:
    """
    :param seed: of the draws
    :param n: actions
    :return: equally many of each mode
    """
    rng = np.random.default_rng(seed)
    actions = MODES.numpy()[np.arange(n) % 4] + SPREAD * rng.standard_normal((n, 2))
    actions = actions.clip(-1, 1).astype(np.float32)
    states = np.zeros((n, 1), np.float32)
    return DemonstrationSet(
        observations=states,
        actions=actions,
        episode_ends=np.arange(1, n + 1),
        rewards=true_q(th.as_tensor(actions)).numpy(),
        terminals=np.ones(n, bool),
        final_observations=states,
    )


def make(seed: int, **kwargs: Any) -> OGPO:
    """
    :param seed: of data, networks and draws
    :param kwargs: of the algorithm
    """
    sizes = dict(actor_batch_size=8, group_size=32, learning_rate=3e-3, actor_tau=0.05, clip_range=0.15, max_grad_norm=10.0)
    return OGPO(
        "FlowPolicy",
        Bandit(),
        policy_kwargs=NETWORKS,
        demonstrations=demonstrations(seed),
        offline_ratio=1.0,
        batch_size=256,
        seed=seed,
        device="cpu",
        **{**sizes, **kwargs},
    )


def clone(seed: int, out: pathlib.Path) -> pathlib.Path:
    """
    :param seed: of data and networks
    :param out: folder
    :return: the BC checkpoint that all objectives start from
    """
    path = out / f"bc_{seed}.zip"
    if not path.exists():
        model = make(seed, bc_steps=BC_STEPS, bc_learning_rate="lin_2e-3", actor_tau=0.01)
        model.pretrain(progress_bar=False)
        model.policy.save(path)
    return path


def deployed(model: OGPO) -> th.Tensor:
    """(SAMPLES, 2) actions of the policy as it is evaluated, on draws of their own."""
    with th.random.fork_rng(), th.no_grad():
        th.manual_seed(0)
        obs = th.zeros(SAMPLES, 1)
        return model.policy.decide(obs, model.policy.fresh_latents(obs))


def measure(actions: th.Tensor) -> dict[str, float]:
    """
    :param actions: (n, 2)
    :return: mean Q, the share of each mode and of what is near none
    """
    distance = (actions[:, None] - PEAKS).square().sum(-1).sqrt()
    nearest = distance.argmin(dim=1)
    near = distance.min(dim=1).values <= NEAR
    shares = {f"mode_{m + 1}": (near & (nearest == m)).float().mean().item() for m in range(4)}
    return dict(q=true_q(actions).mean().item(), **shares, elsewhere=1.0 - near.float().mean().item())


def run(critic: str, extraction: str, seed: int, updates: int, out: pathlib.Path, **kwargs: Any) -> pathlib.Path:
    """
    One objective from one clone; nothing is done where its file exists.

    :param critic: of ``CRITICS``
    :param extraction: of ``OBJECTIVES``
    :param seed: of everything
    :param updates: of the actor
    :param out: folder
    :param kwargs: of the algorithm, in place of the objective's own
    :return: file with a row per measurement; beside it .npy, the (times, SAMPLES, 2) actions
    """
    th.set_num_threads(1)
    path = out / "runs" / f"{critic}_{extraction}_{seed}_{updates}.csv"
    if path.exists():
        return path
    model = make(seed, extraction=extraction, pretrained_policy=str(clone(seed, out)), **{**OBJECTIVES[extraction], **kwargs})
    model.policy.critic_target = model.critic_target = KnownQ(critic == "rough", seed)  # type: ignore[assignment]
    model._update_rates()
    if extraction == "fql":  # begins as the clone, like the others
        for _ in range(DISTILLATION_STEPS):
            model._update_one_step(model._sample(model.actor_batch_size), q_weight=0.0)
    rows, snapshots, diverged = [], [], 0
    for update in range(updates + 1):
        if update % EVERY == 0:
            actions = deployed(model)
            snapshots.append(actions.numpy())
            about = dict(critic=critic, extraction=extraction, seed=seed, update=update)
            rows.append({**about, **measure(actions), "diverged": diverged})
        if update < updates and not diverged:
            try:
                model._update_actor()
            except TrainingDivergedError:
                diverged = 1
            model._metrics.clear()
    with atomic_write(path.with_suffix(".npy")) as file:
        np.save(file, np.stack(snapshots).astype(np.float16))
    with atomic_write(path) as file:
        file.write(_text(rows).encode())
    return path


def _text(rows: list[dict[str, Any]], fields: list[str] = FIELDS) -> str:
    def shown(value: Any) -> str:
        return f"{value:.4f}" if isinstance(value, float) else str(value)

    return "\n".join([",".join(fields), *(",".join(shown(row[name]) for name in fields) for row in rows)]) + "\n"


def interval(values: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """
    :param values: (seeds, ...)
    :return: mean, and the ends of its 95 % bootstrap interval over seeds
    """
    draws = np.random.default_rng(0).integers(len(values), size=(1000, len(values)))
    means = values[draws].mean(axis=1)
    return values.mean(axis=0), *np.percentile(means, [2.5, 97.5], axis=0)


def collect(paths: list[pathlib.Path], out: pathlib.Path) -> dict[tuple[str, str], dict[str, np.ndarray]]:
    """
    Write curves.csv and summary.csv.

    :param paths: of the runs
    :param out: folder
    :return: by critic and objective, (seeds, times) of every measure
    """
    rows: list[dict[str, Any]] = []
    for path in paths:
        with path.open(newline="") as file:
            rows += [
                {k: v if k in ("critic", "extraction") else float(v) if "." in v else int(v) for k, v in row.items()}
                for row in csv.DictReader(file)
            ]
    with atomic_write(out / "curves.csv") as file:
        file.write(_text(rows).encode())
    found: dict[tuple[str, str], dict[str, np.ndarray]] = {}
    summary = []
    for critic, extraction in dict.fromkeys((row["critic"], row["extraction"]) for row in rows):
        mine = [row for row in rows if (row["critic"], row["extraction"]) == (critic, extraction)]
        seeds = len({row["seed"] for row in mine})
        measures = {name: np.array([row[name] for row in mine]).reshape(seeds, -1) for name in FIELDS[3:]}
        measures["low"] = measures["mode_1"] + measures["mode_2"]
        found[critic, extraction] = measures
        line: dict[str, Any] = dict(
            critic=critic, extraction=extraction, seeds=seeds, diverged=int(measures["diverged"][:, -1].sum())
        )
        for name in ("q", "low", "mode_4", "elsewhere"):
            value, low, high = interval(measures[name])
            line |= {name: float(value[-1]), f"{name}_low": float(low[-1]), f"{name}_high": float(high[-1])}
        line["worst_q"] = float(measures["q"].min(axis=1).mean())
        summary.append(line)
    with atomic_write(out / "summary.csv") as file:
        file.write(_text(summary, list(summary[0])).encode())
    for line in summary:
        print(
            f"{line['critic']:6} {line['extraction']:14} Q {line['q']:.2f} ({line['q_low']:.2f}-{line['q_high']:.2f})  "
            f"two worst modes {line['low']:.2f}  best mode {line['mode_4']:.2f}  elsewhere {line['elsewhere']:.2f}  "
            f"lowest Q on the way {line['worst_q']:.2f}  diverged {line['diverged']}/{line['seeds']}"
        )
    return found


def draw(found: dict[tuple[str, str], dict[str, np.ndarray]], updates: int, out: pathlib.Path) -> None:
    """
    bandit.png: for each critic the actions of seed 0 at the end, over Q, and curves of Q and of the worst modes' share.

    :param found: of :func:`collect`
    :param updates: of the actor
    :param out: folder
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    names = list(dict.fromkeys(extraction for _, extraction in found))
    figure = Figure(figsize=(13, 10.5), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.add_gridspec(4, len(names) + 1, height_ratios=[1, 1.6, 1, 1.6])
    side = th.linspace(-1, 1, 100)
    q = true_q(th.stack(th.meshgrid(side, side, indexing="xy"), dim=-1)).numpy()
    for row, critic in enumerate(CRITICS):
        for column, name in enumerate(["clone", *names]):
            axes = figure.add_subplot(grid[2 * row, column])
            snapshots = np.load(out / "runs" / f"{critic}_{names[0] if name == 'clone' else name}_0_{updates}.npy")
            actions = snapshots[0 if name == "clone" else -1][:400].astype(float)
            axes.contour(side, side, q, levels=[0.1, 0.3, 0.5, 0.7, 0.9], colors="0.75", linewidths=0.6)
            axes.scatter(*actions.T, s=2, color="black" if name == "clone" else f"C{column - 1}")
            axes.set(xlim=(-1.05, 1.05), ylim=(-1.05, 1.05), xticks=[], yticks=[], aspect="equal")
            axes.set_title(name, fontsize=9)
        half = (len(names) + 1) // 2
        for measure_name, label, span in (
            ("q", "mean Q of the deployed policy", slice(0, half)),
            ("low", "share of the two worst modes", slice(half, len(names) + 1)),
        ):
            axes = figure.add_subplot(grid[2 * row + 1, span])
            for column, name in enumerate(names):
                measures = found[critic, name]
                mean, low, high = interval(measures[measure_name])
                axes.plot(measures["update"][0], mean, color=f"C{column}", label=name)
                axes.fill_between(measures["update"][0], low, high, color=f"C{column}", alpha=0.15, linewidth=0)
            axes.set(xlabel=f"updates of the actor ({critic} critic)", ylabel=label, ylim=(-0.02, 1.02), xlim=(0, updates))
            if measure_name == "low" and row == 0:
                axes.legend(fontsize=8, ncol=2)
    with atomic_write(out / "bandit.png") as file:
        figure.savefig(file, format="png", dpi=80)


def _work(seeds: int, names: list[str]) -> Iterator[tuple[str, str, int]]:
    for seed in range(seeds):
        for critic in CRITICS:
            for name in names:
                yield critic, name, seed


def main() -> None:
    """What is left of all runs, then tables and picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--updates", type=int, default=400)
    parser.add_argument("--objectives", nargs="+", default=list(OBJECTIVES), choices=list(OBJECTIVES))
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("runs/bandit"))
    parser.add_argument("--jobs", type=int, default=1, help="processes of one thread each (default: %(default)s)")
    args = parser.parse_args()
    if args.seeds < 1 or args.updates < EVERY or args.updates % EVERY:
        raise SystemExit(f"--seeds must be at least 1 and --updates a multiple of {EVERY}, found {args.seeds}, {args.updates}")
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    for seed in range(args.seeds):
        clone(seed, args.out)
    work = list(_work(args.seeds, args.objectives))
    paths: dict[tuple[str, str, int], pathlib.Path] = {}
    with ProcessPoolExecutor(args.jobs, mp_context=get_context("spawn")) as pool:
        jobs = {pool.submit(run, *item, args.updates, args.out): item for item in work}
        for job in tqdm(as_completed(jobs), desc="runs", total=len(jobs), dynamic_ncols=True):
            paths[jobs[job]] = job.result()
    draw(collect([paths[item] for item in work], args.out), args.updates, args.out)


if __name__ == "__main__":
    main()
