"""The report of a comparison, finished or not: report.md, report.html with its pictures inside, summary.json."""

import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ogpo_sb3.common.files import write_json
from ogpo_sb3.common.versions import versions
from ogpo_sb3.compare import criteria
from ogpo_sb3.compare.plan import Plan, slug
from ogpo_sb3.compare.summary import MEASURES, THRESHOLDS, Record, collect, contestants, label, summarise
from ogpo_sb3.evaluation import statistics
from ogpo_sb3.evaluation.document import Block, Code, Heading, Picture, Table, Text, write
from ogpo_sb3.evaluation.plots import plot_curves, plot_intervals

NONE = "–"


def make(plan: Plan, out: pathlib.Path, command: str) -> list[pathlib.Path]:
    """
    :param plan: of the comparison
    :param out: its folder
    :param command: that makes the comparison
    :return: files written
    """
    records = collect(plan, out)
    summary = summarise(plan, records)
    summary["table1"] = criteria.table(plan, summary["tasks"])
    write_json(out / "summary.json", summary)
    blocks = [
        *_opening(plan, records, command),
        *_missing(records),
        *_aggregate(plan, summary, out),
        *[block for env in plan.envs for block in _task(plan, env, summary, records, out)],
        *_table1(plan, summary),
        *_cost(plan, summary),
        *_settings(plan, records),
    ]
    return [*write(blocks, out), out / "summary.json"]


def _opening(plan: Plan, records: Sequence[Record], command: str) -> list[Block]:
    done = sum(r.status == "finished" for r in records)
    seeds = f"{plan.seeds[0]}" if len(plan.seeds) == 1 else f"{plan.seeds[0]} to {plan.seeds[-1]}"
    return [
        Heading(f"Comparison of {', '.join(plan.algos)}", 1),
        Text(
            f"{done} of {len(records)} runs finished. {plan.steps:,} environment steps each, seeds {seeds}, preset "
            f"{plan.preset}. All algorithms of a task and seed start from the same cloned policy. Curves: "
            f"{plan.eval_episodes} episodes every {plan.eval_freq:,} steps; final: {plan.final_episodes} episodes; the same "
            "evaluation seeds (from 10000) throughout, policies as they are deployed."
        ),
        Text(
            "Numbers are interquartile means over runs with 95 % intervals of a stratified bootstrap over runs (rliable), "
            "from two runs on. Such intervals of few seeds are narrower than they should be. Areas are mean heights of a "
            "curve."
        ),
        Code(command),
    ]


def _missing(records: Sequence[Record]) -> list[Block]:
    rows = [[r.run.name, r.status, r.error or ""] for r in records if r.status != "finished"]
    if not rows:
        return []
    text = (
        "These runs are in no table. Curves show unfinished ones as far as they are, and no failed ones. The same command "
        "tries failed ones again and goes on with the others."
    )
    return [Heading("Failed and unfinished runs"), Text(text), Table(["run", "status", "reason"], rows)]


def _aggregate(plan: Plan, summary: Mapping[str, Any], out: pathlib.Path) -> list[Block]:
    rows = [
        [name, str(found["runs"]), _interval(found["final_success"]), _interval(found["area_success"])]
        for name, found in summary["aggregate"].items()
    ]
    text = (
        f"Over all {len(plan.envs)} tasks; seeds count that a contestant has finished on every task."
        if len(plan.envs) > 1
        else "One task."
    )
    blocks: list[Block] = [
        Heading("All tasks"),
        Text(text),
        Table(["algorithm", "seeds", "final success, IQM", "area under success, IQM"], rows),
    ]
    panels = [
        (title, {n: _drawn(f[key]) for n, f in summary["aggregate"].items() if f[key][0] is not None})
        for key, title in (("final_success", "final success, IQM"), ("area_success", "area under success, IQM"))
    ]
    if all(values for _, values in panels):
        blocks.append(_picture(out, "aggregate", "Interquartile means over all runs and tasks", plot_intervals, panels))
    pairs = summary["improvement"]
    if pairs:
        rows = [
            [f"{p['x']} > {p['y']}", *(_interval(p[key]) for key in ("final_success", "area_success", "final_return"))]
            for p in pairs
        ]
        blocks += [
            Heading("Probability of improvement"),
            Text(
                "That a run of the first is better than a run of the second on a task, averaged over tasks; ties count half."
            ),
            Table(["pair", "final success", "area under success", "final return"], rows),
        ]
        panels = [
            (
                f"probability of improvement, {title}",
                {f"{p['x']} > {p['y']}": _drawn(p[key]) for p in pairs if p[key][0] is not None},
            )
            for key, title in (("final_success", "success"), ("final_return", "return"))
        ]
        panels = [panel for panel in panels if panel[1]]
        if panels:
            caption = "Probability of improvement"
            blocks.append(
                _picture(out, "improvement", caption, lambda values, path: plot_intervals(values, path, line=0.5), panels)
            )
    return blocks


