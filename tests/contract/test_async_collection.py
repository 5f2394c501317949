"""async_collection: updates run while the workers step, with the counts and the reproducibility of the synchronous mode."""

import time
import warnings

import numpy as np
import pytest
from stable_baselines3.common.logger import configure
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecEnvWrapper, VecNormalize

from ogpo_sb3 import OGPO, OGPOCA
from ogpo_sb3.common.checkpoint import FullCheckpointCallback, checkpoints
from ogpo_sb3.common.errors import TrainingDivergedError
from tests.contract.models import (
    CHUNK_SIZES,
    COUNTERS,
    Line,
    Ticker,
    build,
    check_stream,
    differences,
    parameters,
    state,
    vec,
)
from tests.contract.test_callbacks_and_logs import PREFIXES, Diary, Stop, read_csv
from tests.contract.test_learning_loop import Rollouts

NO_OVERLAP = "ignore:async_collection=True gains nothing"


def subproc(functions):
    return SubprocVecEnv(functions, start_method="fork")


VEC_ENVS = pytest.mark.parametrize("vec_env_cls", [DummyVecEnv, subproc], ids=["dummy", "subproc"])
pytestmark = pytest.mark.filterwarnings(NO_OVERLAP)


@pytest.fixture
def make():
    """Builds models, asynchronous ones by default, and closes their environments."""
    models = []

    def make(factory=Ticker, chunk_size=4, n_envs=2, vec_env_cls=DummyVecEnv, algorithm=OGPO, **kwargs):
        env = vec(factory, chunk_size, n_envs, vec_env_cls)
        models.append(build(algorithm, env=env, **dict(async_collection=True) | kwargs))
        return models[-1]

    yield make
    for model in models:
        model.env.close()


class Recorder(VecEnvWrapper):
    """
    Writes down when a step is sent, when it is read, and, for a model, when and how much it learns.

    :param venv: vectorised environment
    """

    def __init__(self, venv):
        super().__init__(venv)
        self.events = []

    def reset(self):
        return self.venv.reset()

    def step_async(self, actions):
        self.events.append("send")
        self.venv.step_async(actions)

    def step_wait(self):
        self.events.append("read")
        return self.venv.step_wait()

    def watch(self, model):
        train = model.train

        def watched(gradient_steps, batch_size):
            self.events.append(f"update {gradient_steps}")
            train(gradient_steps=gradient_steps, batch_size=batch_size)

        model.train = watched


class TestOrder:
    @pytest.mark.parametrize("mode", [False, True])
    def test_updates_run_between_sending_and_reading(self, mode):
        """In the first decision of a rollout; the last updates follow the last decision."""
        env = Recorder(vec(lambda: Ticker(lengths=(8,)), 4, 2))
        model = build(env=env, async_collection=mode, train_freq=8, learning_starts=15, gradient_steps=3)
        env.watch(model)
        model.learn(64)
        rollout = ["send", "read"] * 2
        if mode:
            overlapped = ["send", "update 3", "read", "send", "read"]
            assert env.events == [*rollout, *overlapped * 3, "update 3"]
        else:
            assert env.events == [*rollout, "update 3"] * 4

    def test_workers_step_during_updates(self, make):
        """By the clock that all processes share: an update and a step that both take 20 ms happen at the same time."""

        class Slow(Ticker):
            def step(self, action):
                began = time.monotonic()
                time.sleep(0.02)
                *result, info = super().step(action)
                return *result, info | {"during": (began, time.monotonic())}

        shared = {}
        for mode in (False, True):
            model = make(lambda: Slow(), chunk_size=1, vec_env_cls=subproc, async_collection=mode, learning_starts=3)
            updates, steps, began = [], [], time.monotonic()

            def train(gradient_steps, batch_size, updates=updates):
                updates.append((time.monotonic(), time.sleep(0.02), time.monotonic()))

            def note(local_variables, _, steps=steps):
                steps.extend(info["during"] for info in local_variables["infos"])
                return True

            model.train = train
            model.learn(24, note, log_interval=1)
            overlaps = [min(end, b) - max(begin, a) for a, _, b in updates for begin, end in steps]
            shared[mode] = sum(max(overlap, 0.0) for overlap in overlaps) / (0.02 * model.n_envs * len(updates))
            assert len(updates) == 11 and time.monotonic() - began < 5
        assert shared[False] == 0.0 and shared[True] > 0.4

    def test_training_mode(self, make):
        """Off whenever actions are drawn and callbacks called, on in updates."""
        model = make(train_freq=8, gradient_steps=8)
        modes = {"actions": [], "updates": []}
        sample, update = model._sample_action, model._update_critic
        model._sample_action = lambda *args: modes["actions"].append(model.policy.training) or sample(*args)
        model._update_critic = lambda batch_size: modes["updates"].append(model.policy.training) or update(batch_size)
        model.learn(50, lambda local_variables, _: modes["actions"].append(local_variables["self"].policy.training) or True)
        assert len(modes["actions"]) > 10 and not any(modes["actions"])
        assert len(modes["updates"]) > 10 and all(modes["updates"])

    @pytest.mark.parametrize("chunk_size", CHUNK_SIZES)
    def test_events(self, make, chunk_size):
        """K1."""
        diary = Diary()
        make(lambda: Ticker(lengths=(6,)), chunk_size, 1, train_freq=6, learning_starts=0).learn(12, diary)
        rollout = ["rollout_start", *["step"] * (6 if chunk_size == 1 else 2), "rollout_end"]
        assert diary.events == ["training_start", *rollout, *rollout, "training_end"]


