"""Replays in the real simulators, and what inspection finds suspicious."""

import pickle
from dataclasses import replace
from importlib import resources
from xml.etree import ElementTree

import gymnasium as gym
import h5py
import numpy as np
import pytest

from ogpo_sb3.demonstrations import DemonstrationSet, load, save
from ogpo_sb3.demonstrations.experts import AdroitExpert, collect, rollout
from ogpo_sb3.demonstrations.inspection import summary, warnings
from ogpo_sb3.demonstrations.replay import _begin, replay
from ogpo_sb3.envs import adroit
from ogpo_sb3.envs.registry import TASKS, register_environments
from tests.test_demonstration_files import RAW_LIFT
from tests.test_demonstrations import make, make_dict

register_environments()

KITCHEN = resources.files("ogpo_sb3.demonstrations") / "data" / "kitchen_complete_v2_lowdim.npz"


def test_push_t_recordings_replay_from_their_observations():
    data = load("shipped:pusht").select([20, 0, 32])
    outcome = replay(data)
    assert outcome.start == "observations" and outcome.demonstrations.successes.tolist() == [True, False, True]
    # To single precision, in which they were recorded
    assert outcome.exact == 3 and outcome.deviations.max() < 1e-6
    # The environment ends an episode at the first success, which is where these recordings end.
    assert outcome.demonstrations.episode_ends.tolist() == data.episode_ends.tolist()
    np.testing.assert_array_equal(outcome.demonstrations.rewards, data.rewards)
    np.testing.assert_array_equal(outcome.demonstrations.terminals, data.terminals)
    assert outcome.demonstrations.final_observations.shape == (3, 6)
    wrong = replay(DemonstrationSet(data.observations, -data.actions, data.episode_ends, meta=data.meta))
    assert wrong.succeeded == 0 and wrong.deviations.min() > 0.1


def test_kitchen_rewards_are_recomputed_where_the_file_has_none():
    data = load(str(KITCHEN)).subset(2)
    assert data.rewards is None
    outcome = replay(data, "ogpo/KitchenComplete-v0")
    shown = outcome.demonstrations
    assert outcome.succeeded == 2 and shown.n_steps <= data.n_steps
    assert shown.rewards[0] == -7.0 and (np.diff(shown.episode(0).rewards[:-1]) >= 0).all()
    np.testing.assert_array_equal(np.flatnonzero(shown.rewards == 0.0), shown.episode_ends - 1)
    # The reward is read off the recorded states too (the adapter), step for step nearly the same.
    adapted = TASKS["ogpo/KitchenComplete-v0"].adapt(data)
    n = min(adapted.n_steps, shown.episode_lengths[0], adapted.episode_lengths[0])
    assert np.abs(adapted.rewards[:n] - shown.rewards[:n]).mean() < 0.3


def test_collected_data_replay_exactly_from_their_seeds():
    data = collect("ogpo/AdroitHammer-v0", episodes=2, seed=4, noise=1.0, keep_failures=True)
    outcome = replay(data)
    assert outcome.start == "seeds" and outcome.deviations.max() == 0.0
    np.testing.assert_array_equal(outcome.demonstrations.rewards, data.rewards)
    np.testing.assert_array_equal(outcome.demonstrations.successes, data.successes)
    second = replay(data.select([1]))  # its own seed, not the first one's
    assert second.deviations.max() == 0.0


