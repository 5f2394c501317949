"""Evaluation: fixed seeds, no side effects, intervals, the callback's CSV and the pictures."""

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from ogpo_sb3 import DPPO, OGPO, ChunkActionWrapper, EvaluateCallback, evaluate
from ogpo_sb3.common.checkpoint import FullCheckpointCallback, checkpoints
from ogpo_sb3.evaluation.callback import append_row, read_rows
from ogpo_sb3.evaluation.plots import plot_learning_curve
from ogpo_sb3.evaluation.rollouts import EvaluationResult
from ogpo_sb3.evaluation.video import record_episode, write_side_by_side
from stable_baselines3.common.callbacks import EveryNTimesteps
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import SubprocVecEnv

from tests.toys import Reach

KWARGS = dict(
    learning_starts=20,
    batch_size=8,
    actor_batch_size=4,
    group_size=2,
    chunk_size=2,
    seed=0,
    device="cpu",
    policy_kwargs=dict(net_arch=[16], n_critics=2, denoising_steps=2),
)


@pytest.fixture
def model():
    return OGPO("FlowPolicy", Reach(), **KWARGS)


def test_equal_seeds_give_equal_episodes_however_many_run_side_by_side(model):
    alone, together = (evaluate(model, Reach, n_episodes=12, n_envs=n) for n in (1, 5))
    np.testing.assert_array_equal(alone.lengths, together.lengths)
    np.testing.assert_array_equal(alone.successes, together.successes)
    np.testing.assert_allclose(alone.returns, together.returns)
    reordered = evaluate(model, Reach, seeds=[10_003, 10_001])
    assert reordered.lengths.tolist() == [alone.lengths[3], alone.lengths[1]]
    other = evaluate(model, Reach, seeds=range(12))
    assert other.lengths.tolist() != alone.lengths.tolist()


@pytest.mark.parametrize("sampler", ["ode", "behaviour"])
def test_the_training_is_not_disturbed(model, sampler):
    th.manual_seed(3)
    np.random.seed(3)
    first = evaluate(model, Reach, n_episodes=5, sampler=sampler)
    drawn = th.rand(1).item(), np.random.rand()
    th.manual_seed(3)
    np.random.seed(3)
    assert (th.rand(1).item(), np.random.rand()) == drawn
    again = evaluate(model, Reach, n_episodes=5, sampler=sampler)
    np.testing.assert_array_equal(first.returns, again.returns)


def test_the_training_environments_starts_go_on_where_they_were(model):
    """Evaluated in the training's own environment, its later episodes must not begin from the evaluation's last seed."""
    own = model.get_env().envs[0].unwrapped
    before = own.np_random.bit_generator.state
    evaluate(model, n_episodes=2)
    assert own.np_random.bit_generator.state == before
    registered = OGPO("FlowPolicy", "Pendulum-v1", **KWARGS)
    wrappers = [wrapper.name for wrapper in registered.get_env().envs[0].spec.additional_wrappers]
    evaluate(registered, n_episodes=1)
    assert wrappers and [w.name for w in registered.get_env().envs[0].spec.additional_wrappers] == wrappers


@pytest.mark.parametrize("borrowed", ["by name", "by default", "and training stopped"])
def test_nothing_is_stored_across_an_evaluation_in_the_trainings_own_environment(borrowed):
    """Reach's goal is drawn at a reset: where it differs within a transition, that never happened."""
    env = Reach()
    model = OGPO("FlowPolicy", env, **KWARGS)

    def evaluated(local, _):
        if local["self"].num_timesteps % 7 < 2:
            evaluate(model, env if borrowed == "by name" else None, n_episodes=1)
        return not (borrowed == "and training stopped" and local["self"].num_timesteps % 7 < 2)

    for _ in range(10):
        model.learn(30, callback=evaluated, reset_num_timesteps=False)
    drawn = model.replay_buffer.sample(400)
    assert th.equal(drawn.observations[:, 1], drawn.next_observations[:, 1]) and len(drawn.observations[:, 1].unique()) > 4


@pytest.mark.parametrize("algorithm", [OGPO, DPPO])
def test_an_own_environment_given_by_name_is_noticed_by_every_algorithm(algorithm):
    env, sizes = Reach(), dict(n_steps=8, batch_size=4, n_epochs=1, chunk_size=2, seed=0, device="cpu")
    model = algorithm("FlowPolicy", env, **(KWARGS if algorithm is OGPO else sizes)).learn(10)
    assert model._last_obs is not None
    evaluate(model, Reach(), n_episodes=1)
    assert model._last_obs is not None
    evaluate(model, env, n_episodes=1)
    assert model._last_obs is None


