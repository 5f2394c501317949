"""Behaviour cloning, the BC checkpoint, demonstrations in training batches."""

import dataclasses
import warnings

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from ogpo_sb3 import OGPO, OGPOCA, ChunkActionWrapper, evaluate
from ogpo_sb3.common.errors import TrainingDivergedError
from stable_baselines3.common.torch_layers import CombinedExtractor, FlattenExtractor
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from tests.contract.models import FromSpaces
from tests.toys import Bandit, Reach, reach_demonstrations

KWARGS = dict(
    learning_starts=40,
    batch_size=64,
    actor_batch_size=8,
    group_size=4,
    chunk_size=2,
    bc_learning_rate=2e-3,
    seed=0,
    device="cpu",
    policy_kwargs=dict(net_arch=[32, 32], n_critics=2, denoising_steps=4),
)


def cloned(**kwargs):
    return OGPO("FlowPolicy", Reach(), demonstrations=reach_demonstrations(), **{**KWARGS, "bc_steps": 400, **kwargs})


def parameters(module):
    return th.cat([p.detach().flatten() for p in module.parameters()])


def test_cloning_imitates_and_leaves_all_actors_equal():
    model = cloned()
    before = evaluate(model, Reach, n_episodes=30)
    model.pretrain(progress_bar=False)
    after = evaluate(model, Reach, n_episodes=30)
    assert after.success_rate > max(0.7, before.success_rate + 0.3)
    assert th.equal(parameters(model.actor), parameters(model.actor_ema)), "the first ratio is one"
    assert model.bc_history[-1]["update"] == 400 and model.bc_history[-1]["loss"] < model.bc_history[0]["loss"]


def test_clip_bc_stops_at_the_threshold():
    model = cloned(bc_steps=1000, clip_bc=0.4)
    model.pretrain(progress_bar=False, eval_freq=25, n_eval_episodes=20)
    successes = [entry["success"] for entry in model.bc_history if "success" in entry]
    assert successes[-1] >= 0.4 and all(success < 0.4 for success in successes[:-1])
    assert model._n_bc_updates < 1000 and not model.pretraining_due


def test_no_checkpoint_of_the_update_that_ends_cloning(tmp_path, monkeypatch):
    """A run that goes on from the last checkpoint comes to the same end; it would not from one that lies at the end."""
    monkeypatch.setattr(OGPO, "_bc_success", lambda self, *_: float(self._n_bc_updates >= 20))
    model = cloned(bc_steps=40, clip_bc=0.4)
    model.pretrain(progress_bar=False, eval_freq=10, checkpoint=tmp_path / "bc", checkpoint_freq=10)
    again = OGPO.load_checkpoint(tmp_path / "bc", env=Reach(), device="cpu", demonstrations=reach_demonstrations())
    assert (model._n_bc_updates, again._n_bc_updates) == (20, 10) and again.pretraining_due
    again.pretrain(progress_bar=False, eval_freq=10)
    assert again._n_bc_updates == 20 and th.equal(parameters(again.actor_ema), parameters(model.actor_ema))


def test_learn_pretrains_once_and_explores_with_the_clone():
    """T5: before learning_starts the pre-trained behaviour policy acts, not the uniform distribution."""
    model = cloned(learning_starts=10_000)
    model.learn(300)
    assert model.pretrained and model._n_bc_updates == 400
    assert model.replay_buffer.n_success > 100, "a uniform policy would have had hardly any success"
    model.learn(10, reset_num_timesteps=False)
    assert model._n_bc_updates == 400


def test_checkpoint_starts_another_algorithm_identically(tmp_path):
    model = cloned(policy_kwargs=dict(net_arch=[24], denoising_steps=3, noise_std=0.07, normalize_observations=True))
    model.pretrain(progress_bar=False, steps=50)
    model.policy.save(tmp_path / "bc.zip")
    other = OGPOCA("FlowPolicy", Reach(), pretrained_policy=tmp_path / "bc.zip", policy_kwargs=dict(n_critics=4), seed=1)
    assert other.chunk_size == 2, "the checkpoint's chunk size"
    assert other.policy.gcp_kwargs["noise_std"] == 0.07 and other.policy.n_critics == 4
    obs = np.array([[0.0, 0.7], [0.2, -0.9]], np.float32)
    np.testing.assert_array_equal(other.predict(obs, deterministic=True)[0], model.predict(obs, deterministic=True)[0])
    for actor in other.policy.actor_copies():
        assert th.equal(parameters(actor), parameters(model.actor_ema))
    assert th.equal(other.critic.normalizer.mean_0, model.actor.normalizer.mean_0)
    assert other.pretrained and not other.pretraining_due


