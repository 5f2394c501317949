"""The contract of an algorithm, for those whose experience is a rollout (SB3_INTEGRATION, section 1 where it applies)."""

import io
import json
import warnings
import zipfile

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.callbacks import (
    BaseCallback,
    CheckpointCallback,
    EvalCallback,
    EveryNTimesteps,
    StopTrainingOnMaxEpisodes,
)
from stable_baselines3.common.logger import configure
from stable_baselines3.common.running_mean_std import RunningMeanStd
from stable_baselines3.common.save_util import load_from_zip_file
from stable_baselines3.common.vec_env import VecEnv, VecNormalize

from ogpo_sb3 import DPPO, ChunkActionWrapper, ReinFlow, evaluate
from ogpo_sb3.common.checkpoint import FullCheckpointCallback, checkpoints
from ogpo_sb3.common.errors import TrainingDivergedError
from tests.contract.models import (
    ACTION_SPACES,
    LINE_ID,
    OBSERVATION_SPACES,
    FromSpaces,
    Line,
    Ticker,
    differences,
    parameters,
    policy_state,
    single,
    vec,
)

MODELS = [(DPPO, "DiffusionPolicy"), (DPPO, "FlowPolicy"), (ReinFlow, "FlowPolicy")]
PAIRS = [(MODELS[0], 1), *((model, 4) for model in MODELS)]
COUNTERS = ("num_timesteps", "_n_updates", "_n_actor_updates", "_num_decisions", "_n_rollouts")


def build(model=MODELS[0], env=None, chunk_size=1, n_envs=1, **kwargs):
    """A tiny model; Line when no environment is given."""
    algorithm, policy = model
    env = Line if env is None else env
    if not isinstance(env, gym.Env | VecEnv | str):
        env = vec(env, chunk_size, n_envs)
    policy = kwargs.pop("policy", policy)
    of_tokens = (policy if isinstance(policy, str) else policy.__name__) == "FASTPolicy"
    sizes = dict(width=16, layers=1) if of_tokens else dict(denoising_steps=2)
    policy_kwargs = dict(net_arch=[16]) | sizes | kwargs.pop("policy_kwargs", {})
    sizes = dict(n_steps=8, batch_size=8, n_epochs=2, learning_rate=1e-3, device="cpu", seed=0)
    return algorithm(policy, env, **sizes | kwargs, policy_kwargs=policy_kwargs)


def state(model):
    """Everything that must be equal where two runs are the same run."""
    buffer = {k: v for k, v in vars(model.rollout_buffer).items() if isinstance(v, np.ndarray | dict)}
    scaling = vars(model._reward_scaling) | {"statistics": vars(model._reward_scaling.statistics)}
    episodes = [{key: e[key] for key in ("r", "l")} for e in model.ep_info_buffer or []]
    counters = {name: getattr(model, name) for name in COUNTERS}
    return dict(parameters=parameters(model), buffer=buffer, scaling=scaling, episodes=episodes, counters=counters)


def same_predictions(first, second, n=4):
    first.observation_space.seed(0)
    batch = np.stack([first.observation_space.sample() for _ in range(n)])
    return np.array_equal(*(model.predict(batch, deterministic=True)[0] for model in (first, second)))


