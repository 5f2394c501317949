"""
One process of a comparison: the shared policy of a task and seed, or one algorithm's run from it.

    python -m ogpo_sb3.compare.runner --out runs/compare --run runs/ogpo_PushT-v0/ogpo/seed0

Started by the engines; by hand it does what is left of one run.
"""

import argparse
import csv
import dataclasses
import json
import pathlib
import shutil
import signal
import sys
import traceback
from typing import Any

import gymnasium as gym
import torch as th
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.logger import Logger

from ogpo_sb3.common.checkpoint import checkpoints
from ogpo_sb3.common.files import atomic_write, locked, write_json
from ogpo_sb3.common.options import OFFLINE_SHARES, draws_demonstrations
from ogpo_sb3.common.versions import versions
from ogpo_sb3.compare import cloning, plan as plans
from ogpo_sb3.compare.callbacks import Checkpoints, Heartbeat, Watch
from ogpo_sb3.compare.engines import end_with_scheduler
from ogpo_sb3.compare.settings import decode, part
from ogpo_sb3.compare.timing import Timer
from ogpo_sb3.envs.chunking import ChunkActionWrapper
from ogpo_sb3.evaluation import evaluate
from ogpo_sb3.evaluation.callback import append_row
from ogpo_sb3.zoo import ALGORITHMS

PATIENCE = 15.0  # seconds that the processes of a killed scheduler have to notice


def make_env(env_id: str, settings: dict[str, Any], seed: int | None = None) -> Any:
    """
    The environment of a run: per-step, or vectorised in chunks where there are several.

    :param env_id: id
    :param settings: flat
    :param seed: of several
    """
    kwargs, n_envs, chunk_size = part(settings, "env"), settings.get("n_envs", 1), settings["chunk_size"]
    if n_envs == 1:
        return gym.make(env_id, **kwargs)
    wrap: dict[str, Any] = dict(wrapper_class=ChunkActionWrapper, wrapper_kwargs=dict(chunk_size=chunk_size))
    return make_vec_env(lambda: gym.make(env_id, **kwargs), n_envs, seed=seed, **(wrap if chunk_size > 1 else {}))


def make_model(algo: str, env: Any, settings: dict[str, Any], **given: Any) -> Any:
    """
    :param algo: zoo id
    :param env: see :func:`make_env`
    :param settings: flat, as the plan holds them
    :param given: what the harness adds
    """
    left_out = ("policy", "n_envs")
    kwargs = {name: decode(value) for name, value in settings.items() if "." not in name and name not in left_out}
    kwargs["policy_kwargs"] = {name: decode(value) for name, value in part(settings, "policy_kwargs").items()}
    return ALGORITHMS[algo](settings["policy"], env, **kwargs, **given)


def try_out(plan: plans.Plan) -> None:
    """
    Build every algorithm once on every environment: what a constructor refuses is refused before anything runs.

    :param plan: consistent as far as can be seen without that
    :raises ValueError: with the algorithm, the environment and the constructor's own sentence
    """
    for env_id in plan.envs:
        for algo, modes in plan.settings[env_id].items():
            for mode, settings in modes.items():
                small = {name: min(value, 1000) if name == "buffer_size" else value for name, value in settings.items()}
                for name in OFFLINE_SHARES:  # their data is made by the runs
                    small.pop(name, None)
                try:
                    env = make_env(env_id, small)
                    make_model(algo, env, small, seed=0, device=plan.device)
                    env.close()
                except (ValueError, TypeError, ImportError, AssertionError, NotImplementedError, gym.error.Error) as error:
                    raise ValueError(f"{algo} ({mode}) cannot be made on {env_id}: {error}") from error


def clone(plan: plans.Plan, run: plans.Run, out: pathlib.Path) -> cloning.Cloned:
    """
    The policy that a run starts from, and with it all of its task and seed that clone alike.

    :param plan: of the comparison
    :param run: cell
    :param out: folder of the comparison
    """
    folder, own = out / plan.cloned(run), plan.cloning_of(run)
    if (folder / "policy.json").exists():
        return cloning.read(folder / "policy")
    write_json(folder / "status.json", dict(stage="cloning"))
    source = _demonstrations(plan, run, out)
    kwargs = part(plan.settings[run.env][run.algo][run.mode], "env")
    make = lambda: gym.make(run.env, **kwargs)  # noqa: E731
    return cloning.clone(own, make, make, run.seed, source, folder / "policy", plan.final_episodes, plan.device)


def _demonstrations(plan: plans.Plan, run: plans.Run, out: pathlib.Path) -> str:
    given = plan.demonstrations[run.env]
    if given is not None:
        return given
    own, kwargs = plan.cloning_of(run), part(plan.settings[run.env][run.algo][run.mode], "env")
    # In one folder for all kinds of policies: they clone the same episodes.
    folder = out / plan.cloned(dataclasses.replace(run, mode="fixed"))
    return cloning.demonstrations(run.env, kwargs, own["demo_episodes"], own["demo_noise"], run.seed, folder)


