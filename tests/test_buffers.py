"""The chunk replay buffer against slow references: lists of episodes, and Stable-Baselines3's own buffer."""

import copy
import io
from collections import Counter, deque

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3 import SAC, TD3
from stable_baselines3.common.buffers import DictReplayBuffer, ReplayBuffer
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.save_util import load_from_pkl, save_to_pkl
from stable_baselines3.common.vec_env import DummyVecEnv, VecFrameStack, VecNormalize, VecTransposeImage

from ogpo_sb3.common.buffers import ChunkReplayBuffer, ChunkReplaySamples
from ogpo_sb3.envs.chunking import ChunkActionWrapper, ChunkBox

OBS = spaces.Box(-np.inf, np.inf, (2,), dtype=np.float32)
STEP = spaces.Box(-1, 1, (2,), dtype=np.float32)
GAMMA = 0.9


def make(size=1000, h=4, n_envs=1, obs=OBS, **kwargs):
    kwargs.setdefault("gamma", GAMMA)
    return ChunkReplayBuffer(size, obs, ChunkBox(STEP, h), device="cpu", n_envs=n_envs, chunk_size=h, **kwargs)


class Row:
    """One environment step, as a reference keeps it; ``key`` is its observation's first entry, unique in the stream."""

    def __init__(self, key, action, reward, next_key):
        self.key, self.action, self.reward, self.next_key = key, action, reward, next_key
        self.stop = None  # None, "terminated", "truncated" or "cut"
        self.success = self.start = False
        self.mc = None


class World:
    """
    Random environments that feed a buffer by chunks (or by single steps) and keep the last rows in plain lists.

    :param p_end: chance that a step ends the episode
    :param by_steps: hand the same stream over one step at a time
    """

    def __init__(self, buffer, seed=0, p_end=0.15, by_steps=False, emit="full"):
        self.buffer, self.h, self.n = buffer, buffer.chunk_size, buffer.n_envs
        self.rng = np.random.default_rng(seed)
        self.p_end, self.by_steps, self.emit = p_end, by_steps, emit
        self.kinds, self.p_success = ["terminated", "truncated"], 0.5
        self.rows = [deque(maxlen=buffer.buffer_size) for _ in range(self.n)]
        self.episode = [[] for _ in range(self.n)]
        self.fresh = 0.0
        self.now = [self.new() for _ in range(self.n)]

    def new(self):
        self.fresh += 1.0
        return self.fresh

    def obs(self, keys):
        return np.array([[key, -key] for key in keys], dtype=np.float32)

    def decide(self):
        """One decision in every environment."""
        before, actions, infos, dones, after = list(self.now), [], [], [], []
        for i in range(self.n):
            action = self.rng.uniform(-1, 1, (self.h, 2)).astype(np.float32)
            rewards, keys, end = [], [], None
            for j in range(self.h):
                row = Row(self.now[i], action[j], np.float32(self.rng.normal()), self.new())
                row.start = j == 0
                self.rows[i].append(row)
                self.episode[i].append(row)
                rewards.append(row.reward)
                keys.append(row.next_key)
                self.now[i] = row.next_key
                if self.rng.random() < self.p_end:
                    end = row.stop = self.kinds[self.rng.integers(len(self.kinds))]
                    break
            success = bool(end == "terminated" and self.rng.random() < self.p_success)
            info = {"TimeLimit.truncated": end == "truncated", "is_success": success}
            info["chunk"] = {"rewards": np.array(rewards, np.float32), "next_observations": list(self.obs(keys))}
            if self.emit == "rewards":
                del info["chunk"]["next_observations"]
            after.append(self.now[i])
            if end is not None:
                self.finish(i, success)
            actions.append(action.reshape(-1))
            infos.append(info)
            dones.append(end is not None)
        if self.by_steps:
            self.give_steps(before, actions, infos, dones)
        else:
            sums = np.array([sum(info["chunk"]["rewards"]) for info in infos])
            self.buffer.add(self.obs(before), self.obs(after), np.array(actions), sums, np.array(dones), infos)
        for i in range(self.n):
            if dones[i]:
                self.now[i] = self.new()

    def give_steps(self, before, actions, infos, dones):
        assert self.n == 1
        chunk, key = infos[0]["chunk"], self.obs(before)
        for j, following in enumerate(chunk["next_observations"]):
            last = j == len(chunk["rewards"]) - 1
            step = actions[0].reshape(self.h, 2)[j][None]
            info = {name: infos[0][name] for name in ("TimeLimit.truncated", "is_success")} if last else {}
            self.buffer.add(key, following[None], step, chunk["rewards"][j : j + 1], np.array([dones[0] and last]), [info])
            key = following[None]

    def finish(self, i, success):
        total = 0.0
        for row in reversed(self.episode[i]):
            total = row.mc = float(row.reward) + GAMMA * total
            row.success = success
        self.episode[i] = []

    def leave(self, i):
        """Leave the episode of environment i without a done flag."""
        if self.rows[i] and self.rows[i][-1].stop is None:
            self.rows[i][-1].stop = "cut"
        self.episode[i] = []
        self.now[i] = self.new()

    def windows(self):
        """Every window by its first key: rows, and whether it is cut by the write head of a running episode."""
        found = {}
        for rows in map(list, self.rows):
            for t in range(len(rows)):
                window = []
                for row in rows[t : t + self.h]:
                    window.append(row)
                    if row.stop:
                        break
                found[rows[t].key] = window, len(window) < self.h and window[-1].stop is None
        return found

    def eligible(self):
        return {key for key, (_, open_ended) in self.windows().items() if not open_ended}


