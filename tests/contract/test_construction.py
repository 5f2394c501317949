"""What can be constructed, and what is refused with which words (C1-C10)."""

import inspect
import re

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.noise import NormalActionNoise
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.vec_env import VecFrameStack
from stable_baselines3.her import HerReplayBuffer

from ogpo_sb3 import DPPO, OGPO, OGPOCA, OGPOChi2, OGPOPlus
from ogpo_sb3.common.buffers import ChunkReplayBuffer
from ogpo_sb3.common.policies import FlowPolicy
from tests.contract.models import (
    ACTION_SPACES,
    ALGORITHMS,
    CHUNK_SIZES,
    LINE_ID,
    OBSERVATION_SPACES,
    PICTURE,
    FromSpaces,
    Line,
    build,
    differences,
    policy_state,
    single,
    tiny,
    vec,
)

DEVICES = ["cpu", "auto", th.device("cpu"), *(["cuda", th.device("cuda")] if th.cuda.is_available() else [])]


class TestClass:
    @pytest.mark.parametrize("algorithm", ALGORITHMS)
    def test_is_an_off_policy_algorithm_with_aliases(self, algorithm):
        """C1."""
        assert issubclass(algorithm, OffPolicyAlgorithm)
        assert algorithm.policy_aliases["FlowPolicy"] is FlowPolicy
        assert all(issubclass(policy, BasePolicy) for policy in algorithm.policy_aliases.values())
        with pytest.raises(ValueError, match="MlpPolicy"):  # C6: nothing that would take a Dict for a vector
            algorithm("MlpPolicy", Line(as_dict=True), **tiny())

    @pytest.mark.parametrize("algorithm", ALGORITHMS)
    def test_a_policy_class_serves_as_its_alias_does(self, algorithm):
        """C1."""
        by_alias, by_class = algorithm("FlowPolicy", Line(), **tiny()), algorithm(FlowPolicy, Line(), **tiny())
        assert not differences(policy_state(by_alias), policy_state(by_class))

    @pytest.mark.parametrize("algorithm", ALGORITHMS)
    def test_arguments_bear_the_names_of_stable_baselines3(self, algorithm):
        """C2, C9."""
        values = dict(
            learning_rate=1e-3,
            buffer_size=77,
            learning_starts=5,
            batch_size=3,
            tau=0.01,
            gamma=0.9,
            train_freq=2,
            gradient_steps=3,
            replay_buffer_kwargs=dict(handle_timeout_termination=False),
            stats_window_size=7,
            tensorboard_log="folder",
            verbose=0,
            seed=3,
        )
        noise = NormalActionNoise(np.zeros(2), np.ones(2))
        model = algorithm("FlowPolicy", Line(), **tiny(**values, action_noise=noise, replay_buffer_class=ChunkReplayBuffer))
        for name in values.keys() - {"train_freq", "replay_buffer_kwargs", "stats_window_size"}:
            assert getattr(model, name) == values[name], name
        assert model.train_freq.frequency == 2 and model.action_noise is noise and model._stats_window_size == 7
        assert not model.replay_buffer.handle_timeout_termination
        with pytest.raises(TypeError, match="use_sde"):
            algorithm("FlowPolicy", Line(), **tiny(use_sde=True))

    @pytest.mark.parametrize("algorithm", ALGORITHMS)
    def test_overridden_methods_keep_their_parameters(self, algorithm):
        """C2."""
        for name in ("learn", "train", "predict", "set_env", "collect_rollouts", "save", "load", "load_replay_buffer"):
            theirs = list(inspect.signature(getattr(OffPolicyAlgorithm, name)).parameters)
            assert list(inspect.signature(getattr(algorithm, name)).parameters) == theirs, name
        assert list(inspect.signature(OGPO).parameters)[:2] == ["policy", "env"]

    def test_an_id_gets_a_monitor(self):
        """C2."""
        for chunk_size in CHUNK_SIZES:
            model = OGPO("FlowPolicy", LINE_ID, **tiny(chunk_size=chunk_size))
            assert model.env.env_is_wrapped(Monitor) == [True]
            assert model.chunk_size == chunk_size

    @pytest.mark.parametrize("algorithm", ALGORITHMS)
    def test_can_be_made_without_environment_and_models(self, algorithm):
        """C3."""
        model = algorithm(policy="FlowPolicy", env=None, device="cpu", _init_setup_model=False)
        assert model.env is None and not hasattr(model, "policy")

    @pytest.mark.parametrize("algorithm", ALGORITHMS)
    def test_variants_differ_by_defaults_only(self, algorithm):
        """C3: every argument of the plain algorithm is one of a variant, and sets the same attribute."""
        wanted = dict(best_of_n=1, success_bc=False, advantage="mean", chi2_coef=0.0)
        model = algorithm("FlowPolicy", Line(), **tiny(**wanted))
        assert {name: getattr(model, name) for name in wanted} == wanted
        assert not differences(policy_state(model), policy_state(build()))
        defaults = algorithm("FlowPolicy", Line(), **tiny())
        found = (defaults.best_of_n, defaults.success_bc, defaults.advantage, defaults.chi2_coef)
        plus = (8, True)
        assert found == {
            OGPO: (1, False, "mean", 0.0),
            OGPOPlus: (*plus, "mean", 0.0),
            OGPOCA: (*plus, "conservative", 0.0),
            OGPOChi2: (*plus, "mean", 0.1),
        }.get(algorithm, found)

    def test_set_up_with_the_smallest_buffer(self):
        """C4."""
        model = build(buffer_size=1.0, learning_starts=2).learn(6)
        assert model.buffer_size == 1 and model.replay_buffer.size() == 1 and model._n_updates > 0

    def test_global_torch_settings_stay(self):
        """C10."""

        def settings():
            flags = th.get_default_dtype(), th.get_num_threads(), th.is_grad_enabled(), th.is_inference_mode_enabled()
            return *flags, th.are_deterministic_algorithms_enabled(), th.backends.cudnn.deterministic, th.is_anomaly_enabled()

        before = settings()
        model = build().learn(20)
        model.predict(model.env.reset())
        assert settings() == before

    def test_given_dictionaries_are_not_changed(self):
        """C8, 2.5."""
        kwargs = tiny(replay_buffer_kwargs=dict(chunk_end="drop"), chunk_size=4)
        kwargs["policy_kwargs"].update(features_extractor_kwargs={}, optimizer_kwargs=dict(eps=1e-6))
        before = {name: {**value} for name, value in kwargs.items() if isinstance(value, dict)}
        model = OGPO("FlowPolicy", Line(), **kwargs).learn(16)
        assert model.replay_buffer.chunk_end == "drop" and model.replay_buffer.chunk_size == 4
        assert {name: value for name, value in kwargs.items() if isinstance(value, dict)} == before


