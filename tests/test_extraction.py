"""Advantages, the clipped objective and the penalties: hand tables, invariances and slow loops."""

import math

import pytest
import torch as th
from ogpo_sb3.extraction import agreement, group_advantage, penalise_q, ppo_clip_loss
from ogpo_sb3.extraction.advantages import STRATEGIES


def centred(rows):
    """Heads x chains with group mean zero already, one state."""
    return th.tensor(rows)[:, None, :]


def test_conservative_hand_table():
    """ALGORITHM T3: smallest agreeing magnitude, zero on disagreement."""
    q = centred([[2.0, -3.0, 1.0], [1.0, -2.0, 1.0], [4.0, -5.0, 1.0]])
    th.testing.assert_close(group_advantage(q, "conservative"), th.tensor([[1.0, -2.0, 1.0]]))
    q = centred([[2.0, -2.0], [-1.0, 1.0]])
    th.testing.assert_close(group_advantage(q, "conservative"), th.zeros(1, 2))


def test_penultimate_hand_table():
    q = centred([[2.0, -2.0], [1.0, -1.0], [4.0, -4.0]])
    th.testing.assert_close(group_advantage(q, "penultimate"), th.tensor([[2.0, -2.0]]))
    q = centred([[2.0, -2.0], [-1.0, 1.0], [4.0, -4.0]])
    th.testing.assert_close(group_advantage(q, "penultimate"), th.zeros(1, 2))
    with pytest.raises(ValueError, match="n_critics >= 3"):
        group_advantage(q[:2], "penultimate")


def test_conservative_equals_mean_with_one_head():
    q = th.randn(1, 7, 5)
    th.testing.assert_close(group_advantage(q, "conservative"), group_advantage(q, "mean"))


@pytest.mark.parametrize("q_agg", ["mean", "min"])
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_constant_changes_nothing(strategy, q_agg):
    """ALGORITHM T5: adding a constant per state to all heads leaves every strategy unchanged."""
    q = th.randn(4, 3, 6, dtype=th.float64)
    moved = q + th.randn(1, 3, 1, dtype=th.float64) * 100
    th.testing.assert_close(group_advantage(q, strategy, q_agg), group_advantage(moved, strategy, q_agg))


def test_mean_positive_and_std():
    q = th.randn(4, 3, 6)
    mean = group_advantage(q, "mean")
    th.testing.assert_close(mean.mean(dim=1), th.zeros(3), atol=1e-6, rtol=0)
    th.testing.assert_close(mean, q.mean(0) - q.mean(0).mean(1, keepdim=True))
    th.testing.assert_close(group_advantage(q, "positive"), mean.clamp_min(0))
    std = group_advantage(q, "std")
    th.testing.assert_close(std.square().mean(dim=1), th.ones(3), atol=1e-4, rtol=0)
    with pytest.raises(ValueError, match="advantage"):
        group_advantage(q, "best")


def test_agreement_counts_sign_consensus():
    q = centred([[2.0, -3.0, 1.0, 0.0], [1.0, -2.0, -1.0, 2.0]])
    assert agreement(q).item() == 0.5


@pytest.mark.parametrize("advantage", [1.5, -1.5])
@pytest.mark.parametrize("ratio", [0.7, 0.95, 1.0, 1.05, 1.4])
def test_ppo_clip_against_its_definition(ratio, advantage):
    eps = 0.1
    log_prob = th.tensor([math.log(ratio) - 2.0], requires_grad=True)
    loss = ppo_clip_loss(log_prob, th.tensor([-2.0]), th.tensor([advantage]), eps)
    expected = -min(ratio * advantage, min(max(ratio, 1 - eps), 1 + eps) * advantage)
    assert loss.item() == pytest.approx(expected, rel=1e-5)
    loss.backward()
    outside = ratio > 1 + eps if advantage > 0 else ratio < 1 - eps
    assert log_prob.grad.item() == pytest.approx(0.0 if outside else -ratio * advantage, rel=1e-5)


def test_ppo_gradient_is_the_policy_gradient_at_equal_parameters():
    log_prob = th.zeros(2, 3, requires_grad=True)
    advantage = th.randn(2, 3)
    ppo_clip_loss(log_prob, th.zeros(2, 3), advantage, 0.01).backward()
    th.testing.assert_close(log_prob.grad, -advantage / 6)


@pytest.mark.parametrize("kind", ["chi2", "kl"])
def test_penalised_q_against_a_loop(kind):
    """ALGORITHM 4.3, written out per chain."""
    th.manual_seed(0)
    q, log_ratio = th.randn(3, 2, 4), 0.3 * th.randn(2, 4)
    result = penalise_q(q, log_ratio, kind, coef=0.1, pessimism=5.0)
    spread = sum(
        math.sqrt(sum((q[m, b, g] - q[:, b, g].mean()).item() ** 2 for m in range(3)) / 3) for b in range(2) for g in range(4)
    )
    beta = 0.1 * spread / 8
    assert result.beta.item() == pytest.approx(beta, rel=1e-5)
    distances = []
    for b in range(2):
        for g in range(4):
            log_rho = log_ratio[b, g].item()
            rho = math.exp(log_rho)
            distance, penalty = (rho - 1, rho) if kind == "chi2" else (log_rho, log_rho)
            distances.append(distance)
            w = 1 / (1 + math.exp(-5 * distance))
            mixed = (1 - w) * q[:, b, g].mean().item() + w * q[:, b, g].min().item()
            assert result.q[b, g].item() == pytest.approx(mixed - beta * penalty, rel=1e-4, abs=1e-5)
    expected = 1 / (1 + math.exp(-5 * sum(distances) / 8))
    assert result.next_pessimism.item() == pytest.approx(expected, rel=1e-4)
    with pytest.raises(ValueError, match="kind"):
        penalise_q(q, log_ratio, "js", 0.1)


def test_penalty_at_the_slow_policy_is_half_pessimistic_and_indifferent():
    """At ratio one the mixture weight is a half and the penalty is the same for every chain of a group."""
    q = th.randn(3, 2, 4)
    result = penalise_q(q, th.zeros(2, 4), "chi2", coef=0.1)
    expected = 0.5 * (q.mean(0) + q.min(0).values)
    th.testing.assert_close(result.q - result.q.mean(1, keepdim=True), expected - expected.mean(1, keepdim=True))
