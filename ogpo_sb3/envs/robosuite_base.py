"""What Robomimic and LIBERO share: robosuite's engine, step by step, under Gymnasium's interface.

robosuite draws starts, and the sizes of some objects, from numpy's global generator. Here that generator is seeded for the
moment of a reset and put back afterwards, so that an episode depends on its own seed only and disturbs nobody else.
"""

import atexit
import contextlib
import logging
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import ModuleType
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from ogpo_sb3.envs import images
from ogpo_sb3.envs.registry import check_rewards, import_engine, prepare_drawing
from ogpo_sb3.envs.rendering import watched

# Videos, pixels: the largest square that robosuite's off-screen buffer holds.
RENDER_SIZE = 480
# Constructors draw as well; what they draw is the same every time.
_CONSTRUCTION_SEED = 0


def import_robosuite(environment: str, extra: str) -> ModuleType:
    """robosuite, without its three warnings about a file of private settings.

    :param environment: what the user asked for, for messages.
    :param extra: the pip extra that belongs to it.
    :return: the module.
    :raises ImportError: it is missing, or what it draws with does not load, which it needs even where nothing is drawn.
    """
    before = logging.root.manager.disable
    logging.disable(max(before, logging.WARNING))
    try:
        return import_engine("robosuite", "robosuite", environment, extra)
    except ImportError:
        raise
    except Exception as error:  # PyOpenGL raises AttributeError where the library is absent
        raise ImportError(
            f"{environment}: robosuite does not load its OpenGL library ({error}); install libegl1, or libosmesa6 and set "
            "MUJOCO_GL=osmesa, as docs/install.md says.",
            name="robosuite",
        ) from error
    finally:
        logging.disable(before)


@contextlib.contextmanager
def global_seed(seed: int) -> Iterator[None]:
    """Seed numpy's global generator for a while, then put its state back.

    :param seed: below 2^32.
    """
    state = np.random.get_state()
    np.random.seed(seed)
    try:
        yield
    finally:
        np.random.set_state(state)


def _close_if_alive(reference: "weakref.ref[RobosuiteEnv]") -> None:
    env = reference()
    if env is not None:
        env.close()


