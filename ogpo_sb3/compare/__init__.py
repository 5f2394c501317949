"""
A fair contest of algorithms in one command: ``python -m ogpo_sb3.compare --algos ... --envs ... --seeds N --steps ...``.

One behaviour-cloned policy per environment and seed, from which all algorithms start; equal environment steps, networks and
evaluation seeds; runs over the cores or a Ray cluster, resumable; a report with intervals. See docs/guide/comparison.md.
"""
