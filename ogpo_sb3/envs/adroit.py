"""Adroit: a 24-joint hand opens a door, hammers a nail, turns a pen, relocates a ball.

The engine is gymnasium-robotics' ``AdroitHand<Task>-v1``. It reports success step by step and never ends an episode;
here the first success ends it, and ``info["is_success"]`` stays true from then on.
"""

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from ogpo_sb3.envs import images
from ogpo_sb3.envs.registry import check_rewards, import_engine, prepare_drawing

if TYPE_CHECKING:
    from ogpo_sb3.demonstrations import DemonstrationSet

# Returns of a random and of an expert policy over the 200 steps of D4RL's environments (Fu et al. 2020, d4rl/infos.py).
D4RL_REFERENCE_RETURNS: dict[str, tuple[float, float]] = {
    "Door": (-56.512833, 2880.5693087298737),
    "Hammer": (-274.856578, 12794.134825156867),
    "Pen": (96.262799, 3076.8331017826877),
    "Relocate": (-6.425911, 4233.877797728884),
}

# Parts of an engine's state in the order of ``AdroitEnv.set_state``, under the names that D4RL and DAPG recorded them with.
STATE_PARTS: dict[str, tuple[str, ...]] = {
    "Door": ("qpos", "qvel", "door_body_pos"),
    "Hammer": ("qpos", "qvel", "board_pos"),
    "Pen": ("qpos", "qvel", "desired_orien"),
    "Relocate": ("qpos", "qvel", "obj_pos", "target_pos"),
}

_REWARD_DEFAULTS = {"reward": "sparse", "reward_scale": 1.0, "success_bonus": 0.0}


def normalized_score(task: str, episode_return: float | np.ndarray) -> float | np.ndarray:
    """D4RL's normalised score: 0 for its random policy, 100 for its expert.

    The reference returns were measured with the dense rewards of the v0 environments. The v1 rewards differ
    (gymnasium-robotics changed them in 1.2.1), so the scale orders runs of this package and is not comparable with
    published numbers.

    :param task: Door, Hammer, Pen or Relocate.
    :param episode_return: undiscounted sum of unscaled dense rewards over full episodes.
    :return: the score in per cent, of the argument's shape.
    """
    low, high = D4RL_REFERENCE_RETURNS[task]
    return 100.0 * (episode_return - low) / (high - low)


