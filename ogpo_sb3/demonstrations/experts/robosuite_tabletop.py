"""Scripts for Lift, Can and Square: one arm grasps an object from above and puts it where it belongs.

A script that finds its fingers empty returns, and the expert starts it again.
"""

import numpy as np

from ogpo_sb3.demonstrations.experts.waypoints import (
    CLOSED,
    DOWN,
    OPEN,
    UP,
    Arm,
    Plan,
    Scene,
    gripper,
    nearest_yaw,
    turn_about,
)


def lift(arms: list[Arm], scene: Scene) -> Plan:
    """Grasp the cube along the nearest pair of its sides and raise it."""
    (arm,) = arms
    cube = scene.env.cube.root_body
    rotation = gripper(DOWN, nearest_yaw(scene.body_rotation(cube)[:, 0], arm.rotation[:, 0], 4))
    yield from arm.go(scene.body(cube) + 0.06 * UP, rotation, grip=OPEN, tolerance=0.02, angle=0.15)
    yield from arm.go(lambda: scene.body(cube), rotation, tolerance=0.008)
    yield from arm.grasp(CLOSED)
    yield from arm.go(scene.body(cube) + 0.10 * UP, rotation)


def can(arms: list[Arm], scene: Scene) -> Plan:
    """Grasp the can near its top, carry it above its compartment and let it go just above the floor."""
    (arm,) = arms
    env = scene.env
    name = env.objects[env.object_id].root_body
    rotation = gripper(DOWN, nearest_yaw(arm.rotation[:, 0], arm.rotation[:, 0], 1))
    yield from arm.go(scene.body(name) + 0.12 * UP, rotation, grip=OPEN, tolerance=0.02, angle=0.2, limit=80)
    yield from arm.go(lambda: scene.body(name) + 0.02 * UP, rotation, tolerance=0.008)
    yield from arm.grasp(CLOSED)
    yield from arm.go(scene.body(name) + 0.25 * UP, rotation, tolerance=0.03)
    # The middle of the compartment is at the edge of the arm's reach: aim at its near quarter.
    target = env.target_bin_placements[env.object_id] - np.array([*env.bin_size[:2], 0.0]) / 8.0
    yield from arm.go(target + 0.30 * UP, rotation, tolerance=0.03, limit=100)
    yield from arm.go(target + 0.11 * UP, rotation, tolerance=0.02)
    yield from arm.grasp(OPEN)
    yield from arm.go(target + 0.30 * UP, rotation, tolerance=0.03)


def square(arms: list[Arm], scene: Scene) -> Plan:
    """Grasp the nut's handle from the sides, thread the nut over the square peg and let it go."""
    (arm,) = arms
    env = scene.env
    nut = env.nuts[env.nut_id]
    body, handle = nut.root_body, nut.important_sites["handle"]
    peg = scene.body("peg1")

    closing, turn = _grasp_and_turn(scene.site(handle) - scene.body(body), scene.body_rotation(body)[:, 0], arm)
    rotation = gripper(DOWN, closing)
    yield from arm.go(scene.site(handle) + 0.08 * UP, rotation, grip=OPEN, tolerance=0.008, angle=0.1, limit=60)
    yield from arm.go(lambda: scene.site(handle), rotation, tolerance=0.008)
    yield from arm.grasp(CLOSED)

    def over_peg(height: float) -> np.ndarray:
        """Fingertips that bring the nut's centre above the peg, from where both are now."""
        centre = scene.body(body)
        return arm.position + np.array([*(peg - centre)[:2], height - centre[2]])

    def squared() -> np.ndarray:
        """Fingers turned so that the nut's sides are parallel to the peg's."""
        side = scene.body_rotation(body)[:, 0]
        yaw = np.arctan2(side[0] * turn[1] - side[1] * turn[0], side @ turn)
        return turn_about(UP, yaw) @ gripper(DOWN, arm.rotation[:, 0])

    top = peg[2] + 0.1
    yield from arm.go(np.array([*arm.position[:2], top + 0.05]), rotation, tolerance=0.03)
    if _lost(arm, scene, body):
        return
    yield from arm.go(lambda: over_peg(top + 0.03), squared, tolerance=0.004, angle=0.05, limit=80)
    if _lost(arm, scene, body):
        return
    yield from arm.go(lambda: over_peg(top - 0.07), squared, tolerance=0.015, angle=0.2)
    yield from arm.grasp(OPEN)
    yield from arm.go(arm.position + 0.1 * UP, tolerance=0.03)


def _lost(arm: Arm, scene: Scene, body: str) -> bool:
    """Whether an object is no longer between the fingers."""
    return bool(np.linalg.norm(scene.body(body) - arm.position) > 0.1)


def _grasp_and_turn(handle: np.ndarray, side: np.ndarray, arm: Arm) -> tuple[np.ndarray, np.ndarray]:
    """How to hold the nut and how to turn it, with the least turning of the wrist from its rest.

    The handle must not point away from the robot: the hand would have to go beyond the peg, out of reach.

    :param handle: from the nut's centre to its handle, (3,).
    :param side: the nut's own x axis, (3,), which points along its handle.
    :param arm: whose fingers close along its rotation's first axis.
    :return: direction along which to close the fingers now, and direction of the nut's x axis above the peg.
    """
    start = _yaw(arm.rotation[:, 0])
    choices = []
    for grasp in _yaw(np.cross(UP, handle)) + np.pi * np.arange(2):
        first = _wrapped(grasp - start)
        for goal in np.pi * np.array([0.5, 1.0, 1.5]):
            turn = _wrapped(goal - _yaw(side))
            choices.append((max(abs(first), abs(first + turn)), first + start, goal))
    _, grasp, goal = min(choices)
    return _heading(grasp), _heading(goal)


def _yaw(direction: np.ndarray) -> float:
    return float(np.arctan2(direction[1], direction[0]))


def _heading(yaw: float) -> np.ndarray:
    return np.array([np.cos(yaw), np.sin(yaw), 0.0])


def _wrapped(angle: float) -> float:
    """The same angle in [-π, π)."""
    return (angle + np.pi) % (2.0 * np.pi) - np.pi