def test_dapg_recordings_replay_from_their_initial_states(tmp_path):
    """Door openings in the form in which DAPG's were published, whose actions can leave the bounds."""
    env, expert = gym.make("ogpo/AdroitDoor-v0"), AdroitExpert("Door")
    rng = np.random.default_rng(0)
    episodes = []
    for seed in (1, 2):
        observation, _ = env.reset(seed=seed)
        start, observations, actions, done = env.unwrapped.engine.get_env_state(), [], [], False
        while not done:
            observations.append(observation)
            action = expert.act(observation, rng).astype(np.float64)
            observation, _, done, _, _ = env.step(action)
            actions.append(np.where(np.abs(action) >= 1.0, 1.3 * action, action))
        episode = {"observations": np.stack(observations), "actions": np.stack(actions), "init_state_dict": start}
        episodes.append({**episode, "rewards": np.zeros(len(actions))})
    env.close()
    outside = sum((np.abs(episode["actions"]) > 1.0).any(axis=1).sum() for episode in episodes)
    assert outside > 0
    (tmp_path / "door.pickle").write_bytes(pickle.dumps(episodes))
    outcome = replay(load(tmp_path / "door.pickle").select([1, 0]))
    assert outcome.start == "states" and outcome.succeeded == 2 and outcome.deviations.max() < 1e-4
    assert outcome.demonstrations.meta["clipped_steps"] == outside
    assert np.abs(outcome.demonstrations.actions).max() == 1.0


@pytest.mark.parametrize("task", list(adroit.STATE_PARTS))
def test_adroit_states_restore_the_start(task):
    env = gym.make(f"ogpo/Adroit{task}-v0")
    wanted, _ = env.reset(seed=5)
    engine = env.unwrapped.engine
    parts = engine.get_env_state()
    state = np.concatenate([parts[name] for name in adroit.STATE_PARTS[task]])
    env.reset(seed=6)
    np.testing.assert_allclose(env.unwrapped.set_state(state), wanted, atol=1e-6)
    with pytest.raises(ValueError, match=rf"Adroit{task}: a state has the shape \({len(state)},\), not \(3,\)"):
        env.unwrapped.set_state(np.zeros(3))
    env.close()


def test_the_raw_lift_recording_becomes_observations(caplog):
    whole = load(RAW_LIFT, observations="states").select([2])
    data = replace(  # the end of it, which takes less time
        whole,
        observations=whole.observations[-80:],
        actions=whole.actions[-80:],
        states=whole.states[-80:],
        episode_ends=[80],
    )
    outcome = replay(data, "ogpo/RobomimicLift-v0", set_states=True)
    shown = outcome.demonstrations
    # Recorded in a scene of robosuite 1.4.0 that the installed version does not load.
    assert "does not fit this robosuite" in caplog.text
    assert shown.observations.shape[1] == 19 and shown.successes.tolist() == [True]
    np.testing.assert_array_equal(shown.states, data.states[: shown.n_steps])
    # Hand and cube, where the state has them: the cube's position is qpos 9 to 11 (after time, arm and fingers).
    cube = list(shown.meta["observation_keys"]).index("object")
    assert cube == 3
    np.testing.assert_allclose(shown.observations[:, 9:12], data.states[: shown.n_steps, 10:13], atol=1e-6)
    assert set(shown.rewards[:-1]) == {-1.0} and shown.rewards[-1] == 0.0


class Shaky:
    """An expert that does not know what it does."""

    source = "random actions"

    def act(self, observation, rng, noise):
        return rng.uniform(-1.0, 1.0, 7).astype(np.float32)