class RobosuiteEnv(gym.Env):
    """A robosuite environment with the paper's reward, and success as its end.

    A subclass builds the engine and hands it to ``_start``.

    :param name: what to call the environment in messages.
    :param reward: "sparse", or "dense" for the engine's shaped reward.
    :param reward_scale: factor on the base reward; the sparse base is -1, and 0 on a step that succeeds.
    :param success_bonus: added on every step that succeeds.
    :param post_success_steps: steps between the first success and the end of the episode.
    :param obs_type: "state", "image" or "state_image".
    :param image_size: (height, width) of a picture, or one number.
    :param cameras: names of the engine's cameras.
    :param render_mode: None or "rgb_array".
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 20}  # noqa: RUF012

    #: the robosuite environment underneath, privileged state and all
    robosuite: Any

    def __init__(
        self,
        name: str,
        reward: str,
        reward_scale: float,
        success_bonus: float,
        post_success_steps: int,
        obs_type: str,
        image_size: int | tuple[int, int],
        cameras: Sequence[str],
        render_mode: str | None,
    ) -> None:
        images.check_obs_type(name, obs_type)
        if reward not in ("sparse", "dense"):
            raise ValueError(f'{name}: reward is "sparse" or "dense", not {reward!r}.')
        check_rewards(name, reward_scale=reward_scale, success_bonus=success_bonus)
        if isinstance(post_success_steps, bool) or int(post_success_steps) != post_success_steps or post_success_steps < 0:
            raise ValueError(f"{name}: post_success_steps is a whole number of at least 0, not {post_success_steps!r}.")
        if render_mode not in (None, "rgb_array"):
            raise ValueError(f'{name}: render_mode is None or "rgb_array", not {render_mode!r}.')
        if obs_type != "state" and (isinstance(cameras, str) or not cameras or len(set(cameras)) < len(cameras)):
            raise ValueError(f"{name}: cameras is a list of different camera names, not {cameras!r}.")
        self.name = name
        self.reward = reward
        self.reward_scale = reward_scale
        self.success_bonus = success_bonus
        self.post_success_steps = int(post_success_steps)
        self.obs_type = obs_type
        self.image_size = images.picture_size(name, image_size)
        self.cameras = () if obs_type == "state" else tuple(cameras)
        self.render_mode = render_mode
        self._draws = bool(self.cameras) or render_mode is not None
        prepare_drawing("rgb_array" if self._draws else None)
        self._closed = False
        self._steps_after_success: int | None = None  # None: no success yet in this episode
        self._raw: Mapping[str, np.ndarray] = {}
        self._recorded_model: str | None = None  # given to set_state, until the engine loads its own again

    def _start(
        self, build: Callable[[], Any], state_keys: Sequence[str], constants: Mapping[str, np.ndarray] | None = None
    ) -> None:
        """Build the engine and read the sizes of observations and actions from it.

        :param build: makes the robosuite environment.
        :param state_keys: the engine's observations that make up the state vector, in order.
        :param constants: float32 vectors that every observation carries, by name.
        """
        self._constants = dict(constants or {})
        try:
            with self._drawing(), global_seed(_CONSTRUCTION_SEED):
                self.robosuite = build()
        except ValueError as error:  # a camera that does not exist
            raise ValueError(f"{self.name} with the cameras {list(self.cameras)}: {error}") from error
        if self._draws:
            # Registered after the engine's own, so run before it: a context freed after the display is an error at exit.
            atexit.register(_close_if_alive, weakref.ref(self))
        sample = self.robosuite.observation_spec()
        missing = [key for key in state_keys if key not in sample]
        if missing or not state_keys:
            vectors = [key for key, value in sample.items() if np.ndim(value) < 2]
            found = repr(missing[0]) if missing else "nothing"
            raise ValueError(f"{self.name}: state_keys names {found}; the engine observes {', '.join(vectors)}.")
        self.state_keys = tuple(state_keys)
        state_size = sum(np.size(sample[key]) for key in self.state_keys)
        state = spaces.Box(-np.inf, np.inf, (state_size,), np.float32)
        others: dict[str, spaces.Space[Any]] = dict.fromkeys(self.cameras, images.picture_space(self.image_size))
        others.update({key: spaces.Box(-np.inf, np.inf, value.shape, np.float32) for key, value in self._constants.items()})
        self.observation_space = images.observation_space(self.obs_type, state, others)
        low, high = self.robosuite.action_spec
        assert (low == -1.0).all() and (high == 1.0).all(), "robosuite's actions are ±1 with an OSC controller"
        self.action_space = spaces.Box(-1.0, 1.0, low.shape, np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Start an episode.

        :param seed: makes the start, and the sizes that the engine draws, reproducible.
        :param options: ``{"state": flat state, "model_xml": model}`` goes on from a recorded state, as ``set_state``.
        :return: observation and info.
        """
        super().reset(seed=seed)
        with self._drawing(), global_seed(int(self.np_random.integers(2**32))):
            if self._recorded_model is not None:
                self._reload()
            self._raw = self._reset_engine(options or {})
        self._steps_after_success = None
        if options is not None and "state" in options:
            self.set_state(options["state"], options.get("model_xml"))
        return self._observe(), self._info(False)

    def step(self, action: np.ndarray) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Hold an action for one control step (1/20 s, 25 simulator steps).

        :param action: shape of the action space, ±1: per arm a change of the hand's position (3; 0.05 m), of its orientation
            (3, axis and angle; 0.5 rad), and the gripper (1; positive closes).
        :return: observation, reward, terminated, truncated (always False here), info with ``is_success`` (any step so far)
            and ``success`` (this step).
        :raises ValueError: wrong shape, or an action that is not finite.
        """
        action = np.asarray(action, dtype=np.float64)
        if action.shape != self.action_space.shape:
            raise ValueError(f"{self.name}: the action has the shape {action.shape}, not {self.action_space.shape}.")
        if not np.isfinite(action).all():
            raise ValueError(f"{self.name}: the action holds NaN or infinity: {action}.")
        with self._drawing():
            self._raw, dense, _, _ = self.robosuite.step(action)
        success = bool(self.robosuite._check_success())
        if self._steps_after_success is not None:
            self._steps_after_success += 1
        elif success:
            self._steps_after_success = 0
        base = float(dense) if self.reward == "dense" else float(success) - 1.0
        reward = self.reward_scale * base + self.success_bonus * success
        done = self._steps_after_success is not None and self._steps_after_success >= self.post_success_steps
        return self._observe(), float(reward), done, False, self._info(success)

    @property
    def state(self) -> np.ndarray:
        """The simulator's flat state: time, positions, velocities; what a robomimic file records per step."""
        return np.array(self.robosuite.sim.get_state().flatten())

    @property
    def model_xml(self) -> str:
        """The simulated model, in which object sizes differ between episodes; what a robomimic file records per episode."""
        # Not MuJoCo's own copy, which is that of whichever environment of the process was loaded last.
        return self.robosuite.model.get_xml() if self._recorded_model is None else self._recorded_model

    def set_state(self, state: np.ndarray, model_xml: str | None = None) -> Any:
        """Put the simulator into a recorded state; success counts afresh from there.

        The controllers' memory is not part of a state, so call ``reset`` before, and actions of a recording replay closely
        rather than to the bit.

        :param state: flat state, as ``state`` returns it.
        :param model_xml: the recording's model, if it is not the present one; its paths are moved to this installation.
        :return: the observation there.
        :raises ValueError: the state does not fit the model, or the model not this version of robosuite; ``reset`` then goes
            on with the engine's own.
        """
        with self._drawing():
            if model_xml is not None:
                self._recorded_model = self._localized(model_xml)
                try:
                    with global_seed(_CONSTRUCTION_SEED):
                        self.robosuite.reset_from_xml_string(self._recorded_model)
                except Exception as error:
                    self.robosuite.deterministic_reset = False  # as robosuite does where it succeeds
                    raise ValueError(f"{self.name}: the recorded model does not fit this robosuite: {error}") from error
                self.robosuite.sim.reset()
            model = self.robosuite.sim.model
            wanted = (1 + model.nq + model.nv,)
            state = np.asarray(state, dtype=np.float64)
            if state.shape != wanted or not np.isfinite(state).all():
                raise ValueError(f"{self.name}: a state has {wanted[0]} finite numbers, found the shape {state.shape}.")
            self.robosuite.sim.set_state_from_flattened(state)
            self.robosuite.sim.forward()
            self._raw = self.robosuite._get_observations(force_update=True)
        self._steps_after_success = None
        return self._observe()

    def render(self) -> np.ndarray | None:
        """A picture of the agent's view, (480, 480, 3) uint8; None without a render mode."""
        if self.render_mode is None:
            return None
        with self._drawing():
            picture = self.robosuite.sim.render(height=RENDER_SIZE, width=RENDER_SIZE, camera_name="agentview")
        return np.ascontiguousarray(picture[::-1])

    def close(self) -> None:
        """Free simulator and renderer; nothing can be done with the environment afterwards."""
        if not self._closed and getattr(self, "robosuite", None) is not None:
            self._closed = True
            # What is freed belongs to the current context. Not watched: at the interpreter's end no thread starts any more.
            if self._draws:
                self._make_current()
            self.robosuite.close()

    def __del__(self) -> None:
        # An environment that is dropped must not free its renderer while another's context is the current one.
        if getattr(self, "_draws", False):
            self.close()

    def _localized(self, model_xml: str) -> str:
        """A recorded model with the paths of this installation."""
        return self.robosuite.edit_model_xml(model_xml)

    def _reload(self) -> None:
        """Go back from a recorded model to the engine's own."""
        if not self.robosuite.hard_reset:
            self.robosuite.close()
            self.robosuite._initialize_sim()
        self._recorded_model = None

    def _reset_engine(self, options: dict[str, Any]) -> Mapping[str, np.ndarray]:
        """Start the engine's episode.

        :param options: of ``reset``.
        :return: the engine's observations.
        """
        return self.robosuite.reset()

    def _observe(self) -> Any:
        state = np.concatenate([self._raw[key] for key in self.state_keys], dtype=np.float32, casting="same_kind")
        # OpenGL counts rows from below.
        others = {camera: np.ascontiguousarray(self._raw[f"{camera}_image"][::-1]) for camera in self.cameras}
        others.update({key: value.copy() for key, value in self._constants.items()})
        return images.observation(self.obs_type, state, others)

    def _info(self, success: bool) -> dict[str, Any]:
        return {"is_success": self._steps_after_success is not None, "success": success}

    @contextlib.contextmanager
    def _drawing(self) -> Iterator[None]:
        """Around whatever may draw: watched, and with this environment's OpenGL context as the current one.

        robosuite makes a context current once, when it is made: a second environment of the process, such as one for
        evaluation, would have the first draw into the wrong one from then on.
        """
        if not self._draws:
            yield
            return
        with watched(self.name):
            self._make_current()
            yield

    def _make_current(self) -> None:
        # A method of its own, whose references end with it: one that outlived a reset would have the old context freed after
        # the new one was made, and with it the new one's buffers, which go by the same numbers.
        simulator = getattr(getattr(self, "robosuite", None), "sim", None)
        context = getattr(simulator, "_render_context_offscreen", None)
        if context is not None:
            context.gl_ctx.make_current()
