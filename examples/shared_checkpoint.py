"""
One behaviour-cloned policy, fine-tuned by two algorithms: the pattern of every fair comparison.

    python examples/shared_checkpoint.py [--env ogpo/AdroitDoor-v0] [--bc-steps 2000] [--steps 4000]

Needs the extra of the environment: pip install "ogpo_sb3[adroit]".
"""

import argparse

from ogpo_sb3 import OGPO, OGPOCA, evaluate, presets
from ogpo_sb3.demonstrations.experts import collect


def main() -> None:
    """Collect, clone, save; then let each algorithm start from the same file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--env", default="ogpo/AdroitDoor-v0")
    parser.add_argument("--bc-steps", type=int, default=2000)
    parser.add_argument("--steps", type=float, default=4000)
    args = parser.parse_args()

    demonstrations = collect(args.env, episodes=10, seed=0, progress=True)
    settings = presets.quick()
    model = OGPO("FlowPolicy", args.env, demonstrations=demonstrations, bc_steps=args.bc_steps, **settings)
    model.pretrain()
    model.policy.save("bc.zip")
    print(f"behaviour cloning: success {evaluate(model, n_episodes=20).success_rate:.2f}")

    for algorithm in (OGPO, OGPOCA):
        model = algorithm("FlowPolicy", args.env, pretrained_policy="bc.zip", **settings)
        model.learn(args.steps, progress_bar=True)
        print(f"{algorithm.__name__}: success {evaluate(model, n_episodes=20).success_rate:.2f}")


if __name__ == "__main__":
    main()