class TestSpaces:
    @pytest.mark.parametrize("chunk_size", CHUNK_SIZES)
    @pytest.mark.parametrize(
        "space",
        [spaces.Discrete(3), spaces.MultiDiscrete([2, 2]), spaces.MultiBinary(2), spaces.Box(-np.inf, np.inf, (2,))],
        ids=lambda space: type(space).__name__,
    )
    def test_other_actions_are_refused(self, space, chunk_size):
        """C5."""
        with pytest.raises(AssertionError):
            OGPO("FlowPolicy", FromSpaces(OBSERVATION_SPACES["vector"], space), **tiny(chunk_size=chunk_size))

    @pytest.mark.parametrize("chunk_size", CHUNK_SIZES)
    @pytest.mark.parametrize("name", ACTION_SPACES)
    def test_actions(self, name, chunk_size):
        """C6: the environment insists on actions of its own space and dtype."""
        space = ACTION_SPACES[name]
        model = OGPO("FlowPolicy", FromSpaces(OBSERVATION_SPACES["vector"], space), **tiny(chunk_size=chunk_size))
        model.learn(18)
        assert model._n_updates > 0
        action, _ = model.predict(model.observation_space.sample(), deterministic=True)
        assert action.dtype == space.dtype and model.action_space.contains(action)
        flat = (int(np.prod(space.shape)) * chunk_size,)
        assert action.shape == (space.shape if chunk_size == 1 else flat)

    @pytest.mark.parametrize("chunk_size", CHUNK_SIZES)
    @pytest.mark.parametrize("name", OBSERVATION_SPACES)
    def test_observations(self, name, chunk_size):
        """C6."""
        env = FromSpaces(OBSERVATION_SPACES[name])
        model = OGPO("FlowPolicy", env, **tiny(chunk_size=chunk_size, learning_starts=5))
        before = policy_state(model)
        model.learn(10)
        assert model._n_updates > 0 and differences(before, policy_state(model))
        assert all(th.isfinite(value).all() for value in policy_state(model).values())

    def test_nested_dict_is_refused(self):
        """C6."""
        space = spaces.Dict({"inner": spaces.Dict({"x": OBSERVATION_SPACES["vector"]})})
        with pytest.raises(NotImplementedError, match=r"[Nn]ested"):
            OGPO("FlowPolicy", FromSpaces(space), **tiny())

    @pytest.mark.parametrize("device", DEVICES, ids=str)
    def test_device(self, device):
        """C7."""
        model = build(device=device).learn(15)
        wanted = "cuda" if "cuda" in str(device) or (device == "auto" and th.cuda.is_available()) else "cpu"
        assert model.device.type == model.replay_buffer.device.type == wanted
        batch = model.replay_buffer.sample(4)
        tensors = [*model.policy.state_dict().values(), *(field for field in batch if field is not None)]
        assert {tensor.device.type for tensor in tensors} == {wanted}


