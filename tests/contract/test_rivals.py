"""The core of the contract for every algorithm beside OGPO: run, save, load, predict, seeds, resume, counting, checkpoints."""

import copy

import numpy as np
import pytest
import torch as th
from stable_baselines3.common.logger import configure
from stable_baselines3.common.noise import NormalActionNoise

from ogpo_sb3 import OGPO, RLPD, evaluate, steer_residual
from ogpo_sb3.common.errors import TrainingDivergedError
from ogpo_sb3.common.policies import FlowPolicy
from tests.contract.models import (
    OBSERVATION_SPACES,
    RIVALS,
    FromSpaces,
    Line,
    Ticker,
    bare,
    build,
    check_stream,
    differences,
    parameters,
    policy_state,
    rival,
    state,
    tiny,
    vec,
)
from tests.toys import Reach, reach_demonstrations

PLAIN = ["QC", "EXPO", "DSRL", "FQL", "S/R", "RLPD", "PA-RL"]


def observations(model, n):
    space = bare(model)[0].observation_space
    space.seed(0)
    drawn = [space.sample() for _ in range(n)]
    return {key: np.stack([obs[key] for obs in drawn]) for key in drawn[0]} if isinstance(drawn[0], dict) else np.stack(drawn)


@pytest.mark.parametrize("policy", ["DiffusionPolicy", "ShortcutPolicy", "MIPPolicy"])
@pytest.mark.parametrize("name", PLAIN)
def test_other_families_serve_too(name, policy, tmp_path):
    """The same algorithm around another family, from its own BC checkpoint and from no other's."""
    model = rival(name, policy=policy, chunk_size=2).learn(16)
    assert model._n_updates > 0 and model.policy.family() == policy
    model.policy.save(tmp_path / "other.zip")
    again = rival(name, policy=policy, chunk_size=2, pretrained_policy=tmp_path / "other.zip")
    obs = np.ones(3, np.float32)
    assert np.isfinite(again.predict(obs, deterministic=True)[0]).all()
    with pytest.raises(ValueError, match=f"holds a {policy}, wanted a FlowPolicy"):
        rival(name, chunk_size=2, pretrained_policy=tmp_path / "other.zip", policy_kwargs=dict(time_scale=1000.0))


@pytest.mark.parametrize("name", RIVALS)
def test_save_load_and_go_on(name, tmp_path):
    """L1, L3, L4, L5, L8: the zip holds all that is trained; updates from it equal those of the live model."""
    algorithm, _ = RIVALS[name]
    live = rival(name, chunk_size=4, policy_kwargs=dict(normalize_observations=True)).learn(36)
    live.replay_buffer.cut()  # as loading does
    assert live._n_updates > 0 and "train/critic_loss" in live.logger.name_to_value
    live.save(tmp_path / "model")
    live.save_replay_buffer(tmp_path / "buffer")
    loaded = algorithm.load(tmp_path / "model", env=vec(chunk_size=4), device="cpu")
    loaded.load_replay_buffer(tmp_path / "buffer")
    assert list(live.get_parameters()) == live._get_torch_save_params()[0]
    assert not differences(parameters(live), parameters(loaded))
    before = parameters(live)
    for model in (live, loaded):
        model.set_random_seed(5)
        model.train(gradient_steps=3, batch_size=8)
    assert not differences(parameters(live), parameters(loaded))
    changed = differences(before, parameters(live))
    for network in {*live.policy.actor_names, *live.policy.critic_names} - {"actor"}:
        assert any(path.startswith(f".policy.{network}.") for path in changed), network
    data = copy.copy(live.__dict__)
    for excluded in live._excluded_save_params():
        data.pop(excluded, None)
    held = (th.nn.Module, th.optim.Optimizer)
    assert not [key for key, value in data.items() if isinstance(value, held)]
    alone = algorithm.load(tmp_path / "model", device="cpu")
    assert alone.predict(np.ones(3, np.float32), deterministic=True)[0].shape == (8,)


