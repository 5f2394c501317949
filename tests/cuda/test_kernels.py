"""Kernels and batches of a GPU against the same on a CPU."""

import os
import subprocess
import sys

import numpy as np
import pytest
import torch as th
import torch.nn.functional as nnf
from ogpo_sb3.critics import CriticEnsemble
from ogpo_sb3.critics.fused import gpu_kernel
from ogpo_sb3.critics.mip_q import MIPQEnsemble

from tests.test_ogpo import filled


def away_from_identity(network):
    """Scales and shifts that differ between heads and columns."""
    for parameter in network.parameters():
        parameter.data += 0.2 * th.randn_like(parameter)
    return network


@pytest.mark.parametrize("dtype", [th.float32, th.bfloat16], ids=str)
@pytest.mark.parametrize(
    ("heads", "states", "group", "width"), [(1, 1, 1, 8), (3, 5, 4, 48), (2, 7, 1, 300), (10, 16, 32, 512)]
)
def test_normalised_gelu(heads, states, group, width, dtype):
    th.manual_seed(0)
    x = 3.0 * th.randn(heads, states * group, width, device="cuda") + 5.0
    bias = th.randn(heads, states, width, device="cuda")
    scale, shift = th.randn(2, heads, 1, width, device="cuda")
    x = x.to(dtype)
    sums = x.double() + bias.double().repeat_interleave(group, dim=1)
    wanted = nnf.gelu(nnf.layer_norm(sums, (width,)) * scale + shift)
    kernel = gpu_kernel()
    assert kernel is not None
    given = kernel(x, bias, scale, shift)
    assert given.data_ptr() == x.data_ptr() and given.dtype == dtype
    tolerance = 1e-5 if dtype == th.float32 else 2e-2
    th.testing.assert_close(given.double(), wanted, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("kind", [CriticEnsemble, MIPQEnsemble])
def test_values_with_and_without_the_kernel(kind):
    th.manual_seed(0)
    critics = away_from_identity(kind(5, 6, 4, [32, 48, 32])).cuda()
    features, actions = th.randn(9, 5, device="cuda"), th.rand(9, 7, 6, device="cuda") * 2 - 1
    for given in (actions, actions[:, 0]):
        by_operation = critics(features, given)
        assert by_operation.requires_grad  # which is done operation by operation
        with th.no_grad():
            th.testing.assert_close(critics(features, given), by_operation, rtol=1e-4, atol=1e-5)


def test_a_machine_without_a_compiler(tmp_path):
    """Triton compiles its launchers with the system's C compiler: without one, critics work all the same."""
    code = (
        "import torch as th\n"
        "from ogpo_sb3.critics import CriticEnsemble\n"
        "critics = CriticEnsemble(3, 2, 2, [8, 8]).cuda()\n"
        "inputs = th.ones(4, 3, device='cuda'), th.ones(4, 2, device='cuda')\n"
        "with th.no_grad():\n"
        "    values = critics(*inputs)\n"
        "th.testing.assert_close(values, critics(*inputs).detach())\n"
    )
    environment = {**os.environ, "CC": "/bin/false", "TRITON_CACHE_DIR": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "Triton cannot compile" in done.stderr


def test_batches_are_those_of_a_cpu():
    replay = filled(steps=90, chunk_size=3).replay_buffer
    batches = []
    for device in ("cuda", "cpu"):
        replay.device = th.device(device)
        np.random.seed(3)
        batches.append(replay.sample(16, aligned=True))
    for name, on_gpu, on_cpu in zip(batches[0]._fields, *batches, strict=True):
        if on_cpu is None:
            assert on_gpu is None, name
        else:
            assert on_gpu.is_cuda, name
            th.testing.assert_close(on_gpu.cpu(), on_cpu, rtol=0, atol=0, msg=name)
