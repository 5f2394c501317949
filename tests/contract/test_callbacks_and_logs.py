"""Callbacks, the stock ones of Stable-Baselines3 among them, and what is logged where (K1-K5; 2.6 N5-N7)."""

import csv
import warnings
from pathlib import Path

import numpy as np
import pytest
import stable_baselines3.common.callbacks as stock
import torch as th
from stable_baselines3.common.callbacks import (
    BaseCallback,
    CallbackList,
    CheckpointCallback,
    EvalCallback,
    EveryNTimesteps,
    StopTrainingOnMaxEpisodes,
    StopTrainingOnRewardThreshold,
)
from stable_baselines3.common.logger import configure
from stable_baselines3.common.vec_env import VecNormalize

from ogpo_sb3 import OGPO
from ogpo_sb3.evaluation import EvaluateCallback
from ogpo_sb3.evaluation.callback import read_rows
from tests.contract.models import (
    ALGORITHMS,
    CHUNK_SIZES,
    LINE_ID,
    PAIRS,
    Line,
    Ticker,
    build,
    check_stream,
    differences,
    policy_state,
    tiny,
    vec,
)


class Diary(BaseCallback):
    """Writes down the order of events."""

    def __init__(self):
        super().__init__()
        self.events, self.steps = [], []

    def _on_training_start(self):
        self.events.append("training_start")

    def _on_rollout_start(self):
        self.events.append("rollout_start")

    def _on_step(self):
        assert self.num_timesteps == self.model.num_timesteps
        assert {"new_obs", "rewards", "dones", "infos", "actions", "env"} <= self.locals.keys()
        assert len(self.locals["infos"]) == self.locals["env"].num_envs == len(self.locals["rewards"])
        self.events.append("step")
        self.steps.append(self.num_timesteps)
        return True

    def _on_rollout_end(self):
        self.events.append("rollout_end")

    def _on_training_end(self):
        self.events.append("training_end")


class Stop(BaseCallback):
    """
    Stops training.

    :param answer: what on_step returns then
    :param at: number of the call
    """

    def __init__(self, answer=False, at=1):
        super().__init__()
        self.answer, self.at, self.ended = answer, at, False

    def _on_step(self):
        return self.answer if self.n_calls >= self.at else True

    def _on_training_end(self):
        self.ended = True


class TestEvents:
    @pytest.mark.parametrize("algorithm, chunk_size", PAIRS)
    def test_order(self, algorithm, chunk_size):
        """K1: one step event per decision, counted in environment steps."""
        diary = Diary()
        model = build(algorithm, env=lambda: Ticker(lengths=(6,)), chunk_size=chunk_size, train_freq=6).learn(12, diary)
        decisions = 6 if chunk_size == 1 else 2
        rollout = ["rollout_start", *["step"] * decisions, "rollout_end"]
        assert diary.events == ["training_start", *rollout, *rollout, "training_end"]
        assert diary.steps == (list(range(1, 13)) if chunk_size == 1 else [4, 6, 10, 12])
        assert model.num_timesteps == 12

    @pytest.mark.parametrize("chunk_size", CHUNK_SIZES)
    @pytest.mark.parametrize("answer", [False, np.False_, th.tensor(False)], ids=["bool", "numpy", "torch"])
    @pytest.mark.parametrize("algorithm", ALGORITHMS)
    def test_stop(self, algorithm, answer, chunk_size):
        """K2: after one decision, before any update, and training still ends properly."""
        callback = Stop(answer)
        model = build(algorithm, env=Ticker, chunk_size=chunk_size, learning_starts=0).learn(20, callback)
        assert callback.ended and model.num_timesteps == chunk_size and model._n_updates == 0

    def test_forms(self):
        """K2."""
        for make in (
            lambda calls: None,
            lambda calls: Diary(),
            lambda calls: [Diary(), Diary()],
            lambda calls: CallbackList([Diary()]),
            lambda calls: lambda local_variables, global_variables: calls.append(local_variables["self"]) or True,
        ):
            for progress_bar in (False, True):
                calls = []
                callback = make(calls)
                model = build(env=Ticker).learn(12, callback, progress_bar=progress_bar)
                assert model.num_timesteps == 12
                for each in callback if isinstance(callback, list) else getattr(callback, "callbacks", [callback]):
                    assert not isinstance(each, Diary) or (len(each.steps) == 12 and each.events[-1] == "training_end")
                assert not calls or (len(calls) == 12 and calls[0] is model)

    @pytest.mark.parametrize("n_envs", [1, 2])
    @pytest.mark.parametrize("chunk_size", CHUNK_SIZES)
    def test_progress_bar_counts_environment_steps(self, chunk_size, n_envs, monkeypatch):
        """N7: it ends at the number of steps done, also when a run goes on."""
        bars = []

        class Bar:
            def __init__(self, total):
                self.total, self.n, self.closed = total, 0, False
                bars.append(self)

            def update(self, n):
                assert n >= 0
                self.n += n

            def refresh(self):
                pass

            def close(self):
                self.closed = True

        monkeypatch.setattr(stock, "tqdm", Bar)
        model = build(env=Ticker, chunk_size=chunk_size, n_envs=n_envs).learn(21, progress_bar=True)
        first = model.num_timesteps
        model.learn(10, progress_bar=True, reset_num_timesteps=False)
        assert [(bar.total, bar.n, bar.closed) for bar in bars] == [(21, first, True), (10, model.num_timesteps - first, True)]


