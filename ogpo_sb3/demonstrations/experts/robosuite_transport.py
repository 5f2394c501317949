"""Script for Transport: two arms that face each other move a hammer from one table to the other.

The first arm takes the lid off its bin, puts it down beside the bin and fetches the hammer; the second meanwhile clears the
block out of the target bin. The hammer is handed over between the tables, where each arm reaches it with its hand tilted
forward, and the second arm puts it into the target bin.
"""

from functools import partial

import numpy as np

from ogpo_sb3.demonstrations.experts.waypoints import CLOSED, DOWN, OPEN, UP, Arm, Plan, Scene, gripper, nearest_yaw, together

X, Y = np.eye(3)[0], np.eye(3)[1]
TABLE = 0.8  # height of both tables in m
ABOVE_BINS = TABLE + 0.15 + 0.17  # fingertips here carry a load over a bin's walls
LID_PLACE = np.array([-0.2, -0.45])
MEETING_POINT = np.array([0.0, 0.0, 1.15])
TILT = np.pi / 4.0
# Where the arms hold the handle, in m from its middle, positive towards the head.
FIRST_GRIP, SECOND_GRIP = 0.045, -0.06
GRASP_STEPS = 12  # the fingers are wide open when they arrive
TRIES = 3
CARRYING = 0.5  # speed at which the hammer's head does not swing in the first arm's fingers


def transport(arms: list[Arm], scene: Scene) -> Plan:
    """Bring the hammer and the block where they belong; what is done already is left out."""
    first, second = arms
    group = scene.env.transport
    if group.payload_in_target_bin:
        yield from _clear_block(second, scene)
        return
    yield from together(_fetch_hammer(first, scene), _clear_block(second, scene))
    yield from _hand_over(first, second, scene)
    yield from _deliver(second, scene)


def _fetch_hammer(arm: Arm, scene: Scene) -> Plan:
    group = scene.env.transport
    bin_centre = scene.body(group.start_bin.root_body)
    if np.abs(group.lid_handle_pos - bin_centre)[:2].max() < 0.15:
        rotation = gripper(DOWN, nearest_yaw(scene.body_rotation(group.lid.root_body)[:, 0], arm.rotation[:, 0], 2))
        yield from arm.go(group.lid_handle_pos + 0.08 * UP, rotation, grip=OPEN, tolerance=0.02, angle=0.15, limit=80)
        yield from arm.go(lambda: group.lid_handle_pos, rotation, tolerance=0.01)
        yield from arm.grasp(CLOSED)
        yield from arm.go(group.lid_handle_pos + 0.1 * UP, rotation, tolerance=0.03)
        yield from arm.go(np.array([*LID_PLACE, ABOVE_BINS]), rotation, tolerance=0.03, limit=80)
        yield from arm.go(np.array([*LID_PLACE, TABLE + 0.035]), rotation, tolerance=0.015, limit=80)
        yield from arm.grasp(OPEN)
        yield from arm.go(arm.position + 0.1 * UP, tolerance=0.03)

    def handle() -> np.ndarray:
        return group.payload_pos + FIRST_GRIP * scene.body_rotation(group.payload.root_body)[:, 2]

    for _ in range(TRIES):
        head = scene.body_rotation(group.payload.root_body)[:, 2]
        rotation = gripper(DOWN, nearest_yaw(np.cross(UP, head), arm.rotation[:, 0], 2))
        yield from arm.go(np.array([*handle()[:2], ABOVE_BINS]), rotation, grip=OPEN, tolerance=0.02, limit=100)
        yield from arm.go(handle, rotation, tolerance=0.008, angle=0.15)
        yield from arm.grasp(CLOSED, GRASP_STEPS)
        yield from arm.go(np.array([*handle()[:2], ABOVE_BINS]), rotation, tolerance=0.03, speed=CARRYING)
        if arm.holds(group.payload):
            return


