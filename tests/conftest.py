"""Settings of all tests."""

import pytest
import torch as th


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    """The networks of the tests are tiny: more threads only wait for each other."""
    before = th.get_num_threads()
    th.set_num_threads(1)
    yield
    th.set_num_threads(before)
