"""OGPO with a part taken out: what the study compares with, and no algorithms of the package."""

from typing import Any

import torch as th
from ogpo_sb3 import OGPOCA
from ogpo_sb3.common.off_policy import GCPOffPolicyAlgorithm


class NoPolicyGradient(OGPOCA):
    """Cloning of the policy's own successes; the critics have no say but in the choice among best-of-N candidates."""

    def _advantage(self, q: th.Tensor, *args: Any) -> tuple[th.Tensor, dict[str, th.Tensor]]:
        return th.zeros_like(q[0]), {}  # chains without advantage are not even scored


ABLATIONS: tuple[type[GCPOffPolicyAlgorithm], ...] = (NoPolicyGradient,)
