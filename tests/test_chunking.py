"""Chunks on the environment side: the space of chunks and the wrapper that executes them."""

import copy
import io
import pickle

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from stable_baselines3.common.env_util import is_wrapped, make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.utils import check_for_correct_spaces
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv

from ogpo_sb3.envs.chunking import ChunkActionWrapper, ChunkBox, chunk_size_of, steps_in

STEP_SPACE = spaces.Box(np.array([[-1.0, -2.0], [-3.0, 0.0]]), np.array([[1.0, 2.0], [3.0, 4.0]]), dtype=np.float64)


class Counter(gym.Env):
    """Observation t, reward 10^t; ends where it is told to; writes into its own observation array, as some simulators do."""

    observation_space = spaces.Box(0, 1e6, (2,), dtype=np.float32)

    def __init__(self, terminate_at=None, truncate_at=None, action_space=STEP_SPACE):
        self.action_space = action_space
        self.terminate_at, self.truncate_at = terminate_at, truncate_at
        self.state = np.zeros(2, dtype=np.float32)
        self.seen, self.resets = [], []

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.resets.append((seed, options))
        self.t = 0
        self.state[:] = 0
        return self.state, {}

    def step(self, action):
        self.seen.append(action.copy())
        self.t += 1
        self.state[:] = self.t
        terminated, truncated = self.t == self.terminate_at, self.t == self.truncate_at
        return self.state, 10.0 ** (self.t - 1), terminated, truncated, {"t": self.t, "is_success": terminated}

    def render(self):
        return "picture"

    def compute_reward(self, x):
        return x + 1


def chunk(h, value=0.5):
    return np.full(h * 4, value)


class TestChunkBox:
    def test_is_time_major_and_tiles_the_bounds(self):
        space = ChunkBox(STEP_SPACE, 3)
        assert space.shape == (12,) and space.dtype == np.float64 and space.chunk_size == 3
        assert space.step_shape == (2, 2)
        for part in range(3):
            np.testing.assert_array_equal(space.low[4 * part : 4 * part + 4], STEP_SPACE.low.reshape(-1))
            np.testing.assert_array_equal(space.high[4 * part : 4 * part + 4], STEP_SPACE.high.reshape(-1))
        assert space.contains(space.sample())

    @pytest.mark.parametrize("remake", [lambda s: pickle.loads(pickle.dumps(s)), copy.deepcopy, copy.copy])
    def test_remembers_its_chunk_size(self, remake):
        again = remake(ChunkBox(STEP_SPACE, 5))
        assert isinstance(again, ChunkBox) and again.chunk_size == 5 and again == ChunkBox(STEP_SPACE, 5)
        again.seed(0)
        assert again.contains(again.sample())

    def test_equals_the_plain_box(self):
        space = ChunkBox(STEP_SPACE, 2)
        plain = spaces.Box(space.low, space.high, dtype=np.float64)
        assert space == plain and plain == space
        env = DummyVecEnv([lambda: ChunkActionWrapper(Counter(), 2)])
        check_for_correct_spaces(env, env.observation_space, plain)
        assert space != ChunkBox(STEP_SPACE, 3)

    def test_chunk_size_of_any_space(self):
        assert chunk_size_of(ChunkBox(STEP_SPACE, 7)) == 7
        assert chunk_size_of(STEP_SPACE) == 1 and chunk_size_of(spaces.Discrete(3)) == 1

    @pytest.mark.parametrize("size", [0, -1, 2.0, "2", True, None])
    def test_refuses_other_chunk_sizes(self, size):
        with pytest.raises(ValueError, match="chunk_size"):
            ChunkBox(STEP_SPACE, size)

    def test_accepts_numpy_integers_and_refuses_other_spaces(self):
        assert ChunkBox(STEP_SPACE, np.int64(2)).chunk_size == 2
        with pytest.raises(ValueError, match="Discrete"):
            ChunkBox(spaces.Discrete(3), 2)


