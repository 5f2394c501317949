"""Saving and loading: models, policies, replay buffers (L1-L8)."""

import gc
import io
import json
import warnings
import zipfile

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.noise import NormalActionNoise
from stable_baselines3.common.save_util import load_from_zip_file, save_to_pkl
from stable_baselines3.common.vec_env import DummyVecEnv

from ogpo_sb3 import DPPO, OGPO, OGPOCA, ReinFlow
from ogpo_sb3.common.buffers import ChunkReplayBuffer
from ogpo_sb3.common.policy_files import read_policy_file
from tests.contract.models import (
    ALGORITHMS,
    CHUNK_SIZES,
    DEVICES,
    LINE_ID,
    OBSERVATION_SPACES,
    PAIRS,
    FromSpaces,
    Line,
    Ticker,
    build,
    check_stream,
    differences,
    parameters,
    policy_state,
    single,
    tiny,
    vec,
)


@pytest.fixture(scope="module", autouse=True)
def tidy():
    """What other tests left open is not meant here."""
    gc.collect()


@pytest.fixture(autouse=True)
def no_warning():
    """L2: neither saving nor loading warns, ResourceWarning (an open file) included."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def same_predictions(first, second, n=4):
    space = first.observation_space
    space.seed(0)
    batch = np.stack([space.sample() for _ in range(n)])
    return np.array_equal(*(model.predict(batch, deterministic=True)[0] for model in (first, second)))


class TestModel:
    @pytest.mark.parametrize("algorithm, chunk_size", PAIRS)
    def test_round_trip(self, algorithm, chunk_size, tmp_path):
        """L1, L8: all parameters, optimisers, counters and settings are equal, with and without environment."""
        model = build(algorithm, chunk_size=chunk_size, train_freq=(2, "step"), gradient_steps=1, gamma=0.9, tau=0.02).learn(
            33
        )
        model.save(tmp_path / "model")
        assert (tmp_path / "model.zip").is_file()
        for env in (None, vec(chunk_size=chunk_size)):
            loaded = algorithm.load(tmp_path / "model", env=env, device="cpu")
            assert type(loaded) is algorithm and loaded.chunk_size == chunk_size
            assert not differences(parameters(model), parameters(loaded))
            assert same_predictions(model, loaded)
            names = "gamma tau batch_size learning_starts num_timesteps _n_updates _n_actor_updates _critic_debt _actor_debt"
            for name in f"{names} _episode_num _num_decisions seed train_freq policy_kwargs n_envs utd_actor".split():
                assert getattr(loaded, name) == getattr(model, name), name
            assert loaded.learning_starts == 10 and loaded._n_updates > 0 and loaded.replay_buffer.size() == 0
        assert 12 <= loaded.learn(12).num_timesteps < 12 + chunk_size

    def test_learning_needs_an_environment(self, tmp_path):
        """L8."""
        model = build()
        model.save(tmp_path / "model")
        loaded = OGPO.load(tmp_path / "model", device="cpu")
        with pytest.raises(AssertionError, match="environment"):
            loaded.learn(5)
        loaded.set_env(vec())
        loaded.learn(5)

    @pytest.mark.parametrize("form", ["text", "text.zip", "path", "path.zip", "folder", "bytes"])
    def test_targets(self, form, tmp_path):
        """L1: names with and without suffix, folders that do not exist yet, open files that stay open."""
        model = build()
        if form == "bytes":
            target = io.BytesIO(b"")
            model.save(target)
            assert not target.closed
            target.seek(0)
        else:
            name = "new/folder/model" if form == "folder" else form.replace("path", "model").replace("text", "model")
            target = str(tmp_path / name) if form.startswith("text") else tmp_path / name
            model.save(target)
        for env in (None, Line(), LINE_ID):
            loaded = OGPO.load(target, env=env, device="cpu")
            assert same_predictions(model, loaded)
            if form == "bytes":
                assert not target.closed
                target.seek(0)
        if form != "bytes":
            target = tmp_path / name
            with open(target if target.suffix else target.with_suffix(".zip"), "rb") as file:
                assert same_predictions(model, OGPO.load(file, env=Line(), device="cpu"))
            assert not list(target.parent.glob(".*")), "a temporary file is left"

    @pytest.mark.parametrize("chunk_size", CHUNK_SIZES)
    @pytest.mark.parametrize("numbers", [(1, 3), (2, 1)])
    def test_other_number_of_environments(self, numbers, chunk_size, tmp_path):
        """L1."""
        before, after = numbers
        build(chunk_size=chunk_size, n_envs=before, utd_critic=1.0).learn(12).save(tmp_path / "model")
        loaded = OGPO.load(tmp_path / "model", env=vec(chunk_size=chunk_size, n_envs=after), device="cpu")
        assert loaded.n_envs == loaded.replay_buffer.n_envs == after
        loaded.learn(20)
        assert loaded.num_timesteps >= 20

    @pytest.mark.parametrize("chunk_size", CHUNK_SIZES)
    def test_other_spaces(self, chunk_size, tmp_path):
        """L1: also a plain VecEnv where chunks are wanted; a plain environment is wrapped."""
        build(chunk_size=chunk_size).save(tmp_path / "model")
        for env in (
            FromSpaces(OBSERVATION_SPACES["matrix"], Line().action_space),
            FromSpaces(Line().observation_space, spaces.Box(-1, 1, (3,))),
            vec(chunk_size=5 - chunk_size),
        ):
            with pytest.raises(ValueError, match=r"[Ss]pace"):
                OGPO.load(tmp_path / "model", env=env, device="cpu")
        assert OGPO.load(tmp_path / "model", env=Line(), device="cpu").env.action_space.shape == (2 * chunk_size,)

    def test_overrides(self, tmp_path):
        """L2, C4."""
        build(chunk_size=4).learn(12).save(tmp_path / "model")
        values = dict(buffer_size=50, seed=9, gamma=0.5, learning_starts=3, batch_size=5, gradient_steps=2)
        loaded = OGPO.load(tmp_path / "model", env=Line(), device="cpu", train_freq=(3, "step"), **values)
        assert {name: getattr(loaded, name) for name in values} == values
        assert loaded.train_freq.frequency == 3 and loaded.replay_buffer.buffer_size == 50
        assert loaded.replay_buffer.gamma == 0.5
        loaded.learn(12)
        custom = dict(learning_rate=0.0, lr_schedule=lambda _: 0.0, clip_range=lambda _: 0.1, buffer_size=1, no_such_name=3)
        loaded = OGPO.load(tmp_path / "model", device="cpu", custom_objects=custom)
        assert loaded.learning_rate == 0.0 and loaded.buffer_size == loaded.replay_buffer.buffer_size == 1
        assert loaded.clip_range(0.5) == loaded.clip_schedule(0.5) == 0.1 and not hasattr(loaded, "no_such_name")

    @pytest.mark.parametrize(
        ("name", "value", "sentence"),
        [
            ("tau", 5.0, r"tau must lie in \[0, 1\], found 5.0"),
            ("batch_size", 0, "batch_size must be at least 1, found 0"),
            ("bc_coef", -1.0, "bc_coef must be at least 0, found -1.0"),
            ("learning_starts", 0.5, "learning_starts must be a whole number, found 0.5"),
        ],
    )
    def test_impossible_overrides_are_refused(self, name, value, sentence, tmp_path):
        build().save(tmp_path / "model")
        with pytest.raises(ValueError, match=sentence):
            OGPO.load(tmp_path / "model", device="cpu", **{name: value})
        assert type(OGPO.load(tmp_path / "model", device="cpu", batch_size=16.0).batch_size) is int

    def test_other_policy_kwargs_are_refused(self, tmp_path):
        """C8."""
        model = build()
        model.save(tmp_path / "model")
        assert OGPO.load(tmp_path / "model", device="cpu", policy_kwargs=tiny()["policy_kwargs"]).policy is not None
        with pytest.raises(ValueError, match="policy kwargs"):
            OGPO.load(tmp_path / "model", device="cpu", policy_kwargs=dict(net_arch=[4]))

    @pytest.mark.parametrize(
        ("reader", "name", "sentence"),
        [
            (OGPOCA.load, "model", "model.zip was written by OGPO, wanted a model of OGPOCA: use OGPO.load"),
            (ReinFlow.load, "dppo.zip", "dppo.zip was written by DPPO, wanted a model of ReinFlow: use DPPO.load"),
            (OGPO.load, "dppo.zip", "dppo.zip was written by DPPO, wanted a model of OGPO: use DPPO.load"),
            (OGPO.load, "policy.zip", "policy.zip should be a model written by OGPO.save, found .* as of model.policy.save"),
            (OGPO.load, "run.ckpt", "run.ckpt should be a model written by OGPO.save, found a checkpoint of save_checkpoint"),
            (OGPO.load, "half.zip", "half.zip should be .*, found another kind of file, or a part of one"),
            (read_policy_file, "model.zip", "model.zip' should be a file of model.policy.save, found a model of model.save"),
            (read_policy_file, "run.ckpt", "run.ckpt' should be .*, found a checkpoint of save_checkpoint"),
        ],
    )
    def test_files_of_another_kind_or_algorithm(self, reader, name, sentence, tmp_path):
        """Nothing else than the right file is read, and the sentence says what was found."""
        model = build()
        model.save(tmp_path / "model")
        model.policy.save(tmp_path / "policy.zip")
        model.save_checkpoint(tmp_path / "run")
        DPPO("FlowPolicy", vec(Line), policy_kwargs=dict(net_arch=[8]), device="cpu").save(tmp_path / "dppo")
        (tmp_path / "half.zip").write_bytes((tmp_path / "model.zip").read_bytes()[:5000])
        with pytest.raises(ValueError, match=sentence) as error:
            reader(tmp_path / name, device="cpu")
        assert "\n" not in str(error.value)

    def test_files_that_do_not_say_their_algorithm(self, tmp_path):
        """Those of earlier versions; and a user's own subclass reads its base's files, and the other way round."""
        model = build()
        model.save(tmp_path / "new")
        with zipfile.ZipFile(tmp_path / "new.zip") as new, zipfile.ZipFile(tmp_path / "old.zip", "w") as old:
            for name in new.namelist():
                content = new.read(name)
                if name == "data":
                    data = json.loads(content)
                    assert data.pop("written_by") == "OGPO"
                    content = json.dumps(data)
                old.writestr(name, content)
        for cls in (OGPO, type("Own", (OGPO,), {})):
            assert same_predictions(model, cls.load(tmp_path / "old", device="cpu"))
            cls.load(tmp_path / "new", device="cpu").save(tmp_path / "again")
            assert same_predictions(model, OGPO.load(tmp_path / "again", device="cpu"))

    def test_exclude_and_include(self, tmp_path):
        """L2."""
        model = build()
        model.save(tmp_path / "model", exclude=["gamma"], include=["_metrics"])
        data, _, _ = load_from_zip_file(tmp_path / "model", device="cpu")
        assert "gamma" not in data and "_metrics" in data and "tau" in data
        assert OGPO.load(tmp_path / "model", device="cpu").gamma == 0.99  # the default

    @pytest.mark.parametrize("algorithm", ALGORITHMS)
    def test_archive(self, algorithm, tmp_path):
        """L3."""
        model = build(algorithm, success_bc=True).learn(20)
        model.save(tmp_path / "model")
        with zipfile.ZipFile(tmp_path / "model.zip") as archive:
            names = set(archive.namelist())
            text = json.loads(archive.read("data"))
        assert names == {
            "data",
            "policy.pth",
            "actor.optimizer.pth",
            "critic.optimizer.pth",
            "pytorch_variables.pth",
            "_stable_baselines3_version",
            "system_info.txt",
        }
        data, _, _ = load_from_zip_file(tmp_path / "model", device="cpu")
        assert data.keys() == text.keys()
        left_out = {"policy", "actor", "actor_ema", "actor_slow", "critic", "critic_target", "env", "replay_buffer", "_logger"}
        assert not left_out & data.keys()
        heavy = (th.nn.Module, th.optim.Optimizer, th.Tensor, ChunkReplayBuffer, DummyVecEnv)
        assert not [name for name, value in data.items() if isinstance(value, heavy)]

    def test_compiled_policy(self, tmp_path):
        """L2."""
        model = build()
        wanted = policy_state(model)
        model.policy = th.compile(model.policy, backend="eager")
        model.save(tmp_path / "model")
        assert not differences(policy_state(OGPO.load(tmp_path / "model", device="cpu")), wanted)

    @pytest.mark.parametrize("device", DEVICES)
    def test_other_device(self, device, tmp_path):
        """C7."""
        build(device=DEVICES[-1]).learn(12).save(tmp_path / "model")
        loaded = OGPO.load(tmp_path / "model", env=Line(), device=device).learn(12)
        assert {tensor.device.type for tensor in loaded.policy.state_dict().values()} == {device}

    @pytest.mark.parametrize("algorithm, chunk_size", PAIRS)
    def test_updates_go_on_bit_for_bit(self, algorithm, chunk_size, tmp_path):
        """L4: targets, optimisers, schedules, EMA, slow actor, fractions of updates owed, pessimism."""
        options = dict(
            utd_actor=0.4, policy_kwargs=dict(normalize_observations=True), clip_range=lambda progress: 0.1 * progress
        )
        live = build(algorithm, chunk_size=chunk_size, **options).learn(40)
        live.save(tmp_path / "model")
        live.save_replay_buffer(tmp_path / "buffer")
        loaded = algorithm.load(tmp_path / "model", env=vec(chunk_size=chunk_size), device="cpu")
        loaded.load_replay_buffer(tmp_path / "buffer")
        before = parameters(live)
        for model in (live, loaded):
            model.set_random_seed(5)
            model.train(gradient_steps=5, batch_size=8)
        assert not differences(parameters(live), parameters(loaded))
        assert live._n_updates == loaded._n_updates and live._n_actor_updates == loaded._n_actor_updates
        changed = differences(before, parameters(live))
        for network in ("actor", "actor_ema", "critic", "critic_target"):
            assert any(path.startswith(f".policy.{network}.") for path in changed), network


class TestParameters:
    @pytest.mark.parametrize("algorithm", ALGORITHMS)
    def test_names(self, algorithm):
        """L5."""
        model = build(algorithm)
        assert list(model.get_parameters()) == model._get_torch_save_params()[0]

    def test_transfer_between_models(self, tmp_path):
        """L5: by dictionary and by file."""
        source = build(seed=1).learn(15)
        source.save(tmp_path / "model")
        for given in (source.get_parameters(), tmp_path / "model", str(tmp_path / "model.zip")):
            target = build(seed=2)
            assert differences(policy_state(source), policy_state(target))
            target.set_parameters(given, device="cpu")
            assert not differences(parameters(source), parameters(target))

    @pytest.mark.parametrize("exact_match", [True, False])
    def test_wrong_names(self, exact_match):
        """L5."""
        model = build()
        with pytest.raises(ValueError, match="no_such_object"):
            model.set_parameters({**model.get_parameters(), "no_such_object": {}}, exact_match=exact_match)

    def test_missing_parts(self):
        """L5."""
        source, model = build(seed=1), build(seed=2)
        given = source.get_parameters()
        only_policy = {"policy": given["policy"]}
        with pytest.raises(ValueError, match="optimizer"):
            model.set_parameters(only_policy)
        without_one = {name: value for name, value in given["policy"].items() if name != "actor.latent"}
        with pytest.raises(RuntimeError, match="latent"):
            model.set_parameters({**given, "policy": without_one})
        model = build(seed=2)
        before = policy_state(model)
        model.set_parameters({"policy": without_one}, exact_match=False)
        assert differences(policy_state(model), policy_state(source)) == [".actor.latent"]
        assert not differences(policy_state(model)["actor.latent"], before["actor.latent"])


@pytest.mark.parametrize("n_envs", [1, 3])
def test_action_noise_goes_on_with_another_number_of_environments(n_envs, tmp_path):
    """SB3 makes one noise for each environment of a run and saves them all."""
    build(env=Ticker, n_envs=2, utd_actor=0.1, action_noise=NormalActionNoise(np.zeros(2), np.ones(2))).learn(12).save(
        tmp_path / "model"
    )
    loaded = OGPO.load(tmp_path / "model", vec(Ticker, 1, n_envs), device="cpu")
    loaded.learn(12, reset_num_timesteps=False)
    assert loaded.num_timesteps >= 24 and np.shape(loaded.action_noise()) == ((3, 2) if n_envs == 3 else (2,))


class TestReplayBuffer:
    @pytest.mark.parametrize("n_envs", [1, 2])
    @pytest.mark.parametrize("chunk_size", CHUNK_SIZES)
    @pytest.mark.parametrize("form", ["text", "path", "bytes"])
    def test_round_trip(self, form, chunk_size, n_envs, tmp_path):
        """L7: nested paths and open files, equal samples at equal seed, and learning goes on."""
        model = build(env=Ticker, chunk_size=chunk_size, n_envs=n_envs, utd_critic=1.0).learn(30)
        target = dict(text=str(tmp_path / "a/b/buffer"), path=tmp_path / "a/b/buffer.pkl", bytes=io.BytesIO())[form]
        model.save_replay_buffer(target)
        loaded = build(env=Ticker, chunk_size=chunk_size, n_envs=n_envs, utd_critic=1.0)
        for truncate in (False, True):
            if form == "bytes":
                target.seek(0)
            loaded.load_replay_buffer(target, truncate_last_traj=truncate)
            assert loaded.replay_buffer.device == loaded.device
            batches = []
            for each in (model, loaded):
                each.set_random_seed(1)
                batches.append(each.replay_buffer.sample(40)._asdict())
            assert not differences(*batches)
            model.replay_buffer.cut()  # what truncating does
        if form != "bytes":
            assert [path.name for path in (tmp_path / "a/b").iterdir()] == ["buffer.pkl"]
        loaded.learn(20, reset_num_timesteps=False)
        assert loaded.replay_buffer._counts.sum() == model.num_timesteps + loaded.num_timesteps
        check_stream(loaded)

    @pytest.mark.parametrize("truncate", [True, False])
    def test_the_last_trajectory(self, truncate):
        """2.4 B7: nothing joins the last stored step, unless the environment really goes on."""
        model = build(env=lambda: Ticker(lengths=(1000,)), chunk_size=4).learn(20)
        file = io.BytesIO()
        model.save_replay_buffer(file)
        file.seek(0)
        rows = model.replay_buffer.size()
        model.load_replay_buffer(file, truncate_last_traj=truncate)
        model.learn(8, reset_num_timesteps=False)
        check_stream(model)  # the environment did go on: all steps follow each other
        stops = np.flatnonzero(model.replay_buffer._stops[: rows + 8, 0])
        assert stops.tolist() == ([rows - 1] if truncate else [])

    def test_other_objects_are_refused(self, tmp_path):
        """L7."""
        model = build()
        save_to_pkl(tmp_path / "buffer.pkl", dict(some="thing"))
        with pytest.raises(ValueError, match=r"buffer.pkl cannot be read as a replay buffer .*ReplayBuffer"):
            model.load_replay_buffer(tmp_path / "buffer.pkl")
        assert isinstance(model.replay_buffer, ChunkReplayBuffer)  # its own
        model.save_replay_buffer(tmp_path / "whole")
        for name, content in (("half", (tmp_path / "whole.pkl").read_bytes()[:500]), ("text", b"no pickle"), ("none", b"")):
            (tmp_path / name).write_bytes(content)
            with pytest.raises(ValueError, match=f"{name} cannot be read as a replay buffer of save_replay_buffer"):
                build().load_replay_buffer(tmp_path / name)

    def test_other_chunks_and_discounts_are_refused(self, tmp_path):
        """One sentence at once, rather than wrong windows later."""
        build(chunk_size=4).learn(12).save_replay_buffer(tmp_path / "buffer")
        with pytest.raises(ValueError, match="chunks of 4 steps, wanted 1"):
            build().load_replay_buffer(tmp_path / "buffer")
        with pytest.raises(ValueError, match=r"gamma=0.99, the model with 0.5"):
            build(chunk_size=4, gamma=0.5).load_replay_buffer(tmp_path / "buffer")
        with pytest.raises(ValueError, match=r"is of 1 environment.s., wanted 2"):
            build(chunk_size=4, n_envs=2, utd_actor=0.1).load_replay_buffer(tmp_path / "buffer")
        with pytest.raises(ValueError, match=r"the replay buffer has the observation_space .* wanted the model's"):
            build(chunk_size=4, env=Ticker).load_replay_buffer(tmp_path / "buffer")

    def test_attributes_of_stable_baselines3(self):
        """L7: the arrays bear SB3's names, and ``extend`` takes them."""
        model = build(env=lambda: Ticker(lengths=(5,), ends=("truncated",))).learn(12)
        buffer, n = model.replay_buffer, 12
        assert buffer.observations[:n].shape == (n, 1, 4) and buffer.actions[:n].shape == (n, 1, 2)
        assert buffer.rewards[:n, 0].tolist() == [1, 2, 3, 4, 5, 1, 2, 3, 4, 5, 1, 2]
        assert np.flatnonzero(buffer.dones[:n]).tolist() == np.flatnonzero(buffer.timeouts[:n]).tolist() == [4, 9]

    def test_not_in_the_archive(self, tmp_path):
        """L3: a zip does not grow with the replay."""
        sizes = []
        for steps in (12, 200):
            build(learning_starts=1000).learn(steps).save(tmp_path / "model")
            sizes.append((tmp_path / "model.zip").stat().st_size)
        assert abs(sizes[1] - sizes[0]) < 3000

    def test_of_the_model_with_successes(self, tmp_path):
        """Marks of successful episodes survive, so that success cloning goes on."""
        model = build(OGPOCA, chunk_size=4).learn(40)
        model.save_replay_buffer(tmp_path / "buffer")
        loaded = OGPOCA("FlowPolicy", single(Line(), 4), **tiny())
        loaded.load_replay_buffer(tmp_path / "buffer")
        assert loaded.replay_buffer.n_success == model.replay_buffer.n_success > 0
