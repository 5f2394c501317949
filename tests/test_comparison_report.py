"""Numbers and reports of comparisons: closed forms, other implementations, hand-made runs."""

import json
from html.parser import HTMLParser

import numpy as np
import pytest
from ogpo_sb3.compare import criteria, plan, summary
from ogpo_sb3.compare.report import make
from ogpo_sb3.evaluation import document, statistics
from ogpo_sb3.evaluation.callback import append_row
from ogpo_sb3.evaluation.rollouts import EvaluationResult

HAMMER, PUSHT = "ogpo/AdroitHammer-v0", "ogpo/PushT-v0"


def test_interquartile_means_are_rliables_and_touch_no_generator():
    from rliable import metrics

    rng = np.random.default_rng(0)
    scores = rng.normal(size=(5, 3))
    np.random.seed(1)
    drawn = np.random.rand()
    np.random.seed(1)
    [estimate] = statistics.interquartile_means(scores[..., None])
    assert np.random.rand() == drawn
    assert estimate.value == pytest.approx(metrics.aggregate_iqm(scores)) and estimate.low < estimate.value < estimate.high
    assert statistics.interquartile_means(scores[..., None]) == [estimate], "the same every time"
    # Runs are drawn within their task: without spread there, none comes from the difference between tasks.
    assert statistics.interquartile_means(np.array([[[0.0], [1.0]]] * 4)) == [(0.5, 0.5, 0.5)]
    [alone] = statistics.interquartile_means(np.array([[[0.25], [0.75]]]))
    assert alone.value == 0.5 and np.isnan([alone.low, alone.high]).all()
    assert np.isnan(statistics.interquartile_means(np.zeros((0, 2, 1)))).all()
    # Several measures at once: one with ten times the spread, one that some run lacks.
    lacking = np.where(scores == scores.max(), np.nan, scores)
    same, wide, none = statistics.interquartile_means(np.stack([scores, 10 * scores, lacking], axis=-1))
    assert same.value == estimate.value and same == pytest.approx(estimate, abs=0.05), "drawn apart"
    assert wide == pytest.approx([10 * x for x in estimate], abs=0.5) and np.isnan(none).all()


def test_probability_of_improvement_is_rliables():
    from rliable import metrics

    rng = np.random.default_rng(1)
    x, y = rng.integers(4, size=(5, 2)).astype(float), rng.integers(4, size=(3, 2)).astype(float)
    found, surely, equal = statistics.probabilities_of_improvement(
        np.stack([x, x + 10, np.full_like(x, 3)], axis=-1), np.stack([y, y, np.full_like(y, 3)], axis=-1)
    )
    assert found.value == pytest.approx(metrics.probability_of_improvement(x, y)) and found.low < found.value < found.high
    assert surely == (1, 1, 1) and equal == (0.5, 0.5, 0.5), "ties count half"
    [opposite] = statistics.probabilities_of_improvement(y[..., None], x[..., None])
    assert found.value + opposite.value == pytest.approx(1)


def test_curves_have_the_statistics_of_their_points():
    rng = np.random.default_rng(2)
    values = rng.normal(size=(6, 4))
    values[:2, 2], values[:, 3] = np.nan, np.nan
    mean, low, high = statistics.curve(values)
    for point, runs in ((0, values[:, 0]), (1, values[:, 1]), (2, values[2:, 2])):
        [alone] = statistics.interquartile_means(runs[:, None, None])
        assert mean[point] == pytest.approx(alone.value)
        # Other draws of the same bootstrap
        assert (low[point], high[point]) == pytest.approx((alone.low, alone.high), abs=0.1)
    assert np.isnan([mean[3], low[3], high[3]]).all()


