"""What all algorithms share: demonstrations and one cloned policy, made once however many wait for them."""

import json
import pathlib
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import gymnasium as gym

from ogpo_sb3.common.chunked_env import chunk_like
from ogpo_sb3.common.files import locked, write_json
from ogpo_sb3.compare.settings import digest, part
from ogpo_sb3.envs.registry import task_of
from ogpo_sb3.evaluation import EvaluationResult, evaluate


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


def demonstrations(
    env_id: str, env_kwargs: Mapping[str, Any], episodes: int, noise: float, seed: int, folder: pathlib.Path
) -> str:
    """
    Source of a task's demonstrations: what ships with the package, else episodes of its expert, collected once.

    :param env_id: registered task
    :param env_kwargs: of the environment, whose rewards are recorded
    :param episodes: of the expert
    :param noise: of the expert's actions
    :param seed: of the run
    :param folder: shared by all runs
    """
    task = task_of(env_id)
    if task is not None and task.demonstrations is not None:
        return task.demonstrations
    from ogpo_sb3.demonstrations.experts import collect

    made_of = dict(episodes=episodes, noise=noise, env=dict(env_kwargs))
    path = folder / f"demonstrations_seed{seed}_{digest(made_of)}.npz"
    with locked(path.with_suffix(".lock")):
        if not path.exists():
            collect(env_id, episodes, seed=seed, noise=noise, env_kwargs=dict(env_kwargs)).save(path)
    return str(path)


def clone(
    own: Mapping[str, Any],
    make_env: Callable[[], gym.Env],
    evaluation_env: Callable[[], gym.Env],
    seed: int,
    source: str,
    stem: pathlib.Path,
    episodes: int,
    device: str = "cpu",
) -> Cloned:
    """
    Behaviour cloning, or the checkpoint of an earlier run with the same cloning settings.

    Goes on from the last thousand updates where it was interrupted. The critics' settings are left at small defaults: the
    checkpoint must be a function of the cloning settings alone, the draws of its initialisation included.

    :param own: see :func:`ogpo_sb3.compare.settings.cloning_settings`
    :param make_env: makes a per-step training environment
    :param evaluation_env: makes the environment of evaluations
    :param seed: of the run
    :param source: of the demonstrations
    :param stem: files are called <stem>.zip and <stem>.json
    :param episodes: of the evaluation
    :param device: device
    """
    path, result_path, checkpoint = (stem.with_name(f"{stem.name}{suffix}") for suffix in (".zip", ".json", ".ckpt"))
    with locked(path.with_suffix(".lock")):
        if not result_path.exists():
            started = time.perf_counter()
            model = _model(own, chunk_like(make_env(), own["chunk_size"]), seed, source, checkpoint, device)
            if model.pretraining_due:
                model.pretrain(
                    eval_freq=own["bc_eval_freq"] if own.get("clip_bc") is not None else None,
                    eval_env=evaluation_env,
                    progress_bar=False,
                    checkpoint=checkpoint,
                    checkpoint_freq=1000,
                )
            model.policy.save(path)
            result = evaluate(model, evaluation_env, n_episodes=episodes)
            seconds = time.perf_counter() - started
            content = dict(settings=own, updates=model._n_bc_updates, seconds=seconds, episodes=result.as_lists())
            write_json(result_path, content)
            checkpoint.unlink(missing_ok=True)
    return read(stem)


def read(stem: pathlib.Path) -> Cloned:
    """
    :param stem: as in :func:`clone`, which has finished
    """
    path, result_path = (stem.with_name(f"{stem.name}{suffix}") for suffix in (".zip", ".json"))
    content = json.loads(result_path.read_text())
    return Cloned(path, EvaluationResult.from_lists(content["episodes"]), content["updates"], content["seconds"])


def _model(own: Mapping[str, Any], env: gym.Env, seed: int, source: str, checkpoint: pathlib.Path, device: str) -> Any:
    from ogpo_sb3 import OGPO

    if checkpoint.exists():
        return OGPO.load_checkpoint(checkpoint, env, device=device)
    kwargs = {key: own[key] for key in ("bc_steps", "clip_bc", "bc_learning_rate") if key in own}
    policy_kwargs = {**part(own, "policy_kwargs"), "n_critics": 2, "critic_net_arch": [32]}
    return OGPO(
        own["policy"],
        env,
        demonstrations=source,
        seed=seed,
        device=device,
        buffer_size=100,
        batch_size=own["bc_batch_size"],
        actor_tau=own["bc_tau"],
        policy_kwargs=policy_kwargs,
        **kwargs,
    )
