"""All analyses of a run: each result on disk as soon as it is there, and a report of those that are."""

import json
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from ogpo_sb3.analyze import calibration, denoising, distributions, ratios, speed
from ogpo_sb3.analyze.context import Context, NotApplicable, Settings
from ogpo_sb3.analyze.episodes import matched
from ogpo_sb3.analyze.projection import chosen
from ogpo_sb3.analyze.stages import Source
from ogpo_sb3.common.files import write_json
from ogpo_sb3.common.progress import progress
from ogpo_sb3.evaluation import document
from ogpo_sb3.evaluation.document import Block, Heading, Picture, Table, Text

ANALYSES: dict[str, ModuleType] = {
    "speed": speed,
    "distributions": distributions,
    "calibration": calibration,
    "ratios": ratios,
    "denoising": denoising,
}


def analyse(
    source: Source,
    out: str | Path,
    settings: Settings | None = None,
    only: Sequence[str] | None = None,
    progress_bar: bool = False,
) -> dict[str, dict[str, Any]]:
    """
    Do what is left of the analyses: a PNG and a JSON file of each, and report.md and report.html over all of them.

    :param source: see :func:`ogpo_sb3.analyze.find`
    :param out: folder, which belongs to one run and one set of settings
    :param settings: what is drawn and how often
    :param only: some of ``ANALYSES``; None for all that the run has enough for
    :param progress_bar: show progress in episodes
    :return: the numbers by analysis
    :raises ValueError: an analysis that does not exist or that the run has nothing for, another environment than the run's, or
        a folder with other results
    """
    settings = settings or Settings()
    chosen(settings.projection)
    unknown = [name for name in only or () if name not in ANALYSES]
    if unknown:
        raise ValueError(f"analyses must be among {list(ANALYSES)}, found {unknown}")
    folder = Path(out)
    context = Context(source, settings, folder)
    about = json.loads(json.dumps(context.describe()))
    if not (folder / "settings.json").exists():
        # A misspelt environment or algorithm must not claim the folder.
        env = context.make_env()
        try:
            matched(context.model(0), env)
        finally:
            env.close()
    _claim(folder / "settings.json", about)
    wanted = [name for name in ANALYSES if only is None or name in only]
    missing = sum(not context.episodes_file(i).exists() for i in range(len(source.stages)))
    results: dict[str, dict[str, Any]] = {}
    skipped: dict[str, str] = {}
    with progress(range(0), "episodes", missing * settings.n_episodes, progress_bar and missing > 0) as bar:
        context.bar = bar
        for name in wanted:
            try:
                results[name] = _result(name, context)
            except NotApplicable as error:
                if only is not None:
                    raise ValueError(f"{name} cannot be made of this run: {error}") from error
                skipped[name] = str(error)
            _write_report(context, skipped)
    if not results:
        raise ValueError("no analysis can be made of this run: " + "; ".join(f"{k}: {v}" for k, v in skipped.items()))
    return results


def _claim(path: Path, about: dict[str, Any]) -> None:
    """Results of other models or settings in one folder would be mistaken for each other's."""
    if path.exists():
        found = json.loads(path.read_text())
        changed = [key for key in about if found.get(key) != about[key]]
        if changed:
            raise ValueError(f"{path.parent} holds an analysis with other {', '.join(changed)}: choose another folder")
    write_json(path, about)


def _result(name: str, context: Context) -> dict[str, Any]:
    analysis, numbers, picture = ANALYSES[name], context.folder / f"{name}.json", context.folder / f"{name}.png"
    if len(context.stages) < analysis.MIN_STAGES:
        raise NotApplicable(f"it compares stages of training and needs {analysis.MIN_STAGES}, found {len(context.stages)}")
    if numbers.exists():
        found = json.loads(numbers.read_text())
    else:
        found = json.loads(json.dumps(analysis.compute(context)))
        write_json(numbers, found)
    if not picture.exists():
        analysis.draw(found, picture)
    return found


def _write_report(context: Context, skipped: dict[str, str]) -> None:
    source = context.source
    blocks: list[Block] = [
        Heading(f"{source.algo} on {source.env_id}", 1),
        Table(
            ["stage", "environment steps", "file"],
            [[stage.title, str(stage.steps) if stage.steps >= 0 else "-", stage.file.name] for stage in source.stages],
        ),
    ]
    for name, analysis in ANALYSES.items():
        numbers, picture = context.folder / f"{name}.json", context.folder / f"{name}.png"
        if numbers.exists() and picture.exists():
            blocks += [
                Heading(analysis.TITLE),
                *analysis.blocks(json.loads(numbers.read_text())),
                Picture(picture, analysis.TITLE),
            ]
            blocks.append(Text(f"Numbers: {numbers.name}"))
        elif name in skipped:
            blocks += [Heading(analysis.TITLE), Text(f"Left out: {skipped[name]}.")]
    document.write(blocks, context.folder)
