"""Videos of models, and the choice of an OpenGL back-end where there is no display."""

import logging
import os

import gymnasium as gym
import imageio.v2 as imageio
import numpy as np
import pytest
import torch as th
from stable_baselines3 import SAC

from ogpo_sb3 import OGPO, ChunkActionWrapper, evaluate, record_video
from ogpo_sb3.envs import headless
from ogpo_sb3.evaluation.video import Clip, record, record_episode, write_grid
from ogpo_sb3.zoo import ALGORITHMS
from ogpo_sb3.zoo.models import load_model
from tests.toys import Reach

KWARGS = dict(
    learning_starts=20,
    batch_size=8,
    actor_batch_size=4,
    group_size=2,
    chunk_size=2,
    seed=0,
    device="cpu",
    buffer_size=100,
    policy_kwargs=dict(net_arch=[16], n_critics=2, denoising_steps=2),
)


class Drawn(Reach):
    """Reach, drawn as a white line with a dark point and a grey goal."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 5}  # noqa: RUF012

    def __init__(self, render_mode="rgb_array"):
        super().__init__()
        self.render_mode = render_mode

    def render(self):
        picture = np.full((32, 64, 3), 255, np.uint8)
        for place, shade in ((self.goal, 128), (self.position, 0)):
            column = int((place + 2.0) / 4.0 * 59)
            picture[8:24, column : column + 4] = shade
        return picture


@pytest.fixture(scope="module")
def models():
    return {"before": OGPO("FlowPolicy", Reach(), **KWARGS), "after": OGPO("FlowPolicy", Reach(), **{**KWARGS, "seed": 5})}


def frames_of(path):
    return np.stack(imageio.mimread(path, memtest=False))


def test_models_stand_side_by_side_on_the_episodes_that_evaluation_counts(models, tmp_path):
    video = record(models, Drawn, tmp_path / "out.gif", n_episodes=3)
    assert video.seeds.tolist() == [10_000, 10_001, 10_002] and video.successes.shape == (2, 3)
    for successes, model in zip(video.successes, models.values(), strict=True):
        result = evaluate(model, Reach, n_episodes=3)
        assert successes.tolist() == result.successes.tolist()
    lengths = [evaluate(model, Reach, n_episodes=3).lengths.max() for model in models.values()]
    frames = frames_of(tmp_path / "out.gif")
    assert frames.shape == (max(lengths) + 1, 3 * (32 + 24), 2 * 64, 3) and not list(tmp_path.glob(".*"))
    # Both columns begin in the same state.
    left, right = np.split(frames[0][24:56], 2, axis=1)
    np.testing.assert_array_equal(left, right)


class Walker:
    """Another library's model, which walks straight to the goal."""

    action_space = Reach().action_space
    policy = None

    def get_vec_normalize_env(self):
        return None

    def predict(self, observation, deterministic=False):
        assert deterministic
        return np.clip(2.0 * (observation[:, 1:] - observation[:, :1]), -0.5, 0.5), None


class Stander(Walker):
    """One that stays."""

    def predict(self, observation, deterministic=False):
        return np.zeros((len(observation), 1)), None


def test_a_finished_episode_rests_on_its_last_frame(tmp_path):
    video = record({"walks": Walker(), "stays": Stander()}, Drawn, tmp_path / "out.mp4", seeds=[7, 8])
    assert video.successes.tolist() == [[True, True], [False, False]]
    frames = frames_of(tmp_path / "out.mp4")
    assert len(frames) == 21  # the failures last twenty steps
    env = Drawn()
    for row, seed in enumerate((7, 8)):
        panel = frames[:, 56 * row + 24 : 56 * (row + 1), :64]
        observation, _ = env.reset(seed=seed)
        expected, done = [env.render()], False
        while not done:
            observation, _, done, _, _ = env.step(Walker().predict(observation[None], deterministic=True)[0][0])
            expected.append(env.render())
        assert len(expected) < 10
        expected += [expected[-1]] * (21 - len(expected))
        # Lossy, but a frame of another step is further away than 4 on average.
        assert np.abs(panel.astype(int) - np.stack(expected)).mean(axis=(1, 2, 3)).max() < 4


