"""Evaluation that means the same everywhere: fixed seeds, a stated sampler, the weights that are deployed."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import gymnasium as gym
import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.preprocessing import is_image_space
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecNormalize, unwrap_vec_normalize

from ogpo_sb3.common.chunked_env import chunk_like, named
from ogpo_sb3.common.options import check_choice, whole
from ogpo_sb3.common.progress import progress
from ogpo_sb3.common.randomness import drawing_from
from ogpo_sb3.envs.chunking import ChunkActionWrapper, chunk_size_of, success_of

SAMPLERS = ("ode", "behaviour", "base")


@dataclass(frozen=True)
class EvaluationResult:
    """
    One entry per episode, in the order of the seeds.

    :param seeds: (n,) seed of each episode: of its environment and of its latents
    :param returns: (n,) undiscounted sums of rewards
    :param lengths: (n,) environment steps
    :param successes: (n,) whether the episode succeeded; None where the environment does not say
    """

    seeds: np.ndarray
    returns: np.ndarray
    lengths: np.ndarray
    successes: np.ndarray | None

    def first(self, n: int) -> "EvaluationResult":
        """
        :param n: number of episodes
        :return: the result over the first n seeds: what an evaluation with ``n_episodes=n`` gives
        """
        successes = None if self.successes is None else self.successes[:n]
        return EvaluationResult(self.seeds[:n], self.returns[:n], self.lengths[:n], successes)

    @property
    def mean_return(self) -> float:
        """Mean over episodes."""
        return float(self.returns.mean())

    @property
    def return_interval(self) -> tuple[float, float]:
        """95 % bootstrap interval of the mean return over episodes: the same for the same episodes."""
        n = len(self.returns)
        drawn = np.random.default_rng(0).integers(n, size=(2000, n))
        low, high = np.quantile(self.returns[drawn].mean(axis=1), (0.025, 0.975))
        return float(low), float(high)

    @property
    def success_rate(self) -> float | None:
        """Share of successful episodes."""
        return None if self.successes is None else float(self.successes.mean())

    @property
    def success_interval(self) -> tuple[float, float] | None:
        """95 % Wilson score interval of the success rate."""
        if self.successes is None:
            return None
        n, p, z = len(self.successes), float(self.successes.mean()), 1.959964
        centre = (p + z * z / (2 * n)) / (1 + z * z / n)
        half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / (1 + z * z / n)
        return max(centre - half, 0.0), min(centre + half, 1.0)

    @property
    def steps_to_success(self) -> float | None:
        """Mean length of the successful episodes, environment steps."""
        if self.successes is None or not self.successes.any():
            return None
        return float(self.lengths[self.successes].mean())

    def summary(self) -> dict[str, Any]:
        """Its numbers, for JSON."""
        return dict(
            success=self.success_rate,
            interval=list(self.success_interval or ()),
            mean_return=self.mean_return,
            return_interval=list(self.return_interval),
            steps_to_success=self.steps_to_success,
            episodes=len(self.seeds),
        )

    def as_lists(self) -> dict[str, list[Any] | None]:
        """Its episodes, for JSON; see :meth:`from_lists`."""
        values = {name: getattr(self, name) for name in ("seeds", "returns", "lengths", "successes")}
        return {name: None if value is None else value.tolist() for name, value in values.items()}

    @classmethod
    def from_lists(cls, content: dict[str, list[Any] | None]) -> "EvaluationResult":
        """
        :param content: what :meth:`as_lists` gave
        """
        return cls(**{name: None if value is None else np.array(value) for name, value in content.items()})  # type: ignore[arg-type]


def evaluate(
    model: Any,
    env: gym.Env | VecEnv | str | Callable[[], gym.Env] | None = None,
    n_episodes: int = 50,
    seeds: Sequence[int] | None = None,
    n_envs: int = 10,
    sampler: str = "ode",
    progress_bar: bool = False,
) -> EvaluationResult:
    """
    Run episodes on fixed seeds; no random generator of the training is touched.

    :param model: an algorithm of this package, or any of Stable-Baselines3's
    :param env: an id, a function that makes a per-step or chunked environment, one environment, or a vectorised one whose
        specification is copied (and whose VecNormalize, if it has one, is used); None for the model's own
    :param n_episodes: number of episodes, with the seeds 10 000, 10 001, ...
    :param seeds: the episodes' seeds, in place of ``n_episodes``
    :param n_envs: episodes that run side by side
    :param sampler: "ode": what is deployed: a generative policy's ``decide`` from fresh latents per decision that the
        episode's seed determines (with OGPO one ODE sample of the EMA actor, with other algorithms what they add to it as
        well), another policy's ``predict(deterministic=True)``; "behaviour": what rollouts execute (SDE or what
        ``rollout_sampler`` names, best of N), with draws that also depend on how many episodes run side by side; "base": one
        ODE sample of the EMA actor with any algorithm
    :param progress_bar: show progress in episodes
    :raises ValueError: no model, unknown sampler, no episode or environment, or an environment whose actions or observations
        are not the model's
    """
    if not isinstance(model, BaseAlgorithm):
        raise ValueError(f"evaluate() needs a model, as OGPO.load(...) gives it, found {model!r:.80}")
    n_episodes, n_envs = whole("n_episodes", n_episodes), whole("n_envs", n_envs)
    check_choice("sampler", sampler, SAMPLERS)
    seeds = list(range(10_000, 10_000 + n_episodes)) if seeds is None else list(seeds)
    if not seeds:
        raise ValueError("evaluate() needs at least one episode, found none")
    if n_envs < 1:
        raise ValueError(f"n_envs must be at least 1, found {n_envs}")
    make, single = _maker(model, env)
    envs = [make()] if single else _make_all(make, min(n_envs, len(seeds)), model)
    if any(own.unwrapped is e.unwrapped for own in _environments_of(model) for e in envs):
        model._last_obs = None  # the training's episode is about to be interrupted: it starts again from a reset
    normaliser = unwrap_vec_normalize(env) if isinstance(env, VecEnv) else model.get_vec_normalize_env()
    was_training = model.policy.training
    model.policy.set_training_mode(False)
    records: list[tuple[float, int, bool | None] | None] = [None] * len(seeds)
    # A single environment may be the training's own, whose starts would otherwise go on from the last evaluation seed.
    generator = vars(envs[0].unwrapped).get("_np_random") if single else None
    try:
        with drawing_from(seeds[0], model.device), progress(range(0), "evaluation", len(seeds), progress_bar) as bar:
            _run(Deployed(model, sampler, normaliser), envs, seeds, records, bar)
    finally:
        model.policy.set_training_mode(was_training)
        if generator is not None:
            envs[0].unwrapped.np_random = generator
        if not single:
            for e in envs:
                e.close()
    done = [record for record in records if record is not None]
    successes = [record[2] for record in done]
    return EvaluationResult(
        np.array(seeds),
        np.array([record[0] for record in done]),
        np.array([record[1] for record in done]),
        None if any(success is None for success in successes) else np.array(successes, dtype=bool),
    )


class _Episode:
    """An episode under way in one of the environments."""

    def __init__(self, index: int, seed: int, env: gym.Env):
        self.index, self.env = index, env
        self.generator = th.Generator().manual_seed(seed)
        self.obs, _ = env.reset(seed=seed)
        self.total, self.length = 0.0, 0

    def step(self, action: np.ndarray) -> tuple[float, int, bool | None] | None:
        self.obs, reward, terminated, truncated, info = self.env.step(action)
        self.total += float(reward)
        self.length += len(info["chunk"]["rewards"]) if "chunk" in info else 1
        if not (terminated or truncated):
            return None
        return self.total, self.length, success_of(info)


class Deployed:
    """
    Observations of several episodes to their actions.

    A policy whose deployed decision is more than one ODE sample of its EMA actor (steered, edited, distilled) has a method
    ``decide(obs, latents)``: observation tensors and latents (B, n_latents, D) to scaled actions (B, D) in [-1, 1].

    :param model: see :func:`evaluate`
    :param sampler: see :func:`evaluate`
    :param normaliser: of observations
    """

    def __init__(self, model: Any, sampler: str, normaliser: VecNormalize | None):
        policy = model.policy
        self.policy, self.predict, self.normaliser, self.deterministic = policy, model.predict, normaliser, sampler == "ode"
        self.n_latents = getattr(policy, "n_latents", 1) if sampler == "ode" else 1
        self.decide: Callable[[Any, th.Tensor], th.Tensor] | None = None
        generative = getattr(policy, "actor_ema", policy)  # on-policy ones have a single actor, in the policy itself
        if sampler == "ode" and hasattr(policy, "decide"):
            self.decide = policy.decide
        elif sampler != "behaviour" and hasattr(generative, "sample"):
            self.decide = lambda obs, latents: generative.sample(obs, latents[:, 0])
        elif sampler == "base":
            raise ValueError(f"sampler 'base' needs a generative policy, found {type(policy).__name__}")

    def __call__(self, observations: list[Any], generators: list[th.Generator]) -> np.ndarray:
        """
        :param observations: of the episodes, single
        :param generators: of their latents
        :return: actions, one row per episode
        """
        if isinstance(observations[0], dict):
            batch: Any = {key: np.stack([obs[key] for obs in observations]) for key in observations[0]}
        else:
            batch = np.stack(observations)
        if self.normaliser is not None:
            batch = self.normaliser.normalize_obs(batch)
        if self.decide is None:
            return self.predict(batch, deterministic=self.deterministic)[0]
        policy = self.policy
        shape = self.n_latents, int(np.prod(policy.action_space.shape))
        latents = th.stack([th.randn(shape, generator=generator) for generator in generators]).to(policy.device)
        obs, _ = policy.obs_to_tensor(batch)
        with th.no_grad():
            scaled = self.decide(obs, latents).cpu().numpy()
        return policy.unscale_action(scaled.reshape(-1, *policy.action_space.shape))


def _run(act: Deployed, envs: list[gym.Env], seeds: list[int], records: list[Any], bar: Any) -> None:
    waiting = list(enumerate(seeds))[::-1]
    running = [_Episode(*waiting.pop(), env) for env in envs if waiting]
    while running:
        actions = act([episode.obs for episode in running], [episode.generator for episode in running])
        going_on = []
        for episode, action in zip(running, actions, strict=True):
            outcome = episode.step(action)
            if outcome is None:
                going_on.append(episode)
                continue
            records[episode.index] = outcome
            bar.update(1)
            if waiting:
                going_on.append(_Episode(*waiting.pop(), episode.env))
        running = going_on


def _maker(model: Any, env: Any) -> tuple[Callable[[], gym.Env], bool]:
    """A function that makes a chunked environment, and whether there is only one."""
    chunk_size = chunk_size_of(model.action_space)
    if env is None:
        env = model.get_env()
        if env is None:
            raise ValueError("evaluate() needs an environment: the model has none, pass env=...")
    if isinstance(env, VecEnv):
        spec = env.get_attr("spec", indices=0)[0]
        why = "an unregistered environment"
        if spec is not None:
            spec = _without_wrappers(spec)
            unknown = [wrapper.name for wrapper in spec.additional_wrappers if wrapper.kwargs is None]
            if unknown:  # gymnasium cannot make it again: it is no RecordConstructorArgs
                spec, why = None, f"an environment whose wrapper {unknown[0]} does not record its arguments"
        if spec is None:
            dummy = env.unwrapped
            if not isinstance(dummy, DummyVecEnv):
                raise ValueError(f"evaluate() cannot copy {why} in another process: pass env=...")
            env = dummy.envs[0]
        else:
            return lambda: chunk_like(gym.make(spec), chunk_size), False
    if isinstance(env, str):
        env_id = env
        return lambda: chunk_like(gym.make(env_id), chunk_size), False
    if isinstance(env, gym.Env):
        single = chunk_like(env, chunk_size)
        check_fits(single, model)
        return lambda: single, True
    if not callable(env):
        raise _no_environment(named(env))
    return lambda: chunk_like(_made(env), chunk_size), False


def _made(function: Callable[[], Any]) -> gym.Env:
    env = function()
    if not isinstance(env, gym.Env):
        raise _no_environment(f"a function that makes {named(env)}")
    return env


def _no_environment(found: str) -> ValueError:
    return ValueError(
        "env must be an environment, its id, a VecEnv of Stable-Baselines3 (make_vec_env) or a function that makes an "
        f"environment, found {found}"
    )


def _environments_of(model: Any) -> list[gym.Env]:
    """Those that the model is trained in, where they live in this process."""
    env = model.get_env()
    base = None if env is None else env.unwrapped
    return base.envs if isinstance(base, DummyVecEnv) else []


def _make_all(make: Callable[[], gym.Env], n: int, model: Any) -> list[gym.Env]:
    """
    Environments to run side by side, closed again where one does not suit.

    :raises ValueError: a space that is not the model's, or one environment given twice
    """
    envs: list[gym.Env] = []
    try:
        while len(envs) < n:
            envs.append(make())
            check_fits(envs[-1], model)
            if any(envs[-1].unwrapped is other.unwrapped for other in envs[:-1]):
                raise ValueError("env should be a function that makes a new environment at each call, found one twice")
    except BaseException:
        for env in envs:
            env.close()
        raise
    return envs


def _without_wrappers(spec: Any) -> Any:
    """The specification below Monitor and chunk wrapper, which chunk_like adds again."""
    names = ("Monitor", ChunkActionWrapper.__name__)
    return replace(spec, additional_wrappers=tuple(w for w in spec.additional_wrappers if w.name not in names))


def check_fits(env: gym.Env, model: Any, title: str = "") -> None:
    """
    :param env: an environment, chunked as the model decides
    :param model: see :func:`evaluate`
    :param title: of the model, for the sentence
    :raises ValueError: an action space that is not the model's, or observations of another shape
    """
    whose = f" of the model {title!r}" if title else ""
    if env.action_space != model.action_space:
        raise ValueError(f"the environment's action space is {env.action_space}, wanted {model.action_space}{whose}")
    wanted = getattr(model, "observation_space", None)  # another library's model may have none
    if wanted is not None and not _same_shapes(env.observation_space, wanted):
        raise ValueError(f"the environment's observation space is {env.observation_space}, wanted {wanted}{whose}")


def _same_shapes(found: spaces.Space, wanted: spaces.Space) -> bool:
    """Whether a model takes observations of a space, whatever their bounds; it puts the channels of pictures first."""
    if isinstance(wanted, spaces.Dict):
        if not isinstance(found, spaces.Dict) or found.spaces.keys() != wanted.spaces.keys():
            return False
        return all(_same_shapes(found[key], space) for key, space in wanted.items())
    if not isinstance(wanted, spaces.Box):
        return found == wanted
    if not isinstance(found, spaces.Box):
        return False
    return found.shape == wanted.shape or (is_image_space(wanted) and (*found.shape[2:], *found.shape[:2]) == wanted.shape)
