"""Full checkpoints: a run that goes on from one is the run that was never interrupted (2.8; design 5.9)."""

import copy
import threading
import warnings

import numpy as np
import pytest
from stable_baselines3.common.noise import OrnsteinUhlenbeckActionNoise
from stable_baselines3.common.vec_env import SubprocVecEnv, VecNormalize

from ogpo_sb3 import OGPO, OGPOCA
from ogpo_sb3.common.checkpoint import FullCheckpointCallback, checkpoints
from ogpo_sb3.common.files import atomic_write
from tests.contract.models import (
    ALGORITHMS,
    CHUNK_SIZES,
    LINE_ID,
    Line,
    Ticker,
    build,
    check_stream,
    differences,
    parameters,
    state,
    tiny,
    vec,
)
from tests.toys import Reach, reach_demonstrations

# Sizes at which successes are cloned from early on
OPTIONS = {
    "plain": (OGPO, dict()),
    "conservative, success cloning, warm-up": (OGPOCA, dict(critic_warmup_updates=6, best_of_n=2, utd_actor=0.6)),
    "chi2, fractions": (ALGORITHMS[-1], dict(utd_critic=0.7, utd_actor=0.4, policy_kwargs=dict(normalize_observations=True))),
    "another objective": (OGPO, dict(extraction="fpo++", baseline="value", utd_actor=0.5)),
}


def two_runs(path, algorithm, make_env, first, second, **options):
    """The state of an uninterrupted run (restarted environment) and of one that was loaded."""
    live = algorithm(options.pop("policy", "FlowPolicy"), make_env(), **tiny(**options))
    live.learn(first)
    assert live.save_checkpoint(path).suffix == ".ckpt"
    live.restart_env()
    saved = copy.deepcopy(state(live))
    live.learn(second, reset_num_timesteps=False)

    np.random.seed(99)  # whatever another process did before
    loaded = algorithm.load_checkpoint(path, make_env(), device="cpu")
    assert not differences(saved, state(loaded))
    loaded.learn(second, reset_num_timesteps=False)
    for model in (live, loaded):
        model.env.close()
    return live, loaded


