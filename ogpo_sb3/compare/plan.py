"""What a comparison consists of: written down and checked before anything runs."""

import dataclasses
import json
import pathlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ogpo_sb3.common.files import check_out, read_json, write_json
from ogpo_sb3.common.names import check_known
from ogpo_sb3.common.options import whole
from ogpo_sb3.compare import defaults
from ogpo_sb3.compare.checks import check_cloning, check_device, check_source
from ogpo_sb3.compare.settings import (
    CLONING,
    NOT_NETWORKS,
    cloning_settings,
    digest,
    encode,
    env_arguments,
    environment_spec,
    names_of,
    part,
)
from ogpo_sb3.envs.registry import task_of
from ogpo_sb3.zoo import ALGORITHMS

MODES = ("fixed", "tuned")
# Arguments of a run beside those of its algorithm.
_HARNESS = {"n_envs"}


@dataclass(frozen=True)
class Run:
    """
    One cell of the plan.

    :param env: id
    :param algo: zoo id
    :param seed: of the run
    :param mode: "fixed": the settings that hold for every task; "tuned": those of ``--tuned`` on top; else the name of one of
        ``--variants``, those of it on top
    """

    env: str
    algo: str
    seed: int
    mode: str = "fixed"

    @property
    def name(self) -> str:
        """Its folder below the comparison's."""
        return f"runs/{slug(self.env)}/{self.algo}{'' if self.mode == 'fixed' else '-' + self.mode}/seed{self.seed}"


@dataclass(frozen=True)
class Plan:
    """
    A comparison. Holds everything that a run depends on and nothing that it does not (cores, engine, folder).

    :param algos: zoo ids
    :param envs: ids
    :param seeds: of the runs
    :param steps: environment steps of every run
    :param preset: quick, laptop or paper
    :param policy: alias, for all
    :param device: for all
    :param eval_freq: environment steps between evaluations, and between checkpoints
    :param eval_episodes: of the evaluations on a curve
    :param final_episodes: of the evaluations before and after
    :param demonstrations: by environment, source; None for the task's own
    :param cloning: by environment, flat settings of the shared policy
    :param settings: by environment, algorithm and mode, flat settings
    :param variant_cloning: by environment and "algorithm-variant", flat settings of policies that are cloned otherwise
    """

    algos: list[str]
    envs: list[str]
    seeds: list[int]
    steps: int
    preset: str
    policy: str
    device: str
    eval_freq: int
    eval_episodes: int
    final_episodes: int
    demonstrations: dict[str, str | None]
    cloning: dict[str, dict[str, Any]]
    settings: dict[str, dict[str, dict[str, dict[str, Any]]]]
    variant_cloning: dict[str, dict[str, dict[str, Any]]] = field(default_factory=dict)

    def runs(self) -> list[Run]:
        """Every cell; the algorithms of a task and seed side by side, so that unfinished comparisons are fair too."""
        cells = [(env, seed) for seed in self.seeds for env in self.envs]
        return [Run(env, algo, seed, mode) for env, seed in cells for algo in self.algos for mode in self.settings[env][algo]]

    def cloning_of(self, run: Run) -> dict[str, Any]:
        """
        Flat settings of the policy that a run starts from.

        :param run: cell
        """
        return self.variant_cloning.get(run.env, {}).get(f"{run.algo}-{run.mode}", self.cloning[run.env])

    def cloned(self, run: Run) -> str:
        """
        Folder of the policy that a run starts from, below the comparison's: one for all runs that clone alike.

        :param run: cell
        """
        own = self.cloning_of(run)
        other = "" if own == self.cloning[run.env] else f"-{digest(own)}"
        return f"cloned/{slug(run.env)}{other}/seed{run.seed}"

    def write(self, folder: pathlib.Path) -> None:
        """
        Claim a folder, or find that it is this plan's already.

        :param folder: of the comparison
        :raises ValueError: it holds another plan
        """
        self.check_folder(folder)
        write_json(folder / "plan.json", dataclasses.asdict(self))

    def check_folder(self, folder: pathlib.Path) -> None:
        """
        :param folder: of the comparison
        :raises ValueError: it holds another plan, or is none
        """
        check_out(folder)
        path, wanted = folder / "plan.json", json.loads(json.dumps(dataclasses.asdict(self)))
        if path.exists():
            found = read_saved(path)
            changed = [key for key in wanted if found.get(key) != wanted[key]]
            if changed:
                told = ", ".join(f"{key}={_short(found.get(key))}, wanted {_short(wanted[key])}" for key in changed)
                raise ValueError(f"{folder} holds another plan with {told}: choose another --out or the plan's own arguments")