def test_wrong_checkpoints_are_named(tmp_path):
    model = cloned(bc_steps=5)
    model.pretrain(progress_bar=False)
    model.policy.save(tmp_path / "bc.zip")
    model.save(tmp_path / "model.zip")
    (tmp_path / "text.zip").write_text("hello")
    for name, message in (
        ("none.zip", "does not exist"),
        ("text.zip", "should be a file of model.policy.save"),
        ("model.zip", "found a model of model.save"),
    ):
        with pytest.raises(ValueError, match=message):
            OGPO("FlowPolicy", Reach(), pretrained_policy=tmp_path / name)
    with pytest.raises(ValueError, match="another architecture"):
        OGPO("FlowPolicy", Reach(), pretrained_policy=tmp_path / "bc.zip", policy_kwargs=dict(net_arch=[9]))
    with pytest.raises(ValueError, match=r"time_scale=1000\.0, policy_kwargs want 1\.0"):
        OGPO("FlowPolicy", Reach(), pretrained_policy=tmp_path / "bc.zip", policy_kwargs=dict(time_scale=1.0))
    with pytest.raises(ValueError, match="observation_space"):
        OGPO("FlowPolicy", Bandit(), pretrained_policy=tmp_path / "bc.zip")
    with pytest.raises(ValueError, match="exclude each other"):
        cloned(pretrained_policy=tmp_path / "bc.zip")


def test_interrupted_cloning_goes_on_bit_for_bit(tmp_path, monkeypatch):
    """Stopped between two checkpoints and continued from the first: the same network as in one go."""
    whole = cloned(bc_steps=60)
    whole.pretrain(progress_bar=False)
    part = cloned(bc_steps=60)
    one_update, updates = OGPO._bc_update, []

    def interrupted(*args):
        updates.append(1)
        if len(updates) > 45:
            raise InterruptedError
        return one_update(*args)

    with monkeypatch.context() as patch, pytest.raises(InterruptedError):
        patch.setattr(OGPO, "_bc_update", interrupted)
        part.pretrain(progress_bar=False, checkpoint=tmp_path / "bc", checkpoint_freq=20)
    again = OGPO.load_checkpoint(tmp_path / "bc", env=Reach(), device="cpu", demonstrations=reach_demonstrations())
    assert again._n_bc_updates == 40 and again.pretraining_due
    again.pretrain(progress_bar=False)
    assert th.equal(parameters(again.actor_ema), parameters(whole.actor_ema))


@pytest.mark.parametrize(("ratio", "expected"), [(0.25, 16), (1.0, 64)])
def test_offline_ratio_is_the_share_of_demonstration_windows(ratio, expected):
    """Demonstrations are marked by an impossible goal, so that their share in a batch can be counted."""
    demos = reach_demonstrations()
    demos.observations[:, 1] = 2.0
    model = OGPO("FlowPolicy", Reach(), demonstrations=demos, **{**KWARGS, "offline_ratio": ratio, "learning_starts": 10_000})
    model.learn(100)
    for _ in range(5):
        batch = model._sample(64)
        assert len(batch.observations) == 64
        assert (batch.observations[:, 1] == 2.0).sum().item() == expected


