"""The learning loop: counters, frequencies, transitions, normalisation, rates (T1-T13)."""

import warnings

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.noise import NormalActionNoise, VectorizedActionNoise
from stable_baselines3.common.torch_layers import FlattenExtractor
from stable_baselines3.common.utils import ConstantSchedule, LinearSchedule
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecNormalize

from ogpo_sb3 import OGPO, OGPOCA, evaluate
from ogpo_sb3.common.buffers import ChunkReplayBuffer
from tests.contract.models import (
    ALGORITHMS,
    CHUNK_SIZES,
    LINE_ID,
    PAIRS,
    FromSpaces,
    Line,
    Ticker,
    bare,
    build,
    check_stream,
    differences,
    parameters,
    policy_state,
    single,
    state,
    tiny,
    vec,
)


class Rollouts(BaseCallback):
    """Notes num_timesteps and n_updates at the end of every rollout, and what each decision saw."""

    def __init__(self):
        super().__init__()
        self.ends, self.updates, self.actions = [], [], []

    def _on_step(self):
        self.actions.append(np.array(self.locals["actions"]))
        return True

    def _on_rollout_end(self):
        self.ends.append(self.num_timesteps)
        self.updates.append(self.model._n_updates)


class TestCounters:
    @pytest.mark.parametrize("algorithm", ALGORITHMS)
    def test_learn(self, algorithm):
        """T1: returns itself; ends exactly at the total, which may be a float."""
        model = build(algorithm, env=Ticker)
        assert model.learn(20) is model and model.num_timesteps == 20
        assert model._n_updates == 10 and model._episode_num == 4
        assert model.learn(5.0, reset_num_timesteps=False).num_timesteps == 25
        assert model.learn(2e1).num_timesteps == 20 and isinstance(model.num_timesteps, int)

    def test_going_on(self, tmp_path):
        """T1: counters and the running episode continue, over saving too with force_reset=False."""
        env = vec(Ticker)
        whole = build(env=vec(Ticker)).learn(30)
        model = build(env=env).learn(11)
        model.learn(8, reset_num_timesteps=False)
        assert model.num_timesteps == 19 and env.envs[0].unwrapped.episode == 3
        model.save(tmp_path / "model")
        model.save_replay_buffer(tmp_path / "buffer")
        loaded = OGPO.load(tmp_path / "model", env=env, device="cpu", force_reset=False)
        loaded.load_replay_buffer(tmp_path / "buffer", truncate_last_traj=False)
        loaded.learn(11, reset_num_timesteps=False)
        assert loaded.num_timesteps == 30 and env.envs[0].unwrapped.steps == 30
        assert loaded._episode_num == whole._episode_num
        assert np.array_equal(loaded.replay_buffer.observations[:30], whole.replay_buffer.observations[:30])
        assert not loaded.replay_buffer._stops[[10, 18], 0].any(), "a cut, though the episode went on"

    def test_a_plain_load_resets_once(self, tmp_path):
        """T1."""
        build(env=Ticker).learn(11).save(tmp_path / "model")
        loaded = OGPO.load(tmp_path / "model", env=vec(lambda: Ticker(lengths=(100,))), device="cpu")
        loaded.learn(5, reset_num_timesteps=False)
        assert bare(loaded)[0].episode == 0
        loaded.learn(5, reset_num_timesteps=False)
        assert bare(loaded)[0].episode == 0
        loaded.learn(5)
        assert bare(loaded)[0].episode == 1

    @pytest.mark.parametrize("chunk_size", CHUNK_SIZES)
    def test_set_env(self, chunk_size):
        """T2."""
        model = build(env=Ticker, chunk_size=chunk_size).learn(12)
        with pytest.raises(AssertionError, match="number of environments"):
            model.set_env(vec(Ticker, chunk_size, n_envs=2))
        with pytest.raises(ValueError, match=r"[Ss]pace"):
            model.set_env(vec(Line, chunk_size))
        if chunk_size > 1:
            with pytest.raises(ValueError, match=r"[Ss]pace"):
                model.set_env(vec(Ticker))
        same = model.env
        model.set_env(same, force_reset=False)
        assert model._last_obs is not None
        model.set_env(same)
        assert model._last_obs is None
        model.set_env(Ticker(instance=7))  # a per-step environment is wrapped
        assert model.env.action_space.shape == (2 * chunk_size,)
        model.learn(12, reset_num_timesteps=False)
        check_stream(model)
        assert set(model.replay_buffer.sample(200).observations[:, 0].tolist()) == {0.0, 7.0}

    @pytest.mark.parametrize("normalise", [False, True])
    def test_an_evaluation_within_a_rollout(self, normalise):
        """In the model's own environment: the episode is cut there, and the next decision begins with a reset."""

        class Evaluate(BaseCallback):
            def _on_step(self):
                if self.n_calls == 4:
                    evaluate(self.model, n_episodes=1)
                return True

        env = vec(lambda: Ticker(lengths=(100,)), 4)
        model = build(env=VecNormalize(env, norm_obs=True) if normalise else env, train_freq=40, chunk_size=4)
        model.learn(80, Evaluate())
        assert model.num_timesteps == 80 and model.replay_buffer.n_stored == 76, "the chunk in flight is not stored"
        check_stream(model)

    def test_rates_that_contradict_each_other_are_named(self):
        """gradient_steps counts per rollout of all environments, utd_actor per step."""
        with pytest.warns(
            UserWarning, match=r"0\.25 critic updates per environment step, n_envs=4.*utd_actor=1: set utd_critic"
        ):
            build(env=Ticker, n_envs=4)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            build(env=Ticker, n_envs=4, utd_critic=1.0)
            assert build(env=Ticker, n_envs=4, gradient_steps=-2).critic_updates_per_step == 1.0, "any negative number, as SB3"