class AdroitEnv(gym.Env):
    """One Adroit task, step by step.

    Observations are the engine's state vectors in single precision (39 numbers for Door, 46 Hammer, 45 Pen,
    39 Relocate), or pictures of its default camera, or both; actions are the engine's, joint targets scaled to ±1 (28, 26,
    24, 30).

    The reward of a step is ``reward_scale * base + success_bonus * [the step succeeds]``. The sparse base is -1, and 0 on
    a step that succeeds. ``reward="sparse", reward_scale=0.1, success_bonus=10.0`` is the engine's own sparse reward.

    :param task: Door, Hammer, Pen or Relocate.
    :param reward: "sparse", or "dense" for the engine's shaped reward. The engine changed the latter in 1.2.1 and its
        v1 *adds* a tenth of the hand's distance to the object: compare runs by success.
    :param reward_scale: factor on the base reward.
    :param success_bonus: added on every step that succeeds, in unscaled reward.
    :param terminate_on_success: end the episode (``terminated``) at the first success. When False it runs to the time
        limit, and ``info["is_success"]`` still tells whether any step succeeded.
    :param obs_type: "state", "image" (one picture, uint8) or "state_image" (Dict of "state" and "image").
    :param image_size: height and width of the picture, pixels: a number or a pair.
    :param render_mode: None, "rgb_array" or "human", handed to the engine.
    """

    metadata = {"render_modes": ["human", "rgb_array"], "render_fps": 100}  # noqa: RUF012

    def __init__(
        self,
        task: str = "Relocate",
        reward: str = "sparse",
        reward_scale: float = 1.0,
        success_bonus: float = 0.0,
        terminate_on_success: bool = True,
        obs_type: str = "state",
        image_size: int | tuple[int, int] = 84,
        render_mode: str | None = None,
    ) -> None:
        if task not in D4RL_REFERENCE_RETURNS:
            raise ValueError(f"Adroit has the tasks {', '.join(D4RL_REFERENCE_RETURNS)}, not {task!r}.")
        if reward not in ("sparse", "dense"):
            raise ValueError(f'Adroit{task}: reward is "sparse" or "dense", not {reward!r}.')
        check_rewards(f"Adroit{task}", reward_scale=reward_scale, success_bonus=success_bonus)
        images.check_obs_type(f"Adroit{task}", obs_type)
        size = images.picture_size(f"Adroit{task}", image_size)
        prepare_drawing(render_mode if obs_type == "state" else "rgb_array")
        import_engine("gymnasium_robotics", "gymnasium-robotics", f"Adroit{task}", "adroit")
        # `unwrapped` drops the engine's own time limit: ours comes from the registration.
        self.engine: Any = gym.make(f"AdroitHand{task}-v1", render_mode=render_mode, disable_env_checker=True).unwrapped
        self.task = task
        self.reward = reward
        self.reward_scale = reward_scale
        self.success_bonus = success_bonus
        self.terminate_on_success = terminate_on_success
        self.obs_type = obs_type
        self.render_mode = render_mode
        self._camera = None if obs_type == "state" else images.EngineCamera(self.engine, size, f"Adroit{task}")
        state = spaces.Box(-np.inf, np.inf, self.engine.observation_space.shape, np.float32)
        pictures = {} if self._camera is None else {"image": images.picture_space(size)}
        self.observation_space = images.observation_space(obs_type, state, pictures)
        self.action_space = spaces.Box(-1.0, 1.0, self.engine.action_space.shape, np.float32)
        self._succeeded = False

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Start an episode.

        :param seed: makes the draw of the object and its goal reproducible.
        :param options: handed to the engine (``initial_state_dict``).
        :return: observation and info.
        """
        super().reset(seed=seed)
        observation, _ = self.engine.reset(seed=seed, options=options)
        self._succeeded = False
        return self._observe(observation), {"is_success": False}

    def step(self, action: np.ndarray) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Move the hand for one control step (five simulator steps).

        :param action: joint targets, shape (action_dim,), ±1.
        :return: observation, reward, terminated, truncated (always False here), info with ``is_success`` (any step so
            far), ``success`` (this step) and ``dense_reward`` (the engine's, unscaled).
        """
        observation, dense, _, _, engine_info = self.engine.step(action)
        success = bool(engine_info["success"])
        self._succeeded = self._succeeded or success
        base = float(dense) if self.reward == "dense" else float(success) - 1.0
        reward = self.reward_scale * base + self.success_bonus * success
        info = {"is_success": self._succeeded, "success": success, "dense_reward": float(dense)}
        return self._observe(observation), reward, success and self.terminate_on_success, False, info

    def _observe(self, state: np.ndarray) -> Any:
        pictures = {} if self._camera is None else {"image": self._camera.draw()}
        return images.observation(self.obs_type, state.astype(np.float32), pictures)

    def set_state(self, state: np.ndarray) -> Any:
        """Restore the first state of a recorded episode; call ``reset`` before.

        In Relocate only an episode's first state is restored: the engine takes the ball's position for where it began.

        :param state: the parts of ``STATE_PARTS[task]`` one behind the other.
        :return: the observation.
        """
        engine: Any = self.engine
        parts = STATE_PARTS[self.task]
        known = engine.get_env_state()
        sizes = [known[part].size for part in parts]
        state = np.asarray(state, dtype=np.float64)
        if state.shape != (sum(sizes),):
            raise ValueError(f"Adroit{self.task}: a state has the shape ({sum(sizes)},), not {state.shape}.")
        found = dict(zip(parts, np.split(state, np.cumsum(sizes)[:-1]), strict=True))
        # Some versions of the engine also ask for what follows from these, and use it no further.
        wanted = engine._state_space.spaces
        engine.set_env_state({key: found.get(key, known[key]) for key in wanted})
        return self._observe(engine._get_obs())

    def normalized_score(self, episode_return: float | np.ndarray) -> float | np.ndarray:
        """The module's ``normalized_score`` of this task, refused where the return is on another scale.

        :param episode_return: undiscounted return of a full episode.
        :return: score in per cent.
        """
        if self.reward != "dense" or self.reward_scale != 1.0 or self.success_bonus != 0.0 or self.terminate_on_success:
            raise ValueError(
                f"Adroit{self.task}: D4RL's normalised score needs unscaled dense rewards over full episodes; make the "
                'environment with reward="dense", reward_scale=1.0, success_bonus=0.0, terminate_on_success=False.'
            )
        return normalized_score(self.task, episode_return)

    def render(self) -> Any:
        """The engine's picture: (480, 480, 3) uint8 for "rgb_array", else None."""
        if self.render_mode is None:
            return None
        images.make_current(self.engine.mujoco_renderer)
        return self.engine.render()

    def close(self) -> None:
        """Free the renderers."""
        if self._camera is not None:
            self._camera.close()
        self.engine.close()


def adapt_demonstrations(
    demonstrations: "DemonstrationSet",
    reward: str = "sparse",
    reward_scale: float = 1.0,
    success_bonus: float = 0.0,
    **_: Any,
) -> "DemonstrationSet":
    """Forget rewards that are known to be on another scale than the environment's; observations and actions agree.

    :param demonstrations: collected by this package, or Minari's and D4RL's, whose rewards are the engine's.
    :param reward: of the environment, as the next two.
    :param reward_scale: factor on the base reward.
    :param success_bonus: added on a step that succeeds.
    :return: the set, without rewards where they do not match; sets of unknown origin keep theirs.
    """
    wanted = (reward, reward_scale, success_bonus)
    recorded = None
    if str(demonstrations.meta.get("env_id")).startswith("ogpo/Adroit"):
        made_with = demonstrations.meta.get("env_kwargs", {})
        recorded = tuple(made_with.get(key, default) for key, default in _REWARD_DEFAULTS.items())
    elif demonstrations.meta.get("format") in ("Minari", "D4RL"):
        recorded = ("dense", 1.0, 0.0)
    if demonstrations.rewards is None or recorded in (None, wanted):
        return demonstrations
    return replace(demonstrations, rewards=None)