def check(samples, world, handle_timeout=True):
    """Compare each sampled window with its reference; returns the keys seen."""
    windows, h = world.windows(), world.h
    samples = ChunkReplaySamples(*(None if part is None else part.numpy() for part in samples))
    for b in range(len(samples.observations)):
        key = float(samples.observations[b, 0])
        rows, _ = windows[key]
        k = len(rows)
        assert samples.observations[b].tolist() == [key, -key]
        assert samples.valid[b].tolist() == [1.0] * k + [0.0] * (h - k)
        assert samples.rewards[b].item() == pytest.approx(
            sum(GAMMA**i * float(r.reward) for i, r in enumerate(rows)), abs=1e-5
        )
        assert samples.discounts[b].item() == pytest.approx(GAMMA**k, rel=1e-6)
        assert samples.next_observations[b].tolist() == [rows[-1].next_key, -rows[-1].next_key]
        terminal = rows[-1].stop == "terminated" or (rows[-1].stop == "truncated" and not handle_timeout)
        assert samples.dones[b].item() == float(terminal)
        expected = np.concatenate([row.action for row in rows] + [np.zeros(2)] * (h - k))
        np.testing.assert_array_equal(samples.actions[b], expected)
        assert samples.mc_valid[b].item() == float(rows[0].mc is not None)
        if rows[0].mc is not None:
            assert samples.mc_returns[b].item() == pytest.approx(rows[0].mc, abs=1e-4)
    return {float(key) for key in samples.observations[:, 0]}


def check_all(buffer, world, **kwargs):
    """Draw so often that every eligible window turns up, and nothing else."""
    np.random.seed(1)
    seen = set()
    for _ in range(3):
        seen |= check(buffer.sample(500), world, **kwargs)
    assert seen == world.eligible()


def consistent(buffer, world):
    """Pool slots, marks and counts agree with the reference."""
    assert buffer._store.slots_in_use == sum(row.stop is not None for rows in world.rows for row in rows)
    assert buffer.n_success == sum(row.success for rows in world.rows for row in rows) == buffer.successes.sum()
    assert buffer.size() == max(map(len, world.rows))
    assert buffer.full == any(len(rows) == buffer.buffer_size for rows in world.rows)