def test_grid_area_and_thresholds():
    rows = [dict(timesteps=t, x=v) for t, v in ((0, 0.0), (100, 1.0), (204, 0.48), (400, 0.48))]
    on_grid = statistics.on_grid([rows, rows[:2]], "x", np.array([0, 50, 100, 152, 400]))
    np.testing.assert_allclose(on_grid, [[0, 0.5, 1, 0.74, 0.48], [0, 0.5, 1, np.nan, np.nan]])
    assert statistics.area(rows, "x") == pytest.approx((100 * 0.5 + 104 * 0.74 + 196 * 0.48) / 400)
    assert np.isnan(statistics.area(rows[:1], "x")) and np.isnan(statistics.area(rows, "y"))
    assert statistics.steps_to(rows, "x", 0.5) == 100 and statistics.steps_to(rows, "x", 1.1) is None
    assert statistics.steps_to([dict(timesteps=0, x=0.1 + 0.2)], "x", 0.3) == 0, "rounding aside"
    assert statistics.median_reached([10, 20], 3) == 20 and statistics.median_reached([10], 3) is None
    assert statistics.median_reached([10, 20], 4) == 20 and statistics.median_reached([], 0) is None


def result(success, returns, n=10):
    successes = np.arange(n) < round(success * n)
    return EvaluationResult(np.arange(10_000, 10_000 + n), np.full(n, float(returns)), np.full(n, 7), successes)


def hand_made(out, algos=("ogpo", "ogpo_ca"), envs=(HAMMER, PUSHT), seeds=3, steps=1000, tuned=()):
    """A comparison whose runs end where ``ends`` says; the first seed of the last algorithm on Push-T failed."""
    overrides = {algo: {env: {"clip_range": 0.3} for env in envs} for algo in tuned}
    planned = plan.build(
        list(algos), list(envs), seeds, steps, "quick", dict(learning_starts=10), tuned=overrides, eval_freq=500
    )
    planned.write(out)
    for run in planned.runs():
        folder = out / run.name
        if (run.algo, run.env, run.seed) == (algos[-1], PUSHT, 0):
            folder.mkdir(parents=True)
            (folder / "failure.json").write_text(json.dumps(dict(error="RuntimeError: no more | memory")))
            continue
        better = algos.index(run.algo) + (run.mode == "tuned")
        final = result(min(0.1 * (run.seed + 1) + 0.5 * better, 1.0), -10 + better)
        for step, evaluation in ((0, result(0.1, -20)), (504, result(0.1, -20)), (1001, final)):
            append_row(folder / "curve.csv", step, evaluation)
        content = dict(
            bc=dict(**result(0.1, -20).summary(), seconds=60.0, updates=5),
            final=dict(**final.summary(), timesteps=1001),
            updates=dict(critic=500, actor=50),
            seconds=100.0,
            training_seconds=50.0,
            evaluation_seconds=50.0,
            peak_bytes=2**30,
            peak_gpu_bytes=0,
            versions={"python": "x"},
        )
        (folder / "results.json").write_text(json.dumps(content))
    return planned


def test_summary_of_hand_made_runs(tmp_path):
    planned = hand_made(tmp_path)
    records = summary.collect(planned, tmp_path)
    assert [r.status for r in records].count("failed") == 1 and len(records) == 12
    found = summary.summarise(planned, records)
    assert found["aggregate"]["ogpo"]["runs"] == 3 and found["aggregate"]["ogpo_ca"]["runs"] == 2, (
        "seeds that finished every task"
    )
    # ogpo ends at .1, .2, .3 on both tasks: a quarter of six values, rounded down, is one at each end.
    assert found["aggregate"]["ogpo"]["final_success"][0] == pytest.approx(0.2)
    assert found["aggregate"]["ogpo_ca"]["final_success"][0] == pytest.approx(0.75)
    [pair] = found["improvement"]
    assert (pair["x"], pair["y"]) == ("ogpo", "ogpo_ca") and pair["final_success"][0] == pair["final_return"][0] == 0
    task = found["tasks"][HAMMER]["ogpo_ca"]
    assert task["runs"] == 3 and task["final_success"][0] == pytest.approx(0.7) and task["bc_success"] == pytest.approx(0.1)
    # Flat at .1 for 504 steps, then a slope to .7 over 497.
    assert task["area_success"][0] == pytest.approx((504 * 0.1 + 497 * 0.4) / 1001)
    assert task["final_return"][0] == -9 and task["bc_return"] == -20
    assert task["steps_to"] == {
        "0.5": dict(median=1001, reached=3),
        "0.8": dict(median=None, reached=1),
        "0.9": dict(median=None, reached=0),
    }
    assert found["tasks"][PUSHT]["ogpo_ca"]["runs"] == 2
    cost = found["cost"][HAMMER]["ogpo"]
    assert (cost["updates_per_second"], cost["peak_mib"], cost["minutes"]) == (10, 1024, pytest.approx(100 / 60))
    assert json.loads(json.dumps(found)) == found


