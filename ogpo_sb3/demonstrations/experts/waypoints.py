"""Waypoint control of robosuite arms: what the scripted experts of the Robomimic tasks share.

A task's script is a generator. It gives arms their next waypoint and yields once per control step until the simulator's
state says that the waypoint is reached; the expert then turns the waypoints into the actions of robosuite's operational
space controller. Scripts read privileged state (poses of bodies, sites and geoms), which a policy does not see.
"""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

Plan = Iterator[None]
Script = Callable[["list[Arm]", "Scene"], Plan]

OPEN, CLOSED = -1.0, 1.0
# Control steps in which the command of the Panda's fingers goes from one end to the other; the fingers follow within four.
GRIPPER_STEPS = 8
DOWN, UP = np.array([0.0, 0.0, -1.0]), np.array([0.0, 0.0, 1.0])


class Scene:
    """Positions and orientations by name, in the world's frame, as the simulator has them now.

    :param env: the robosuite environment; its ``sim`` may be replaced by a reset.
    """

    def __init__(self, env: Any) -> None:
        self.env = env

    def body(self, name: str) -> np.ndarray:
        """Position (3,) of a body's frame, in m."""
        return np.array(self.env.sim.data.get_body_xpos(name))

    def body_rotation(self, name: str) -> np.ndarray:
        """Orientation (3, 3) of a body's frame; columns are its axes."""
        return np.array(self.env.sim.data.get_body_xmat(name)).reshape(3, 3)

    def site(self, name: str) -> np.ndarray:
        """Position (3,) of a site, in m."""
        return np.array(self.env.sim.data.get_site_xpos(name))

    def geom(self, name: str) -> np.ndarray:
        """Position (3,) of a geom's centre, in m."""
        return np.array(self.env.sim.data.get_geom_xpos(name))


class Arm:
    """One robot with a parallel gripper under OSC_POSE, and the waypoint it goes to.

    :param env: the robosuite environment.
    :param index: which of its robots.
    """

    def __init__(self, env: Any, index: int = 0) -> None:
        self.env, self.index = env, index
        self.goal_position = self.position
        self.goal_rotation = self.rotation
        self.grip = OPEN
        self.speed = 1.0

    @property
    def position(self) -> np.ndarray:
        """Position (3,) between the fingertips, in m."""
        return np.array(self.env.sim.data.site_xpos[self.env.robots[self.index].eef_site_id])

    @property
    def rotation(self) -> np.ndarray:
        """Orientation (3, 3): columns are the axis along which the fingers close, the axis across, and the approach."""
        return np.array(self.env.sim.data.site_xmat[self.env.robots[self.index].eef_site_id]).reshape(3, 3)

    @property
    def base(self) -> np.ndarray:
        """Position (3,) of the robot's base, in m."""
        return np.array(self.env.robots[self.index].base_pos)

    def action(self) -> np.ndarray:
        """The controller's input (7,) that moves towards the waypoint: translation, rotation vector, gripper; ±1."""
        controller = self.env.robots[self.index].controller
        shift = (self.goal_position - self.position) / controller.output_max[:3]
        turn = rotation_vector(self.goal_rotation @ self.rotation.T) / controller.output_max[3:6]
        # Both parts are scaled as a whole: a clipped direction would bend the path.
        shift *= min(1.0, self.speed / max(np.abs(shift).max(), 1e-9))
        turn *= min(1.0, self.speed / max(np.abs(turn).max(), 1e-9))
        return np.concatenate([shift, turn, [self.grip]])

    def go(
        self,
        position: np.ndarray | Callable[[], np.ndarray],
        rotation: np.ndarray | Callable[[], np.ndarray] | None = None,
        *,
        grip: float | None = None,
        tolerance: float = 0.01,
        angle: float = 0.1,
        limit: int = 60,
        speed: float = 1.0,
    ) -> Plan:
        """Move to a waypoint.

        :param position: of the fingertips, (3,) in m; a function is asked in every step, so that a held object can be
            steered by its own pose.
        :param rotation: as ``Arm.rotation``, likewise; None keeps the last waypoint's.
        :param grip: OPEN or CLOSED from the first step on; None leaves the fingers as they are.
        :param tolerance: distance in m at which the waypoint counts as reached.
        :param angle: the same for the rotation, in rad.
        :param limit: control steps after which the plan goes on regardless.
        :param speed: largest entry of the commanded translation and rotation, in (0, 1].
        """
        aim = _constant(position)
        turn = _constant(self.goal_rotation if rotation is None else rotation)
        self.speed = speed
        if grip is not None:
            self.grip = grip
        for _ in range(limit):
            self.goal_position, self.goal_rotation = aim(), turn()
            off = np.linalg.norm(self.goal_position - self.position)
            if off < tolerance and np.linalg.norm(rotation_vector(self.goal_rotation @ self.rotation.T)) < angle:
                return
            yield

    def grasp(self, grip: float, steps: int = GRIPPER_STEPS) -> Plan:
        """Open or close the fingers where the arm is.

        :param grip: OPEN or CLOSED.
        :param steps: control steps to wait.
        """
        self.grip = grip
        for _ in range(steps):
            yield

    def holds(self, thing: Any) -> bool:
        """Whether both fingers touch a robosuite object."""
        return bool(self.env._check_grasp(gripper=self.env.robots[self.index].gripper, object_geoms=thing))