class TestGoingOn:
    @pytest.mark.parametrize("n_envs", [1, 2])
    @pytest.mark.parametrize("chunk_size", CHUNK_SIZES)
    @pytest.mark.parametrize("name", OPTIONS)
    def test_bit_for_bit(self, name, chunk_size, n_envs, tmp_path):
        """Parameters, optimisers, replay, counters, and what is drawn next."""
        algorithm, options = OPTIONS[name]
        live, loaded = two_runs(tmp_path / "run", algorithm, lambda: vec(Line, chunk_size, n_envs), 30, 40, **options)
        assert not differences(state(live), state(loaded))
        assert loaded.num_timesteps >= 70 and loaded._n_updates > 0 and loaded._n_actor_updates > 0
        if algorithm is OGPOCA:
            assert loaded._n_warmup_updates == 6 and loaded.replay_buffer.n_success >= loaded.actor_batch_size
            assert "train/bc_loss" in loaded.logger.name_to_value
        drawn = []
        for model in (live, loaded):
            model.set_random_seed(1)
            drawn.append(model.replay_buffer.sample(20)._asdict())
        assert not differences(*drawn)

    @pytest.mark.parametrize(
        ("policy", "kwargs"),
        [
            ("ShortcutPolicy", dict(noise_std=0.1)),
            ("MIPPolicy", dict(network="residual")),
            ("FlowPolicy", dict(network="transformer", attention_heads=2, sde_correction="learned")),
        ],
    )
    def test_other_families_and_networks(self, policy, kwargs, tmp_path):
        """Their cloning and their chains draw from the same generators."""
        options = dict(policy=policy, success_bc=True, policy_kwargs=kwargs)
        live, loaded = two_runs(tmp_path / "run", OGPO, lambda: vec(Line, 4), 30, 40, **options)
        assert not differences(state(live), state(loaded))
        assert loaded._n_actor_updates > 0 and "train/bc_loss" in loaded.logger.name_to_value

    @pytest.mark.parametrize("first", [4, 10, 12])
    def test_at_any_time(self, first, tmp_path):
        """Before learning_starts, at it, and with the warm-up just done."""
        options = dict(critic_warmup_updates=5, success_bc=True)
        live, loaded = two_runs(tmp_path / "run", OGPO, lambda: vec(Line, 4, 2), first, 30, **options)
        assert not differences(state(live), state(loaded))
        assert loaded._n_updates > 0

    @pytest.mark.parametrize("algorithm", ALGORITHMS)
    def test_every_algorithm_with_noise(self, algorithm, tmp_path):
        noise = OrnsteinUhlenbeckActionNoise(np.zeros(8), 0.1 * np.ones(8))
        live, loaded = two_runs(tmp_path / "run", algorithm, lambda: vec(Line, 4, 2), 25, 30, action_noise=noise)
        assert not differences(state(live), state(loaded))

    def test_in_subprocesses(self, tmp_path):
        def make():
            return vec(Line, 4, 2, lambda fns: SubprocVecEnv(fns, start_method="fork"))

        live, loaded = two_runs(tmp_path / "run", OGPO, make, 20, 20)
        assert not differences(state(live), state(loaded))

    def test_by_the_environments_name(self, tmp_path):
        """A per-step environment is wrapped with the saved chunk size."""
        live = OGPO("FlowPolicy", LINE_ID, **tiny(chunk_size=4)).learn(20)
        live.save_checkpoint(tmp_path / "run")
        live.restart_env()
        live.learn(20, reset_num_timesteps=False)
        loaded = OGPO.load_checkpoint(tmp_path / "run.ckpt", LINE_ID, device="cpu")
        assert not differences(state(live), state(loaded.learn(20, reset_num_timesteps=False)))

    @pytest.mark.parametrize("chunk_size", CHUNK_SIZES)
    def test_with_demonstrations(self, chunk_size, tmp_path):
        """Cloned, mixed into every batch, and passed again as the object they were."""
        demos = reach_demonstrations(4)
        options = dict(demonstrations=demos, bc_steps=3, offline_ratio=0.5, chunk_size=chunk_size)
        live = OGPOCA("FlowPolicy", Reach(), **tiny(**options)).learn(30)
        live.save_checkpoint(tmp_path / "run")
        live.restart_env()
        live.learn(20, reset_num_timesteps=False)
        loaded = OGPOCA.load_checkpoint(tmp_path / "run", Reach(), device="cpu", demonstrations=demos)
        loaded.learn(20, reset_num_timesteps=False)
        assert not differences(state(live), state(loaded)) and loaded._n_bc_updates == 3

    @pytest.mark.parametrize("chunk_size", CHUNK_SIZES)
    def test_with_vecnormalize(self, chunk_size, tmp_path):
        """Its statistics travel with the checkpoint, and an environment with and one without are not mistaken."""

        def make():
            return VecNormalize(vec(Line, chunk_size, 2), clip_obs=5.0)

        live, loaded = two_runs(tmp_path / "run", OGPO, make, 30, 30)
        assert not differences(state(live), state(loaded))
        found = [vars(model.get_vec_normalize_env())["obs_rms"] for model in (live, loaded)]
        assert not differences(*found) and found[0].count > 30 / chunk_size
        with pytest.raises(ValueError, match=r"run.ckpt was written with VecNormalize, found an environment without it"):
            OGPO.load_checkpoint(tmp_path / "run", vec(Line, chunk_size, 2), device="cpu")
        build(chunk_size=chunk_size, n_envs=2).learn(12).save_checkpoint(tmp_path / "plain")
        with pytest.raises(ValueError, match=r"plain.ckpt was written without VecNormalize, found an environment with it"):
            OGPO.load_checkpoint(tmp_path / "plain", make(), device="cpu")

    @pytest.mark.parametrize("seed", [None, 7])
    def test_restarts_do_not_repeat_the_beginning(self, seed, tmp_path):
        """The environment is seeded by the run's seed and the steps done, not by the seed alone."""
        seen = []
        model = build(env=Line, seed=seed)
        for _ in range(3):
            model.learn(7, reset_num_timesteps=False)
            seen.append(model.replay_buffer.observations[model.num_timesteps - 7, 0, 1])
            model.save_checkpoint(tmp_path / "run")
            model = OGPO.load_checkpoint(tmp_path / "run", vec(Line), device="cpu")
        assert len(set(seen)) == 3

    def test_without_environment(self, tmp_path):
        """For prediction and inspection."""
        model = build(OGPOCA, chunk_size=4).learn(30)
        model.save_checkpoint(tmp_path / "run")
        loaded = OGPOCA.load_checkpoint(tmp_path / "run", device="cpu")
        assert not differences(state(model), state(loaded))
        with pytest.raises(AssertionError):
            loaded.restart_env()
        loaded.set_env(vec(Line, 4))
        loaded.learn(8, reset_num_timesteps=False)

    def test_overrides(self, tmp_path):
        build(learning_starts=5).learn(12).save_checkpoint(tmp_path / "run")
        loaded = OGPO.load_checkpoint(tmp_path / "run", vec(Line), device="cpu", tau=0.5, verbose=0)
        assert loaded.tau == 0.5 and loaded.learning_starts == 5

    @pytest.mark.parametrize("chunk_size", CHUNK_SIZES)
    def test_no_joined_window(self, chunk_size, tmp_path):
        model = build(env=lambda: Ticker(ends=(None,)), chunk_size=chunk_size, n_envs=2).learn(24)
        model.save_checkpoint(tmp_path / "run")
        loaded = OGPO.load_checkpoint(tmp_path / "run", vec(lambda: Ticker(ends=(None,)), chunk_size, 2), device="cpu")
        loaded.learn(16, reset_num_timesteps=False)
        check_stream(loaded)
        assert [np.flatnonzero(stops).tolist() for stops in loaded.replay_buffer._stops.T] == [[11], [11]]


