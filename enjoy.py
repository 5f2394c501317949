"""RL-Zoo's script to watch a trained agent: ``python enjoy.py --algo ogpo_ca --env ogpo/PushT-v0 -f logs``."""

import sys

from ogpo_sb3.zoo.door import main

if __name__ == "__main__":
    sys.exit(main(["enjoy", *sys.argv[1:]]))
