"""The paper's Table 1 from runs: criteria x methods, with tuned and with fixed hyperparameters."""

from collections.abc import Mapping, Sequence
from typing import Any

from ogpo_sb3.compare.plan import MODES, Plan
from ogpo_sb3.compare.summary import label

# The paper names the criteria and describes the tasks (section 5.1) but does not list which belong to which: this is the
# reading of those descriptions. Multi-human data: Square, Transport. Sequential or partial data: two of the kitchens.
CRITERIA: dict[str, tuple[str, ...]] = {
    "Mixed data quality": ("ogpo/RobomimicSquare-v0", "ogpo/RobomimicTransport-v0"),
    "High precision tasks": ("ogpo/RobomimicSquare-v0", "ogpo/RobomimicToolHang-v0", "ogpo/RobomimicTransport-v0"),
    "Partial demonstrations": ("ogpo/KitchenMixed-v0", "ogpo/KitchenPartial-v0"),
    "Long horizon": ("ogpo/RobomimicToolHang-v0", "ogpo/RobomimicTransport-v0", "ogpo/KitchenComplete-v0"),
    "Dense/dexterous": tuple(f"ogpo/Adroit{name}-v0" for name in ("Door", "Hammer", "Pen", "Relocate")),
}
EFFICIENCY = "High sample efficiency"
CONVERGED, EFFICIENT = 0.8, 0.9
YES, NO, NOT_RUN = "✓", "✗", "·"


def table(plan: Plan, tasks: Mapping[str, Mapping[str, Any]]) -> list[list[str]]:
    """
    Two marks per cell as in the paper: tuned, then fixed hyperparameters.

    A method converges on a criterion where on each of its tasks in the comparison the interquartile mean of final success is
    at least ``CONVERGED``. It is sample-efficient where on every task its area under the success curve is at least
    ``EFFICIENT`` times the largest area among methods with the same kind of hyperparameters, and above the cloned policy's
    success: none is efficient at making it worse.

    :param plan: of the comparison
    :param tasks: see :func:`ogpo_sb3.compare.summary.summarise`
    :return: rows of criterion, number of tasks and one cell per algorithm
    """
    rows = []
    for criterion, wanted in CRITERIA.items():
        envs = [env for env in plan.envs if env in wanted]
        cells = [" ".join(_converged(tasks, envs, label(algo, mode)) for mode in reversed(MODES)) for algo in plan.algos]
        rows.append([criterion, f"{len(envs)} of {len(wanted)}", *cells])
    cells = [" ".join(_efficient(plan, tasks, algo, mode) for mode in reversed(MODES)) for algo in plan.algos]
    rows.append([EFFICIENCY, str(len(plan.envs)), *cells])
    return rows


def _converged(tasks: Mapping[str, Mapping[str, Any]], envs: Sequence[str], name: str) -> str:
    finals = [_value(tasks, env, name, "final_success") for env in envs]
    if not finals or any(final is None for final in finals):
        return NOT_RUN
    return YES if all(final is not None and final >= CONVERGED for final in finals) else NO


def _efficient(plan: Plan, tasks: Mapping[str, Mapping[str, Any]], algo: str, mode: str) -> str:
    own = {env: _value(tasks, env, label(algo, mode), "area_success") for env in plan.envs}
    if any(area is None for area in own.values()):
        return NOT_RUN
    for env, area in own.items():
        best = max(_value(tasks, env, label(other, mode), "area_success") or 0.0 for other in plan.algos)
        assert area is not None
        if area < EFFICIENT * best or area <= tasks[env][label(algo, mode)]["bc_success"]:
            return NO
    return YES


def _value(tasks: Mapping[str, Mapping[str, Any]], env: str, name: str, key: str) -> float | None:
    found = tasks[env].get(name)
    value: float | None = None if found is None else found[key][0]
    return value