@pytest.mark.parametrize("name", [*PLAIN, "DSRL aliased"])
def test_a_continued_run_is_the_run(name, tmp_path):
    """Design 5.9, with two environments, action noise and chunks."""
    algorithm, _ = RIVALS[name]
    noise = NormalActionNoise(np.zeros(8), 0.1 * np.ones(8))
    live = rival(name, chunk_size=4, n_envs=2, action_noise=noise, utd_actor=0.5).learn(24)
    live.save_checkpoint(tmp_path / "run")
    live.restart_env()
    live.learn(20, reset_num_timesteps=False)
    np.random.seed(99)
    loaded = algorithm.load_checkpoint(tmp_path / "run", vec(Line, 4, 2), device="cpu")
    loaded.learn(20, reset_num_timesteps=False)
    assert not differences(state(live), state(loaded)) and loaded._n_updates > 0


@pytest.mark.parametrize("name", [*PLAIN, "FQL+"])
def test_predict(name, tmp_path):
    """P1-P3, P5: repeats, lies in the space, single as batched, changes nothing, the same from a policy saved alone."""
    model = rival(name, chunk_size=2).learn(16)
    batch = observations(model, 5)
    before = policy_state(model)
    first, hidden = model.predict(batch, deterministic=True)
    drawn = [model.predict(batch)[0] for _ in range(2)]
    th.manual_seed(123)
    assert first.tobytes() == model.predict(batch, deterministic=True)[0].tobytes() and hidden is None
    assert not np.array_equal(*drawn)
    for actions in (first, *drawn):
        assert actions.shape == (5, 4) and all(model.action_space.contains(action) for action in actions)
    for i in range(5):
        single, _ = model.predict(batch[i], deterministic=True)
        np.testing.assert_allclose(single, first[i], rtol=1e-4, atol=1e-6)
    assert not differences(before, policy_state(model))
    model.policy.save(tmp_path / "policy")
    alone = type(model.policy)(**th.load(tmp_path / "policy", weights_only=False)["data"])
    alone.load_state_dict(th.load(tmp_path / "policy", weights_only=False)["state_dict"])
    np.testing.assert_array_equal(alone.predict(batch, deterministic=True)[0], first)


@pytest.mark.parametrize("name", PLAIN)
def test_observations_of_every_kind_and_seeds(name):
    """C6, S1: a Dict with an image; equal seeds are equal runs, another seed is another run."""
    runs = []
    for seed in (0, 0, 1):
        env = FromSpaces(OBSERVATION_SPACES["dict"])
        model = rival(name, env=env, chunk_size=None, learning_starts=4, seed=seed).learn(9)
        runs.append(parameters(model))
    assert not differences(runs[0], runs[1]) and differences(runs[0], runs[2])


@pytest.mark.parametrize("name", [*PLAIN, "S/R+", "DSRL+", "SACfD"])
@pytest.mark.parametrize("chunk_size", [1, 4])
def test_updates_are_counted_in_environment_steps(name, chunk_size):
    """T4: in the official code one batch per chunk is shared out over the updates. Here each owed update has its own."""
    model = rival(name, env=lambda: Ticker(lengths=(8,)), chunk_size=chunk_size, critic_warmup_updates=0)
    seen, kept = [], []
    original = model._run

    def run(step, *inputs):
        batches = [batch for batch in inputs if hasattr(batch, "rewards")]
        kept.extend(batches)  # an id is unique only among what lives
        seen.append((step.__name__, *map(id, batches)))
        original(step, *inputs)

    model._run = run
    model.learn(24)
    # Those of the first rollout beyond learning_starts are owed whole.
    assert model._n_updates == model._n_actor_updates == (14 if chunk_size == 1 else 16)
    critic = [entry for entry in seen if entry[0] == "_critic_step"]
    assert len(critic) == model._n_updates and len(set(seen)) == len(seen)
    check_stream(model)


