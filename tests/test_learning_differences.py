"""What the study's variants change against their base: by hand, under shifts, and how often chance goes beyond its reach."""

import numpy as np
import pytest
from benchmarks.learning.collect import RecordedRun
from benchmarks.learning.differences import differences
from benchmarks.learning.figures import draw_differences


def record(task, variant, seed, gain, clone=0.3):
    factor = "base" if variant == "base" else "clip"
    row = dict(task=task, variant=variant, factor=factor, seed=seed, status="finished", gain=gain, bc_success=clone)
    return RecordedRun({**row, "eval_episodes": 100, "minutes": None})


def test_differences_by_hand(tmp_path):
    records = [
        *(record("t", "base", seed, gain) for seed, gain in enumerate([0.3, 0.4, 0.5])),
        *(record("t", "a", seed, gain) for seed, gain in enumerate([0.5, 0.4])),
        record("t", "a", 7, 0.9),  # the base has no such seed
        record("t", "b", 2, None),  # unfinished
        *(record("u", "base", 0, gain) for gain in (0.0, 0.2)),  # the same seed twice
        record("u", "a", 0, 0.4, clone=0.1),
        record("v", "a", 0, 0.4),  # a task without a base
    ]
    rows, spread = differences(records)
    assert spread == pytest.approx(0.2 / 2**0.5), "of .2 and 0 within a on t; a single value says nothing"
    expected = [("t", 2, 0.1, 0.5, True), ("u", 1, 0.3, 1.0, False), ("all", 3, 0.2, 1.5 / 4, False)]
    assert [(row["task"], row["runs"]) for row in rows] == [(task, runs) for task, runs, *_ in expected]
    for row, (_, _, difference, variance, same) in zip(rows, expected, strict=True):
        assert row["variant"] == "a" and row["difference"] == pytest.approx(difference)
        assert row["reach"] == pytest.approx(1.96 * spread * variance**0.5) and row["same_clone"] is same
    assert draw_differences(rows, spread, tmp_path).stat().st_size > 5000


def test_without_a_second_seed_nothing_is_said_of_chance(tmp_path):
    rows, spread = differences([record("t", "base", 0, 0.3), record("t", "a", 0, 0.5)])
    assert spread is None and [row["reach"] for row in rows] == [None]
    assert draw_differences(rows, spread, tmp_path).exists()
    assert differences([record("t", "base", 0, 0.3)]) == ([], None)


def test_what_a_clone_was_worth_drops_out_and_chance_stays_within_its_reach():
    rng = np.random.default_rng(0)
    clones = rng.normal(0, 0.3, 3)

    def runs(shift):
        noise = np.random.default_rng(1)
        base = [record("t", "base", seed, shift * clones[seed]) for seed in range(3)]
        return base + [
            record("t", str(i), seed, noise.normal(0, 0.1) + shift * clones[seed]) for i in range(1000) for seed in range(3)
        ]

    (still, spread), (moved, other) = differences(runs(0.0)), differences(runs(1.0))
    assert spread == pytest.approx(0.1, rel=0.05) and other == pytest.approx(spread)
    assert [row["difference"] for row in moved] == pytest.approx([row["difference"] for row in still])
    assert 0.935 < np.mean([abs(row["difference"]) < row["reach"] for row in still]) < 0.965
