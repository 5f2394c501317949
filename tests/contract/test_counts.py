"""Numbers that count something: written as floats they are what they are as integers, and fractions are refused at once."""

import inspect

import pytest

from tests.contract import test_on_policy as on_policy
from tests.contract.models import ALGORITHMS, RIVALS, build, differences, parameters, rival

FIRST = [*(algorithm.__name__ for algorithm in ALGORITHMS), *RIVALS]
EXTRA = dict(critic_warmup_updates=3, utd_actor=0.5)


def made(name, **kwargs):
    if name in RIVALS:
        return rival(name, chunk_size=2, **{**EXTRA, **kwargs})
    if name == "DPPO":
        return on_policy.build(chunk_size=2, **kwargs)
    return build({algorithm.__name__: algorithm for algorithm in ALGORITHMS}[name], chunk_size=2, **{**EXTRA, **kwargs})


@pytest.mark.parametrize("name", [*FIRST, "DPPO"])
def test_a_count_may_be_written_as_a_float(name):
    """As learn(3e6) may: every count of every algorithm, and the same run."""
    plain = made(name).learn(30)
    counted = {count: getattr(plain, count) for count in plain.counts}
    as_floats = {count: float(value) for count, value in counted.items() if value is not None}
    assert "batch_size" in as_floats and set(plain.counts) <= _arguments(type(plain))
    sizes = dict(n_critics=float(plain.policy.n_critics), denoising_steps=2.0)
    model = made(name, **as_floats, policy_kwargs=sizes)
    assert {count: getattr(model, count) for count in model.counts} == counted
    assert all(type(getattr(model, count)) is int for count in as_floats)
    assert not differences(parameters(plain), parameters(model.learn(30.0)))


def _arguments(algorithm):
    return {name for each in algorithm.__mro__ if "__init__" in vars(each) for name in inspect.signature(each).parameters}


@pytest.mark.parametrize("name", ["OGPO", "S/R", "PA-RL", "DSRL", "EXPO", "DPPO"])
def test_a_fraction_counts_nothing(name):
    for count in type(made(name)).counts:
        data = dict(demonstrations="shipped:pusht") if count in ("bc_steps", "critic_pretrain_updates") else {}
        for wrong in (2.5, float("inf")):
            named = (
                rf"{count} must be a whole number, found {wrong}|{count} must be at least \d and finite, found {wrong}|"
                rf"{count}.*{wrong}.* (needs|must divide)"
            )
            with pytest.raises(ValueError, match=named):
                made(name, **{count: wrong}, **data)


def test_sizes_of_networks():
    for size in ("n_critics", "denoising_steps"):
        with pytest.raises(ValueError, match=f"{size} must be a whole number, found 2.5"):
            made("OGPO", policy_kwargs={size: 2.5})


@pytest.mark.parametrize("name", ["utd_critic", "gradient_steps"])
def test_no_critic_updates_and_so_none_of_the_actor(name, recwarn):
    with pytest.warns(UserWarning, match=f"{name}=0 makes no critic updates.*nothing will be trained.*utd_actor=0"):
        model = build(**{name: 0}).learn(30)
    assert model._n_updates == model._n_actor_updates == 0
    recwarn.clear()
    build(**{name: 0}, utd_actor=0.0).learn(30)
    assert not [w for w in recwarn if "nothing will be trained" in str(w.message)]
