"""The benchmark tasks: what each one recommends, and how its id reaches Gymnasium.

Nothing here imports a simulator. Entry points are strings, so the engine is loaded by ``gym.make`` and not before, and a
machine that has only the core install can still list every id.
"""

import importlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from numbers import Real
from types import ModuleType
from typing import TYPE_CHECKING, Any

import gymnasium as gym

if TYPE_CHECKING:
    from ogpo_sb3.demonstrations import DemonstrationSet


@dataclass(frozen=True)
class Task:
    """One registered environment and the settings the paper's protocol recommends for it.

    :param id: Gymnasium id, ``ogpo/<Name>-v0``.
    :param entry_point: ``module:Class`` of the per-step environment.
    :param chunk_size: recommended number of environment steps per decision (H of the paper).
    :param horizon: time limit in environment steps; ``gym.make(id, max_episode_steps=...)`` overrides it.
    :param extra: pip extra that brings the simulator, None when the core install is enough.
    :param demonstrations: source that ships with the package, for ``ogpo_sb3.demonstrations.load``; None if there is none.
    :param expert: dotted path ``module:factory`` of a policy that can collect demonstrations, called with the environment.
    :param adapt_demonstrations: dotted path ``module:function`` that converts published data to this environment's
        conventions, None when they agree already.
    :param recorded_states: dotted path ``module:function`` that finds the simulator's states in a data set's observations, for
        replay; None where they cannot be found there.
    :param gamma: recommended discount per environment step.
    :param kwargs: arguments of the environment class that make this task out of it.
    """

    id: str
    entry_point: str
    chunk_size: int
    horizon: int
    extra: str | None = None
    demonstrations: str | None = None
    expert: str | None = None
    adapt_demonstrations: str | None = None
    recorded_states: str | None = None
    gamma: float = 0.99
    kwargs: Mapping[str, Any] = field(default_factory=dict, hash=False)

    def adapt(self, demonstrations: "DemonstrationSet", **env_kwargs: Any) -> "DemonstrationSet":
        """Bring demonstrations to this task's observation and action conventions.

        :param demonstrations: any data set; one that is adapted already comes back unchanged.
        :param env_kwargs: how the environment was built (``env.spec.kwargs``): the conventions can depend on ``obs_type``.
        :return: the adapted data set, or the same object for a task without an adapter.
        """
        if self.adapt_demonstrations is None:
            return demonstrations
        return resolve(self.adapt_demonstrations)(demonstrations, **env_kwargs)


def _adroit(name: str) -> Task:
    return Task(
        id=f"ogpo/Adroit{name}-v0",
        entry_point="ogpo_sb3.envs.adroit:AdroitEnv",
        chunk_size=4,
        horizon=200,
        extra="adroit",
        expert="ogpo_sb3.demonstrations.experts.adroit:make_expert",
        adapt_demonstrations="ogpo_sb3.envs.adroit:adapt_demonstrations",
        gamma=0.95,
        kwargs={"task": name},
    )


def _kitchen(name: str, demonstrations: str | None = None) -> Task:
    return Task(
        id=f"ogpo/Kitchen{name}-v0",
        entry_point="ogpo_sb3.envs.kitchen:KitchenEnv",
        chunk_size=4,
        horizon=280,
        extra="kitchen",
        demonstrations=demonstrations,
        adapt_demonstrations="ogpo_sb3.envs.kitchen:adapt_demonstrations",
        recorded_states="ogpo_sb3.envs.kitchen:recorded_states",
        gamma=0.99,
        kwargs={"subtasks": name.lower()},
    )


def _robomimic(name: str, chunk_size: int, horizon: int, gamma: float) -> Task:
    return Task(
        id=f"ogpo/Robomimic{name}-v0",
        entry_point="ogpo_sb3.envs.robomimic:RobomimicEnv",
        chunk_size=chunk_size,
        horizon=horizon,
        extra="robomimic",
        expert="ogpo_sb3.demonstrations.experts.robomimic:make_expert",
        adapt_demonstrations="ogpo_sb3.envs.robosuite_demonstrations:adapt_robomimic",
        gamma=gamma,
        kwargs={"task": name},
    )


_ALL = (
    Task(
        id="ogpo/PushT-v0",
        entry_point="ogpo_sb3.envs.pusht:PushTEnv",
        chunk_size=4,
        horizon=300,
        demonstrations="shipped:pusht",
        adapt_demonstrations="ogpo_sb3.envs.pusht:adapt_demonstrations",
        recorded_states="ogpo_sb3.envs.pusht:recorded_states",
        gamma=0.95,
    ),
    _kitchen("Complete", demonstrations="shipped:kitchen-complete"),
    _kitchen("Mixed"),
    _kitchen("Partial"),
    _adroit("Door"),
    _adroit("Hammer"),
    _adroit("Pen"),
    _adroit("Relocate"),
    # Lift and Can are not the paper's; they are set as Square, which they resemble.
    _robomimic("Lift", chunk_size=4, horizon=300, gamma=0.99),
    _robomimic("Can", chunk_size=4, horizon=300, gamma=0.99),
    _robomimic("Square", chunk_size=4, horizon=400, gamma=0.99),
    # Horizons of the paper's table; its text has 700 for both, and a discount of .995.
    _robomimic("ToolHang", chunk_size=8, horizon=1000, gamma=0.999),
    _robomimic("Transport", chunk_size=8, horizon=800, gamma=0.999),
    Task(
        id="ogpo/Libero-v0",
        entry_point="ogpo_sb3.envs.libero:LiberoEnv",
        chunk_size=8,
        horizon=1000,
        extra="libero",
        adapt_demonstrations="ogpo_sb3.envs.robosuite_demonstrations:adapt_libero",
        gamma=0.999,
    ),
)

