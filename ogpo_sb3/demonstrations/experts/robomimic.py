"""Scripted experts for the Robomimic tasks: waypoint control on the simulator's privileged state.

They need no data and no training. They are not the human demonstrations published with robomimic: their motions are more
uniform, and files made with them say so in their metadata.
"""

from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np

from ogpo_sb3.demonstrations.experts.robosuite_tabletop import can, lift, square
from ogpo_sb3.demonstrations.experts.robosuite_tool_hang import tool_hang
from ogpo_sb3.demonstrations.experts.robosuite_transport import transport
from ogpo_sb3.demonstrations.experts.waypoints import Arm, Plan, Scene, Script

# Standard deviation of the noise at scale 1, in units of the action: 5 mm and 0.05 rad of commanded motion per step.
NOISE_STD = 0.1


@dataclass(frozen=True)
class _Task:
    engine: str  # robosuite's class
    script: Script
    arms: int = 1


TASKS = {
    "Lift": _Task("Lift", lift),
    "Can": _Task("PickPlaceCan", can),
    "Square": _Task("NutAssemblySquare", square),
    "ToolHang": _Task("ToolHang", tool_hang),
    "Transport": _Task("TwoArmTransport", transport, arms=2),
}


class RobomimicExpert:
    """Drives the arms of one robosuite environment through a task's script.

    The script reads the simulator, not the observation, so an expert belongs to its environment. A reset of the environment
    starts the script anew, as does reaching its end without success.

    :param task: Lift, Can, Square, ToolHang or Transport.
    :param env: the robosuite environment, with Panda arms under OSC_POSE.
    :raises ValueError: for an unknown task, an environment of another task, other robots or another controller.
    """

    def __init__(self, task: str, env: Any) -> None:
        if task not in TASKS:
            raise ValueError(f"There are scripted experts for {', '.join(TASKS)}, not for {task!r}.")
        self.task, self.env = task, env
        wanted, found = TASKS[task], type(env).__name__
        if found != wanted.engine:
            raise ValueError(f"The expert for {task} acts in robosuite's {wanted.engine}, not in {found}.")
        robots = [robot.name for robot in env.robots]
        if robots != ["Panda"] * wanted.arms:
            raise ValueError(f"The expert for {task} moves {wanted.arms} Panda arm(s), not {robots}.")
        for robot in env.robots:
            if robot.controller.name != "OSC_POSE" or not robot.controller.use_delta:
                found = robot.controller.name
                raise ValueError(f"The expert for {task} commands pose differences (OSC_POSE, control_delta), not {found}.")
        self.source = f"scripted expert for {task} (waypoints on privileged state)"
        self._plan: Plan | None = None
        self._arms: list[Arm] = []
        self._due: tuple[Any, int] | None = None

    def act(self, observation: Any, rng: np.random.Generator, noise: float = 0.0) -> np.ndarray:
        """The expert's action for the simulator's present state.

        :param observation: not read.
        :param rng: source of the noise.
        :param noise: multiple of ``NOISE_STD``, added to translations and rotations; the fingers get none.
        :return: (7,) per arm, float32, clipped to ±1.
        """
        present = (self.env.sim, self.env.timestep)
        if self._due is None or present[0] is not self._due[0] or present[1] != self._due[1]:
            self._begin()
        self._due = (self.env.sim, self.env.timestep + 1)
        assert self._plan is not None
        if next(self._plan, _END) is _END:
            self._begin()
            next(self._plan, _END)
        actions = np.stack([arm.action() for arm in self._arms])
        if noise > 0.0:
            actions[:, :-1] += noise * NOISE_STD * rng.standard_normal(actions[:, :-1].shape)
        return np.clip(actions.reshape(-1), -1.0, 1.0).astype(np.float32)

    def _begin(self) -> None:
        self._arms = [Arm(self.env, index) for index in range(TASKS[self.task].arms)]
        self._plan = TASKS[self.task].script(self._arms, Scene(self.env))


_END = object()


def make_expert(env: gym.Env[Any, Any]) -> RobomimicExpert:
    """The expert of a Robomimic environment (``Task.expert`` of the registry points here).

    :param env: an ``ogpo/Robomimic*-v0`` environment.
    :return: its scripted expert.
    :raises ValueError: for an environment of another benchmark.
    """
    engine = getattr(env.unwrapped, "robosuite", None)
    names = {task.engine: name for name, task in TASKS.items()}
    if type(engine).__name__ not in names:
        raise ValueError(f"The scripted experts act in ogpo/Robomimic*-v0 environments, not in {env}.")
    return RobomimicExpert(names[type(engine).__name__], engine)
