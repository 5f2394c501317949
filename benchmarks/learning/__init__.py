"""
A study of what matters for learning: which options make a cloned policy better, on which task, with how many seeds.

    python -m benchmarks.learning run --task relocate --variant base --seed 0 --out runs/study
    python -m benchmarks.learning study --plan screen --seeds 0 1 2 --jobs 2 --out runs/study
    python -m benchmarks.learning summary --out runs/study
    python -m benchmarks.learning plans screen

Run from the repository's root. Method and columns: docs/guide/what_matters.md.
"""