class Restless(gym.Wrapper):
    """A user's wrapper, which gymnasium cannot make again: it does not record its arguments."""


def test_a_wrapper_that_does_not_record_its_arguments(model):
    wrapped = OGPO("FlowPolicy", Restless(gym.make("Pendulum-v1")), **KWARGS)
    found = evaluate(wrapped, n_episodes=2).returns
    np.testing.assert_allclose(found, evaluate(wrapped, "Pendulum-v1", n_episodes=2).returns, rtol=1e-5)
    elsewhere = make_vec_env(lambda: Restless(gym.make("Pendulum-v1")), 1, vec_env_cls=SubprocVecEnv)
    try:
        with pytest.raises(ValueError, match="an environment whose wrapper Restless does not record its arguments"):
            evaluate(OGPO("FlowPolicy", elsewhere, **{**KWARGS, "chunk_size": 1}), n_episodes=1)
    finally:
        elsewhere.close()


def test_the_success_that_is_evaluated_is_the_one_that_is_stored():
    class Robotics(Reach):
        """Success under gymnasium-robotics' key."""

        def step(self, action):
            *outcome, info = super().step(action)
            return *outcome, {"success": info["is_success"]}

    stored, evaluated = (
        [f(env) for env in (Reach, Robotics)]
        for f in (
            lambda env: OGPO("FlowPolicy", env(), **{**KWARGS, "learning_starts": 2000}).learn(1000).replay_buffer.n_success,
            lambda env: evaluate(OGPO("FlowPolicy", Reach(), **KWARGS), env, n_episodes=20).success_rate,
        )
    )
    assert stored[0] == stored[1] > 0 and evaluated[0] == evaluated[1] > 0


@pytest.mark.parametrize("callback", [EvaluateCallback(10), FullCheckpointCallback(10, "unused")])
def test_callbacks_that_count_themselves_are_not_triggered_by_others(model, callback):
    with pytest.raises(ValueError, match=r"counts its own steps .*, not inside EveryNTimesteps"):
        model.learn(20, callback=EveryNTimesteps(10, callback))


def test_a_broken_episode_leaves_nothing_behind(model):
    closed = []

    class Broken(Reach):
        def step(self, action):
            raise RuntimeError("the simulator broke")

        def close(self):
            closed.append(1)

    model.policy.set_training_mode(True)
    with pytest.raises(RuntimeError, match="simulator broke"):
        evaluate(model, Broken, n_episodes=3)
    assert len(closed) == 3 and model.policy.training
    with pytest.raises(ValueError, match="n_envs must be at least 1, found 0"):
        evaluate(model, Reach, n_envs=0)


def test_the_first_episodes_are_those_of_a_shorter_evaluation(model):
    long, short = (evaluate(model, Reach, n_episodes=n) for n in (9, 4))
    for name in ("seeds", "returns", "lengths", "successes"):
        np.testing.assert_allclose(getattr(long.first(4), name), getattr(short, name), rtol=1e-5)


def test_lengths_and_returns_count_environment_steps(model):
    result = evaluate(model, Reach, n_episodes=10)
    failed = ~result.successes
    assert (result.lengths[failed] == 20).all() and (result.returns[failed] == -20).all()
    assert (result.returns[result.successes] == -(result.lengths[result.successes] - 1)).all()


def test_sources_of_environments():
    model = OGPO("FlowPolicy", "Pendulum-v1", **KWARGS)
    by_id = evaluate(model, "Pendulum-v1", n_episodes=2)
    for env in (None, gym.make("Pendulum-v1"), make_vec_env("Pendulum-v1", 1), lambda: gym.make("Pendulum-v1")):
        np.testing.assert_allclose(evaluate(model, env, n_episodes=2).returns, by_id.returns, rtol=1e-5)
    assert by_id.success_rate is None and by_id.success_interval is None and by_id.lengths.tolist() == [200, 200]


def test_statistics():
    result = EvaluationResult(np.arange(4), np.zeros(4), np.array([10, 20, 30, 40]), np.array([True, False, True, False]))
    assert result.success_rate == 0.5 and result.steps_to_success == 20.0
    # Wilson's interval for 2 of 4 at 95 %, from its closed form: 0.5 +- z sqrt(n + z^2) / (2 (n + z^2))
    half = 1.959964 * (4 + 1.959964**2) ** 0.5 / (2 * (4 + 1.959964**2))
    assert result.success_interval == pytest.approx((0.5 - half, 0.5 + half))
    sure = EvaluationResult(np.arange(3), np.zeros(3), np.ones(3), np.ones(3, bool))
    assert sure.success_interval[1] == pytest.approx(1.0) and 0.3 < sure.success_interval[0] < 0.5


