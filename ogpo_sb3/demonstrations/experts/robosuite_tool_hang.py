"""Script for Tool Hang: put a hook into a stand, then hang a wrench on it.

The hook lies on the table. It is grasped from above, turned upright so that the hand points to the right and the hook away
from the robot, and pushed down the stand's hole, which leaves 1.25 mm on each side of the rod. The wrench stays flat all
the way: its ring is lowered around the upturned end of the hook, and when the fingers open its handle swings down. Friction
can stop it half-way, so the closed fingers press the handle down until the ring turns onto the bar.
"""

import numpy as np

from ogpo_sb3.demonstrations.experts.waypoints import CLOSED, DOWN, OPEN, UP, Arm, Plan, Scene, gripper, nearest_yaw

# Axes of the hook and of the wrench, as columns, where they belong: the hook's bar and the wrench's handle point along +x.
HOOK_UPRIGHT = np.diag([-1.0, -1.0, 1.0])
WRENCH_OUTWARD = np.eye(3)
# Where the hook is held, from the middle of its grip towards the bar: the hand must stay clear of the stand.
GRIP_OFFSET = 0.012
HALF_BAR, HALF_RING = 0.00375, 0.0035  # half thicknesses in m
INWARD = 0.003  # the ring is lowered this far off the upturned end's middle; 6 mm are free
PRESS_AT = 0.06  # distance in m from the hook's end at which the fingers press the handle
REST = np.array([[0.0, 1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, -1.0]])  # the hand at the start of an episode


def tool_hang(arms: list[Arm], scene: Scene) -> Plan:
    """Assemble the hook unless it stands already, then hang the wrench."""
    (arm,) = arms
    if not scene.env._check_frame_assembled():
        yield from _insert_hook(arm, scene)
        if not scene.env._check_frame_assembled():
            return
    if np.linalg.norm(scene.site("tool_hole1_center") - scene.site("frame_hang_site")) > 0.03:
        yield from _hang_wrench(arm, scene)
    yield from _press_handle(arm, scene)


def _insert_hook(arm: Arm, scene: Scene) -> Plan:
    def up_the_rod() -> np.ndarray:
        return scene.body_rotation("frame_root")[:, 2]

    def grip() -> np.ndarray:
        return scene.geom("frame_grip_frame") + GRIP_OFFSET * up_the_rod()

    # The fingers close across the rod. Turned upright, the hand points where the bar's end of the rod pointed.
    rotation = gripper(DOWN, nearest_yaw(np.cross(UP, up_the_rod()), REST[:, 0], 2))
    yield from arm.go(grip() + 0.1 * UP, rotation, grip=OPEN, tolerance=0.01, angle=0.08, limit=80)
    yield from arm.go(grip, rotation, tolerance=0.006, angle=0.08)
    yield from arm.grasp(CLOSED)
    yield from arm.go(arm.position + 0.35 * UP, rotation, tolerance=0.03)

    hole = np.mean([scene.geom(f"stand_wall{i}") for i in range(4)], axis=0)
    top = hole[2] + 0.075

    def upright() -> np.ndarray:
        return HOOK_UPRIGHT @ scene.body_rotation("frame_root").T @ arm.rotation

    def tip_at(height: float) -> np.ndarray:
        """Fingertips that bring the rod's tip over the hole; twice the error, against what the controller leaves."""
        return arm.position + 2.0 * (np.array([*hole[:2], height]) - scene.site("frame_tip_site"))

    yield from arm.go(arm.position, upright, tolerance=0.05, angle=0.15, limit=100)
    yield from arm.go(lambda: tip_at(top + 0.03), upright, tolerance=0.01, angle=0.06, limit=100)
    yield from arm.go(lambda: tip_at(top + 0.012), upright, tolerance=0.003, angle=0.04, limit=100, speed=0.3)
    yield from arm.go(lambda: tip_at(top - 0.15), upright, tolerance=0.012, angle=1.0, limit=60, speed=0.5)
    yield from arm.grasp(OPEN)
    # Back out before rising: a finger is below the bar. Then above the hook to the wrench's side of the table.
    aside = arm.position - 0.08 * arm.rotation[:, 2]
    held = arm.rotation
    yield from arm.go(aside, held, tolerance=0.02, speed=0.5, limit=40)
    yield from arm.go(np.array([*aside[:2], top + 0.24]), held, tolerance=0.03)
    yield from arm.go(np.array([-0.1, -0.1, top + 0.26]), held, tolerance=0.04)


