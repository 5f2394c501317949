"""One run in one process: demonstrations, cloning (shared), fine-tuning with diagnostics, evaluation on fixed episodes."""

import argparse
import json
import pathlib
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable
from typing import Any

import gymnasium as gym
import torch as th
from ogpo_sb3 import ChunkActionWrapper, evaluate
from ogpo_sb3.common.checkpoint import FullCheckpointCallback, checkpoints
from ogpo_sb3.common.options import draws_demonstrations
from ogpo_sb3.compare.callbacks import Heartbeat
from ogpo_sb3.evaluation.callback import append_row
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.logger import Logger

from benchmarks.learning import plans, stages
from benchmarks.learning.settings import algorithm, algorithm_kwargs, check, make_env, make_evaluation_env, parse_assignments
from benchmarks.learning.watch import Watch


def parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    p = argparse.ArgumentParser(prog="python -m benchmarks.learning run", description="One run of the study.")
    p.add_argument("--task", required=True, help=f"one of {', '.join(plans.TASKS)}")
    p.add_argument("--variant", default="base", help="name in plans.py, or a new one together with --set")
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--steps", type=int, help="environment steps of fine-tuning (default: the task's)")
    p.add_argument("--out", type=pathlib.Path, default=pathlib.Path("runs/study"))
    p.add_argument("--set", nargs="+", action="extend", default=[], metavar="NAME=VALUE", help="on top of the variant")
    p.add_argument("--eval-freq", type=int, help="environment steps between evaluations and checkpoints")
    p.add_argument("--episodes", type=int, help="of the evaluations on the curve (default: the task's)")
    p.add_argument("--final-episodes", type=int, help="of the evaluations before and after (default: the task's)")
    p.add_argument("--threads", type=int, default=1, help="torch threads (default: %(default)s)")
    p.add_argument("--fresh", action="store_true", help="throw away an earlier run of this name")
    p.add_argument("--keep-checkpoint", action="store_true", help="keep the last full checkpoint of a finished run")
    return p


def resolve(args: argparse.Namespace) -> dict[str, Any]:
    """
    What identifies a run.

    :param args: parsed
    :return: task, variant, factor, seed, steps, evaluations and the flat settings
    :raises ValueError: unknown names or impossible values
    """
    task, found, extra = plans.task_of(args.task), plans.find(args.variant), parse_assignments(args.set)
    if found is None and not extra:
        known = [*plans.COMBINATIONS, *(v for variants in plans.FACTORS.values() for v in variants)]
        raise ValueError(f"variant must be one of {known}, or come with --set, found {args.variant!r}")
    if found is not None and extra:
        raise ValueError(f"variant {args.variant!r} is defined in plans.py: give what --set makes of it another name")
    factor, overrides = found or ("given", {})
    settings = {**plans.task_settings(args.task), **overrides, **extra}
    check(settings, task["env"])
    given = dict(
        steps=task["steps"] if args.steps is None else args.steps,
        eval_freq=task["eval_freq"] if args.eval_freq is None else args.eval_freq,
        episodes=task.get("episodes", plans.EPISODES) if args.episodes is None else args.episodes,
        final_episodes=task.get("final_episodes", plans.FINAL_EPISODES)
        if args.final_episodes is None
        else args.final_episodes,
    )
    for name, value in {**given, "threads": args.threads}.items():
        if value < 1:
            raise ValueError(f"--{name.replace('_', '-')} must be at least 1, found {value}")
    if given["episodes"] > given["final_episodes"]:
        raise ValueError(
            f"--episodes={given['episodes']} must not exceed --final-episodes={given['final_episodes']}: the curve "
            "begins with a part of the evaluation of the cloned policy"
        )
    return dict(
        task=args.task,
        env=task["env"],
        variant=args.variant,
        factor=factor,
        seed=args.seed,
        **given,
        evaluation=task.get("evaluation"),
        sampler=task.get("sampler", "ode"),
        settings=settings,
    )


def folder_of(out: pathlib.Path, task: str, variant: str, seed: int) -> pathlib.Path:
    """
    :param out: of the study
    :param task: key of ``plans.TASKS``
    :param variant: its name
    :param seed: of the run
    """
    return out / task / variant.replace("/", "_").replace(" ", "") / f"seed{seed}"


def execute(run: dict[str, Any], out: pathlib.Path, command: str, keep_checkpoint: bool = False) -> dict[str, Any]:
    """
    Do what is left of a run.

    :param run: see :func:`resolve`
    :param out: of the study
    :param command: recorded with the results
    :param keep_checkpoint: else the last one goes once the results are there
    :return: what results.json holds
    """
    folder = folder_of(out, run["task"], run["variant"], run["seed"])
    with stages.locked(folder / ".lock", wait=False):
        _claim(folder, run)
        if (folder / "results.json").exists():
            return json.loads((folder / "results.json").read_text())
        (folder / "failure.json").unlink(missing_ok=True)
        try:
            return _stages(run, out / "shared" / run["task"], folder, command, keep_checkpoint)
        except Exception as error:
            content = dict(error=f"{type(error).__name__}: {error}", traceback=traceback.format_exc(), command=command)
            stages.write_json(folder / "failure.json", content)
            raise


def _claim(folder: pathlib.Path, run: dict[str, Any]) -> None:
    """A folder belongs to one set of settings: a changed plan must not pass off old runs as its own."""
    path, wanted = folder / "settings.json", json.loads(json.dumps(run))
    if path.exists():
        found = json.loads(path.read_text())
        both = {**found, **found["settings"]}, {**wanted, **wanted["settings"]}
        keys = {key for pair in both for key in pair if both[0].get(key) != both[1].get(key)} - {"settings", "factor"}
        if keys:
            told = ", ".join(f"{key}={both[0].get(key)!r}, wanted {both[1].get(key)!r}" for key in sorted(keys))
            raise ValueError(f"{folder} holds a run with {told}: choose another --out or variant name, or pass --fresh")
    stages.write_json(path, run)


def _stages(run: dict[str, Any], shared: pathlib.Path, folder: pathlib.Path, command: str, keep: bool) -> dict[str, Any]:
    settings, env_id = run["settings"], run["env"]
    evaluation_env = _evaluation_env(run)
    spent = json.loads(p.read_text())["fine_tuning"] if (p := folder / "seconds.json").exists() else 0.0
    stages.write_json(folder / "status.json", dict(stage="cloning", steps=0, total=run["steps"]))
    source = stages.demonstrations(env_id, settings, run["seed"], shared)
    cloned = stages.clone(env_id, settings, run["seed"], source, shared, run["final_episodes"], evaluation_env)
    started = time.perf_counter()
    try:
        model = _fine_tune(run, cloned, source, folder)
        stages.write_json(folder / "status.json", dict(stage="evaluation", steps=run["steps"], total=run["steps"]))
        final = evaluate(model, evaluation_env, n_episodes=run["final_episodes"], sampler=run["sampler"])
    finally:
        # Cloning counts in full for each run that started from it: as if it had been alone.
        seconds = spent + time.perf_counter() - started
        stages.write_json(folder / "seconds.json", dict(fine_tuning=seconds, cloning=cloned.seconds))
    model.save(folder / "model.zip")
    results = dict(
        **run,
        command=command,
        bc=dict(**cloned.result.summary(), updates=cloned.updates, seconds=cloned.seconds),
        final=dict(**final.summary(), timesteps=model.num_timesteps),
        updates=dict(critic=model._n_updates, actor=model._n_actor_updates),
        seconds=cloned.seconds + seconds,
        threads=th.get_num_threads(),
        versions=stages.versions(),
    )
    stages.write_json(folder / "results.json", results)
    if not keep:
        shutil.rmtree(folder / "checkpoints", ignore_errors=True)
    return results


def _evaluation_env(run: dict[str, Any]) -> Callable[[], gym.Env]:
    return lambda: make_evaluation_env(run["env"], run["settings"], run["evaluation"])


def _fine_tune(run: dict[str, Any], cloned: stages.Cloned, source: str, folder: pathlib.Path) -> Any:
    settings, env_id = run["settings"], run["env"]
    algo, saved = algorithm(settings["algo"]), checkpoints(folder / "checkpoints")
    chunk_size = settings["chunk_size"]
    env: Any = make_env(env_id, settings)
    if settings["n_envs"] > 1:
        wrap = dict(wrapper_class=ChunkActionWrapper, wrapper_kwargs=dict(chunk_size=chunk_size)) if chunk_size > 1 else {}
        env.close()
        env = make_vec_env(lambda: make_env(env_id, settings), settings["n_envs"], seed=run["seed"], **wrap)
    if saved:
        model = algo.load_checkpoint(saved[-1], env, device="cpu")
        print(f"Going on from {saved[-1].name}", flush=True)
    else:
        for name in ("curve.csv", "training.csv", "calibration.csv"):
            (folder / name).unlink(missing_ok=True)
        # On as many episodes as the rows that follow.
        append_row(folder / "curve.csv", 0, cloned.result.first(run["episodes"]))
        kwargs = algorithm_kwargs(settings)
        if draws_demonstrations(settings):
            kwargs["demonstrations"] = source
        model = algo(settings["policy"], env, pretrained_policy=str(cloned.path), seed=run["seed"], device="cpu", **kwargs)
    model.set_logger(Logger(None, []))  # no folder in the system's temporary one
    remaining = run["steps"] - model.num_timesteps
    if remaining > 0:
        watch = Watch(
            folder,
            eval_freq=run["eval_freq"],
            n_episodes=run["episodes"],
            env=_evaluation_env(run),
            sampler=run["sampler"],
            verbose=1,
        )
        save = FullCheckpointCallback(run["eval_freq"], folder / "checkpoints", keep=1)
        alive = Heartbeat(folder / "status.json", run["steps"])
        # The watch reads and clears the logger; nothing else may.
        model.learn(remaining, callback=[alive, watch, save], log_interval=None, reset_num_timesteps=False)
        model.save_checkpoint(folder / "checkpoints" / f"run_{model.num_timesteps}_steps.ckpt")
    return model


def _terminated(*_: Any) -> None:
    """SIGTERM as an exception, so that the time spent is written down."""
    raise SystemExit(143)


def main(argv: list[str]) -> int:
    """
    :param argv: command-line arguments
    :return: exit status
    """
    p = parser()
    args = p.parse_args(argv)
    try:
        run = resolve(args)
        th.set_num_threads(args.threads)
        folder = folder_of(args.out, run["task"], run["variant"], run["seed"])
        signal.signal(signal.SIGTERM, _terminated)
        if args.fresh:
            shutil.rmtree(folder, ignore_errors=True)
        results = execute(run, args.out, f"python -m benchmarks.learning run {' '.join(argv)}", args.keep_checkpoint)
    except (ValueError, TypeError, RuntimeError, ImportError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    before, after = results["bc"]["success"], results["final"]["success"]
    shown = f"success {before:.2f} -> {after:.2f}" if before is not None and after is not None else "no success reported"
    print(f"{folder}: {shown} on {run['final_episodes']} episodes, {results['seconds'] / 60:.1f} minutes")
    return 0
