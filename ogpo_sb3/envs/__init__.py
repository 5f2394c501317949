"""Environments: the benchmark tasks, their registry, and action chunking."""
