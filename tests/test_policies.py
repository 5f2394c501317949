"""Policies: observation spaces, normalisation, asymmetric observations, deterministic and behaviour actions."""

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from ogpo_sb3 import OGPO
from ogpo_sb3.common.features import ObservationNormalizer
from ogpo_sb3.common.policies import FlowPolicy
from stable_baselines3.common.torch_layers import CombinedExtractor, FlattenExtractor, NatureCNN

ACTION = spaces.Box(-1.0, 1.0, (4,), np.float32)
VECTOR = spaces.Box(-1.0, 1.0, (3,), np.float32)
IMAGE = spaces.Box(0, 255, (3, 36, 36), np.uint8)


def policy(space=VECTOR, **kwargs):
    th.manual_seed(0)
    return FlowPolicy(space, ACTION, lambda _: 1e-3, **{"net_arch": [16], "n_critics": 3, "denoising_steps": 3, **kwargs})


@pytest.mark.parametrize(
    ("space", "extractor"),
    [
        (VECTOR, FlattenExtractor),
        (spaces.Discrete(5), FlattenExtractor),
        (IMAGE, NatureCNN),
        (spaces.Dict(state=VECTOR, image=IMAGE), CombinedExtractor),
    ],
)
def test_one_alias_serves_every_observation(space, extractor):
    model = policy(space)
    assert isinstance(model.actor.features_extractor, extractor)
    action, _ = model.predict(space.sample(), deterministic=True)
    assert action.shape == (4,) and ACTION.contains(action)


def test_deterministic_is_one_ode_sample_from_the_stored_latent():
    model = policy()
    obs = np.stack([VECTOR.sample() for _ in range(5)])
    expected = model.actor_ema.sample(th.as_tensor(obs), model.actor_ema.latent.expand(5, -1)).detach().numpy()
    for _ in range(2):
        np.testing.assert_allclose(model.predict(obs, deterministic=True)[0], expected, rtol=1e-5)
    assert model.actor_ema.latent.abs().max() > 0, "a zero latent may lie between the modes"
    first, second = (model.predict(obs)[0] for _ in range(2))
    assert not np.allclose(first, second), "the behaviour policy explores"


def test_prediction_uses_the_ema_actor():
    model = policy()
    obs = VECTOR.sample()
    before = model.predict(obs, deterministic=True)[0]
    with th.no_grad():
        for parameter in model.actor.parameters():
            parameter += 1.0
    np.testing.assert_array_equal(model.predict(obs, deterministic=True)[0], before)


@pytest.mark.parametrize("slow", [False, True])
def test_a_policy_saved_alone_behaves_the_same(tmp_path, slow):
    model = policy(noise_std=0.2, best_of_n=4, slow_actor=slow, normalize_observations=True)
    model.fit_normalizer(np.random.default_rng(0).normal(3.0, 2.0, (50, 3)))
    model.save(tmp_path / "p.zip")
    loaded = FlowPolicy.load(tmp_path / "p.zip", device="cpu")
    obs = np.stack([VECTOR.sample() for _ in range(5)])
    np.testing.assert_array_equal(loaded.predict(obs, deterministic=True)[0], model.predict(obs, deterministic=True)[0])
    for m in (model, loaded):
        th.manual_seed(1)
        m.drawn = m.predict(obs)[0]
    np.testing.assert_array_equal(loaded.drawn, model.drawn)
    assert (loaded.actor_slow is not None) == slow


def test_an_actor_saved_alone_predicts_the_same(tmp_path):
    actor = policy().actor
    actor.save(tmp_path / "actor.pth")
    loaded = type(actor).load(tmp_path / "actor.pth", device="cpu")
    obs = VECTOR.sample()
    np.testing.assert_array_equal(loaded.predict(obs, deterministic=True)[0], actor.predict(obs, deterministic=True)[0])


def test_normaliser_standardises_and_keeps_order_far_out():
    space = spaces.Dict(a=VECTOR, image=IMAGE, n=spaces.Discrete(3))
    normalizer = ObservationNormalizer(space)
    data = np.random.default_rng(0).normal([1.0, -2.0, 5.0], [0.1, 3.0, 0.0], (1000, 3))
    normalizer.fit({"a": data, "image": None, "n": None})
    image, n = th.rand(2, 3, 36, 36), th.eye(3)[:2]
    out = normalizer({"a": th.as_tensor(data[:, :], dtype=th.float32), "image": image, "n": n})
    th.testing.assert_close(out["a"].mean(0), th.zeros(3), atol=1e-2, rtol=0)
    th.testing.assert_close(out["a"][:, :2].std(0), th.ones(2), atol=2e-2, rtol=0)
    assert out["image"] is image and out["n"] is n
    assert out["a"][:, 2].abs().max() < 1e-3, "a constant entry is centred, not blown up"
    single = ObservationNormalizer(VECTOR)
    far = th.linspace(-100, 100, 2001)[:, None].expand(-1, 3)
    mapped = single(far)[:, 0]
    assert (mapped.diff() > 0).all(), "monotone: distant values stay distinguishable"
    th.testing.assert_close(mapped[far[:, 0].abs() <= 5], far[far[:, 0].abs() <= 5][:, 0])
    assert mapped.max() < 10


def test_every_network_of_a_model_gets_the_statistics():
    model = policy(normalize_observations=True, slow_actor=True)
    model.fit_normalizer(np.full((10, 3), 4.0))
    for network in (*model.actor_copies(), model.critic, model.critic_target):
        assert network.normalizer.mean_0.tolist() == [4.0] * 3


class _Pair(gym.Env):
    """Dict observation of which the actor may see only "visible"."""

    observation_space = spaces.Dict(visible=VECTOR, privileged=VECTOR)
    action_space = spaces.Box(-1.0, 1.0, (2,), np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self.observation_space.sample(), {}

    def step(self, action):
        return self.observation_space.sample(), 0.0, False, False, {}


def test_asymmetric_observations():
    model = policy(_Pair.observation_space, actor_keys=["visible"], critic_keys=["visible", "privileged"])
    obs = _Pair.observation_space.sample()
    other = {**obs, "privileged": -obs["privileged"]}
    np.testing.assert_array_equal(model.predict(obs, deterministic=True)[0], model.predict(other, deterministic=True)[0])
    tensors = [{k: th.as_tensor(v)[None] for k, v in o.items()} for o in (obs, other)]
    actions = th.zeros(1, 4)
    assert not th.allclose(model.critic(tensors[0], actions), model.critic(tensors[1], actions))
    kwargs = dict(net_arch=[8], n_critics=2, denoising_steps=2, actor_keys=["visible"])
    OGPO("FlowPolicy", _Pair(), learning_starts=5, policy_kwargs=kwargs, batch_size=4, actor_batch_size=4).learn(12)


def test_bad_keys_and_arguments_are_named():
    with pytest.raises(ValueError, match="actor_keys"):
        policy(actor_keys=["x"])
    with pytest.raises(ValueError, match="nothing_here"):
        policy(_Pair.observation_space, critic_keys=["nothing_here"])
    with pytest.raises(TypeError, match="noise_sdt"):
        policy(noise_sdt=0.1)
