"""What is not finite stops training by its name, before it reaches a parameter."""

import numpy as np
import pytest
import torch as th
from stable_baselines3.common.torch_layers import FlattenExtractor

from ogpo_sb3 import DPPO, OGPO
from ogpo_sb3.common.errors import TrainingDivergedError
from tests.contract.models import ALGORITHMS, CHUNK_SIZES, PAIRS, Line, build, differences, policy_state, tiny
from tests.toys import Reach, reach_demonstrations

BAD = [float("nan"), float("inf"), -float("inf")]


class Faulty(Line):
    """
    Line whose reward or observation is not what it should be in its 20th step, or its reset thereafter.

    :param part: "reward", "observation" or "reset"
    :param value: what it is then
    """

    def __init__(self, part, value):
        super().__init__()
        self.part, self.value, self.steps = part, value, 0

    def reset(self, *, seed=None, options=None):
        obs, info = super().reset(seed=seed)
        if self.part == "reset" and self.steps >= 20:
            obs[1] = self.value
        return obs, info

    def step(self, action):
        obs, reward, terminated, truncated, info = super().step(action)
        self.steps += 1
        if self.steps == 20 and self.part == "reward":
            reward = self.value
        if self.steps == 20 and self.part == "observation":
            obs[1] = self.value
        return obs, reward, terminated, truncated, info


def finite(model):
    return all(th.isfinite(value).all() for value in policy_state(model).values())


@pytest.mark.parametrize("name", ["learning_rate", "critic_learning_rate"])
@pytest.mark.parametrize("algorithm", [OGPO, DPPO])
@pytest.mark.parametrize("value", [*BAD, -1e-3], ids=str)
def test_a_schedule_that_leaves_the_numbers(algorithm, value, name):
    """Found before it is a rate, which neither loss nor gradient would tell of."""
    schedule = {name: lambda left: value if left < 0.5 else 1e-3}
    if algorithm is OGPO:
        model = build(**schedule)
    else:
        model = DPPO("FlowPolicy", Line(), n_steps=8, batch_size=8, policy_kwargs=dict(net_arch=[8]), device="cpu", **schedule)
    with pytest.raises(ValueError, match=rf"^{name} is {value} at a remaining progress of 0.4.*, wanted a finite number >= 0"):
        model.learn(100)
    assert finite(model)


def test_a_clip_range_that_leaves_the_numbers():
    with pytest.raises(ValueError, match="clip_range is nan at a remaining progress"):
        build(OGPO, clip_range=lambda left: float("nan") if left < 0.5 else 0.1).learn(100)


@pytest.mark.parametrize("learning_starts", [10, 1000])
@pytest.mark.parametrize("value", BAD, ids=str)
@pytest.mark.parametrize("chunk_size", CHUNK_SIZES)
@pytest.mark.parametrize("part, name", [("reward", "reward"), ("observation", "obs"), ("reset", "obs")])
def test_environment(part, name, chunk_size, value, learning_starts):
    """Rewards and observations, explored uniformly or by the policy; nothing of the decision is stored."""
    model = build(env=lambda: Faulty(part, value), chunk_size=chunk_size, learning_starts=learning_starts)
    with pytest.raises(ValueError, match=name) as error:
        model.learn(100)
    assert "action" not in str(error.value), "the cause is named, not what follows from it"
    assert finite(model) and 19 - chunk_size < model.num_timesteps < 20 + 7 + 2 * chunk_size
    rows = model.replay_buffer.size()
    assert np.isfinite(model.replay_buffer.observations[:rows]).all() and np.isfinite(model.replay_buffer.rewards[:rows]).all()


@pytest.mark.parametrize("algorithm, chunk_size", PAIRS)
def test_action(algorithm, chunk_size):
    """A policy that has become NaN is not sent to a robot."""
    model = build(algorithm, chunk_size=chunk_size).learn(14)
    with th.no_grad():
        next(model.actor_ema.gcp.parameters()).fill_(float("nan"))
    steps = model.num_timesteps
    with pytest.raises(TrainingDivergedError, match="the policy's action") as error:
        model.learn(10, reset_num_timesteps=False)
    assert error.value.quantity == "the policy's action" and str(steps) in str(error.value)
    assert model.num_timesteps == steps


@pytest.mark.parametrize("reward", [3e19, 1e25, 1e30])
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_critic_loss(algorithm, reward):
    """Rewards that are finite, but whose squared error is not."""

    class Huge(Line):
        def step(self, action):
            obs, _, *others = super().step(action)
            return obs, reward, *others

    model = build(algorithm, env=Huge)
    before = policy_state(model)
    with pytest.raises(TrainingDivergedError, match="critic_loss"):
        model.learn(30)
    assert finite(model) and not differences(before, policy_state(model))


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_actor_loss(algorithm):
    """A value that is not finite reaches the actor by the advantages."""
    model = build(algorithm).learn(14)
    with th.no_grad():
        for parameter in model.critic_target.parameters():
            parameter.fill_(float("inf"))
    before = {name: value for name, value in policy_state(model).items() if name.startswith("actor")}
    with pytest.raises(TrainingDivergedError, match=r"actor_loss|actor"):
        model._update_actor()
    after = {name: value for name, value in policy_state(model).items() if name.startswith("actor")}
    assert not differences(before, after)


class Kink(FlattenExtractor):
    """Adds 0, whose derivative is 0 times infinity."""

    def __init__(self, observation_space):
        super().__init__(observation_space)
        self.weight = th.nn.Parameter(th.ones(self.features_dim))

    def forward(self, observations):
        return super().forward(observations) + (0.0 * self.weight).clamp_min(0.0).sqrt()


def test_gradient_of_cloning():
    """The same before RL."""
    kwargs = tiny(demonstrations=reach_demonstrations(3), bc_steps=5, policy_kwargs=dict(features_extractor_class=Kink))
    model = OGPO("FlowPolicy", Reach(), **kwargs)
    before = policy_state(model)
    with pytest.raises(TrainingDivergedError, match="the gradient of bc_loss"):
        model.pretrain(progress_bar=False)
    assert finite(model) and not differences(before, policy_state(model))


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_gradient(algorithm):
    """A finite loss with a gradient that is not."""
    model = build(algorithm).learn(14)
    before = policy_state(model)
    parameter = next(model.critic.ensemble.parameters())
    loss = (parameter * 0.0).clamp_min(0.0).sqrt().sum()  # 0, with slope infinity times 0
    with pytest.raises(TrainingDivergedError, match="the gradient of some_loss"):
        model._optimise(model.critic, loss, "some_loss")
    with pytest.raises(TrainingDivergedError, match=r"^some_loss"):  # and the other way round
        model._optimise(model.critic, parameter.sum() + float("inf"), "some_loss")
    assert not differences(before, policy_state(model))