def test_one_model_fills_a_grid(models, tmp_path):
    record(models["after"], Drawn, tmp_path / "grid.gif", n_episodes=5, every=3, max_steps=6, size=16)
    frames = frames_of(tmp_path / "grid.gif")
    assert frames.shape == (3, 2 * (16 + 24), 3 * 32, 3)  # steps 0, 3, 6
    assert (frames[:, 40:, 64:] == 255).all()  # no sixth episode
    record(models["after"], Drawn, tmp_path / "row.mp4", n_episodes=5, max_steps=2, columns=5)
    assert frames_of(tmp_path / "row.mp4").shape[1:] == (32 + 24, 5 * 64, 3)


def test_any_model_and_a_real_environment(tmp_path):
    model = SAC("MlpPolicy", "Pendulum-v1", device="cpu", buffer_size=10, seed=0)
    env = gym.make("Pendulum-v1", render_mode="rgb_array", max_episode_steps=4)
    video = record(model, env, tmp_path / "sac.mp4", seeds=[3])
    assert len(frames_of(tmp_path / "sac.mp4")) == 5 and video.successes is None
    env.close()


def test_clips_give_back_their_frames():
    frames = np.random.default_rng(0).integers(0, 256, (3, 4, 5, 3)).astype(np.uint8)
    clip = Clip()
    for frame in frames:
        clip.append(frame)
    for index in (2, 0, 1):
        np.testing.assert_array_equal(clip[index], frames[index])
    with pytest.raises(IndexError, match="frame 3 of 3"):
        clip[3]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"n_episodes": 0}, "needs a model and an episode, found 1 models and 0 episodes"),
        ({"every": 0}, "every must be at least 1, found 0"),
        ({"env": Reach}, "render_mode"),
        ({"env": lambda: ChunkActionWrapper(Drawn(), 2)}, "should be one without ChunkActionWrapper, found chunks of 2"),
        ({"path": "out.avi"}, r"out\.avi: videos are written as \.mp4 or \.gif"),
        ({"fps": 0}, "fps must be positive, found 0"),
    ],
)
def test_what_cannot_be_recorded_is_said(models, tmp_path, monkeypatch, arguments, sentence):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Drawn, "reset", lambda *_, **__: pytest.fail("drawn for nothing"))
    with pytest.raises(ValueError, match=sentence):
        record(models["after"], **{"env": Drawn, "path": "out.gif", "max_steps": 2, **arguments})
    assert not list(tmp_path.iterdir())


class DrawnWide(Drawn):
    """Two actions."""

    def __init__(self):
        super().__init__()
        self.action_space = gym.spaces.Box(-0.5, 0.5, (2,), np.float32)


class DrawnFar(Drawn):
    """Three observations."""

    def __init__(self):
        super().__init__()
        self.observation_space = gym.spaces.Box(-2.0, 2.0, (3,), np.float32)


@pytest.mark.parametrize(
    ("env", "sentence"),
    [
        (DrawnWide, r"the environment's action space is .*\(4,\), float32\)\), wanted .*\(2,\), float32\)\)"),
        (DrawnFar, r"the environment's observation space is .*\(3,\), float32\), wanted .*\(2,\), float32\)"),
    ],
)
def test_a_model_of_another_environment_is_refused_before_the_first_episode(models, tmp_path, monkeypatch, env, sentence):
    closed = []
    monkeypatch.setattr(Drawn, "reset", lambda *_, **__: pytest.fail("drawn for nothing"))
    monkeypatch.setattr(Drawn, "close", lambda self: closed.append(self), raising=False)
    with pytest.raises(ValueError, match=f"{sentence}$"):
        record(models["after"], env, tmp_path / "out.gif")
    other = OGPO("FlowPolicy", env(), **KWARGS)
    with pytest.raises(ValueError, match=f"{sentence} of the model 'after'$"):
        record({"fits": other, "after": models["after"]}, env, tmp_path / "out.gif")
    with pytest.raises(ValueError, match=sentence):
        record_episode(models["after"], env(), seed=1)
    assert len(closed) == 2 and not list(tmp_path.iterdir())


