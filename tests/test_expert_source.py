"""Demonstrations by the name of a task's expert, and models that no longer need their demonstrations."""

import numpy as np
import pytest

from ogpo_sb3 import OGPO
from ogpo_sb3.demonstrations import load
from ogpo_sb3.demonstrations.experts import collect
from tests.toys import Reach, reach_demonstrations

TINY = dict(policy_kwargs=dict(net_arch=[8], n_critics=2, denoising_steps=2), batch_size=4, device="cpu")


def test_expert_source_collects_the_same_every_time():
    source = "expert:ogpo/AdroitHammer-v0:2"
    first, again, by_hand = load(source), load(source), collect("ogpo/AdroitHammer-v0", 2)
    assert first.source == source and first.n_episodes == 2
    for other in (again, by_hand):
        assert np.array_equal(first.observations, other.observations) and np.array_equal(first.actions, other.actions)


def test_an_expert_may_be_noisy():
    noisy, by_hand = load("expert:ogpo/AdroitHammer-v0:1?noise=0.5"), collect("ogpo/AdroitHammer-v0", 1, noise=0.5)
    assert np.array_equal(noisy.actions, by_hand.actions) and noisy.meta["noise"] == 0.5
    for wrong in ("?noise=much", "?noise=nan", "?seed=1", "?"):
        with pytest.raises(ValueError, match="of an expert its noise can be chosen"):
            load(f"expert:ogpo/AdroitHammer-v0:1{wrong}")


def test_a_task_without_expert_is_refused():
    with pytest.raises(ValueError, match="no expert for 'ogpo/PushT-v0'"):
        load("expert:ogpo/PushT-v0")


def test_a_cloned_model_loads_where_its_demonstrations_are_gone(tmp_path):
    path = reach_demonstrations(3).save(tmp_path / "reach.npz")
    model = OGPO("FlowPolicy", Reach(), demonstrations=str(path), bc_steps=3, **TINY)
    model.save(tmp_path / "due.zip")
    model.pretrain(progress_bar=False)
    model.save(tmp_path / "done.zip")
    more = OGPO.load(tmp_path / "done.zip", env=Reach())
    more.pretrain(5, progress_bar=False)
    assert more._n_bc_updates == 5, "the data are read when they are asked for"
    path.unlink()
    loaded = OGPO.load(tmp_path / "done.zip", env=Reach())
    assert loaded.pretrained and not loaded.pretraining_due
    with pytest.raises(FileNotFoundError, match=r"reach\.npz"):
        OGPO.load(tmp_path / "due.zip", env=Reach())
