"""
May the critics of a run be followed, or its successes be cloned? What a few updates of the actor alone, with critics and data
as they are, do to it. And how well do the critics choose among the policy's own samples?
"""

import argparse
import json
import pathlib
import sys
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import torch as th
from ogpo_sb3 import evaluate
from ogpo_sb3.common.checkpoint import checkpoints
from ogpo_sb3.common.optimization import set_rate
from ogpo_sb3.common.options import draws_demonstrations
from ogpo_sb3.envs import pusht

from benchmarks.learning import stages
from benchmarks.learning.settings import algorithm, make_env, make_evaluation_env
from benchmarks.learning.watch import append

Transform = Callable[[th.Tensor], th.Tensor]
FIELDS = ("probe", "updates", "success", "mean_return", "q_gain", "moved", "group_q_std", "group_action_std", "latent_share")


class Probe(NamedTuple):
    """
    What differs from the run.

    :param transform: of advantages
    :param attributes: of the algorithm
    :param rate_factor: of the actor's learning rate
    """

    transform: Transform | None = None
    attributes: Mapping[str, Any] = MappingProxyType({})
    rate_factor: float = 1.0


PROBES: dict[str, Probe] = {
    "as trained": Probe(),
    "random signs": Probe(lambda advantage: advantage * (2.0 * th.randint_like(advantage, 2) - 1.0)),
    "cloning alone": Probe(th.zeros_like),
    "without cloning": Probe(attributes=dict(success_bc=False)),
    "a tenth of the rate": Probe(rate_factor=0.1),
}
# What becomes of a policy that goes on cloning: its own successes, or the demonstrations that it was cloned from
CLONING: dict[str, Probe] = {
    "its successes": Probe(th.zeros_like, dict(success_bc=True)),
    "the demonstrations": Probe(th.zeros_like, dict(success_bc=True, bc_offline_ratio=1.0)),
}
QUESTIONS = {"critics": PROBES, "cloning": CLONING}
CANDIDATES = (1, 8, 32)
RANKED_STATES, RANKED_ACTIONS, ROLLOUTS, HORIZON = 24, 8, 4, 100


def probe(model: Any, name: str, updates: int, rate: float, env_fn: Callable[[], Any], episodes: int) -> dict[str, Any]:
    """
    Actor updates on the replayed states, then what became of the policy.

    :param model: OGPO with trained critics and the probe's attributes; its actor is changed
    :param name: key of ``PROBES`` or ``CLONING``, or "start"
    :param updates: of the actor
    :param rate: learning rate of the actor
    :param env_fn: makes the environment of the evaluation
    :param episodes: of the evaluation
    :return: ``FIELDS``: success and return of the deployed policy; by how much the target critics think that its actions have
        become better, how far these have moved (root mean square, same latents), and for comparison the standard deviations
        of Q and of actions within a group, and the share of Q's variance that chains of one latent do not have
    """
    transform, _, rate_factor = {**PROBES, **CLONING}.get(name, Probe())
    set_rate(model.actor.optimizer, rate * rate_factor)
    if transform is not None:
        advantage_of = model._advantage

        def transformed(*args: Any) -> tuple[th.Tensor, dict[str, th.Tensor]]:
            advantage, logged = advantage_of(*args)
            return transform(advantage), logged

        model._advantage = transformed
    observations = model._sample(512).observations
    latents = th.randn(512, model.actor.gcp.action_dim)
    before, q_before = _deployed(model, observations, latents)
    spread = _spread(model, observations)
    model.policy.set_training_mode(True)
    for _ in range(updates):
        model._update_actor()
    after, q_after = _deployed(model, observations, latents)
    result = evaluate(model, env_fn, n_episodes=episodes)
    moved = (after - before).square().mean().sqrt().item()
    return dict(
        probe=name,
        updates=updates,
        success=result.success_rate,
        mean_return=result.mean_return,
        q_gain=q_after - q_before,
        moved=moved,
        **spread,
    )


@th.no_grad()
def _deployed(model: Any, observations: Any, latents: th.Tensor) -> tuple[th.Tensor, float]:
    """Actions of the EMA actor's ODE, and their mean Q."""
    actor = model.actor_ema
    actions = actor.gcp.sample(actor.features(observations), latents)
    return actions, model.critic_target(observations, actions[:, None]).mean().item()


@th.no_grad()
def _spread(model: Any, observations: Any) -> dict[str, float]:
    """How far samples of the EMA actor's SDE, and their Q, are apart within a group."""
    actions, q = _group(model, observations)
    _, alike = _group(model, observations, latents=1)
    return dict(
        group_q_std=q.std(dim=1).mean().item(),
        group_action_std=actions.std(dim=1).mean().item(),
        latent_share=1.0 - (alike.var(dim=1).mean() / q.var(dim=1).mean()).item(),
    )


def _group(model: Any, observations: Any, latents: int | None = None) -> tuple[th.Tensor, th.Tensor]:
    """Actions (S, G, D) and their Q (S, G), the mean over heads; the chains of a state may share their latents."""
    actor = model.actor_ema
    chains = actor.gcp.sample_scored(actor.features(observations), RANKED_ACTIONS, latents=latents)
    actions = chains.actions.unflatten(0, (-1, RANKED_ACTIONS))
    return actions, model.critic_target(observations, actions).mean(dim=0)


