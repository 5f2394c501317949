"""SB3_INTEGRATION K6: RL-Zoo trains, continues from the zip with its buffer, and enjoys last, best and checkpoint."""

import sys

import numpy as np
import pytest
import yaml
from ogpo_sb3.zoo import ALGORITHMS, register

CONFIG = {
    "Pendulum-v1": dict(
        policy="FlowPolicy",
        n_timesteps=60,
        n_envs=1,
        normalize="{'norm_obs': True, 'norm_reward': False}",
        env_wrapper=[{"ogpo_sb3.ChunkActionWrapper": {"chunk_size": 2}}],
        learning_rate="lin_1e-3",
        noise_type="normal",
        noise_std=0.1,
        learning_starts=20,
        batch_size=8,
        actor_batch_size=4,
        group_size=2,
        policy_kwargs="dict(net_arch=[16], n_critics=2, denoising_steps=2)",
    )
}


def run(monkeypatch, command, *arguments):
    import rl_zoo3.enjoy
    import rl_zoo3.train

    monkeypatch.setattr(sys, "argv", [command, *map(str, arguments)])
    {"train": rl_zoo3.train.train, "enjoy": rl_zoo3.enjoy.enjoy}[command]()


@pytest.mark.parametrize("algo", ["ogpo", "ogpo_ca"])
def test_train_continue_enjoy(tmp_path, monkeypatch, capsys, algo):
    register()
    register()
    import rl_zoo3

    assert all(rl_zoo3.ALGOS[name] is cls for name, cls in ALGORITHMS.items())
    config = tmp_path / "config.yml"
    config.write_text(yaml.safe_dump(CONFIG))
    logs = tmp_path / "logs"
    common = ("--algo", algo, "--env", "Pendulum-v1", "-f", logs)
    train = (*common, "-conf", config, "--eval-freq", 20, "--eval-episodes", 1, "--save-freq", 20, "--save-replay-buffer")
    run(monkeypatch, "train", *train, "--seed", 1, "--verbose", 0)
    folder = logs / algo / "Pendulum-v1_1"
    assert (folder / "replay_buffer.pkl").exists() and (folder / "best_model.zip").exists()
    model = ALGORITHMS[algo].load(folder / "Pendulum-v1.zip")
    assert model.num_timesteps == 60 and model.chunk_size == 2 and model._n_updates > 0
    lengths = np.load(folder / "evaluations.npz")["ep_lengths"]
    assert (lengths == 200).all(), "evaluation counts environment steps"
    run(monkeypatch, "train", *train, "-i", folder / "Pendulum-v1.zip", "-n", 30, "--seed", 1, "--verbose", 0)
    continued = ALGORITHMS[algo].load(logs / algo / "Pendulum-v1_2" / "Pendulum-v1.zip")
    assert continued._n_updates > model._n_updates
    for which in ((), ("--load-best",), ("--load-last-checkpoint",)):
        run(monkeypatch, "enjoy", *common, "--exp-id", 1, "-n", 20, "--no-render", *which)
    assert (folder / "Pendulum-v1" / "vecnormalize.pkl").exists()
