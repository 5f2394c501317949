"""Updates recorded as CUDA graphs against the same updates done operation by operation, from the same draws."""

import copy

import numpy as np
import pytest
import torch as th
from ogpo_sb3 import OGPO, OGPOCA, OGPOChi2, OGPOPlus
from ogpo_sb3.common.errors import TrainingDivergedError

from tests.contract.models import ALGORITHMS, PAIRS, RIVALS, build, parameters, rival, tiny, vec
from tests.test_ogpo import filled

N = 9  # updates of each kind: three before the recording, the rest from it
ON_GPU = dict(device="cuda", clip_range=0.05, utd_actor=1.0, learning_rate=1e-3)


def make(algorithm=OGPO, **kwargs):
    """A model with replay on the GPU, no update done."""
    return filled(algorithm, steps=150, chunk_size=2, **{**ON_GPU, **kwargs})


def by_hand(model):
    """Forbid recordings."""
    for gcp in {model.actor.gcp, model.actor_ema.gcp}:
        gcp.on_device = False
    return model


def flat(network):
    """A copy of all parameters, in one vector."""
    return th.cat([p.detach().flatten() for p in network.parameters()])


def updates(model, n=N, batch_size=8):
    """Some updates from fixed draws; everything that they log, and the parameters after them."""
    model.learn(0)  # a logger
    model.set_random_seed(3)
    model._total_timesteps = 1000
    model._metrics.clear()
    for _ in range(n):
        model.train(gradient_steps=1, batch_size=batch_size)
        model.num_timesteps += 1
        model._update_current_progress_remaining(model.num_timesteps, 1000)
    logged = {name: th.stack([v.float().cpu() for v in values]) for name, values in model._metrics.items()}
    return logged, flat(model.policy)


def check_equal(captured, by_operation):
    """Rounding apart: sums over chains are made in no particular order on a GPU, and Adam divides by small numbers."""
    (logged, after), (wanted_log, wanted) = captured, by_operation
    assert logged.keys() == wanted_log.keys()
    for name, values in wanted_log.items():
        scale = float(values.abs().max())
        th.testing.assert_close(
            logged[name], values, rtol=1e-3, atol=1e-4 * max(scale, 1e-2), msg=lambda m, n=name: f"{n}: {m}"
        )
    assert float((after - wanted).norm()) <= 1e-4 * float(wanted.norm())


def recordings(model):
    return [step for step in model._captured.values() if step.graph is not None]


VARIANTS = [
    (OGPO, {}),
    (OGPO, dict(advantage="std", q_agg="subsample")),
    (OGPO, dict(advantage="penultimate", q_agg="min", q_variance_samples=3)),
    (OGPO, dict(kl_coef=0.5)),
    (OGPO, dict(mc_coef=0.5, target_range=(-50.0, 0.0), success_critic=True)),
    (OGPO, dict(baseline="value", critic_warmup_updates=5)),
    (OGPO, dict(forward_kl_coef=0.1)),
    (OGPO, dict(entropy_coef=0.01, policy_kwargs=dict(noise_schedule="learned"))),
    (OGPO, dict(policy_kwargs=dict(sde_correction="learned"))),
    (OGPO, dict(ratio_steps=2)),
    (OGPO, dict(extraction_kwargs=dict(centred=True))),
    (OGPO, dict(precision="bf16")),
    (OGPO, dict(precision="bf16_full")),
    (OGPO, dict(precision="tf32")),
    *((OGPO, dict(extraction=name)) for name in ("aw_ogpo", "awr_fm", "fpo", "fpo++", "bptt", "fql", "best_of_n_sft")),
    (OGPOPlus, {}),
    (OGPOCA, {}),
    (OGPOChi2, {}),
]


@pytest.mark.parametrize(("algorithm", "kwargs"), VARIANTS, ids=lambda value: getattr(value, "__name__", str(value)))
def test_recorded_updates_are_the_updates(algorithm, kwargs):
    captured = make(algorithm, **kwargs)
    by_operation = by_hand(make(algorithm, **kwargs))
    found, wanted = updates(captured), updates(by_operation)
    assert recordings(captured) and not by_operation._captured
    check_equal(found, wanted)


@pytest.mark.parametrize("policy", ["DiffusionPolicy", "ShortcutPolicy", "MIPPolicy"])
def test_every_family(policy):
    sizes = tiny(device="cuda", learning_rate=1e-3, learning_starts=10_000, group_size=4)
    captured, by_operation = (OGPO(policy, vec(chunk_size=2), **sizes).learn(60) for _ in range(2))
    found, wanted = updates(captured), updates(by_hand(by_operation))
    assert recordings(captured) and not by_operation._captured
    check_equal(found, wanted)


