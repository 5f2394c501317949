"""The bandit that objectives are compared on: its values, its measures, and a comparison in miniature that is resumed."""

import csv

import numpy as np
import pytest
import torch as th
from benchmarks import bandit
from ogpo_sb3.ogpo.objectives import OBJECTIVES


def test_values_and_modes():
    """Peaks have their values, and the cloned modes lie beside them."""
    th.testing.assert_close(bandit.true_q(bandit.PEAKS), bandit.VALUES)
    th.testing.assert_close(bandit.true_q(bandit.MODES), bandit.VALUES * float(np.exp(-(0.1**2) / (2 * 0.15**2))))
    assert bandit.true_q(th.zeros(1, 2)).item() < 0.01
    best = bandit.demonstrations(0).actions[3::4]
    assert np.allclose(best.mean(0), [0.5, 0.5], atol=0.01) and np.allclose(best.std(0), 0.06, atol=0.01)


def test_measures():
    found = bandit.measure(th.cat([bandit.PEAKS[[0, 3, 3]], th.zeros(1, 2)]))
    assert found == pytest.approx(dict(q=2.25 / 4, mode_1=0.25, mode_2=0, mode_3=0, mode_4=0.5, elsewhere=0.25), abs=0.01)


def test_rough_critics_err_by_what_is_said():
    """Unbiased over the square, of the stated size, in part shared; and differentiable in the action."""
    actions = th.rand(20_000, 2) * 2 - 1
    errors = bandit.KnownQ(True, 0)(None, actions) - bandit.true_q(actions)
    assert errors.std(dim=1).sub(0.15).abs().max() < 0.02 and errors.mean().abs() < 0.01
    correlations = np.corrcoef(errors.numpy())[np.triu_indices(5, 1)]
    assert abs(correlations.mean() - 0.25) < 0.06
    th.testing.assert_close(bandit.KnownQ(False, 0)(None, actions)[0], bandit.true_q(actions))
    actions.requires_grad_()
    bandit.KnownQ(True, 0)(None, actions).mean(0).sum().backward()
    assert actions.grad.abs().mean() > 1.0


def test_a_comparison_in_miniature(tmp_path, monkeypatch):
    """Runs begin as the clone, and are not run again."""
    for name, value in dict(SAMPLES=40, EVERY=2, BC_STEPS=30, DISTILLATION_STEPS=2).items():
        monkeypatch.setattr(bandit, name, value)
    small = dict(actor_batch_size=2, group_size=4)
    assert set(bandit.OBJECTIVES) == set(OBJECTIVES)
    paths = [bandit.run(c, name, 0, 4, tmp_path, **small) for c in bandit.CRITICS for name in ("ppo", "fpo++", "fql")]
    before = [path.stat().st_mtime_ns for path in paths]
    assert bandit.run("exact", "ppo", 0, 4, tmp_path) == paths[0]
    bandit.draw(bandit.collect(paths, tmp_path), 4, tmp_path)
    assert before == [path.stat().st_mtime_ns for path in paths]
    with (tmp_path / "curves.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2 * 3 * 3
    assert len({row["q"] for row in rows if row["update"] == "0" and row["extraction"] != "fql"}) == 1
    assert (tmp_path / "bandit.png").stat().st_size > 10_000 and (tmp_path / "summary.csv").is_file()
