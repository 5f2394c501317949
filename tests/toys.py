"""Tiny environments with known answers, shared by the tests."""

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from ogpo_sb3 import OGPO


class Bandit(gym.Env):
    """One step, one state: reward -(a - target)^2 summed over dimensions; success within 0.2 of the target."""

    def __init__(self, target: float = 0.5, dim: int = 2):
        self.observation_space = spaces.Box(-1.0, 1.0, (1,), np.float32)
        self.action_space = spaces.Box(-1.0, 1.0, (dim,), np.float32)
        self.target = target

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros(1, np.float32), {}

    def step(self, action):
        error = np.asarray(action, np.float64) - self.target
        return np.zeros(1, np.float32), -float((error**2).sum()), True, False, {"is_success": bool(np.abs(error).max() < 0.2)}


class Reach(gym.Env):
    """
    A point on a line walks towards a goal drawn at reset; -1 per step until it is within 0.1 (success, terminates).

    The shortest way needs ceil(distance / 0.25) steps; time limit 20 steps.
    """

    def __init__(self):
        self.observation_space = spaces.Box(-2.0, 2.0, (2,), np.float32)
        self.action_space = spaces.Box(-0.5, 0.5, (1,), np.float32)

    def _obs(self):
        return np.array([self.position, self.goal], np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.position, self.steps = 0.0, 0
        self.goal = float(self.np_random.uniform(0.4, 1.0) * self.np_random.choice([-1.0, 1.0]))
        return self._obs(), {}

    def step(self, action):
        self.position = float(np.clip(self.position + 0.5 * float(np.asarray(action)[0]), -2.0, 2.0))
        self.steps += 1
        success = abs(self.position - self.goal) < 0.1
        return self._obs(), 0.0 if success else -1.0, success, self.steps >= 20 and not success, {"is_success": success}


def reach_demonstrations(episodes: int = 20, seed: int = 0):
    """Shortest walks to the goal, as a DemonstrationSet with rewards and final observations."""
    from ogpo_sb3.demonstrations import DemonstrationSet

    env = Reach()
    observations, actions, rewards, terminals, ends, finals = [], [], [], [], [], []
    for episode in range(episodes):
        obs, _ = env.reset(seed=seed + episode)
        done = False
        while not done:
            action = np.clip([2.0 * (obs[1] - obs[0])], -0.5, 0.5).astype(np.float32)
            observations.append(obs)
            actions.append(action)
            obs, reward, done, _, _ = env.step(action)
            rewards.append(reward)
            terminals.append(done)
        ends.append(len(actions))
        finals.append(obs)
    return DemonstrationSet(
        observations=np.array(observations),
        actions=np.array(actions),
        episode_ends=np.array(ends),
        rewards=np.array(rewards),
        terminals=np.array(terminals),
        final_observations=np.array(finals),
        successes=np.ones(episodes, bool),
        meta={"source": "shortest walks"},
    )


def bandit_learner(policy: str, **policy_kwargs):
    """OGPO on the bandit with the settings that every generative family learns with, untrained."""
    return OGPO(
        policy,
        Bandit(target=0.5),
        learning_rate=3e-3,
        critic_learning_rate=3e-3,
        learning_starts=100,
        batch_size=32,
        actor_batch_size=8,
        group_size=16,
        clip_range=0.2,
        actor_tau=0.05,
        seed=0,
        device="cpu",
        policy_kwargs=dict(net_arch=[32, 32], n_critics=2, **policy_kwargs),
    )