class TestConstruction:
    @pytest.mark.parametrize("policy", ["ShortcutPolicy", "MIPPolicy"])
    @pytest.mark.parametrize("options", [dict(), dict(finetuned_steps=1)], ids=["all steps", "last step"])
    def test_other_families(self, policy, options, tmp_path):
        """They run, save and load; a BC checkpoint starts them, and no other family."""
        trained = build((DPPO, policy), chunk_size=2, **options).learn(16)
        assert trained._n_updates > 0 and trained.policy.family() == policy
        trained.save(tmp_path / "model.zip")
        assert same_predictions(trained, DPPO.load(tmp_path / "model.zip", device="cpu"))
        trained.policy.save(tmp_path / "bc.zip")
        again = build((DPPO, policy), chunk_size=2, pretrained_policy=tmp_path / "bc.zip")
        assert not differences(again.actor.state_dict(), trained.policy.actor_ema.state_dict())
        with pytest.raises(ValueError, match=f"holds a {policy}, wanted a DiffusionPolicy"):
            build(chunk_size=2, pretrained_policy=tmp_path / "bc.zip")

    def test_policies(self):
        """C1: aliases, classes, an unknown name; equal parameters at equal seed."""
        for alias, cls in DPPO.policy_aliases.items():
            assert not differences(policy_state(build(policy=alias)), policy_state(build(policy=cls)))
        with pytest.raises(ValueError, match="unknown"):
            build(policy="NoSuchPolicy")
        assert differences(policy_state(build(seed=0)), policy_state(build(seed=1)))

    @pytest.mark.parametrize("name", OBSERVATION_SPACES)
    @pytest.mark.parametrize("model", [MODELS[0], MODELS[2]], ids=["dppo", "reinflow"])
    def test_observation_spaces(self, model, name):
        """C6: the environment checks the actions."""
        trained = build(model, lambda: FromSpaces(OBSERVATION_SPACES[name], length=8), chunk_size=2).learn(8)
        space = trained.observation_space
        space.seed(0)
        observation = space.sample()
        action, _ = trained.predict(observation)
        assert trained.action_space.contains(action) and trained._n_updates == 2

    @pytest.mark.parametrize("name", ACTION_SPACES)
    @pytest.mark.parametrize("chunk_size", [1, 3])
    def test_action_spaces(self, name, chunk_size):
        """C6."""
        trained = build(env=lambda: FromSpaces(OBSERVATION_SPACES["vector"], ACTION_SPACES[name]), chunk_size=chunk_size)
        action, _ = trained.learn(8).predict(np.zeros(3, np.float32))
        assert action.dtype == ACTION_SPACES[name].dtype and trained.action_space.contains(action)

    @pytest.mark.parametrize("space", [spaces.Discrete(2), spaces.MultiBinary(2), spaces.Box(-np.inf, np.inf, (1,))])
    def test_other_actions_are_refused(self, space):
        """C5."""
        with pytest.raises(AssertionError):
            build(env=lambda: FromSpaces(OBSERVATION_SPACES["vector"], space))

    def test_chunks(self):
        """2.5: a plain environment or id is wrapped, a plain VecEnv refused with the call to use."""
        for env in (Line(), LINE_ID):
            model = (
                build(env=env, chunk_size=None)
                if isinstance(env, str)
                else DPPO("FlowPolicy", env, chunk_size=3, device="cpu")
            )
            assert model.chunk_size == (1 if env == LINE_ID else 3)
        with pytest.raises(ValueError, match="make_vec_env"):
            DPPO("FlowPolicy", vec(Line), chunk_size=3)
        with pytest.raises(ValueError, match="contradicts"):
            DPPO("FlowPolicy", single(Line(), 2), chunk_size=3)

    def test_policy_kwargs(self):
        """C8."""
        model = build(policy_kwargs=dict(net_arch=dict(pi=[8], vf=[24, 24]), n_critics=3, activation_fn=th.nn.Tanh))
        assert model.critic.ensemble.net[0].weight.shape == (3, 3, 24)
        assert model.actor.gcp.denoiser_net.trunk[0].weight.shape[0] == 8
        assert build(policy_kwargs=dict(net_arch=[])).learn(8)._n_updates == 2
        with pytest.raises(TypeError, match="no_such_thing"):
            build(policy_kwargs=dict(no_such_thing=1))
        optimizer = build(policy_kwargs=dict(optimizer_class=th.optim.Adam, optimizer_kwargs=dict(eps=0.1))).actor.optimizer
        assert type(optimizer) is th.optim.Adam and optimizer.defaults["eps"] == 0.1

    def test_normalized_observations(self):
        """Statistics of the first rollout, where no demonstrations gave any; that rollout trains nothing."""
        model = build(env=Ticker, policy_kwargs=dict(normalize_observations=True))
        model.learn(8)
        seen = model.rollout_buffer.flat_observations()
        assert model._n_updates == 0
        for network in (model.policy.actor, model.policy.actor_ema, model.policy.critic):
            np.testing.assert_allclose(network.normalizer.mean_0, seen.mean(axis=0), rtol=1e-5)
        model.learn(8, reset_num_timesteps=False)
        assert model._n_updates == 2
        np.testing.assert_allclose(model.policy.actor.normalizer.mean_0, seen.mean(axis=0), rtol=1e-5)


