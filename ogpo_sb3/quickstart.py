"""
The main job, whole: demonstrations, behaviour cloning, OGPO+CA, evaluation of both on the same seeds, picture, video.

    python -m ogpo_sb3.quickstart [--env ogpo/AdroitHammer-v0] [--seed 0] [--out runs/quickstart]

Every stage leaves its result on disk, and the same command goes on from where it was stopped.
"""

import argparse
import pathlib
import shutil
import sys
import time
from typing import Any

import gymnasium as gym
import torch as th

from ogpo_sb3 import OGPOCA, evaluate, presets
from ogpo_sb3.common.checkpoint import FullCheckpointCallback, checkpoints
from ogpo_sb3.common.files import check_out, read_json, write_json
from ogpo_sb3.common.threads import free_cores
from ogpo_sb3.envs.registry import TASKS
from ogpo_sb3.evaluation import EvaluateCallback, EvaluationResult
from ogpo_sb3.evaluation.callback import append_row, read_rows

DEFAULT_ENV = "ogpo/AdroitHammer-v0"


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """
    :param argv: command-line arguments; the process's when None
    """
    parser = argparse.ArgumentParser(
        prog="python -m ogpo_sb3.quickstart", description="From demonstrations to a better policy."
    )
    parser.add_argument("--env", default=DEFAULT_ENV, help="task with demonstrations or an expert (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--out", type=pathlib.Path, default=pathlib.Path("runs/quickstart"), help="folder (default: %(default)s)"
    )
    parser.add_argument("--steps", type=int, help="environment steps of fine-tuning (default: the task's, 25 000 to 100 000)")
    parser.add_argument("--episodes", type=int, default=25, help="expert episodes to collect (default: %(default)s)")
    parser.add_argument("--eval-episodes", type=int, default=100, help="episodes of the final table (default: %(default)s)")
    parser.add_argument(
        "--curve-episodes",
        type=int,
        default=50,
        help="episodes of each evaluation on the way, those of cloning too (default: %(default)s)",
    )
    parser.add_argument("--eval-freq", type=int, default=5_000, help="environment steps between evaluations")
    parser.add_argument("--threads", type=int, default=free_cores(), help="torch threads (default: idle cores, %(default)s)")
    parser.add_argument("--smoke", action="store_true", help="a run of seconds that only checks the installation")
    parser.add_argument("--fresh", action="store_true", help="throw away an earlier run of the same task and seed")
    args = parser.parse_args(argv)
    task = TASKS.get(args.env)
    runnable = [name for name, t in TASKS.items() if t.expert or t.demonstrations]
    if task is None or args.env not in runnable:
        parser.error(f"--env must be a task with demonstrations or an expert, one of {runnable}, found {args.env!r}")
    if args.steps is None:
        args.steps = presets.laptop_steps(args.env)
    for name in ("steps", "episodes", "eval_episodes", "curve_episodes", "eval_freq", "threads"):
        if getattr(args, name) < 1:
            parser.error(f"--{name.replace('_', '-')} must be at least 1, found {getattr(args, name)}")
    if args.seed < 0:
        parser.error(f"--seed must be at least 0, found {args.seed}")
    try:
        check_out(args.out)
    except ValueError as error:
        parser.error(str(error))
    return args


def main(argv: list[str] | None = None) -> dict[str, Any]:
    """
    Run every stage that has no result yet.

    :param argv: command-line arguments
    :return: what results.json holds
    """
    args = parse(argv)
    th.set_num_threads(args.threads)
    if args.smoke:
        args.steps, args.episodes, args.eval_episodes, args.eval_freq = 800, min(args.episodes, 3), 5, 400
    folder = args.out / f"{args.env.split('/')[-1]}_seed{args.seed}{'_smoke' if args.smoke else ''}"
    if args.fresh and folder.exists():
        shutil.rmtree(folder)
    folder.mkdir(parents=True, exist_ok=True)
    settings = dict(
        env=args.env,
        env_kwargs=presets.laptop_env(args.env),
        seed=args.seed,
        episodes=args.episodes,
        eval_episodes=args.eval_episodes,
        smoke=args.smoke,
    )
    _check_settings(folder / "settings.json", settings)
    if (folder / "results.json").exists():
        finished: dict[str, Any] = _read_json(folder / "results.json")
        if finished["steps"] >= args.steps:
            print(f"{folder} holds a finished run; --fresh begins anew, a larger --steps goes on.")
            _print_table(finished)
            return finished
    clock = _Clock(folder / "seconds.json")
    try:
        _make(args).close()
    except ImportError as error:  # the task's extra: said before the work, not after it
        raise SystemExit(f"error: {error}") from error
    print(f"Results go to {folder}; run the same command again to go on after an interruption.", flush=True)

    with clock("demonstrations"):
        source = _demonstrations(args, folder / "demonstrations.npz")
    with clock("behaviour cloning"):
        before = _behaviour_cloning(args, source, folder)
    with clock("fine-tuning"):
        model = _fine_tune(args, folder, before)
    with clock("evaluation"):
        after, chosen = (_evaluate(args, folder, model, sampler) for sampler in ("ode", "behaviour"))
    results = dict(
        **settings,
        steps=model.num_timesteps,
        before=_summary(before),
        after=_summary(after),
        chosen=_summary(chosen),
        best_of_n=model.best_of_n,
        seconds=clock.seconds,
        command=f"python -m ogpo_sb3.quickstart {' '.join(sys.argv[1:] if argv is None else argv)}".strip(),
    )
    _print_table(results)
    _pictures(args, folder, model, results)
    write_json(folder / "results.json", results)
    return results


