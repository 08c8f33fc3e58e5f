"""DROID's joint velocities become steps of the end-effector that end where the joints would."""

import numpy as np
import pytest
from policy_server import StandInServer

from safedojo_ros.core.errors import ObservationRejected, PolicyUnavailable
from safedojo_ros.core.rotation import matrix_of
from safedojo_ros.core.types import Observation, empty_scene
from safedojo_ros.models.served.joint_keys import DroidKeys
from safedojo_ros.models.served.policy import open_served
from safedojo_ros.robot.kinematics import Kinematics

CAMERAS = ("agentview", "wrist")
READY = np.array([0.0, -np.pi / 4, 0.0, -3 * np.pi / 4, 0.0, np.pi / 2, np.pi / 4])


def seen(joints: np.ndarray | None = READY) -> Observation:
    still = empty_scene(CAMERAS, 32)
    state = np.array([0, 0, 0.2, np.pi, 0, 0, 0.03, 0.03], np.float32)
    return Observation(still.images, state, "pick up the cup", 0, joints)


def end_of(chunk: np.ndarray, joints: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where the steps of `chunk` lead from the pose of `joints`: rotation, position."""
    turned, at, _ = Kinematics().forward(joints)
    for action in chunk:
        turned, at = matrix_of(action[3:6]) @ turned, at + action[:3]
    return turned, at


@pytest.mark.parametrize("seed", range(5))
def test_the_steps_lead_where_the_joints_would(seed: int) -> None:
    random = np.random.default_rng(seed)
    given = np.concatenate([random.uniform(-0.3, 0.3, (15, 7)), np.zeros((15, 1))], 1)
    chunk = DroidKeys().actions(given, seen())
    assert chunk.shape == (20, 7), "15 steps at 15 Hz are 20 at 20 Hz"
    turned, at = end_of(chunk, READY)
    expected = Kinematics().forward(READY + 0.2 * given[:, :7].sum(0))
    np.testing.assert_allclose(at, expected[1], atol=1e-9)
    np.testing.assert_allclose(turned, expected[0], atol=1e-9)


def test_in_between_the_arm_is_where_droid_s_would_be_at_that_time() -> None:
    given = np.zeros((10, 8))
    given[:, 0] = np.linspace(-1, 1, 10)
    chunk = DroidKeys().actions(given, seen())
    assert len(chunk) == 13, "10 steps at 15 Hz are 13 whole ones at 20 Hz"
    # after 4 of our steps DROID has made 3
    expected = Kinematics().forward(READY + np.eye(7)[0] * 0.2 * given[:3, 0].sum())[1]
    np.testing.assert_allclose(end_of(chunk[:4], READY)[1], expected, atol=1e-9)


def test_the_first_joint_turns_the_hand_about_the_foot() -> None:
    given = np.zeros((3, 8))
    given[:, 0] = 0.5  # 0.1 rad a step
    action = DroidKeys().actions(given, seen())[0]
    radius = np.linalg.norm(Kinematics().forward(READY)[1][:2])
    angle = 0.1 * 15 / 20
    np.testing.assert_allclose(action[3:6], [0, 0, angle], atol=1e-9)
    assert np.linalg.norm(action[:3]) == pytest.approx(2 * radius * np.sin(angle / 2))
    assert action[1] > 0, "counter-clockwise, seen from above"


def test_a_step_that_is_too_fast_keeps_its_direction_as_on_droid_s_robot() -> None:
    fast, slow = np.zeros((3, 8)), np.zeros((3, 8))
    fast[:, :2], slow[:, :2] = (4.0, 2.0), (1.0, 0.5)
    keys = DroidKeys()
    np.testing.assert_allclose(keys.actions(fast, seen()), keys.actions(slow, seen()))


def test_the_gripper_shuts_beyond_a_half_and_in_time() -> None:
    given = np.zeros((6, 8))
    given[3:, 7] = 0.51
    gripper = DroidKeys().actions(given, seen())[:, 6]
    np.testing.assert_array_equal(gripper, [-1, -1, -1, -1, 1, 1, 1, 1])


def test_what_the_server_is_asked_is_what_droid_policies_are_asked() -> None:
    with StandInServer(lambda _: {"actions": np.zeros((10, 8))}) as server:
        policy = open_served(f"{server.name}?keys=droid&steps=8")
        assert policy.act([seen()]).shape == (1, 8, 7)
        asked = server.questions[0]
        with pytest.raises(ObservationRejected, match="fr3_joint1 to fr3_joint7"):
            policy.act([seen(None)])
    assert set(asked) == {
        "observation/exterior_image_1_left",
        "observation/wrist_image_left",
        "observation/joint_position",
        "observation/gripper_position",
        "prompt",
    }
    np.testing.assert_array_equal(asked["observation/joint_position"], READY)
    np.testing.assert_allclose(asked["observation/gripper_position"], [0.25], atol=1e-6)


def test_actions_of_another_width_are_one_line() -> None:
    with pytest.raises(PolicyUnavailable, match="actions of 7 numbers, keys 'droid' expect 8"):
        DroidKeys().actions(np.zeros((10, 7)), seen())


def test_the_kinematics_are_those_of_the_simulated_arm() -> None:
    """MuJoCo's own, of the embedded world's arm: an independent witness of the steps."""
    from safedojo_ros.worlds.tabletop.world import TabletopWorld  # chooses how mujoco draws

    import mujoco  # isort: skip

    world = TabletopWorld(render_images=False)
    world.reset(seed=0)
    data, model = world.data, world.model
    random = np.random.default_rng(0)
    given = np.concatenate([random.uniform(-0.3, 0.3, (12, 7)), np.zeros((12, 1))], 1)
    site = model.site("tcp").id
    where = []
    for joints in (READY, READY + 0.2 * given[:, :7].sum(0)):
        data.qpos[:7] = joints
        mujoco.mj_kinematics(model, data)
        where.append(data.site_xpos[site].copy())
    moved = DroidKeys().actions(given, seen())[:, :3].sum(0)
    np.testing.assert_allclose(moved, where[1] - where[0], atol=1e-3)