@pytest.mark.parametrize("name", PLAIN)
def test_a_checkpoint_of_plain_cloning_starts_it(name, tmp_path):
    """One BC checkpoint for all: its actor is taken over bit for bit and explores until learning_starts."""
    clone = build(OGPO, env=Ticker, policy_kwargs=dict(normalize_observations=True))
    with th.no_grad():
        for parameter in clone.actor_ema.gcp.parameters():
            parameter.zero_()
        *_, last = (module for module in clone.actor_ema.gcp.modules() if isinstance(module, th.nn.Linear))
        last.bias.fill_(50.0)  # always at the upper bound
    clone.policy.fit_normalizer(np.random.default_rng(0).normal(3.0, 2.0, (50, 4)))
    clone.policy.save(tmp_path / "clone.zip")
    model = rival(name, env=Ticker, pretrained_policy=tmp_path / "clone.zip")
    found = model.policy.actor_ema.state_dict()
    assert not differences(dict(found), dict(clone.policy.actor_ema.state_dict()))
    for part in model.policy.modules():
        if hasattr(part, "mean_0"):
            assert th.equal(part.mean_0, clone.policy.actor_ema.normalizer.mean_0)
    model.learn(9)
    assert all((action == 4.0).all() for env in bare(model) for action in env.actions)
    assert len(bare(model)[0].actions) == 9
    model.learn(6, reset_num_timesteps=False)
    # And back: whatever an algorithm adds, its own file starts OGPO.
    model.policy.save(tmp_path / "rival.zip")
    back = OGPO("FlowPolicy", Ticker(), **tiny(pretrained_policy=tmp_path / "rival.zip"))
    assert th.equal(back.actor_ema.latent, model.policy.actor_ema.latent)


@pytest.mark.parametrize("name", PLAIN)
def test_cloning_is_judged_by_the_clone(name):
    """clip_bc looks at the generative policy, not at untrained parts beside it."""
    kwargs = dict(policy_kwargs=dict(net_arch=[32, 32], denoising_steps=4), batch_size=64, bc_learning_rate=2e-3)
    model = rival(name, env=Reach(), demonstrations=reach_demonstrations(), bc_steps=300, clip_bc=0.7, chunk_size=2, **kwargs)
    model.pretrain(progress_bar=False, eval_freq=150, n_eval_episodes=20)
    successes = [entry["success"] for entry in model.bc_history if "success" in entry]
    assert max(successes) >= 0.7
    assert evaluate(model, Reach, n_episodes=20, sampler="base").success_rate == successes[-1]


@pytest.mark.parametrize("name", ["QC+", "EXPO+", "DSRL+", "DSRL aliased", "FQL+", "S/R+", "RLPD", "PA-RL"])
def test_what_is_logged_is_finite_and_named(name, tmp_path):
    """K4, and each rate in the optimisers of its own networks."""
    model = rival(name, learning_rate=1e-4, critic_learning_rate=2e-3, chunk_size=2)
    model.set_logger(configure(str(tmp_path), ["csv"]))
    model.learn(40, log_interval=2)
    logged = {key: value for key, value in model.logger.name_to_value.items()}
    assert all(np.isfinite(value) for value in logged.values())
    assert {key.split("/")[0] for key in logged} <= {"rollout", "time", "train"}
    for names, rate in ((model.policy.actor_names, 1e-4), (model.policy.critic_names, 2e-3)):
        assert {getattr(model.policy, n).optimizer.param_groups[0]["lr"] for n in names} == {rate}


@pytest.mark.parametrize("name", PLAIN)
def test_refusals(name):
    """C1, C8: a policy without the algorithm's networks, unknown names, a policy for vectors alone."""
    algorithm, _ = RIVALS[name]
    with pytest.raises(ValueError, match=rf"{algorithm.__name__} needs a policy derived from \w+, found FlowPolicy"):
        rival(name, policy=FlowPolicy)
    by_class, by_alias = rival(name, policy=algorithm.policy_aliases["FlowPolicy"]), rival(name)
    assert not differences(policy_state(by_class), policy_state(by_alias))
    with pytest.raises(TypeError, match="no_such_argument"):
        rival(name, no_such_argument=1)
    with pytest.raises(TypeError, match="no_such_argument"):
        rival(name, policy_kwargs=dict(no_such_argument=1))
    with pytest.raises(ValueError, match="MlpPolicy"):
        rival(name, policy="MlpPolicy")


