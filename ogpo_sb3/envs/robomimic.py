"""Robomimic's five simulated tasks, on robosuite 1.4.1 under robomimic's conventions.

What robomimic's files and configurations fix (Mandlekar et al. 2021; robomimic 0.3.0): a Panda arm per robot, operational
space control of the hand's pose, 20 control steps per second, starts drawn by the engine with the model loaded anew for each
episode, and which low-dimensional observations are concatenated in which order. robomimic itself is not needed.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

from ogpo_sb3.envs.robosuite_base import RobosuiteEnv, import_robosuite


class Engine(NamedTuple):
    """How robosuite knows a task."""

    name: str
    cameras: tuple[str, ...]
    arms: int = 1
    dense: bool = True  # whether robosuite has a shaped reward for it


_WRIST = "robot0_eye_in_hand"
# Cameras: those of robomimic's image data sets.
TASKS: dict[str, Engine] = {
    "Lift": Engine("Lift", ("agentview", _WRIST)),
    "Can": Engine("PickPlaceCan", ("agentview", _WRIST)),
    "Square": Engine("NutAssemblySquare", ("agentview", _WRIST)),
    "ToolHang": Engine("ToolHang", ("sideview", _WRIST), dense=False),
    "Transport": Engine(
        "TwoArmTransport",
        ("shouldercamera0", _WRIST, "shouldercamera1", "robot1_eye_in_hand"),
        arms=2,
        dense=False,
    ),
}
# robomimic's number for robosuite among its kinds of environments.
_ROBOSUITE_TYPE = 1


def low_dim_keys(task: str, objects: bool = True) -> tuple[str, ...]:
    """The low-dimensional observations of a task, in the order in which they are concatenated.

    These are the names in robomimic's files, and the order of its low-dimensional configurations.

    :param task: Lift, Can, Square, ToolHang or Transport.
    :param objects: also the objects' poses; without them what is left is proprioception, robomimic's choice beside pictures.
    :return: observation names.
    """
    arms = range(_engine(task).arms)
    proprioception = tuple(f"robot{arm}_{part}" for arm in arms for part in ("eef_pos", "eef_quat", "gripper_qpos"))
    return (*proprioception, "object") if objects else proprioception


def _engine(task: str) -> Engine:
    if task not in TASKS:
        raise ValueError(f"Robomimic has the tasks {', '.join(TASKS)}, not {task!r}.")
    return TASKS[task]


class RobomimicEnv(RobosuiteEnv):
    """One Robomimic task, step by step.

    The reward of a step is ``reward_scale * base + success_bonus * [the step succeeds]``. The sparse base is -1, and 0 on a
    step that succeeds. The first success ends the episode, ``post_success_steps`` later.

    Observations by ``obs_type``:

    - "state": hand positions, orientations (quaternion x, y, z, w), finger positions, then the objects: 19 numbers for Lift,
      23 for Can and Square, 53 for ToolHang, 59 for Transport;
    - "image": one camera's picture (height, width, 3) uint8, or a Dict of several cameras by name;
    - "state_image": Dict of the cameras and "state", which here is proprioception alone (9 numbers per arm), as pictures are
      there to show the objects. ``state_keys=low_dim_keys(task)`` observes both.

    Actions are 7 numbers per arm in ±1, robomimic's.

    :param task: Lift, Can, Square, ToolHang or Transport.
    :param obs_type: see above.
    :param image_size: height and width of the pictures, pixels: a number or a pair.
    :param cameras: names of the engine's cameras; robomimic's for this task when None.
    :param state_keys: robomimic's names of the observations in the state vector; as described above when None.
    :param reward: "sparse", or "dense" for robosuite's shaped reward in [0, 1] (Lift, Can and Square).
    :param reward_scale: factor on the base reward.
    :param success_bonus: added on every step that succeeds; 5 in the paper's code, which its data do not have.
    :param post_success_steps: steps that the episode goes on after the first success.
    :param hard_reset: load the model anew for each episode, as robomimic does: the cube of Lift and the hammer of Transport
        differ in size between episodes. False resets faster and keeps them.
    :param render_mode: None or "rgb_array".
    """

    def __init__(
        self,
        task: str = "Square",
        obs_type: str = "state",
        image_size: int | tuple[int, int] = 84,
        cameras: Sequence[str] | None = None,
        state_keys: Sequence[str] | None = None,
        reward: str = "sparse",
        reward_scale: float = 1.0,
        success_bonus: float = 0.0,
        post_success_steps: int = 0,
        hard_reset: bool = True,
        render_mode: str | None = None,
    ) -> None:
        engine = _engine(task)
        super().__init__(
            name=f"Robomimic{task}",
            reward=reward,
            reward_scale=reward_scale,
            success_bonus=success_bonus,
            post_success_steps=post_success_steps,
            obs_type=obs_type,
            image_size=image_size,
            cameras=engine.cameras if cameras is None else cameras,
            render_mode=render_mode,
        )
        if reward == "dense" and not engine.dense:
            raise ValueError(f'Robomimic{task}: robosuite has no shaped reward for it, so reward is "sparse".')
        self.task = task
        suite = import_robosuite(self.name, "robomimic")
        self.env_args: dict[str, Any] = {
            "env_name": engine.name,
            "env_version": suite.__version__,
            "type": _ROBOSUITE_TYPE,
            "env_kwargs": self._engine_kwargs(suite, engine, hard_reset),
        }
        keys = low_dim_keys(task, objects=obs_type == "state") if state_keys is None else state_keys
        self._start(
            lambda: suite.make(engine.name, **self.env_args["env_kwargs"]),
            # robosuite concatenates what belongs to the objects under a name of its own.
            ["object-state" if key == "object" else key for key in keys],
        )

    def _engine_kwargs(self, suite: Any, engine: Engine, hard_reset: bool) -> dict[str, Any]:
        """Arguments of ``robosuite.make``, plain enough for a file."""
        height, width = self.image_size
        kwargs = {
            "robots": ["Panda"] * engine.arms,
            "controller_configs": suite.load_controller_config(default_controller="OSC_POSE"),
            "control_freq": 20,
            "reward_shaping": self.reward == "dense",
            "use_object_obs": True,
            "use_camera_obs": bool(self.cameras),
            "camera_depths": False,
            "camera_heights": height,
            "camera_widths": width,
            "has_renderer": False,
            "has_offscreen_renderer": self._draws,
            "ignore_done": True,  # the time limit is the registration's
            "hard_reset": hard_reset,
        }
        if self.cameras:
            kwargs["camera_names"] = list(self.cameras)
        return kwargs

    @property
    def engine_observation(self) -> dict[str, Any]:
        """The last observation under robomimic's names: every arm's own, "object", and the cameras' pictures, upright."""
        named = {}
        for key, value in self._raw.items():
            if key.endswith("_image"):
                named[key] = value[::-1]
            elif key.startswith("robot") and not key.endswith("proprio-state"):
                named[key] = value
        return {**named, "object": self._raw["object-state"]}