class TestPredict:
    @pytest.mark.parametrize("model", MODELS)
    def test_predict(self, model):
        """P1-P5."""
        trained = build(model, chunk_size=4)
        before, obs = policy_state(trained), np.random.default_rng(0).uniform(-1, 1, (5, 3)).astype(np.float32)
        kept = obs.copy()
        first, hidden = trained.predict(obs, deterministic=True)
        assert hidden is None and first.shape == (5, 8) and all(trained.action_space.contains(a) for a in first)
        for i, one in enumerate(obs):
            np.testing.assert_allclose(trained.predict(one, deterministic=True)[0], first[i], rtol=1e-4, atol=1e-5)
        np.testing.assert_array_equal(trained.predict(obs, deterministic=True)[0], first)
        np.testing.assert_array_equal(trained.policy.predict(obs, deterministic=True)[0], first)
        assert not np.allclose(trained.predict(obs)[0], trained.predict(obs)[0])
        assert not differences(before, policy_state(trained)) and np.array_equal(kept, obs) and th.is_grad_enabled()
        with pytest.raises(ValueError, match="Gym API"):
            trained.predict((obs, {}))

    @pytest.mark.parametrize("model", MODELS)
    def test_what_predicts_is_what_was_trained(self, model):
        """The old policy is the actor, after each round of updates."""
        trained = build(model).learn(24)
        pairs = zip(trained.policy.actor.state_dict().items(), trained.policy.actor_ema.state_dict().values(), strict=True)
        assert all(th.equal(ours, theirs) for (_, ours), theirs in pairs)
        moved = build(model)
        assert differences(policy_state(moved), policy_state(trained))

    @pytest.mark.parametrize("model, chunk_size", PAIRS)
    def test_equal_seeds(self, model, chunk_size):
        """S1, S2."""
        first, second, other = (build(model, chunk_size=chunk_size, n_envs=2, seed=seed).learn(40) for seed in (3, 3, 4))
        assert not differences(state(first), state(second)) and differences(state(first), state(other))
        drawn = []
        for _ in range(2):
            first.set_random_seed(7)
            drawn.append(first.predict(np.zeros(3, np.float32))[0])
        np.testing.assert_array_equal(*drawn)

    def test_evaluate(self):
        """The same in every call, for a loaded model too, and training's draws are not touched."""
        model = build(chunk_size=4).learn(16)
        before = th.get_rng_state()
        results = [evaluate(model, Line, n_episodes=4, sampler=sampler) for sampler in ("ode", "ode", "behaviour")]
        assert th.equal(before, th.get_rng_state())
        assert results[0].returns.tolist() == results[1].returns.tolist() != results[2].returns.tolist()
        assert results[0].lengths.tolist() == [7, 7, 7, 7]


