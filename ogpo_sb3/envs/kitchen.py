"""Franka Kitchen: a nine-joint arm finishes four household subtasks.

The engine is gymnasium-robotics' ``FrankaKitchen-v1``. Its goal dictionaries are constants, so the flat state vector is
the whole observation here.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from ogpo_sb3.envs import images
from ogpo_sb3.envs.registry import check_rewards, import_engine, prepare_drawing

if TYPE_CHECKING:
    from ogpo_sb3.demonstrations import DemonstrationSet

# D4RL's subtask lists (Fu et al. 2020). "complete" and "partial" are the same task; their data sets differ.
SUBTASKS: dict[str, tuple[str, ...]] = {
    "complete": ("microwave", "kettle", "light switch", "slide cabinet"),
    "partial": ("microwave", "kettle", "light switch", "slide cabinet"),
    "mixed": ("microwave", "kettle", "bottom burner", "light switch"),
}
# The paper's reward counts finished subtasks from -7, the number of subtasks the kitchen has.
REWARD_FLOOR = -7.0
OBSERVATION_DIM = 59

# Where each object's joints lie in the observation (robot positions 0-8, robot velocities 9-17, object positions 18-38,
# object velocities 39-58), their goal, and the distance that counts as finished: the engine's numbers, repeated so that
# recorded data can be judged without a simulator.
_GOALS: dict[str, tuple[slice, tuple[float, ...]]] = {
    "bottom burner": (slice(20, 22), (-0.88, -0.01)),
    "top burner": (slice(24, 26), (-0.92, -0.01)),
    "light switch": (slice(26, 28), (-0.69, -0.05)),
    "slide cabinet": (slice(28, 29), (0.37,)),
    "hinge cabinet": (slice(29, 31), (0.0, 1.45)),
    "microwave": (slice(31, 32), (-0.75,)),
    "kettle": (slice(32, 39), (-0.23, 0.75, 1.62, 0.99, 0.0, 0.0, -0.06)),
}
_FINISHED_WITHIN = 0.3


class KitchenEnv(gym.Env):
    """Four subtasks in any order, step by step.

    Observations are the engine's 59 numbers in single precision, sensor noise included, or pictures of its default camera, or
    both; actions are nine joint velocities scaled to ±1. With n subtasks finished so far a step is rewarded with n - 7, and
    with 0 once all are finished, which also ends the episode; both times ``reward_scale``. A subtask counts from the step
    that first finishes it, even if it is undone later.

    :param subtasks: "complete", "partial" or "mixed", or a list of the engine's subtask names.
    :param reward_scale: factor on the reward; (1 - gamma) / 7 brings values into [-1, 0].
    :param robot_noise_ratio: the engine's noise on the joint sensors. It moves the arm as well: the engine's velocity
        control starts from the measured positions.
    :param object_noise_ratio: the engine's noise on the object sensors.
    :param obs_type: "state", "image" (one picture, uint8) or "state_image" (Dict of "state" and "image").
    :param image_size: height and width of the picture, pixels: a number or a pair.
    :param render_mode: None, "rgb_array" or "human", handed to the engine.
    """

    metadata = {"render_modes": ["human", "rgb_array"], "render_fps": 12}  # noqa: RUF012

    def __init__(
        self,
        subtasks: str | Sequence[str] = "complete",
        reward_scale: float = 1.0,
        robot_noise_ratio: float = 0.01,
        object_noise_ratio: float = 0.0005,
        obs_type: str = "state",
        image_size: int | tuple[int, int] = 84,
        render_mode: str | None = None,
    ) -> None:
        self.subtasks = subtask_names(subtasks)
        check_rewards("Franka Kitchen", reward_scale=reward_scale)
        self.reward_scale = reward_scale
        images.check_obs_type("Franka Kitchen", obs_type)
        size = images.picture_size("Franka Kitchen", image_size)
        prepare_drawing(render_mode if obs_type == "state" else "rgb_array")
        import_engine("gymnasium_robotics", "gymnasium-robotics", "Franka Kitchen", "kitchen")
        # `unwrapped` drops the engine's own time limit: ours comes from the registration.
        engine: gym.Env[Any, Any] = gym.make(
            "FrankaKitchen-v1",
            tasks_to_complete=list(self.subtasks),
            robot_noise_ratio=robot_noise_ratio,
            object_noise_ratio=object_noise_ratio,
            render_mode=render_mode,
            disable_env_checker=True,
        ).unwrapped
        self.engine = cast(Any, engine)
        self.obs_type = obs_type
        self.render_mode = render_mode
        self._camera = None if obs_type == "state" else images.EngineCamera(self.engine.robot_env, size, "Franka Kitchen")
        state = spaces.Box(-np.inf, np.inf, (OBSERVATION_DIM,), np.float32)
        pictures = {} if self._camera is None else {"image": images.picture_space(size)}
        self.observation_space = images.observation_space(obs_type, state, pictures)
        self.action_space = spaces.Box(-1.0, 1.0, self.engine.action_space.shape, np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Start an episode; every one starts in the same state, and only the noise differs.

        :param seed: makes the noise reproducible.
        :param options: the engine has none.
        :return: observation and info.
        """
        super().reset(seed=seed)
        observation, _ = self.engine.reset(seed=seed)
        return self._observe(observation["observation"]), {"is_success": False, "n_completed": 0}

    def set_state(self, state: np.ndarray) -> Any:
        """Restore a recorded state; call ``reset`` before.

        :param state: 59 numbers in the order of an observation, whose sensor noise becomes part of the state.
        :return: the observation.
        """
        state = np.asarray(state, dtype=np.float64)
        if state.shape != (OBSERVATION_DIM,):
            raise ValueError(f"Franka Kitchen: a state has the shape ({OBSERVATION_DIM},), not {state.shape}.")
        engine: Any = self.engine
        robot = engine.robot_env
        robot.set_state(np.concatenate([state[:9], state[18:39]]), np.concatenate([state[9:18], state[39:]]))
        return self._observe(engine._get_obs(robot._get_obs())["observation"])

    def step(self, action: np.ndarray) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Move the arm for one control step (40 simulator steps, 1/12 s).

        :param action: joint velocities, shape (9,), ±1.
        :return: observation, reward, terminated, truncated (always False here), info with ``is_success`` (all subtasks
            finished), ``n_completed`` (how many so far) and ``completed`` (which, in the order they were finished).
        """
        observation, _, _, _, engine_info = self.engine.step(action)
        completed = list(engine_info["episode_task_completions"])
        success = len(completed) == len(self.subtasks)
        reward = 0.0 if success else self.reward_scale * (len(completed) + REWARD_FLOOR)
        info = {"is_success": success, "n_completed": len(completed), "completed": completed}
        return self._observe(observation["observation"]), reward, success, False, info

    def _observe(self, state: np.ndarray) -> Any:
        pictures = {} if self._camera is None else {"image": self._camera.draw()}
        return images.observation(self.obs_type, state.astype(np.float32), pictures)

    def render(self) -> Any:
        """The engine's picture: (480, 480, 3) uint8 for "rgb_array", else None."""
        if self.render_mode is None:
            return None
        images.make_current(self.engine.robot_env.mujoco_renderer)
        return self.engine.render()

    def close(self) -> None:
        """Free the renderers."""
        if self._camera is not None:
            self._camera.close()
        self.engine.close()


