"""
Speed and memory of OGPO's update against a straightforward implementation and against JAX.

``python -m benchmarks.update`` runs everything; ``python -m benchmarks.update --help`` lists the parts and options.
"""