def _hang_wrench(arm: Arm, scene: Scene) -> Plan:
    hook_end, corner = scene.site("frame_hang_site"), scene.site("frame_intersection_site")
    inward = (corner - hook_end) / np.linalg.norm(corner - hook_end)
    prong = hook_end + (HALF_BAR + INWARD) * inward
    along = scene.body_rotation("tool_root")[:, 0]
    rotation = gripper(DOWN, nearest_yaw(np.cross(along, UP), REST[:, 0], 2))
    yield from arm.go(np.array([-0.1, -0.1, prong[2] + 0.15]), REST, grip=OPEN, tolerance=0.05, angle=0.3)
    yield from arm.go(scene.body("tool_root") + 0.25 * UP, rotation, tolerance=0.05, angle=0.2, limit=80)
    yield from arm.go(lambda: scene.body("tool_root") + 0.08 * UP, rotation, tolerance=0.01, angle=0.08, limit=80)
    yield from arm.go(lambda: scene.body("tool_root"), rotation, tolerance=0.006, angle=0.08)
    yield from arm.grasp(CLOSED)
    yield from arm.go(np.array([*arm.position[:2], prong[2] + 0.1]), rotation, tolerance=0.03)

    def outward() -> np.ndarray:
        return WRENCH_OUTWARD @ scene.body_rotation("tool_root").T @ arm.rotation

    def ring_at(height: float) -> np.ndarray:
        return arm.position + 2.0 * (prong + height * UP - scene.site("tool_hole1_center"))

    on_bar = HALF_BAR + HALF_RING
    away = np.array([prong[0] + 0.15, arm.position[1], prong[2] + 0.1])
    yield from arm.go(away, outward, tolerance=0.05, angle=0.2, limit=100)
    yield from arm.go(lambda: ring_at(on_bar + 0.04), outward, tolerance=0.01, angle=0.06, limit=100)
    yield from arm.go(lambda: ring_at(on_bar + 0.018), outward, tolerance=0.004, angle=0.06, limit=60, speed=0.3)
    yield from arm.go(lambda: ring_at(on_bar + 0.001), outward, tolerance=0.004, angle=0.2, limit=40, speed=0.3)
    yield from arm.grasp(OPEN)
    yield from arm.go(arm.position + 0.1 * UP, tolerance=0.03)


def _press_handle(arm: Arm, scene: Scene) -> Plan:
    hook_end = scene.site("frame_hang_site")
    outward = hook_end - scene.site("frame_intersection_site")
    outward /= np.linalg.norm(outward)
    rotation = gripper(DOWN, arm.rotation[:, 0])
    over = hook_end + PRESS_AT * outward
    yield from arm.go(over + 0.1 * UP, rotation, grip=CLOSED, tolerance=0.02)
    yield from arm.go(over - 0.08 * UP, rotation, tolerance=0.02, limit=25)
    # Then push the hanging handle in: the ring slides off the end and along the bar.
    yield from arm.go(hook_end + 0.01 * outward - 0.08 * UP, rotation, tolerance=0.02, limit=20)
    yield from arm.go(over - 0.06 * UP, rotation, tolerance=0.02, limit=20)
    yield from arm.go(over + 0.12 * UP, rotation, tolerance=0.03)
    yield from arm.grasp(CLOSED, steps=10)