class TestSaving:
    @pytest.mark.parametrize("model, chunk_size", PAIRS)
    def test_round_trip(self, model, chunk_size, tmp_path):
        """L1, L8: parameters, optimisers, counters and settings, with and without environment, by name and open file."""
        saved = build(model, chunk_size=chunk_size, gamma=0.9).learn(33)
        file = io.BytesIO()
        saved.save(file)
        saved.save(tmp_path / "new" / "model")
        algorithm = model[0]
        for target in (file, tmp_path / "new" / "model.zip"):
            for env in (None, vec(chunk_size=chunk_size), Line(), LINE_ID):
                file.seek(0)
                loaded = algorithm.load(target, env=env, device="cpu")
                assert type(loaded) is algorithm and loaded.chunk_size == chunk_size
                assert not differences(parameters(saved), parameters(loaded)) and same_predictions(saved, loaded)
                names = (
                    "gamma batch_size n_steps n_epochs num_timesteps _n_updates _n_actor_updates _num_decisions _n_rollouts"
                )
                for name in f"{names} seed policy_kwargs ratio log_prob_clip clip_range finetuned_steps".split():
                    assert getattr(loaded, name) == getattr(saved, name), name
        assert loaded.learn(12).num_timesteps >= 12
        with pytest.raises(AssertionError, match="environment"):
            algorithm.load(tmp_path / "new" / "model", device="cpu").learn(5)
        with pytest.raises(ValueError, match=r"[Ss]pace"):
            algorithm.load(tmp_path / "new" / "model", env=vec(chunk_size=5), device="cpu")

    @pytest.mark.parametrize("numbers", [(1, 3), (2, 1)])
    def test_other_number_of_environments(self, numbers, tmp_path):
        """L1."""
        build(chunk_size=2, n_envs=numbers[0]).learn(12).save(tmp_path / "model")
        loaded = DPPO.load(tmp_path / "model", env=vec(chunk_size=2, n_envs=numbers[1]), device="cpu")
        assert loaded.learn(20).rollout_buffer.n_envs == numbers[1]

    def test_overrides(self, tmp_path):
        """L2, C4, C8: what RL-Zoo passes when it continues, and when it enjoys."""
        model = build(MODELS[2])
        model.save(tmp_path / "model")
        given = dict(gamma=0.5, n_steps=4, seed=9, policy_kwargs=dict(net_arch=[16], denoising_steps=2))
        loaded = ReinFlow.load(tmp_path / "model", env=Line(), device="cpu", **given)
        assert {name: getattr(loaded, name) for name in given} == given
        assert loaded.rollout_buffer.buffer_size == 4 and loaded.rollout_buffer.gamma == 0.5
        with pytest.raises(ValueError, match="policy kwargs"):
            ReinFlow.load(tmp_path / "model", device="cpu", policy_kwargs=dict(net_arch=[4]))
        custom = dict(learning_rate=0.0, lr_schedule=lambda _: 0.0, clip_range=lambda _: 0.1)
        loaded = ReinFlow.load(tmp_path / "model", device="cpu", custom_objects=custom)
        assert loaded.learning_rate == 0.0 and loaded.clip_schedule(0.5) == 0.1

    @pytest.mark.parametrize("model", MODELS)
    def test_archive(self, model, tmp_path):
        """L3, L5: no module, optimiser, environment or buffer in the data; no warning."""
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            trained = build(model).learn(16)
            trained.save(tmp_path / "model")
        with zipfile.ZipFile(tmp_path / "model.zip") as archive:
            names, text = set(archive.namelist()), json.loads(archive.read("data"))
        wanted = {"policy.pth", "actor.optimizer.pth", "critic.optimizer.pth", "pytorch_variables.pth"}
        assert names == wanted | {"data", "_stable_baselines3_version", "system_info.txt"}
        data, _, _ = load_from_zip_file(tmp_path / "model", device="cpu")
        assert not {"policy", "actor", "critic", "env", "rollout_buffer", "_logger"} & text.keys()
        heavy = (th.nn.Module, th.optim.Optimizer, th.Tensor)
        assert not [name for name, value in data.items() if isinstance(value, heavy)]
        assert list(trained.get_parameters()) == trained._get_torch_save_params()[0]
        with pytest.raises(ValueError, match="no_such_object"):
            trained.set_parameters({"no_such_object": {}}, exact_match=False)

    @pytest.mark.parametrize("model, chunk_size", PAIRS)
    def test_updates_go_on_bit_for_bit(self, model, chunk_size, tmp_path):
        """L4: optimisers, schedules and counters."""
        live = build(model, chunk_size=chunk_size, learning_rate="lin_1e-3", clip_range=lambda progress: 0.1 * progress).learn(
            40
        )
        live.save(tmp_path / "model")
        loaded = model[0].load(tmp_path / "model", env=vec(chunk_size=chunk_size), device="cpu")
        loaded.rollout_buffer = live.rollout_buffer
        before = parameters(live)
        for each in (live, loaded):
            each._current_progress_remaining = 0.5
            each.set_logger(configure(None, []))
            each.set_random_seed(5)
            each.train()
        assert not differences(parameters(live), parameters(loaded)) and live._n_updates == loaded._n_updates
        changed = differences(before, parameters(live))
        for network in ("actor", "actor_ema", "critic"):
            assert any(path.startswith(f".policy.{network}.") for path in changed), network

    @pytest.mark.parametrize("model", MODELS)
    def test_policy_alone(self, model, tmp_path):
        """L6."""
        trained = build(model, chunk_size=2, policy_kwargs=dict(normalize_observations=True)).learn(24)
        trained.policy.save(tmp_path / "policy.zip")
        loaded = type(trained.policy).load(tmp_path / "policy.zip", device="cpu")
        assert not differences(policy_state(trained), {k: v.clone() for k, v in loaded.state_dict().items()})
        obs = np.random.default_rng(0).uniform(-1, 1, (4, 3)).astype(np.float32)
        np.testing.assert_array_equal(loaded.predict(obs, deterministic=True)[0], trained.predict(obs, deterministic=True)[0])

    @pytest.mark.parametrize("model, chunk_size", PAIRS)
    def test_a_checkpoint_goes_on_bit_for_bit(self, model, chunk_size, tmp_path):
        """Written by the callback half-way through, or between two runs: everything is as in the uninterrupted run."""
        live = build(model, chunk_size=chunk_size, n_envs=2)
        live.learn(60, FullCheckpointCallback(28, tmp_path))
        path = checkpoints(tmp_path)[0]
        algorithm = model[0]
        loaded = algorithm.load_checkpoint(path, vec(Line, chunk_size, 2), device="cpu")
        split = build(model, chunk_size=chunk_size, n_envs=2).learn(loaded.num_timesteps)
        assert not differences(parameters(split), parameters(loaded)) and 28 <= loaded.num_timesteps < 60
        split.restart_env()
        split.learn(30, reset_num_timesteps=False)
        loaded = algorithm.load_checkpoint(path, vec(Line, chunk_size, 2), device="cpu")
        loaded.learn(30, reset_num_timesteps=False)
        assert not differences(state(split), state(loaded))
        other = ReinFlow if algorithm is DPPO else DPPO
        with pytest.raises(ValueError, match=f"checkpoint of {algorithm.__name__}, wanted one of {other.__name__}"):
            other.load_checkpoint(path, device="cpu")

    def test_a_checkpoint_with_statistics_of_the_environment(self, tmp_path):
        env = VecNormalize(vec(chunk_size=2))
        model = build(env=env, chunk_size=2).learn(24)
        model.save_checkpoint(tmp_path / "run")
        given = VecNormalize(vec(chunk_size=2))
        DPPO.load_checkpoint(tmp_path / "run", given, device="cpu")
        assert given.obs_rms.mean.tolist() == env.obs_rms.mean.tolist()
        with pytest.raises(ValueError, match="VecNormalize"):
            DPPO.load_checkpoint(tmp_path / "run", vec(chunk_size=2), device="cpu")


