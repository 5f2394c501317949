"""The learning study: settings, one run that is killed and goes on, numbers of hand-made curves, and what is made of them."""

import csv
import json

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from benchmarks.learning import __main__ as command
from benchmarks.learning import collect, curves, diagnostics, figures, plans, probe, run, settings, stages, study, summary
from benchmarks.learning.ablations import NoPolicyGradient
from ogpo_sb3 import OGPO, OGPOCA, OGPOChi2, evaluate
from ogpo_sb3.common.off_policy import GCPOffPolicyAlgorithm

from tests.toys import Reach, reach_demonstrations


def test_assignments_are_literals_or_words():
    parsed = settings.parse_assignments(["utd_critic=0.5", "policy_kwargs.net_arch=[16, 16]", "q_agg=min", "clip_bc=None"])
    assert parsed == {"utd_critic": 0.5, "policy_kwargs.net_arch": [16, 16], "q_agg": "min", "clip_bc": None}


@pytest.mark.parametrize(
    "arguments, named",
    [
        (["--task", "mars"], "mars"),
        (["--task", "smoke", "--variant", "nope"], "nope"),
        (["--task", "smoke", "--variant", "base", "--set", "gamma=0.9"], "another name"),
        (["--task", "smoke", "--variant", "x", "--set", "gamma"], "name=value"),
        (["--task", "smoke", "--variant", "x", "--set", "gamma=0.9+"], "gamma"),
        (["--task", "smoke", "--variant", "x", "--set", "utd_criti=2"], "utd_criti is no setting of OGPOCA"),
        (["--task", "smoke", "--variant", "x", "--set", "policy_kwargs.nois=2"], "policy_kwargs.nois"),
        (["--task", "smoke", "--variant", "x", "--set", "env.reward_scal=2"], "env.reward_scal"),
        (["--task", "smoke", "--variant", "x", "--set", "algo=DQN"], "DQN"),
        (["--task", "smoke", "--variant", "x", "--set", "n_envs=0"], "n_envs"),
        (["--task", "smoke", "--variant", "x", "--set", "offline_ratio=0.5"], "offline_ratio"),
        (["--task", "smoke", "--steps", "-1"], "--steps"),
        (["--task", "smoke", "--steps", "0"], "--steps"),
        (["--task", "smoke", "--episodes", "9"], "--final-episodes=3"),
    ],
)
def test_wrong_settings_are_named_in_one_line(arguments, named, tmp_path, capsys):
    assert command.main(["run", "--out", str(tmp_path), *arguments]) == 1
    message = capsys.readouterr().err.strip()
    assert message.startswith("error: ") and named in message and "\n" not in message
    assert not any(tmp_path.iterdir()), "refused before anything was written"


def test_every_planned_run_has_real_settings_and_differs_from_the_base():
    for name in plans.PLANS:
        content = plans.runs(name)
        assert len({(r.task, r.variant) for r in content}) == len(content) > 0
        for r in content:
            flat = {**plans.task_settings(r.task), **r.overrides}
            settings.check(flat, plans.TASKS[r.task]["env"])
            assert r.factor == "base" or flat != plans.task_settings(r.task)
    assert not {r.task for r in plans.runs("screen") if r.factor == "reward"} & {"pusht", "kitchen"}


def test_variants_share_a_cloned_policy_unless_they_change_cloning():
    base = plans.task_settings("relocate")

    def key(**changes):
        return settings.digest(settings.cloning_settings({**base, **changes}))

    for name, value in {"utd_critic": 4.0, "policy_kwargs.n_critics": 10, "policy_kwargs.noise_std": 0.3}.items():
        assert key(**{name: value}) == key(), name
    assert key(**{"env.reward": "sparse", "batch_size": 64, "actor_tau": 0.5}) == key()
    for name, value in {"chunk_size": 4, "clip_bc": 0.3, "policy_kwargs.denoising_steps": 8, "demo_episodes": 10}.items():
        assert key(**{name: value}) != key(), name
    assert key(**{"policy_kwargs.noise_schedule": "learned"}) != key(), "its network is part of the actor"


