"""Rollouts by the ODE: what acts in the environment, what stays as it was, and what is saved of the choice."""

import numpy as np
import pytest
import torch as th
from ogpo_sb3 import DPPO, EXPO, OGPO, OGPOCA, QC, evaluate

from tests.contract.models import differences, parameters
from tests.test_ogpo_options import small
from tests.toys import Reach

FAMILIES = {
    "FlowPolicy": dict(denoising_steps=3),
    "DiffusionPolicy": dict(denoising_steps=3),
    "ShortcutPolicy": dict(denoising_steps=4),
    "MIPPolicy": {},
}


def by_ode(policy, networks):
    kwargs = dict(learning_starts=20, batch_size=16, actor_batch_size=8, group_size=4, chunk_size=2, seed=0, device="cpu")
    return OGPOCA(policy, Reach(), rollout_sampler="ode", policy_kwargs=dict(n_critics=2) | networks, **kwargs)


def proposed(model, obs, n=1, seed=7):
    """Rollout samples and the latents that the same seed draws."""
    th.manual_seed(seed)
    with th.no_grad():
        samples = model.policy.rollout_samples(obs, n)
    th.manual_seed(seed)
    return samples, th.randn(len(obs), n, samples.shape[-1])


@pytest.mark.parametrize(("policy", "networks"), FAMILIES.items())
def test_samples_are_the_deployed_policys(policy, networks):
    model, obs = by_ode(policy, networks), th.randn(5, 2)
    samples, latents = proposed(model, obs, 3)
    for i in range(3):
        with th.no_grad():
            th.testing.assert_close(samples[:, i], model.policy.decide(obs, latents[:, i : i + 1]))
    assert (samples[:, 0] != samples[:, 1]).any(dim=-1).all(), "drawn, from fresh latents"


def test_what_is_executed():
    """predict, as rollouts call it: one sample, before learning_starts even with candidates; then the best of several."""
    model = small(OGPOCA, rollout_sampler="ode", best_of_n=4, policy_kwargs=dict(subsample_bon=False))
    obs = np.random.default_rng(0).normal(size=(6, 2)).astype(np.float32)
    tensors = th.as_tensor(obs)
    for base_only, n in ((True, 1), (False, 4)):
        model.policy.base_only = base_only
        samples, _ = proposed(model, tensors, n)
        with th.no_grad():
            score = model.critic_target(tensors, samples).min(dim=0).values
        best = samples[th.arange(6), score.argmax(dim=1)]
        th.manual_seed(7)
        np.testing.assert_allclose(model.predict(obs)[0], model.policy.unscale_action(best.numpy()), rtol=1e-5, atol=1e-6)


def test_noise_is_left_to_imagination():
    """A chain without drift: the SDE's last steps spread its actions, the ODE's have the latents' own spread."""
    kwargs = dict(denoising_steps=3, noise_std=0.4, noise_schedule="constant", sde_correction="none")
    spread = {}
    for sampler in ("sde", "ode"):
        model = small(rollout_sampler=sampler, policy_kwargs=kwargs)
        for actor in (model.actor, model.actor_ema):
            th.nn.init.zeros_(list(actor.gcp.parameters())[-2])
            th.nn.init.zeros_(list(actor.gcp.parameters())[-1])
        samples, latents = proposed(model, th.randn(4000, 2))
        spread[sampler] = (samples[:, 0] - latents[:, 0].clamp(-1, 1)).abs().max().item()
    assert spread["ode"] < 1e-6 < 0.1 < spread["sde"]


def test_updates_are_the_same():
    """From the same experience: the choice is about rollouts alone."""
    models = [small(OGPOCA, learning_starts=10_000).learn(100) for _ in range(2)]
    models[1].rollout_sampler = "ode"
    for model in models:
        model.set_random_seed(3)
        model.train(gradient_steps=3, batch_size=16)
    assert models[1].policy.rollout_sampler == "ode" and models[0]._n_actor_updates > 0
    assert not differences(*map(parameters, models))


@pytest.mark.parametrize(("policy", "networks"), [*FAMILIES.items(), ("FASTPolicy", dict(width=16, layers=1))])
def test_every_family_learns_and_is_saved_with_it(policy, networks, tmp_path):
    model = by_ode(policy, networks)
    model.policy.fit_actions(np.random.default_rng(0).uniform(-1, 1, (200, 2)))  # what tokens are made of
    model.learn(40)
    assert model._n_actor_updates > 0
    model.save(tmp_path / "model")
    loaded = type(model).load(tmp_path / "model", env=Reach(), device="cpu")
    assert loaded.rollout_sampler == loaded.policy.rollout_sampler == "ode"
    plain = type(model).load(tmp_path / "model", env=Reach(), device="cpu", rollout_sampler="sde")
    assert plain.policy.rollout_sampler == "sde"
    found = [evaluate(m, Reach, n_episodes=3, n_envs=3, sampler="behaviour").returns for m in (model, loaded)]
    np.testing.assert_array_equal(*found)
    policy_alone = type(model.policy)(**model.policy._get_constructor_parameters())
    assert policy_alone.rollout_sampler == "ode"


def test_a_model_saved_before_there_was_the_choice(tmp_path):
    model = small()
    del model.__dict__["rollout_sampler"]
    model.save(tmp_path / "model")
    assert OGPO.load(tmp_path / "model", env=Reach(), device="cpu").policy.rollout_sampler == "sde"


def test_policies_that_act_otherwise_refuse_it():
    for algorithm, wanted in ((QC, None), (EXPO, TypeError), (DPPO, TypeError)):
        with pytest.raises(wanted or ValueError, match="rollout_sampler"):
            algorithm("FlowPolicy", Reach(), policy_kwargs=dict(rollout_sampler="ddim"))