@pytest.mark.parametrize("name", ["OGPO", "QC", "EXPO", "DSRL", "FQL", "S/R", "PA-RL"])
def test_what_the_policy_acts_by_is_changed_on_the_model(name):
    """``model.best_of_n = 32`` and its like are not for the constructor alone."""
    model = OGPO("FlowPolicy", Line(), **tiny()) if name == "OGPO" else rival(name)
    for setting in type(model).policy_settings:
        now = getattr(model, setting)
        wanted = {"sde": "ode"}[now] if isinstance(now, str) else now + 1
        setattr(model, setting, wanted)
        assert getattr(model.policy, setting) == wanted
    assert type(model).policy_settings


@pytest.mark.parametrize("name", ["QC", "EXPO", "DSRL", "FQL", "S/R", "RLPD", "PA-RL"])
def test_nothing_trains_on_nan(name):
    """A target that is not finite stops the run and changes no parameter."""
    model = rival(name, chunk_size=2).learn(30)
    for network in (model.critic, model.critic_target):
        with th.no_grad():
            network.ensemble.net[-1].bias.fill_(float("nan"))
    before = policy_state(model)
    with pytest.raises(TrainingDivergedError, match="critic"):
        model._update_critic(8)
    if name not in ("QC", "PA-RL"):  # whose actors clone actions, chosen by whatever critics
        with pytest.raises(TrainingDivergedError):
            model._update_actor()
    assert not differences(before, policy_state(model))


@pytest.mark.parametrize(
    ("name", "kwargs", "named"),
    [
        ("QC", dict(best_of_n=0), "best_of_n"),
        ("EXPO", dict(edit_scale=0.0), "edit_scale"),
        ("EXPO", dict(edit_scale=2.5), "edit_scale"),
        ("DSRL", dict(action_magnitude=0.0), "action_magnitude"),
        ("DSRL", dict(chunk_reward="mean"), "chunk_reward"),
        ("DSRL", dict(chunk_reward="max", noise_aliasing=True), "choose one"),
        ("DSRL", dict(offline_ratio=0.5), "noise_aliasing=True"),
        ("S/R", dict(bc_offline_ratio=0.5), "they have none"),
        ("DSRL", dict(target_range=(1.0, 1.0)), "target_range"),
        ("DSRL", dict(policy_kwargs=dict(noise_aliasing=True)), "found in policy_kwargs"),
        ("DSRL", dict(policy_kwargs=dict(best_of_n=4)), "best_of_n=4 ranks candidates .* noise actor"),
        ("EXPO", dict(policy_kwargs=dict(edit_scale=0.1)), "edit_scale.* found in policy_kwargs"),
        ("RLPD", dict(initial_temperature=0.0), "initial_temperature"),
        ("FQL", dict(alpha=-1.0), "alpha"),
        ("S/R", dict(n_edits=0), "n_edits"),
        ("RLPD", dict(q_agg="subsample", policy_kwargs=dict(n_critics=1)), "n_critics >= 2"),
        ("PA-RL", dict(ascent_rate=-1.0), "ascent_rate"),
        ("QC", dict(calql_coef=5.0), "critic_pretrain_updates"),
        ("QC", dict(critic_pretrain_updates=5), "demonstrations"),
        ("QC", dict(gamma="0.9"), "gamma must be a number, found '0.9'"),
        ("QC", dict(tau=None), "tau must be a number, found None"),
        ("QC", dict(best_of_n=True), "best_of_n must be a whole number, found True"),
        ("QC", dict(learning_starts=[5]), "learning_starts must be a .*number, found .5."),
        ("QC", dict(max_grad_norm="1"), "max_grad_norm must be a number"),
        ("QC", dict(action_noise=0.1), "action_noise must be an ActionNoise of Stable-Baselines3, found 0.1"),
        ("QC", dict(policy_kwargs=dict(activation_fn="relu")), "activation_fn must be a class of torch.nn.* found 'relu'"),
        ("QC", dict(policy_kwargs=dict(activation_fn=th.relu)), "activation_fn must be a class of torch.nn"),
        (
            "QC",
            dict(policy_kwargs=dict(optimizer_class="Adam")),
            "optimizer_class must be a class of torch.optim.* found 'Adam'",
        ),
        ("DSRL", dict(bc_coef=2.0), "bc_coef=2.0 weighs cloning, and DSRL .* has latent_bc_coef"),
        ("S/R", dict(bc_coef=2.0), "SteerResidual .* has latent_bc_coef and edit_bc_coef"),
        ("DSRL", dict(policy=steer_residual.FlowPolicy), "DSRL wants .* acts by 'edit_actor' and 'edit_temperature' too"),
        ("RLPD", dict(policy_kwargs=dict(best_of_n=8)), "best_of_n=8 ranks candidates .* Gaussian makes the action"),
        *((name, dict(policy_kwargs=dict(subsample_bon=False)), "subsample_bon") for name in ("QC", "DSRL", "RLPD", "PA-RL")),
    ],
)
def test_bad_options_are_named(name, kwargs, named):
    with pytest.raises(ValueError, match=named):
        rival(name, **kwargs)