def subtask_names(subtasks: str | Sequence[str]) -> tuple[str, ...]:
    """Names of the subtasks of a D4RL list, or the list itself once checked.

    :param subtasks: as in ``KitchenEnv``.
    :return: the engine's names.
    """
    if isinstance(subtasks, str):
        if subtasks not in SUBTASKS:
            raise ValueError(f"The kitchen has the subtask lists {', '.join(SUBTASKS)}, not {subtasks!r}.")
        return SUBTASKS[subtasks]
    unknown = [name for name in subtasks if name not in _GOALS]
    if unknown or not subtasks:
        raise ValueError(f"The kitchen's subtasks are {', '.join(_GOALS)}; {list(subtasks)} is not a list of them.")
    return tuple(dict.fromkeys(subtasks))


def recorded_states(demonstrations: "DemonstrationSet") -> np.ndarray | None:
    """The states behind recorded observations, for ``KitchenEnv.set_state``.

    :param demonstrations: any set.
    :return: (n, 59), or None for other observations.
    """
    observations = demonstrations.observations
    if isinstance(observations, dict) or observations.shape[1:] != (OBSERVATION_DIM,):
        return None
    return np.asarray(observations, dtype=np.float64)


def finished(observations: np.ndarray, subtasks: Sequence[str]) -> np.ndarray:
    """Which subtasks are in their goal state.

    :param observations: (n, 59).
    :param subtasks: the engine's names.
    :return: (n, len(subtasks)) bool.
    """
    distances = [np.linalg.norm(observations[:, part] - goal, axis=1) for part, goal in (_GOALS[name] for name in subtasks)]
    return np.stack(distances, axis=1) < _FINISHED_WITHIN