class TestFrequencies:
    @pytest.mark.parametrize("form, n_envs", [(3, 1), ((3, "step"), 1), ((3, "step"), 2)])
    def test_steps(self, form, n_envs):
        """T3: a rollout of n steps of every environment, then gradient_steps updates."""
        model = build(env=Ticker, n_envs=n_envs, train_freq=form, gradient_steps=2, learning_starts=0)
        notes = Rollouts()
        model.learn(12 * n_envs, notes)
        assert notes.ends == [3 * n_envs, 6 * n_envs, 9 * n_envs, 12 * n_envs]
        assert model._n_updates == 8

    @pytest.mark.parametrize("chunk_size", CHUNK_SIZES)
    def test_episodes(self, chunk_size):
        """T3."""
        model = build(env=Ticker, chunk_size=chunk_size, train_freq=(2, "episode"), gradient_steps=3, learning_starts=0)
        notes = Rollouts()
        model.learn(13, notes)
        assert notes.ends == [12, 20] and notes.updates == [0, 3] and model._n_updates == 6

    def test_other_forms_are_refused(self):
        """T3."""
        for form in ((3, "hours"), (3.0, "step"), 2.5, "step"):
            with pytest.raises(ValueError, match="train_freq"):
                build(train_freq=form)
        with pytest.raises(ValueError, match="train_freq counts episodes of one environment, found 2"):
            build(train_freq=(1, "episode"), n_envs=2)
        with pytest.raises(ValueError, match="train_freq must be at least 1, found 0"):
            build(train_freq=0)
        for total, interval, named in (
            (float("nan"), 4, "total_timesteps"),
            (5, 0, "log_interval must be at least 1, found 0"),
        ):
            with pytest.raises(ValueError, match=named):
                build().learn(total, log_interval=interval)
        build().learn(5, log_interval=None)

    @pytest.mark.parametrize("algorithm", ALGORITHMS)
    @pytest.mark.parametrize("gradient_steps, wanted", [(0, 0), (1, 5), (3, 15), (-1, 20)])
    def test_gradient_steps(self, algorithm, gradient_steps, wanted):
        """T4: -1 is one update per transition; what is logged is what was done."""
        model = build(algorithm, env=Ticker, train_freq=4, gradient_steps=gradient_steps, learning_starts=0)
        model.learn(20, log_interval=1)
        assert model._n_updates == wanted
        if wanted:
            assert model.logger.name_to_value["train/n_updates"] == wanted
            assert model._n_actor_updates == 20  # one per step, whatever the critic's rate

    @pytest.mark.parametrize("chunk_size", CHUNK_SIZES)
    def test_exploration_before_learning_starts(self, chunk_size):
        """T5: uniform over the whole box, no update until num_timesteps > learning_starts."""
        model = build(env=Ticker, chunk_size=chunk_size, learning_starts=400)
        notes = Rollouts()
        model.learn(400, notes)
        drawn = np.concatenate(notes.actions).reshape(-1, 2)[:400]
        assert drawn.min() < -1.9 and drawn.max() > 3.9 and abs(drawn.mean() - 1.0) < 0.25
        assert np.histogram(drawn, bins=6, range=(-2, 4))[0].min() > 80
        reached = model.num_timesteps
        assert model._n_updates == (reached > 400) * (reached - notes.ends[-2])
        model.learn(4, notes, reset_num_timesteps=False)
        assert model._n_updates > 0

    @pytest.mark.parametrize("algorithm", ALGORITHMS)
    def test_a_pretrained_policy_explores(self, algorithm, tmp_path):
        """T5: the behaviour policy's actions (without best of N) from the first step on."""
        first = build(algorithm, env=Ticker)
        with th.no_grad():
            for parameter in first.actor_ema.gcp.parameters():
                parameter.zero_()
            *_, last = (module for module in first.actor_ema.gcp.modules() if isinstance(module, th.nn.Linear))
            last.bias.fill_(50.0)  # always at the upper bound
        first.policy.save(tmp_path / "clone.zip")
        model = algorithm("FlowPolicy", Ticker(), **tiny(pretrained_policy=tmp_path / "clone.zip", best_of_n=3))
        notes, ranked = Rollouts(), []
        model.critic_target.register_forward_pre_hook(lambda module, args: ranked.append(model.num_timesteps))
        model.learn(9, notes)
        assert (np.concatenate(notes.actions) == 4.0).all()
        assert not ranked and model.policy.best_of_n == 3
        model.learn(2, reset_num_timesteps=False)
        assert ranked[0] == 10  # from learning_starts on the critics choose among three


