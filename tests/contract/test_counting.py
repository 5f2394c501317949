"""What counts environment steps, and that interruptions leave no joined window (N1-N7 of 2.6, and 2.8)."""

import math
import pickle

import numpy as np
import pytest
from stable_baselines3 import SAC
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import VecNormalize

from ogpo_sb3 import OGPO
from tests.contract.models import (
    CHUNK_SIZES,
    PAIRS,
    Line,
    Ticker,
    bare,
    build,
    check_stream,
    differences,
    state,
    vec,
)
from tests.contract.test_callbacks_and_logs import Stop
from tests.contract.test_learning_loop import Rollouts


class Pieces(BaseCallback):
    """Compares the model's counters with what the environments themselves have counted."""

    def _on_step(self):
        executed = sum(env.steps for env in bare(self.model))
        assert self.num_timesteps == self.model.num_timesteps == executed
        assert type(self.model.num_timesteps) is int
        assert self.model._num_decisions == self.n_calls * self.model.n_envs
        return True


class TestNumTimesteps:
    @pytest.mark.parametrize("n_envs", [1, 3])
    @pytest.mark.parametrize("algorithm, chunk_size", PAIRS)
    def test_counts_executed_steps(self, algorithm, chunk_size, n_envs):
        """N1, N2, N5: episodes of 5, 7 and 3 steps leave chunks unfinished; the sum is over all environments."""
        callback = Pieces()
        sizes = dict(chunk_size=chunk_size, n_envs=n_envs, train_freq=12, learning_starts=55)
        model = build(algorithm, env=Ticker, **sizes).learn(60, callback)
        assert callback.n_calls > 0 and (model._num_decisions == model.num_timesteps) == (chunk_size == 1)
        assert 60 <= model.num_timesteps <= 60 + 12 * n_envs + chunk_size * n_envs

    def test_as_stable_baselines3_without_chunks(self):
        """N1: with chunks of one step the loop is SB3's, step for step."""
        counts = []
        for n_envs, train_freq in ((1, 1), (2, 3), (1, (2, "episode"))):
            ours, theirs = Rollouts(), Rollouts()
            model = build(env=Ticker, n_envs=n_envs, train_freq=train_freq, gradient_steps=2).learn(40, ours)
            kwargs = dict(batch_size=8, learning_starts=10, buffer_size=500, policy_kwargs=dict(net_arch=[8]), device="cpu")
            env = vec(Ticker, 1, n_envs)
            sac = SAC("MlpPolicy", env, train_freq=train_freq, gradient_steps=2, **kwargs).learn(40, theirs)
            assert ours.ends == theirs.ends and ours.updates == theirs.updates
            assert model._n_updates == sac._n_updates and model.num_timesteps == sac.num_timesteps
            counts.append(model._n_updates)
        assert min(counts) > 0

    @pytest.mark.parametrize("chunk_size", CHUNK_SIZES)
    def test_float_totals(self, chunk_size):
        """N3: with and without reset; float buffer sizes too."""
        model = build(env=Ticker, chunk_size=chunk_size, buffer_size=2e2)
        assert 20 <= model.learn(2e1).num_timesteps < 20 + chunk_size
        before = model.num_timesteps
        model.learn(1.2e1, reset_num_timesteps=False)
        assert before + 12 <= model.num_timesteps < before + 12 + chunk_size and type(model.num_timesteps) is int
        assert model.buffer_size == 200 and type(model.buffer_size) is int

    @pytest.mark.parametrize("n_envs", [1, 2])
    @pytest.mark.parametrize("n", [1, 6])
    @pytest.mark.parametrize("chunk_size", CHUNK_SIZES)
    def test_overshoot(self, chunk_size, n, n_envs):
        """N3, N4: learn ends with the first rollout end at or after the total; rollouts are whole decisions."""
        notes = Rollouts()
        model = build(env=Ticker, chunk_size=chunk_size, n_envs=n_envs, train_freq=(n, "step"), utd_critic=0.1)
        model.learn(40, notes)
        assert notes.ends[-1] == model.num_timesteps >= 40 and all(end < 40 for end in notes.ends[:-1])
        assert model.num_timesteps < 40 + n * n_envs + chunk_size * n_envs
        lengths = np.diff([0, *notes.ends])
        assert (lengths >= n * n_envs).all() and (lengths < (n + chunk_size) * n_envs).all()

    def test_decisions_follow_resets(self, tmp_path):
        """N5: saved, continued, and begun anew with num_timesteps."""
        env = vec(lambda: Ticker(lengths=(6,)), 4)
        model = build(env=env).learn(16)
        assert (model.num_timesteps, model._num_decisions) == (16, 5)  # 4 + 2 + 4 + 2 + 4
        model.save(tmp_path / "model")
        loaded = OGPO.load(tmp_path / "model", env=env, device="cpu")
        loaded.learn(5, reset_num_timesteps=False)
        assert (loaded.num_timesteps, loaded._num_decisions) == (22, 7)
        loaded.learn(4)
        assert (loaded.num_timesteps, loaded._num_decisions) == (4, 1)