class TestFiles:
    @pytest.mark.parametrize(
        "write",
        [
            lambda model, path: model.save_checkpoint(path / "file.ckpt"),
            lambda model, path: model.save(path / "file.zip"),
            lambda model, path: model.save_replay_buffer(path / "file.pkl"),
        ],
        ids=["checkpoint", "model", "buffer"],
    )
    def test_an_interrupted_write_leaves_the_previous_file(self, write, tmp_path):
        """Something that cannot be pickled, met half-way: the old file is untouched, and no half of a new one lies about."""
        model = build(env=Ticker).learn(15)
        write(model, tmp_path)
        (before,) = tmp_path.iterdir()
        content = before.read_bytes()
        model.learn(5, reset_num_timesteps=False)
        model.replay_buffer.unpicklable = threading.Lock()
        model.unpicklable = threading.Lock()
        with pytest.raises((TypeError, AttributeError)):
            write(model, tmp_path)
        assert [path.name for path in tmp_path.iterdir()] == [before.name] and before.read_bytes() == content
        if before.suffix == ".ckpt":
            assert OGPO.load_checkpoint(before, device="cpu").num_timesteps == 15
        del model.unpicklable, model.replay_buffer.unpicklable
        write(model, tmp_path)
        assert before.read_bytes() != content

    def test_an_interrupted_write_within_the_replay(self, tmp_path):
        """The replay comes last and is the longest part: half of the archive is written by then."""
        model = build(env=Ticker).learn(15)
        path = model.save_checkpoint(tmp_path / "run")
        model.learn(5, reset_num_timesteps=False)
        model.replay_buffer.unpicklable = threading.Lock()
        with pytest.raises(TypeError):
            model.save_checkpoint(path)
        loaded = OGPO.load_checkpoint(path, vec(Ticker), device="cpu")
        assert loaded.num_timesteps == loaded.replay_buffer.size() == 15
        assert [file.name for file in tmp_path.iterdir()] == ["run.ckpt"]

    @pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, OSError])
    def test_atomic_write(self, error, tmp_path):
        """Whatever interrupts it."""
        path = tmp_path / "new" / "file"
        for content in (b"one", b"two"):
            with atomic_write(path) as file:
                file.write(content)
        with pytest.raises(error), atomic_write(path) as file:
            file.write(b"three")
            raise error
        assert path.read_bytes() == b"two" and len(list(path.parent.iterdir())) == 1

    def test_no_warnings(self, tmp_path):
        """No file is left open."""
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            model = build().learn(12)
            model.save_checkpoint(tmp_path / "run")
            OGPO.load_checkpoint(tmp_path / "run", vec(Line), device="cpu")

    def test_wrong_files(self, tmp_path):
        """One sentence that names the file, what was found and what is wanted."""
        model = build().learn(12)
        model.save(tmp_path / "model")
        model.save_checkpoint(tmp_path / "run")
        (tmp_path / "folder.ckpt").mkdir()
        (tmp_path / "text.ckpt").write_text("no archive")
        (tmp_path / "half.ckpt").write_bytes((tmp_path / "run.ckpt").read_bytes()[:5000])
        model.policy.save(tmp_path / "policy.zip")
        cases = [
            (OGPO, "missing", "missing.ckpt .*save_checkpoint, found no file"),
            (OGPO, "nowhere/at/all.ckpt", "all.ckpt .*save_checkpoint, found no file"),
            (OGPO, "text", "text.ckpt .*save_checkpoint, found another kind of file"),
            (OGPO, "folder.ckpt", "folder.ckpt .*save_checkpoint, found a folder"),
            (OGPO, "half", "half.ckpt .*save_checkpoint, found another kind of file, or a part of one"),
            (OGPO, "policy.zip", "policy.zip .*save_checkpoint, found a file of torch.save, as of model.policy.save"),
            (OGPO, "model.zip", "model.zip .*save_checkpoint, found a model of model.save"),
            (OGPOCA, "run", "run.ckpt is a checkpoint of OGPO, wanted one of OGPOCA"),
        ]
        for algorithm, name, message in cases:
            with pytest.raises(ValueError, match=message) as error:
                algorithm.load_checkpoint(tmp_path / name, vec(Line), device="cpu")
            assert "\n" not in str(error.value)

    def test_other_environments(self, tmp_path):
        """Other spaces and another number of environments than the replay's."""
        build().learn(12).save_checkpoint(tmp_path / "run")
        with pytest.raises(ValueError, match=r"[Ss]pace"):
            OGPO.load_checkpoint(tmp_path / "run", vec(Ticker), device="cpu")
        with pytest.raises(ValueError, match=r"run.ckpt was written with 1 environment.*found 2"):
            OGPO.load_checkpoint(tmp_path / "run", vec(Line, 1, 2), device="cpu")