def _constant(value: np.ndarray | Callable[[], np.ndarray]) -> Callable[[], np.ndarray]:
    return value if callable(value) else lambda: value


def together(*plans: Plan) -> Plan:
    """Run plans of different arms at once, until the last one ends.

    :param plans: one per arm.
    """
    running = list(plans)
    while True:
        running = [plan for plan in running if next(plan, _DONE) is not _DONE]
        if not running:
            return
        yield


_DONE = object()


def rotation_vector(matrix: np.ndarray) -> np.ndarray:
    """Axis times angle of a rotation.

    :param matrix: (3, 3).
    :return: (3,), of length in [0, π].
    """
    skew = np.array([matrix[2, 1] - matrix[1, 2], matrix[0, 2] - matrix[2, 0], matrix[1, 0] - matrix[0, 1]])
    sine, cosine = np.linalg.norm(skew) / 2.0, (np.trace(matrix) - 1.0) / 2.0
    angle = np.arctan2(sine, cosine)
    if sine > 1e-6:
        return skew * (angle / (2.0 * sine))
    if cosine > 0.0:
        return skew / 2.0
    # Half a turn: the axis is the eigenvector of (R + 1) / 2, its longest column the best-conditioned copy.
    columns = (matrix + np.eye(3)) / 2.0
    axis = columns[:, np.argmax(np.diag(columns))]
    return np.pi * axis / np.linalg.norm(axis)


def turn_about(axis: np.ndarray, angle: float) -> np.ndarray:
    """Rotation matrix (3, 3) about an axis (Rodrigues' formula).

    :param axis: (3,), of any length above zero.
    :param angle: in rad.
    """
    x, y, z = axis / np.linalg.norm(axis)
    cross = np.array([[0.0, -z, y], [z, 0.0, -x], [-y, x, 0.0]])
    return np.eye(3) + np.sin(angle) * cross + (1.0 - np.cos(angle)) * cross @ cross


def gripper(approach: np.ndarray, closing: np.ndarray) -> np.ndarray:
    """Orientation (3, 3) of a gripper.

    :param approach: direction (3,) in which the fingers point.
    :param closing: direction (3,) along which they close; its part along ``approach`` is dropped.
    """
    z = approach / np.linalg.norm(approach)
    x = closing - (closing @ z) * z
    x /= np.linalg.norm(x)
    return np.stack([x, np.cross(z, x), z], axis=1)


def nearest_yaw(direction: np.ndarray, current: np.ndarray, symmetry: int) -> np.ndarray:
    """The horizontal direction, among those that an object's symmetry makes equal, that is nearest to the current one.

    :param direction: (3,); only x and y count.
    :param current: (3,), such as the axis along which the fingers close now.
    :param symmetry: number of equal directions in a full turn: 2 for a bar, 4 for a square.
    :return: unit vector (3,) in the horizontal plane.
    """
    start = np.arctan2(direction[1], direction[0])
    angles = start + 2.0 * np.pi * np.arange(symmetry) / symmetry
    candidates = np.stack([np.cos(angles), np.sin(angles), np.zeros(symmetry)], axis=1)
    return candidates[np.argmax(candidates @ current)]
