"""What predictions promise, and what a seed decides (P1-P6, S1-S2)."""

import copy

import numpy as np
import pytest
import torch as th
from stable_baselines3.common.noise import NormalActionNoise, OrnsteinUhlenbeckActionNoise
from stable_baselines3.common.torch_layers import FlattenExtractor

from ogpo_sb3 import OGPO, evaluate
from ogpo_sb3.common.features import GCPActor
from ogpo_sb3.common.policies import FlowPolicy
from tests.contract.models import (
    ACTION_SPACES,
    ALGORITHMS,
    CHUNK_SIZES,
    COUNTERS,
    OBSERVATION_SPACES,
    PAIRS,
    FromSpaces,
    Line,
    bare,
    build,
    differences,
    policy_state,
    state,
    tiny,
)


def observations(model, n, seed=0):
    """A batch of n observations as the user's environment gives them (images channel last)."""
    space = bare(model)[0].observation_space
    space.seed(seed)
    drawn = [space.sample() for _ in range(n)]
    return {key: np.stack([obs[key] for obs in drawn]) for key in drawn[0]} if isinstance(drawn[0], dict) else np.stack(drawn)


def entry(batch, i):
    return {key: value[i] for key, value in batch.items()} if isinstance(batch, dict) else batch[i]


def saturate(model, sign):
    """Make a policy that wants to go beyond one of its bounds, whatever it sees."""
    with th.no_grad():
        for actor in model.policy.actor_copies():
            *_, last = (module for module in actor.gcp.velocity_net.modules() if isinstance(module, th.nn.Linear))
            last.bias.fill_(sign * 100.0)