class Extractor(BaseFeaturesExtractor):
    """Counts its calls."""

    def __init__(self, observation_space, width=5):
        super().__init__(observation_space, width)
        self.layer, self.calls = th.nn.Linear(observation_space.shape[0], width), 0

    def forward(self, observations):
        self.calls += 1
        return self.layer(observations)


class TestPolicyKwargs:
    @pytest.mark.parametrize("net_arch", [[], [4], [4, 5], dict(pi=[4], qf=[5, 6]), dict(pi=[], qf=[])], ids=str)
    def test_net_arch(self, net_arch):
        """C8: the widths are those of the layers."""
        model = build(policy_kwargs=dict(net_arch=net_arch)).learn(12)
        actor, critic = (net_arch["pi"], net_arch["qf"]) if isinstance(net_arch, dict) else (net_arch, net_arch)
        shapes = [tuple(p.shape) for p in model.actor.gcp.parameters()]
        assert all(any(width in shape for shape in shapes) for width in actor)
        shapes = [tuple(p.shape) for p in model.critic.ensemble.parameters()]
        assert all(any(width in shape for shape in shapes) for width in critic)
        assert model._n_updates > 0

    def test_activation(self):
        """C8."""
        values = []
        for activation in (th.nn.ReLU, th.nn.Tanh):
            model = build(policy_kwargs=dict(activation_fn=activation))
            kinds = {type(module) for module in model.policy.modules()}
            assert activation in kinds
            values.append(model.predict(np.ones(3, np.float32), deterministic=True)[0])
        assert not np.array_equal(*values)

    @pytest.mark.parametrize("optimizer", [th.optim.Adam, th.optim.SGD, th.optim.RMSprop])
    def test_optimizer(self, optimizer):
        """C8."""
        kwargs = dict(weight_decay=0.125)
        model = build(policy_kwargs=dict(optimizer_class=optimizer, optimizer_kwargs=kwargs)).learn(12)
        for found in (model.actor.optimizer, model.critic.optimizer):
            assert type(found) is optimizer and found.param_groups[0]["weight_decay"] == 0.125

    def test_features_extractor_is_used(self):
        """C8: by every network, with its arguments, and it is trained."""
        model = build(policy_kwargs=dict(features_extractor_class=Extractor, features_extractor_kwargs=dict(width=6)))
        networks = (model.actor, model.actor_ema, model.critic, model.critic_target)
        before = policy_state(model)
        model.learn(12)
        for network in networks:
            assert network.features_extractor.calls > 0 and network.features_extractor.features_dim == 6
        changed = differences(before, policy_state(model))
        for network in ("actor", "actor_ema", "critic", "critic_target"):
            assert f".{network}.features_extractor.layer.weight" in changed, network

    @pytest.mark.parametrize("name", ["image", "dict"])
    def test_normalize_images(self, name):
        """C8: 255 in an image reaches the extractor as 255 or as 1."""
        for normalize in (True, False):
            model = OGPO(
                "FlowPolicy", FromSpaces(OBSERVATION_SPACES[name]), **tiny(policy_kwargs=dict(normalize_images=normalize))
            )
            seen = []
            extractor = model.actor_ema.features_extractor
            extractor.register_forward_pre_hook(lambda module, args, seen=seen: seen.append(args[0]))
            image = np.full(PICTURE.shape, 255, np.uint8)
            obs = image if name == "image" else {"vector": np.zeros(3, np.float32), "image": image, "discrete": np.array(1)}
            model.predict(obs)
            pixels = seen[0] if name == "image" else seen[0]["image"]
            assert pixels.max() == (1.0 if normalize else 255.0)

    @pytest.mark.parametrize("algorithm", ALGORITHMS)
    def test_unknown_keys(self, algorithm):
        """C8."""
        with pytest.raises(TypeError, match="no_such_argument"):
            algorithm("FlowPolicy", Line(), **tiny(policy_kwargs=dict(no_such_argument=1)))

    @pytest.mark.parametrize("n_critics", [1, 3])
    def test_n_critics(self, n_critics):
        """C8."""
        model = build(policy_kwargs=dict(n_critics=n_critics)).learn(12)
        obs = th.zeros(2, 3)
        assert model.critic(obs, th.zeros(2, 2)).shape == (n_critics, 2)
        assert model._n_updates > 0

    def test_keys_of_a_dict_observation(self):
        """C8: actor and critic see what they were given; names that do not exist are refused."""
        env = FromSpaces(OBSERVATION_SPACES["dict"])
        kwargs = dict(actor_keys=["vector"], critic_keys=["vector", "discrete"])
        model = OGPO("FlowPolicy", env, **tiny(policy_kwargs=kwargs)).learn(12)
        assert model.actor.features_extractor.features_dim == 3 and model.critic.features_extractor.features_dim == 6
        with pytest.raises(ValueError, match=r"\['speed'\].*\['discrete', 'image', 'vector'\]"):
            OGPO("FlowPolicy", env, **tiny(policy_kwargs=dict(actor_keys=["speed"])))
        with pytest.raises(ValueError, match="Dict observation"):
            build(policy_kwargs=dict(actor_keys=["speed"]))