def _clear_block(arm: Arm, scene: Scene) -> Plan:
    group = scene.env.transport
    away = group.trash_bin_pos
    for _ in range(TRIES):
        if group.trash_in_trash_bin:
            return
        rotation = gripper(DOWN, nearest_yaw(scene.body_rotation(group.trash.root_body)[:, 0], arm.rotation[:, 0], 4))
        yield from arm.go(np.array([*group.trash_pos[:2], ABOVE_BINS]), rotation, grip=OPEN, limit=100)
        yield from arm.go(lambda: group.trash_pos, rotation, tolerance=0.008)
        yield from arm.grasp(CLOSED, GRASP_STEPS)
        yield from arm.go(np.array([*group.trash_pos[:2], ABOVE_BINS]), rotation, tolerance=0.03)
        if not arm.holds(group.trash):
            continue
        yield from arm.go(np.array([*away[:2], ABOVE_BINS]), rotation, tolerance=0.03, limit=100)
        yield from arm.go(np.array([*away[:2], TABLE + 0.12]), rotation, tolerance=0.03)
        yield from arm.grasp(OPEN)
        yield from arm.go(np.array([*away[:2], ABOVE_BINS]), rotation, tolerance=0.04, limit=20)


def _leaning(arm: Arm, along: np.ndarray) -> np.ndarray:
    """A hand tilted forward that holds a bar along ``along``, turned the way that is nearer to the present one."""
    forward = -np.sign(arm.base[1]) * Y
    approach = np.cos(TILT) * DOWN + np.sin(TILT) * forward
    closing = np.cross(approach, along)
    return gripper(approach, closing if closing @ arm.rotation[:, 0] >= 0.0 else -closing)


def _hand_over(first: Arm, second: Arm, scene: Scene) -> Plan:
    group = scene.env.transport
    yield from together(
        first.go(MEETING_POINT, _leaning(first, X), tolerance=0.02, angle=0.1, limit=100, speed=CARRYING),
        second.go(MEETING_POINT + 0.25 * Y + 0.1 * UP, _leaning(second, X), grip=OPEN, tolerance=0.03, angle=0.2, limit=100),
    )

    def tail() -> np.ndarray:
        return group.payload_pos + SECOND_GRIP * scene.body_rotation(group.payload.root_body)[:, 2]

    for _ in range(TRIES):
        rotation = _leaning(second, scene.body_rotation(group.payload.root_body)[:, 2])
        before = partial(lambda rotation: tail() - 0.1 * rotation[:, 2], rotation)
        yield from second.go(before, rotation, grip=OPEN, tolerance=0.02, limit=100)
        yield from second.go(tail, rotation, tolerance=0.006)
        yield from second.grasp(CLOSED, GRASP_STEPS)
        if second.holds(group.payload):
            break
    yield from first.grasp(OPEN)
    # Out of the way of the hammer's head before it moves.
    yield from first.go(first.position - 0.15 * first.rotation[:, 2], tolerance=0.03)


def _deliver(arm: Arm, scene: Scene) -> Plan:
    group = scene.env.transport
    yield from arm.go(arm.position - 0.1 * arm.rotation[:, 2] + 0.1 * UP, tolerance=0.04)
    rotation = gripper(DOWN, nearest_yaw(Y, arm.rotation[:, 0], 2))

    def above(height: float) -> np.ndarray:
        """Fingertips that bring the hammer's middle over the target bin's."""
        middle = group.payload_pos
        return np.array([*(arm.position + group.target_bin_pos - middle)[:2], height])

    yield from arm.go(lambda: above(ABOVE_BINS + 0.03), rotation, tolerance=0.03, angle=0.2, limit=120)
    yield from arm.go(lambda: above(TABLE + 0.06), rotation, tolerance=0.02)
    yield from arm.grasp(OPEN)
    yield from arm.go(np.array([*arm.position[:2], ABOVE_BINS]), rotation, tolerance=0.04)