class TestTransitions:
    @pytest.mark.parametrize("n_envs", [1, 2])
    @pytest.mark.parametrize("chunk_size", CHUNK_SIZES)
    def test_actions(self, chunk_size, n_envs):
        """T6: the environment gets its own scale, the buffer the executed, noisy action in [-1, 1]."""
        noise = NormalActionNoise(np.zeros(2 * chunk_size), 0.5 * np.ones(2 * chunk_size))
        model = build(env=Ticker, chunk_size=chunk_size, n_envs=n_envs, action_noise=noise, learning_starts=6)
        model.learn(30 * n_envs)
        assert isinstance(model.action_noise, VectorizedActionNoise if n_envs > 1 else NormalActionNoise)
        wrong = NormalActionNoise(np.zeros(3), np.ones(3))
        for unfit in (wrong, VectorizedActionNoise(noise, n_envs + 1)):
            with pytest.raises(ValueError, match=r"action_noise has shape .*, wanted"):
                build(env=Ticker, chunk_size=chunk_size, n_envs=n_envs, action_noise=unfit, utd_actor=0.1)
        for i, env in enumerate(bare(model)):
            executed = np.array(env.actions)
            stored = model.replay_buffer.actions[: len(executed), i]
            np.testing.assert_allclose(stored, (executed - 1.0) / 3.0, atol=1e-6)
            assert (np.abs(stored[12:]) == 1.0).any() and stored.std() > 0.1  # the noise is clipped at the bounds

    @pytest.mark.parametrize("n_envs", [1, 2])
    def test_noise_begins_anew_with_each_episode(self, n_envs):
        """T6: of the environment whose episode has ended, and of no other."""

        class Counting(NormalActionNoise):
            resets = 0

            def reset(self):
                self.resets += 1

        def make(i):
            return lambda: single(Ticker(lengths=(3 + i,)))

        env = DummyVecEnv([make(i) for i in range(n_envs)])
        model = build(env=env, action_noise=Counting(np.zeros(2), np.ones(2))).learn(12 * n_envs)
        noises = model.action_noise.noises if n_envs > 1 else [model.action_noise]
        before = 2 if n_envs > 1 else 1  # at the beginning; SB3's vectorised noise resets its parts twice then
        assert [noise.resets - before for noise in noises] == [4, 3][:n_envs]

    @pytest.mark.parametrize("n_envs", [1, 2])
    @pytest.mark.parametrize("algorithm, chunk_size", PAIRS)
    def test_streams(self, algorithm, chunk_size, n_envs):
        """T7: terminal observations, time limits bootstrap, nothing is mixed; over two laps of a small ring."""
        sizes = dict(buffer_size=24 * n_envs, learning_starts=50 * n_envs)
        model = build(algorithm, env=Ticker, chunk_size=chunk_size, n_envs=n_envs, **sizes).learn(60 * n_envs)
        check_stream(model)
        batch = model.replay_buffer.sample(300)
        assert batch.rewards.shape == batch.dones.shape == (300, 1)
        after = batch.next_observations
        over = after[:, 2] >= th.tensor([5.0, 7.0, 3.0])[(after[:, 1] % 3).long()]
        terminated = over & (after[:, 1] % 2 == 0)
        assert th.equal(batch.dones[:, 0] == 1, terminated) and terminated.any() and (over & ~terminated).any()

    @pytest.mark.parametrize("chunk_size", CHUNK_SIZES)
    def test_subprocesses(self, chunk_size):
        """T7, 2.7: as with DummyVecEnv, bit for bit."""
        model = build(env=vec(Line, chunk_size, 2, lambda fns: SubprocVecEnv(fns, start_method="fork")))
        try:
            found = state(model.learn(30))
        finally:
            model.env.close()
        assert not differences(found, state(build(env=vec(Line, chunk_size, 2)).learn(30)))


