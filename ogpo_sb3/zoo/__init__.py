"""The door to RL-Zoo: registration of the algorithms. The only place of the package that imports rl_zoo3."""

from stable_baselines3.common.base_class import BaseAlgorithm

from ogpo_sb3 import OGPO, OGPOCA, OGPOChi2, OGPOPlus

ALGORITHMS: dict[str, type[BaseAlgorithm]] = {
    "ogpo": OGPO,
    "ogpo_plus": OGPOPlus,
    "ogpo_ca": OGPOCA,
    "ogpo_chi2": OGPOChi2,
}


def register() -> None:
    """
    Make the algorithms known to RL-Zoo in this process; calling it again changes nothing.

    RL-Zoo reads the choices of ``--algo`` from one dictionary when its commands parse their arguments, so that this must
    happen before them.

    :raises ImportError: rl_zoo3 is not installed
    """
    try:
        import rl_zoo3
    except ImportError as error:
        raise ImportError('the RL-Zoo commands need rl_zoo3: pip install "ogpo_sb3[zoo]"') from error
    rl_zoo3.ALGOS.update(ALGORITHMS)