class TestLoop:
    def test_counting(self):
        """T1, N1-N5: environment steps, executed ones only; floats; continued or begun anew."""
        model = build(env=lambda: Ticker(lengths=(6,)), chunk_size=4, n_envs=2, n_steps=10)
        assert model.rollout_buffer.buffer_size == 3
        assert model.learn(19.0) is model
        assert model.num_timesteps == 2 * (4 + 2 + 4) and model._num_decisions == 6
        model.learn(1, reset_num_timesteps=False)
        assert model.num_timesteps == 2 * (10 + 2 + 4 + 2) and model._num_decisions == 12
        model.learn(1)
        assert model._num_decisions == 6 and model._n_updates == 2 * 3
        assert [e["l"] for e in model.ep_info_buffer] == [6] * len(model.ep_info_buffer)
        assert model.logger.name_to_value["train/n_updates"] == model._n_updates

    def test_plain_ppo_counts_alike_without_chunks(self):
        """h = 1 is SB3's own loop."""
        from stable_baselines3 import PPO

        ours, theirs = (
            build(n_envs=2),
            PPO("MlpPolicy", vec(n_envs=2), n_steps=8, batch_size=8, n_epochs=2, device="cpu", seed=0),
        )
        for total in (16, 30):
            assert ours.learn(total).num_timesteps == theirs.learn(total).num_timesteps

    def test_progress_stays_within_bounds(self):
        seen = []
        build(chunk_size=4, learning_rate=lambda progress: seen.append(progress) or 1e-3).learn(9)
        assert min(seen) >= 0.0 and max(seen) <= 1.0

    def test_set_env(self):
        """T2; a plain environment is wrapped."""
        model = build(chunk_size=4).learn(8)
        model.set_env(Line())
        assert model.learn(8).env.action_space.shape == (8,)
        with pytest.raises(AssertionError):
            model.set_env(vec(chunk_size=4, n_envs=2))
        with pytest.raises(ValueError, match=r"[Ss]pace"):
            model.set_env(vec(chunk_size=2))

    @pytest.mark.parametrize("chunk_size", [1, 3])
    def test_normalised_rewards_and_observations(self, chunk_size):
        """T8: rewards are normalised step by step, before they are discounted; observations as the policy sees them."""
        env = VecNormalize(vec(Ticker, chunk_size), gamma=0.9)
        model = build(env=env, gamma=0.9, n_steps=chunk_size, reward_scaling=False)
        env.obs_rms, env.ret_rms = RunningMeanStd(shape=(4,)), RunningMeanStd(shape=())
        env.obs_rms.mean[:], env.ret_rms.var, env.training = 1.0, np.array(4.0), False
        model.train = lambda: None
        model.learn(1)
        wanted = sum(0.9**j * (j + 1) / 2.0 for j in range(chunk_size))
        assert model.rollout_buffer.rewards[0, 0] == pytest.approx(wanted, rel=1e-3)
        np.testing.assert_allclose(model.rollout_buffer.observations[0, 0], [-1.0, -1.0, -1.0, -1.0], rtol=1e-3)

    def test_modes(self):
        """T9: dropout is off while collecting and predicting; batch-norm statistics move only in train()."""
        modes = []
        model = build()
        train, draw = model.train, model.policy.draw
        model.train = lambda: (train(), modes.append(("train", model.policy.actor.training)))
        model.policy.draw = lambda obs: modes.append(("draw", model.policy.actor.training)) or draw(obs)
        model.learn(16)
        assert set(modes) == {("train", True), ("draw", False)}
        model.predict(np.zeros(3, np.float32))
        assert not model.policy.training and not model.policy.actor_ema.training

    def test_no_warning(self):
        """T11."""
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            model = build(chunk_size=4)
            for _ in range(2):
                model.learn(16)

    @pytest.mark.parametrize("model", [MODELS[0], MODELS[2]])
    def test_dict_of_one_box(self, model):
        """T12."""
        plain, as_dict = (build(model, lambda d=d: Line(as_dict=d), chunk_size=2).learn(16) for d in (False, True))
        obs = np.random.default_rng(0).uniform(-1, 1, (4, 3)).astype(np.float32)
        first, second = plain.predict(obs, deterministic=True)[0], as_dict.predict({"state": obs}, deterministic=True)[0]
        np.testing.assert_array_equal(first, second)

    def test_schedules(self):
        """T13."""
        model = build(learning_rate=lambda progress: 0.01 * progress, critic_learning_rate="lin_0.1", n_steps=10)
        model.learn(40)
        log = model.logger.name_to_value
        assert log["train/learning_rate"] == pytest.approx(0.0) and model.actor.optimizer.param_groups[0]["lr"] == 0.0
        model.learn(15)
        assert model.actor.optimizer.param_groups[0]["lr"] == 0.0 == log["train/critic_learning_rate"]

    @pytest.mark.parametrize("where", ["reward", "observation"])
    def test_nothing_that_is_not_a_number_is_trained_on(self, where):
        class Broken(Line):
            def step(self, action):
                obs, reward, *rest = super().step(action)
                bad = self.time == 5
                return (
                    (obs * np.nan if bad and where == "observation" else obs),
                    (np.nan if bad and where == "reward" else reward),
                    *rest,
                )

        model = build(env=Broken)
        with pytest.raises(TrainingDivergedError, match="not finite"):
            model.learn(16)
        assert all(th.isfinite(p).all() for p in model.policy.parameters())

    def test_a_parameter_that_is_not_a_number(self):
        model = build()
        with th.no_grad():
            next(model.policy.actor_ema.parameters()).fill_(np.nan)
        with pytest.raises(TrainingDivergedError, match="the policy's action"):
            model.learn(8)

    def test_global_settings_stay(self):
        """C10."""
        before = (
            th.get_default_dtype(),
            th.get_num_threads(),
            th.is_grad_enabled(),
            th.are_deterministic_algorithms_enabled(),
        )
        build().learn(8)
        assert before == (
            th.get_default_dtype(),
            th.get_num_threads(),
            th.is_grad_enabled(),
            th.are_deterministic_algorithms_enabled(),
        )