@th.no_grad()
def ranking(model: Any, env: pusht.PushTEnv) -> dict[str, float]:
    """
    The critics' order of a group of actions against the simulator's: each is executed, then the deployed policy for the rest
    of ``HORIZON`` steps, ``ROLLOUTS`` times.

    :param model: OGPO
    :param env: Push-T, per step, with "state" observations
    :return: ``correlation`` within groups, mean returns of a ``group``, of the critics' ``choice`` and of the truly ``best``
    """
    actor, chunk = model.actor_ema, model.chunk_size
    observations = model._sample(RANKED_STATES).observations
    actions, q = (x.numpy() for x in _group(model, observations))

    def episode(state: np.ndarray, action: np.ndarray) -> float:
        env.reset(seed=0)
        obs, total, steps, done = env.set_state(state), 0.0, 0, False
        while steps < HORIZON and not done:
            for single in action.reshape(chunk, -1):
                obs, reward, done, _, _ = env.step(single)
                total += model.gamma**steps * reward
                steps += 1
                if done or steps == HORIZON:
                    break
            action = actor.sample(th.as_tensor(obs)[None]).numpy().clip(-1, 1)
        return total

    states = pusht.decode(observations.numpy())
    returns = np.array(
        [[np.mean([episode(s, a) for _ in range(ROLLOUTS)]) for a in group] for s, group in zip(states, actions, strict=True)]
    )
    centred, q_centred = (x - x.mean(axis=1, keepdims=True) for x in (returns, q))
    correlation = (centred * q_centred).sum() / np.sqrt((centred**2).sum() * (q_centred**2).sum())
    choice = returns[np.arange(len(q)), q.argmax(axis=1)].mean()
    return dict(correlation=correlation, group=returns.mean(), choice=choice, best=returns.max(axis=1).mean())


def choice(model: Any, env_fn: Callable[[], Any], episodes: int) -> Iterator[dict[str, Any]]:
    """
    The policy as it is, by one ODE sample per decision, and by the best of N samples of its SDE (OGPO 4.4).

    :param model: OGPO with trained critics
    :param env_fn: makes the environment of the evaluation
    :param episodes: of each evaluation
    :return: by policy, success and return, each as soon as it is known
    """

    def row(name: str, sampler: str) -> dict[str, Any]:
        result = evaluate(model, env_fn, n_episodes=episodes, sampler=sampler)
        return dict(policy=name, success=result.success_rate, mean_return=result.mean_return)

    yield row("one ODE sample", "ode")
    for n in CANDIDATES:
        model.best_of_n = n
        yield row(f"best of {n}", "behaviour")


def main(argv: list[str]) -> int:
    """
    :param argv: command-line arguments
    :return: exit status
    """
    p = argparse.ArgumentParser(prog="python -m benchmarks.learning probe", description=__doc__)
    p.add_argument("folder", type=pathlib.Path, help="of a run that was made with --keep-checkpoint")
    p.add_argument(
        "--of",
        choices=[*QUESTIONS, "choice"],
        default="critics",
        help="what is followed, or the critics' choice (default: %(default)s)",
    )
    p.add_argument("--updates", type=int, default=75, help="of the actor (default: %(default)s)")
    p.add_argument("--rate", type=float, default=1e-4, help="learning rate of the actor (default: %(default)s)")
    p.add_argument("--episodes", type=int, default=100, help="of each evaluation (default: %(default)s)")
    p.add_argument("--threads", type=int, default=1, help="torch threads (default: %(default)s)")
    args = p.parse_args(argv)
    found = checkpoints(args.folder / "checkpoints")
    if not found:
        print(f"error: {args.folder} has no checkpoint: run it with --keep-checkpoint", file=sys.stderr)
        return 1
    th.set_num_threads(args.threads)
    run = json.loads((args.folder / "settings.json").read_text())
    for name in ("choice.csv",) if args.of == "choice" else ("probe.csv", "ranking.csv"):  # of an earlier probe
        (args.folder / name).unlink(missing_ok=True)

    shared = args.folder.parents[2] / "shared" / run["task"]

    def load(**attributes: Any) -> Any:
        if draws_demonstrations(attributes):
            attributes["demonstrations"] = stages.demonstrations(run["env"], run["settings"], run["seed"], shared)
        env = make_env(run["env"], run["settings"])
        model = algorithm(run["settings"]["algo"]).load_checkpoint(found[-1], env, device="cpu", **attributes)
        th.manual_seed(run["seed"])
        return model

    def env_fn() -> Any:
        return make_evaluation_env(run["env"], run["settings"], run["evaluation"])

    def show(row: dict[str, Any]) -> None:
        print(" ".join(f"{k}={v:.3g}" if isinstance(v, float) else f"{k}={v}" for k, v in row.items()), flush=True)

    if args.of == "choice":
        for row in choice(load(), env_fn, args.episodes):
            append(args.folder / "choice.csv", tuple(row), [row])
            show(row)
        return 0
    probes = QUESTIONS[args.of]
    for name, updates in {"start": 0, **dict.fromkeys(probes, args.updates)}.items():
        row = probe(
            load(**probes.get(name, Probe()).attributes),
            name,
            updates,
            args.rate,
            env_fn,
            args.episodes,
        )
        append(args.folder / "probe.csv", FIELDS, [row])
        show(row)
    env = make_env(run["env"], run["settings"]).unwrapped
    if args.of == "critics" and isinstance(env, pusht.PushTEnv) and env.obs_type == "state":
        ranked = ranking(load(), env)
        append(args.folder / "ranking.csv", tuple(ranked), [ranked])
        show(ranked)
    return 0
