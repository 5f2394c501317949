"""The demonstrations inside the package, and the adapters that bring recordings to an environment's conventions."""

import gymnasium as gym
import numpy as np
import pytest

from ogpo_sb3.demonstrations import DemonstrationSet, load
from ogpo_sb3.envs import kitchen, pusht
from ogpo_sb3.envs.registry import TASKS, register_environments, task_of

register_environments()


@pytest.mark.parametrize("env_id", [env_id for env_id, task in TASKS.items() if task.demonstrations])
def test_shipped_data_fit_their_environment(env_id):
    task = TASKS[env_id]
    env = gym.make(env_id)
    data = load(task.demonstrations)
    data.validate_for(env.observation_space, env.action_space)
    assert data.meta["source"] == task.demonstrations and data.meta["env_id"] == env_id
    assert task.adapt(data, **env.spec.kwargs) is data  # adapting again changes nothing
    # Rewards and ends are the environment's own: 0 exactly where an episode succeeds, which ends it.
    np.testing.assert_array_equal(data.rewards == 0.0, data.terminals)
    assert data.terminals.sum() == data.successes.sum()
    np.testing.assert_array_equal(data.terminals[data.episode_ends - 1], data.successes)
    env.close()


def test_shipped_sizes():
    push, cook = load("shipped:pusht"), load("shipped:kitchen-complete")
    assert (push.n_episodes, push.n_steps, int(push.successes.sum())) == (206, 25650, 7)
    # 4 209 recorded steps; those after the last subtask, which this environment never shows, are cut.
    assert (cook.n_episodes, cook.n_steps, int(cook.successes.sum())) == (19, 3910, 19)
    assert cook.final_observations.shape == (19, 59)
    assert kitchen.finished(cook.final_observations, kitchen.SUBTASKS["complete"]).all()


def test_pusht_raw_recordings_become_any_observation():
    state = np.array([[100.0, 200.0, 256.0, 300.0, 0.5], [110.0, 210.0, 256.0, 300.0, 5.5]])
    raw = DemonstrationSet(state, np.array([[128.0, 384.0], [512.0, 0.0]]), [2], successes=[True], meta={"source": "raw"})
    task = task_of("ogpo/PushT-v0")
    for obs_type in pusht.OBS_TYPES:
        env = gym.make(task.id, obs_type=obs_type)
        adapted = task.adapt(raw, **env.spec.kwargs)
        adapted.validate_for(env.observation_space, env.action_space)
        np.testing.assert_array_equal(adapted.actions, [[-0.5, 0.5], [1.0, -1.0]])
        assert adapted.rewards.tolist() == [-1.0, 0.0] and adapted.terminals.tolist() == [False, True]
        expected, _ = env.reset(seed=0, options={"state": state[1]})
        # From adapted vectors the same, to single precision.
        for data in (adapted, task.adapt(task.adapt(raw), **env.spec.kwargs)):
            for key in expected if isinstance(expected, dict) else [None]:
                found, wanted = (data.observations, expected) if key is None else (data.observations[key], expected[key])
                np.testing.assert_allclose(found[1].astype(float), wanted, atol=2e-5 if wanted.dtype == np.float32 else 3)
    # Coverage is not recorded: no rewards rather than sparse ones for an environment with the dense reward.
    assert task.adapt(raw, reward="dense").rewards is None and task.adapt(task.adapt(raw), reward="dense").rewards is None
    # Sparse rewards are those of the environment, also of a set that has had others.
    for data in (raw, task.adapt(raw)):
        np.testing.assert_allclose(task.adapt(data, reward_scale=0.1, success_bonus=3.0).rewards, [-0.1, 3.0])
    published = task.adapt(raw)
    assert task.adapt(published) is published
    assert raw.actions.max() == 512.0 and "pusht_obs_type" not in raw.meta  # the original is left alone
    with pytest.raises(ValueError, match="keypoints observations cannot be turned into state ones"):
        task.adapt(task.adapt(raw, obs_type="keypoints"))
    other = DemonstrationSet(np.zeros((2, 4)), np.zeros((2, 2)), [2])
    assert task.adapt(other) is other


def test_kitchen_rewards_are_read_off_the_recording():
    names = ("microwave", "kettle")
    rows = np.zeros((7, 59), np.float32)
    rows[[2, 5], 31] = -0.75  # the microwave is open, and shut again in row 3
    rows[4:6, 32:39] = kitchen._GOALS["kettle"][1]
    data = DemonstrationSet(rows, np.zeros((7, 9)), [6, 7], rewards=np.full(7, 4.0), meta={"source": "cook"})
    adapted = kitchen.adapt_demonstrations(data, subtasks=names)
    # Episode 0 is over when the kettle stands after action 3. What action 0 of episode 1 did is not recorded.
    assert adapted.episode_ends.tolist() == [4, 5] and adapted.successes.tolist() == [True, False]
    assert adapted.rewards.tolist() == [-7.0, -6.0, -6.0, 0.0, -7.0]
    assert adapted.terminals.tolist() == [False, False, False, True, False] and adapted.final_observations is None
    data.final_observations = np.stack([rows[5], rows[2]])
    told = kitchen.adapt_demonstrations(data, subtasks=names)
    assert told.rewards.tolist() == [-7.0, -6.0, -6.0, 0.0, -6.0]
    np.testing.assert_array_equal(told.final_observations, [rows[4], rows[2]])
    assert kitchen.adapt_demonstrations(told, subtasks=names) is told
    small = kitchen.adapt_demonstrations(data, subtasks=names, reward_scale=0.1)
    np.testing.assert_allclose(small.rewards, 0.1 * told.rewards)
    np.testing.assert_allclose(kitchen.adapt_demonstrations(small, subtasks=names).rewards, told.rewards)
    np.testing.assert_allclose(kitchen.adapt_demonstrations(told, subtasks=names, reward_scale=0.1).rewards, small.rewards)
    with pytest.raises(ValueError, match="load the source again"):
        kitchen.adapt_demonstrations(told, subtasks="mixed")


def test_adroit_drops_rewards_of_another_scale():
    task = task_of("ogpo/AdroitDoor-v0")
    meta = {"source": "door", "env_id": "ogpo/AdroitDoor-v0", "env_kwargs": {"reward": "sparse"}}
    data = DemonstrationSet(np.zeros((2, 39)), np.zeros((2, 28)), [2], rewards=[-1.0, 0.0], meta=meta)
    assert task.adapt(data, **gym.make(task.id).spec.kwargs) is data
    for kwargs in ({"reward": "dense"}, {"success_bonus": 5.0}, {"reward_scale": 0.1}):
        adapted = task.adapt(data, **gym.make(task.id, **kwargs).spec.kwargs)
        assert adapted.rewards is None and adapted.actions is data.actions
    data.meta = {"source": "minari:D4RL/door/human-v2", "format": "Minari"}
    assert task.adapt(data, reward="sparse").rewards is None and task.adapt(data, reward="dense") is data
    data.meta = {"source": "mine"}
    assert task.adapt(data, reward="sparse") is data is task.adapt(data, reward="dense")