class TestPredict:
    @pytest.mark.parametrize("chunk_size", CHUNK_SIZES)
    @pytest.mark.parametrize("name", OBSERVATION_SPACES)
    def test_single_and_batched(self, name, chunk_size):
        """P1, P2."""
        model = OGPO("FlowPolicy", FromSpaces(OBSERVATION_SPACES[name]), **tiny(chunk_size=chunk_size))
        batch = observations(model, 5)
        actions, hidden = model.predict(batch, deterministic=True)
        assert isinstance(actions, np.ndarray) and actions.shape == (5, 2 * chunk_size) and hidden is None
        for i in range(5):
            action, _ = model.predict(entry(batch, i), deterministic=True)
            assert action.shape == (2 * chunk_size,) and model.action_space.contains(action)
            np.testing.assert_allclose(action, actions[i], rtol=1e-4, atol=1e-6)

    @pytest.mark.parametrize("chunk_size", CHUNK_SIZES)
    @pytest.mark.parametrize("name", ACTION_SPACES)
    def test_lies_in_the_action_space(self, name, chunk_size):
        """P1: also where the sampler is clamped at a bound, whose rescaling must not round to the outside."""
        env = FromSpaces(OBSERVATION_SPACES["vector"], ACTION_SPACES[name])
        model = OGPO("FlowPolicy", env, **tiny(chunk_size=chunk_size))
        batch = observations(model, 5)
        for sign, bound in ((1, model.action_space.high), (-1, model.action_space.low)):
            saturate(model, sign)
            for predictor, deterministic in ((model, True), (model, False), (model.actor_ema, True)):
                actions, _ = predictor.predict(batch, deterministic=deterministic)
                np.testing.assert_allclose(actions, np.broadcast_to(bound, actions.shape), rtol=1e-5)
                assert all(model.action_space.contains(action) for action in actions)

    @pytest.mark.parametrize("algorithm", ALGORITHMS)
    def test_deterministic_repeats(self, algorithm):
        """P2: bit for bit, whatever was drawn in between, and not on zeros."""
        model = build(algorithm)
        batch = observations(model, 6)
        first, _ = model.predict(batch, deterministic=True)
        drawn = [model.predict(batch)[0] for _ in range(2)]
        th.manual_seed(123)
        again, _ = model.predict(batch, deterministic=True)
        assert first.tobytes() == again.tobytes()
        assert not np.array_equal(*drawn)
        latent = model.actor_ema.latent
        assert latent.abs().sum() > 0
        with th.no_grad():
            ode = model.actor_ema.sample(model.policy.obs_to_tensor(batch)[0], latent.expand(6, -1)).numpy()
        np.testing.assert_array_equal(model.policy.unscale_action(ode), first)

    def test_deterministic_uses_the_ema_weights(self):
        """P2."""
        model = build()
        obs = np.ones(3, np.float32)
        before, _ = model.predict(obs, deterministic=True)
        with th.no_grad():
            for parameter in model.actor.parameters():
                parameter.add_(1.0)
        assert np.array_equal(model.predict(obs, deterministic=True)[0], before)
        with th.no_grad():
            for parameter in model.actor_ema.parameters():
                parameter.add_(1.0)
        assert not np.array_equal(model.predict(obs, deterministic=True)[0], before)

    @pytest.mark.parametrize("algorithm", ALGORITHMS)
    def test_changes_nothing(self, algorithm):
        """P3."""

        class WithDropout(FlattenExtractor):
            def __init__(self, observation_space):
                super().__init__(observation_space)
                self.dropout = th.nn.Dropout(0.5)

            def forward(self, observations):
                return self.dropout(super().forward(observations))

        model = build(algorithm, policy_kwargs=dict(features_extractor_class=WithDropout))
        model.policy.set_training_mode(True)
        batch = observations(model, 4)
        given, before = batch.copy(), policy_state(model)
        first, _ = model.predict(batch, deterministic=True)
        assert np.array_equal(model.predict(batch, deterministic=True)[0], first), "dropout was on"
        model.predict(batch)
        assert not model.policy.training and not model.actor.training and not model.critic.training
        assert np.array_equal(batch, given)
        assert not differences(before, policy_state(model))
        assert all(parameter.grad is None for parameter in model.policy.parameters())

    def test_tuple_is_refused(self):
        """P4."""
        model = build()
        with pytest.raises(ValueError, match="tuple"):
            model.predict(Line().reset(seed=0))

    @pytest.mark.parametrize("algorithm", ALGORITHMS)
    @pytest.mark.parametrize("deterministic", [True, False])
    def test_policy_predicts_as_the_model_does(self, algorithm, deterministic):
        """P5: best of N included."""
        model = build(algorithm, best_of_n=3)
        batch = observations(model, 4)
        found = []
        for predictor in (model, model.policy):
            th.manual_seed(5)
            found.append(predictor.predict(batch, deterministic=deterministic)[0])
        assert np.array_equal(*found)

    @pytest.mark.parametrize("algorithm", ALGORITHMS)
    @pytest.mark.parametrize("deterministic", [True, False])
    def test_policy_loaded_alone(self, algorithm, deterministic, tmp_path):
        """P5, L6."""
        kwargs = dict(net_arch=[8], critic_net_arch=[6], activation_fn=th.nn.ReLU, noise_std=0.2, normalize_observations=True)
        model = build(algorithm, best_of_n=3, policy_kwargs=kwargs | dict(optimizer_class=th.optim.Adam)).learn(15)
        model.policy.save(tmp_path / "policy.zip")
        loaded = FlowPolicy.load(tmp_path / "policy.zip", device="cpu")
        batch = observations(model, 4)
        found = []
        for policy in (model.policy, loaded):
            th.manual_seed(5)
            found.append(policy.predict(batch, deterministic=deterministic)[0])
        assert np.array_equal(*found)
        assert not differences(model.policy.state_dict(), loaded.state_dict())
        assert loaded.best_of_n == 3 and loaded.optimizer_class is th.optim.Adam
        rebuilt, wanted = loaded._get_constructor_parameters(), model.policy._get_constructor_parameters()
        assert rebuilt.keys() == wanted.keys()
        assert rebuilt.pop("lr_schedule")(1.0) == wanted.pop("lr_schedule")(1.0) == 0.0
        assert not differences(rebuilt, wanted)

    @pytest.mark.parametrize("name", ["vector", "dict"])
    def test_actor_loaded_alone(self, name, tmp_path):
        """P6."""
        kwargs = dict(normalize_observations=True) | (dict(actor_keys=["vector"]) if name == "dict" else {})
        model = OGPO("FlowPolicy", FromSpaces(OBSERVATION_SPACES[name]), **tiny(policy_kwargs=kwargs)).learn(12)
        model.actor_ema.save(tmp_path / "actor.pth")
        loaded = GCPActor.load(tmp_path / "actor.pth", device="cpu")
        batch = observations(model, 4)
        assert np.array_equal(loaded.predict(batch, deterministic=True)[0], model.predict(batch, deterministic=True)[0])

    @pytest.mark.parametrize("chunk_size", CHUNK_SIZES)
    @pytest.mark.parametrize("sampler", ["ode", "behaviour"])
    def test_evaluation_is_seeded_and_leaves_training_alone(self, sampler, chunk_size):
        """P2: fresh latents that the seeds decide; neither generators nor parameters are touched."""
        model = build(chunk_size=chunk_size, best_of_n=2)
        before, generators = policy_state(model), (th.get_rng_state(), copy.deepcopy(np.random.get_state()))
        results = [evaluate(model, Line, n_episodes=4, n_envs=n, sampler=sampler) for n in (2, 2)]
        assert not differences(results[0], results[1])
        assert not differences((th.get_rng_state(), np.random.get_state()), generators)
        assert not differences(before, policy_state(model))
        other = evaluate(model, Line, seeds=[1, 2, 3, 4], n_envs=2, sampler=sampler)
        assert differences(other.returns, results[0].returns)
        assert (results[0].lengths <= 7).all() and results[0].lengths.max() > 2  # environment steps, not decisions