class TestCounts:
    @pytest.mark.parametrize(
        "chunk_size, vec_env_cls, options",
        [
            (1, DummyVecEnv, dict()),
            (4, subproc, dict(utd_critic=0.7, utd_actor=0.4, critic_warmup_updates=4)),
            (4, DummyVecEnv, dict(train_freq=5, gradient_steps=3)),
            (4, subproc, dict(gradient_steps=0)),
        ],
        ids=["one", "fractions", "3 per 5", "none"],
    )
    def test_as_in_the_synchronous_mode(self, make, options, chunk_size, vec_env_cls):
        """Whatever the actions do not decide: all counters, and the stream that is stored."""
        found = []
        for mode in (False, True):
            model = make(chunk_size=chunk_size, vec_env_cls=vec_env_cls, async_collection=mode, **options)
            model.learn(40)
            model.learn(21, reset_num_timesteps=False)
            check_stream(model, 100)
            buffer = model.replay_buffer
            stream = [buffer.observations, buffer.rewards, buffer.dones, buffer._stops, buffer.n_success, buffer.size()]
            found.append([{name: getattr(model, name) for name in COUNTERS}, stream])
        assert not differences(*found)
        assert found[0][0]["_n_updates"] > 0 or options == dict(gradient_steps=0)

    def test_episodes(self, make):
        """T3."""
        model, notes = make(n_envs=1, train_freq=(2, "episode"), gradient_steps=3, learning_starts=0), Rollouts()
        model.learn(13, notes)
        assert notes.ends == [12, 20] and notes.updates == [0, 3] and model._n_updates == 6

    @pytest.mark.parametrize("chunk_size, vec_env_cls", [(1, DummyVecEnv), (4, subproc)])
    def test_equal_seeds(self, make, chunk_size, vec_env_cls):
        """S1; and the mode does make a difference to the actions."""
        runs = [
            state(make(Line, chunk_size, vec_env_cls=vec_env_cls, algorithm=OGPOCA, **options).learn(36))
            for options in (dict(), dict(), dict(async_collection=False), dict(seed=1))
        ]
        assert not differences(*runs[:2])
        for other in runs[2:]:
            assert differences(runs[0]["buffer"], other["buffer"])

    def test_the_default_is_synchronous(self):
        assert build().async_collection is False