class TestStock:
    @pytest.mark.parametrize("algorithm, chunk_size", PAIRS)
    def test_eval_callback(self, algorithm, chunk_size, tmp_path):
        """K3, N2, N6: it fires every eval_freq decisions; its time axis and episode lengths are in environment steps."""
        env = vec(lambda: Ticker(lengths=(8,)), chunk_size)
        callback = EvalCallback(
            vec(lambda: Ticker(lengths=(8,)), chunk_size),
            callback_on_new_best=StopTrainingOnRewardThreshold(1e9),
            best_model_save_path=str(tmp_path),
            log_path=str(tmp_path),
            eval_freq=3,
            n_eval_episodes=2,
            verbose=0,
        )
        model = build(algorithm, env=env).learn(6 * chunk_size, callback)
        found = np.load(tmp_path / "evaluations.npz")
        assert found["timesteps"].tolist() == [3 * chunk_size, 6 * chunk_size]
        assert (found["ep_lengths"] == 8).all() and (found["results"] == 36).all()
        best = algorithm.load(tmp_path / "best_model", env=env, device="cpu")
        assert best.num_timesteps == 3 * chunk_size and best.chunk_size == chunk_size
        assert best.learn(8, reset_num_timesteps=False).num_timesteps >= 3 * chunk_size + 8
        assert model.num_timesteps == 6 * chunk_size

    def test_reward_threshold(self):
        """K3."""
        callback = EvalCallback(
            vec(Ticker), callback_on_new_best=StopTrainingOnRewardThreshold(1.0), eval_freq=4, n_eval_episodes=1, verbose=0
        )
        assert build(env=Ticker).learn(50, callback).num_timesteps == 4

    @pytest.mark.parametrize("algorithm, chunk_size", PAIRS)
    def test_checkpoints(self, algorithm, chunk_size, tmp_path):
        """K3: with replay buffer and VecNormalize; the names bear environment steps; they reload and go on."""
        env = VecNormalize(vec(lambda: Ticker(lengths=(8,)), chunk_size), norm_reward=False)
        callback = CheckpointCallback(4, str(tmp_path), save_replay_buffer=True, save_vecnormalize=True)
        build(algorithm, env=env).learn(8 * chunk_size, callback)
        names = {path.name for path in tmp_path.iterdir()}
        for steps in (4 * chunk_size, 8 * chunk_size):
            wanted = {f"rl_model_{steps}_steps.zip", f"rl_model_replay_buffer_{steps}_steps.pkl"}
            assert wanted | {f"rl_model_vecnormalize_{steps}_steps.pkl"} <= names
        assert len(names) == 6
        steps = 4 * chunk_size
        env = VecNormalize.load(tmp_path / f"rl_model_vecnormalize_{steps}_steps.pkl", vec(Ticker, chunk_size))
        model = algorithm.load(tmp_path / f"rl_model_{steps}_steps", env=env, device="cpu")
        model.load_replay_buffer(tmp_path / f"rl_model_replay_buffer_{steps}_steps")
        model.learn(10, reset_num_timesteps=False)
        assert model.num_timesteps >= steps + 10 and model.get_vec_normalize_env() is env

    @pytest.mark.parametrize("chunk_size", CHUNK_SIZES)
    def test_every_n_timesteps(self, chunk_size):
        """K3, N2, N6: the way to count a frequency in environment steps."""
        diary = Diary()
        build(env=lambda: Ticker(lengths=(8,)), chunk_size=chunk_size).learn(40, EveryNTimesteps(8, diary))
        assert diary.steps == [8, 16, 24, 32, 40]

    @pytest.mark.parametrize("chunk_size", CHUNK_SIZES)
    def test_max_episodes(self, chunk_size):
        """K3."""
        model = build(env=Ticker, chunk_size=chunk_size).learn(100, StopTrainingOnMaxEpisodes(2))
        assert model.num_timesteps == 12

    @pytest.mark.parametrize("chunk_size", CHUNK_SIZES)
    @pytest.mark.parametrize("n_envs", [1, 2])
    def test_evaluate_callback(self, n_envs, chunk_size, tmp_path):
        """The package's own: every eval_freq environment steps, also on the training environment's own class."""
        for env in (None, Ticker):
            path = tmp_path / f"{env}.csv"
            callback = EvaluateCallback(10, n_episodes=3, env=env, csv_path=path)
            model = build(env=Ticker, chunk_size=chunk_size, n_envs=n_envs).learn(32, callback)
            rows = read_rows(path)
            assert [int(row["timesteps"]) // 10 for row in rows] == [1, 2, 3]
            assert all(row["mean_length"] <= 7 for row in rows)
            check_stream(model)
            assert model.num_timesteps >= 32

    def test_evaluate_callback_does_not_disturb_the_run(self):
        """Where another environment is evaluated in, the run is what it would have been."""
        plain = build(LINE_MODEL := OGPO, env=Line).learn(40)
        watched = build(LINE_MODEL, env=Line).learn(40, EvaluateCallback(10, n_episodes=2, env=LINE_ID))
        assert not differences(policy_state(plain), policy_state(watched))
        registered = OGPO("FlowPolicy", LINE_ID, **tiny(chunk_size=4)).learn(30, EvaluateCallback(10, n_episodes=2))
        assert registered.logger.name_to_value["eval/mean_ep_length"] <= 7


PREFIXES = {"rollout", "time", "train", "eval"}
KEYS = {
    "rollout/ep_rew_mean",
    "rollout/ep_len_mean",
    "rollout/success_rate",
    "time/episodes",
    "time/fps",
    "time/time_elapsed",
    "time/total_timesteps",
    "time/decisions",
    "train/learning_rate",
    "train/n_updates",
}


def read_csv(folder):
    with open(Path(folder) / "progress.csv", newline="") as file:
        return [{key: float(value) for key, value in row.items() if value} for row in csv.DictReader(file)]


class TestLogs:
    @pytest.mark.parametrize("algorithm, chunk_size", PAIRS)
    def test_keys(self, algorithm, chunk_size, tmp_path):
        """K4, K5, N5: keys, finite values, prefixes, and the user's own logger, which is kept."""
        model = build(algorithm, env=lambda: Ticker(lengths=(6,), ends=("truncated",)), chunk_size=chunk_size, n_envs=2)
        logger = configure(str(tmp_path), ["csv"])
        model.set_logger(logger)
        steps = []
        dump = logger.dump
        logger.dump = lambda step=0: (steps.append((step, logger.name_to_value["time/total_timesteps"])), dump(step))
        model.learn(48, log_interval=2)
        assert model.logger is logger
        rows = read_csv(tmp_path)
        assert [row["time/episodes"] for row in rows] == [2, 4, 6, 8]
        assert [row["time/total_timesteps"] for row in rows] == [12, 24, 36, 48]
        assert [row["time/decisions"] for row in rows] == ([12, 24, 36, 48] if chunk_size == 1 else [4, 8, 12, 16])
        assert steps == [(step, step) for step in (12, 24, 36, 48)]
        last = rows[-1]
        assert last.keys() >= KEYS and any("loss" in key for key in last if key.startswith("train/"))
        assert {key.split("/")[0] for key in last} <= PREFIXES
        assert all(np.isfinite(value) for row in rows for value in row.values())
        assert last["rollout/ep_len_mean"] == 6 and last["rollout/ep_rew_mean"] == 21
        assert last["rollout/success_rate"] == 0.5
        assert 0 < last["train/n_updates"] <= model._n_updates

    def test_no_interval_writes_nothing(self, tmp_path):
        """K5."""
        model = build(env=Ticker)
        model.set_logger(configure(str(tmp_path), ["csv"]))
        model.learn(30, log_interval=None)
        assert (tmp_path / "progress.csv").read_text() == ""

    @pytest.mark.parametrize("algorithm", ALGORITHMS)
    def test_verbosity(self, algorithm, capsys):
        """K5."""
        build(algorithm, env=Ticker, verbose=0).learn(20)
        out, err = capsys.readouterr()
        assert out == err == ""
        build(algorithm, env=Ticker, verbose=1).learn(20)
        out, _ = capsys.readouterr()
        assert "Using cpu device" in out and "total_timesteps" in out and "ep_len_mean" in out

    def test_stats_window(self):
        """K5."""
        model = build(env=lambda: Ticker(lengths=(2, 4)), stats_window_size=3).learn(24)
        assert [info["l"] for info in model.ep_info_buffer] == [4, 2, 4] and model.ep_success_buffer.maxlen == 3

    def test_tensorboard_folders(self, tmp_path):
        """K5: <ClassName>_1, continued where the run goes on; a name given wins."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of TensorBoard's own libraries
            for algorithm in ALGORITHMS:
                model = build(algorithm, env=Ticker, tensorboard_log=str(tmp_path)).learn(12)
                model.learn(6, reset_num_timesteps=False)
                assert sorted(path.name for path in tmp_path.iterdir()) == [f"{algorithm.__name__}_1"]
                model.learn(6)
                model.learn(6, tb_log_name="mine")
                wanted = {f"{algorithm.__name__}_1", f"{algorithm.__name__}_2", "mine_1"}
                assert {path.name for path in tmp_path.iterdir()} == wanted
                tmp_path = tmp_path / "next"
                tmp_path.mkdir()
