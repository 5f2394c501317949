"""The analyses of a run: their numbers against closed forms and against the model itself, files, going on, mistakes."""

import json
import shutil
import subprocess
import sys

import gymnasium as gym
import numpy as np
import pytest
import torch as th
import yaml
from ogpo_sb3 import DPPO, DSRL, EXPO, OGPO, ChunkActionWrapper, evaluate, presets
from ogpo_sb3.analyze import ANALYSES, analyse, calibration, denoising, find, projection, ratios
from ogpo_sb3.analyze import report as report_module
from ogpo_sb3.analyze.__main__ import main
from ogpo_sb3.analyze.context import Context, Settings
from ogpo_sb3.analyze.episodes import Episodes, run_episodes
from ogpo_sb3.analyze.projection import PCA
from ogpo_sb3.zoo.models import load_model
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from tests.registered_toys import REACH
from tests.toys import reach_demonstrations

GAMMA = 0.9
SMALL = dict(n_episodes=4, n_states=2, n_samples=30, projection="pca")


def small(algorithm=OGPO, env=None, **kwargs):
    given = dict(chunk_size=3, gamma=GAMMA, seed=0, device="cpu", bc_learning_rate=3e-3)
    if algorithm is not DPPO:
        given |= dict(learning_starts=40, batch_size=32, actor_batch_size=8, learning_rate=2e-4)
    if algorithm is OGPO:
        given |= dict(group_size=4, clip_range=0.05)
    policy = dict(net_arch=[32], denoising_steps=3)
    if algorithm is not DPPO:
        policy |= dict(n_critics=3)
    return algorithm("FlowPolicy", gym.make(REACH) if env is None else env, policy_kwargs=policy, **{**given, **kwargs})


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A folder with a cloned policy, two models and a checkpoint; the model behind the last."""
    folder = tmp_path_factory.mktemp("run")
    model = small(demonstrations=reach_demonstrations(20), bc_steps=300)
    model.pretrain(progress_bar=False)
    model.policy.save(folder / "bc.zip")
    model.learn(50)
    model.save(folder / "rl_model_50_steps.zip")
    model.learn(50, reset_num_timesteps=False)
    model.save_checkpoint(folder / "checkpoints" / "run_100_steps.ckpt")
    model.save(folder / "model.zip")  # the same stage again
    (folder / "notes.zip").write_bytes(b"no archive")
    return folder, model


@pytest.fixture(scope="module")
def analysed(run, tmp_path_factory):
    out = tmp_path_factory.mktemp("out")
    source = find([run[0]], "ogpo", REACH)
    return source, out, analyse(source, out, Settings(**SMALL))


# -- stages -----------------------------------------------------------------------------------------------------------


class TestStages:
    def test_models_of_a_folder_in_order_of_steps_and_once_each(self, run):
        stages = find([run[0]], "ogpo", REACH).stages
        n = run[1].num_timesteps
        assert [s.title for s in stages] == ["cloned", f"{stages[1].steps} steps", f"{n} steps"]
        assert [s.file.name for s in stages] == ["bc.zip", "rl_model_50_steps.zip", "run_100_steps.ckpt"]
        assert [s.trained for s in stages] == [False, True, True] and stages[-1].steps == n

    def test_as_many_as_wanted_with_the_first_and_the_last(self, run):
        files = [f"{k}={run[0] / 'model.zip'}" for k in "abcdefg"]
        titles = lambda n: [s.title for s in find(files, "ogpo", REACH, max_stages=n).stages]  # noqa: E731
        assert titles(3) == ["a", "d", "g"] and titles(1) == ["g"] and titles(9) == list("abcdefg")

    def test_a_model_whose_critics_never_learned(self, tmp_path):
        small().save(tmp_path / "new.zip")
        (stage,) = find([tmp_path / "new.zip"], "ogpo", REACH).stages
        assert (stage.steps, stage.trained, stage.title) == (0, False, "0 steps")

    def test_a_checkpoint_says_its_algorithm(self, run):
        assert find([run[0] / "checkpoints" / "run_100_steps.ckpt"], env_id=REACH).algo == "ogpo"

    def test_a_run_of_the_zoo_says_everything(self, run, tmp_path):
        folder = tmp_path / "ogpo" / "Reach_1"
        (folder / "Reach").mkdir(parents=True)
        shutil.copy(run[0] / "model.zip", folder / "rl_model_100_steps.zip")
        (folder / "Reach" / "args.yml").write_text(yaml.safe_dump(dict(env="toy/Fragile-v0", env_kwargs=dict(flag="x"))))
        (folder / "Reach" / "config.yml").write_text("{}")
        source = find([folder])
        assert (source.algo, source.env_id, source.env_kwargs) == ("ogpo", "toy/Fragile-v0", dict(flag="x"))
        assert find([folder], env_id=REACH).env_kwargs == {}, "arguments are of the run's own environment"

    def test_a_run_of_a_comparison_says_everything(self, run, tmp_path):
        folder = tmp_path / "runs" / "Reach" / "expo" / "seed0"
        folder.mkdir(parents=True)
        shutil.copy(run[0] / "model.zip", folder)
        (folder / "results.json").write_text(json.dumps(dict(env="a/B-v0", algo="expo", mode="fixed", seed=0)))
        settings = {"a/B-v0": {"expo": {"fixed": {"env.reward": "sparse", "gamma": 0.9}}}}
        (tmp_path / "plan.json").write_text(json.dumps(dict(settings=settings)))
        source = find([folder])
        assert (source.algo, source.env_id, source.env_kwargs) == ("expo", "a/B-v0", dict(reward="sparse"))

    def test_a_run_of_the_quickstart_says_everything(self, run, tmp_path):
        shutil.copy(run[0] / "bc.zip", tmp_path)
        (tmp_path / "settings.json").write_text(json.dumps(dict(env="ogpo/AdroitHammer-v0", seed=0)))
        source = find([tmp_path])
        assert (source.algo, source.env_kwargs) == ("ogpo_ca", presets.laptop_env("ogpo/AdroitHammer-v0"))
        recorded = dict(env="ogpo/AdroitHammer-v0", env_kwargs=dict(reward="sparse"), seed=0)
        (tmp_path / "settings.json").write_text(json.dumps(recorded))
        assert find([tmp_path]).env_kwargs == dict(reward="sparse"), "the run's own, whatever the preset has become"

    def test_a_checkpoint_is_loaded_as_the_model_it_holds(self, run):
        env, folder = gym.make(REACH), run[0]
        a, b = (load_model("ogpo", folder / name, env) for name in ("checkpoints/run_100_steps.ckpt", "model.zip"))
        for x, y in zip(a.policy.state_dict().values(), b.policy.state_dict().values(), strict=True):
            assert th.equal(x, y)
        with pytest.raises(ValueError, match="is a checkpoint of OGPO, wanted one of DSRL"):
            load_model("dsrl", folder / "checkpoints" / "run_100_steps.ckpt", env)


# -- numbers ----------------------------------------------------------------------------------------------------------


class TestEpisodes:
    def test_they_are_those_that_evaluate_counts(self, run):
        model, wanted = run[1], evaluate(run[1], lambda: gym.make(REACH), n_episodes=5)
        found = run_episodes(model, gym.make(REACH), 5, "ode")
        assert np.array_equal(found.lengths, wanted.lengths) and np.array_equal(found.successes, wanted.successes)
        np.testing.assert_allclose(found.returns, wanted.returns)
        assert found.actions.shape == (len(found.episode), 3) and np.abs(found.actions).max() <= 1.0

    def test_returns_to_go_in_closed_form(self, run):
        # -1 per step until the goal is reached, 0 in the last one.
        found = run_episodes(run[1], gym.make(REACH), 6, "ode")
        assert found.terminated.any(), "some succeed"
        tail = np.linspace(-7.0, -2.0, 6)
        to_go = found.returns_to_go(tail)
        for e, length in enumerate(found.lengths):
            rows = np.flatnonzero(found.episode == e)
            for k, row in enumerate(rows):
                left = int(length) - 3 * k
                costs = left - 1 if found.terminated[e] else left
                expected = -sum(GAMMA**t for t in range(costs)) + (0.0 if found.terminated[e] else GAMMA**left * tail[e])
                assert to_go[row] == pytest.approx(expected)

    def test_of_an_episode_that_was_cut_the_tail_counts(self):
        one = np.ones(1)
        episodes = Episodes(
            one,
            2 * one,
            one,
            None,
            np.array([False]),
            np.zeros(2, int),
            np.zeros((2, 1)),
            np.zeros((2, 1)),
            np.array([1.0, 2.0]),
            np.array([0.5, 0.25]),
            np.zeros((1, 1)),
        )
        np.testing.assert_allclose(episodes.returns_to_go(np.array([8.0])), [1.0 + 0.5 * 4.0, 2.0 + 0.25 * 8.0])

    def test_saving_keeps_dictionaries_and_what_is_not_known(self, run, tmp_path):
        one = run_episodes(run[1], gym.make(REACH), 2, "ode")
        fields = {**vars(one), "successes": None, "observations": {"a": one.observations, "b": one.observations + 1}}
        Episodes(**fields).save(tmp_path / "e.npz")
        again = Episodes.load(tmp_path / "e.npz")
        assert again.successes is None and np.array_equal(again.observations["b"], one.observations + 1)
        assert np.array_equal(again.rewards, one.rewards) and np.array_equal(again.at([1])["a"], one.observations[[1]])


class TestProjection:
    def test_axes_of_a_stretched_cloud(self):
        random = np.random.default_rng(0)
        axes = np.linalg.qr(random.normal(size=(5, 5)))[0]
        points = random.normal(size=(4000, 5)) * [3.0, 1.5, 0.1, 0.1, 0.1] @ axes.T + 7.0
        found = PCA(points)
        assert np.abs((found.axes @ axes[:, :2])[[0, 1], [0, 1]]).min() > 0.999
        np.testing.assert_allclose(found.explained, np.array([9.0, 2.25]) / 11.28, atol=0.02)
        np.testing.assert_allclose(found(points).mean(axis=0), 0.0, atol=1e-9)
        np.testing.assert_allclose(found(points).std(axis=0), [3.0, 1.5], rtol=0.05)
        assert (found.axes[np.arange(2), np.abs(found.axes).argmax(axis=1)] > 0).all(), "signs are settled"

    def test_one_dimension(self):
        found = PCA(np.array([[1.0], [3.0]]))
        np.testing.assert_allclose(found(np.array([[1.0], [3.0]])), [[-1.0, 0.0], [1.0, 0.0]])


class TestCalibration:
    def test_ranks_share_ties(self):
        assert calibration.ranks(np.array([3.0, 1.0, 3.0, 2.0])).tolist() == [3.5, 1.0, 3.5, 2.0]

    def test_rank_correlation(self):
        x = np.random.default_rng(0).normal(size=50)
        assert calibration.rank_correlation(x, np.exp(x)) == pytest.approx(1.0)
        assert calibration.rank_correlation(x, -(x**3)) == pytest.approx(-1.0)
        assert np.isnan(calibration.rank_correlation(x, np.zeros(50)))
        # Without ties 1 - 6 sum d^2 / (n (n^2 - 1)).
        y = np.random.default_rng(1).normal(size=50)
        d = calibration.ranks(x) - calibration.ranks(y)
        assert calibration.rank_correlation(x, y) == pytest.approx(1 - 6 * (d**2).sum() / (50 * (50**2 - 1)))

    def test_heads_with_known_errors(self):
        found = np.linspace(-3.0, 0.0, 1000)
        q = np.stack([found + 0.5, found - 0.1, -found])
        result = calibration.calibration(q, found, found < -2.0)
        first, second, third = result["heads"]
        assert (first["bias"], first["rmse"], first["rank_correlation"]) == (0.5, 0.5, 1.0)
        assert (second["bias"], third["rank_correlation"]) == (-0.1, -1.0)
        assert result["bias"] == pytest.approx((0.5 - 0.1 + 3.0) / 3, abs=1e-4)
        assert result["cut"] == pytest.approx(1 / 3, abs=0.002) and result["n"] == 1000 and len(result["points"]) == 400
        assert len(result["bins"]) == 10
        assert result["bins"][0][1] == pytest.approx(found[:100].mean(), abs=1e-4), "bins follow the predictions' order"

    def test_a_critic_that_is_constant(self, run, tmp_path):
        folder, model = run
        constant = load_model("ogpo", folder / "model.zip", gym.make(REACH))
        for critic in (constant.critic, constant.critic_target):
            last = critic.ensemble.net[-1]
            last.weight.data.zero_()
            last.bias.data.fill_(-4.0)
        constant.save(tmp_path / "constant.zip")
        context = Context(find([tmp_path / "constant.zip"], "ogpo", REACH), Settings(**SMALL), tmp_path)
        (stage,) = calibration.compute(context)["stages"]
        expected = run_episodes(model, gym.make(REACH), 4, "ode").returns_to_go(np.full(4, -4.0))
        assert stage["bias"] == pytest.approx(-4.0 - expected.mean(), abs=1e-4)
        assert stage["rmse"] == pytest.approx(np.sqrt(((-4.0 - expected) ** 2).mean()), abs=1e-4)
        assert stage["rank_correlation"] is None and stage["heads_spread"] == 0.0


class TestResults:
    def test_every_file_is_there(self, analysed):
        _, out, results = analysed
        assert list(results) == list(ANALYSES)
        report = (out / "report.md").read_text()
        for name, analysis in ANALYSES.items():
            assert (out / f"{name}.png").read_bytes().startswith(b"\x89PNG") and (out / f"{name}.png").stat().st_size > 10_000
            assert json.loads((out / f"{name}.json").read_text()) == results[name]
            assert f"## {analysis.TITLE}" in report and f"({name}.png)" in report and f"{name}.json" in report
        assert (out / "report.html").exists() and "Left out" not in report

    def test_speed_is_what_evaluate_says(self, analysed, run):
        last = analysed[2]["speed"]["stages"][-1]
        wanted = evaluate(run[1], lambda: gym.make(REACH), n_episodes=4)
        assert last["success"] == wanted.success_rate and last["lengths"] == wanted.lengths.tolist()
        assert last["steps_to_success"] == (wanted.steps_to_success and pytest.approx(wanted.steps_to_success, abs=1e-4))

    def test_distributions_are_those_of_the_actor(self, analysed, run):
        source, out, results = analysed
        found = results["distributions"]
        assert len(found["states"]) == 2 and found["stages"] == [stage.title for stage in source.stages]
        context = Context(source, Settings(**SMALL), out)
        observations, origins = context.states()
        for s, state in enumerate(found["states"]):
            assert (state["seed"], state["decision"]) == (origins[s]["seed"], origins[s]["decision"])
            assert state["stages"][0]["shift"] == 0.0 and np.shape(state["stages"][2]["points"]) == (30, 2)
        # Of the last stage, a large sample from the model itself.
        obs = th.as_tensor(observations[:1])
        with th.no_grad():
            actions = run[1].actor_ema.sample_chain(obs, 4000).actions.numpy()
        spread = np.sqrt(((actions - actions.mean(axis=0)) ** 2).sum(axis=1).mean())
        assert found["states"][0]["stages"][-1]["spread"] == pytest.approx(spread, rel=0.35)
        # All three dimensions are kept by a distance, two by the picture.
        points = np.array(found["states"][0]["stages"][-1]["points"])
        drawn = np.sqrt(((points - points.mean(axis=0)) ** 2).sum(axis=1).mean())
        assert drawn <= found["states"][0]["stages"][-1]["spread"] + 1e-3

    def test_the_ratios_and_advantages_counts_are_complete(self, analysed):
        found = analysed[2]["ratios"]
        assert [stage["title"] for stage in found["stages"]] == found_titles(analysed)[1:], "a cloned policy has no critics"
        for stage in found["stages"]:
            assert sum(stage["ratio_counts"]) == sum(stage["advantage_counts"]) == stage["n"]
            assert stage["clip_range"] == pytest.approx(0.05) and stage["n"] % 4 == 0
            assert stage["ratio_mean"] == pytest.approx(1.0, abs=0.2)
            assert 0.0 < stage["advantage_positive"] < 1.0 and stage["advantage_std"] > 0
        assert found["stages"][-1]["ratio_std"] > 0, "the online policy is ahead of its EMA"

    def test_equal_actors_have_ratio_one(self, run, tmp_path):
        model = load_model("ogpo", run[0] / "model.zip", gym.make(REACH))
        model.actor.load_state_dict(model.actor_ema.state_dict())
        model.save(tmp_path / "equal.zip")
        found = ratios.compute(Context(find([tmp_path / "equal.zip"], "ogpo", REACH), Settings(**SMALL), tmp_path))["stages"][
            0
        ]
        assert found["ratio_mean"] == 1.0 and found["ratio_std"] == 0.0 and found["beyond_clip"] == 0.0
        assert found["ratio_counts"][30] == found["n"], "the middle bin"

    def test_centred_ratios_are_shown_as_the_update_sees_them(self, run, tmp_path):
        model = load_model("ogpo", run[0] / "model.zip", gym.make(REACH))
        with th.no_grad():
            for p in model.actor.gcp.parameters():
                p += 0.03  # lowers the likelihood of all chains of the EMA policy
        mean = {}
        for centred in (False, True):
            model.extraction_kwargs = dict(centred=centred)
            model.save(tmp_path / f"{centred}.zip")
            context = Context(find([tmp_path / f"{centred}.zip"], "ogpo", REACH), Settings(**SMALL), tmp_path)
            mean[centred] = ratios.compute(context)["stages"][0]["ratio_mean"]
        assert mean[False] < 0.97 < 1.0 <= mean[True], "an arithmetic mean is at least the geometric one, which is 1"

    def test_histogram_without_ends(self):
        edges = np.array([0.0, 1.0, 2.0])
        assert ratios.histogram(np.array([-9.0, 0.0, 0.5, 1.0, 1.99, 2.0, 50.0]), edges).tolist() == [3, 4]

    def test_chains_end_in_the_actors_actions(self, analysed, run):
        source, out, results = analysed
        settings = Settings(**{**SMALL, "dims": (2, 0)})
        found = denoising.compute(Context(source, settings, out))
        observations, _ = Context(source, settings, out).states()
        th.manual_seed(0)
        with th.no_grad():
            states = run[1].actor_ema.sample_chain(th.as_tensor(observations[:1]), 30).states
        paths = np.array(found["states"][0]["stages"][-1]["paths"])
        np.testing.assert_allclose(paths, states.transpose(0, 1)[..., [2, 0]].numpy(), atol=1e-4)
        lengths = states.diff(dim=0).norm(dim=-1).mean(dim=1).numpy()
        np.testing.assert_allclose(found["states"][0]["stages"][-1]["step_lengths"], lengths, atol=1e-4)
        # Along principal components of the actions distances are at most as long.
        drawn = np.array(results["denoising"]["states"][0]["stages"][-1]["paths"])
        assert (
            drawn.shape == (30, 4, 2)
            and np.linalg.norm(np.diff(drawn, axis=1), axis=-1).mean(axis=0) @ [1, 1, 1] <= lengths.sum()
        )


def found_titles(analysed):
    return [stage.title for stage in analysed[0].stages]


# -- going on, mistakes -----------------------------------------------------------------------------------------------


class TestCommand:
    def test_goes_on_where_it_was(self, analysed, monkeypatch):
        source, out, results = analysed
        times = {path.name: path.stat().st_mtime_ns for path in out.glob("*.json")}
        (out / "ratios.json").unlink()
        (out / "speed.png").unlink()
        monkeypatch.setattr(report_module.calibration, "compute", None)  # is not needed
        assert analyse(source, out, Settings(**SMALL)) == results
        assert (out / "speed.png").exists()
        kept = {name for name, before in times.items() if (out / name).stat().st_mtime_ns == before}
        assert kept == set(times) - {"ratios.json", "settings.json"}

    def test_the_command(self, run, tmp_path, capsys):
        arguments = [str(run[0] / "model.zip"), "--algo", "ogpo", "--env", REACH, "--out", str(tmp_path / "out")]
        few = ["--episodes", "2", "--states", "1", "--samples", "20", "--projection", "pca", "--quiet"]
        assert main([*arguments, *few]) == 0
        assert "Wrote calibration, ratios, denoising of 1 stages" in capsys.readouterr().out
        report = (tmp_path / "out" / "report.md").read_text()
        assert "Left out: it compares stages of training and needs 2, found 1." in report

    @pytest.mark.parametrize("algorithm", [DSRL, EXPO, DPPO])
    def test_other_algorithms(self, algorithm, tmp_path):
        model = small(algorithm, **(dict(noise_aliasing=False) if algorithm is DSRL else {}))
        if algorithm is not DPPO:
            model.learn(46)
        model.save(tmp_path / "model.zip")
        shutil.copy(tmp_path / "model.zip", tmp_path / "again.zip")
        algo = algorithm.__name__.lower()
        source = find([f"a={tmp_path / 'model.zip'}", f"b={tmp_path / 'again.zip'}"], algo, REACH)
        found = analyse(source, tmp_path / "out", Settings(n_episodes=1, n_states=1, n_samples=5, projection="pca"))
        assert {"speed", "distributions", "denoising"} <= set(found)
        assert ("calibration" in found) == (algorithm is EXPO)
        same = found["distributions"]["states"][0]["stages"]
        assert same[0]["points"] == same[1]["points"], "equal models and draws"

    def test_dictionary_observations(self, tmp_path):
        keyed = REACH.replace("Reach-v0", "Keyed-v0")
        model = small(env=gym.make(keyed)).learn(46)
        model.save(tmp_path / "first.zip")
        model.learn(10, reset_num_timesteps=False).save(tmp_path / "second.zip")
        found = analyse(find([tmp_path], "ogpo", keyed), tmp_path / "out", Settings(**SMALL))
        assert list(found) == list(ANALYSES)

    def test_observations_that_vecnormalize_scaled_are_refused(self, tmp_path):
        env = VecNormalize(DummyVecEnv([lambda: ChunkActionWrapper(gym.make(REACH), 3)]))
        path = small(env=env).save_checkpoint(tmp_path / "run_0_steps")
        with pytest.raises(ValueError, match="was trained with VecNormalize, whose statistics the analyses do not know"):
            analyse(find([path], "ogpo", REACH), tmp_path / "out", Settings(**SMALL), only=["denoising"])

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["nowhere"], "nowhere: there is no such run or model file"),
            (["{empty}"], "empty holds no model: wanted files of model.save, save_checkpoint or policy.save"),
            (
                ["{run}/notes.zip", "--algo", "ogpo", "--env", REACH],
                "notes.zip should be a model file, found another kind of file",
            ),
            (["{run}/model.zip", "--env", REACH], "model.zip does not say which algorithm it is of: give --algo"),
            (["{run}/model.zip", "--algo", "ogpo"], "model.zip does not say which environment it is of: give --env"),
            (["{run}/model.zip", "--algo", "sac", "--env", REACH], "algo must be one of"),
            (["{run}/model.zip", "--algo", "ogpo", "--env", "Pendulum-v1"], "the environment's observation space is"),
            (["{run}/model.zip", "--algo", "ogpo", "--env", "No-v0"], "Environment `No` doesn't exist"),
            (["{run}/model.zip", "{run}/model.zip", "--algo", "ogpo", "--env", REACH], "the stages need different titles"),
            (["{run}", "--algo", "ogpo", "--env", REACH, "--max-stages", "0"], "max_stages must be at least 1, found 0"),
            (["{run}", "--algo", "ogpo", "--env", REACH, "--episodes", "0"], "n_episodes must be at least 1, found 0"),
            (
                ["{run}/model.zip", "--algo", "ogpo", "--env", REACH, "--only", "speed"],
                "speed cannot be made of this run: it compares stages of training and needs 2, found 1",
            ),
            (
                ["{run}/bc.zip", "--algo", "ogpo", "--env", REACH, "--only", "calibration"],
                "calibration cannot be made of this run: it needs critics, and these models have only untrained ones",
            ),
            (
                ["{run}/model.zip", "--algo", "ogpo", "--env", REACH, "--only", "denoising", "--dims", "0", "3"],
                r"dims must lie in [0, 2], the entries of an action chunk, found [0, 3]",
            ),
        ],
    )
    def test_mistakes_are_one_sentence(self, arguments, message, run, tmp_path, capsys):
        (tmp_path / "empty").mkdir()
        arguments = [a.format(run=run[0], empty=tmp_path / "empty") if a.startswith("{") else a for a in arguments]
        few = [] if "--episodes" in arguments else ["--episodes", "1"]
        assert main([*arguments, *few, "--out", str(tmp_path / "out"), "--projection", "pca", "--quiet"]) == 1
        error = capsys.readouterr().err.strip().splitlines()[-1]
        assert error.startswith("error: ") and message in error

    def test_a_misspelt_environment_does_not_claim_the_folder(self, run, tmp_path):
        for env_id, kwargs, message in (
            ("No-v0", {}, "doesn't exist"),
            ("Pendulum-v1", {}, "observation_space"),
            (REACH, {"foo": 1}, "cannot be made with .*'foo': 1"),
        ):
            with pytest.raises((ValueError, gym.error.Error), match=message):
                analyse(find([run[0]], "ogpo", env_id, kwargs), tmp_path / "out", Settings(**SMALL))
        assert not (tmp_path / "out").exists()

    def test_a_folder_belongs_to_one_analysis(self, analysed, run):
        with pytest.raises(ValueError, match="holds an analysis with other n_samples: choose another folder"):
            analyse(analysed[0], analysed[1], Settings(**{**SMALL, "n_samples": 31}))
        with pytest.raises(ValueError, match="found \\['sped'\\]"):
            analyse(analysed[0], analysed[1], Settings(**SMALL), only=["sped"])

    def test_umap_must_be_installed(self, run, tmp_path, monkeypatch):
        monkeypatch.setattr(projection.importlib.util, "find_spec", lambda name: None)
        assert projection.chosen("auto") == "pca"
        with pytest.raises(ValueError, match="needs umap-learn"):
            analyse(find([run[0]], "ogpo", REACH), tmp_path, Settings(**{**SMALL, "projection": "umap"}))

    def test_the_package_does_not_import_it(self):
        code = "import sys, ogpo_sb3; assert not [m for m in sys.modules if m.startswith('ogpo_sb3.analyze')]"
        subprocess.run([sys.executable, "-c", code], check=True)