class Recorder(BaseCallback):
    """Notes what happens."""

    def __init__(self, stop_at=None, answer=False):
        super().__init__()
        self.events, self.stop_at, self.answer, self.locals_seen = [], stop_at, answer, set()

    def _on_training_start(self):
        self.events.append("training_start")

    def _on_rollout_start(self):
        self.events.append("rollout_start")

    def _on_step(self):
        assert self.num_timesteps == self.model.num_timesteps
        self.locals_seen |= self.locals.keys()
        self.events.append("step")
        return self.answer if self.stop_at and self.events.count("step") == self.stop_at else True

    def _on_rollout_end(self):
        self.events.append("rollout_end")

    def _on_training_end(self):
        self.events.append("training_end")


class TestCallbacks:
    def test_order(self):
        """K1."""
        recorder = Recorder()
        build(chunk_size=4, env=lambda: Ticker(ends=(None,))).learn(16, recorder)
        rollout = ["rollout_start", "step", "step", "rollout_end"]
        assert recorder.events == ["training_start", *rollout, *rollout, "training_end"]
        assert {"new_obs", "rewards", "dones", "infos", "actions", "env"} <= recorder.locals_seen

    @pytest.mark.parametrize("answer", [False, np.False_])
    def test_stop(self, answer):
        """K2: after one step, before any update; learning can go on."""
        recorder = Recorder(3, answer)
        model = build().learn(100, recorder)
        assert recorder.events == ["training_start", "rollout_start", "step", "step", "step", "training_end"]
        assert model.num_timesteps == 3 and model._n_updates == 0
        assert model.learn(8, reset_num_timesteps=False)._n_updates == 2

    def test_stock_callbacks(self, tmp_path):
        """K3; frequencies of these are in decisions."""
        evaluation = EvalCallback(vec(chunk_size=4), n_eval_episodes=1, eval_freq=1, best_model_save_path=tmp_path, verbose=0)
        callbacks = [
            EveryNTimesteps(16, evaluation),
            CheckpointCallback(2, tmp_path, "half"),
            StopTrainingOnMaxEpisodes(6),
            lambda local, _: "infos" in local,
        ]
        model = build(chunk_size=4).learn(1000, callbacks, progress_bar=True)
        assert model._num_decisions == 12 and np.isfinite(evaluation.best_mean_reward)
        for path in (tmp_path / "best_model.zip", next(tmp_path.glob("half*"))):
            DPPO.load(path, env=vec(chunk_size=4), device="cpu").learn(8)

    def test_a_callback_that_uses_the_environment(self):
        """An evaluation in the model's own environment interrupts the episode: the next rollout begins with a reset."""

        class Evaluate(BaseCallback):
            def _on_step(self):
                return True

            def _on_rollout_start(self):
                evaluate(self.model, n_episodes=1)

        model = build(env=lambda: Ticker(lengths=(100,))).learn(24, Evaluate())
        assert model.rollout_buffer.observations[0, 0, 2] == 0

    def test_a_callback_that_uses_the_environment_within_a_rollout(self):
        """The episode ends there, with the value of what would have followed; the next decision begins with a reset."""

        class Evaluate(BaseCallback):
            def _on_step(self):
                if self.n_calls == 3:
                    self.following = self.model._values(self.locals["new_obs"])
                    evaluate(self.model, n_episodes=1)
                return True

        callback = Evaluate()
        model = build(env=lambda: Ticker(lengths=(100,)))
        finals, add = [], model.rollout_buffer.add
        model.rollout_buffer.add = lambda *args: (finals.append(args[-2:]), add(*args))
        model._setup_learn(100, callback)
        model.collect_rollouts(model.env, model._init_callback(callback), model.rollout_buffer, 8)
        assert model.rollout_buffer.observations[:, 0, 2].tolist()[:5] == [0, 1, 2, 0, 1]
        assert [bool(dones[0]) for dones, _ in finals[:4]] == [False, False, True, False]
        assert finals[2][1] == callback.following != 0

    @pytest.mark.parametrize("model", MODELS)
    def test_logs(self, model, tmp_path):
        """K4: keys, finite values, the logger's step."""
        trained = build(model, chunk_size=4)
        trained.set_logger(configure(str(tmp_path), ["csv", "json"]))
        trained.learn(80)
        rows = [json.loads(line) for line in (tmp_path / "progress.json").read_text().splitlines()]
        assert [row["time/total_timesteps"] for row in rows][-1] == trained.num_timesteps and len(rows) > 2
        keys = set().union(*rows)
        wanted = "time/fps time/time_elapsed time/decisions time/iterations train/learning_rate train/critic_learning_rate"
        wanted += " rollout/ep_rew_mean rollout/ep_len_mean rollout/success_rate train/n_updates train/value_loss"
        wanted += " train/policy_gradient_loss train/approx_kl train/clip_fraction train/clip_range train/explained_variance"
        assert set(wanted.split()) <= keys and ("train/entropy_loss" in keys) == (model[0] is ReinFlow)
        assert {key.split("/")[0] for key in keys} == {"rollout", "time", "train"}
        assert all(np.isfinite(value) for row in rows for value in row.values())

    def test_output(self, capsys, tmp_path):
        """K5."""
        build(verbose=0).learn(16)
        assert capsys.readouterr().out == ""
        build(verbose=1, tensorboard_log=str(tmp_path)).learn(24)
        out = capsys.readouterr().out
        assert "Using cpu device" in out and "ep_len_mean" in out and (tmp_path / "DPPO_1").is_dir()
        build(verbose=1).learn(24, log_interval=None)
        assert "fps" not in capsys.readouterr().out


@pytest.mark.parametrize("model", [MODELS[0], MODELS[2]], ids=["dppo", "reinflow"])
def test_follows_a_target(model):
    """T14, with chunks and without pre-training: the distance to the target shrinks."""
    noise = dict(min_noise_std=0.2) if model[0] is DPPO else dict()
    options = dict(n_steps=28, batch_size=64, n_epochs=5, learning_rate=2e-3, clip_range=0.1, clip_range_base=0.1, gamma=0.9)
    trained = build(
        model, chunk_size=2, n_envs=16, policy_kwargs=dict(net_arch=[32, 32], denoising_steps=3, **noise), **options
    )
    before = evaluate(trained, lambda: ChunkActionWrapper(single(Line()), 2), n_episodes=40, sampler="behaviour").mean_return
    trained.learn(12 * 16 * 28)
    after = evaluate(trained, lambda: ChunkActionWrapper(single(Line()), 2), n_episodes=40, sampler="behaviour").mean_return
    assert after > 0.75 * before, f"{before} to {after}"