def test_bad_arguments_are_named(model, tmp_path):
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(ValueError, match="sampler"):
        evaluate(model, Reach, sampler="mode")
    with pytest.raises(ValueError, match="at least one episode"):
        evaluate(model, Reach, n_episodes=0)
    with pytest.raises(ValueError, match="action space"):
        evaluate(model, gym.make("Pendulum-v1"), n_episodes=1)
    with pytest.raises(ValueError, match="n_episodes must be a whole number, found '3'"):
        evaluate(model, Reach, n_episodes="3")
    assert len(evaluate(model, Reach, n_episodes=2.0).returns) == 2
    for other in ("model.zip", model.policy):
        with pytest.raises(ValueError, match=r"needs a model, as OGPO\.load"):
            evaluate(other, Reach)
    for arguments, named in (
        (dict(eval_freq=0), "eval_freq must be at least 1 environment step, found 0"),
        (dict(eval_freq=10, n_episodes=0), "n_episodes must be at least 1, found 0"),
        (dict(eval_freq=10, sampler="mode"), "sampler must be one of .*, found 'mode'"),
        (dict(eval_freq=10, env="Pendulm-v1"), "Environment `Pendulm` doesn't exist"),
        (dict(eval_freq=10, csv_path=tmp_path), "csv_path: .* is a folder, wanted a file"),
        (dict(eval_freq=10, csv_path=file / "curve.csv"), "csv_path: .*file is a file, wanted a folder"),
    ):
        with pytest.raises((ValueError, gym.error.Error), match=named):
            EvaluateCallback(**arguments)
    with pytest.raises(ValueError, match=r"save_path: .*file is a file, wanted a folder"):
        FullCheckpointCallback(10, file / "checkpoints")
    assert EvaluateCallback(10, env="Pendulum-v1", csv_path=tmp_path / "new" / "curve.csv").csv_path is not None


def test_environments_that_do_not_suit_are_named_and_closed(model):
    closed = []

    class Wide(Reach):
        def __init__(self):
            super().__init__()
            self.action_space = gym.spaces.Box(-1, 1, (3,), dtype=np.float32)

        def close(self):
            closed.append(self)

    for source in (Wide, lambda: ChunkActionWrapper(Wide(), 2), lambda: ChunkActionWrapper(Wide(), 4)):
        with pytest.raises(ValueError, match=r"the environment's action space is .*, wanted"):
            evaluate(model, source, n_episodes=2)
    assert len(closed) == 3
    same = Reach()
    with pytest.raises(ValueError, match="makes a new environment at each call, found one twice"):
        evaluate(model, lambda: same, n_episodes=2)
    evaluate(model, lambda: same, n_episodes=2, n_envs=1)


def test_what_is_no_environment_is_named(model):
    wanted = r"env must be an environment, its id, a VecEnv of Stable-Baselines3 \(make_vec_env\) or a function that makes an "
    for source, found in (
        (gym.make_vec("Pendulum-v1", 2), "SyncVectorEnv"),
        ([Reach()], "list"),
        (3, "int"),
        (lambda: make_vec_env(Reach, 1), "a function that makes DummyVecEnv"),
        (lambda: None, "a function that makes NoneType"),
    ):
        with pytest.raises(ValueError, match=rf"{wanted}environment, found {found}$"):
            evaluate(model, source, n_episodes=1)


def test_observations_of_another_environment_are_named(model):
    class Farther(Reach):
        def __init__(self):
            super().__init__()
            self.observation_space = gym.spaces.Box(-2.0, 2.0, (3,), np.float32)

    for source in (Farther, Farther()):
        with pytest.raises(ValueError, match=r"the environment's observation space is Box\(.*\(3,\).*, wanted Box\(.*\(2,\)"):
            evaluate(model, source, n_episodes=1)