@pytest.mark.parametrize(
    ("name", "replaced", "named"),
    [
        ("QC", dict(best_of_n=0), "best_of_n must be at least 1, found 0"),
        ("QC", dict(best_of=4), "unknown attribute of QC 'best_of': did you mean best_of_n"),
        ("DSRL", dict(group_size=4), "unknown attribute of DSRL 'group_size'"),
        ("EXPO", dict(best_of_n=0), "best_of_n must be at least 1, found 0"),
        ("EXPO", dict(edit_scale=-1.0), r"edit_scale must lie in \(0, 2\], found -1.0"),
        ("EXPO", dict(edit_bc_coef=-1.0), "edit_bc_coef must be at least 0"),
        ("DSRL", dict(chunk_reward="median"), "chunk_reward must be one of"),
        ("DSRL", dict(action_magnitude=float("inf")), "action_magnitude must be positive and finite"),
        ("DSRL", dict(offline_ratio=0.5), "'offline_ratio': 0.5} needs noise_aliasing=True"),
        ("DSRL", dict(success_bc=True, bc_offline_ratio=0.5), "success_bc of DSRL latents: they have none"),
        ("DSRL", dict(noise_aliasing=True), "noise_aliasing=True wants other networks than the saved model has"),
        ("DSRL", dict(bc_coef=2.0), "bc_coef=2.0"),
        ("FQL", dict(alpha=-1.0), "alpha must be at least 0, found -1.0"),
        ("S/R", dict(n_edits=0), "n_edits must be at least 1, found 0"),
        ("DSRL", dict(initial_temperature=0.01), "initial_temperature=0.01 would have no effect: .* its own temperature"),
        ("RLPD", dict(initial_temperature=-1.0), "initial_temperature must be positive, found -1.0"),
        ("PA-RL", dict(ascent_rate=-1.0), "ascent_rate must be positive, found -1.0"),
        ("PA-RL", dict(keep=0), "keep must be at least 1, found 0"),
    ],
)
def test_what_load_replaces_is_checked(name, replaced, named, tmp_path):
    rival(name).save(tmp_path / "model")
    with pytest.raises(ValueError, match=named):
        RIVALS[name][0].load(tmp_path / "model", device="cpu", **replaced)


def test_no_environment_and_no_model():
    """C3, and demonstrations decide RLPD's batches."""
    for algorithm, _ in RIVALS.values():
        model = algorithm(policy="FlowPolicy", env=None, device="cpu", _init_setup_model=False)
        assert model.env is None and not hasattr(model, "policy")
    model = RLPD("FlowPolicy", Reach(), demonstrations=reach_demonstrations(3), device="cpu")
    assert model.offline_ratio == 0.5 and model.demonstration_buffer is not None