# Installed beside an extra, without dependencies: what these packages declare contradicts the rest, or compiles C unused here.
WITHOUT_DEPENDENCIES: dict[str, str] = {
    "robomimic": "robosuite==1.4.1 robomimic==0.3.0",
    "libero": "robosuite==1.4.1 robomimic==0.3.0 hf-libero==0.1.4 bddl==1.0.1",
}

TASKS: dict[str, Task] = {task.id: task for task in _ALL}


def register_environments() -> None:
    """Make every id of ``TASKS`` known to Gymnasium; calling it again changes nothing."""
    for task in TASKS.values():
        if task.id not in gym.registry:
            gym.register(
                id=task.id,
                entry_point=task.entry_point,
                max_episode_steps=task.horizon,
                kwargs=dict(task.kwargs),
            )


def make_with(env_id: str, env_kwargs: Mapping[str, Any], **options: Any) -> gym.Env[Any, Any]:
    """``gym.make``, with a sentence for arguments that the environment does not know.

    :param env_id: an id.
    :param env_kwargs: the user's arguments of the environment.
    :param options: other arguments, which win.
    :return: the environment.
    :raises ValueError: an unknown argument, or one of the wrong type.
    """
    try:
        return gym.make(env_id, **{**env_kwargs, **options})
    except TypeError as error:
        if not env_kwargs:
            raise
        # Gymnasium repeats the call and all its arguments behind the first sentence.
        reason = str(error).partition(" was raised from")[0]
        raise ValueError(f"{env_id} cannot be made with the arguments {dict(env_kwargs)}: {reason}") from error


def task_of(env: Any) -> Task | None:
    """The task behind an environment.

    :param env: an id, a Gymnasium environment (wrapped or not) or a Stable-Baselines3 VecEnv.
    :return: its task, or None for an environment that is not one of ours.
    """
    if isinstance(env, str):
        # Gymnasium imports what stands before a colon: "ogpo_sb3:ogpo/PushT-v0".
        return TASKS.get(env.rpartition(":")[2])
    if isinstance(env, gym.Env):
        spec = env.spec
    elif hasattr(env, "get_attr") and hasattr(env, "num_envs"):
        # Every gym.Env has `spec` (None by default), so this cannot end a SubprocVecEnv worker as asking it for an
        # attribute of our own would.
        try:
            spec = env.get_attr("spec", indices=0)[0]
        except (AttributeError, NotImplementedError):  # a vectorised simulator with no single environments inside
            spec = None
    else:
        raise TypeError(f"task_of expects an id, a gymnasium.Env or a VecEnv, not {type(env).__name__}.")
    return None if spec is None else TASKS.get(spec.id)


def resolve(path: str) -> Any:
    """Import what a dotted path ``module:name`` names.

    :param path: as in ``Task.expert``.
    :return: the attribute.
    """
    module, _, name = path.partition(":")
    return getattr(importlib.import_module(module), name)


def import_engine(module: str, package: str, environment: str, extra: str | None) -> ModuleType:
    """Import a simulator, or say in one sentence what is missing and how to install it.

    :param module: module to import.
    :param package: the distribution that holds it, as pip names it.
    :param environment: what the user asked for, for the sentence.
    :param extra: pip extra of this package that installs it; None for a dependency of the core install.
    :return: the module.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        # The engine itself may be there and one of its own dependencies not: name the one that is absent.
        culprit = (error.name or module).partition(".")[0]
        missing = package if culprit == module.partition(".")[0] else f"{package} (its import of {culprit} failed)"
        raise ImportError(f"{environment} needs the package {missing}: run {install_command(extra)}.", name=culprit) from error


def install_command(extra: str | None) -> str:
    """What to run to install a benchmark.

    :param extra: its pip extra; None for the core.
    :return: one or two commands, quoted, for a sentence.
    """
    target = "ogpo_sb3" if extra is None else f'"ogpo_sb3[{extra}]"'
    second = WITHOUT_DEPENDENCIES.get(extra or "")
    return f"`pip install {target}`" + (f" and `pip install --no-deps {second}`" if second else "")


def check_rewards(environment: str, **numbers: Any) -> None:
    """
    :param environment: its name, for the message
    :param numbers: ``reward_scale``, ``success_bonus``
    :raises ValueError: one that is no finite number; a run would notice at its first step, or never
    """
    for name, value in numbers.items():
        if isinstance(value, bool) or not isinstance(value, Real) or not math.isfinite(value):
            raise ValueError(f"{environment}: {name} is a finite number, not {value!r}.")


def prepare_drawing(render_mode: str | None) -> None:
    """Let MuJoCo draw off screen where no display exists and the user chose no backend: EGL, else OSMesa.

    Must run before mujoco's renderer is imported, which reads MUJOCO_GL once.

    :param render_mode: only "rgb_array" needs it.
    """
    if render_mode == "rgb_array":
        from ogpo_sb3.envs.headless import choose_backend

        choose_backend()
