"""Stages of a training run: its saved models, in order of environment steps, and where the run says what it was."""

import json
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ogpo_sb3.common.saving import CHECKPOINT_SUFFIX
from ogpo_sb3.zoo import ALGORITHMS
from ogpo_sb3.zoo.models import about_checkpoint

_NOT_STAGES = ("best_model.zip",)  # one of the others again
_CRITIC_UPDATES = ("_n_updates", "_n_warmup_updates", "_n_critic_pretrain_updates")


@dataclass(frozen=True)
class Stage:
    """
    :param title: in pictures and tables
    :param file: zip of ``model.save``, checkpoint, or zip of ``model.policy.save``
    :param steps: environment steps of fine-tuning behind it; -1 for a policy that was saved alone
    :param trained: its critics have been updated
    """

    title: str
    file: Path
    steps: int
    trained: bool

    @property
    def fingerprint(self) -> list[Any]:
        """What changes when the file does."""
        about = self.file.stat()
        return [str(self.file.resolve()), about.st_size, about.st_mtime_ns]


@dataclass(frozen=True)
class Source:
    """
    What is analysed.

    :param stages: in order
    :param algo: zoo id
    :param env_id: environment of single steps
    :param env_kwargs: its arguments
    """

    stages: tuple[Stage, ...]
    algo: str
    env_id: str
    env_kwargs: dict[str, Any]


def find(
    paths: Sequence[str | Path],
    algo: str | None = None,
    env_id: str | None = None,
    env_kwargs: dict[str, Any] | None = None,
    max_stages: int = 5,
) -> Source:
    """
    :param paths: folders of runs (of the zoo, the quickstart, a comparison, or any that holds models) and model files; files
        given one by one may be called "title=file" and keep their order
    :param algo: zoo id; None for what a folder or a checkpoint says
    :param env_id: None for what a folder says
    :param env_kwargs: None for what a folder says
    :param max_stages: at most so many, evenly spaced, the first and the last among them; at least 1
    :raises ValueError: nothing there, or nobody says which algorithm or environment it is
    """
    if max_stages < 1:
        raise ValueError(f"max_stages must be at least 1, found {max_stages}")
    stages: list[Stage] = []
    known: dict[str, Any] = {}
    for text in map(str, paths):
        title, mark, name = text.partition("=")
        path = Path(text if not mark or Path(text).exists() else name).expanduser()
        if path.is_dir():
            stages += _in_folder(path)
            known = {**_described(path), **known}
        elif path.exists():
            stages.append(_stage(path, title if mark else None))
        else:
            raise ValueError(f"{path}: there is no such run or model file")
    if not stages:
        raise ValueError("no run or model file was given")
    titles = [stage.title for stage in stages]
    if len(set(titles)) < len(titles):
        raise ValueError(f"the stages need different titles, found {titles}: write TITLE=FILE")
    algo = algo or known.get("algo") or _checkpoints_algorithm(stages)
    if algo is None:
        raise ValueError(f"{stages[0].file} does not say which algorithm it is of: give --algo, one of {list(ALGORITHMS)}")
    if algo not in ALGORITHMS:
        raise ValueError(f"algo must be one of {list(ALGORITHMS)}, found {algo!r}")
    if (env_id or known.get("env")) is None:
        raise ValueError(f"{stages[0].file} does not say which environment it is of: give --env")
    own_env = env_id is None or env_id == known.get("env")
    kwargs = env_kwargs if env_kwargs else known.get("env_kwargs", {}) if own_env else {}
    return Source(tuple(_spread(stages, max_stages)), algo, env_id or known["env"], kwargs)


def _spread(stages: list[Stage], n: int) -> list[Stage]:
    """At most n of them, evenly spaced; the last one where n is 1."""
    if len(stages) <= n:
        return stages
    if n == 1:
        return stages[-1:]
    return [stages[round(i * (len(stages) - 1) / (n - 1))] for i in range(n)]