class TestStopping:
    @pytest.mark.parametrize("at", [1, 2, 5, 8])
    def test_callback(self, make, at):
        """K2: nothing is updated that the synchronous mode would not have updated."""
        counts = []
        for mode in (False, True):
            callback = Stop(at=at)
            model = make(async_collection=mode, learning_starts=0, train_freq=8).learn(100, callback)
            assert callback.ended and callback.n_calls == at
            check_stream(model) if at > 1 else None
            counts.append((model.num_timesteps, model._n_updates, model._n_actor_updates, model._pending_updates))
        assert counts[0] == counts[1] and (counts[0][1] > 0) == (at > 2) and counts[0][3] == 0

    @VEC_ENVS
    @pytest.mark.parametrize("error", [TrainingDivergedError("critic_loss", 0), KeyboardInterrupt()], ids=["diverged", "key"])
    def test_errors_in_updates(self, make, error, vec_env_cls):
        """The step in flight is read and counted, its worker answers the next question, and no window leads across the gap."""
        model = make(lambda: Ticker(ends=(None,)), vec_env_cls=vec_env_cls).learn(24)
        update = model._update_critic

        def fail(batch_size):
            raise error

        model._update_critic = fail
        with pytest.raises(type(error)):
            model.learn(24, reset_num_timesteps=False)
        # 8 steps were stored, 8 were in flight when their updates failed
        assert model.num_timesteps == 40 and model._num_decisions == 10 and model._pending_updates == 0
        assert model.replay_buffer.size() * 2 == 32
        episodes = model.env.reset()[:, 1]
        assert episodes.tolist() == [1, 1], "an answer to an earlier question"
        model._update_critic = update
        model.learn(24, reset_num_timesteps=False)
        assert model.num_timesteps == 64 and model._n_updates == 8 + 12
        check_stream(model)

    def test_the_error_is_that_of_the_update(self, make):
        """Not that of a worker that the same interrupt has ended."""
        model = make(vec_env_cls=subproc).learn(24)

        def interrupted(batch_size):
            for process in model.env.unwrapped.processes:
                process.kill()
                process.join()
            raise KeyboardInterrupt

        model._update_critic = interrupted
        with pytest.raises(KeyboardInterrupt):
            model.learn(24, reset_num_timesteps=False)
        model.env.unwrapped.closed = True  # its workers are gone


class TestLogs:
    @pytest.mark.parametrize("train_freq, chunk_size", [(1, 1), (1, 4), (8, 4)])
    def test_staleness(self, make, train_freq, chunk_size):
        """One rollout's updates at most, in its first decision; the mean over decisions is logged."""
        model = make(lambda: Ticker(lengths=(8,)), chunk_size, train_freq=train_freq, gradient_steps=-1, learning_starts=16)
        chosen, lags = [], []
        sample = model._sample_action
        model._sample_action = lambda *args: chosen.append(model._n_updates) or sample(*args)

        def note(local_variables, _):
            lags.append(model._n_updates - chosen[-1])
            return True

        model.learn(80, note, log_interval=None)
        owed = max(train_freq, chunk_size) * 2
        decisions = owed // (2 * chunk_size)
        assert set(lags) == {0, owed} and sum(lags) + owed == model._n_updates == 64
        assert lags[-2 * decisions :] == [owed, *[0] * (decisions - 1)] * 2
        assert model.logger.name_to_value["rollout/policy_lag"] == pytest.approx(np.mean(lags))

    def test_waiting(self, make, tmp_path):
        """The share of the time between two logs: updates that take long hide the steps, quick ones do not."""

        class Slow(Ticker):
            def step(self, action):
                time.sleep(0.01)
                return super().step(action)

        model = make(lambda: Slow(lengths=(5,)), 1, vec_env_cls=subproc, learning_starts=2)
        model.set_logger(configure(str(tmp_path), ["csv"]))
        model.train = lambda **kwargs: time.sleep(0.04 if model.num_timesteps < 40 else 0.0)
        model.learn(80, log_interval=2)
        shares = [row["time/env_wait_share"] for row in read_csv(tmp_path)]
        assert len(shares) == 8 and all(0 <= share <= 1 for share in shares)
        # The first log is from before the updates. Sleeps are long beside what a busy machine adds to single steps.
        assert np.mean(shares[1:4]) + 0.2 < np.mean(shares[4:])

    def test_keys(self, make, tmp_path):
        """K4; the synchronous mode has neither."""
        keys = []
        for mode in (False, True):
            model = make(lambda: Ticker(lengths=(6,)), async_collection=mode)
            model.set_logger(configure(str(tmp_path / f"{mode}"), ["csv"]))
            model.learn(48, log_interval=2)
            last = read_csv(tmp_path / f"{mode}")[-1]
            assert {key.split("/")[0] for key in last} <= PREFIXES and np.isfinite(list(last.values())).all()
            keys.append(set(last))
        assert keys[1] - keys[0] == {"rollout/policy_lag", "time/env_wait_share"} and keys[0] < keys[1]

    def test_nothing_to_overlap(self, make, tmp_path):
        """Said once, and only where it matters: not by a model that is loaded to be watched, nor with subprocesses."""
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            model = make(utd_critic=1.0)
            model.save(tmp_path / "model")
            OGPO.load(tmp_path / "model", env=model.env, device="cpu")
            make(utd_critic=1.0, async_collection=False).learn(8)
            make(utd_critic=1.0, vec_env_cls=subproc).learn(8)
            assert not [warning for warning in caught if warning.category is UserWarning]
            model.learn(8)
            model.learn(8, reset_num_timesteps=False)
        (said,) = [warning for warning in caught if warning.category is UserWarning]
        assert "make_vec_env(..., vec_env_cls=SubprocVecEnv)" in str(said.message) and said.filename == __file__


