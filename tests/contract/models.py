"""Tiny models and environments, and what the tests of the contract ask of them."""

import dataclasses
from typing import ClassVar

import gymnasium as gym
import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv

from ogpo_sb3 import (
    DSRL,
    EXPO,
    FQL,
    OGPO,
    OGPOCA,
    PARL,
    QC,
    RLPD,
    ChunkActionWrapper,
    OGPOChi2,
    OGPOPlus,
    SACfD,
    SteerResidual,
)

# These pass through the whole suite ...
ALGORITHMS = [OGPO, OGPOPlus, OGPOCA, OGPOChi2]
# ... and these, which share all but their updates with them, through its core in test_rivals.py; with what makes them tiny.
RIVALS = {
    "QC": (QC, dict(best_of_n=3)),
    "QC+": (QC, dict(best_of_n=2, success_bc=True)),
    "EXPO": (EXPO, dict(best_of_n=2)),
    "EXPO+": (EXPO, dict(best_of_n=2, success_bc=True)),
    "DSRL": (DSRL, dict()),
    "DSRL+": (DSRL, dict(success_bc=True, chunk_reward="max")),
    "DSRL aliased": (DSRL, dict(noise_aliasing=True, distillation_steps=2, success_bc=True)),
    "FQL": (FQL, dict(critic_warmup_updates=3)),
    "FQL+": (FQL, dict(best_of_n=2, success_bc=True)),
    "S/R": (SteerResidual, dict(noise_candidates=3, n_edits=2, distillation_steps=2)),
    "S/R+": (SteerResidual, dict(noise_candidates=3, n_edits=2, distillation_steps=1, success_bc=True)),
    "RLPD": (RLPD, dict(success_bc=True)),
    "SACfD": (SACfD, dict()),
    "PA-RL": (PARL, dict(best_of_n=4, keep=2, ascent_steps=2, success_bc=True)),
}
CHUNK_SIZES = [1, 4]
# Every algorithm with chunks, the first without as well: the two hardly touch, and time is short.
PAIRS = [(ALGORITHMS[0], 1), *((algorithm, 4) for algorithm in ALGORITHMS)]
LINE_ID = "ContractLine-v0"
DEVICES = ["cpu", *(["cuda"] if th.cuda.is_available() else [])]


class Line(gym.Env):
    """
    Follow a target on a line; every reset and every step draws from the environment's generator.

    :param length: steps until the time limit
    :param as_dict: offer the same observation as a Dict of one box
    :param render_mode: as gymnasium.make passes it
    """

    metadata: ClassVar = {"render_modes": ["rgb_array"], "render_fps": 10}

    def __init__(self, length=7, as_dict=False, render_mode=None):
        self.render_mode = render_mode
        box = spaces.Box(-10, 10, (3,), dtype=np.float32)
        self.as_dict = as_dict
        self.observation_space = spaces.Dict({"state": box}) if as_dict else box
        self.action_space = spaces.Box(np.array([-1.0, -3.0], np.float32), np.array([2.0, 0.5], np.float32))
        self.length = length

    def look(self):
        obs = np.array([self.position, self.target, self.time / self.length], dtype=np.float32)
        return {"state": obs} if self.as_dict else obs

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.position, self.time = 0.0, 0
        self.target = self.np_random.uniform(-0.5, 0.5)
        return self.look(), {}

    def render(self):
        return np.full((8, 8, 3), int(25 * abs(self.position)) % 256, dtype=np.uint8)

    def step(self, action):
        self.time += 1
        self.position += 0.2 * float(action[0]) + 0.05 * self.np_random.normal()
        terminated = abs(self.position) > 1.5
        info = {"is_success": bool(self.position > self.target)}
        return self.look(), -abs(self.position - self.target), terminated, self.time >= self.length, info


