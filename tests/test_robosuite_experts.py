"""The scripted experts of the Robomimic tasks, in robosuite itself."""

import gymnasium as gym
import numpy as np
import pytest
import robosuite
from ogpo_sb3 import demos
from ogpo_sb3.demonstrations import load
from ogpo_sb3.demonstrations.experts import waypoints
from ogpo_sb3.demonstrations.experts.robomimic import NOISE_STD, TASKS, RobomimicExpert, make_expert
from ogpo_sb3.envs import registry

LIMITS = {"Lift": 80, "Can": 250, "Square": 250, "ToolHang": 700, "Transport": 700}


def build(task, controller="OSC_POSE", robot="Panda"):
    return robosuite.make(
        TASKS[task].engine,
        robots=[robot] * TASKS[task].arms,
        controller_configs=robosuite.load_controller_config(default_controller=controller),
        control_freq=20,
        has_renderer=False,
        has_offscreen_renderer=False,
        use_camera_obs=False,
        ignore_done=True,
    )


@pytest.fixture(scope="module")
def lift():
    env = build("Lift")
    yield env
    env.close()


def solve(env, expert, seed, noise=0.0, meddle=None):
    """Actions up to the first success, or to the limit; whether it came."""
    state = np.random.get_state()
    np.random.seed(seed)  # robosuite draws starts from the global generator
    env.reset()
    np.random.set_state(state)
    rng = np.random.default_rng(seed)
    actions = []
    while len(actions) < LIMITS[expert.task] and not env._check_success():
        actions.append(expert.act(None, rng, noise))
        env.step(actions[-1])
        if meddle is not None:
            meddle(len(actions))
    return np.stack(actions), bool(env._check_success())


@pytest.mark.parametrize("task", ["Lift", "Can", "Square"])
def test_an_expert_solves_its_task_from_several_starts(task):
    env = build(task)
    expert = RobomimicExpert(task, env)
    lengths = []
    for seed, noise in ((0, 0.0), (1, 1.0)):
        actions, success = solve(env, expert, seed, noise)
        assert success, f"{task} from seed {seed} at noise {noise}"
        assert actions.dtype == np.float32 and actions.shape[1] == 7 and np.abs(actions).max() <= 1.0
        assert set(actions[:, -1]) <= {-1.0, 1.0}
        lengths.append(len(actions))
    env.close()
    assert min(lengths) > 20  # solved by moving, not true from the start


@pytest.mark.expensive
@pytest.mark.parametrize("task", ["ToolHang", "Transport"])
def test_an_expert_solves_a_long_task(task):
    env = build(task)
    actions, success = solve(env, RobomimicExpert(task, env), seed=0)
    env.close()
    assert success and actions.shape[1] == 7 * TASKS[task].arms


def test_an_episode_depends_on_its_seed_alone(lift):
    expert = RobomimicExpert("Lift", lift)
    first, _ = solve(lift, expert, seed=3, noise=1.0)
    for _ in range(5):  # an episode that is left in the middle
        lift.step(expert.act(None, np.random.default_rng(0)))
    again, _ = solve(lift, expert, seed=3, noise=1.0)
    np.testing.assert_array_equal(again, first)
    other, _ = solve(lift, RobomimicExpert("Lift", lift), seed=4, noise=1.0)
    assert not np.array_equal(other[:10], first[:10])


def test_what_slips_out_of_the_fingers_is_fetched_again(lift):
    def snatch(step):
        if step == 26:  # the cube is between the fingers
            pose = lift.sim.data.get_joint_qpos(lift.cube.joints[0]).copy()
            assert np.linalg.norm(pose[:3] - lift._eef_xpos) < 0.02
            pose[:2] += 0.05, -0.06
            pose[2] = lift.table_offset[2] + 0.03
            lift.sim.data.set_joint_qpos(lift.cube.joints[0], pose)

    undisturbed, success = solve(lift, RobomimicExpert("Lift", lift), seed=5)
    assert success and len(undisturbed) > 26
    LIMITS["Lift"], kept = 200, LIMITS["Lift"]
    try:
        actions, success = solve(lift, RobomimicExpert("Lift", lift), seed=5, meddle=snatch)
    finally:
        LIMITS["Lift"] = kept
    assert success and len(actions) > len(undisturbed) + 20


def test_noise_has_the_stated_scale_and_spares_the_fingers(lift):
    lift.reset()
    expert = RobomimicExpert("Lift", lift)
    mean = expert.act(None, np.random.default_rng(0))
    np.testing.assert_array_equal(expert.act(None, np.random.default_rng(1)), mean)
    rng = np.random.default_rng(0)
    # The simulator stands still, so every call begins anew in the same state.
    noisy = np.stack([expert.act(None, rng, 2.0) for _ in range(1500)])
    assert (noisy[:, -1] == mean[-1]).all()
    free = np.flatnonzero(np.abs(mean[:6]) < 0.4)  # where the bounds do not cut
    assert len(free) >= 2
    np.testing.assert_allclose(noisy.std(axis=0)[free], 2.0 * NOISE_STD, rtol=0.1)
    np.testing.assert_allclose(noisy.mean(axis=0)[free], mean[free], atol=0.03)