class TestSaving:
    @pytest.mark.parametrize("normalise, vec_env_cls", [(False, DummyVecEnv), (True, subproc)])
    def test_checkpoint(self, normalise, vec_env_cls, tmp_path):
        """A checkpoint written with updates pending goes on bit for bit."""

        def environment():
            env = vec(Line, 4, 2, vec_env_cls)
            return VecNormalize(env) if normalise else env

        class Restart(FullCheckpointCallback):
            def _save_if_due(self):
                due = self.model.num_timesteps >= self._next
                super()._save_if_due()
                if due:
                    pending.append(self.model._pending_updates)
                    self.model.restart_env()

        pending = []
        live = build(OGPOCA, env=environment(), async_collection=True, train_freq=6, utd_critic=1, critic_warmup_updates=3)
        live.learn(44, Restart(20, tmp_path))
        path = checkpoints(tmp_path)[0]
        assert pending[0] > 0
        loaded = OGPOCA.load_checkpoint(path, environment(), device="cpu")
        assert loaded._pending_updates == pending[0] and loaded.async_collection
        # It writes and restarts where the uninterrupted run does so.
        loaded.learn(44 - loaded.num_timesteps, Restart(20, tmp_path), reset_num_timesteps=False)
        for model in (live, loaded):
            model.env.close()
        assert not differences(state(live), state(loaded)) and loaded._n_updates > 25

    @pytest.mark.parametrize("mode", [False, True])
    def test_zip(self, make, mode, tmp_path):
        """Pending updates are saved, and run after loading, in whichever mode."""
        saved = []

        class Save(Diary):
            def _on_rollout_start(self):
                if self.model.num_timesteps >= 24 and not saved:
                    saved.append((self.model._pending_updates, self.model._n_updates))
                    self.model.save(tmp_path / "model")
                    self.model.save_replay_buffer(tmp_path / "buffer")

        model = make(lambda: Ticker(ends=(None,)))
        model.learn(40, Save())
        assert saved == [(4, 4)] and model._pending_updates == 0 and model._n_updates == 16
        env = model.env
        for with_buffer in (True, False):
            loaded = OGPO.load(tmp_path / "model", env=env, device="cpu", async_collection=mode)
            assert (loaded._pending_updates, loaded._n_updates) == saved[0]
            if with_buffer:
                loaded.load_replay_buffer(tmp_path / "buffer")
            loaded.learn(16, reset_num_timesteps=False)
            assert loaded.num_timesteps == 40 and loaded._n_updates == 16 and loaded._pending_updates == 0

    def test_older_files(self, make, tmp_path):
        """A zip from before there was such an option."""
        model = make(async_collection=False).learn(20)
        model.save(tmp_path / "model", exclude=["async_collection", "_pending_updates"])
        loaded = OGPO.load(tmp_path / "model", env=model.env, device="cpu")
        assert not loaded.async_collection and not differences(parameters(model), parameters(loaded))
        loaded.learn(8, reset_num_timesteps=False)