class TestWindows:
    @pytest.mark.parametrize("h", [1, 3, 4])
    @pytest.mark.parametrize("n_envs", [1, 3])
    @pytest.mark.parametrize("seed", [0, 1])
    def test_against_the_reference_over_several_laps(self, h, n_envs, seed):
        buffer = make(29 * n_envs + n_envs // 2, h, n_envs)  # an uneven rest is left out
        world = World(buffer, seed)
        for step in range(60):
            world.decide()
            if step % 9 == 0 or step > 57:
                check_all(buffer, world)
                consistent(buffer, world)
        assert len(set(buffer._heads.tolist())) > 1 or 1 in (h, n_envs)  # heads drifted apart
        assert buffer.full and buffer.size() == 29

    @pytest.mark.parametrize("n_envs", [1, 3])
    def test_with_cuts_and_unannounced_interruptions(self, n_envs):
        buffer = make(31 * n_envs, 3, n_envs)
        world = World(buffer, seed=5, p_end=0.05)
        for step in range(60):
            world.decide()
            i = int(world.rng.integers(n_envs))
            if step % 4 == 0:
                buffer.cut([i])
                world.leave(i)
            if step % 7 == 0:
                world.leave(i)  # the buffer has to find out by itself
            if step % 10 == 5:
                world.decide()
                check_all(buffer, world)
                consistent(buffer, world)

    @pytest.mark.parametrize("stop", ["terminated", "truncated"])
    @pytest.mark.parametrize("position", range(4))
    def test_end_at_every_position_of_a_chunk(self, stop, position):
        buffer, k = make(100, 4), position + 1
        rewards, keys = [1.0, 2.0, 4.0, 8.0][:k], np.arange(1.0, 6.0)
        obs = np.stack([keys, keys], axis=1).astype(np.float32)
        action = np.arange(1, 9, dtype=np.float32)[None] / 10
        chunk = {"rewards": np.array(rewards, np.float32), "next_observations": list(obs[1 : k + 1])}
        info = {"chunk": chunk, "TimeLimit.truncated": stop == "truncated"}
        buffer.add(obs[:1], obs[k : k + 1], action, np.array([sum(rewards)]), np.array([True]), [info])
        samples = buffer.sample(64)
        assert set(samples.observations[:, 0].tolist()) == set(range(1, k + 1))
        for b in range(64):
            left = k - int(samples.observations[b, 0]) + 1
            expected = pytest.approx(sum(GAMMA**i * r for i, r in enumerate(rewards[k - left :])))
            assert samples.rewards[b].item() == expected and samples.mc_returns[b].item() == expected
            assert samples.discounts[b].item() == pytest.approx(GAMMA**left)
            assert samples.dones[b].item() == (stop == "terminated")
            assert samples.next_observations[b].tolist() == [k + 1, k + 1]

    def test_chunks_and_single_steps_give_the_same_rows(self):
        by_chunks, by_steps = make(37, 4), make(37, 4)
        worlds = World(by_chunks, 3), World(by_steps, 3, by_steps=True)
        for _ in range(40):
            for world in worlds:
                world.decide()
        for name in ("observations", "actions", "rewards", "dones", "timeouts", "successes", "mc_returns", "mc_valid"):
            np.testing.assert_array_equal(getattr(by_chunks, name), getattr(by_steps, name), err_msg=name)
        check_all(by_steps, worlds[1])
        samples = []
        for buffer in (by_chunks, by_steps):
            np.random.seed(0)
            samples.append(buffer.sample(50))
        for a, b in zip(*samples, strict=True):
            assert a is b is None or th.equal(a, b)

    def test_starts_are_uniform_over_rows_and_environments(self):
        buffer = make(3 * 20, 3, 3)
        world = World(buffer, seed=2)
        for _ in range(6):
            world.decide()
        assert len({len(rows) for rows in world.rows}) > 1  # different numbers of rows
        np.random.seed(0)
        n, eligible = 40_000, world.eligible()
        counts = Counter(buffer.sample(n).observations[:, 0].tolist())
        expected = n / len(eligible)
        assert set(counts) == eligible
        chi2 = sum((count - expected) ** 2 / expected for count in counts.values())
        assert chi2 < len(eligible) + 5 * np.sqrt(2 * len(eligible))

    def test_incomplete_windows_are_offered_only_while_there_is_nothing_else(self):
        buffer = make(100, 4)
        world = World(buffer)
        chunk = np.zeros((1, 2), dtype=np.float32)
        for t in range(3):
            buffer.add(world.obs([t]), world.obs([t + 1]), chunk, np.ones(1), np.zeros(1), [{}])
            samples = buffer.sample(100)
            assert {float(x) for x in samples.observations[:, 0]} == set(range(t + 1))
            np.testing.assert_array_equal(samples.valid.sum(1), t + 1 - samples.observations[:, 0])
            np.testing.assert_array_equal(samples.next_observations[:, 0], t + 1)
            assert not samples.dones.any()
        for t in range(3, 6):
            buffer.add(world.obs([t]), world.obs([t + 1]), chunk, np.ones(1), np.zeros(1), [{}])
            assert {float(x) for x in buffer.sample(100).observations[:, 0]} == set(range(t - 2))

    @pytest.mark.parametrize("size", [1, 2, 3, 5])
    def test_buffers_shorter_than_a_chunk(self, size):
        buffer = make(float(size), 4)
        world = World(buffer, seed=1)
        for _ in range(25):
            world.decide()
            samples = buffer.sample(40)
            check(samples, world)
            consistent(buffer, world)

    def test_cut_bootstraps_and_is_harmless_at_ends(self):
        buffer = make(50, 2)
        world = World(buffer, p_end=0.0)
        buffer.cut()  # nothing stored yet
        world.decide()
        buffer.cut(0)
        world.leave(0)
        slots = buffer._store.slots_in_use
        buffer.truncate_last_trajectory()
        assert buffer._store.slots_in_use == slots == 1
        world.decide()
        world.decide()
        check_all(buffer, world)
        assert not buffer.sample(64).dones.any() and buffer.dones.sum() == 0
        for bad in (1, [0, 2], -1):
            with pytest.raises(ValueError, match="env_indices"):
                buffer.cut(bad)

    def test_time_limits_terminate_if_so_chosen(self):
        buffer = make(40, 3, handle_timeout_termination=False)
        world = World(buffer, seed=4)
        for _ in range(30):
            world.decide()
        check_all(buffer, world, handle_timeout=False)
        assert any(row.stop == "truncated" for row in world.rows[0])

    def test_reset_forgets_everything(self):
        buffer = make(20, 3)
        world = World(buffer)
        for _ in range(30):
            world.decide()
        buffer.reset()
        assert buffer.size() == buffer.pos == buffer.n_success == buffer._store.slots_in_use == 0 and not buffer.full
        with pytest.raises(ValueError, match="empty"):
            buffer.sample(1)
        world = World(buffer, seed=9)
        for _ in range(5):
            world.decide()
        check_all(buffer, world)

    def test_follows_set_random_seed(self):
        buffer = make(200, 3)
        world = World(buffer)
        for _ in range(50):
            world.decide()
        draws = []
        for seed in (3, 3, 4):
            np.random.seed(seed)
            draws.append(buffer.sample(30).observations)
        assert th.equal(draws[0], draws[1]) and not th.equal(draws[0], draws[2])


class TestAgainstReplayBuffer:
    @pytest.mark.parametrize("n_envs", [1, 3])
    @pytest.mark.parametrize("n_steps", [7, 20, 47])
    @pytest.mark.parametrize("handle", [True, False])
    def test_sample_for_sample(self, n_envs, n_steps, handle):
        ours = make(20 * n_envs, 1, n_envs, handle_timeout_termination=handle)
        theirs = ReplayBuffer(20 * n_envs, OBS, ChunkBox(STEP, 1), "cpu", n_envs, handle_timeout_termination=handle)
        self.feed((ours, theirs), n_envs, n_steps, lambda rng, n: rng.normal(size=(n, 2)).astype(np.float32))
        assert (ours.pos, ours.full, ours.size()) == (theirs.pos, theirs.full, theirs.size())
        for seed in range(3):
            self.compare(ours, theirs, seed)

    def test_dict_observations(self):
        space = spaces.Dict({"v": OBS, "n": spaces.Discrete(5), "b": spaces.MultiBinary(3)})
        ours, theirs = make(24, 1, 2, obs=space), DictReplayBuffer(24, space, STEP, "cpu", 2)

        def draw(rng, n):
            return {
                "v": rng.normal(size=(n, 2)).astype(np.float32),
                "n": rng.integers(0, 5, n),
                "b": rng.integers(0, 2, (n, 3)),
            }

        self.feed((ours, theirs), 2, 31, draw)
        self.compare(ours, theirs, 0)

    @pytest.mark.parametrize("space", [spaces.Discrete(5), spaces.MultiDiscrete([3, 4]), spaces.MultiBinary(3)])
    def test_other_observations(self, space):
        ours, theirs = make(24, 1, 2, obs=space), ReplayBuffer(24, space, STEP, "cpu", 2)
        space.seed(0)
        self.feed((ours, theirs), 2, 31, lambda rng, n: np.array([space.sample() for _ in range(n)]))
        self.compare(ours, theirs, 0)

    @staticmethod
    def feed(buffers, n_envs, n_steps, draw):
        rng = np.random.default_rng(n_steps)
        obs = draw(rng, n_envs)
        for _ in range(n_steps):
            following = draw(rng, n_envs)
            dones = rng.random(n_envs) < 0.2
            infos = [{"TimeLimit.truncated": bool(done and rng.random() < 0.5)} for done in dones]
            args = obs, following, rng.uniform(-1, 1, (n_envs, 2)), rng.normal(size=n_envs), dones, infos
            for buffer in buffers:
                buffer.add(*copy.deepcopy(args))
            obs = following
            if dones.any():
                new = draw(rng, n_envs)
                for part, other in [(obs, new)] if not isinstance(obs, dict) else [(obs[key], new[key]) for key in obs]:
                    part[dones] = other[dones]

    @staticmethod
    def compare(ours, theirs, seed):
        samples = []
        for buffer in (ours, theirs):
            np.random.seed(seed)
            samples.append(buffer.sample(40))
        for name in ("observations", "actions", "next_observations", "dones", "rewards"):
            a, b = getattr(samples[0], name), getattr(samples[1], name)
            for x, y in [(a, b)] if not isinstance(a, dict) else [(a[key], b[key]) for key in a]:
                assert x.dtype == y.dtype and th.equal(x, y), name
        assert (samples[0].discounts == np.float32(GAMMA)).all() and (samples[0].valid == 1).all()

    def test_extend_with_its_own_arrays(self):
        buffer = make(30, 1)
        world = World(buffer)
        for _ in range(20):
            world.decide()
        other, pos = make(30, 1), buffer.pos
        obs, rest = buffer.observations[:pos], [a[:pos] for a in (buffer.actions, buffer.rewards, buffer.dones)]
        infos = [[{"TimeLimit.truncated": bool(t)} for t in row] for row in buffer.timeouts[:pos]]
        other.extend(obs, obs, *rest, infos)  # as Stable-Baselines3's own test does; no observation follows from the last
        assert other.pos == pos
        for name in ("observations", "actions", "rewards", "dones", "timeouts"):
            np.testing.assert_array_equal(getattr(other, name)[:pos], getattr(buffer, name)[:pos])


class TestSuccess:
    def test_only_marked_rows_uniformly(self):
        buffer = make(3 * 40, 3, 3)
        world = World(buffer, seed=3)
        lost = False
        for _ in range(60):
            before = buffer.n_success
            world.decide()
            lost |= buffer.n_success < before
            consistent(buffer, world)
        assert lost  # overwritten rows left the count
        np.random.seed(0)
        marked = {row.key for rows in world.rows for row in rows if row.success}
        samples = buffer.sample(6000, success_only=True)
        counts = Counter(samples.observations[:, 0].tolist())
        assert set(counts) == marked
        chi2 = sum((c - 6000 / len(marked)) ** 2 / (6000 / len(marked)) for c in counts.values())
        assert chi2 < len(marked) + 5 * np.sqrt(2 * len(marked))
        check(samples, world)

    @pytest.mark.parametrize("drop", [False, True])
    def test_rare_successes_come_from_a_list_that_follows_the_marks(self, drop):
        buffer = make(200, 2, chunk_end="drop" if drop else "pad")
        world = World(buffer)
        world.kinds = ["terminated"]

        def episode(success):
            world.p_success = float(success)
            for world.p_end in (0.0, 1.0):
                world.decide()  # two steps, then one that ends the episode

        episode(True)
        for _ in range(30):
            episode(False)
        episode(True)
        assert buffer.n_success == 6 and buffer.n_success * 8 < buffer.size()
        expected = {r.key for r in world.rows[0] if r.success and not (drop and r.stop)}
        assert check(buffer.sample(300, success_only=True), world) == expected
        episode(True)  # after the list was made
        expected = {r.key for r in world.rows[0] if r.success and not (drop and r.stop)}
        assert buffer.n_success == 9
        assert check(buffer.sample(300, success_only=True), world) == expected
        for _ in range(40):
            episode(False)
            last = {r.key for r in world.rows[0] if r.success and not (drop and r.stop)}
            assert check(buffer.sample(100, success_only=True), world) == last
        assert last < expected

    def test_refused_while_there_is_none(self):
        buffer = make(50, 2)
        World(buffer, p_end=0.0).decide()
        with pytest.raises(ValueError, match="n_success is 0"):
            buffer.sample(4, success_only=True)

    def test_a_cut_episode_is_no_success(self):
        buffer = make(50, 2)
        world = World(buffer, p_end=0.0)
        for _ in range(3):
            world.decide()
        buffer.cut()
        action, obs = np.zeros((1, 2)), world.obs
        buffer.add(obs([50]), obs([51]), action, np.ones(1), np.ones(1), [{"is_success": True}])
        assert buffer.n_success == 1 and buffer.mc_valid.sum() == 1
        assert buffer.sample(5, success_only=True).observations[:, 0].unique().tolist() == [50]


class TestDecisions:
    def test_aligned_windows_begin_at_decisions(self):
        buffer = make(3 * 30, 3, 3)
        world = World(buffer, seed=1)
        for _ in range(60):
            world.decide()
        starts = {row.key for rows in world.rows for row in rows if row.start} & world.eligible()
        samples = buffer.sample(2000, aligned=True)
        assert check(samples, world) == starts and samples.decision is None

    def test_recorded_arrays_come_back_with_their_decision(self):
        buffer = make(60, 3, 2, decision_arrays={"latent": 3, "weight": 1})
        key, expected = 0.0, {}
        for t in range(40):
            obs = np.array([[key, t], [key + 1000, t]], np.float32)
            following = obs + 1
            infos = []
            for i in range(2):
                latent = np.array([key, i, t], np.float32)
                infos.append({"decision": {"latent": latent, "weight": t}})
                expected[obs[i, 0]] = [*latent, t]
            buffer.add(obs, following, np.zeros((2, 2)), np.zeros(2), np.zeros(2), infos)
            key += 1
        samples = buffer.sample(300, aligned=True)
        for b in range(300):
            found = [*samples.decision["latent"][b].tolist(), *samples.decision["weight"][b].tolist()]
            assert found == expected[float(samples.observations[b, 0])]
        assert buffer.sample(5).decision is None
        for decision, what in (({}, "missing"), ({"latent": [1, 2]}, "2 wide"), ({"latent": [0, np.nan, 0]}, "NaN")):
            infos[1] = {"decision": decision}
            with pytest.raises(ValueError, match=what):
                buffer.add(obs, following, np.zeros((2, 2)), np.zeros(2), np.zeros(2), infos)

    @pytest.mark.parametrize("h", [1, 3])
    def test_without_inner_observations_windows_begin_at_decisions(self, h):
        buffer = make(2 * 31, h, 2)
        world = World(buffer, seed=2, emit="rewards")
        for step in range(50):
            world.decide()
            if step % 8 == 7:
                if step > 30:
                    buffer.cut(1)
                    world.leave(1)
                starts = {row.key for rows in world.rows for row in rows if row.start} & world.eligible()
                np.random.seed(0)
                assert check(buffer.sample(600), world) == starts

    def test_windows_whose_next_observation_was_not_reported_are_left_out(self):
        buffer = make(60, 2)
        obs = [np.full((1, 2), t, np.float32) for t in range(5)]
        chunk = {"chunk": {"rewards": [0.0, 0.0]}}
        steps = (0, 1, np.zeros((1, 2)), {}), (1, 3, np.zeros((1, 4)), chunk), (3, 4, np.zeros((1, 2)), {})
        for before, after, action, info in steps:
            buffer.add(obs[before], obs[after], action, np.zeros(1), np.zeros(1), [info])
        assert buffer.size() == 4
        assert buffer.sample(50).observations[:, 0].unique().tolist() == [1]  # that of row 0 would lead inside the chunk

    def test_no_decision_among_the_rows(self):
        buffer = make(60, 3, decision_arrays={"latent": 1})
        buffer.add_dataset(np.zeros((5, 2)), np.zeros((5, 2)), np.zeros(5), np.zeros(5), np.zeros(5))
        with pytest.raises(ValueError, match="no aligned window"):
            buffer.sample(3, aligned=True)


class TestOptions:
    @pytest.mark.parametrize("h", [2, 4])
    def test_drop_leaves_out_windows_with_an_end_before_their_last_step(self, h):
        buffer = make(3 * 50, h, 3, chunk_end="drop")
        world = World(buffer, seed=6, p_end=0.25)
        for step in range(50):
            world.decide()
            if step % 5 == 4:
                full = {key for key, (rows, _) in world.windows().items() if len(rows) == h}
                assert check(buffer.sample(1500), world) == full

    def test_drop_finds_the_last_full_window_and_offers_short_ones_only_without(self):
        obs, ends = np.arange(400.0).repeat(2).reshape(-1, 2), np.ones(400)
        ends[200:203] = 0  # a single episode is long enough
        args = obs, np.zeros((400, 2)), np.zeros(400)
        buffer = make(400, 4, chunk_end="drop")
        buffer.add_dataset(*args, ends, np.zeros(400))
        assert buffer.sample(50).observations[:, 0].unique().tolist() == [200]
        buffer = make(400, 4, chunk_end="drop")
        buffer.add_dataset(*args, np.ones(400), np.zeros(400))
        samples = buffer.sample(50)
        assert (samples.valid.sum(1) == 1).all() and len(samples.observations[:, 0].unique()) > 20

    def test_replay_pads_with_the_rest_of_the_chosen_chunk(self):
        buffer, twin = make(2 * 37, 4, 2, pad_actions="replay"), make(2 * 37, 4, 2)
        chosen = {}
        for b in (buffer, twin):
            world = World(b, seed=8)
            add = b.add

            def spy(obs, next_obs, action, reward, done, infos, add=add):
                for i, info in enumerate(infos):
                    chunk = action[i].reshape(4, 2)
                    keys = [obs[i, 0], *(o[0] for o in info["chunk"]["next_observations"][:-1])]
                    chosen.update({float(key): chunk[j:] for j, key in enumerate(keys)})
                add(obs, next_obs, action, reward, done, infos)

            b.add = spy
            for step in range(60):
                world.decide()
                if step % 6 == 0:
                    b.cut(0)
                    world.leave(0)
        np.random.seed(0)
        samples = buffer.sample(1000)
        np.random.seed(0)
        plain = twin.sample(1000)
        windows, partial = world.windows(), 0
        assert th.equal(samples.observations, plain.observations) and th.equal(samples.rewards, plain.rewards)
        for b in range(1000):
            rows, _ = windows[float(samples.observations[b, 0])]
            unexecuted = chosen[rows[-1].key][1:]
            expected = np.concatenate([np.stack([row.action for row in rows]), unexecuted, np.zeros((4, 2))])[:4]
            np.testing.assert_array_equal(samples.actions[b].reshape(4, 2), expected)
            partial += len(rows) < 4 and len(unexecuted) > 0
        assert partial > 50
        assert (plain.actions.reshape(-1, 4, 2)[plain.valid == 0] == 0).all()

    def test_replay_after_a_cut_inside_a_chunk(self):
        buffer = make(20, 3, pad_actions="replay")
        zeros, action = np.zeros((1, 2)), np.arange(1.0, 7.0)[None] / 10
        buffer.add(zeros, zeros + 1, action, np.zeros(1), np.zeros(1), [{}])  # one step of three, then the run is stopped
        buffer.cut()
        np.testing.assert_allclose(buffer.sample(1).actions, action, rtol=1e-6)

    @pytest.mark.parametrize("h", [1, 3])
    def test_vecnormalize(self, h):
        buffer = make(60, h)
        world = World(buffer, seed=1)
        for _ in range(30):
            world.decide()
        env = VecNormalize(DummyVecEnv([lambda: Still()]), clip_reward=0.5, clip_obs=100.0)
        env.obs_rms.mean, env.obs_rms.var, env.ret_rms.var = np.array([1.0, 2.0]), np.array([4.0, 9.0]), 4.0
        np.random.seed(0)
        raw = buffer.sample(200)
        np.random.seed(0)
        samples = buffer.sample(200, env=env)
        assert samples.rewards.dtype == samples.observations.dtype == samples.mc_returns.dtype == th.float32
        for name in ("observations", "next_observations"):
            expected = (getattr(raw, name).numpy() - [1.0, 2.0]) / [2.0, 3.0]
            np.testing.assert_allclose(getattr(samples, name), np.clip(expected, -100, 100), rtol=1e-4, atol=1e-4)
        windows = world.windows()
        for b in range(200):
            rows, _ = windows[float(raw.observations[b, 0])]
            steps = [np.clip(float(row.reward) / 2.0, -0.5, 0.5) for row in rows]  # clipped step by step
            assert samples.rewards[b].item() == pytest.approx(sum(GAMMA**i * r for i, r in enumerate(steps)), abs=1e-4)
        np.testing.assert_allclose(samples.mc_returns, raw.mc_returns / 2.0, rtol=1e-4)
        env.norm_reward = False
        np.random.seed(0)
        assert th.equal(buffer.sample(200, env=env).rewards, raw.rewards)

    def test_memory_is_taken_only_as_it_is_used(self):
        space = spaces.Box(0, 255, (3, 64, 64), dtype=np.uint8)
        buffer = make(1_000_000, 4, obs=space)
        assert buffer.memory_bytes() > 12e9  # does not exist here
        assert len(io_bytes(buffer)) < 1e6


class Still(gym.Env):
    observation_space, action_space = OBS, STEP

    def reset(self, *, seed=None, options=None):
        return np.zeros(2, np.float32), {}

    def step(self, action):
        return np.zeros(2, np.float32), 0.0, False, False, {}


def io_bytes(buffer):
    file = io.BytesIO()
    save_to_pkl(file, buffer)
    return file.getvalue()


class Pictures(gym.Env):
    """Channel-last images and a vector; the picture shows the time in its corner."""

    action_space = STEP

    def __init__(self, as_dict=True, length=7):
        image = spaces.Box(0, 255, (12, 10, 3), dtype=np.uint8)
        self.observation_space = spaces.Dict({"image": image, "n": spaces.Discrete(50)}) if as_dict else image
        self.as_dict, self.length, self.t = as_dict, length, 0

    def look(self):
        image = np.zeros((12, 10, 3), np.uint8)
        image[0, 1, 2] = self.t
        return {"image": image, "n": self.t} if self.as_dict else image

    def reset(self, *, seed=None, options=None):
        self.t = 0
        return self.look(), {}

    def step(self, action):
        self.t += 1
        return self.look(), float(self.t), self.t == self.length, False, {}


class TestObservations:
    @pytest.mark.parametrize("as_dict", [True, False])
    @pytest.mark.parametrize("h", [1, 3])
    def test_images_are_moved_to_channel_first(self, as_dict, h):
        env = VecTransposeImage(DummyVecEnv([lambda: ChunkActionWrapper(Pictures(as_dict), h)] * 2))
        buffer = ChunkReplayBuffer(2 * 20, env.observation_space, env.action_space, "cpu", 2, chunk_size=h)
        collect(env, buffer, 20)
        samples = buffer.sample(200)
        first, then = samples.observations, samples.next_observations
        if as_dict:
            assert first["n"].shape == (200, 1)
            picture, number, after = first["image"], first["n"][:, 0], then["n"][:, 0]
            assert (then["image"][:, 2, 0, 1] == after).all()
        else:
            picture, number, after = first, first[:, 2, 0, 1].long(), then[:, 2, 0, 1].long()
        assert picture.shape == (200, 3, 12, 10) and picture.dtype == th.uint8
        assert (picture[:, 2, 0, 1] == number).all() and picture.sum() == number.sum()
        k = samples.valid.sum(1)
        assert (after == number + k).all() and set(number.tolist()) == set(range(7))
        expected = [
            sum(0.99**i * (n + i + 1) for i in range(int(steps))) for n, steps in zip(number.tolist(), k.tolist(), strict=True)
        ]
        np.testing.assert_allclose(samples.rewards[:, 0], expected, rtol=1e-5)
        np.testing.assert_array_equal(samples.dones[:, 0], (after == 7).float())

    def test_float64_and_raw_terminal_observations_survive_normalisation(self):
        """SB3 hands over a terminal observation that was clipped when it was normalised; the raw one is stored."""

        class Far(Still):
            def reset(self, *, seed=None, options=None):
                self.t = 0
                return np.zeros(2), {}

            def step(self, action):
                self.t += 1
                jump = 1e4 if self.t == 3 else self.t
                return np.full(2, jump, np.float64), 1.0, self.t == 3, False, {}

        env = VecNormalize(DummyVecEnv([lambda: ChunkActionWrapper(Far(), 2)]), clip_obs=2.0)
        model = SAC("MlpPolicy", env, replay_buffer_class=ChunkReplayBuffer, replay_buffer_kwargs={"chunk_size": 2}, **tiny())
        model.learn(12)
        buffer = model.replay_buffer
        samples = buffer.sample(100)
        last = samples.dones[:, 0] == 1
        assert last.any() and (samples.next_observations[last] == 1e4).all()
        assert buffer._store.slots_in_use == buffer.dones.sum()  # no false interruptions

    def test_stack_around_the_vecenv_is_refused_for_chunks_and_works_without(self):
        for h in (2, 1):
            env = VecFrameStack(DummyVecEnv([lambda h=h: ChunkActionWrapper(gym.make("Pendulum-v1"), h)]), 2)
            buffer = ChunkReplayBuffer(50, env.observation_space, env.action_space, "cpu", chunk_size=h)
            if h == 2:
                with pytest.raises(ValueError, match="below ChunkActionWrapper"):
                    collect(env, buffer, 5)
                assert buffer.size() == 0
            else:
                collect(env, buffer, 20)
                samples = buffer.sample(64)
                assert th.equal(samples.observations[:, 3:], samples.next_observations[:, :3])

    def test_wrapper_that_changes_values_around_the_vecenv_is_noticed(self):
        obs = np.ones((1, 2), np.float32)
        info = {"chunk": {"rewards": [1.0, 1.0], "next_observations": [obs[0], obs[0] * 2]}}
        with pytest.raises(ValueError, match="ends with another observation"):
            make(10, 2).add(obs, obs * 7, np.zeros((1, 4)), 2 * np.ones(1), np.zeros(1), [info])

    @pytest.mark.parametrize("h", [2, 1])
    def test_wrapper_that_changes_rewards_around_chunks(self, h):
        """It would be overruled by the rewards of the chunk's steps; where a chunk is one step it is obeyed."""
        env = gym.wrappers.TransformReward(ChunkActionWrapper(gym.make("Pendulum-v1"), h), lambda _: 100.0)
        env = DummyVecEnv([lambda: env])
        buffer = ChunkReplayBuffer(50, env.observation_space, env.action_space, "cpu", chunk_size=h)
        if h == 2:
            with pytest.raises(ValueError, match=r"sum of its steps' rewards .wrappers that change rewards belong below"):
                collect(env, buffer, 5)
            assert buffer.size() == 0
        else:
            collect(env, buffer, 5)
            assert (buffer.rewards[:5] == 100).all()


def collect(env, buffer, n):
    obs = env.reset()
    for _ in range(n):
        action = np.stack([env.action_space.sample() for _ in range(env.num_envs)])
        following, rewards, dones, infos = env.step(action)
        after = copy.deepcopy(following)
        for i in np.flatnonzero(dones):
            for part, key in [(after, None)] if not isinstance(after, dict) else [(after[key], key) for key in after]:
                last = infos[i]["terminal_observation"]
                part[i] = last if key is None else last[key]
        buffer.add(obs, after, action, rewards, dones, infos)
        obs = following


def tiny():
    """Arguments of a small model; fresh ones, as Stable-Baselines3 writes into policy_kwargs."""
    kwargs = {"net_arch": [8]}
    return dict(policy_kwargs=kwargs, learning_starts=6, buffer_size=200, batch_size=16, device="cpu", seed=0)


class TestInAlgorithms:
    @pytest.mark.parametrize("algorithm", [SAC, TD3])
    def test_trains_unchanged(self, algorithm):
        env = make_vec_env("Pendulum-v1", 2, seed=0, wrapper_class=ChunkActionWrapper, wrapper_kwargs={"chunk_size": 4})
        kwargs = {"chunk_size": 4, "gamma": 0.98}
        model = algorithm("MlpPolicy", env, replay_buffer_class=ChunkReplayBuffer, replay_buffer_kwargs=kwargs, **tiny())
        model.learn(120)  # 60 decisions, 240 steps
        buffer = model.replay_buffer
        assert buffer.actions.shape == (100, 2, 1) and buffer.full and model._n_updates > 40
        assert buffer.timeouts.sum() == buffer.dones.sum() == 2 and buffer._store.slots_in_use == 2
        samples = buffer.sample(64)
        assert isinstance(samples, ChunkReplaySamples) and samples.actions.shape == (64, 4)

    def test_trains_as_with_the_plain_buffer(self):
        parameters = []
        for kwargs in ({}, {"replay_buffer_class": ChunkReplayBuffer, "replay_buffer_kwargs": {"chunk_size": 1}}):
            model = SAC("MlpPolicy", "Pendulum-v1", **tiny(), **kwargs)
            model.learn(60)
            parameters.append(list(model.policy.parameters()))
        # discounts come as float32 instead of a Python number, so equality is up to rounding
        assert all(th.allclose(a, b, atol=1e-4) for a, b in zip(*parameters, strict=True))

    def test_saved_with_the_model_and_loaded(self, tmp_path):
        env = make_vec_env("Pendulum-v1", 1, seed=0, wrapper_class=ChunkActionWrapper, wrapper_kwargs={"chunk_size": 4})
        kwargs = {"chunk_size": 4}
        model = SAC("MlpPolicy", env, replay_buffer_class=ChunkReplayBuffer, replay_buffer_kwargs=kwargs, **tiny())
        model.learn(40)
        model.save_replay_buffer(tmp_path / "buffer")
        before = model.replay_buffer
        model.load_replay_buffer(tmp_path / "buffer")
        assert model.replay_buffer is not before and model.replay_buffer.device == model.device
        model.learn(20, reset_num_timesteps=False)
        assert model.replay_buffer.size() == 200 or model.replay_buffer.size() > before.size()


class TestSaving:
    @pytest.mark.parametrize("n_decisions", [0, 5, 60])
    def test_goes_on_as_if_nothing_had_happened(self, n_decisions):
        buffer = make(3 * 40, 3, 3, pad_actions="replay", decision_arrays=None)
        world = World(buffer, seed=2)
        for _ in range(n_decisions):
            world.decide()
        again = load_from_pkl(io.BytesIO(io_bytes(buffer)))
        assert again.actions.shape == buffer.actions.shape and again.observations.shape == buffer.observations.shape
        twin = copy.deepcopy(world)
        twin.buffer = again
        for _ in range(30):
            for w in (world, twin):
                w.decide()
            samples = []
            for b in (buffer, again):
                np.random.seed(0)
                samples.append(b.sample(20))
            assert all(a is b is None or th.equal(a, b) for a, b in zip(*samples, strict=True))
        consistent(again, twin)
        np.testing.assert_array_equal(buffer._store.end_slot, again._store.end_slot)

    def test_dict_observations_and_decisions(self):
        space = spaces.Dict({"v": OBS})
        buffer = make(50, 2, obs=space, decision_arrays={"z": 2})
        for t in range(9):
            obs = {"v": np.full((1, 2), t, np.float32)}
            after = {"v": np.full((1, 2), t + 1, np.float32)}
            buffer.add(obs, after, np.zeros((1, 2)), np.ones(1), np.zeros(1), [{"decision": {"z": [t, 0]}}])
        again = copy.deepcopy(buffer)
        assert again.decisions["z"].shape == (50, 1, 2) and again.observations["v"].shape == (50, 1, 2)
        buffer.reset()
        samples = again.sample(30, aligned=True)
        assert th.equal(samples.decision["z"][:, 0], samples.observations["v"][:, 0])


class TestDataset:
    def data(self, n=23, seed=0):
        rng = np.random.default_rng(seed)
        ends = np.isin(np.arange(n), [4, 5, 13, 19])
        terminals = ends & np.isin(np.arange(n), [5, 19])
        obs = np.stack([np.arange(n), np.arange(n)], 1).astype(np.float32)
        return dict(
            observations=obs,
            actions=rng.uniform(-1, 1, (n, 2)),
            rewards=rng.normal(size=n),
            terminals=terminals,
            timeouts=ends & ~terminals,
            final_observations=100 + np.arange(8.0).reshape(4, 2),
            successes=[False, True, False, True],
        )

    @pytest.mark.parametrize("size", [100, 23, 11, 6])
    def test_equals_the_same_steps_added_one_by_one(self, size):
        data, bulk, single = self.data(), make(size, 3), make(size, 3)
        for _ in range(2):  # the second time after a cut
            bulk.add_dataset(**data)
            number = 0
            for t in range(23):
                end, obs = data["terminals"][t] or data["timeouts"][t], data["observations"]
                # the last row is no end: its own observation stands in for the next one
                after = data["final_observations"][number] if end else obs[min(t + 1, 22)]
                info = {"TimeLimit.truncated": data["timeouts"][t], "is_success": end and data["successes"][number]}
                args = data["actions"][t][None], data["rewards"][[t]], np.array([end])
                single.add(obs[[t]], after[None].astype(np.float32), *args, [info])
                number += end
            single.cut()
        for name in ("observations", "actions", "rewards", "dones", "timeouts", "successes", "mc_returns", "mc_valid"):
            np.testing.assert_array_equal(getattr(bulk, name), getattr(single, name), err_msg=name)
        assert (bulk.n_success, bulk.pos, bulk.full, bulk._running.tolist()) == (
            single.n_success,
            single.pos,
            single.full,
            [0],
        )
        samples = []
        for buffer in (bulk, single):
            np.random.seed(0)
            samples.append(buffer.sample(200))
        assert all(a is b is None or th.equal(a, b) for a, b in zip(*samples, strict=True))

    def test_decisions_lie_on_a_grid_and_unknown_ends_are_their_own_successors(self):
        data = self.data()
        del data["final_observations"], data["successes"]
        buffer = make(50, 3)
        buffer.add_dataset(**data)
        assert np.flatnonzero(buffer.decision_starts[:, 0]).tolist() == [0, 3, 5, 6, 9, 12, 14, 17, 20]
        samples = buffer.sample(300)
        last = samples.observations[:, 0] == 13
        assert (samples.next_observations[last] == 13).all() and last.any() and buffer.n_success == 0

    def test_channel_last_images(self):
        space = spaces.Dict({"image": spaces.Box(0, 255, (3, 12, 10), dtype=np.uint8), "v": OBS})
        images = np.random.default_rng(0).integers(0, 255, (6, 12, 10, 3), dtype=np.uint8)
        buffer = make(10, 2, obs=space)
        observations = {"image": images, "v": np.zeros((6, 2))}
        buffer.add_dataset(observations, np.zeros((6, 2)), np.zeros(6), np.eye(6)[5], np.zeros(6))
        np.testing.assert_array_equal(buffer.observations["image"][:6, 0], images.transpose(0, 3, 1, 2))

    @pytest.mark.parametrize(
        "change, what",
        [
            (dict(actions=np.zeros((23, 6))), "actions has shape"),
            (dict(terminals=np.zeros(22)), "terminals has shape"),
            (dict(rewards=np.full(23, np.nan)), "rewards of row 0 holds NaN"),
            (dict(actions=np.full((23, 2), np.inf)), "actions of row 0"),
            (dict(observations=np.where(np.arange(46).reshape(23, 2) == 9, np.nan, 0.0)), "observations of row 4"),
            (dict(observations=np.zeros((23, 3))), "observations has shape"),
            (dict(final_observations=np.zeros((3, 2))), "final_observations has shape"),
            (dict(successes=np.zeros(23)), "successes has shape"),
        ],
    )
    def test_refuses_what_does_not_fit_and_stays_as_it_was(self, change, what):
        buffer = make(50, 3)
        with pytest.raises(ValueError, match=what):
            buffer.add_dataset(**{**self.data(), **change})
        assert buffer.size() == 0

    def test_needs_a_single_environment(self):
        with pytest.raises(ValueError, match="2 environments"):
            make(50, 3, 2).add_dataset(**self.data())


class TestRefusals:
    @pytest.mark.parametrize(
        "kwargs, error, what",
        [
            (dict(chunk_size=0), ValueError, "chunk_size is 0"),
            (dict(chunk_size=2.0), ValueError, "chunk_size is 2.0"),
            (dict(chunk_size=True), ValueError, "chunk_size is True"),
            (dict(chunk_size=5), ValueError, "multiple of chunk_size 5"),
            (dict(chunk_end="cut"), ValueError, "chunk_end is 'cut'"),
            (dict(pad_actions="last"), ValueError, "pad_actions is 'last'"),
            (dict(gamma=1.5), ValueError, "gamma is 1.5"),
            (dict(gamma=float("nan")), ValueError, "gamma is nan"),
            (dict(decision_arrays={"z": 0}), ValueError, r"decision_arrays\['z'\]"),
            (dict(optimize_memory_usage=True), NotImplementedError, "optimize_memory_usage"),
            (dict(n_steps=3), TypeError, "n_steps"),
            (dict(observation_space=spaces.Dict({"a": spaces.Dict({"b": OBS})})), NotImplementedError, "Nested"),
            (dict(action_space=ChunkBox(STEP, 4)), ValueError, "wanted 4 as in the action space"),
        ],
    )
    def test_constructor(self, kwargs, error, what):
        good = dict(observation_space=OBS, action_space=spaces.Box(-1, 1, (8,)), device="cpu", chunk_size=2)
        ChunkReplayBuffer(10, **good)
        with pytest.raises(error, match=what):
            ChunkReplayBuffer(10, **{**good, **kwargs})

    @pytest.mark.parametrize(
        "change, what",
        [
            (dict(action=np.zeros((2, 5))), r"action has shape \(2, 5\)"),
            (dict(action=np.zeros(7)), "action has shape"),
            (dict(action=np.array([[0] * 6, [0, 0, np.nan, 0, 0, 0]])), "action of env 1"),
            (dict(obs=np.zeros((2, 3))), r"obs has shape \(2, 3\)"),
            (dict(obs={"a": np.zeros((2, 2))}), "obs has shape"),
            (dict(obs=np.array([[0, 0], [0, np.inf]])), "obs of env 1"),
            (dict(next_obs=np.array([[np.nan, 0], [0, 0]])), "next_obs of env 0"),
            (dict(reward=np.array([0, np.nan])), "reward of env 1"),
            (dict(reward=np.zeros(3)), "reward has 3 entries"),
            (dict(done=np.zeros(1)), "done has 1 entries"),
            (dict(infos=[{}]), "infos has 1 entries"),
            (dict(infos=[{}, {"chunk": {"rewards": []}}]), "env 1 executed 0 steps"),
            (dict(infos=[{}, {"chunk": {"rewards": [0.0] * 4}}]), "env 1 executed 4 steps, wanted 1 to 3"),
            (dict(infos=[{}, {"chunk": {"rewards": [0.0, np.inf]}}]), "env 1.*rewards.*step 1"),
            (dict(infos=[{}, {"chunk": {"rewards": [0.0], "next_observations": []}}]), "0 entries, wanted 1"),
            (dict(infos=[{}, {"chunk": {"rewards": [0.0], "next_observations": [np.zeros(3)]}}]), "shape"),
            (dict(infos=[{}, {"chunk": {"rewards": [0.0], "next_observations": [np.full(2, np.nan)]}}]), "NaN"),
        ],
    )
    def test_add_refuses_and_stores_nothing(self, change, what):
        buffer = make(50, 3, 2)
        good = dict(
            obs=np.zeros((2, 2)),
            next_obs=np.zeros((2, 2)),
            action=np.zeros((2, 6)),
            reward=np.zeros(2),
            done=np.zeros(2),
            infos=[{}, {}],
        )
        with pytest.raises(ValueError, match=what):
            buffer.add(**{**good, **change})
        assert buffer.size() == 0
        buffer.add(**good)
        assert buffer.size() == 1

    def test_dict_observations_name_the_key(self):
        space = spaces.Dict({"v": OBS, "w": OBS})
        zeros = np.zeros((1, 2))
        for obs, what in (
            (zeros, "obs is ndarray"),
            ({"v": zeros}, r"obs\['w'\] is missing"),
            ({"v": zeros, "w": zeros * np.nan}, r"obs\['w'\] of env 0"),
        ):
            with pytest.raises(ValueError, match=what):
                make(5, 1, obs=space).add(obs, {"v": zeros, "w": zeros}, zeros, np.zeros(1), np.zeros(1), [{}])