class TestCallback:
    @pytest.mark.parametrize("keep, wanted", [(1, [40]), (2, [30, 40]), (None, [10, 20, 30, 40])])
    def test_keeps_the_newest(self, keep, wanted, tmp_path):
        build(env=Ticker).learn(45, FullCheckpointCallback(10, tmp_path / "folder", "name", keep=keep))
        found = checkpoints(tmp_path / "folder", "name")
        assert [path.name for path in found] == [f"name_{steps}_steps.ckpt" for steps in wanted]
        assert len(list((tmp_path / "folder").iterdir())) == len(wanted)
        assert OGPO.load_checkpoint(found[-1], device="cpu").num_timesteps == 40

    def test_frequency_is_in_environment_steps(self, tmp_path):
        """At the first rollout start at or after it."""
        env = vec(lambda: Ticker(lengths=(6,)), 4, 2)
        build(env=env).learn(60, FullCheckpointCallback(15, tmp_path, keep=None))
        assert [path.name for path in checkpoints(tmp_path)] == [f"run_{steps}_steps.ckpt" for steps in (20, 36, 56)]

    def test_the_end_of_a_run_counts(self, tmp_path):
        """A run whose length is a multiple of the frequency ends with a checkpoint."""
        build(env=Ticker).learn(40, FullCheckpointCallback(20, tmp_path, keep=None))
        assert [path.name for path in checkpoints(tmp_path)] == ["run_20_steps.ckpt", "run_40_steps.ckpt"]

    def test_a_new_run_in_an_old_folder(self, tmp_path):
        """What has just been written is never what is removed."""
        build(env=Ticker).learn(100, FullCheckpointCallback(50, tmp_path, keep=1))
        build(env=Ticker).learn(45, FullCheckpointCallback(20, tmp_path, keep=1))
        assert "run_40_steps.ckpt" in [path.name for path in checkpoints(tmp_path)]

    def test_other_runs_in_the_folder(self, tmp_path):
        """Names that begin alike are told apart."""
        others = {"ogpo_ca_3_steps.ckpt", "ogpo_5_steps.txt", "my_ogpo_7_steps.ckpt"}
        for name in others:
            (tmp_path / name).write_text("")
        build(env=Ticker).learn(30, FullCheckpointCallback(10, tmp_path, "ogpo", keep=1))
        assert {path.name for path in tmp_path.iterdir()} == others | {"ogpo_30_steps.ckpt"}
        assert checkpoints(tmp_path / "missing") == []

    @pytest.mark.parametrize("chunk_size", CHUNK_SIZES)
    def test_goes_on_as_if_it_had_been_written_between_two_runs(self, chunk_size, tmp_path):
        """Half-way through learn everything is as it is after it."""
        live = build(OGPOCA, chunk_size=chunk_size, n_envs=2)
        live.learn(60, FullCheckpointCallback(28, tmp_path))
        path = checkpoints(tmp_path)[0]
        loaded = OGPOCA.load_checkpoint(path, vec(Line, chunk_size, 2), device="cpu")
        split = build(OGPOCA, chunk_size=chunk_size, n_envs=2).learn(loaded.num_timesteps)
        assert not differences(parameters(split), parameters(loaded))
        split.restart_env()
        split.learn(30, reset_num_timesteps=False)
        loaded = OGPOCA.load_checkpoint(path, vec(Line, chunk_size, 2), device="cpu")
        loaded.learn(30, reset_num_timesteps=False)
        assert not differences(state(split), state(loaded))

    def test_bad_arguments(self, tmp_path):
        for arguments in (dict(save_freq=0), dict(save_freq=5, keep=0)):
            with pytest.raises(ValueError, match="at least 1, found"):
                FullCheckpointCallback(save_path=tmp_path, **arguments)
