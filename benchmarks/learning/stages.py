"""What all variants of a task and seed share: demonstrations and one cloned policy, made once however many wait for them."""

import fcntl
import json
import pathlib
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from typing import Any

import numpy as np
import ogpo_sb3
from ogpo_sb3 import OGPO, evaluate
from ogpo_sb3.common.chunked_env import chunk_like
from ogpo_sb3.common.files import atomic_write
from ogpo_sb3.envs.registry import TASKS
from ogpo_sb3.evaluation import EvaluationResult

from benchmarks.learning.settings import cloning_settings, digest, make_env, part

PACKAGES = ("torch", "stable-baselines3", "gymnasium", "numpy", "mujoco", "gymnasium-robotics", "gym-pusht")


@dataclass(frozen=True)
class Cloned:
    """
    The cloned policy of a task, seed and cloning settings.

    :param path: for ``pretrained_policy=``
    :param result: its evaluation
    :param updates: of cloning
    :param seconds: cloning and evaluation took, when they were done
    """

    path: pathlib.Path
    result: EvaluationResult
    updates: int
    seconds: float


def write_json(path: pathlib.Path, content: Any) -> None:
    """
    :param path: file, replaced as a whole
    :param content: what JSON can hold
    """
    with atomic_write(path) as file:
        file.write(json.dumps(content, indent=2).encode())


@contextmanager
def locked(path: pathlib.Path, wait: bool = True) -> Iterator[None]:
    """
    One process at a time; the lock goes with the process, however it ends.

    :param path: lock file
    :param wait: until it is free, else RuntimeError
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError as error:
            raise RuntimeError(f"{path.parent} is in use by another process: wait for it or choose another --out") from error
        yield


def demonstrations(env_id: str, settings: dict[str, Any], seed: int, folder: pathlib.Path) -> str:
    """
    Source of a task's demonstrations; an expert's are collected once and recorded with the rewards of the variant.

    :param env_id: registered task
    :param settings: flat
    :param seed: of the run
    :param folder: shared by all runs
    """
    task = TASKS[env_id]
    if task.demonstrations is not None:
        return task.demonstrations
    from ogpo_sb3.demonstrations.experts import collect

    env_kwargs = part(settings, "env")
    made_of = dict(episodes=settings["demo_episodes"], noise=settings["demo_noise"], env=env_kwargs)
    path = folder / f"demonstrations_seed{seed}_{digest(made_of)}.npz"
    with locked(path.with_suffix(".lock")):
        if not path.exists():
            collect(env_id, made_of["episodes"], seed=seed, noise=made_of["noise"], env_kwargs=env_kwargs).save(path)
    return str(path)


def clone(
    env_id: str, settings: dict[str, Any], seed: int, source: str, folder: pathlib.Path, episodes: int, evaluation_env: Any
) -> Cloned:
    """
    Behaviour cloning, or the checkpoint of an earlier run with the same cloning settings.

    Goes on from the last thousand updates where it was interrupted. The critics' settings are left at small defaults: the
    checkpoint must be a function of the cloning settings alone, the draws of its initialisation included.

    :param env_id: registered task
    :param settings: flat
    :param seed: of the run
    :param source: of the demonstrations
    :param folder: shared by all runs
    :param episodes: of the evaluation
    :param evaluation_env: function that makes one
    """
    own = cloning_settings(settings)
    name = f"bc_seed{seed}_{digest([own, episodes])}"
    path, result_path, checkpoint = (folder / f"{name}{suffix}" for suffix in (".zip", ".json", ".ckpt"))
    with locked(path.with_suffix(".lock")):
        if not result_path.exists():
            started = time.perf_counter()
            model = _cloning_model(env_id, settings, own, seed, source, checkpoint)
            if model.pretraining_due:
                model.pretrain(
                    eval_freq=own["bc_eval_freq"] if own["clip_bc"] is not None else None,
                    eval_env=evaluation_env,
                    progress_bar=False,
                    checkpoint=checkpoint,
                    checkpoint_freq=1000,
                )
            model.policy.save(path)
            result = evaluate(model, evaluation_env, n_episodes=episodes)
            seconds = time.perf_counter() - started
            content = dict(settings=own, updates=model._n_bc_updates, seconds=seconds, episodes=arrays(result))
            write_json(result_path, content)
            checkpoint.unlink(missing_ok=True)
    content = json.loads(result_path.read_text())
    return Cloned(path, from_arrays(content["episodes"]), content["updates"], content["seconds"])


def _cloning_model(
    env_id: str, settings: dict[str, Any], own: dict[str, Any], seed: int, source: str, checkpoint: pathlib.Path
) -> Any:
    env = chunk_like(make_env(env_id, settings), own["chunk_size"])
    if checkpoint.exists():
        return OGPO.load_checkpoint(checkpoint, env, device="cpu")
    kwargs = {key: own[key] for key in ("bc_steps", "clip_bc", "bc_learning_rate") if key in own}
    policy_kwargs = {**part(own, "policy_kwargs"), "n_critics": 2, "critic_net_arch": [32]}
    return OGPO(
        own["policy"],
        env,
        demonstrations=source,
        seed=seed,
        device="cpu",
        buffer_size=100,
        batch_size=own["bc_batch_size"],
        actor_tau=own["bc_tau"],
        policy_kwargs=policy_kwargs,
        **kwargs,
    )


def arrays(result: EvaluationResult) -> dict[str, list[Any] | None]:
    """
    :param result: evaluation
    :return: one entry per episode, for JSON
    """
    successes = None if result.successes is None else result.successes.tolist()
    return dict(
        seeds=result.seeds.tolist(), returns=result.returns.tolist(), lengths=result.lengths.tolist(), successes=successes
    )


def from_arrays(content: dict[str, Any], n: int | None = None) -> EvaluationResult:
    """
    :param content: see :func:`arrays`
    :param n: only so many first episodes
    """
    values = {key: None if value is None else np.array(value[:n]) for key, value in content.items()}
    return EvaluationResult(**values)


def summarise(result: EvaluationResult) -> dict[str, Any]:
    """
    :param result: evaluation
    :return: its numbers, for JSON
    """
    return dict(
        success=result.success_rate,
        interval=list(result.success_interval or ()),
        mean_return=result.mean_return,
        steps_to_success=result.steps_to_success,
        episodes=len(result.seeds),
    )


def versions() -> dict[str, str]:
    """Of everything that can change a result."""
    found = {"python": platform.python_version(), "ogpo_sb3": ogpo_sb3.__version__, "machine": platform.platform()}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found