def test_pictures_as_observations_fit_a_model_that_has_their_channels_first(tmp_path):
    class Pictured(Drawn):
        def __init__(self):
            super().__init__()
            self.observation_space = gym.spaces.Dict(picture=gym.spaces.Box(0, 255, (36, 48, 3), np.uint8))

        def _obs(self):
            return {"picture": self.observation_space["picture"].sample()}

    model = SAC("MultiInputPolicy", Pictured(), device="cpu", buffer_size=10, policy_kwargs=dict(net_arch=[4]))
    assert model.observation_space["picture"].shape == (3, 36, 48)
    record(model, Pictured, tmp_path / "out.gif", max_steps=2)
    assert len(evaluate(model, Pictured, n_episodes=1).returns) == 1


def test_clips_without_frames_are_refused(tmp_path):
    with pytest.raises(ValueError, match="the clip 'empty' has no frames"):
        write_grid([[("empty", [])]], tmp_path / "a.gif")
    clip = Clip()
    clip.append(np.zeros((4, 4, 3)))
    with pytest.raises(ValueError, match=r"a frame of shape \(2, 4, 3\) follows"):
        clip.append(np.zeros((2, 4, 3)))


# The command


def test_the_command_compares_a_cloned_policy_with_a_model(tmp_path, capsys):
    model = OGPO("FlowPolicy", "ogpo/PushT-v0", **KWARGS)
    model.save(tmp_path / "after.zip")
    model.policy.save(tmp_path / "bc.zip")
    arguments = ["--env", "ogpo/PushT-v0", "--model", f"before={tmp_path / 'bc.zip'}", "--model", str(tmp_path / "after.zip")]
    arguments += ["--episodes", "1", "--max-steps", "4", "--size", "64", "--quiet", "-o", str(tmp_path / "out.gif")]
    assert record_video.main(arguments) == 0
    printed = capsys.readouterr().out
    assert "before: 0 of 1 episodes succeed" in printed and "after: 0 of 1 episodes succeed" in printed
    frames = frames_of(tmp_path / "out.gif")
    assert frames.shape == (5, 64 + 24, 128, 3)
    # The same weights and latents: both columns agree.
    np.testing.assert_array_equal(*np.split(frames[-1][24:], 2, axis=1))


@pytest.mark.parametrize(
    ("algo", "family", "options"),
    [
        ("ogpo", "DiffusionPolicy", {}),
        ("ogpo_ca", "ShortcutPolicy", {}),
        ("dppo", "FlowPolicy", {}),
        ("dppo", "DiffusionPolicy", {"finetuned_steps": 1}),
        ("reinflow", "FlowPolicy", {}),
    ],
)
def test_a_policys_own_file_is_read_whatever_its_family_and_algorithm(tmp_path, algo, family, options):
    network = {"net_arch": [8], "denoising_steps": 4 if family == "ShortcutPolicy" else 3}
    model = ALGORITHMS[algo](family, Reach(), chunk_size=2, device="cpu", policy_kwargs=network, **options)
    with th.no_grad():
        for parameter in model.policy.actor_ema.parameters():  # other steps than the frozen ones
            parameter += 0.01 * th.randn_like(parameter)
    model.policy.save(tmp_path / "policy.zip")
    observations = np.random.default_rng(0).normal(size=(5, 2)).astype(np.float32)
    actions = [
        m.predict(observations, deterministic=True)[0] for m in (load_model(algo, tmp_path / "policy.zip", Reach()), model)
    ]
    np.testing.assert_allclose(*actions, atol=1e-6)
    with pytest.raises(ValueError, match=f"policy.zip holds a {family}, wanted one that SAC knows"):
        load_model("sac", tmp_path / "policy.zip", Reach())