class TestRefusals:
    """Contradictory options are refused in one sentence that names what was found and what is wanted."""

    @pytest.mark.parametrize(
        "kwargs, message",
        [
            (dict(advantage="best"), r"advantage must be one of .*'conservative'.*found 'best'"),
            (dict(q_agg="max"), r"q_agg must be one of .*'subsample'.*found 'max'"),
            (dict(extraction="sac"), r"extraction must be one of .*'ppo'.*, found 'sac'"),
            (dict(group_size=0), "group_size must be at least 1, found 0"),
            (dict(group_size=1), "group_size=1 .*wanted at least 2"),
            (dict(actor_batch_size=0), "actor_batch_size must be at least 1, found 0"),
            (dict(best_of_n=0), "best_of_n must be at least 1, found 0"),
            (dict(q_variance_samples=0), "q_variance_samples must be at least 1, found 0"),
            (dict(bc_coef=-1.0), "bc_coef must be at least 0, found -1.0"),
            (dict(mc_coef=-1.0), "mc_coef must be at least 0, found -1.0"),
            (dict(bc_coef=float("nan")), "bc_coef must be at least 0, found nan"),
            (dict(pessimism=float("nan")), "pessimism must be at least 0, found nan"),
            (dict(chi2_coef=float("inf")), "chi2_coef must be at least 0 and finite, found inf"),
            (dict(max_grad_norm=float("nan")), "max_grad_norm must be positive, found nan"),
            (dict(chi2_coef=0.1, kl_coef=0.2), "chi2_coef=0.1 and kl_coef=0.2 exclude each other"),
            (dict(kl_coef=0.2, advantage="conservative"), "advantage='conservative'.*kl_coef.*choose one"),
            (dict(chi2_coef=0.2, advantage="penultimate"), "advantage='penultimate'.*chi2_coef.*choose one"),
            (dict(advantage="penultimate"), "needs n_critics >= 3, found 2"),
            (dict(q_agg="subsample", policy_kwargs=dict(n_critics=1)), "needs n_critics >= 2, found 1"),
            (dict(utd_critic=1.0, gradient_steps=1), "utd_critic=1.0 and gradient_steps=1.*give one"),
            (dict(precision="half"), "precision must be one of .*, found 'half'"),
            (dict(precision="tf32", device="cpu"), "precision='tf32' needs device 'cuda', found 'cpu'"),
            (dict(tau=1.5), r"tau must lie in \[0, 1\], found 1.5"),
            (dict(actor_tau=-0.1), r"actor_tau must lie in \[0, 1\], found -0.1"),
            (dict(slow_tau=2.0), r"slow_tau must lie in \[0, 1\], found 2.0"),
            (dict(gamma=float("nan")), r"gamma must lie in \[0, 1\], found nan"),
            (dict(utd_critic=-1.0), "utd_critic must lie in .*found -1.0"),
            (dict(utd_actor=float("inf")), "utd_actor must lie in .*found inf"),
            (dict(offline_ratio=1.1), r"offline_ratio must lie in \[0, 1\], found 1.1"),
            (dict(max_grad_norm=0.0), "max_grad_norm must be positive, found 0.0"),
            (dict(learning_rate=-1e-3), "learning_rate must be a number >= 0.*found -0.001"),
            (dict(critic_learning_rate="lin_x"), "critic_learning_rate must be .*found 'lin_x'"),
            (dict(bc_learning_rate=None), "bc_learning_rate must be .*found None"),
            (dict(clip_range=-0.1), "clip_range must be .*found -0.1"),
            (dict(n_steps=3), "n_steps=3 is not supported.*is the n-step return"),
            (dict(replay_buffer_class=HerReplayBuffer), "ChunkReplayBuffer, found HerReplayBuffer"),
            (dict(bc_steps=-1), "bc_steps must be at least 0, found -1"),
            (dict(bc_steps=5), "bc_steps=5 needs demonstrations, found None"),
            (
                dict(bc_steps=5, demonstrations="x.npz", pretrained_policy="bc.zip"),
                "bc_steps=5 and pretrained_policy='bc.zip'",
            ),
            (dict(bc_steps=5, demonstrations="x.npz", clip_bc=1.5), r"clip_bc is a success rate in \(0, 1\], found 1.5"),
            (dict(clip_bc=0.5), "clip_bc=0.5 .*bc_steps is 0"),
            (dict(offline_ratio=0.5), "offline_ratio=0.5 needs demonstrations with rewards, found None"),
            (dict(success_bc=True, bc_offline_ratio=0.5), "bc_offline_ratio=0.5 needs demonstrations, found None"),
            (dict(success_bc=False, bc_offline_ratio=0.5), "share of what success_bc clones, found success_bc=False"),
            (dict(bc_offline_ratio=-0.1), r"bc_offline_ratio must lie in \[0, 1\], found -0.1"),
            (dict(pretrained_policy="missing.zip"), "'missing.zip' does not exist"),
            (dict(chunk_size=0), "chunk_size must be None or an integer of at least 1, found 0"),
            (dict(chunk_size=2.0), "chunk_size must be None or an integer of at least 1, found 2.0"),
            (dict(policy_kwargs=dict(denoising_steps=0)), "denoising_steps must be at least 1, found 0"),
            (dict(policy_kwargs=dict(noise_std=0.0)), "noise_std must be positive.*found 0.0"),
        ],
        ids=str,
    )
    def test_options(self, kwargs, message):
        with pytest.raises(ValueError, match=message) as error:
            OGPO("FlowPolicy", Line(), **tiny(**kwargs))
        assert "\n" not in str(error.value)

    def test_a_missing_slow_actor_and_conservative_advantages(self):
        """The variants' defaults are checked together with what the user adds."""
        with pytest.raises(ValueError, match=r"advantage='conservative'.*chi2_coef"):
            OGPOCA("FlowPolicy", Line(), **tiny(chi2_coef=0.1))
        with pytest.raises(ValueError, match=r"advantage='conservative'.*chi2_coef"):
            OGPOChi2("FlowPolicy", Line(), **tiny(advantage="conservative"))

    def test_observations_are_stored_once_anyway(self):
        """T10."""
        with pytest.raises(NotImplementedError, match="optimize_memory_usage"):
            build(optimize_memory_usage=True)

    def test_chunk_sizes_that_contradict_each_other(self):
        """2.5: what is refused, and the call that would be right."""
        with pytest.raises(ValueError, match="chunk_size=2 contradicts the environment, which is wrapped with 4"):
            OGPO("FlowPolicy", single(Line(), 4), **tiny(chunk_size=2))
        with pytest.raises(
            ValueError, match=re.escape("make_vec_env(env_id, n_envs, wrapper_class=ogpo_sb3.ChunkActionWrapper")
        ):
            OGPO("FlowPolicy", vec(), **tiny(chunk_size=4))
        with pytest.raises(ValueError, match="FrameStackObservation"):
            OGPO("FlowPolicy", VecFrameStack(vec(chunk_size=4), 2), **tiny())

    @pytest.mark.parametrize("chunk_size", [None, *CHUNK_SIZES])
    @pytest.mark.parametrize("algorithm", [OGPO, DPPO])
    def test_what_is_no_environment(self, algorithm, chunk_size):
        """C2."""
        wanted = r"env must be an environment, its id or a VecEnv of Stable-Baselines3 \(make_vec_env\), found "
        for env, found in (
            (gym.make_vec(LINE_ID, 2), "SyncVectorEnv"),
            (Line, "the class Line"),
            (lambda: Line(), "function"),
            ([Line()], "list"),
        ):
            with pytest.raises(ValueError, match=f"^{wanted}{found}$"):
                algorithm("FlowPolicy", env, chunk_size=chunk_size, device="cpu")

    def test_chunk_size_comes_from_the_wrapper(self):
        """2.5: None takes the wrapper's, or 1 for an unknown environment."""
        assert OGPO("FlowPolicy", single(Line(), 4), **tiny()).chunk_size == 4
        assert OGPO("FlowPolicy", vec(chunk_size=4, n_envs=2), **tiny()).chunk_size == 4
        assert OGPO("FlowPolicy", Line(), **tiny()).chunk_size == 1
        assert OGPO("FlowPolicy", gym.make(LINE_ID), **tiny(chunk_size=4)).action_space.shape == (8,)