class TestStep:
    def test_full_chunk(self):
        env = ChunkActionWrapper(Counter(), 3)
        env.reset()
        action = np.arange(12) / 12
        obs, reward, terminated, truncated, info = env.step(action)
        np.testing.assert_array_equal(obs, [3, 3])
        assert reward == 111.0 and not terminated and not truncated  # undiscounted
        np.testing.assert_array_equal(env.unwrapped.seen, action.reshape(3, 2, 2))
        assert env.unwrapped.seen[0].dtype == np.float64
        assert info["t"] == 3 and steps_in(info) == 3
        assert info["chunk"]["rewards"].dtype == np.float32
        np.testing.assert_array_equal(info["chunk"]["rewards"], [1, 10, 100])
        np.testing.assert_array_equal(np.stack(info["chunk"]["next_observations"])[:, 0], [1, 2, 3])

    @pytest.mark.parametrize("end", ["terminate_at", "truncate_at"])
    @pytest.mark.parametrize("position", [1, 2, 3, 4])
    def test_stops_at_an_end(self, end, position):
        env = ChunkActionWrapper(Counter(**{end: position}), 4)
        env.reset()
        obs, reward, terminated, truncated, info = env.step(chunk(4))
        assert (terminated, truncated) == (end == "terminate_at", end == "truncate_at")
        assert steps_in(info) == position == len(env.unwrapped.seen) == len(info["chunk"]["next_observations"])
        assert reward == sum(10.0**t for t in range(position)) and obs[0] == position
        assert info["is_success"] == terminated and info["episode"]["l"] == position

    def test_what_it_emits_is_never_changed_later(self):
        env = ChunkActionWrapper(Counter(), 2)
        env.reset()
        first = env.step(chunk(2))[4]
        kept = copy.deepcopy(first)
        env.step(chunk(2))
        np.testing.assert_array_equal(first["chunk"]["next_observations"], kept["chunk"]["next_observations"])
        np.testing.assert_array_equal(first["chunk"]["rewards"], kept["chunk"]["rewards"])
        assert first["t"] == 2

    def test_the_callers_action_stays_as_it_was(self):
        class Greedy(Counter):
            def step(self, action):
                action *= 0
                return super().step(action)

        env = ChunkActionWrapper(Greedy(), 2)
        env.reset()
        action = chunk(2)
        env.step(action)
        np.testing.assert_array_equal(action, chunk(2))

    def test_dict_observations_are_copied(self):
        class Dicts(gym.ObservationWrapper):
            observation_space = spaces.Dict({"x": Counter.observation_space})

            def observation(self, observation):
                return {"x": observation}

        env = ChunkActionWrapper(Dicts(Counter()), 3)
        env.reset()
        found = env.step(chunk(3))[4]["chunk"]["next_observations"]
        assert [o["x"][0] for o in found] == [1, 2, 3]

    def test_emit_rewards_leaves_the_observations_out(self):
        env = ChunkActionWrapper(Counter(), 3, emit="rewards")
        env.reset()
        info = env.step(chunk(3))[4]
        assert set(info["chunk"]) == {"rewards"} and steps_in(info) == 3

    def test_steps_in_a_plain_info(self):
        assert steps_in({}) == 1 and steps_in({"chunk": None}) == 1

    @pytest.mark.parametrize("bad", [np.zeros(4), np.zeros((3, 4)), np.zeros(13), 0.0])
    def test_refuses_other_shapes(self, bad):
        env = ChunkActionWrapper(Counter(), 3)
        env.reset()
        with pytest.raises(ValueError, match=r"wanted \(12,\)"):
            env.step(bad)
        assert env.unwrapped.seen == []

    def test_refuses_nan(self):
        env = ChunkActionWrapper(Counter(), 2)
        env.reset()
        action = chunk(2)
        action[5] = np.nan
        with pytest.raises(ValueError, match="NaN at entry 5"):
            env.step(action)
        assert env.unwrapped.seen == []

    def test_a_list_is_an_action_of_the_spaces_dtype(self):
        env = ChunkActionWrapper(Counter(action_space=spaces.Box(-1, 1, (4,), dtype=np.float32)), 2)
        env.reset()
        env.step([0.5] * 8)
        assert env.unwrapped.seen[0].dtype == np.float32 and env.unwrapped.seen[0].shape == (4,)

    def test_one_step_per_chunk_is_the_plain_environment(self):
        plain, chunked = gym.make("Pendulum-v1"), ChunkActionWrapper(gym.make("Pendulum-v1"), 1)
        obs, same = plain.reset(seed=3)[0], chunked.reset(seed=3)[0]
        np.testing.assert_array_equal(obs, same)
        for _ in range(5):
            action = plain.action_space.sample()
            a, b = plain.step(action), chunked.step(action)
            np.testing.assert_array_equal(a[0], b[0])
            assert a[1:4] == b[1:4]


