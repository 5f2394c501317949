"""The door to RL-Zoo: the algorithms by their ids, and their registration. The only place that imports rl_zoo3."""

from typing import Any

from stable_baselines3.common.base_class import BaseAlgorithm

from ogpo_sb3 import (
    DPPO,
    DSRL,
    EXPO,
    FQL,
    OGPO,
    OGPOCA,
    PARL,
    QC,
    RLPD,
    OGPOChi2,
    OGPOPlus,
    ReinFlow,
    SACfD,
    SteerResidual,
)

ALGORITHMS: dict[str, type[BaseAlgorithm]] = {
    "ogpo": OGPO,
    "ogpo_plus": OGPOPlus,
    "ogpo_ca": OGPOCA,
    "ogpo_chi2": OGPOChi2,
    "dppo": DPPO,
    "reinflow": ReinFlow,
    "qc": QC,
    "expo": EXPO,
    "dsrl": DSRL,
    "fql": FQL,
    "steer_residual": SteerResidual,
    "rlpd": RLPD,
    "sacfd": SACfD,
    "pa_rl": PARL,
}


def register() -> None:
    """
    Make the algorithms and their search spaces known to RL-Zoo in this process; calling it again changes nothing.

    RL-Zoo reads the choices of ``--algo`` from one dictionary when its commands parse their arguments, so that this must
    happen before them.

    :raises ImportError: rl_zoo3 is not installed
    """
    try:
        import rl_zoo3
        from rl_zoo3.hyperparams_opt import HYPERPARAMS_CONVERTER, HYPERPARAMS_SAMPLER
    except ImportError as error:
        raise ImportError('the RL-Zoo commands need rl_zoo3: pip install "ogpo_sb3[zoo]"') from error
    from ogpo_sb3.zoo.samplers import convert_params, sampler_for

    rl_zoo3.ALGOS.update(ALGORITHMS)
    samplers: dict[str, Any] = HYPERPARAMS_SAMPLER
    converters: dict[str, Any] = HYPERPARAMS_CONVERTER
    for name in ALGORITHMS:
        samplers[name], converters[name] = sampler_for(name), convert_params