def _task(plan: Plan, env: str, summary: Mapping[str, Any], records: Sequence[Record], out: pathlib.Path) -> list[Block]:
    names = contestants(plan, env)
    rows, reached = [], []
    for name in names:
        found = summary["tasks"][env][name]
        values = [_interval(found[key]) for key in ("final_success", "area_success", "final_return", "area_return")]
        rows.append(
            [name, str(found["runs"]), _number(found["bc_success"]), *values[:2], _number(found["bc_return"]), *values[2:]]
        )
        cells = [found["steps_to"][str(t)] for t in THRESHOLDS]
        reached.append([name, *(f"{_steps(c['median'])} ({c['reached']} of {found['runs']})" for c in cells)])
    columns = [
        "algorithm",
        "runs",
        "BC success",
        "final success",
        "area under success",
        "BC return",
        "final return",
        "area under return",
    ]
    blocks: list[Block] = [Heading(env), Table(columns, rows)]
    curves = _curves(plan, env, names, records)
    if curves:
        labels = {"success": "success", "return": "mean return"}
        panels = [(labels[key], by_name) for key, by_name in curves.items()]
        before = [_before(records, env, column) for key, column in MEASURES.items() if key in curves]
        caption = (
            f"{env}: interquartile mean and 95 % interval; number of runs in brackets, unfinished ones as far as they are"
        )
        name = f"curves_{slug(env)}"
        blocks.append(_picture(out, name, caption, lambda values, path: plot_curves(values, path, env, before), panels))
    text = "Environment steps until the curve first shows this success: median over runs, and how many got there."
    blocks += [Text(text), Table(["algorithm", *(f"{t:.0%}" for t in THRESHOLDS)], reached)]
    return blocks


def _curves(plan: Plan, env: str, names: Sequence[str], records: Sequence[Record]) -> dict[str, dict[str, Any]]:
    grid = np.arange(0, plan.steps + 1, plan.eval_freq)
    found: dict[str, dict[str, Any]] = {}
    for key, column in MEASURES.items():
        for name in names:
            rows = [r.curve for r in records if r.contestant == name and r.run.env == env and r.status != "failed"]
            values = statistics.on_grid([c for c in rows if any(column in row for row in c)], column, grid)
            if len(values):
                found.setdefault(key, {})[name] = (grid, *statistics.curve(values), len(values))
    return found


def _before(records: Sequence[Record], env: str, column: str) -> float | None:
    first = {r.run.seed: r.curve[0][column] for r in records if r.run.env == env and r.curve and column in r.curve[0]}
    return float(np.mean(list(first.values()))) if first else None


def _table1(plan: Plan, summary: Mapping[str, Any]) -> list[Block]:
    text = (
        "Two marks per method, as in Table 1 of arXiv 2605.03065: tuned, then fixed hyperparameters. "
        f"{criteria.YES}: on each of the criterion's tasks in this comparison the interquartile mean of final success is at "
        f"least {criteria.CONVERGED:g}; for {criteria.EFFICIENCY.lower()}: on every task the area under the success curve is "
        f"at least {criteria.EFFICIENT:g} of the best method's and above the cloned policy's success. {criteria.NO}: it is "
        f"not. {criteria.NOT_RUN}: not all of it was run."
    )
    return [Heading("Criteria"), Text(text), Table(["criterion", "tasks", *plan.algos], summary["table1"])]