def adapt_demonstrations(
    demonstrations: "DemonstrationSet",
    subtasks: str | Sequence[str] = "complete",
    reward_scale: float = 1.0,
    **_: Any,
) -> "DemonstrationSet":
    """Give recorded kitchen episodes this environment's rewards and ends.

    D4RL's rewards count from 0, and its episodes go on after the last subtask. Which subtasks are finished is read off the
    recorded object positions; an episode is cut where the environment would have ended it. Where the observation after
    the last action is not recorded, that action is taken to finish nothing.

    :param demonstrations: observations of 59 numbers; a set that is adapted already comes back unchanged.
    :param subtasks: as in ``KitchenEnv``.
    :param reward_scale: as in ``KitchenEnv``.
    :return: the set with rewards, terminals and successes.
    """
    names = subtask_names(subtasks)
    observations, final = demonstrations.observations, demonstrations.final_observations
    if isinstance(observations, dict) or isinstance(final, dict) or observations.shape[1:] != (OBSERVATION_DIM,):
        return demonstrations  # what does not fit is for validate_for to name
    if demonstrations.meta.get("kitchen_subtasks") == list(names):
        factor = reward_scale / demonstrations.meta.get("kitchen_reward_scale", 1.0)
        if factor == 1.0 or demonstrations.rewards is None:
            return demonstrations
        meta = {**demonstrations.meta, "kitchen_reward_scale": reward_scale}
        return replace(demonstrations, rewards=factor * demonstrations.rewards, meta=meta)
    if "kitchen_subtasks" in demonstrations.meta:
        raise ValueError(
            f"{demonstrations.source}: these episodes were cut for the subtasks {demonstrations.meta['kitchen_subtasks']} "
            f"and cannot be judged by {list(names)}; load the source again."
        )
    rows, counts, finals, lengths = [], [], [], []
    for index, (start, end) in enumerate(zip(demonstrations.episode_starts, demonstrations.episode_ends, strict=True)):
        after = observations[start + 1 : end]
        after = np.concatenate([after, observations[end - 1 : end] if final is None else final[index : index + 1]])
        count = np.logical_or.accumulate(finished(after, names), axis=0).sum(axis=1)
        all_done = np.flatnonzero(count == len(names))
        length = int(all_done[0]) + 1 if len(all_done) else end - start
        rows.append(np.arange(start, start + length))
        counts.append(count[:length])
        finals.append(after[length - 1])
        lengths.append(length)
    kept, count = np.concatenate(rows), np.concatenate(counts)
    ends = np.cumsum(lengths)
    success = count[ends - 1] == len(names)
    # A cut episode ends before its last recorded observation, so that its final observation is known; otherwise it is
    # only known when it was recorded.
    known = final is not None or bool(success.all())
    note = "rewards, ends and successes read off the recorded observations"
    return replace(
        demonstrations,
        observations=observations[kept],
        actions=demonstrations.actions[kept],
        episode_ends=ends,
        rewards=reward_scale * np.where(count == len(names), 0.0, count + REWARD_FLOOR),
        terminals=count == len(names),
        final_observations=np.stack(finals) if known else None,
        successes=success,
        states=None if demonstrations.states is None else demonstrations.states[kept],
        meta={
            **demonstrations.meta,
            "kitchen_subtasks": list(names),
            "kitchen_reward_scale": reward_scale,
            "adapted": note,
        },
    )