def test_demonstrations_are_read_where_the_environment_comes_after_loading(tmp_path):
    """load without an environment, set_env, learn: the model knows the file it draws windows from."""
    path = reach_demonstrations().save(tmp_path / "data.npz")
    kwargs = {**KWARGS, "offline_ratio": 0.5, "learning_starts": 20, "batch_size": 8}
    OGPO("FlowPolicy", Reach(), demonstrations=str(path), **kwargs).learn(30).save(tmp_path / "model")
    loaded = OGPO.load(tmp_path / "model", device="cpu")
    assert loaded.demonstration_buffer is None
    loaded.set_env(Reach())
    buffer, updates = loaded.demonstration_buffer, loaded._n_updates
    loaded.learn(30, reset_num_timesteps=False)
    assert buffer is not None and loaded._n_updates > updates
    loaded.set_env(Reach())
    assert loaded.demonstration_buffer is buffer, "read once"


@pytest.mark.parametrize("name", ["eval_freq", "n_eval_episodes", "checkpoint_freq"])
def test_cloning_refuses_numbers_that_count_nothing(name):
    model = cloned()
    with pytest.raises(ValueError, match=f"{name} must be at least 1, found 0"):
        model.pretrain(progress_bar=False, **{name: 0})
    with pytest.raises(ValueError, match=r"steps must be a whole number, found 2.5"):
        model.pretrain(2.5, progress_bar=False)
    assert model._n_bc_updates == 0
    assert model.pretrain(4e0, eval_freq=2.0, n_eval_episodes=2, progress_bar=False)._n_bc_updates == 4


@pytest.mark.parametrize(("ratio", "before", "after"), [(0.0, None, 0), (0.25, 8, 2), (1.0, 8, 8)])
def test_bc_offline_ratio_is_the_share_of_demonstrations_among_what_is_cloned(ratio, before, after):
    """Counted by an impossible goal; before there are successes they are all there is. Data without rewards will do."""
    demos = reach_demonstrations()
    demos.observations[:, 1] = 2.0
    demos.rewards = None
    kwargs = {**KWARGS, "learning_starts": 10_000, "actor_batch_size": 8}
    model = OGPOCA("FlowPolicy", Reach(), demonstrations=demos, bc_offline_ratio=ratio, **kwargs)

    def cloned_demonstrations():
        batch = model._success_batch()
        return None if batch is None else (batch.observations[:, 1] == 2.0).sum().item()

    assert model.replay_buffer.n_success == 0 and cloned_demonstrations() == before
    model.learn(600)
    buffer = model.replay_buffer
    assert buffer.n_success >= 8
    buffer.actions[~buffer.successes] = np.nan  # failures are never cloned
    for _ in range(20):
        assert cloned_demonstrations() == after
        assert th.isfinite(model._cloning_loss(model._success_batch()))
    assert not (model._sample(64).observations[:, 1] == 2.0).any(), "critics and policy gradient see none of them"


def test_demonstration_rewards_reach_the_critic_with_true_ends():
    model = cloned(offline_ratio=1.0, gamma=0.9)
    batch = model._sample(500)
    # A shortest walk gives -1 per step and 0 at the end: the discounted sum of k steps is one of three values.
    terminal = batch.dones[:, 0] == 1
    assert terminal.any() and not terminal.all()
    assert batch.rewards[~terminal, 0].numpy() == pytest.approx(-1.9)
    assert set(batch.rewards[terminal, 0].tolist()) == {-1.0, 0.0}


def test_bad_demonstrations_are_named():
    demos = reach_demonstrations()
    demos.rewards = None
    with pytest.raises(ValueError, match="no rewards"):
        OGPO("FlowPolicy", Reach(), demonstrations=demos, offline_ratio=0.5, **KWARGS)
    with pytest.raises(ValueError, match="observations"):
        OGPO("FlowPolicy", Bandit(), demonstrations=reach_demonstrations(), bc_steps=1)
    with pytest.raises(FileNotFoundError, match="nowhere"):
        OGPO("FlowPolicy", Reach(), demonstrations="nowhere.npz", bc_steps=1)
    loud = reach_demonstrations()
    loud.actions *= 3
    with pytest.raises(ValueError, match="action"):
        OGPO("FlowPolicy", Reach(), demonstrations=loud, bc_steps=1)
    with pytest.raises(ValueError, match="demonstrations"):
        OGPO("FlowPolicy", Reach(), **KWARGS).pretrain()