def _cost(plan: Plan, summary: Mapping[str, Any]) -> list[Block]:
    rows = []
    for env in plan.envs:
        for name, found in summary["cost"][env].items():
            if not found["runs"]:
                rows.append([f"{env}, {name}", "0", *[NONE] * 7])
                continue
            updates = f"{found['updates']['critic']:,.0f} / {found['updates']['actor']:,.0f}"
            memory = f"{found['peak_mib']:,.0f}" + (f" + {found['peak_gpu_mib']:,.0f} GPU" if found["peak_gpu_mib"] else "")
            times = [f"{found[key]:.1f}" for key in ("minutes", "evaluation_minutes", "cloning_minutes")]
            rates = [f"{found[key]:,.1f}" for key in ("updates_per_second", "steps_per_second")]
            rows.append([f"{env}, {name}", str(found["runs"]), *times, updates, *rates, memory])
    columns = ["task, algorithm", "runs", "minutes", "evaluating", "cloning (shared)", "updates critic / actor"]
    columns += ["critic updates per s", "env steps per s", "peak MiB"]
    text = (
        "Per run: wall-clock minutes without cloning, the part of them spent evaluating, updates, and rates of the time that "
        "is left. Largest resident memory of a run. Runs that share cores disturb each other's times."
    )
    return [Heading("Cost"), Text(text), Table(columns, rows)]


def _settings(plan: Plan, records: Sequence[Record]) -> list[Block]:
    found = next((r.results["versions"] for r in records if r.results), versions())
    blocks: list[Block] = [
        Heading("Settings"),
        Text("Whole plan: plan.json. Below, per task: what all algorithms share, how they were cloned, in what they differ."),
    ]
    for env in plan.envs:
        by_name = {label(a, m): s for a, modes in plan.settings[env].items() for m, s in modes.items()}
        common = {k: v for k, v in next(iter(by_name.values())).items() if all(k in s and s[k] == v for s in by_name.values())}
        blocks += [Heading(env, 3), Code("\n".join(["shared", *_lines(common), "cloning", *_lines(plan.cloning[env])]))]
        different = {name: {k: v for k, v in s.items() if k not in common} for name, s in by_name.items()}
        lines = [line for name, s in different.items() for line in (name, *_lines(s)) if s]
        for name, own in plan.variant_cloning.get(env, {}).items():
            changed = {k: v for k, v in own.items() if plan.cloning[env].get(k) != v}
            lines += [f"cloning for {name.replace('-', ' (', 1)})", *_lines(changed)]
        if lines:
            blocks.append(Code("\n".join(lines)))
    return [*blocks, Heading("Versions", 3), Code("\n".join(_lines(found)))]


def _lines(content: Mapping[str, Any]) -> list[str]:
    return [f"  {name} = {value if isinstance(value, str) else json.dumps(value)}" for name, value in sorted(content.items())]


def _picture(out: pathlib.Path, name: str, caption: str, draw: Any, panels: Any) -> Picture:
    path = out / "figures" / f"{name}.png"
    draw(panels, path)
    return Picture(path, caption)


def _drawn(triple: Sequence[float | None]) -> tuple[float, ...]:
    return tuple(float("nan") if value is None else value for value in triple)


def _number(value: float | None) -> str:
    return NONE if value is None else f"{value:.2f}" if abs(value) < 100 else f"{value:.1f}"


def _steps(value: float | None) -> str:
    return NONE if value is None else f"{value:,.0f}"


def _interval(triple: Sequence[float | None]) -> str:
    value, low, high = triple
    return _number(value) if low is None else f"{_number(value)} ({_number(low)} to {_number(high)})"