class TestUpdatesOwed:
    @pytest.mark.parametrize("n_envs", [1, 2])
    @pytest.mark.parametrize("chunk_size", CHUNK_SIZES)
    @pytest.mark.parametrize(
        "options, rate",
        [
            (dict(utd_critic=0.3), lambda n_envs: 0.3),
            (dict(utd_critic=1.6), lambda n_envs: 1.6),
            (dict(gradient_steps=1, train_freq=(3, "step")), lambda n_envs: 1 / (3 * n_envs)),
            (dict(gradient_steps=4, train_freq=(5, "step")), lambda n_envs: 4 / (5 * n_envs)),
            (dict(gradient_steps=-1, train_freq=(5, "step")), lambda n_envs: 1.0),
        ],
        ids=["0.3", "1.6", "1 per 3", "4 per 5", "-1"],
    )
    def test_exactly_rate_times_steps(self, options, rate, chunk_size, n_envs):
        """N4: over many rollouts of uneven length, over a repeated learn and nothing before learning_starts."""
        notes = Rollouts()
        # An actor rate above the critic's, one below, and fractions of both
        model = build(env=Ticker, chunk_size=chunk_size, n_envs=n_envs, utd_actor=0.35, learning_starts=20, **options)
        model.learn(45, notes)
        model.learn(25, notes, reset_num_timesteps=False)
        lengths = np.diff([0, *notes.ends])
        trained = int(lengths[np.array(notes.ends) > 20].sum())
        assert trained > 40
        exact = rate(n_envs) * trained
        assert model._n_updates == math.floor(exact + 1e-6)
        assert model._critic_debt == pytest.approx(exact - model._n_updates, abs=1e-6)
        assert model._n_actor_updates == pytest.approx(0.35 * model._n_updates / rate(n_envs), abs=1.0)
        assert model._n_actor_updates + model._actor_debt == pytest.approx(0.35 * model._n_updates / rate(n_envs))

    def test_long_runs_do_not_drift(self):
        """N4: rates that are no binary fractions, over a million decisions' worth of bookkeeping."""
        model = build(utd_critic=0.1, utd_actor=0.7)
        critic = actor = 0
        for _ in range(100_000):
            owed = model._updates_owed(3)
            critic += owed
            actor += sum(model._actor_updates_due() for _ in range(owed))
        assert (critic, actor) == (30_000, 210_000)

    def test_fractions_survive_saving(self, tmp_path):
        """N4: three runs of 7 steps at 0.1 owe two updates, saved in between or not."""
        model = build(env=Ticker, utd_critic=0.1, learning_starts=0)
        counts = []
        for i in range(3):
            model.learn(7, reset_num_timesteps=False)
            counts.append(model._n_updates)
            model.save(tmp_path / f"{i}")
            buffer = model.replay_buffer
            model = OGPO.load(tmp_path / f"{i}", env=vec(Ticker), device="cpu")
            model.replay_buffer = buffer
        assert counts == [0, 1, 2] and model._critic_debt == pytest.approx(0.1)

    @pytest.mark.parametrize("chunk_size", CHUNK_SIZES)
    def test_warm_up(self, chunk_size):
        """critic_warmup_updates come before the first actor update, once, and are not counted in n_updates."""
        model = build(env=Ticker, chunk_size=chunk_size, critic_warmup_updates=7)
        before = [parameter.clone() for parameter in model.actor.parameters()]
        model.learn(10)
        assert model._n_warmup_updates == 7 * (model.num_timesteps > 10)
        if chunk_size == 1:
            assert all((a == b).all() for a, b in zip(before, model.actor.parameters(), strict=True))
        model.learn(10, reset_num_timesteps=False)
        assert model._n_warmup_updates == 7 and 0 < model._n_updates <= model.num_timesteps - 10 + 4


def endless():
    """No end ever interrupts the stream, so that a missing cut must show."""
    return Ticker(ends=(None,))


