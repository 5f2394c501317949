"""
What a lower precision does to the likelihood ratio and to the gradient, against float64.

    python benchmarks/precision.py [--steps 1000] [--csv FILE] [--critics] [--policies FILE] [--device cuda]

A flow policy of the paper's size (four layers of 512, K = 10) clones 25 expert episodes of Relocate in chunks of 4 (120
numbers); it is the old policy. The current policy lies in the direction of further cloning, at distances for which the
normalised log-ratio has a given spread over chains. Chains are drawn by the old policy in the precision in question, as an
update does; the reference scores the same chains with the same parameters in float64. Then the critics: trained for some
hundred updates on rollouts of the cloned policy, their conservative advantages on its chains. ``--policies`` keeps the cloned
policies in a file and reads them from there the next time, on a machine without the simulator say; the critics are then left
out.
"""

import argparse
import copy
import csv
import pathlib
import tempfile

import numpy as np
import torch as th
from ogpo_sb3 import OGPO, demos
from ogpo_sb3.common.precision import matmul_precision
from ogpo_sb3.extraction import agreement, group_advantage, ppo_clip_loss
from ogpo_sb3.gcp import FlowGCP, owners, row_blocks
from rich.console import Console
from rich.progress import track
from rich.table import Table

ENV = "ogpo/AdroitRelocate-v0"
STATES, GROUP, CLIP = 16, 32, 0.01
NOISES = (("tapered", 0.05), ("constant", 0.01), ("tapered", 0.1))
SPREADS = (0.001, 0.003, 0.01, 0.03)
PRECISIONS = {"cpu": ("fp32", "bf16", "bf16_full"), "cuda": ("fp32", "tf32", "bf16", "bf16_full")}
FIELDS = ("noise", "spread", "precision", "rms_error", "error_to_spread", "bias", "other_clip", "cosine", "gradient_error")


def policies(steps: int) -> tuple[FlowGCP, FlowGCP, th.Tensor, OGPO]:
    """The old policy, one that is cloned further, observation features of the data, and a model with trained critics."""
    with tempfile.TemporaryDirectory() as folder:
        path = str(pathlib.Path(folder) / "demonstrations.npz")
        demos.main(["collect", "--env", ENV, "--episodes", "25", "--seed", "0", "-o", path])
        model = OGPO(
            "FlowPolicy",
            ENV,
            demonstrations=path,
            bc_steps=steps,
            chunk_size=4,
            batch_size=256,
            actor_tau=0.05,
            learning_starts=3000,
            critic_warmup_updates=400,
            utd_critic=0.01,
            utd_actor=0.0,
            policy_kwargs=dict(normalize_observations=True),
            device="cpu",
            seed=0,
        )
        model.pretrain(progress_bar=False)
        old = copy.deepcopy(model.policy.actor_ema.gcp)
        model._bc_done = False
        model.pretrain(steps=steps + 300, progress_bar=False)
        observations = model._demonstration_set.observations
        model.learn(3200)
    rows = np.random.default_rng(0).integers(len(observations), size=STATES)
    features = model.policy.actor_ema.features(th.as_tensor(observations[rows], dtype=th.float32))
    return old, copy.deepcopy(model.policy.actor_ema.gcp), features, model


@th.no_grad()
def critics(model: OGPO) -> str:
    """Advantages of critics in bfloat16 against float64."""
    observations = model.replay_buffer.sample(256).observations
    actions = model.actor_ema.sample_chain(observations, GROUP).actions.unflatten(0, (-1, GROUP))
    features = model.critic_target.features(observations)
    exact = copy.deepcopy(model.critic_target.ensemble).double()(features.double(), actions.double())
    with matmul_precision(model.critic_target, "bf16"):
        rough = model.critic_target(observations, actions).double()
    error = rough - exact
    wanted, found = group_advantage(exact, "conservative"), group_advantage(rough, "conservative")
    return (
        f"critics in bf16: mean Q {exact.mean():.2f}, standard deviation within a group {exact.std(-1).mean():.4f}; error of "
        f"a head's advantage {(error - error.mean(-1, keepdim=True)).std():.4f}; agreement {agreement(exact):.3f} and "
        f"{agreement(rough):.3f}, share of chains that change sides {((wanted != 0) != (found != 0)).double().mean():.4f}; "
        f"correlation of conservative advantages {th.corrcoef(th.stack([wanted.flatten(), found.flatten()]))[0, 1]:.5f}"
    )


def between(old: FlowGCP, new: FlowGCP, share: float) -> FlowGCP:
    """Parameters at a share of the way from old to new."""
    policy = copy.deepcopy(old).requires_grad_(True)
    with th.no_grad():
        for parameter, start, end in zip(policy.parameters(), old.parameters(), new.parameters(), strict=True):
            parameter.copy_(start + share * (end - start))
    return policy


def with_noise(policy: FlowGCP, schedule: str, std: float) -> FlowGCP:
    """The same networks with another noise."""
    made = FlowGCP(policy.features_dim, policy.action_dim, noise_schedule=schedule, noise_std=std)
    made.load_state_dict(policy.state_dict())
    return made.to(next(policy.parameters()).device)


