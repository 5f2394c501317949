"""SB3_INTEGRATION K6 for on-policy algorithms: RL-Zoo trains, continues from the zip, and enjoys."""

import sys

import numpy as np
import pytest
import yaml
from ogpo_sb3.zoo import ALGORITHMS, register

CONFIG = dict(
    n_timesteps=60,
    n_envs=2,
    normalize="{'norm_obs': True, 'norm_reward': False}",
    env_wrapper=[{"ogpo_sb3.ChunkActionWrapper": {"chunk_size": 2}}],
    learning_rate="lin_1e-3",
    clip_range="lin_0.1",
    n_steps=10,
    batch_size=8,
    n_epochs=2,
    policy_kwargs="dict(net_arch=[16], denoising_steps=2)",
)


def run(monkeypatch, command, *arguments):
    import rl_zoo3.enjoy
    import rl_zoo3.train

    monkeypatch.setattr(sys, "argv", [command, *map(str, arguments)])
    {"train": rl_zoo3.train.train, "enjoy": rl_zoo3.enjoy.enjoy}[command]()


@pytest.mark.parametrize("algo, policy", [("dppo", "DiffusionPolicy"), ("reinflow", "FlowPolicy")])
def test_train_continue_enjoy(algo, policy, tmp_path, monkeypatch):
    register()
    config = tmp_path / "config.yml"
    config.write_text(yaml.safe_dump({"Pendulum-v1": CONFIG | {"policy": policy}}))
    logs = tmp_path / "logs"
    common = ("--algo", algo, "--env", "Pendulum-v1", "-f", logs)
    train = (*common, "-conf", config, "--eval-freq", 20, "--eval-episodes", 1, "--save-freq", 20, "--seed", 1, "--verbose", 0)
    run(monkeypatch, "train", *train)
    folder = logs / algo / "Pendulum-v1_1"
    model = ALGORITHMS[algo].load(folder / "Pendulum-v1.zip")
    assert model.num_timesteps == 60 and model.chunk_size == 2 and model._n_updates > 0
    assert (np.load(folder / "evaluations.npz")["ep_lengths"] == 200).all(), "evaluation counts environment steps"
    run(monkeypatch, "train", *train, "-i", folder / "Pendulum-v1.zip", "-n", 40)
    continued = ALGORITHMS[algo].load(logs / algo / "Pendulum-v1_2" / "Pendulum-v1.zip")
    assert continued._n_updates > model._n_updates
    for which in ((), ("--load-best",), ("--load-last-checkpoint",)):
        run(monkeypatch, "enjoy", *common, "--exp-id", 1, "-n", 20, "--no-render", *which)