def _make(args: argparse.Namespace, **kwargs: Any) -> gym.Env:
    return gym.make(args.env, **presets.laptop_env(args.env), **kwargs)


def _settings(args: argparse.Namespace) -> dict[str, Any]:
    settings = presets.laptop(args.env)
    if args.smoke:
        settings.update(bc_steps=200, clip_bc=None, learning_starts=min(args.steps // 2, 400), critic_warmup_updates=50)
    return settings


def _demonstrations(args: argparse.Namespace, path: pathlib.Path) -> str:
    task = TASKS[args.env]
    if task.demonstrations is not None:
        return task.demonstrations
    if not path.exists():
        from ogpo_sb3 import demos

        what = ["--env", args.env, "--episodes", str(args.episodes), "--noise", str(presets.laptop_noise(args.env))]
        status = demos.main(["collect", *what, "--seed", str(args.seed), "-o", str(path)])
        if status:  # it has said why
            raise SystemExit(status)
    return str(path)


def _behaviour_cloning(args: argparse.Namespace, source: str, folder: pathlib.Path) -> EvaluationResult:
    """Writes bc.zip and returns its evaluation."""
    model: OGPOCA
    if (folder / "bc.ckpt").exists():
        model = OGPOCA.load_checkpoint(folder / "bc.ckpt", _make(args), device="cpu")
    else:
        model = OGPOCA("FlowPolicy", _make(args), demonstrations=source, seed=args.seed, device="cpu", **_settings(args))
    if model.pretraining_due:
        shutil.rmtree(folder / "evaluations", ignore_errors=True)  # of another clone, whose files were taken away
        model.pretrain(n_eval_episodes=args.curve_episodes, checkpoint=folder / "bc.ckpt", checkpoint_freq=1000)
        model.policy.save(folder / "bc.zip")
        model.save_checkpoint(folder / "bc.ckpt")  # says that cloning is done: only after its result is on disk
    result = _evaluate(args, folder, model, "ode")
    print(f"Behaviour cloning: success {result.success_rate:.2f} on {args.eval_episodes} episodes", flush=True)
    return result


def _evaluate(args: argparse.Namespace, folder: pathlib.Path, model: OGPOCA, sampler: str) -> EvaluationResult:
    """Kept with its episodes: on a slow simulator it takes long enough for an interruption, which must not cost it again."""
    path = folder / "evaluations" / f"{sampler}_{model.num_timesteps}_steps.json"
    if path.exists():
        return EvaluationResult.from_lists(_read_json(path))
    result = evaluate(model, lambda: _make(args), n_episodes=args.eval_episodes, sampler=sampler, progress_bar=True)
    write_json(path, result.as_lists())
    return result


def _fine_tune(args: argparse.Namespace, folder: pathlib.Path, before: EvaluationResult) -> OGPOCA:
    settings = {k: v for k, v in _settings(args).items() if k not in ("bc_steps", "clip_bc")}
    curve, saved = folder / "curve.csv", checkpoints(folder / "checkpoints")
    if saved:
        model = OGPOCA.load_checkpoint(saved[-1], _make(args), device="cpu")
        print(f"Going on from {saved[-1].name}", flush=True)
    else:
        curve.unlink(missing_ok=True)
        append_row(curve, 0, before.first(args.curve_episodes))  # on the same episodes as the rest of the curve
        model = OGPOCA(
            "FlowPolicy", _make(args), pretrained_policy=str(folder / "bc.zip"), seed=args.seed, device="cpu", **settings
        )
    remaining = args.steps - model.num_timesteps
    if remaining > 0:
        save = FullCheckpointCallback(args.eval_freq, folder / "checkpoints")
        episodes = min(args.curve_episodes, args.eval_episodes)
        watch = EvaluateCallback(
            args.eval_freq,
            n_episodes=episodes,
            env=lambda: _make(args),
            csv_path=curve,
            sampler=presets.laptop_sampler(args.env),
            verbose=1,
        )
        model.learn(remaining, callback=[watch, save], reset_num_timesteps=False, progress_bar=True)
        model.save_checkpoint(folder / "checkpoints" / f"run_{model.num_timesteps}_steps.ckpt")
    model.save(folder / "model.zip")
    return model


def _summary(result: EvaluationResult) -> dict[str, Any]:
    return dict(
        success=result.success_rate,
        interval=list(result.success_interval or ()),
        mean_return=result.mean_return,
        steps_to_success=result.steps_to_success,
        seeds=[int(result.seeds[0]), int(result.seeds[-1])],
    )


def _print_table(results: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"{results['env']}, seed {results['seed']}, {results['eval_episodes']} episodes on the same seeds")
    for name in ("policy", "success", "95 % interval", "mean return", "steps to success"):
        table.add_column(name, justify="left" if name == "policy" else "right", no_wrap=name == "policy")
    rows = [("behaviour cloning", "before"), (f"OGPO+CA, {results['steps']} steps", "after")]
    if "chosen" in results:  # not in the results of earlier versions
        rows.append((f"best-of-{results['best_of_n']} inference", "chosen"))
    for name, key in rows:
        row = results[key]
        low, high = row["interval"]
        steps = "-" if row["steps_to_success"] is None else f"{row['steps_to_success']:.0f}"
        table.add_row(name, f"{row['success']:.2f}", f"{low:.2f} to {high:.2f}", f"{row['mean_return']:.1f}", steps)
    Console().print(table)
    spent = ", ".join(f"{name} {seconds:.0f} s" for name, seconds in results["seconds"].items())
    print(f"Time: {spent}; {sum(results['seconds'].values()) / 60:.1f} minutes in all.")


def _pictures(args: argparse.Namespace, folder: pathlib.Path, model: OGPOCA, results: dict[str, Any]) -> None:
    from ogpo_sb3.evaluation.plots import plot_learning_curve
    from ogpo_sb3.evaluation.video import record_episode, write_side_by_side

    rows, sampler = read_rows(folder / "curve.csv"), presets.laptop_sampler(args.env)
    inference = f", best-of-{model.best_of_n} inference" if sampler == "behaviour" else ""
    plot_learning_curve(
        rows,
        folder / "learning_curve.png",
        f"OGPO+CA on {args.env.split('/')[-1]}, seed {args.seed}{inference}",
        rows[0]["success_rate"],
    )
    print(f"Wrote {folder / 'learning_curve.png'}")
    try:
        env = _make(args, render_mode="rgb_array")
        bc = OGPOCA("FlowPolicy", _make(args), pretrained_policy=str(folder / "bc.zip"), device="cpu")
        clips: list[tuple[str, list[Any]]] = [("behaviour cloning", []), ("OGPO+CA", [])]
        limit = 30 if args.smoke else None
        for seed in range(10_000, 10_001 if args.smoke else 10_003):
            for (name, frames), policy, how in zip(clips, (bc, model), ("ode", sampler), strict=True):
                episode, success = record_episode(policy, env, seed, every=3, max_steps=limit, sampler=how)
                frames.extend(episode)
                print(f"video: {name}, seed {seed}: {'success' if success else 'failure'}", flush=True)
            longest = max(len(frames) for _, frames in clips)
            for _, frames in clips:
                frames.extend([frames[-1]] * (longest - len(frames)))
        env.close()
        write_side_by_side(clips, folder / "before_after.mp4")
        print(f"Wrote {folder / 'before_after.mp4'}")
    except Exception as error:  # a machine without a GL back-end must still end with its table
        print(f"No video: {type(error).__name__}: {error}. Rendering needs EGL or OSMesa (MUJOCO_GL=egl or osmesa).")


class _Clock:
    """Seconds spent per stage, summed over interruptions."""

    def __init__(self, path: pathlib.Path):
        self.path = path
        self.seconds: dict[str, float] = _read_json(path) if path.exists() else {}

    def __call__(self, stage: str) -> "_Clock":
        self.stage, self.started = stage, time.perf_counter()
        return self

    def __enter__(self) -> None:
        pass

    def __exit__(self, *error: object) -> None:
        self.seconds[self.stage] = self.seconds.get(self.stage, 0.0) + time.perf_counter() - self.started
        write_json(self.path, self.seconds)


def _check_settings(path: pathlib.Path, settings: dict[str, Any]) -> None:
    """A folder belongs to one set of settings: continuing it with others would mix runs."""
    if path.exists():
        found = _read_json(path)
        if found != settings:
            raise SystemExit(f"{path.parent} holds a run with {found}, wanted {settings}: pass --fresh or another --out")
    write_json(path, settings)


def _read_json(path: pathlib.Path) -> Any:
    try:
        return read_json(path)
    except ValueError as error:
        raise SystemExit(f"error: {error}, or begin anew with --fresh") from error


def command(argv: list[str] | None = None) -> int:
    """
    :param argv: command-line arguments; the process's when None
    :return: exit status: 0, or 130 after an interruption
    """
    try:
        main(argv)
    except KeyboardInterrupt:
        print("Interrupted; the same command goes on from the last checkpoint.")
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(command())