def test_a_diverging_clone_stops_with_its_name():
    model = cloned()
    with th.no_grad():
        next(model.actor.gcp.parameters()).fill_(float("nan"))
    with pytest.raises(TrainingDivergedError, match="bc_loss"):
        model.pretrain(progress_bar=False)


def test_running_statistics_follow_into_the_deployed_actor():
    """Polyak averaging is over parameters; a BatchNorm would deploy its initial statistics."""

    class Normed(FlattenExtractor):
        def __init__(self, space):
            super().__init__(space)
            self.norm = th.nn.BatchNorm1d(self.features_dim)

        def forward(self, observations):
            return self.norm(super().forward(observations))

    model = cloned(bc_steps=5, policy_kwargs=dict(net_arch=[8], denoising_steps=2, features_extractor_class=Normed))
    model.pretrain(progress_bar=False)
    deployed = model.actor_ema.features_extractor.norm.running_mean
    assert deployed.abs().sum() > 0 and th.equal(deployed, model.actor.features_extractor.norm.running_mean)


def test_statistics_are_those_of_what_the_network_sees():
    """Under VecNormalize its output; while it goes on learning, a warning says that the clone will see other inputs."""
    env = VecNormalize(DummyVecEnv([lambda: ChunkActionWrapper(Reach(), 2)]), norm_reward=False)
    env.obs_rms.mean[:], env.obs_rms.var[:] = 3.0, 4.0
    env.training = False
    settings = {**KWARGS, "demonstrations": reach_demonstrations(), "bc_steps": 1}
    settings["policy_kwargs"] = dict(net_arch=[8], denoising_steps=2, normalize_observations=True)
    model = OGPO("FlowPolicy", env, **settings)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.pretrain(progress_bar=False)
    inputs = env.normalize_obs(reach_demonstrations().observations)
    np.testing.assert_allclose(model.actor.normalizer.mean_0, inputs.mean(axis=0), atol=1e-5)
    env.training = True
    with pytest.warns(UserWarning, match="will see other inputs"):
        OGPO("FlowPolicy", env, **settings).pretrain(progress_bar=False)


def test_a_path_is_saved_as_a_name_is(tmp_path):
    path = reach_demonstrations(3).save(tmp_path / "demos.npz")
    settings = {**KWARGS, "demonstrations": path, "bc_steps": 2}
    model = OGPO("FlowPolicy", Reach(), **settings)
    model.save(tmp_path / "model")
    assert OGPO.load(tmp_path / "model", Reach()).demonstrations == str(path)


def test_demonstrations_are_kept_as_experience_is():
    """Ends of episodes too: what a time limit means is said once, for both."""
    demos = reach_demonstrations(3)
    demos = dataclasses.replace(demos, terminals=np.zeros_like(demos.terminals))
    ends = demos.episode_ends - 1
    for bootstraps in (True, False):
        kwargs = dict(chunk_end="drop", handle_timeout_termination=bootstraps)
        model = OGPO(
            "FlowPolicy", Reach(), **{**KWARGS, "demonstrations": demos}, replay_buffer_kwargs=kwargs, offline_ratio=0.5
        )
        buffer = model.demonstration_buffer
        assert buffer.chunk_end == model.replay_buffer.chunk_end == "drop"
        assert (buffer.sample(200).dones.sum() == 0) == bootstraps == (buffer.timeouts[ends] == 1).all()


def test_a_clone_of_other_observation_keys_is_refused(tmp_path):
    """Of the same shape, so that no parameter tells."""
    pair = spaces.Dict({key: spaces.Box(-1, 1, (2,), np.float32) for key in "ab"})
    settings = {**KWARGS, "policy_kwargs": dict(net_arch=[8], features_extractor_class=CombinedExtractor, actor_keys=["a"])}
    OGPO("FlowPolicy", FromSpaces(pair), **settings).policy.save(tmp_path / "bc.zip")
    settings["policy_kwargs"] = dict(net_arch=[8], actor_keys=["b"])
    with pytest.raises(ValueError, match=r"actor_keys=\['a'\], policy_kwargs want \['b'\]"):
        OGPO("FlowPolicy", FromSpaces(pair), pretrained_policy=tmp_path / "bc.zip", **settings)