def read(folder: pathlib.Path) -> Plan:
    """
    :param folder: of a comparison
    :raises ValueError: it holds none
    """
    path = folder / "plan.json"
    if not path.exists():
        raise ValueError(f"--out must be the folder of a comparison, found no file {path}")
    return Plan(**read_saved(path))


def read_saved(path: pathlib.Path) -> dict[str, Any]:
    """
    :param path: plan.json
    :raises ValueError: it holds something else than a plan
    """
    found = read_json(path)
    wanted = {f.name for f in dataclasses.fields(Plan) if f.default_factory is dataclasses.MISSING}
    if not isinstance(found, dict) or wanted - set(found):
        raise ValueError(f"{path} should hold a plan, found something else: choose another --out or remove the folder")
    return found


def slug(env_id: str) -> str:
    """
    :param env_id: id
    :return: a folder's name
    """
    return env_id.replace("/", "_").replace(":", "_")


def build(
    algos: list[str],
    envs: list[str],
    seeds: int,
    steps: float,
    preset: str = "laptop",
    overrides: Mapping[str, Any] | None = None,
    tuned: Mapping[str, Mapping[str, Mapping[str, Any]]] | None = None,
    demonstrations: Mapping[str, str] | None = None,
    policy: str = "FlowPolicy",
    device: str = "cpu",
    eval_freq: int | None = None,
    eval_episodes: int = 50,
    final_episodes: int = 100,
    first_seed: int = 0,
    variants: Mapping[str, Mapping[str, Mapping[str, Any]]] | None = None,
) -> Plan:
    """
    Resolve every setting of every run and refuse what is inconsistent.

    :param algos: zoo ids
    :param envs: ids
    :param seeds: number of seeds
    :param steps: environment steps of every run
    :param preset: quick, laptop or paper
    :param overrides: settings by dotted name, for all algorithms or, after the id of one and a dot, for that one
    :param tuned: by algorithm and environment, flat settings of the tuned runs
    :param demonstrations: by environment, source
    :param policy: alias
    :param device: of every run
    :param eval_freq: a tenth of ``steps`` by default
    :param eval_episodes: of the evaluations on a curve
    :param final_episodes: of the evaluations before and after
    :param first_seed: seeds are counted from here
    :param variants: by algorithm and name, flat settings of runs beside the fixed ones; another policy and another cloning
        are allowed, with a policy cloned for them
    :raises ValueError: the first inconsistency found, in one sentence
    """
    overrides, tuned, demonstrations, variants = overrides or {}, tuned or {}, demonstrations or {}, variants or {}
    _check_names(algos, envs)
    steps = int(whole("--steps", steps))
    check_device(device)
    eval_freq = max(steps // 10, 1) if eval_freq is None else eval_freq
    numbers = dict(seeds=seeds, steps=steps, eval_freq=eval_freq, eval_episodes=eval_episodes, final_episodes=final_episodes)
    least = {**dict.fromkeys(numbers, 1), "first_seed": 0}
    for name, value in {**numbers, "first_seed": first_seed}.items():
        if value < least[name]:
            raise ValueError(f"--{name.replace('_', '-')} must be at least {least[name]}, found {value}")
    if eval_freq > steps:
        raise ValueError(f"--eval-freq={eval_freq} must not exceed --steps={steps}: there would be no curve")
    if eval_episodes > final_episodes:
        raise ValueError(f"--eval-episodes={eval_episodes} must not exceed --final-episodes={final_episodes}")
    for name in demonstrations:
        check_known("environment of --demonstrations", name, envs)
    for algo, by_env in tuned.items():
        check_known("algorithm of --tuned", algo, algos)
        for name in by_env:
            check_known("environment of --tuned", name, envs)
    _check_variants(variants, algos)
    common = {name: value for name, value in overrides.items() if name.partition(".")[0] not in algos}
    settings: dict[str, dict[str, dict[str, dict[str, Any]]]] = {}
    cloning: dict[str, dict[str, Any]] = {}
    variant_cloning: dict[str, dict[str, dict[str, Any]]] = {}
    for env in envs:
        shared = {**defaults.shared(preset, env), "policy": policy}
        _check_common(common, algos, policy, env)
        shared.update(common)
        cloning[env] = {name: encode(value) for name, value in cloning_settings(shared).items()}
        settings[env] = {}
        for algo in algos:
            mine, own = part(overrides, algo), {**defaults.own(preset, algo, env), **common}
            modes = {"fixed": _resolve(algo, env, shared, own, mine)}
            if env in tuned.get(algo, {}):
                modes["tuned"] = _resolve(algo, env, shared, own, {**mine, **tuned[algo][env]})
            settings[env][algo] = modes
        _check_equal(env, settings[env], policy)
        for algo, by_name in variants.items():
            mine, own = part(overrides, algo), {**defaults.own(preset, algo, env), **common}
            for name, changes in by_name.items():
                resolved, cloned = _variant(algo, env, shared, own, mine, changes)
                settings[env][algo][name] = resolved
                if cloned != cloning[env]:
                    variant_cloning.setdefault(env, {})[f"{algo}-{name}"] = cloned
        _check_updates(env, settings[env], steps)
        for cloned in (cloning[env], *variant_cloning.get(env, {}).values()):
            check_cloning(env, cloned)
    return Plan(
        list(algos),
        list(envs),
        list(range(first_seed, first_seed + seeds)),
        steps,
        preset,
        policy,
        device,
        eval_freq,
        eval_episodes,
        final_episodes,
        {env: _source(env, demonstrations.get(env)) for env in envs},
        cloning,
        settings,
        variant_cloning,
    )


def _check_names(algos: Iterable[str], envs: Iterable[str]) -> None:
    for what, given in (("algorithm", list(algos)), ("environment", list(envs))):
        if not given:
            raise ValueError(f"a comparison needs at least one {what}, found none")
        if len(set(given)) < len(given):
            raise ValueError(f"every {what} must be given once, found {given}")
    for algo in algos:
        check_known("algorithm", algo, ALGORITHMS)
    for env in envs:
        environment_spec(env)


def _check_variants(variants: Mapping[str, Mapping[str, Any]], algos: Iterable[str]) -> None:
    for algo, by_name in variants.items():
        check_known("algorithm of --variants", algo, algos)
        for name in by_name:
            if name in MODES or not re.fullmatch(r"\w+", name):
                raise ValueError(
                    f"a variant's name must be a word other than {' and '.join(MODES)}, found {name!r} for {algo}"
                )


def _check_common(common: Mapping[str, Any], algos: Iterable[str], policy: str, env: str) -> None:
    for algo in algos:
        check_known(f"policy of {algo}", policy, ALGORITHMS[algo].policy_aliases)
        for name in common:
            if name.startswith("env."):
                check_known(f"argument of {env}", name.removeprefix("env."), env_arguments(env))
            elif name not in CLONING and name != "chunk_size":
                _check_taken(algo, policy, name, " (to set it for some algorithms only: --set ALGORITHM.name=value)")


def _check_taken(algo: str, policy: str, name: str, hint: str = "") -> None:
    known = names_of(ALGORITHMS[algo], policy) | _HARNESS
    try:
        check_known(f"setting of {algo}", name, known - set(CLONING))
    except ValueError as error:
        raise ValueError(f"{error}{hint}") from error


def _resolve(
    algo: str, env: str, shared: Mapping[str, Any], own: Mapping[str, Any], changes: Mapping[str, Any]
) -> dict[str, Any]:
    """Settings of an algorithm: of the shared ones those that it takes, its own, and what the user changes for it alone."""
    policy = shared["policy"]
    for name in changes:
        if name in CLONING or name.startswith("env.") or name in ("chunk_size", "policy"):
            raise ValueError(f"{name} of {algo} on {env} must be the same for all algorithms: give it without the algorithm")
        _check_taken(algo, policy, name)
    given = names_of(ALGORITHMS[algo], policy) - set(CLONING) | _HARNESS | {"policy", "chunk_size"}
    taken = {name: value for name, value in {**shared, **own}.items() if name in given or name.startswith("env.")}
    return {name: encode(value) for name, value in {"n_envs": 1, **taken, **changes}.items()}


def _variant(
    algo: str,
    env: str,
    shared: Mapping[str, Any],
    own: Mapping[str, Any],
    mine: Mapping[str, Any],
    changes: Mapping[str, Any],
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Settings of a variant, and of the policy that it starts from. It may change what the others have in common."""
    cloned = {name: value for name, value in changes.items() if name in CLONING or name == "policy"}
    shared = {**shared, **cloned}
    check_known(f"policy of {algo}", shared["policy"], ALGORITHMS[algo].policy_aliases)
    for name in changes.keys() - cloned.keys():
        if name.startswith("env.") or name == "chunk_size":
            raise ValueError(f"{name} of a variant of {algo} on {env} must be the same for all: give it by --set")
        _check_taken(algo, shared["policy"], name)
    # What the preset and the user set for the first family's networks, another one may not have.
    known = names_of(ALGORITHMS[algo], shared["policy"]) | _HARNESS
    mine = {name: value for name, value in mine.items() if name in known}
    resolved = _resolve(algo, env, shared, own, {**mine, **{n: v for n, v in changes.items() if n not in cloned}})
    common = {name: value for name, value in shared.items() if not name.startswith("policy_kwargs.")}
    return resolved, {name: encode(value) for name, value in cloning_settings({**common, **resolved}).items()}


def _check_equal(env: str, by_algo: Mapping[str, Mapping[str, dict[str, Any]]], policy: str) -> None:
    """Networks must agree as far as the algorithms have them."""
    seen: dict[str, tuple[str, Any]] = {}
    for algo, modes in by_algo.items():
        known = names_of(ALGORITHMS[algo], policy)
        for mode, settings in modes.items():
            for name in sorted(known):
                if not name.startswith("policy_kwargs.") or name.removeprefix("policy_kwargs.") in NOT_NETWORKS:
                    continue
                who, value = f"{algo} ({mode})", settings.get(name)
                first, wanted = seen.setdefault(name, (who, value))
                if value != wanted:
                    raise ValueError(
                        f"networks must be equal on {env}: {name} is {value!r} for {who} and {wanted!r} for {first}"
                    )


def _check_updates(env: str, by_algo: Mapping[str, Mapping[str, dict[str, Any]]], steps: int) -> None:
    for algo, modes in by_algo.items():
        for mode, settings in modes.items():
            starts, n_envs = settings.get("learning_starts", 0), settings["n_envs"]
            if starts >= steps:
                raise ValueError(
                    f"{algo} ({mode}) on {env} would never update its policy: learning_starts={starts} does not end before "
                    f"--steps={steps}"
                )
            if not (isinstance(n_envs, int) and n_envs >= 1):
                raise ValueError(f"n_envs of {algo} must be an integer of at least 1, found {n_envs!r}")


def _source(env: str, given: str | None) -> str | None:
    task = task_of(env)
    if given is None:
        if task is None or (task.demonstrations is None and task.expert is None):
            raise ValueError(f"{env} has neither shipped demonstrations nor an expert: give --demonstrations {env}=SOURCE")
    else:
        check_source(env, given)
    return given


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