def test_the_command_claims_no_failure_where_success_is_unknown(tmp_path, capsys):
    SAC("MlpPolicy", "Pendulum-v1", device="cpu", buffer_size=10, seed=0).save(tmp_path / "sac.zip")
    arguments = ["--algo", "sac", "--env", "Pendulum-v1", "--model", str(tmp_path / "sac.zip"), "--max-steps", "2", "--quiet"]
    assert record_video.main([*arguments, "--episodes", "1", "-o", str(tmp_path / "out.gif")]) == 0
    printed = capsys.readouterr().out
    assert "Pendulum-v1 does not say whether an episode succeeds" in printed and "succeed\n" not in printed


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--model", "nowhere.zip"], "nowhere.zip: there is no such model file"),
        (["--model", "nowhere.zip", "-o", "out.avi"], "out.avi: videos are written as .mp4 or .gif"),
        (["--model", "nowhere.zip", "-o", "out"], "out: videos are written as .mp4 or .gif"),
        (["--model", "nowhere.zip", "--env-kwargs", "foo:1"], "ogpo/PushT-v0 cannot be made with the arguments {'foo': 1}"),
        (["--model", "a=x.zip", "--model", "a=y.zip"], "the models need different titles"),
        (["--model", "x.zip", "--episodes", "0"], "--episodes must be at least 1"),
        (["--model", __file__, "--algo", "ogp"], "there is no algorithm 'ogp', wanted one of ogpo"),
    ],
)
def test_the_command_explains_a_mistake(tmp_path, capsys, monkeypatch, arguments, sentence):
    monkeypatch.chdir(tmp_path)
    assert record_video.main(["--env", "ogpo/PushT-v0", "-o", "out.gif", "--quiet", *arguments]) == 1
    assert sentence in capsys.readouterr().err and not list(tmp_path.iterdir())


# OpenGL


@pytest.fixture
def no_display(monkeypatch):
    for name in ("DISPLAY", "MUJOCO_GL", "PYOPENGL_PLATFORM"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    yield monkeypatch
    for name in ("MUJOCO_GL", "PYOPENGL_PLATFORM"):  # set by what is tested
        os.environ.pop(name, None)


def test_a_back_end_is_found_and_said(no_display, caplog):
    with caplog.at_level(logging.INFO, "ogpo_sb3"):
        assert headless.choose_backend() in headless.BACKENDS
    assert os.environ["MUJOCO_GL"] in headless.BACKENDS
    assert f"Drawing without a display through {os.environ['MUJOCO_GL'].upper()}" in caplog.text


@pytest.mark.parametrize(
    ("broken", "chosen", "said"),
    [
        (("egl",), "osmesa", "through OSMESA (egl is broken)"),
        (("egl", "osmesa"), None, "Nothing draws without a display: egl is broken; osmesa is broken"),
    ],
)
def test_the_next_back_end_is_taken_where_one_is_broken(no_display, caplog, broken, chosen, said):
    no_display.setattr(headless, "probe", lambda backend: f"{backend} is broken" if backend in broken else None)
    with caplog.at_level(logging.INFO, "ogpo_sb3"):
        assert headless.choose_backend() == chosen
    assert said in caplog.text and os.environ.get("MUJOCO_GL") == chosen


def test_the_users_choice_and_a_display_are_respected(no_display):
    no_display.setattr(headless, "probe", lambda backend: pytest.fail("tried without need"))
    no_display.setenv("MUJOCO_GL", "osmesa")
    assert headless.choose_backend() == "osmesa"
    no_display.delenv("MUJOCO_GL")
    no_display.setenv("DISPLAY", ":0")
    assert headless.choose_backend() is None and "MUJOCO_GL" not in os.environ