def test_criteria_of_hand_made_runs(tmp_path):
    planned = hand_made(tmp_path, envs=(HAMMER,), tuned=("ogpo_ca",))
    tasks = summary.summarise(planned, summary.collect(planned, tmp_path))["tasks"]
    rows = criteria.table(planned, tasks)
    by_name = {row[0]: row[1:] for row in rows}
    # Tuned ends at 1, fixed at .7 and .2; only one of four dexterous tasks is there.
    assert by_name["Dense/dexterous"] == ["1 of 4", "· ✗", "✓ ✗"]
    assert by_name["Long horizon"] == ["0 of 3", "· ·", "· ·"]
    assert by_name[criteria.EFFICIENCY] == ["1", "· ✗", "✓ ✓"]
    tasks[HAMMER]["ogpo_ca"]["bc_success"] = 0.9  # the cloned policy was better than the best
    assert criteria.table(planned, tasks)[-1] == [criteria.EFFICIENCY, "1", "· ✗", "✓ ✗"]


class Tables(HTMLParser):
    """Cells, headings and sources of pictures."""

    def __init__(self, text):
        super().__init__()
        self.cells, self.tags, self.sources, self._open = [], [], [], None
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self._open = tag if tag in ("td", "th") else self._open
        if self._open == tag:
            self.cells.append("")
        self.sources += [value for name, value in attrs if name in ("src", "href")]

    def handle_endtag(self, tag):
        self._open = None if tag == self._open else self._open

    def handle_data(self, data):
        if self._open:
            self.cells[-1] += data


def test_report_says_the_same_in_both_formats_and_hides_no_failure(tmp_path):
    planned = hand_made(tmp_path, tuned=("ogpo",))
    written = make(planned, tmp_path, "python -m ogpo_sb3.compare <all>")
    assert [path.name for path in written] == ["report.md", "report.html", "summary.json"]
    text, page = ((tmp_path / f"report.{suffix}").read_text() for suffix in ("md", "html"))
    lines = [line[2:-2].split(" | ") for line in text.replace("\\|", "§").splitlines() if line.startswith("| ")]
    cells = [cell.replace("§", "|").strip() for line in lines if set(line[0]) != {"-"} for cell in line]
    parsed = Tables(page)
    assert [cell.strip() for cell in parsed.cells] == cells
    assert "RuntimeError: no more | memory" in parsed.cells and "17 of 18 runs finished" in text
    assert "0.20 (0.10 to 0.30)" in cells and "ogpo (tuned)" in cells and "python -m ogpo_sb3.compare <all>" in text
    assert len(parsed.sources) == 4 and all(source.startswith("data:image/png;base64,") for source in parsed.sources)
    assert "<script" not in page and "http" not in page.replace("https://", "")
    for picture in (tmp_path / "figures").iterdir():
        assert picture.read_bytes().startswith(b"\x89PNG") and f"figures/{picture.name}" in text
    for piece in ("python = x", "clip_range = 0.3", "clip_range = 0.2", "bc_steps = 2000", "seeds 0 to 2"):
        assert piece in text


def test_a_report_of_nothing_yet(tmp_path):
    planned = plan.build(["ogpo"], [HAMMER], 1, 20_000)
    planned.write(tmp_path)
    make(planned, tmp_path, "command")
    text = (tmp_path / "report.md").read_text()
    assert "0 of 1 runs finished" in text and "| waiting |" in text
    with pytest.raises(ValueError, match="found no file"):
        plan.read(tmp_path / "elsewhere")
    with pytest.raises(ValueError, match=r"another plan with .*steps=20000, wanted 30000"):
        plan.build(["ogpo"], [HAMMER], 1, 30_000).write(tmp_path)


def test_blocks_are_escaped():
    blocks = [document.Heading("a < b", 1), document.Table(["x|y"], [["<i>"]]), document.Code("if a < b: pass")]
    assert "&lt;i&gt;" in document.as_html(blocks) and "<i>" not in document.as_html(blocks)
    assert "x\\|y" in document.markdown(blocks, None)