def test_a_row_cut_short_is_replaced_and_an_empty_file_gets_its_header(tmp_path):
    """As a process that was killed while it wrote leaves them."""
    result = EvaluationResult(np.array([1]), np.array([2.0]), np.array([3]), np.array([True]))
    path = tmp_path / "new" / "curve.csv"
    for steps in (0, 10):
        append_row(path, steps, result)
    whole = path.read_bytes()
    path.write_bytes(whole + b"20,0.7,0.")
    append_row(path, 20, result)
    assert path.read_bytes().startswith(whole) and [row["timesteps"] for row in read_rows(path)] == [0, 10, 20]
    assert all(row["success_rate"] == 1.0 and row["mean_length"] == 3.0 for row in read_rows(path))
    path.write_bytes(b"")
    append_row(path, 5, result)
    assert [row["timesteps"] for row in read_rows(path)] == [5] and len(list(path.parent.iterdir())) == 1


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"a,b\n1,2\n3,4", "'a,b'"),
        (b"notes", "'notes'"),
        (b"\n", "''"),
        (b"timesteps,success_rate\n10,0.5\n", "'timesteps,success_rate'"),
        (b"\x89PNG\r\n\x1a\n\xff\xfe", "'\N{REPLACEMENT CHARACTER}PNG'"),
        (b"\xff" * 5000, "'" + 60 * "\N{REPLACEMENT CHARACTER}" + "'"),
    ],
)
def test_a_file_of_something_else_is_refused_before_the_training(tmp_path, content, found):
    path = tmp_path / "foreign.csv"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"csv_path: .*foreign\.csv holds something else") as error:
        EvaluateCallback(10, csv_path=path)
    sentence = str(error.value)
    assert f"foreign.csv holds something else ({found}" in sentence and len(sentence) < len(str(path)) + 200
    assert sentence.endswith("wanted a new file or a table of EvaluateCallback") and path.read_bytes() == content


@pytest.mark.parametrize("cut", [0, 1, 5, 20, None])
def test_a_table_is_gone_on_with_however_it_was_cut_off(model, tmp_path, cut):
    path = tmp_path / "curve.csv"
    append_row(path, 0, EvaluationResult(np.array([1]), np.array([2.0]), np.array([3]), np.array([True])))
    header, row = path.read_bytes().splitlines(keepends=True)
    for whole in (header, header + row):
        path.write_bytes(whole if cut is None else whole[: len(whole) - cut])
        kept = [0.0] if whole != header and not cut else []
        model.learn(20, callback=EvaluateCallback(20, 2, Reach, path))
        assert [row["timesteps"] for row in read_rows(path)] == [*kept, model.num_timesteps]
        assert path.read_bytes().startswith(header)
    path.write_bytes(b"")
    assert EvaluateCallback(10, csv_path=path).csv_path == path


def test_callback_writes_rows_as_they_come_and_a_continued_run_adds_no_double(model, tmp_path):
    path = tmp_path / "curve.csv"
    watch = EvaluateCallback(40, n_episodes=4, env=Reach, csv_path=path)
    model.learn(100, callback=[watch, FullCheckpointCallback(40, tmp_path / "ckpt", keep=1)])
    rows = read_rows(path)
    assert [row["timesteps"] // 40 for row in rows] == [1, 2]
    assert all(0 <= row["success_low"] <= row["success_rate"] <= row["success_high"] <= 1 for row in rows)
    assert "eval/success_rate" in model.logger.name_to_value
    saved = checkpoints(tmp_path / "ckpt")
    assert len(saved) == 1
    again = OGPO.load_checkpoint(saved[-1], env=Reach(), device="cpu")
    again.learn(100 - again.num_timesteps, callback=EvaluateCallback(40, 4, Reach, path), reset_num_timesteps=False)
    assert len({row["timesteps"] // 40 for row in read_rows(path)}) == 2


def test_learning_curve_picture(tmp_path):
    rows = [dict(timesteps=1000.0 * i, success_rate=0.1 * i, success_low=0.05 * i, success_high=0.15 * i) for i in range(5)]
    plot_learning_curve(rows, tmp_path / "curve.png", "title", before=0.3)
    assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")


def test_video_of_a_real_environment(tmp_path):
    import imageio.v2 as imageio

    model = OGPO("FlowPolicy", "Pendulum-v1", **KWARGS)
    env = gym.make("Pendulum-v1", render_mode="rgb_array", max_episode_steps=9)
    frames, success = record_episode(model, env, seed=1)
    assert len(frames) == 10 and not success
    assert len(record_episode(model, env, seed=1, every=4)[0]) == 4, "the first, the fourth, the eighth and the last"
    assert len(record_episode(model, env, seed=1, max_steps=5)[0]) == 6
    before = th.get_rng_state()
    by_noise = [record_episode(model, env, seed=1, sampler="behaviour")[0] for _ in range(2)]
    assert all((a == b).all() for a, b in zip(*by_noise, strict=True)) and (th.get_rng_state() == before).all()
    assert any((a != b).any() for a, b in zip(by_noise[0], frames, strict=True))
    write_side_by_side([("before", frames[:4]), ("after", frames)], tmp_path / "out.mp4")
    video = imageio.mimread(tmp_path / "out.mp4", memtest=False)
    assert len(video) == 10
    assert video[0].shape[1] == 2 * frames[0].shape[1] and not list(tmp_path.glob(".*"))