class TestWrapping:
    def test_reset_passes_its_arguments(self):
        env = ChunkActionWrapper(Counter(), 2)
        env.reset(seed=7, options={"a": 1})
        assert env.unwrapped.resets == [(7, {"a": 1})]

    def test_attributes_pass_through(self):
        env = ChunkActionWrapper(Counter(), 2)
        assert env.render() == "picture" and env.get_wrapper_attr("compute_reward")(1) == 2
        assert env.get_wrapper_attr("terminate_at") is None and env.chunk_size == 2

    def test_monitor_is_inside_and_only_once(self):
        env = ChunkActionWrapper(Counter(), 2)
        assert is_wrapped(env, Monitor) and isinstance(env.env, Monitor)
        inner = Monitor(Counter())
        assert ChunkActionWrapper(inner, 2).env is inner

    def test_statistics_count_environment_steps(self):
        class Policy:
            def predict(self, obs, **kwargs):
                return np.zeros((1, 4), dtype=np.float32), None

        env = make_vec_env("Pendulum-v1", wrapper_class=ChunkActionWrapper, wrapper_kwargs={"chunk_size": 4}, seed=0)
        _, lengths = evaluate_policy(Policy(), env, n_eval_episodes=1, return_episode_rewards=True)
        assert lengths == [200]
        plain = gym.make("Pendulum-v1")
        plain.action_space.seed(0)
        env.seed(5)
        env.reset()
        plain.reset(seed=5)
        expected = sum(plain.step(np.zeros(1, dtype=np.float32))[1] for _ in range(200))
        total = sum(float(env.step(np.zeros((1, 4), dtype=np.float32))[1][0]) for _ in range(50))
        assert total == pytest.approx(expected, rel=1e-5)

    def test_spec_remakes_an_equal_environment(self):
        env = ChunkActionWrapper(gym.make("Pendulum-v1", g=5.0), 4, emit="rewards")
        again = gym.make(env.spec)
        assert isinstance(again, ChunkActionWrapper)
        assert (again.chunk_size, again.emit, again.unwrapped.g) == (4, "rewards", 5.0)
        assert again.action_space == env.action_space
        assert env.spec is env.spec and env.spec.id == "Pendulum-v1"
        assert ChunkActionWrapper(Counter(), 2).spec is None

    def test_refuses_a_chunked_environment(self):
        for env in (ChunkActionWrapper(Counter(), 2), gym.wrappers.TimeLimit(ChunkActionWrapper(Counter(), 2), 3)):
            with pytest.raises(ValueError, match="chunked already"):
                ChunkActionWrapper(env, 2)

    def test_refuses_other_action_spaces_and_arguments(self):
        with pytest.raises(ValueError, match="Discrete"):
            ChunkActionWrapper(gym.make("CartPole-v1"), 2)
        with pytest.raises(ValueError, match="chunk_size is 0"):
            ChunkActionWrapper(Counter(), 0)
        with pytest.raises(ValueError, match="emit is 'none'"):
            ChunkActionWrapper(Counter(), 2, emit="none")

    def test_crosses_processes(self):
        env = SubprocVecEnv([lambda: ChunkActionWrapper(Counter(truncate_at=3), 2)], start_method="fork")
        try:
            env.reset()
            env.step(chunk(2)[None])
            obs, rewards, dones, infos = env.step(chunk(2)[None])
            assert env.action_space.chunk_size == 2 and dones[0] and infos[0]["TimeLimit.truncated"]
            assert steps_in(infos[0]) == 1 and rewards[0] == 100.0
            np.testing.assert_array_equal(infos[0]["chunk"]["next_observations"], [[3, 3]])
            np.testing.assert_array_equal(obs, [[0, 0]])
        finally:
            env.close()

    def test_space_survives_an_sb3_zip(self):
        from stable_baselines3 import SAC

        model = SAC("MlpPolicy", ChunkActionWrapper(gym.make("Pendulum-v1"), 3), buffer_size=1, policy_kwargs={"net_arch": []})
        file = io.BytesIO()
        model.save(file)
        file.seek(0)
        assert chunk_size_of(SAC.load(file).action_space) == 3