class TestNormalisation:
    @pytest.mark.parametrize("chunk_size", CHUNK_SIZES)
    def test_vecnormalize(self, chunk_size):
        """T8: raw values are stored and normalised when they are drawn."""
        normalised = VecNormalize(vec(Ticker, chunk_size, 2), clip_obs=1e6)
        model = build(env=normalised).learn(40)
        check_stream(model)  # whole numbers: raw
        batches = []
        for draw in (lambda: model.replay_buffer.sample(20), lambda: model._sample(20)):
            model.set_random_seed(2)
            batches.append(draw())
        raw, scaled = batches
        np.testing.assert_allclose(scaled.observations, normalised.normalize_obs(raw.observations.numpy()), rtol=1e-5)
        if chunk_size == 1:
            np.testing.assert_allclose(scaled.rewards, normalised.normalize_reward(raw.rewards.numpy()), rtol=1e-5)
        assert not np.allclose(scaled.rewards, raw.rewards)

    def test_change_and_removal(self):
        """T8: set_env decides which statistics are used."""
        first, second = (VecNormalize(vec(Ticker)) for _ in range(2))
        model = build(env=first).learn(12)
        second.obs_rms.mean += 100.0
        for env in (second, vec(Ticker)):
            model.set_env(env)
            model.learn(12, reset_num_timesteps=False)
            assert model.get_vec_normalize_env() is (env if env is second else None)
            model.set_random_seed(2)
            used = model._sample(20).observations
            model.set_random_seed(2)
            raw = model.replay_buffer.sample(20).observations
            wanted = second.normalize_obs(raw.numpy()) if env is second else raw.numpy()
            np.testing.assert_allclose(used, wanted, rtol=1e-5)

    @pytest.mark.parametrize("chunk_size", CHUNK_SIZES)
    def test_some_keys_of_a_dict(self, chunk_size):
        """T8."""
        box = spaces.Box(-5, 5, (2,), dtype=np.float32)
        space = spaces.Dict({"scaled": box, "kept": box})
        env = VecNormalize(vec(lambda: FromSpaces(space), chunk_size), norm_obs_keys=["scaled"])
        model = build(env=env).learn(16)
        batches = []
        for draw in (lambda: model.replay_buffer.sample(20), lambda: model._sample(20)):
            model.set_random_seed(2)
            batches.append(draw().observations)
        assert th.equal(batches[0]["kept"], batches[1]["kept"])
        assert not th.equal(batches[0]["scaled"], batches[1]["scaled"])
        assert model._n_updates > 0

    @pytest.mark.parametrize("chunk_size", CHUNK_SIZES)
    @pytest.mark.parametrize("as_dict", [True, False])
    def test_own_observation_statistics(self, as_dict, chunk_size):
        """normalize_observations: fitted to the steps before learning_starts, in every network, once."""
        env = single(Line(as_dict=as_dict), chunk_size)
        model = OGPO("FlowPolicy", env, **tiny(learning_starts=40, policy_kwargs=dict(normalize_observations=True)))
        model.learn(39)
        assert model.actor.normalizer.mean_0.abs().sum() == 0
        model.learn(6, reset_num_timesteps=False)
        fitted = [net.normalizer.state_dict() for net in (model.actor, model.actor_ema, model.critic, model.critic_target)]
        assert all(not differences(fitted[0], other) for other in fitted[1:])
        stored = model.replay_buffer.observations
        stored = (stored["state"] if as_dict else stored)[: model.replay_buffer.size(), 0]
        np.testing.assert_allclose(fitted[0]["mean_0"], stored.mean(axis=0), atol=0.3)
        np.testing.assert_allclose(fitted[0]["std_0"], stored.std(axis=0), rtol=0.5)
        before = fitted[0]["mean_0"].clone()
        model.learn(12, reset_num_timesteps=False)
        assert th.equal(model.actor.normalizer.mean_0, before)


