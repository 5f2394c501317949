"""Settings of all tests."""

import pytest
import torch as th

# Recorded updates exist on GPUs alone.
collect_ignore = [] if th.cuda.is_available() else ["cuda"]


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    """The networks of the tests are tiny: more threads only wait for each other."""
    before = th.get_num_threads()
    th.set_num_threads(1)
    yield
    th.set_num_threads(before)


@pytest.fixture(scope="session", autouse=True)
def no_litter(tmp_path_factory):
    """Each call of learn makes a folder for its logs, by default in the system's temporary folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SB3_LOGDIR", str(tmp_path_factory.mktemp("logs")))
        yield