def _in_folder(folder: Path) -> list[Stage]:
    """Models of a run, of equal steps the one that holds most."""
    files = [
        path
        for pattern in ("*.zip", f"*{CHECKPOINT_SUFFIX}")
        for path in (*folder.glob(pattern), *folder.glob(f"checkpoints/{pattern}"))
    ]
    found: dict[int, Stage] = {}
    for path in sorted(files):
        if path.name in _NOT_STAGES:
            continue
        try:
            stage = _stage(path)
        except ValueError:
            continue  # another kind of archive, demonstrations say
        found.setdefault(stage.steps, stage)
    if not found:
        raise ValueError(f"{folder} holds no model: wanted files of model.save, save_checkpoint or policy.save")
    stages = [found[key] for key in sorted(found)]
    if len({stage.title for stage in stages}) < len(stages):  # rounded to the same
        stages = [stage if stage.steps < 0 else replace(stage, title=f"{stage.steps} steps") for stage in stages]
    return stages


def _stage(path: Path, title: str | None = None) -> Stage:
    """
    :param path: a file
    :param title: None for one that says how many steps are behind it
    """
    if path.suffix == CHECKPOINT_SUFFIX:
        about_checkpoint(path)
        with zipfile.ZipFile(path) as archive, archive.open("model.zip") as model:
            steps, trained = _progress(model, path)
    else:
        steps, trained = _progress(path, path)
    return Stage(title or (steps_text(steps) if steps >= 0 else "cloned"), path, steps, trained)


def _progress(file: Any, path: Path) -> tuple[int, bool]:
    """Environment steps of a model's zip, -1 for a policy's, and whether its critics have been updated."""
    try:
        with zipfile.ZipFile(file) as archive:
            names = archive.namelist()
            if "data" in names:
                data = json.loads(archive.read("data"))
                return int(data["num_timesteps"]), any(data.get(counter, 0) > 0 for counter in _CRITIC_UPDATES)
    except (zipfile.BadZipFile, KeyError, ValueError) as error:
        raise ValueError(f"{path} should be a model file, found another kind of file") from error
    if any(name.endswith("data.pkl") for name in names):  # torch.save's archive
        return -1, False
    raise ValueError(f"{path} should be a model file, found another kind of archive")


def steps_text(steps: int) -> str:
    """
    :param steps: environment steps
    :return: in thousands, or as they are below a thousand
    """
    return f"{steps / 1000:.3g}k steps" if steps >= 1000 else f"{steps} steps"


def _checkpoints_algorithm(stages: Sequence[Stage]) -> str | None:
    names = {cls.__name__: algo for algo, cls in ALGORITHMS.items()}
    for stage in stages:
        if stage.file.suffix == CHECKPOINT_SUFFIX:
            return names.get(about_checkpoint(stage.file)["algorithm"])
    return None


def _described(folder: Path) -> dict[str, Any]:
    """What a folder's other files say of its run: ``algo``, ``env``, ``env_kwargs``."""
    if list(folder.glob("*/args.yml")):
        from ogpo_sb3.zoo.runs import read_run

        run = read_run(folder.resolve(), folder.resolve().parent.name)
        return dict(algo=run.algorithm, env=run.env_id, env_kwargs=run.env_kwargs)
    for name in ("results.json", "settings.json"):
        if (folder / name).exists():
            content = json.loads((folder / name).read_text())
            if "env" in content:
                return _of_comparison(folder, content) if "algo" in content else _of_quickstart(content)
    return {}


def _of_quickstart(content: dict[str, Any]) -> dict[str, Any]:
    from ogpo_sb3.presets import laptop_env

    rewards = content.get("env_kwargs")  # which runs of earlier versions do not tell
    return dict(algo="ogpo_ca", env=content["env"], env_kwargs=laptop_env(content["env"]) if rewards is None else rewards)


def _of_comparison(folder: Path, content: dict[str, Any]) -> dict[str, Any]:
    known = dict(algo=content["algo"], env=content["env"], env_kwargs={})
    plan = next((parent / "plan.json" for parent in folder.resolve().parents if (parent / "plan.json").exists()), None)
    if plan is not None:
        settings = json.loads(plan.read_text())["settings"][content["env"]][content["algo"]][content["mode"]]
        known["env_kwargs"] = {k.removeprefix("env."): v for k, v in settings.items() if k.startswith("env.")}
    return known