def test_numbers_of_a_curve():
    steps, success = [0, 100, 204, 300, 400], [0.4, 0.2, 0.5, 0.7, 0.6]
    assert curves.dip(success) == pytest.approx(-0.2)
    assert curves.best(success) == 0.7
    assert curves.steps_to_gain(steps, success) == 300, ".7 is .3 above .4, rounding aside"
    assert curves.steps_to_gain(steps, success, gain=0.31) is None
    assert curves.dip([0.4, 0.5, 0.6]) == pytest.approx(0.1), "never below the start"
    assert curves.dip([0.4]) is None and curves.steps_to_gain([0], [0.4]) is None


def test_interquartile_mean_and_interval():
    stats = pytest.importorskip("scipy.stats")
    rng = np.random.default_rng(0)
    for n in (1, 2, 3, 5, 8, 13):
        values = rng.normal(size=n)
        assert curves.interquartile_mean(values) == pytest.approx(stats.trim_mean(values, 0.25))
    scores = {"easy": [0.9, 0.8, 0.85, 0.95, 0.9], "hard": [0.1, 0.2, 0.15]}
    mean, low, high = curves.bootstrap(scores)
    assert low < mean < high and 0.1 < low and high < 0.95
    assert curves.bootstrap(scores) == (mean, low, high), "the same every time"
    # Within each task: without spread there, none comes from the difference between tasks.
    assert curves.bootstrap({"easy": [0.9] * 4, "hard": [0.1] * 4})[1:] == pytest.approx((0.5, 0.5))
    alone = curves.bootstrap({"easy": [0.9]})
    assert alone[0] == 0.9 and np.isnan(alone[1])


@pytest.mark.parametrize("algorithm", [OGPOCA, OGPOChi2])
def test_diagnostics_do_not_touch_the_training(algorithm):
    def train(look):
        model = algorithm(
            "FlowPolicy",
            Reach(),
            demonstrations=reach_demonstrations(),
            bc_steps=150,
            learning_starts=40,
            utd_critic=0.25,
            utd_actor=0.25,
            batch_size=8,
            actor_batch_size=4,
            group_size=4,
            chunk_size=2,
            seed=0,
            device="cpu",
            policy_kwargs=dict(net_arch=[32], n_critics=2, denoising_steps=2),
        )
        model.pretrain(progress_bar=False)
        for _ in range(2):
            model.learn(60, reset_num_timesteps=False)
            found = (diagnostics.calibration(model, 200), diagnostics.gradient_shares(model)) if look else None
        return model, found

    model, (bins, shares) = train(look=True)
    assert sum(b["n"] for b in bins) <= 200 and [b["q"] for b in bins] == sorted(b["q"] for b in bins)
    assert -20 <= min(b["mc_return"] for b in bins) and max(b["mc_return"] for b in bins) <= 0
    assert 0 < shares["bc_share"] < 1 and shares["pg_grad_norm"] > 0 and -1 <= shares["bc_cosine"] <= 1
    plain, _ = train(look=False)
    for name, value in plain.policy.state_dict().items():
        assert (value == model.policy.state_dict()[name]).all(), name


@pytest.mark.parametrize("algorithm, moves", [(OGPOCA, True), (NoPolicyGradient, False)])
def test_without_a_policy_gradient_only_successes_move_the_actor(algorithm, moves):
    model = algorithm(
        "FlowPolicy",
        Reach(),
        success_bc=False,
        learning_starts=20,
        batch_size=8,
        actor_batch_size=4,
        group_size=4,
        chunk_size=2,
        seed=0,
        device="cpu",
        policy_kwargs=dict(net_arch=[32], n_critics=2, denoising_steps=2),
    )
    actor, critic = (([p.clone() for p in net.parameters()]) for net in (model.actor, model.critic))
    model.learn(60)
    assert any((a != b).any() for a, b in zip(critic, model.critic.parameters(), strict=True))
    assert any((a != b).any() for a, b in zip(actor, model.actor.parameters(), strict=True)) is moves


