"""``python -m ogpo_sb3.zoo train --algo ogpo_ca --env ogpo/PushT-v0``; see :mod:`ogpo_sb3.zoo.door`."""

import sys

from ogpo_sb3.zoo.door import main

# Workers of a SubprocVecEnv may import this module again: they must not train.
if __name__ == "__main__":
    sys.exit(main())