class BatchNorm(FlattenExtractor):
    """Notes the mode of every call."""

    def __init__(self, observation_space):
        super().__init__(observation_space)
        self.layer, self.modes = th.nn.BatchNorm1d(self.features_dim), []

    def forward(self, observations):
        self.modes.append(self.training)
        return self.layer(super().forward(observations))


class TestModes:
    @pytest.mark.parametrize("algorithm", ALGORITHMS)
    def test_training_mode(self, algorithm):
        """T9: batch-norm statistics move in train() only; targets and slow copies take them over, as in Stable-Baselines3."""
        model = build(algorithm, policy_kwargs=dict(features_extractor_class=BatchNorm), learning_starts=8)
        before = policy_state(model)
        model.learn(8)
        model.predict(np.zeros((3, 3), np.float32))
        assert not differences(before, policy_state(model))
        assert model.actor_ema.features_extractor.modes == [False]
        model.train(gradient_steps=2, batch_size=8)
        assert model.policy.training and model.actor.training and model.critic.training
        assert model.actor.features_extractor.modes and all(model.actor.features_extractor.modes)
        assert model.critic.features_extractor.modes and all(model.critic.features_extractor.modes)
        for network in (model.actor_ema, model.critic_target, model.actor_slow):
            if network is not None:
                assert network.features_extractor.modes and not any(network.features_extractor.modes)
        copies = {"actor_ema": model.actor, "critic_target": model.critic}
        if model.actor_slow is not None:
            copies["actor_slow"] = model.actor
        moved = differences(before, policy_state(model))
        statistics = {path.split(".")[1] for path in moved if path.endswith("running_mean")}
        assert statistics == {"actor", "critic", *copies}
        for name, trained in copies.items():
            own, followed = (network.features_extractor.state_dict() for network in (getattr(model, name), trained))
            assert not [key for key in own if "running_" in key and not th.equal(own[key], followed[key])]
        model.learn(4)
        assert not model.policy.training or model._n_updates > 2


class TestBuffer:
    def test_subclasses_and_their_arguments(self):
        """T10."""

        class Mine(ChunkReplayBuffer):
            pass

        kwargs = dict(handle_timeout_termination=False, chunk_end="drop")
        model = build(env=Ticker, chunk_size=4, replay_buffer_class=Mine, replay_buffer_kwargs=kwargs).learn(40)
        assert type(model.replay_buffer) is Mine and model.replay_buffer.chunk_end == "drop"
        ends = model.replay_buffer.sample(300)
        assert (ends.valid == 1).all() and ends.dones.any()
        assert not model.replay_buffer.timeouts.any()  # time limits count as terminations
        with pytest.raises(TypeError, match="no_such_argument"):
            build(replay_buffer_kwargs=dict(no_such_argument=1))

    @pytest.mark.parametrize("algorithm, chunk_size", PAIRS)
    def test_no_warnings(self, algorithm, chunk_size):
        """T11: with default options over repeated learn()."""
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            model = algorithm("FlowPolicy", Line(), policy_kwargs=tiny()["policy_kwargs"], device="cpu", chunk_size=chunk_size)
            model.learn(6)
            model.learn(6, reset_num_timesteps=False)
            model.learn(6)

    @pytest.mark.parametrize("algorithm, chunk_size", PAIRS)
    def test_a_dict_of_one_box_is_the_box(self, algorithm, chunk_size):
        """T12: the same numbers, before and after training."""
        found = []
        for as_dict in (False, True):
            model = algorithm("FlowPolicy", single(Line(as_dict=as_dict), chunk_size), **tiny())
            batch = np.linspace(-1, 1, 12, dtype=np.float32).reshape(4, 3)
            batch = {"state": batch} if as_dict else batch
            actions = [model.predict(batch, deterministic=True)[0]]
            model.learn(30)
            actions += [model.predict(batch, deterministic=True)[0], model.predict(batch)[0], model.replay_buffer.rewards[:30]]
            found.append(actions)
        assert not differences(*found)


