"""Chains of a group that share their initial latent: what they share, what is compared, what it does to the gradient."""

import pytest
import torch as th
from ogpo_sb3 import OGPO, OGPOCA, OGPOChi2
from ogpo_sb3.extraction import agreement, group_advantage
from ogpo_sb3.gcp import DiffusionGCP, FlowGCP, owners
from torch import nn

from tests.contract.models import differences, parameters
from tests.test_ogpo_options import small
from tests.toys import Reach


@pytest.mark.parametrize("begin", [0, 2])
@pytest.mark.parametrize("family", [FlowGCP, DiffusionGCP])
def test_chains_of_a_latent_part_where_the_ratio_begins(family, begin):
    th.manual_seed(0)
    gcp, features = family(3, 4, net_arch=(16,), denoising_steps=5), th.randn(6, 3)
    chain = gcp.sample_scored(features, 8, begin, latents=2)
    states = chain.states.view(6, 6, 2, 4, 4)  # step, state, latent, chain, number
    shared, apart = states[: begin + 1], states[begin + 1 :]
    assert (shared == shared[:, :, :, :1]).all(), "what does not count is drawn once"
    assert (apart[:, :, :, 0] != apart[:, :, :, 1]).all(), "what counts is each chain's own"
    assert (shared[:, :, 0] != shared[:, :, 1]).all() and (shared[:, 0] != shared[:, 1]).all()
    found = gcp.log_prob_of(gcp.condition(features), chain.states, owners(6, 8, features.device), begin)
    th.testing.assert_close(found, chain.log_prob, atol=1e-5, rtol=1e-5)


def test_each_chain_has_the_law_that_it_has_alone():
    """Mean and covariance of a chain's states over many groups, one chain of each, against independent chains."""
    th.manual_seed(0)
    gcp, features = FlowGCP(2, 2, net_arch=(16,), denoising_steps=3, noise_std=0.3), th.randn(1, 2).expand(40_000, 2)
    with th.no_grad():
        alone = gcp.sample_chain(features).states
        shared = gcp.sample_scored(features, 2, latents=1).states[:, 1::2]
    for found, wanted in zip(shared, alone, strict=True):
        th.testing.assert_close(found.mean(0), wanted.mean(0), atol=0.03, rtol=0)
        th.testing.assert_close(found.T.cov(), wanted.T.cov(), atol=0.05, rtol=0)


@pytest.mark.parametrize("cls", [OGPO, OGPOCA])
def test_only_chains_of_a_latent_are_compared(cls):
    model = small(cls, group_size=8, group_latents=2)
    q = th.randn(3, 5, 8)
    found, _ = model._advantage(q, None, None)
    for half in (slice(0, 4), slice(4, 8)):
        th.testing.assert_close(found[:, half], group_advantage(q[:, :, half], model.advantage))
    constant_per_latent = th.randn(1, 5, 2).repeat_interleave(4, dim=-1).expand(3, 5, 8)
    assert model._advantage(constant_per_latent, None, None)[0].abs().max() < 1e-6, "a latent cannot be preferred"
    assert agreement(model._compared(q)) == pytest.approx(0.5 * float(agreement(q[..., :4]) + agreement(q[..., 4:])), abs=1e-6)


class LinearValue(nn.Module):
    """Q(s, a) = the sum of a, as one head."""

    def forward(self, observations, actions):
        return actions.sum(dim=-1)[None]


def test_the_gradient_is_the_same_and_varies_less():
    """
    Over many draws at one batch, with a value that most of all depends on the latent. A group's mean contains the chain
    itself, which scales the expected gradient by 1 - 1/n for n chains compared: by 7/8 and 3/4.
    """
    model = small(group_size=8, policy_kwargs=dict(noise_std=0.05, n_critics=1), learning_starts=10_000).learn(30)
    model.critic_target = LinearValue()
    batch = model._sample(8)

    def gradients(latents, draws=400):
        model.group_latents = latents
        th.manual_seed(1)
        found = []
        for _ in range(draws):
            model.actor.zero_grad(set_to_none=True)
            model._objective.backward(model._imagine(batch, th.tensor(10.0))[0])
            found.append(th.cat([p.grad.flatten() for p in model.actor.parameters() if p.grad is not None]))
        return th.stack(found)

    own, shared = gradients(None) / (7 / 8), gradients(2) / (3 / 4)
    error = ((own.var(0) + shared.var(0)).sum() / len(own)).sqrt()
    assert shared.var(0).sum() < 0.2 * own.var(0).sum()
    assert shared.mean(0).norm() > 10 * (shared.var(0).sum() / len(shared)).sqrt(), "there is a gradient to be compared"
    assert (own.mean(0) - shared.mean(0)).norm() < 1.5 * error


def test_it_learns_and_is_saved(tmp_path):
    model = small(OGPOChi2, group_size=8, group_latents=4, ratio_steps=2).learn(60)
    assert model._n_actor_updates > 20
    model.save(tmp_path / "model")
    loaded = OGPOChi2.load(tmp_path / "model", env=Reach(), device="cpu")
    assert loaded.group_latents == 4 and not differences(parameters(model), parameters(loaded))