@pytest.mark.parametrize("name", RIVALS)
def test_every_rival(name):
    sizes = dict(chunk_size=4, device="cuda", learning_rate=1e-3, learning_starts=10_000)
    captured, by_operation = (rival(name, **sizes).learn(60) for _ in range(2))
    found, wanted = updates(captured), updates(by_hand(by_operation))
    assert recordings(captured) and not by_operation._captured
    check_equal(found, wanted)


def test_rates_and_clip_range_are_followed():
    """What changes from update to update is an input of the recording or a tensor that it reads."""
    schedules = dict(learning_rate=lambda p: 1e-3 * p, critic_learning_rate=lambda p: 1e-2 * p, clip_range=lambda p: 0.1 * p)
    model = make(**schedules)
    updates(model)
    assert recordings(model)
    for network, rate in ((model.actor, 1e-3), (model.critic, 1e-2)):
        before = flat(network)
        model._current_progress_remaining = 0.0
        model.train(gradient_steps=2, batch_size=8)
        after = flat(network)
        weight_decay_apart = 1e-7
        assert float((after - before).abs().max()) <= weight_decay_apart, rate
    assert float(model._metrics["train/clip_range"][-1]) == 0.0
    model._current_progress_remaining = 1.0
    model.train(gradient_steps=2, batch_size=8)
    assert float((flat(model.critic) - after).abs().max()) > 1e-4


def test_nothing_asks_the_host():
    """Between logs an update neither waits for the device nor copies from it."""
    model = make(OGPOPlus)
    updates(model)
    batch, successes = model._sample(8), model._success_batch()
    clip_range = th.full((), 0.1, device="cuda")
    th.cuda.synchronize()
    th.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(3):
            model._run(model._critic_step, batch)
            model._run(model._actor_step, model._sample(8), successes, clip_range)
    finally:
        th.cuda.set_sync_debug_mode("default")
    assert len(recordings(model)) >= 2


def test_a_bad_step_is_left_out_and_told():
    model = make()
    updates(model)
    batch = model._sample(8)
    before = flat(model.critic)
    model._run(model._critic_step, batch._replace(rewards=batch.rewards * float("nan")))
    assert th.equal(flat(model.critic), before)
    model._run(model._critic_step, batch)
    assert not th.equal(flat(model.critic), before)
    with pytest.raises(TrainingDivergedError, match="critic_loss"):
        model._read_metrics()


@pytest.mark.parametrize(("algorithm", "chunk_size"), PAIRS)
def test_saved_between_recorded_updates(algorithm, chunk_size, tmp_path):
    """A model saved after recordings goes on as the live one, whose recordings go on too: on a GPU, and on a CPU."""
    live = build(algorithm, chunk_size=chunk_size, device="cuda", utd_actor=0.5).learn(60)
    assert recordings(live)
    live.save(tmp_path / "model")
    live.save_replay_buffer(tmp_path / "buffer")
    moved = algorithm.load(tmp_path / "model", env=vec(chunk_size=chunk_size), device="cpu")
    assert all(not value.is_cuda for value in moved.policy.state_dict().values())
    moved.learn(24)
    loaded = algorithm.load(tmp_path / "model", env=vec(chunk_size=chunk_size), device="cuda")
    loaded.load_replay_buffer(tmp_path / "buffer")
    assert not loaded._captured
    found, wanted = updates(loaded), updates(live)
    assert recordings(loaded) and recordings(live)
    check_equal(found, wanted)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_parameters_set_under_recordings(algorithm):
    """``set_parameters`` gives the optimisers new tensors: what was recorded with the old ones is recorded anew."""
    model = build(algorithm, device="cuda", learning_rate=1e-3, critic_learning_rate=1e-3).learn(60)
    saved = parameters(model)
    pessimism = copy.deepcopy(model._next_pessimism)  # a state of the algorithm, which SB3's parameters do not have
    first = updates(model)
    model.set_parameters(saved)
    assert not recordings(model)
    if pessimism is not None:
        model._next_pessimism.copy_(pessimism)
    check_equal(updates(model), first)
    assert recordings(model)


def test_tf32_is_in_force_for_updates_alone():
    products = th.backends.cuda.matmul
    before = products.fp32_precision
    model = make(precision="tf32", policy_kwargs=dict(net_arch=[256, 256]))
    exact = make(policy_kwargs=dict(net_arch=[256, 256]))
    obs = np.zeros((1, *model.observation_space.shape), dtype=np.float32)
    np.testing.assert_array_equal(model.predict(obs, deterministic=True)[0], exact.predict(obs, deterministic=True)[0])
    (rounded, _), (wanted, _) = updates(model), updates(exact)
    assert products.fp32_precision == before
    q, q_wanted = rounded["train/q_mean"], wanted["train/q_mean"]
    assert 0.0 < float((q - q_wanted).abs().max()) < 1e-2 * max(float(q_wanted.abs().max()), 1.0)
