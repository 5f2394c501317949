"""The experts that collect demonstrations, and the command that runs them."""

import json

import gymnasium as gym
import numpy as np
import pytest

from ogpo_sb3 import demos
from ogpo_sb3.demonstrations import load
from ogpo_sb3.demonstrations.experts import AdroitExpert, collect, rollout

DOOR = "ogpo/AdroitDoor-v0"


@pytest.mark.parametrize("name", ["Door", "Hammer", "Pen", "Relocate"])
def test_experts_solve_their_tasks(name):
    data = collect(f"ogpo/Adroit{name}-v0", episodes=5, seed=1, keep_failures=True)
    assert data.n_episodes == data.meta["attempts"] == 5
    assert data.successes.sum() == data.meta["attempts_succeeded"] >= 3
    # An episode stops with its first success, otherwise at the horizon.
    assert ((data.episode_lengths < 200) == data.successes).all() and data.episode_lengths.max() <= 200
    np.testing.assert_array_equal(data.terminals[data.episode_ends - 1], data.successes)
    env = gym.make(f"ogpo/Adroit{name}-v0")
    data.validate_for(env.observation_space, env.action_space)
    env.close()


def test_collected_episodes_can_be_repeated():
    data = collect(DOOR, episodes=2, seed=3, noise=1.0, env_kwargs={"reward": "dense"})
    again = collect(DOOR, episodes=2, seed=3, noise=1.0, env_kwargs={"reward": "dense"})
    for name in ("observations", "actions", "rewards", "terminals", "episode_ends", "final_observations"):
        np.testing.assert_array_equal(getattr(again, name), getattr(data, name))
    assert not np.array_equal(collect(DOOR, episodes=1, seed=4, noise=1.0).actions[:5], data.actions[:5])
    env = gym.make(DOOR, reward="dense")
    for index in range(2):
        episode = data.episode(index)
        observations, rewards = [env.reset(seed=data.meta["reset_seeds"][index])[0]], []
        for action in episode.actions:
            observation, reward, *_ = env.step(action)
            observations.append(observation)
            rewards.append(reward)
        np.testing.assert_array_equal(np.stack(observations[:-1]), episode.observations)
        np.testing.assert_array_equal(observations[-1], episode.final_observations[0])
        np.testing.assert_array_equal(np.float32(rewards), episode.rewards)
    env.close()
    assert data.meta["source"] == "collected with the DAPG expert policy" and data.meta["env_id"] == DOOR
    assert data.meta["versions"]["mujoco"] and json.dumps(data.meta)


def test_collecting_stops_at_the_first_success_even_where_the_environment_goes_on():
    data = collect(DOOR, episodes=1, env_kwargs={"terminate_on_success": False})
    assert data.n_steps < 120 and data.successes.tolist() == [True]
    assert data.rewards[-1] == 0.0 and (data.rewards[:-1] == -1.0).all() and not data.terminals.any()


def test_expert_noise_is_a_multiple_of_its_own():
    expert = AdroitExpert("Relocate")
    observation = np.zeros(39, np.float32)
    mean = expert.act(observation, np.random.default_rng(0))
    np.testing.assert_array_equal(mean, expert.act(observation, np.random.default_rng(1)))
    assert mean.shape == (30,) and mean.dtype == np.float32 and np.abs(mean).max() <= 1.0
    rng = np.random.default_rng(0)
    noisy = np.stack([expert.act(observation, rng, 0.1) for _ in range(2000)])
    free = np.abs(mean) < 0.7  # where the bounds do not cut
    np.testing.assert_allclose(noisy.std(axis=0)[free], 0.1 * expert.std[free], rtol=0.1)
    np.testing.assert_allclose(noisy.mean(axis=0)[free], mean[free], atol=0.01)
    with pytest.raises(ValueError, match="door, hammer, pen, relocate, not for 'square'"):
        AdroitExpert("square")


def test_a_hopeless_expert_is_given_up(monkeypatch):
    monkeypatch.setattr(rollout, "ATTEMPTS_PER_EPISODE", 2)
    with pytest.raises(RuntimeError, match="succeeded in 0 of 2 attempts at noise 50"):
        collect(DOOR, episodes=1, noise=50.0)
    kept = collect(DOOR, episodes=1, noise=50.0, keep_failures=True)
    assert kept.n_steps == 200 and not kept.terminals.any() and kept.successes.tolist() == [False]


@pytest.mark.parametrize(
    ("kwargs", "sentence"),
    [
        ({"env_id": "ogpo/PushT-v0"}, "no expert for 'ogpo/PushT-v0'; there is one for ogpo/AdroitDoor-v0, .*Relocate-v0"),
        ({"episodes": 0}, "At least one episode"),
        ({"noise": -1.0}, "not negative"),
    ],
)
def test_collect_refuses_what_it_cannot_do(kwargs, sentence):
    with pytest.raises(ValueError, match=sentence):
        collect(**{"env_id": DOOR, "episodes": 1, **kwargs})


def test_the_command_collects_and_inspects(tmp_path, capsys):
    path = tmp_path / "door.npz"
    arguments = ["collect", "--env", DOOR, "--episodes", "3", "-o", str(path), "--noise", "1.5", "--seed", "2"]
    assert demos.main(arguments) == 0
    printed = capsys.readouterr()
    data = load(path)
    attempts = data.meta["attempts"]
    assert data.n_episodes == 3 and data.successes.all() and data.meta["noise"] == 1.5
    assert f"succeeded in 3 of {attempts} attempts" in printed.out and f"{attempts - 3} failed" in printed.out
    assert f"{path}: 3 episodes, {data.n_steps} steps." in printed.out
    assert "3/3" in printed.err  # the progress bar
    assert set(data.rewards) == {-1.0, 0.0}
    assert demos.main([*arguments, "--reward", "dense", "--quiet"]) == 0
    assert capsys.readouterr().err.count("3/3") == 0 and len(set(load(path).rewards)) > 50
    assert demos.main(["inspect", str(path)]) == 0
    printed = capsys.readouterr().out
    assert f"steps         {data.n_steps}" in printed and "actions       28 float32" in printed
    assert "origin        collected with the DAPG expert policy" in printed


def test_the_command_explains_a_mistake(tmp_path, capsys):
    assert demos.main(["collect", "--env", "ogpo/Nothing-v0", "-o", str(tmp_path / "x.npz")]) == 1
    assert "there is one for ogpo/AdroitDoor-v0" in capsys.readouterr().err
    assert demos.main(["collect", "--env", DOOR, "-o", str(tmp_path)]) == 1
    assert "is a directory" in capsys.readouterr().err
    assert demos.main(["inspect", str(tmp_path / "missing.npz")]) == 1
    assert "there is no such file" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