class TestInterruptions:
    """2.8, 2.4 B7: an episode that is left without done never joins what follows."""

    @pytest.mark.parametrize("n_envs", [1, 2])
    @pytest.mark.parametrize("chunk_size", CHUNK_SIZES)
    def test_repeated_learn(self, chunk_size, n_envs):
        """With reset the environment restarts, without it the stream goes on uncut."""
        model = build(env=lambda: Ticker(ends=(None,)), chunk_size=chunk_size, n_envs=n_envs, learning_starts=1000)
        model.learn(16 * n_envs)
        model.learn(8 * n_envs)
        check_stream(model)
        assert [np.flatnonzero(stops).tolist() for stops in model.replay_buffer._stops.T] == [[15]] * n_envs
        model.learn(8 * n_envs, reset_num_timesteps=False)
        check_stream(model)
        assert [np.flatnonzero(stops).tolist() for stops in model.replay_buffer._stops.T] == [[15]] * n_envs
        assert model.replay_buffer.sample(100).valid.shape == (100, chunk_size)

    @pytest.mark.parametrize("interrupt", ["learn", "set_env", "restart_env", "stop"])
    @pytest.mark.parametrize("chunk_size", CHUNK_SIZES)
    def test_where_observations_do_not_tell(self, chunk_size, interrupt):
        """Every observation is the same: the buffer cannot notice by itself that the stream was interrupted."""

        class Blind(Ticker):
            def look(self):
                return np.zeros(4, np.float32)

        model = build(env=lambda: Blind(ends=(None,)), chunk_size=chunk_size, learning_starts=1000).learn(8)
        if interrupt == "set_env":
            model.set_env(model.env)
        elif interrupt == "restart_env":
            model.restart_env()
        elif interrupt == "stop":
            model.learn(8, Stop(), reset_num_timesteps=False)
        model.learn(8, reset_num_timesteps=interrupt == "learn")
        assert np.flatnonzero(model.replay_buffer._stops[:, 0]).tolist() == [7]

    @pytest.mark.parametrize("force_reset", [True, False])
    @pytest.mark.parametrize("chunk_size", CHUNK_SIZES)
    def test_set_env(self, chunk_size, force_reset):
        model = build(env=endless, chunk_size=chunk_size, learning_starts=1000).learn(8)
        model.set_env(model.env, force_reset=force_reset)
        model.learn(8, reset_num_timesteps=False)
        check_stream(model)
        assert np.flatnonzero(model.replay_buffer._stops[:, 0]).tolist() == ([7] if force_reset else [])

    def test_restart_env(self):
        model = build(env=endless, chunk_size=4, learning_starts=1000).learn(8)
        model.restart_env()
        model.learn(8, reset_num_timesteps=False)
        check_stream(model)
        assert np.flatnonzero(model.replay_buffer._stops[:, 0]).tolist() == [7]

    @pytest.mark.parametrize("n_envs", [1, 2])
    @pytest.mark.parametrize("factory", [Ticker, endless], ids=["ends", "endless"])
    @pytest.mark.parametrize("chunk_size", CHUNK_SIZES)
    @pytest.mark.parametrize("normalise", [False, True])
    def test_stopping_callback(self, normalise, chunk_size, factory, n_envs):
        """The decision that was stopped at is executed and not stored; what follows begins where the environment is."""
        env = vec(factory, chunk_size, n_envs)
        model = build(env=VecNormalize(env, norm_reward=False, clip_obs=1e6) if normalise else env, learning_starts=1000)
        for at in (1, 3, 5, 2):
            model.learn(100, Stop(at=at), reset_num_timesteps=False)
            model.learn(6 * n_envs, reset_num_timesteps=False)
        check_stream(model)
        stored = int(model.replay_buffer._counts.sum())
        assert stored < model.num_timesteps <= stored + 4 * chunk_size * n_envs

    def test_windows_of_a_resumed_run(self, tmp_path):
        """A buffer loaded for fresh environments, ten times over."""
        model = build(env=endless, chunk_size=4, learning_starts=1000)
        for _ in range(5):
            model.learn(9, reset_num_timesteps=False)
            model.save(tmp_path / "model")
            model.save_replay_buffer(tmp_path / "buffer")
            model = OGPO.load(tmp_path / "model", env=vec(endless, 4), device="cpu")
            model.load_replay_buffer(tmp_path / "buffer")
        check_stream(model)
        assert len(np.flatnonzero(model.replay_buffer._stops[:, 0])) == 5

    @pytest.mark.parametrize("chunk_size", CHUNK_SIZES)
    def test_buffers_can_be_pickled_in_the_middle(self, chunk_size):
        """2.8, resume bit for bit: an interrupted process that kept model and environment in memory."""
        whole = build(env=Line, chunk_size=chunk_size).learn(24).learn(12, reset_num_timesteps=False)
        halves = build(env=Line, chunk_size=chunk_size).learn(24)
        halves.replay_buffer = pickle.loads(pickle.dumps(halves.replay_buffer))
        halves.learn(12, reset_num_timesteps=False)
        assert not differences(state(whole), state(halves))
