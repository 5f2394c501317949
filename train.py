"""RL-Zoo's training script with the algorithms of ogpo_sb3: ``python train.py --algo ogpo_ca --env ogpo/PushT-v0``."""

import sys

from ogpo_sb3.zoo.door import main

# Workers of a SubprocVecEnv import this file again: they must not train.
if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