SHAPES = ["number", "function", "schedule"]


class TestRates:
    @pytest.mark.parametrize("name", ["learning_rate", "critic_learning_rate"])
    @pytest.mark.parametrize(
        "value, wanted",
        [
            (2e-3, lambda progress: 2e-3),
            (0, lambda progress: 0.0),
            (0.0, lambda progress: 0.0),
            ("lin_0.002", lambda progress: 2e-3 * progress),
            (lambda progress: 1e-3 * progress**2, lambda progress: 1e-3 * progress**2),
            (ConstantSchedule(3e-3), lambda progress: 3e-3),
            (LinearSchedule(1e-3, 1e-4, 0.5), lambda progress: max(1e-3 - 1.8e-3 * (1 - progress), 1e-4)),
        ],
        ids=["float", "int", "zero", "lin", "function", "constant", "linear"],
    )
    def test_learning_rates(self, name, value, wanted):
        """T13: applied to the optimiser it belongs to, and logged."""
        model = build(env=Ticker, learning_starts=0, train_freq=5, utd_critic=0.4, **{name: value})
        assert model.learn(20) is model
        optimizer = (model.actor if name == "learning_rate" else model.critic).optimizer
        assert optimizer.param_groups[0]["lr"] == pytest.approx(wanted(0.0), abs=1e-12)
        model.learn(10)
        model.learn(10, reset_num_timesteps=False)  # the remaining progress is that of all 20 steps
        assert optimizer.param_groups[0]["lr"] == pytest.approx(wanted(0.0), abs=1e-12)
        model._current_progress_remaining = 0.75
        model.train(gradient_steps=1, batch_size=4)
        assert optimizer.param_groups[0]["lr"] == pytest.approx(wanted(0.75))
        assert model.logger.name_to_value[f"train/{name}"] >= 0.0

    def test_rate_zero_changes_nothing(self):
        """T13: the zoo loads with learning rate 0."""
        model = build(learning_rate=0.0, critic_learning_rate=0.0)
        before = policy_state(model)
        model.learn(15)
        changed = differences(before, policy_state(model))
        assert not [path for path in changed if path.startswith((".actor.", ".critic."))]

    @pytest.mark.parametrize("value", [0.2, lambda progress: 0.4 * progress, LinearSchedule(0.4, 0.0, 1.0)], ids=SHAPES)
    @pytest.mark.parametrize("algorithm", ALGORITHMS)
    def test_clip_range(self, algorithm, value):
        """T13: a number or a callable."""
        model = build(algorithm, clip_range=value).learn(12)
        assert model.clip_schedule(0.5) == pytest.approx(0.2)

    @pytest.mark.parametrize("chunk_size", CHUNK_SIZES)
    def test_remaining_progress_is_clamped(self, chunk_size):
        """N3: a schedule that would become negative never sees less than 0."""
        seen = []

        def schedule(progress):
            seen.append(progress)
            return 0.1 * progress

        model = build(chunk_size=chunk_size, n_envs=2, learning_rate=schedule, clip_range=schedule).learn(17)
        assert model.num_timesteps > 17 and model._current_progress_remaining == 0.0
        assert min(seen) == 0.0 and max(seen) == 1.0

    def test_rates_apply_to_what_they_name(self):
        """Design 5.7: with a critic rate of 0 only the actor moves, and the other way round."""
        for still, moving in (("critic", "actor"), ("actor", "critic")):
            name = "critic_learning_rate" if still == "critic" else "learning_rate"
            other = "learning_rate" if still == "critic" else "critic_learning_rate"
            model = build(**{name: 0.0, other: 1e-2})
            before = parameters(model)["policy"]
            model.learn(15)
            changed = {path.split(".")[1] for path in differences(before, parameters(model)["policy"])}
            assert still not in changed and moving in changed

    def test_on_an_environment_by_its_name(self):
        """The whole loop on a registered environment, with successes cloned."""
        model = OGPOCA("FlowPolicy", LINE_ID, **tiny(chunk_size=4)).learn(60)
        assert isinstance(model.env.envs[0].unwrapped, gym.Env) and model.replay_buffer.n_success > 0
        assert "train/bc_loss" in model.logger.name_to_value