def test_robosuite_episodes_are_recorded_with_their_scenes_and_replay_in_them(tmp_path, monkeypatch):
    monkeypatch.setattr(rollout, "resolve", lambda path: lambda env: Shaky())
    lift = "ogpo/RobomimicLift-v0"
    collected = collect(lift, 2, keep_failures=True, env_kwargs={"max_episode_steps": 6}, work=tmp_path / "work")
    # What was written attempt by attempt is what is returned.
    again = collect(lift, 2, keep_failures=True, env_kwargs={"max_episode_steps": 6}, work=tmp_path / "work")
    np.testing.assert_array_equal(again.states, collected.states)
    assert again.scenes == collected.scenes and collected.scenes[0] != collected.scenes[1]  # the cubes differ in size
    assert list(collected.meta["observation_keys"]) == ["robot0_eef_pos", "robot0_eef_quat", "robot0_gripper_qpos", "object"]
    collected.meta["env_kwargs"] = {}
    data = load(save(collected, tmp_path / "lift-random.hdf5"))
    assert data.meta["env_args"]["env_name"] == "Lift"
    with h5py.File(tmp_path / "lift-random.hdf5") as file:
        np.testing.assert_array_equal(file["data/demo_1/obs/object"][()], collected.episode(1).observations[:, 9:])
    # The controllers' memory is not part of a state, so executed actions only come close. robosuite observes within a control
    # step and not at its end, so restored states show what follows the recorded observation by a moment.
    for set_states, tolerance in ((False, 0.02), (True, 0.003)):
        outcome = replay(data, set_states=set_states)
        assert outcome.start == "states" and outcome.deviations.max() < tolerance
        assert outcome.demonstrations.states.shape == (12, 32) and outcome.succeeded == 0
    env = gym.make(lift)
    found = []
    for index in range(2):
        _begin(env, 0, state=data.states[6 * index], scene=data.scenes[index])
        model = env.unwrapped.robosuite.sim.model
        found.append(model.geom_size[model.geom_name2id("cube_g0")].copy())
    env.close()
    for size, scene in zip(found, data.scenes, strict=True):
        cube = next(geom for geom in ElementTree.fromstring(scene).iter("geom") if geom.get("name") == "cube_g0")
        np.testing.assert_allclose(size, [float(number) for number in cube.get("size").split()], rtol=1e-6)
    assert np.abs(found[0] - found[1]).max() > 1e-5


@pytest.mark.parametrize(
    ("data", "env_id", "arguments", "sentence"),
    [
        (make(), None, {}, "replay needs a task to replay in, found 'ogpo/None-v0', wanted one of ogpo/PushT-v0"),
        (make(), "ogpo/PushT", {}, "found 'ogpo/PushT'"),
        (make(), "ogpo/AdroitDoor-v0", {}, r"actions has shape \(9, 2\), wanted \(steps, 28\)"),
        (make(), "ogpo/PushT-v0", {"set_states": True}, "no simulator states to restore"),
    ],
)
def test_what_cannot_be_replayed_is_said(data, env_id, arguments, sentence):
    with pytest.raises(ValueError, match=sentence):
        replay(data, env_id, **arguments)


# Inspection


def test_a_clean_set_has_no_warnings():
    assert warnings(make().select([0, 2])) == warnings(make_dict().select([0, 2])) == []
    assert warnings(make()) == ["1 of 3 episodes have a single step."]


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"actions": np.linspace(-1, 3, 18).reshape(9, 2)}, "actions leave ±1 in 5 of 9 steps, up to 3."),
        ({"actions": np.stack([np.linspace(-1, 1, 9), np.zeros(9)], 1)}, "actions have 1 constant entries: 1."),
        ({"observations": np.eye(9)[:, :4] * [1, 1, 0, 1]}, "observations has 1 constant entries: 2."),
        ({"observations": np.arange(36.0).reshape(9, 4)}, "observations reaches 35: not normalised"),
        ({"rewards": None}, "there are no rewards"),
        ({"successes": None}, "successes are unknown"),
        ({"successes": np.zeros(3, bool)}, "no episode is successful."),
        ({"final_observations": None}, "the observation after each episode's last action is unknown."),
    ],
)
def test_inspection_warns(changes, sentence):
    found = warnings(make(**changes))
    assert any(sentence in line for line in found), found


def test_repeated_steps_are_counted_within_episodes():
    data = make()
    for row in (2, 3, 6):  # the third step repeats the second; step 3 begins an episode; step 6 repeats step 5
        data.observations[row], data.actions[row] = data.observations[row - 1], data.actions[row - 1]
    assert "2 of 9 steps repeat the observation and the action of the step before." in warnings(data)


def test_a_summary_names_shapes_ranges_and_outcomes():
    text = summary(make_dict())
    assert "episodes      3, 1 to 5 steps, mean 3.0" in text and "image         6x5x3 uint8" in text
    assert "successes     2 of 3 episodes" in text and "seed          7" in text
