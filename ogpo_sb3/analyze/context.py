"""What analyses are made from: models and episodes of the stages, loaded when they are asked for."""

import zipfile
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch as th

from ogpo_sb3.analyze.episodes import Episodes, Observations, run_episodes, take
from ogpo_sb3.analyze.stages import Source, Stage
from ogpo_sb3.common.actor_value_policies import ActorValuePolicy
from ogpo_sb3.common.policies import GCPPolicy
from ogpo_sb3.common.saving import CHECKPOINT_SUFFIX
from ogpo_sb3.envs.registry import make_with
from ogpo_sb3.zoo.models import load_model

_ROWS = 512  # rows that networks are evaluated at in one go


class NotApplicable(ValueError):
    """An analysis that this run has nothing for; the message says why, in one sentence."""


@dataclass(frozen=True)
class Settings:
    """
    :param n_episodes: per stage
    :param sampler: of the episodes, see :func:`ogpo_sb3.evaluate`
    :param n_states: that action distributions and chains are looked at in
    :param n_samples: actions per state and stage
    :param projection: "auto", "pca" or "umap"
    :param dims: two entries of the action that chains are drawn in; None for principal components
    :param seed: of all draws beside the episodes'
    :raises ValueError: a number below what an analysis needs
    """

    n_episodes: int = 20
    sampler: str = "ode"
    n_states: int = 3
    n_samples: int = 200
    projection: str = "auto"
    dims: tuple[int, int] | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in (("n_episodes", 1), ("n_states", 1), ("n_samples", 3)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, found {getattr(self, name)}")
        for name, allowed in (("projection", ("auto", "pca", "umap")), ("sampler", ("ode", "behaviour"))):
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} must be one of {allowed}, found {getattr(self, name)!r}")


@dataclass
class Context:
    """
    :param source: what is analysed
    :param settings: how
    :param folder: where episodes are kept
    :param bar: tqdm's, moved by one per episode
    """

    source: Source
    settings: Settings
    folder: Path
    bar: Any = None
    _models: dict[int, Any] = field(default_factory=dict)
    _episodes: dict[int, Episodes] = field(default_factory=dict)

    @property
    def stages(self) -> tuple[Stage, ...]:
        """In order."""
        return self.source.stages

    def model(self, i: int) -> Any:
        """
        :param i: of a stage
        :raises ValueError: its file holds something else than a generative policy of this package
        """
        if i not in self._models:
            file, env = self.stages[i].file, self.make_env()
            try:
                model = load_model(self.source.algo, file, env)
            except (KeyError, AttributeError, TypeError, RuntimeError) as error:  # what SB3 raises for another class's file
                raise ValueError(f"{file} cannot be read as a model of {self.source.algo}: {error}") from error
            finally:
                env.close()
            policy = model.policy
            if not isinstance(policy, GCPPolicy):
                raise ValueError(f"{file} holds a {type(policy).__name__}, wanted a generative policy of this package")
            if _was_normalised(file):
                raise ValueError(f"{file} was trained with VecNormalize, whose statistics the analyses do not know")
            self._models[i] = model
        return self._models[i]

    def make_env(self) -> gym.Env:
        """A new environment of single steps."""
        return make_with(self.source.env_id, self.source.env_kwargs)

    def episodes_file(self, i: int) -> Path:
        """
        :param i: of a stage
        """
        return self.folder / "episodes" / f"stage_{i}.npz"

    def episodes(self, i: int) -> Episodes:
        """
        Read from the folder, or run and written there.

        :param i: of a stage
        """
        if i not in self._episodes:
            path = self.episodes_file(i)
            if not path.exists():
                env = self.make_env()
                episodes = run_episodes(self.model(i), env, self.settings.n_episodes, self.settings.sampler, self.bar)
                env.close()
                episodes.save(path)
            self._episodes[i] = Episodes.load(path)
        return self._episodes[i]

    def states(self) -> tuple[Observations, list[dict[str, int]]]:
        """
        Where action distributions are compared: spread evenly over the first successful episode of the last stage, or over its
        first episode.

        :return: (n_states, ...) observations, and where they are from: seed and decision
        """
        episodes = self.episodes(len(self.stages) - 1)
        successes = np.flatnonzero(episodes.successes) if episodes.successes is not None else np.array([], int)
        e = int(successes[0]) if len(successes) else 0
        rows = np.flatnonzero(episodes.episode == e)
        n = self.settings.n_states
        picked = np.unique([int(len(rows) * (i + 0.5) / n) for i in range(n)])
        return episodes.at(rows[picked]), [dict(seed=int(episodes.seeds[e]), decision=int(k)) for k in picked]

    def critics(self) -> list[int]:
        """
        :return: the stages that have trained critics of actions
        :raises NotApplicable: there are none
        """
        trained = [i for i, stage in enumerate(self.stages) if stage.trained]
        if not trained:
            raise NotApplicable("it needs critics, and these models have only untrained ones")
        policy = self.model(trained[0]).policy
        if isinstance(policy, ActorValuePolicy):
            raise NotApplicable(f"it needs critics of actions, and {self.source.algo} has a value of states")
        if getattr(policy, "noise_aliasing", True) is False:
            raise NotApplicable(f"it needs critics of actions, and those of {self.source.algo} judge latents")
        return trained

    def describe(self) -> dict[str, Any]:
        """What results depend on, for JSON."""
        return dict(
            stages=[[stage.title, *stage.fingerprint] for stage in self.stages],
            algo=self.source.algo,
            env=self.source.env_id,
            env_kwargs={key: str(value) for key, value in self.source.env_kwargs.items()},
            **{key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self.settings).items()},
        )


def _was_normalised(file: Path) -> bool:
    """By VecNormalize: a checkpoint holds its statistics, the zoo writes them beside its models."""
    if file.suffix == CHECKPOINT_SUFFIX:
        with zipfile.ZipFile(file) as archive:
            return "vec_normalize.pkl" in archive.namelist()
    return bool(list(file.parent.glob("*/vecnormalize.pkl")))


@th.no_grad()
def q_values(policy: GCPPolicy, observations: Observations, actions: np.ndarray, target: bool = False) -> np.ndarray:
    """
    :param policy: with critics of actions
    :param observations: (N, ...), or a dict of them
    :param actions: (N, D) in [-1, 1]
    :param target: by the target critics
    :return: (M, N)
    """
    critic, blocks = policy.critic_target if target else policy.critic, []
    for begin in range(0, len(actions), _ROWS):
        rows = slice(begin, begin + _ROWS)
        obs, _ = policy.obs_to_tensor(take(observations, rows))
        blocks.append(critic(obs, th.as_tensor(actions[rows], device=policy.device)).cpu().numpy())
    return np.concatenate(blocks, axis=1)