class Ticker(gym.Env):
    """
    Observations (instance, episode, tick, steps of this instance in all) say which step of which stream they are; the
    reward of a step is the tick it leads to.

    :param lengths: of the episodes, in turn
    :param ends: how they end, in turn: "terminated", "truncated" or None (never, whatever the length)
    :param instance: number of this environment
    """

    def __init__(self, lengths=(5, 7, 3), ends=("terminated", "truncated"), instance=0):
        self.observation_space = spaces.Box(-1, 1e6, (4,), dtype=np.float32)
        self.action_space = spaces.Box(-2, 4, (2,), dtype=np.float32)
        self.lengths, self.ends, self.instance = lengths, ends, instance
        self.episode, self.steps, self.actions = -1, 0, []

    def look(self):
        return np.array([self.instance, self.episode, self.tick, self.steps], dtype=np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.episode += 1
        self.tick = 0
        return self.look(), {}

    def step(self, action):
        assert self.action_space.contains(action), f"{action} is outside {self.action_space}"
        self.tick += 1
        self.steps += 1
        self.actions.append(np.array(action))
        over = self.tick >= self.lengths[self.episode % len(self.lengths)]
        end = self.ends[self.episode % len(self.ends)] if over else None
        return self.look(), float(self.tick), end == "terminated", end == "truncated", {"is_success": self.episode % 2 == 0}


class FromSpaces(gym.Env):
    """
    Draws observations from a space and insists on actions of the other.

    :param observation_space: observation space
    :param action_space: action space
    :param length: steps until the time limit
    """

    def __init__(self, observation_space, action_space=None, length=5):
        self.observation_space = observation_space
        self.action_space = spaces.Box(-1, 1, (2,), dtype=np.float32) if action_space is None else action_space
        self.length = length

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.observation_space.seed(int(self.np_random.integers(2**31)))
        self.time = 0
        return self.observation_space.sample(), {}

    def step(self, action):
        assert self.action_space.contains(action), f"{action!r} is outside {self.action_space}"
        self.time += 1
        return self.observation_space.sample(), 1.0, False, self.time >= self.length, {}


gym.register(LINE_ID, entry_point=Line)


class OneBox(spaces.Box):
    """A subclass of Box, as environments of other packages have."""


PICTURE = spaces.Box(0, 255, (36, 36, 3), dtype=np.uint8)
OBSERVATION_SPACES = {
    "vector": spaces.Box(-1, 1, (3,), dtype=np.float32),
    "matrix": spaces.Box(-1, 1, (2, 3), dtype=np.float32),
    "float64": spaces.Box(-1, 1, (3,), dtype=np.float64),
    "discrete": spaces.Discrete(4),
    "multidiscrete": spaces.MultiDiscrete([3, 4]),
    "multibinary": spaces.MultiBinary(3),
    "image": PICTURE,
    "image first": spaces.Box(0, 255, (3, 36, 36), dtype=np.uint8),
    "dict": spaces.Dict(
        {"vector": spaces.Box(-1, 1, (3,), dtype=np.float32), "image": PICTURE, "discrete": spaces.Discrete(3)}
    ),
}
ACTION_SPACES = {
    "one": spaces.Box(-1, 1, (1,), dtype=np.float32),
    # These bounds are no round binary numbers: a rescaled action can end one bit outside.
    "bounds": spaces.Box(np.array([-4.0, -7.3, -5.5], np.float32), np.array([0.3, -0.1, 0.8], np.float32)),
    "float64": spaces.Box(np.array([-6.5, -0.5]), np.array([-0.6, 7.8]), dtype=np.float64),
    "matrix": spaces.Box(-2, 1, (2, 3), dtype=np.float32),
    "subclass": OneBox(-1, 1, (2,), dtype=np.float32),
}


def tiny(**kwargs):
    """
    Constructor arguments of a model that learns nothing, fast.

    :param kwargs: replacements; policy_kwargs are merged
    """
    policy_kwargs = dict(net_arch=[16], n_critics=2, denoising_steps=2) | kwargs.pop("policy_kwargs", {})
    sizes = dict(group_size=2, batch_size=8, actor_batch_size=4, learning_starts=10, buffer_size=500)
    return sizes | dict(device="cpu", seed=0) | kwargs | dict(policy_kwargs=policy_kwargs)


def rival(name, env=None, chunk_size=1, n_envs=1, policy="FlowPolicy", **kwargs):
    """
    A tiny model of one of ``RIVALS``.

    :param name: key
    :param env: as in :func:`build`
    :param chunk_size: as in :func:`build`
    :param n_envs: as in :func:`build`
    :param policy: alias or class
    :param kwargs: constructor arguments
    """
    algorithm, own = RIVALS[name]
    env = Line if env is None else env
    if not isinstance(env, gym.Env | VecEnv | str):
        env = vec(env, chunk_size, n_envs)
    sizes = tiny(**{**own, **kwargs})
    del sizes["group_size"]
    return algorithm(policy, env, **sizes)


def single(env, chunk_size=1):
    """
    An environment with its Monitor, chunked where that is asked for.

    :param env: environment
    :param chunk_size: steps per decision
    """
    env = Monitor(env)
    return env if chunk_size == 1 else ChunkActionWrapper(env, chunk_size)


def vec(factory=Line, chunk_size=1, n_envs=1, vec_env_cls=DummyVecEnv):
    """
    A vectorised environment.

    :param factory: makes a plain environment; Ticker gets its number
    :param chunk_size: steps per decision
    :param n_envs: number of environments
    :param vec_env_cls: class
    """

    def make(i):
        return lambda: single(factory(instance=i) if factory is Ticker else factory(), chunk_size)

    return vec_env_cls([make(i) for i in range(n_envs)])


def build(algorithm=OGPO, env=None, chunk_size=1, n_envs=1, **kwargs):
    """
    A tiny model.

    :param algorithm: class
    :param env: environment, or a function that makes plain ones; Line when None
    :param chunk_size: steps per decision, for a function
    :param n_envs: number of environments, for a function
    :param kwargs: constructor arguments
    """
    env = Line if env is None else env
    if not isinstance(env, gym.Env | VecEnv | str):
        env = vec(env, chunk_size, n_envs)
    return algorithm("FlowPolicy", env, **tiny(**kwargs))


def bare(model):
    """
    The environments below all wrappers of a model's DummyVecEnv.

    :param model: model
    """
    return [env.unwrapped for env in model.env.unwrapped.envs]


def differences(a, b, where=""):
    """
    Paths at which two nested values differ; NaN equals NaN, numbers must be equal bit for bit.

    :param a: tensors, arrays, containers or objects with attributes
    :param b: the other
    :param where: path so far
    """
    if isinstance(a, th.Tensor):
        a, b = a.detach().cpu().numpy(), b.detach().cpu().numpy() if isinstance(b, th.Tensor) else b
    if type(a) is not type(b):
        return [f"{where}: {type(a).__name__} and {type(b).__name__}"]
    if isinstance(a, np.ndarray):
        same = a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
        return [] if same else [where]
    if isinstance(a, dict):
        if a.keys() != b.keys():
            return [f"{where}: keys {sorted(map(str, a.keys() ^ b.keys()))}"]
        return [d for key in a for d in differences(a[key], b[key], f"{where}.{key}")]
    if isinstance(a, list | tuple):
        if len(a) != len(b):
            return [f"{where}: {len(a)} and {len(b)} entries"]
        return [d for i, (x, y) in enumerate(zip(a, b, strict=True)) for d in differences(x, y, f"{where}[{i}]")]
    if dataclasses.is_dataclass(a) or (hasattr(a, "__dict__") and type(a).__eq__ is object.__eq__ and not callable(a)):
        return differences(vars(a), vars(b), where)
    return [] if a == b or (a != a and b != b) else [f"{where}: {a!r} and {b!r}"]


COUNTERS = (
    "num_timesteps",
    "_n_updates",
    "_n_actor_updates",
    "_n_warmup_updates",
    "_num_decisions",
    "_critic_debt",
    "_actor_debt",
    "_episode_num",
)


def parameters(model):
    """
    Everything trained: all networks with their copies, and the optimisers.

    :param model: model
    """
    return {name: _copied(state) for name, state in model.get_parameters().items()}


def state(model):
    """
    Everything that must be equal where two runs are the same run.

    :param model: model
    """
    buffer = model.replay_buffer.__getstate__()
    episodes = [{key: e[key] for key in ("r", "l")} for e in model.ep_info_buffer or []]
    counters = {name: getattr(model, name) for name in COUNTERS}
    return dict(parameters=parameters(model), buffer=buffer, episodes=episodes, counters=counters)


def _copied(value):
    if isinstance(value, th.Tensor):
        return value.detach().clone()
    if isinstance(value, dict):
        return {key: _copied(v) for key, v in value.items()}
    return value


def policy_state(model):
    """
    A copy of all parameters and buffers of the policy.

    :param model: model
    """
    return _copied(model.policy.state_dict())


def check_stream(model, n=300):
    """
    Windows of a :class:`Ticker` model join only steps that followed each other.

    :param model: model
    :param n: windows to look at
    """
    batch = model.replay_buffer.sample(n)
    # Rounded, because VecNormalize hands on terminal observations there and back again
    before, after = batch.observations.numpy().round(3), batch.next_observations.numpy().round(3)
    k = batch.valid.sum(dim=1).numpy()
    assert (before[:, :2] == after[:, :2]).all(), "a window joins two episodes or environments"
    np.testing.assert_array_equal(after[:, 2] - before[:, 2], k, "a window leaves out steps")
    np.testing.assert_array_equal(after[:, 3] - before[:, 3], k, "a window joins an interrupted episode")
    np.testing.assert_allclose(batch.discounts[:, 0].numpy(), model.gamma**k, rtol=1e-6)
    ticks = before[:, 2:3] + 1 + np.arange(batch.valid.shape[1])
    wanted = (ticks * batch.valid.numpy() * model.gamma ** np.arange(batch.valid.shape[1])).sum(axis=1)
    np.testing.assert_allclose(batch.rewards[:, 0].numpy(), wanted, rtol=1e-5)