def learned():
    """Critics of a policy that walks at random, and has not moved."""
    model = OGPO(
        "FlowPolicy",
        Reach(),
        learning_starts=100,
        critic_warmup_updates=100,
        utd_actor=0.0,
        batch_size=32,
        actor_batch_size=32,
        group_size=8,
        clip_range=0.2,
        actor_tau=0.2,
        chunk_size=2,
        seed=0,
        device="cpu",
        policy_kwargs=dict(net_arch=[32], n_critics=2, denoising_steps=2, noise_std=0.3),
    )
    return model.learn(110)


def test_the_probe_of_choice_lets_the_critics_choose():
    """The more candidates, the more of what critics of a simple task prefer; the policy itself stays what it is."""
    model = learned()
    before = [p.clone() for p in model.actor_ema.parameters()]
    ode, one, some, many = probe.choice(model, Reach, episodes=30)
    assert [row["policy"] for row in (ode, one, some, many)] == ["one ODE sample", "best of 1", "best of 8", "best of 32"]
    assert one["mean_return"] < some["mean_return"] and one["success"] < many["success"]
    assert all((a == b).all() for a, b in zip(before, model.actor_ema.parameters(), strict=True))


def test_the_probe_follows_the_critics_only_where_it_may():
    rows = {name: probe.probe(learned(), name, 40, 1e-3, Reach, episodes=2) for name in ("start", *probe.PROBES)}
    assert set(rows["start"]) == set(probe.FIELDS)
    followed, slow, drawn, still = (rows[n] for n in ("as trained", "a tenth of the rate", "random signs", "cloning alone"))
    assert followed["q_gain"] > 0.5 * followed["group_q_std"] > 0
    assert 0 < slow["moved"] < followed["moved"]
    assert abs(drawn["q_gain"]) < 0.5 * followed["q_gain"]
    assert still["moved"] == still["q_gain"] == 0, "there are no successes to clone"


def test_the_probe_of_cloning_goes_on_with_what_it_is_told_to_clone():
    """Demonstrations that walk away from the goal, against the policy's own successes, which walk towards it."""
    demos = reach_demonstrations()
    demos.actions *= -1.0
    kwargs = dict(batch_size=32, actor_batch_size=32, group_size=4, chunk_size=2, seed=0, device="cpu")
    policy_kwargs = dict(net_arch=[32], n_critics=2, denoising_steps=2, noise_std=0.1)
    rows = {}
    for name, chosen in probe.CLONING.items():
        model = OGPO(
            "FlowPolicy",
            Reach(),
            learning_starts=10_000,
            actor_tau=0.2,
            demonstrations=demos,
            policy_kwargs=policy_kwargs,
            **{**kwargs, **chosen.attributes},
        ).learn(600)
        observations = th.as_tensor(demos.observations)
        wanted = th.as_tensor(demos.actions)
        rows[name] = probe.probe(model, name, 300, 3e-3, Reach, episodes=20)
        action = model.actor_ema.sample(observations)[:, :1]
        rows[name]["along"] = (action * wanted).mean().item()
    assert all(row["moved"] > 0.05 for row in rows.values())
    assert rows["the demonstrations"]["along"] > 0.2 > 0 > rows["its successes"]["along"]
    assert rows["its successes"]["success"] > rows["the demonstrations"]["success"]


def test_the_critics_order_is_compared_with_the_simulators(monkeypatch):
    for name, value in dict(RANKED_STATES=2, RANKED_ACTIONS=3, ROLLOUTS=1, HORIZON=6).items():
        monkeypatch.setattr(probe, name, value)
    kwargs = dict(net_arch=[16], n_critics=2, denoising_steps=2, noise_std=0.5)
    model = OGPO(
        "FlowPolicy", "ogpo/PushT-v0", learning_starts=40, seed=0, chunk_size=4, device="cpu", policy_kwargs=kwargs
    ).learn(40)
    env = gym.make("ogpo/PushT-v0", reward="coverage").unwrapped
    ranked = probe.ranking(model, env)
    assert -1 <= ranked["correlation"] <= 1
    assert ranked["group"] <= ranked["best"] and ranked["choice"] <= ranked["best"] <= 0