def test_actions_point_straight_at_the_waypoint_within_the_bounds(lift):
    lift.reset()
    arm = waypoints.Arm(lift)
    np.testing.assert_allclose(arm.action(), [0, 0, 0, 0, 0, 0, waypoints.OPEN], atol=1e-9)
    shift, turn = np.array([0.3, -0.1, 0.2]), np.array([0.0, 0.6, -1.2])
    arm.goal_position = arm.position + shift
    arm.goal_rotation = waypoints.turn_about(turn, np.linalg.norm(turn)) @ arm.rotation
    far = arm.action()
    np.testing.assert_allclose(far[:3], shift / 0.3, atol=1e-6)  # one entry at the bound, the direction kept
    np.testing.assert_allclose(far[3:6], turn / 1.2, atol=1e-6)
    arm.speed = 0.5
    np.testing.assert_allclose(arm.action()[:6], 0.5 * far[:6], atol=1e-6)
    arm.goal_position = arm.position + 0.1 * shift  # near: the controller's own units, 0.05 m and 0.5 rad
    arm.speed = 1.0
    np.testing.assert_allclose(arm.action()[:3], 0.1 * shift / 0.05, atol=1e-6)


def test_an_expert_refuses_environments_that_are_not_its_own(lift):
    with pytest.raises(ValueError, match="The expert for Can acts in robosuite's PickPlaceCan, not in Lift"):
        RobomimicExpert("Can", lift)
    with pytest.raises(ValueError, match="for Lift, Can, Square, ToolHang, Transport, not for 'Door'"):
        RobomimicExpert("Door", lift)
    cart_pole = gym.make("CartPole-v1")
    with pytest.raises(ValueError, match=r"act in ogpo/Robomimic\*-v0 environments, not in .*CartPole"):
        make_expert(cart_pole)
    cart_pole.close()
    for kwargs, sentence in (
        ({"controller": "JOINT_VELOCITY"}, "OSC_POSE.*not JOINT_VELOCITY"),
        ({"robot": "UR5e"}, "1 Panda arm"),
    ):
        env = build("Lift", **kwargs)
        with pytest.raises(ValueError, match=sentence):
            RobomimicExpert("Lift", env)
        env.close()


def test_rotation_vectors_undo_rotations():
    rng = np.random.default_rng(0)
    for angle in (0.0, 1e-8, 0.3, 2.0, np.pi - 1e-9, np.pi):
        axis = rng.standard_normal(3)
        axis /= np.linalg.norm(axis)
        matrix = waypoints.turn_about(axis, angle)
        np.testing.assert_allclose(matrix @ matrix.T, np.eye(3), atol=1e-12)
        vector = waypoints.rotation_vector(matrix)
        # Half a turn about an axis and about its opposite are the same.
        sign = np.sign(vector @ axis) if angle > 3.0 else 1.0
        np.testing.assert_allclose(sign * vector, angle * axis, atol=1e-6)


def test_gripper_poses_are_rotations_with_the_wanted_axes():
    rng = np.random.default_rng(1)
    for _ in range(20):
        approach, closing = rng.standard_normal((2, 3))
        pose = waypoints.gripper(approach, closing)
        np.testing.assert_allclose(pose.T @ pose, np.eye(3), atol=1e-12)
        assert np.linalg.det(pose) == pytest.approx(1.0)
        np.testing.assert_allclose(pose[:, 2], approach / np.linalg.norm(approach))
        assert pose[:, 0] @ closing > 0.0 and abs(np.linalg.det(np.stack([pose[:, 0], approach, closing]))) < 1e-12


@pytest.mark.parametrize("symmetry", [1, 2, 4])
def test_the_nearest_yaw_is_one_of_the_equal_ones_and_the_nearest(symmetry):
    rng = np.random.default_rng(2)
    for _ in range(20):
        direction, current = rng.standard_normal((2, 3))
        found = waypoints.nearest_yaw(direction, current, symmetry)
        equal = [
            waypoints.turn_about(np.array([0.0, 0.0, 1.0]), 2.0 * np.pi * k / symmetry) @ [*direction[:2], 0.0]
            for k in range(symmetry)
        ]
        equal = np.stack(equal) / np.linalg.norm(direction[:2])
        assert np.abs(equal - found).max(axis=1).min() < 1e-12
        assert found @ current == pytest.approx((equal @ current).max())


def test_plans_of_two_arms_end_with_the_longer_one():
    log = []

    def plan(name, steps):
        for _ in range(steps):
            log.append(name)
            yield

    assert sum(1 for _ in waypoints.together(plan("a", 2), plan("b", 4))) == 4
    assert log == ["a", "b", "a", "b", "b", "b"]


def test_the_command_collects_with_a_scripted_expert(tmp_path, capsys):
    path = tmp_path / "lift-scripted.npz"
    arguments = ["collect", "--env", "ogpo/RobomimicLift-v0", "--episodes", "2", "--noise", "1", "-o", str(path), "--quiet"]
    assert demos.main(arguments) == 0
    assert "succeeded in 2 of 2 attempts" in capsys.readouterr().out
    data = load(path)
    assert data.n_episodes == 2 and data.successes.all() and data.actions.shape[1] == 7
    assert "scripted expert for Lift" in str(data.meta)  # the file says what it is
    assert data.meta["versions"]["robosuite"] == "1.4.1"
    env = gym.make("ogpo/RobomimicLift-v0")
    data.validate_for(env.observation_space, env.action_space)
    for index, seed in enumerate(data.meta["reset_seeds"]):  # the same actions from the same starts succeed again
        env.reset(seed=seed)
        info = {}
        for action in data.episode(index).actions:
            *_, info = env.step(action)
        assert info["is_success"]
    assert isinstance(make_expert(env), RobomimicExpert)
    env.close()


@pytest.mark.parametrize("task", TASKS)
def test_every_robomimic_task_names_its_scripted_expert(task):
    assert registry.resolve(registry.TASKS[f"ogpo/Robomimic{task}-v0"].expert) is make_expert