def execute(plan: plans.Plan, run: plans.Run, out: pathlib.Path) -> dict[str, Any]:
    """
    Do what is left of a run.

    :param plan: of the comparison
    :param run: cell
    :param out: folder of the comparison
    :return: what results.json holds
    """
    folder, settings = out / run.name, plan.settings[run.env][run.algo][run.mode]
    if (folder / "results.json").exists():
        return json.loads((folder / "results.json").read_text())
    cloned = clone(plan, run, out)
    timer = Timer(folder / "seconds.json")
    make = lambda: gym.make(run.env, **part(settings, "env"))  # noqa: E731
    model = _fine_tune(plan, run, settings, cloned, folder, timer, make, out)
    write_json(folder / "status.json", dict(stage="evaluation", steps=plan.steps, total=plan.steps))
    with timer.evaluating():
        final = evaluate(model, make, n_episodes=plan.final_episodes)
    append_row(
        folder / "curve.csv", model.num_timesteps, final.first(plan.eval_episodes)
    )  # what the last row is, if it is there
    timer.save()
    model.save(folder / "model.zip")
    results = dict(
        **dataclasses.asdict(run),
        bc=dict(**cloned.result.summary(), updates=cloned.updates, seconds=cloned.seconds),
        final=dict(**final.summary(), timesteps=model.num_timesteps),
        evaluation_seeds=[int(final.seeds[0]), int(final.seeds[-1])],
        updates=dict(critic=int(model._n_updates), actor=int(getattr(model, "_n_actor_updates", model._n_updates))),
        **timer.summary(),
        threads=th.get_num_threads(),
        versions=versions(),
    )
    write_json(folder / "results.json", results)
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)
    return results


def _fine_tune(
    plan: plans.Plan,
    run: plans.Run,
    settings: dict[str, Any],
    cloned: cloning.Cloned,
    folder: pathlib.Path,
    timer: Timer,
    make: Any,
    out: pathlib.Path,
) -> Any:
    curve, saved = folder / "curve.csv", checkpoints(folder / "checkpoints")
    env = make_env(run.env, settings, run.seed)
    if saved:
        model = ALGORITHMS[run.algo].load_checkpoint(saved[-1], env, device=plan.device)  # type: ignore[attr-defined]
        keep_rows(curve, model.num_timesteps)
        print(f"Going on from {saved[-1].name}", flush=True)
    else:
        timer.reset()
        curve.unlink(missing_ok=True)
        append_row(curve, 0, cloned.result.first(plan.eval_episodes))  # on as many episodes as the rows that follow
        given: dict[str, Any] = dict(pretrained_policy=str(cloned.path), seed=run.seed, device=plan.device)
        if draws_demonstrations(settings):
            given["demonstrations"] = _demonstrations(plan, run, out)
        model = make_model(run.algo, env, settings, **given)
    model.set_logger(Logger(None, []))  # no folder in the system's temporary one
    remaining = plan.steps - model.num_timesteps
    if remaining > 0:
        watch = Watch(timer, eval_freq=plan.eval_freq, n_episodes=plan.eval_episodes, env=make, csv_path=curve, verbose=1)
        save = Checkpoints(timer, save_freq=plan.eval_freq, save_path=folder / "checkpoints", keep=1)
        alive = Heartbeat(folder / "status.json", plan.steps)
        model.learn(remaining, callback=[alive, watch, save], log_interval=None, reset_num_timesteps=False)
        model.save_checkpoint(folder / "checkpoints" / f"run_{model.num_timesteps}_steps.ckpt")
        timer.save()
    return model


def keep_rows(path: pathlib.Path, steps: int) -> None:
    """
    Drop evaluations behind a checkpoint, which the run repeats, and the row that an interruption may have cut off.

    :param path: file of :func:`ogpo_sb3.evaluation.callback.append_row`
    :param steps: of the checkpoint
    """
    with path.open(newline="") as file:
        header, *rows = [row for row in csv.reader(file) if row]
    with atomic_write(path) as raw:
        kept = [row for row in rows if len(row) == len(header) and float(row[0]) <= steps]
        raw.write("".join(",".join(row) + "\r\n" for row in [header, *kept]).encode())


def _terminated(*_: Any) -> None:
    raise SystemExit(143)


def main(argv: list[str] | None = None) -> int:
    """
    :param argv: command-line arguments; the process's when None
    :return: exit status
    """
    parser = argparse.ArgumentParser(prog="python -m ogpo_sb3.compare.runner", description="One process of a comparison.")
    parser.add_argument("--out", type=pathlib.Path, required=True, help="folder of the comparison")
    parser.add_argument("--run", required=True, help="folder of the run or of the cloned policy below it")
    parser.add_argument("--threads", type=int, default=1, help="torch threads (default: %(default)s)")
    args = parser.parse_args(argv)
    end_with_scheduler()
    signal.signal(signal.SIGTERM, _terminated)
    th.set_num_threads(args.threads)
    folder = args.out / args.run
    try:
        plan = plans.read(args.out)
        runs = {run.name: run for run in plan.runs()}
        clones = {plan.cloned(run): run for run in plan.runs()}
        if args.run not in runs and args.run not in clones:
            raise ValueError(f"--run must be one of {sorted([*runs, *clones])}, found {args.run!r}")
    except ValueError as error:
        parser.error(str(error))
    try:
        with locked(folder / ".lock", wait=False, patience=PATIENCE):
            if args.run in clones:
                clone(plan, clones[args.run], args.out)
            else:
                execute(plan, runs[args.run], args.out)
            (folder / "failure.json").unlink(missing_ok=True)
    except Exception as error:  # whatever it is, the report must name it
        write_json(folder / "failure.json", dict(error=f"{type(error).__name__}: {error}", traceback=traceback.format_exc()))
        traceback.print_exc()
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