@th.no_grad()
def scores(policy: FlowGCP, features: th.Tensor, states: th.Tensor) -> th.Tensor:
    """Log-likelihoods of all chains."""
    owner = owners(STATES, GROUP, states.device)
    condition, blocks = policy.condition(features), row_blocks(states.shape[1], states, policy.denoising_steps)
    return th.cat([policy.log_prob_of(condition, states[:, rows], owner[rows]) for rows in blocks])


def exactly(policy: FlowGCP, features: th.Tensor, states: th.Tensor) -> th.Tensor:
    """The same in float64."""
    return scores(copy.deepcopy(policy).double(), features.double(), states.double())


def gradient(policy: FlowGCP, features: th.Tensor, states: th.Tensor, old: th.Tensor, advantage: th.Tensor) -> th.Tensor:
    """Of the clipped loss, all parameters in one vector."""
    owner = owners(STATES, GROUP, states.device)
    policy.zero_grad(set_to_none=True)
    for rows in row_blocks(states.shape[1], states, policy.denoising_steps):
        log_prob = policy.log_prob_of(policy.condition(features), states[:, rows], owner[rows])
        ppo_clip_loss(log_prob, old[rows], advantage[rows], CLIP).mul(len(log_prob) / states.shape[1]).backward()
    return th.cat([p.grad.flatten().double() for p in policy.parameters()])


def compare(old: FlowGCP, new: FlowGCP, features: th.Tensor, spread: float, noise: str) -> list[dict[str, object]]:
    """One row per precision, at the distance from the old policy that has the given spread."""
    with th.no_grad():
        th.manual_seed(0)
        states = old.sample_chain(features, GROUP).states
    at_old = scores(old, features, states)
    low, high = 0.0, 4.0
    for _ in range(12):
        middle = 0.5 * (low + high)
        found = (scores(between(old, new, middle), features, states) - at_old).std().item()
        low, high = (middle, high) if found < spread else (low, middle)
    current = between(old, new, 0.5 * (low + high))
    rows = []
    for precision in PRECISIONS[features.device.type]:
        th.manual_seed(0)
        with matmul_precision(old, precision), matmul_precision(current, precision):
            with th.no_grad():
                chain = old.sample_chain(features, GROUP)
            found = scores(current, features, chain.states) - chain.log_prob
            advantage = th.randn(STATES * GROUP, device=features.device)
            own = gradient(current, features, chain.states, chain.log_prob, advantage)
        exact_old = exactly(old, features, chain.states)
        exact = exactly(current, features, chain.states) - exact_old
        double = copy.deepcopy(current).double()
        reference = gradient(double, features.double(), chain.states.double(), exact_old, advantage.double())
        error = found.double() - exact
        rows.append(
            dict(
                noise=noise,
                spread=f"{exact.std().item():.4f}",
                precision=precision,
                rms_error=f"{error.square().mean().sqrt().item():.2e}",
                error_to_spread=f"{(error.std() / exact.std()).item():.4f}",
                bias=f"{error.mean().item():.1e}",
                other_clip=f"{((found.exp() - 1).abs().gt(CLIP) != (exact.exp() - 1).abs().gt(CLIP)).float().mean():.3f}",
                cosine=f"{th.cosine_similarity(own, reference, dim=0).item():.5f}",
                gradient_error=f"{((own - reference).norm() / reference.norm()).item():.4f}",
            )
        )
    return rows


def main() -> None:
    """Print a table; write it as it grows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=1000, help="updates of cloning before the comparison")
    parser.add_argument("--csv", type=pathlib.Path)
    parser.add_argument("--critics", action="store_true", help="only the critics")
    parser.add_argument("--policies", type=pathlib.Path, help="file of cloned policies: read where it exists, else written")
    parser.add_argument("--device", choices=list(PRECISIONS), default="cpu", help="of the comparison")
    args = parser.parse_args()
    model = None
    if args.policies is not None and args.policies.exists():
        cloned, further, features = th.load(args.policies, weights_only=False)
    else:
        cloned, further, features, model = policies(args.steps)
        features = features.detach()
        if args.policies is not None:
            th.save((cloned, further, features), args.policies)
    if args.critics:
        if model is None:
            parser.error("--critics needs the model: give no file that exists already to --policies")
        print(critics(model))
        return
    cloned, further, features = (part.to(args.device) for part in (cloned, further, features))
    table, rows = Table(*FIELDS), []
    for schedule, std in track(NOISES, "noises"):
        old, new = with_noise(cloned, schedule, std), with_noise(further, schedule, std)
        for spread in SPREADS:
            rows += compare(old, new, features, spread, f"{schedule} {std}")
            if args.csv is not None:
                with args.csv.open("w", newline="") as file:
                    writer = csv.DictWriter(file, FIELDS)
                    writer.writeheader()
                    writer.writerows(rows)
    for row in rows:
        table.add_row(*map(str, row.values()))
    Console(width=140).print(table)
    if model is not None:
        print(critics(model))


if __name__ == "__main__":
    main()