def test_a_killed_run_goes_on_and_is_summarised(tmp_path, monkeypatch, capsys):
    arguments = ["run", "--task", "smoke", "--steps", "200", "--out", str(tmp_path)]
    learn = GCPOffPolicyAlgorithm.learn

    def interrupted(self, total_timesteps, **kwargs):
        learn(self, 130, **kwargs)
        raise RuntimeError("the plug was pulled")

    with monkeypatch.context() as patch:
        patch.setattr(GCPOffPolicyAlgorithm, "learn", interrupted)
        assert command.main(arguments) == 1
    folder = run.folder_of(tmp_path, "smoke", "base", 0)
    assert "plug" in json.loads((folder / "failure.json").read_text())["error"]
    assert [r.status for r in collect.collect(tmp_path)] == ["failed"]
    assert command.main(["summary", "--out", str(tmp_path)]) == 0, "a study without finished runs can be looked at"
    cloned = {p: p.stat().st_mtime_ns for p in (tmp_path / "shared").rglob("bc_*.zip")}
    capsys.readouterr()

    assert command.main(arguments) == 0
    assert "Going on from run_1" in capsys.readouterr().out
    assert {p: p.stat().st_mtime_ns for p in cloned} == cloned and len(cloned) == 1
    results = json.loads((folder / "results.json").read_text())
    assert results["final"]["timesteps"] >= 200 and results["bc"]["episodes"] == 3 and results["updates"]["critic"] > 0
    assert "--task smoke" in results["command"] and results["versions"]["torch"] and results["settings"]["algo"] == "OGPOCA"
    assert not (folder / "failure.json").exists() and not (folder / "checkpoints").exists()
    [record] = collect.collect(tmp_path)
    assert [int(r["timesteps"]) // 100 for r in record.curve] == [0, 1, 2]
    assert [int(r["timesteps"]) // 100 for r in record.training] == [1, 2]
    assert {"agreement", "clip_fraction", "q_mean", "policy_loss", "pg_grad_norm"} <= set(record.training[-1])

    written = (folder / "results.json").stat().st_mtime_ns
    assert command.main(arguments) == 0 and (folder / "results.json").stat().st_mtime_ns == written, "finished is finished"
    assert command.main([*arguments, "--eval-freq", "50"]) == 1, "the folder belongs to the other settings"
    assert "eval_freq=100, wanted 50" in capsys.readouterr().err

    assert command.main(["summary", "--out", str(tmp_path)]) == 0
    with (tmp_path / "summary.csv").open(newline="") as file:
        [row] = csv.DictReader(file)
    assert list(row) == list(collect.COLUMNS)
    assert (row["task"], row["status"], float(row["gain"]), float(row["dip"])) == ("smoke", "finished", 0.0, 0.0)
    assert row["steps_to_plus30"] == "" and float(row["minutes"]) > 0
    for name in ("curves", "gains"):
        assert (tmp_path / f"{name}_smoke.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("sampler", ["ode", "behaviour"])
def test_a_run_is_watched_as_its_policy_is_deployed(tmp_path, monkeypatch, sampler):
    monkeypatch.setitem(plans.TASKS, "smoke", {**plans.TASKS["smoke"], "sampler": sampler})
    assert command.main(["run", "--task", "smoke", "--steps", "100", "--out", str(tmp_path)]) == 0
    folder = run.folder_of(tmp_path, "smoke", "base", 0)
    results = json.loads((folder / "results.json").read_text())
    model = OGPOCA.load(folder / "model.zip", device="cpu")
    by_ode = evaluate(model, run._evaluation_env(results), n_episodes=3)
    assert (results["final"]["mean_return"] == pytest.approx(by_ode.mean_return)) == (sampler == "ode")
    assert plans.task_of("pusht-preset")["sampler"] == "behaviour", "an actor that stays as cloned is deployed with best-of-N"


def test_summaries_of_what_is_recorded(tmp_path, capsys):
    """Lines of an earlier summary stand beside a study's runs, and come out as they went in."""
    lines = [
        dict(task="t", variant="base", factor="base", seed=0, status="finished", bc_success=0.3, final_success=0.9, gain=0.6),
        dict(task="t", variant="clip_range=0.2", factor="clip", seed=1, status="unfinished", minutes=2.5),
    ]
    lines[0].update(dip=-0.1, steps_to_plus30=200)
    rows = [{"steps": 500, "eval_episodes": 100, **line} for line in lines]
    arguments = ["summary", "--recorded", str(tmp_path / "earlier.csv"), "--out", str(tmp_path / "new")]
    summary.write_csv(tmp_path / "earlier.csv", collect.COLUMNS, rows)
    assert command.main(arguments) == 0
    assert (tmp_path / "new" / "summary.csv").read_text() == (tmp_path / "earlier.csv").read_text()
    assert (tmp_path / "new" / "gains_t.png").exists() and "1 finished, 1 unfinished" in capsys.readouterr().out
    del rows[0]["dip"]  # a curve of its start alone
    summary.write_csv(tmp_path / "earlier.csv", collect.COLUMNS, rows)
    assert command.main([*arguments, "--no-figures"]) == 0 and "+0.60" in capsys.readouterr().out
    assert command.main([*arguments, "--tasks", "u"]) == 1
    assert "unknown task among these runs 'u': wanted one of t" in capsys.readouterr().err
    (tmp_path / "earlier.csv").write_text("task,seed\n")
    assert command.main(arguments) == 1 and "other columns" in capsys.readouterr().err
    (tmp_path / "earlier.csv").unlink()
    assert command.main(arguments) == 1 and "no file" in capsys.readouterr().err


def test_a_picture_of_gains_has_a_line_per_variant_and_the_base_first():
    def record(variant, factor, seed, gain):
        run = dict(task="t", variant=variant, factor=factor, seed=seed, final_episodes=100)
        results = dict(bc=dict(success=0.3, mean_return=0.0), final=dict(success=0.3 + gain, mean_return=0.0, timesteps=9))
        return collect.Record(run, "finished", results, [], [], [], None)

    records = [record("a", "actor", 0, -0.1), record("base", "base", 0, 0.2), record("base", "base", 1, 0.4)]
    axes = figures._gains(records).axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["base (2)", "a (1)"]
    dots = {int(line.get_ydata()[0]): sorted(line.get_xdata()) for line in axes.lines if line.get_marker() == "o"}
    assert dots == {0: pytest.approx([20, 40]), 1: pytest.approx([-10])}
    [band] = axes.patches
    assert band.get_width() == pytest.approx(2 * 196 * (2 * 0.6 * 0.4 / 100) ** 0.5)
    assert figures._gains([]) is None


def test_a_study_skips_what_is_finished_and_names_what_failed(tmp_path, monkeypatch, capsys):
    arguments = [
        "study",
        "--plan",
        "smoke",
        "--variants",
        "base",
        "--seeds",
        "0",
        "1",
        "2",
        "--jobs",
        "2",
        "--out",
        str(tmp_path),
    ]
    finished = run.folder_of(tmp_path, "smoke", "base", 0)
    finished.mkdir(parents=True)
    (finished / "results.json").write_text("{}")
    assert command.main([*arguments, "--dry-run"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("--seed ")[1][0] for line in lines] == ["1", "2"] and all("--threads 1" in line for line in lines)

    jobs_of = study.jobs_of

    def stand_ins(args):
        """Children that cost nothing: seed 1 fails, seed 2 leaves results."""
        jobs = jobs_of(args)
        results = json.dumps(dict(bc=dict(success=0.25), final=dict(success=0.5), seconds=60))
        jobs[1].command = ["/bin/sh", "-c", "echo something broke; exit 3"]
        jobs[2].command = ["/bin/sh", "-c", f"echo '{results}' > '{jobs[2].folder / 'results.json'}'"]
        return jobs

    monkeypatch.setattr(study, "jobs_of", stand_ins)
    monkeypatch.setattr(study, "REFRESH", 0.02)
    assert command.main(arguments) == 1
    out = " ".join(capsys.readouterr().out.split())
    assert "something broke" in out and "0.25 -> 0.50" in out and "2 of 3 runs finished" in out


@pytest.mark.parametrize(
    ("option", "names", "sentence"),
    [
        ("--tasks", ["smoke", "pushed"], "unknown task of plan 'smoke' 'pushed': wanted one of smoke"),
        ("--factors", ["bc_coeff"], "unknown factor of plan 'smoke' 'bc_coeff': did you mean bc_coef"),
        ("--variants", ["base", "bc_coef=0.2"], "unknown variant of plan 'smoke' 'bc_coef=0.2': did you mean bc_coef="),
    ],
)
def test_a_name_beside_right_ones_is_not_ignored(option, names, sentence, tmp_path, capsys):
    with pytest.raises(SystemExit):
        command.main(["study", "--plan", "smoke", option, *names, "--dry-run", "--out", str(tmp_path)])
    assert sentence in " ".join(capsys.readouterr().err.split())


def test_a_seed_given_twice_is_one_run(tmp_path, capsys):
    arguments = ["study", "--plan", "smoke", "--variants", "base", "--dry-run", "--out", str(tmp_path)]
    assert command.main([*arguments, "--seeds", "1", "0", "1"]) == 0
    assert [line.split("--seed ")[1][0] for line in capsys.readouterr().out.splitlines()] == ["1", "0"]


def test_an_interrupted_study_leaves_no_children(tmp_path, monkeypatch):
    args = ["study", "--plan", "smoke", "--variants", "base", "--seeds", "0", "1", "--jobs", "2", "--out", str(tmp_path)]
    jobs_of, kept = study.jobs_of, []

    def sleepers(args):
        kept.extend(jobs_of(args))
        for job in kept:
            job.command = ["/bin/sh", "-c", "sleep 60"]
        return kept

    def interrupt(seconds):
        raise KeyboardInterrupt

    monkeypatch.setattr(study, "jobs_of", sleepers)
    with monkeypatch.context() as patch:
        patch.setattr(study.Job, "stage", lambda self: interrupt(0))
        assert command.main(args) == 130
    assert len(kept) == 2 and all(job.process.poll() is not None for job in kept)


def test_curves_of_different_lengths_share_a_grid():
    def record(steps):
        curve = [dict(timesteps=float(s), success_rate=0.1) for s in steps]
        return collect.Record(dict(eval_freq=100), "unfinished", None, curve, [], [], None)

    steps, values = collect.on_grid([record([0, 101, 200]), record([0, 100])])
    assert steps.tolist() == [0, 100, 200]
    assert np.isnan(values).tolist() == [[False, False, False], [False, False, True]]


def test_locks_and_parts(tmp_path):
    with (
        stages.locked(tmp_path / "lock"),
        pytest.raises(RuntimeError, match="in use"),
        stages.locked(tmp_path / "lock", False),
    ):
        pass
    flat = plans.task_settings("relocate")
    assert settings.part(flat, "policy_kwargs")["n_critics"] == 5
    assert settings.algorithm_kwargs(flat)["policy_kwargs"]["noise_std"] == 0.05
    assert "bc_steps" not in settings.algorithm_kwargs(flat) and "algo" not in settings.algorithm_kwargs(flat)


def test_shaped_reward():
    env = settings.ShapedReward(Reach(), scale=0.5, shift=-1.0, bonus=3.0)
    _, _ = env.reset(seed=0)
    rewards, terminated = [], False
    while not terminated:
        towards = np.clip([2.0 * (env.unwrapped.goal - env.unwrapped.position)], -0.5, 0.5)
        _, reward, terminated, _, _ = env.step(towards)
        rewards.append(reward)
    # Reach pays -1 a step and 0 for the last.
    assert rewards == [-1.0] * (len(rewards) - 1) + [-0.5 + 3.0]
