"""The paper's named variants: OGPO with other defaults, nothing else."""

from typing import Any

from ogpo_sb3.ogpo.ogpo import OGPO


class OGPOPlus(OGPO):
    """
    OGPO+ (sections 4.2-4.4): behaviour cloning on successful episodes and best-of-8 rollouts.

    :param args: as :class:`OGPO`
    :param best_of_n: candidates in rollouts
    :param success_bc: clone successful episodes
    :param kwargs: as :class:`OGPO`
    """

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **{"best_of_n": 8, "success_bc": True, **kwargs})


class OGPOCA(OGPOPlus):
    """
    OGPO+CA (section 4.5): OGPO+ that takes only advantages on whose sign all critics agree.

    :param args: as :class:`OGPO`
    :param advantage: strategy
    :param kwargs: as :class:`OGPOPlus`
    """

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **{"advantage": "conservative", **kwargs})


class OGPOChi2(OGPOPlus):
    """
    OGPO+ with a chi-squared penalty towards a slow policy (version 1 of the paper, section 4.6).

    :param args: as :class:`OGPO`
    :param chi2_coef: beta_0
    :param kwargs: as :class:`OGPOPlus`
    """

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **{"chi2_coef": 0.1, **kwargs})