class TestSeeds:
    @pytest.mark.parametrize("n_envs", [1, 2])
    @pytest.mark.parametrize("algorithm, chunk_size", PAIRS)
    def test_equal_seeds_equal_runs(self, algorithm, n_envs, chunk_size):
        """S1: parameters, optimisers, rollouts, counters; with action noise."""

        def run(seed):
            noise = OrnsteinUhlenbeckActionNoise(np.zeros(2 * chunk_size), 0.2 * np.ones(2 * chunk_size))
            model = build(algorithm, chunk_size=chunk_size, n_envs=n_envs, seed=seed, action_noise=noise)
            return state(model.learn(24))

        first = run(3)
        assert not differences(first, run(3))
        other = run(4)
        assert differences(first["parameters"]["policy"], other["parameters"]["policy"])
        assert differences(first["buffer"]["actions"], other["buffer"]["actions"])

    def test_every_network_depends_on_the_seed(self):
        """S1."""
        first, second = (policy_state(build(seed=seed)) for seed in (1, 2))
        changed = differences(first, second)
        for network in ("actor", "actor_ema", "critic", "critic_target"):
            assert any(path.startswith(f".{network}.") for path in changed), network

    @pytest.mark.parametrize("algorithm", ALGORITHMS)
    def test_set_random_seed_decides_every_draw(self, algorithm):
        """S2: buffer samples, stochastic predictions, action-space samples, updates."""
        model = build(algorithm, action_noise=NormalActionNoise(np.zeros(2), np.ones(2))).learn(20)
        model.set_env(build(algorithm).env)
        twin = copy.deepcopy(model.policy.state_dict())
        optimisers = [copy.deepcopy(net.optimizer.state_dict()) for net in (model.actor, model.critic)]
        counters = {name: copy.deepcopy(getattr(model, name)) for name in (*COUNTERS, "_next_pessimism")}
        batch = observations(model, 3)

        def draw(seed):
            model.policy.load_state_dict(twin)
            for net, saved in zip((model.actor, model.critic), optimisers, strict=True):
                net.optimizer.load_state_dict(copy.deepcopy(saved))
            model.__dict__.update(copy.deepcopy(counters))
            model.set_random_seed(seed)
            found = [model.replay_buffer.sample(5)._asdict(), model.predict(batch)[0], model.action_space.sample()]
            model.train(gradient_steps=2, batch_size=8)
            return [*found, policy_state(model), model.env.reset()]

        first = draw(7)
        assert not differences(first, draw(7))
        other = draw(8)
        assert all(differences(a, b) for a, b in zip(first, other, strict=True))
