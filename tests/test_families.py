"""Policies of every algorithm around every generative family: names, pickles, who takes which."""

import pickle

import pytest
from ogpo_sb3.common import policies
from ogpo_sb3.common.policies import FAMILIES, GCPPolicy, by_name, for_families
from ogpo_sb3.gcp import FlowGCP
from ogpo_sb3.zoo import ALGORITHMS

NAMES = [family.__name__ for family in FAMILIES]


@pytest.mark.parametrize("name", ALGORITHMS)
def test_every_algorithm_takes_every_family_that_suits(name):
    """By the family's own name; ReinFlow learns a flow's noise, the others leave out at most families without a latent."""
    aliases = ALGORITHMS[name].policy_aliases
    wanted = set(NAMES)
    if name == "reinflow":
        wanted = {"FlowPolicy"}
    elif any(policy.needs_latent for policy in aliases.values()):
        wanted = {family.__name__ for family in FAMILIES if family.gcp_class.has_latent}
    assert set(aliases) == wanted
    for alias, policy in aliases.items():
        assert policy.family() == policy.__name__ == alias and policy.gcp_class is vars(policies)[alias].gcp_class
        assert pickle.loads(pickle.dumps(policy)) is policy, "saved models find their policy again"


class _Blind(FlowGCP):
    has_latent = False


class BlindPolicy(GCPPolicy):
    gcp_class = _Blind


class Sampling(GCPPolicy):
    pass


class Ranking(GCPPolicy):
    needs_latent = True


def test_families_without_a_latent_are_left_out_where_one_is_needed():
    families = (*FAMILIES, BlindPolicy)
    assert list(by_name(for_families(Sampling, __name__, families))) == [*NAMES, "BlindPolicy"]
    made = for_families(Ranking, __name__, families)
    assert list(by_name(made)) == [family.__name__ for family in FAMILIES if family.gcp_class.has_latent]
    assert all(policy.__mro__[1] is Ranking and policy.__module__ == __name__ for policy in made)


def test_the_base_acts_and_the_family_generates():
    class Doubling(GCPPolicy):
        best_of = 2

    (made,) = for_families(Doubling, __name__, (policies.FlowPolicy,))
    assert made.__mro__[:3] == (made, Doubling, policies.FlowPolicy) and made.gcp_class is FlowGCP
