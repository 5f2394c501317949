"""Critic ensemble, aggregation, TD targets: against loops over heads and closed forms."""

import pytest
import torch as th
import torch.nn.functional as nnf
from ogpo_sb3.critics import CriticEnsemble, aggregate, next_value, td_loss, td_target


def test_batched_heads_equal_a_loop_over_heads():
    th.manual_seed(0)
    ensemble = CriticEnsemble(3, 4, n_critics=5, net_arch=(8, 7))
    for parameter in ensemble.parameters():
        parameter.data += 0.1 * th.randn_like(parameter)  # LayerNorm scales and biases away from their identity
    features, actions = th.randn(6, 3), th.randn(6, 4)
    q = ensemble(features, actions)
    assert q.shape == (5, 6)
    for m in range(5):
        x = th.cat([features, actions], dim=1)
        for linear, norm in ((ensemble.net[0], ensemble.net[1]), (ensemble.net[3], ensemble.net[4])):
            x = x @ linear.weight[m] + linear.bias[m, 0]
            x = nnf.gelu(nnf.layer_norm(x, x.shape[-1:], norm.weight[m, 0], norm.bias[m, 0]))
        out = x @ ensemble.net[6].weight[m] + ensemble.net[6].bias[m, 0]
        th.testing.assert_close(q[m], out[:, 0])


@pytest.mark.parametrize("n_inputs", [0, 2])
def test_layers_around_a_kernel(n_inputs):
    """What a GPU does between products, written out here for a CPU, lands where the layers one by one do."""
    th.manual_seed(0)
    states, group, heads = 6, 3, 4
    ensemble = CriticEnsemble(3, 2, heads, net_arch=(8, 7, 9), n_inputs=n_inputs)
    for parameter in ensemble.parameters():
        parameter.data += 0.1 * th.randn_like(parameter)
    features, actions = th.randn(states, 3), th.randn(states * group, 2)
    inputs = th.randn(heads, states * group, n_inputs) if n_inputs else None

    def kernel(x, bias, scale, shift):
        x = x.unflatten(1, (bias.shape[1], -1)) + bias[:, :, None]
        return nnf.gelu(nnf.layer_norm(x, x.shape[-1:]).flatten(1, 2) * scale + shift)

    with th.no_grad():
        wanted = ensemble._evaluate(features, actions, group, inputs)
        shared = ensemble.net[0].bias + features @ ensemble.net[0].weight[:, :3]
        th.testing.assert_close(ensemble._fused(kernel, shared, actions, inputs), wanted)


def test_heads_start_different_and_learn_apart():
    th.manual_seed(0)
    ensemble = CriticEnsemble(2, 2, n_critics=3, net_arch=(8,))
    q = ensemble(th.randn(5, 2), th.randn(5, 2))
    assert not th.allclose(q[0], q[1])
    q[1].sum().backward()
    for parameter in ensemble.parameters():
        assert parameter.grad[1].abs().sum() > 0
        assert parameter.grad[0].abs().sum() == 0 and parameter.grad[2].abs().sum() == 0


def test_aggregations():
    q = th.tensor([[1.0, 5.0], [3.0, 2.0], [2.0, 8.0]])
    th.testing.assert_close(aggregate(q, "mean"), th.tensor([2.0, 5.0]))
    th.testing.assert_close(aggregate(q, "min"), th.tensor([1.0, 2.0]))
    with pytest.raises(ValueError, match="q_agg"):
        aggregate(q, "median")
    with pytest.raises(ValueError, match="n_critics=1"):
        aggregate(q[:1], "subsample")


def test_subsample_is_the_minimum_of_two_different_heads_shared_by_the_group():
    th.manual_seed(0)
    n_states, group = 4000, 5
    # Head m has value m everywhere, so the value names the smaller head of the pair.
    q = th.arange(3.0)[:, None, None].expand(3, n_states, group)
    value = aggregate(q, "subsample")
    assert (value == value[:, :1]).all(), "the group shares its state's pair"
    frequency = th.stack([(value[:, 0] == m).float().mean() for m in range(3)])
    # Pairs (0,1), (0,2) and (1,2) are equally likely; drawn with replacement head 2 would appear alone.
    th.testing.assert_close(frequency, th.tensor([2 / 3, 1 / 3, 0.0]), atol=0.03, rtol=0)


@pytest.mark.parametrize(("done", "k"), [(0.0, 4), (0.0, 2), (1.0, 2)])
def test_td_target(done, k):
    gamma = 0.9
    target = td_target(th.tensor([3.0]), th.tensor([gamma**k]), th.tensor([done]), th.tensor([10.0]))
    assert target.item() == pytest.approx(3.0 + (1 - done) * gamma**k * 10.0)


def test_next_value_averages_actions_per_head_first():
    q = th.tensor([[[1.0, 3.0]], [[5.0, -5.0]]])  # two heads, one state, two actions
    assert next_value(q, "min").item() == 0.0  # min(2, 0); the minimum first would give -2
    assert next_value(q, "mean").item() == 1.0
    assert next_value(q, "mean", pessimism_weight=0.25).item() == pytest.approx(0.75 * 1.0 + 0.25 * 0.0)


def test_td_loss_weights_and_stop_gradient():
    q = th.tensor([[1.0, 2.0], [3.0, 4.0]], requires_grad=True)
    target = th.tensor([0.0, 1.0], requires_grad=True)
    expected = ((1 + 9) / 2 + (1 + 9) / 2) / 2
    loss = td_loss(q, target)
    assert loss.item() == pytest.approx(expected)
    loss.backward()
    assert target.grad is None
    assert td_loss(q, target, th.tensor([1.0, 0.0])).item() == pytest.approx(5.0)
    assert td_loss(q, target, th.zeros(2)).item() == 0.0
