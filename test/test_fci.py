"""The Franka Control Interface: the robot's state machine, motions, hand, and the real client."""

import contextlib
import re
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from enum import IntEnum
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from safedojo_ros.core.errors import ConfigError
from safedojo_ros.core.rotation import POINTING_DOWN, matrix_of, quaternion_of
from safedojo_ros.core.types import CONTROL_PERIOD
from safedojo_ros.robot.fci import protocol as fci
from safedojo_ros.robot.fci.client import (
    LIMITS,
    STOP_DYNAMICS,
    FrankaArm,
    FrankaConfig,
    Reading,
)
from safedojo_ros.robot.fci.controller import LOST_IN_A_ROW, FciController
from safedojo_ros.robot.fci.emulator import FciEmulator
from safedojo_ros.robot.fci.gripper import MAX_WIDTH, GripperController
from safedojo_ros.robot.fci.hand_thread import TwoValued
from safedojo_ros.robot.fci.motion import MotionBroken, MotionGenerator, too_fast
from safedojo_ros.robot.fci.protocol import (
    CYCLE,
    Controller,
    Error,
    Generator,
    GripperCommand,
    GripperStatus,
    MoveRequest,
    MoveStatus,
    RecoveryStatus,
    RobotMode,
    Status,
)
from safedojo_ros.robot.fci.robot_thread import RobotThread
from safedojo_ros.robot.fci.urdf import fr3_urdf
from safedojo_ros.robot.kinematics import Kinematics
from safedojo_ros.robot.limits import FR3_JOINTS
from safedojo_ros.robot.playback.target import Target
from safedojo_ros.worlds.tabletop.robot import TabletopRobot
from safedojo_ros.worlds.tabletop.scene import ARM_X, HOME_JOINTS
from safedojo_ros.worlds.tabletop.world import TabletopWorld

POSE = MoveRequest(Controller.JOINT_IMPEDANCE, Generator.CARTESIAN_POSITION)
JOINTS = MoveRequest(Controller.JOINT_IMPEDANCE, Generator.JOINT_POSITION)


class PerfectRobot:
    """Is where it is told to be; feels what it is told to feel."""

    def __init__(self) -> None:
        self.joints, self.velocities = HOME_JOINTS.copy(), np.zeros(7)
        self.contact_torques = np.zeros(7)
        self.width, self.object = MAX_WIDTH, 0.0
        self._goal = MAX_WIDTH

    def follow(self, joints: np.ndarray, velocities: np.ndarray) -> None:
        self.joints, self.velocities = joints, velocities
        self.width += float(np.clip(max(self._goal, self.object) - self.width, -1e-3, 1e-3))

    def open_to(self, width: float) -> None:
        self._goal = width

    def squeeze(self) -> None:
        self._goal = 0.0


def command(**fields: np.ndarray | bool) -> np.void:
    record = np.zeros(1, fci.ROBOT_COMMAND)[0]
    for name, value in fields.items():
        record[name] = value
    return record


# ---------------------------------------------------------------- layouts and kinematics


def test_messages_are_as_long_as_the_interface_says() -> None:
    assert fci.ROBOT_STATE.itemsize == 1377
    assert fci.ROBOT_COMMAND.itemsize == 371
    assert fci.GRIPPER_STATE.size == 23
    doubles = {
        fci.Command.SET_COLLISION_BEHAVIOR: 4 * 7 + 4 * 6,
        fci.Command.SET_JOINT_IMPEDANCE: 7,
        fci.Command.SET_CARTESIAN_IMPEDANCE: 6,
        fci.Command.SET_EE_TO_K: 16,
        fci.Command.SET_NE_TO_EE: 16,
        fci.Command.SET_LOAD: 1 + 3 + 9,
    }
    bytes_each = {fci.Command.CONNECT: 4, fci.Command.MOVE: 113, fci.Command.SET_GUIDING_MODE: 7}
    bytes_each |= {number: 8 * count for number, count in doubles.items()}
    assert {number: bytes_each.get(number, 0) for number in fci.Command} == fci.PAYLOADS


@pytest.mark.parametrize(
    "kind",
    [
        *(fci.Command, fci.GripperCommand, Status, RecoveryStatus, MoveStatus, GripperStatus),
        *(RobotMode, Generator, Controller),
    ],
)
def test_requests_answers_and_modes_are_numbered_from_zero(kind: type[IntEnum]) -> None:
    assert [*kind] == [*range(len(kind))]


def test_kinematics_agree_with_the_embedded_arm() -> None:
    import mujoco  # not above: safedojo_ros.worlds chooses how it draws, and has to come first

    world = TabletopWorld(render_images=False)
    world.reset(seed=0)
    data, kinematics = mujoco.MjData(world.model), Kinematics()
    rng = np.random.default_rng(0)
    site = world.model.site("tcp").id
    jacobian = np.zeros((6, world.model.nv))
    for _ in range(20):
        data.qpos[:7] = HOME_JOINTS + rng.uniform(-0.4, 0.4, 7)
        mujoco.mj_kinematics(world.model, data)
        mujoco.mj_comPos(world.model, data)
        mujoco.mj_jacSite(world.model, data, jacobian[:3], jacobian[3:], site)
        rotation, position, ours = kinematics.forward(data.qpos[:7])
        np.testing.assert_allclose(position + [ARM_X, 0, 0], data.site_xpos[site], atol=1e-7)
        np.testing.assert_allclose(rotation, data.site_xmat[site].reshape(3, 3), atol=1e-7)
        np.testing.assert_allclose(ours, jacobian[:, :7], atol=1e-7)


def test_the_model_that_clients_are_given_has_the_same_kinematics() -> None:
    import mujoco

    model = mujoco.MjModel.from_xml_string(
        fr3_urdf()
        .replace('<robot name="fr3">', '<robot name="fr3"><mujoco><compiler boundmass="1" '
                 'boundinertia="1" fusestatic="false"/></mujoco>')
    )  # fmt: skip
    data = mujoco.MjData(model)
    data.qpos[:] = HOME_JOINTS
    mujoco.mj_kinematics(model, data)
    flange = Kinematics(np.eye(4))
    rotation, position, _ = flange.forward(HOME_JOINTS)
    np.testing.assert_allclose(data.body("link8").xpos, position, atol=1e-9)
    np.testing.assert_allclose(data.body("link8").xmat.reshape(3, 3), rotation, atol=1e-9)
    np.testing.assert_array_equal(
        model.jnt_range, np.stack([FR3_JOINTS.lower, FR3_JOINTS.upper], 1)
    )
    effort = [float(text) for text in re.findall('effort="([^"]+)"', fr3_urdf())]
    assert effort == [87.0] * 4 + [12.0] * 3


# ---------------------------------------------------------------- motions


def quintic(distance: float, cycles: int) -> np.ndarray:
    """(cycles,) of a smooth way from 0 to `distance`."""
    t = np.arange(1, cycles + 1) / cycles
    return distance * (10 * t**3 - 15 * t**4 + 6 * t**5)


def test_a_smooth_pose_motion_is_followed_by_the_joints() -> None:
    kinematics = Kinematics()
    motion = MotionGenerator(kinematics, HOME_JOINTS)
    motion.begin(Generator.CARTESIAN_POSITION)
    start = motion.position.copy()
    for way in quintic(0.1, 800):
        pose = fci.pose_columns(motion.rotation, start + [0.0, way, -way])
        motion.step(command(O_T_EE_c=pose))
    rotation, position, _ = kinematics.forward(motion.joints)
    np.testing.assert_allclose(position, start + [0.0, 0.1, -0.1], atol=1e-4)
    np.testing.assert_allclose(rotation, motion.rotation, atol=1e-3)


def test_a_turn_of_the_pose_is_followed_and_the_elbow_comes_back() -> None:
    kinematics = Kinematics()
    motion = MotionGenerator(kinematics, HOME_JOINTS)
    motion.begin(Generator.CARTESIAN_POSITION)
    start, place = motion.rotation.copy(), motion.position.copy()
    turns = quintic(0.5, 800)
    for turn in (*turns, *turns[::-1], 0.0):
        columns = fci.pose_columns(matrix_of(np.array([0.0, 0.0, turn])) @ start, place)
        motion.step(command(O_T_EE_c=columns))
        if turn == turns[-1]:
            rotation, position, _ = kinematics.forward(motion.joints)
            np.testing.assert_allclose(
                rotation @ start.T, matrix_of(np.array([0.0, 0.0, 0.5])), atol=1e-3
            )
            np.testing.assert_allclose(position, place, atol=1e-3)
    np.testing.assert_allclose(motion.joints, HOME_JOINTS, atol=5e-3)


@pytest.mark.parametrize("lost", [False, True])
def test_joint_velocities_are_summed_up_and_a_lost_one_is_the_last_acceleration_on(
    lost: bool,
) -> None:
    motion = MotionGenerator(Kinematics(), HOME_JOINTS)
    motion.begin(Generator.JOINT_VELOCITY)
    speeds = np.zeros((4, 7))
    speeds[:, 0], speeds[:, 6] = 0.004 * np.arange(1, 5), -0.004 * np.arange(1, 5)
    for number, speed in enumerate(speeds):
        motion.step(None if lost and number == 2 else command(dq_c=speed))
        np.testing.assert_allclose(motion.velocities, speed, atol=1e-12)
        np.testing.assert_allclose(motion.accelerations, speeds[0] / CYCLE, atol=1e-9)
    np.testing.assert_allclose(motion.joints, HOME_JOINTS + speeds.sum(0) * CYCLE, atol=1e-12)


@pytest.mark.parametrize("lost", [False, True])
def test_twists_are_summed_up_and_a_lost_one_is_the_last_acceleration_on(lost: bool) -> None:
    motion = MotionGenerator(Kinematics(), HOME_JOINTS)
    motion.begin(Generator.CARTESIAN_VELOCITY)
    start, place = motion.rotation.copy(), motion.position.copy()
    twists = np.outer(np.arange(1, 5), [0.0, 0.003, -0.002, 0.0, 0.0, 0.004])
    for number, twist in enumerate(twists):
        motion.step(None if lost and number == 2 else command(O_dP_EE_c=twist))
        np.testing.assert_allclose(motion.twist, twist, atol=1e-12)
        np.testing.assert_allclose(motion.bend, twists[0] / CYCLE, atol=1e-9)
    way = twists.sum(0) * CYCLE
    np.testing.assert_allclose(motion.position, place + way[:3], atol=1e-12)
    np.testing.assert_allclose(motion.rotation, matrix_of(way[3:]) @ start, atol=1e-12)


def test_a_pose_out_of_the_arms_reach_breaks_the_motion() -> None:
    motion = MotionGenerator(Kinematics(), HOME_JOINTS)
    motion.begin(Generator.CARTESIAN_POSITION)
    start = motion.position.copy()

    def follow() -> None:
        for way in quintic(0.6, 3000):
            motion.step(command(O_T_EE_c=fci.pose_columns(motion.rotation, start + [way, 0, 0])))

    with pytest.raises(MotionBroken) as broken:
        follow()
    assert broken.value.error in (
        Error.CARTESIAN_GENERATOR_JOINT_POSITION_LIMITS,
        Error.CARTESIAN_GENERATOR_JOINT_VELOCITY_LIMITS,
    )


@pytest.mark.parametrize(
    ("step", "error"),
    [
        (0.0005, Error.CARTESIAN_GENERATOR_VELOCITY_DISCONTINUITY),
        (6e-6, Error.CARTESIAN_GENERATOR_ACCELERATION_DISCONTINUITY),
        (0.005, Error.CARTESIAN_GENERATOR_VELOCITY_LIMITS),
        (0.05, Error.CARTESIAN_START_POSE_INVALID),
        (np.nan, Error.CARTESIAN_GENERATOR_INVALID_FRAME),
    ],
)
def test_a_pose_that_jumps_breaks_the_motion(step: float, error: Error) -> None:
    motion = MotionGenerator(Kinematics(), HOME_JOINTS)
    motion.begin(Generator.CARTESIAN_POSITION)
    pose = motion.pose
    pose[13] += step
    pose[0] = np.nan if np.isnan(step) else pose[0]
    with pytest.raises(MotionBroken) as broken:
        motion.step(command(O_T_EE_c=pose))
    assert broken.value.error == error


@pytest.mark.parametrize(
    ("joint", "step", "error"),
    [
        (0, 0.003, Error.JOINT_GENERATOR_VELOCITY_LIMITS),
        (0, 0.001, Error.JOINT_GENERATOR_VELOCITY_DISCONTINUITY),
        (0, 7e-6, Error.JOINT_GENERATOR_ACCELERATION_DISCONTINUITY),
        (0, 0.02, Error.JOINT_START_POSE_INVALID),
        (0, np.nan, Error.JOINT_GENERATOR_VELOCITY_LIMITS),
    ],
)
def test_joints_that_jump_break_the_motion(joint: int, step: float, error: Error) -> None:
    motion = MotionGenerator(Kinematics(), HOME_JOINTS)
    motion.begin(Generator.JOINT_POSITION)
    goal = HOME_JOINTS.copy()
    goal[joint] += step
    with pytest.raises(MotionBroken) as broken:
        motion.step(command(q_c=goal))
    assert broken.value.error == error


# which limit of motion, its value with the slack of 1 %, and what lies just beyond it
VELOCITY = Error.CARTESIAN_GENERATOR_VELOCITY_LIMITS
ACCELERATION = Error.CARTESIAN_GENERATOR_VELOCITY_DISCONTINUITY
JERK = Error.CARTESIAN_GENERATOR_ACCELERATION_DISCONTINUITY
TOO_FAST_FOR_THE_JOINTS = Error.CARTESIAN_GENERATOR_JOINT_VELOCITY_LIMITS


@pytest.mark.parametrize(
    ("axis", "twist", "bend", "asked", "error"),
    [
        (1, 3.020, 5.0, 3.025, TOO_FAST_FOR_THE_JOINTS),
        (1, 3.030, 5.0, 3.035, VELOCITY),
        (1, 0.0, 9.0, 0.00905, None),
        (1, 0.0, 9.0, 0.00915, ACCELERATION),
        (1, 0.0, 0.0, 0.0045, None),
        (1, 0.0, 0.0, 0.0046, JERK),
        (5, 2.515, 5.0, 2.520, None),
        (5, 2.525, 5.0, 2.530, VELOCITY),
        (5, 0.0, 17.0, 0.0171, None),
        (5, 0.0, 17.0, 0.0173, ACCELERATION),
        (5, 0.0, 0.0, 0.0085, None),
        (5, 0.0, 0.0, 0.0087, JERK),
    ],
)
def test_a_twist_keeps_the_published_limits(
    axis: int, twist: float, bend: float, asked: float, error: Error | None
) -> None:
    motion = MotionGenerator(Kinematics(), HOME_JOINTS)
    motion.begin(Generator.CARTESIAN_VELOCITY)
    motion.twist[axis], motion.bend[axis] = twist, bend
    told = np.zeros(6)
    told[axis] = asked
    if error is None:
        motion.step(command(O_dP_EE_c=told))
        assert motion.twist[axis] == asked
        return
    with pytest.raises(MotionBroken) as broken:
        motion.step(command(O_dP_EE_c=told))
    assert broken.value.error == error


def test_translation_and_rotation_have_limits_of_their_own() -> None:
    motion = MotionGenerator(Kinematics(), HOME_JOINTS)
    motion.begin(Generator.CARTESIAN_VELOCITY)
    motion.bend[:] = 0.0, 0.0, 9.0, 17.0, 0.0, 0.0
    told = np.array([0.0, 0.0, 0.009, 0.017, 0.0, 0.0])
    motion.step(command(O_dP_EE_c=told))
    np.testing.assert_array_equal(motion.twist, told)


@pytest.mark.parametrize(
    ("acceleration", "asked", "error"),
    [
        (10.0, 0.01005, None),
        (10.0, 0.01015, Error.JOINT_GENERATOR_VELOCITY_DISCONTINUITY),
        (0.0, 0.0050, None),
        (0.0, 0.0051, Error.JOINT_GENERATOR_ACCELERATION_DISCONTINUITY),
    ],
)
def test_joint_velocities_keep_the_published_limits(
    acceleration: float, asked: float, error: Error | None
) -> None:
    motion = MotionGenerator(Kinematics(), HOME_JOINTS)
    motion.begin(Generator.JOINT_VELOCITY)
    motion.accelerations[3] = acceleration
    told = np.zeros(7)
    told[3] = asked
    if error is None:
        motion.step(command(dq_c=told))
        assert motion.velocities[3] == asked
        return
    with pytest.raises(MotionBroken) as broken:
        motion.step(command(dq_c=told))
    assert broken.value.error == error


def test_a_joint_is_too_fast_a_percent_beyond_what_it_may_do_where_it_is() -> None:
    lowest, highest = FR3_JOINTS.velocity_range(HOME_JOINTS)
    for joint in range(7):
        for limit in (lowest, highest):
            speeds = np.zeros(7)
            speeds[joint] = limit[joint] * 1.005
            assert not too_fast(HOME_JOINTS, speeds)
            speeds[joint] = limit[joint] * 1.015
            assert too_fast(HOME_JOINTS, speeds)


def test_the_way_into_a_joint_stop_is_refused() -> None:
    motion = MotionGenerator(Kinematics(), HOME_JOINTS)
    motion.begin(Generator.JOINT_POSITION)
    goals = np.tile(HOME_JOINTS, (2000, 1))
    goals[:, 3] += quintic(-0.5, 2000)  # joint 4 begins 0.3 rad from its stop

    def follow() -> None:
        for goal in goals:
            motion.step(command(q_c=goal))

    with pytest.raises(MotionBroken) as broken:
        follow()
    assert broken.value.error in (
        Error.JOINT_GENERATOR_POSITION_LIMITS,
        Error.JOINT_GENERATOR_VELOCITY_LIMITS,
    )
    assert motion.joints[3] > -3.0770


# ---------------------------------------------------------------- the arm's states


@pytest.fixture
def controller() -> FciController:
    return FciController(PerfectRobot())


def still(controller: FciController) -> np.void:
    """The command to stay where the state says that the arm is told to be."""
    return command(O_T_EE_c=controller._motion.pose)


def test_a_motion_begins_runs_and_ends(controller: FciController) -> None:
    assert controller.move(7, POSE) == MoveStatus.STARTED
    assert controller.move(8, POSE) == MoveStatus.NOT_POSSIBLE
    state = controller.cycle(None)
    assert state["robot_mode"] == RobotMode.MOVE
    assert state["motion_generator_mode"] == Generator.CARTESIAN_POSITION
    assert not controller.awaits_command  # a client reads two states before it answers
    controller.cycle(None)
    assert controller.awaits_command
    state = controller.cycle(still(controller))
    assert controller.awaits_command
    assert state["control_command_success_rate"] == 1.0
    state = controller.cycle(command(motion_generation_finished=True))
    assert state["robot_mode"] == RobotMode.IDLE
    assert list(controller.finished) == [(7, MoveStatus.SUCCESS)]
    assert state["message_id"] == 4


def test_lost_commands_are_bridged_and_then_stop_the_arm(controller: FciController) -> None:
    controller.move(1, POSE)
    controller.cycle(still(controller))
    for _ in range(LOST_IN_A_ROW - 1):
        assert controller.cycle(None)["robot_mode"] == RobotMode.MOVE
    state = controller.cycle(None)
    assert state["robot_mode"] == RobotMode.REFLEX
    assert state["errors"][Error.COMMUNICATION_CONSTRAINTS]
    assert controller.finished.pop() == (1, MoveStatus.REFLEX_ABORTED)
    assert controller.move(2, POSE) == MoveStatus.NOT_POSSIBLE
    assert controller.recover() == RecoveryStatus.SUCCESS
    assert controller.move(2, POSE) == MoveStatus.STARTED


def test_contact_stops_the_arm_by_reflex_and_a_lighter_one_is_told() -> None:
    robot = PerfectRobot()
    controller = FciController(robot)
    controller.move(1, POSE)
    robot.contact_torques = np.array([0, 25.0, 0, 0, 0, 0, 0])
    state = controller.cycle(still(controller))
    assert state["robot_mode"] == RobotMode.REFLEX
    assert state["joint_collision"][1]
    assert state["errors"][Error.JOINT_REFLEX]
    assert state["tau_ext_hat_filtered"][1] == -25.0  # of the robot on what it touches
    robot.contact_torques = np.zeros(7)
    assert controller.recover() == RecoveryStatus.SUCCESS
    assert not controller.cycle(None)["errors"].any()


def test_the_user_stop_ends_a_motion_and_forbids_recovery(controller: FciController) -> None:
    controller.move(1, POSE)
    controller.cycle(still(controller))
    controller.user_stop = True
    assert controller.cycle(None)["robot_mode"] == RobotMode.USER_STOPPED
    assert controller.finished.pop() == (1, MoveStatus.EMERGENCY_ABORTED)
    assert controller.recover() == RecoveryStatus.SAFETY_FUNCTION
    assert controller.move(2, POSE) == MoveStatus.SAFETY_REJECTED
    controller.user_stop = False
    assert controller.cycle(None)["robot_mode"] == RobotMode.IDLE


def test_a_motion_that_is_stopped_or_left_comes_to_rest(controller: FciController) -> None:
    controller.move(1, JOINTS)
    for way in quintic(0.2, 500)[:250]:
        goal = HOME_JOINTS.copy()
        goal[0] += way
        controller.cycle(command(q_c=goal))
    assert controller.arm.velocities[0] > 0.5
    assert controller.stop_move() == Status.SUCCESS
    assert controller.finished.pop() == (1, MoveStatus.PREEMPTED)
    before, place = controller.arm.velocities, controller.arm.joints
    state = controller.cycle(None)
    way = controller.arm.joints - place
    np.testing.assert_allclose(way, controller.arm.velocities * CYCLE, atol=1e-12)
    rotation, position, _ = Kinematics().forward(controller.arm.joints)
    told = fci.pose_columns(rotation, position)
    np.testing.assert_allclose(state["O_T_EE_c"], told, atol=1e-6)
    assert np.abs(controller.arm.velocities - before).max() <= 10.0 * CYCLE + 1e-9
    assert state["ddq_d"][0] == pytest.approx(-10.0)
    for _ in range(300):
        controller.cycle(None)
    assert not controller.arm.velocities.any()
    controller.move(2, JOINTS)
    controller.client_left()
    assert controller.mode == RobotMode.IDLE
    assert not controller.finished


class ArmThatStandsStill(PerfectRobot):
    def follow(self, joints: np.ndarray, velocities: np.ndarray) -> None:
        self.told = joints


def test_the_state_tells_what_is_measured_from_what_is_commanded() -> None:
    robot, kinematics = ArmThatStandsStill(), Kinematics()
    controller = FciController(robot)
    controller.move(1, JOINTS)
    goals = np.tile(HOME_JOINTS, (200, 1))
    goals[:, :4] += quintic(0.1, 400)[:200, None]
    for number, goal in enumerate(goals):
        state = controller.cycle(None if number == 150 else command(q_c=goal))
    assert state["control_command_success_rate"] == pytest.approx(0.99)
    assert state["controller_mode"] == Controller.JOINT_IMPEDANCE
    np.testing.assert_allclose(robot.told, goals[-1], atol=1e-12)
    speeds = (goals[-3:] - goals[-4:-1]) / CYCLE
    still_there = {
        "q": HOME_JOINTS,
        "theta": HOME_JOINTS,
        "dq": 0 * speeds[0],
        "dtheta": 0 * speeds[0],
    }
    commanded = {"q_d": goals[-1], "dq_d": speeds[-1], "ddq_d": (speeds[-1] - speeds[-2]) / CYCLE}
    for name, value in (still_there | commanded).items():
        np.testing.assert_allclose(state[name], value, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(state["elbow"], [HOME_JOINTS[2], -1.0], atol=1e-6)
    np.testing.assert_allclose(state["elbow_d"], [goals[-1, 2], -1.0], atol=1e-6)
    rotation, position, jacobian = kinematics.forward(HOME_JOINTS)
    np.testing.assert_allclose(state["O_T_EE"], fci.pose_columns(rotation, position), atol=1e-6)
    controller.stop_move()
    before = controller._motion.velocities - np.sign(controller._motion.velocities) * 10.0 * CYCLE
    state = controller.cycle(None)
    np.testing.assert_allclose(state["O_dP_EE_d"], jacobian @ before, atol=1e-5)
    assert state["control_command_success_rate"] == 0.0


def test_a_force_on_the_hand_is_told_as_it_is_and_beyond_its_threshold_is_a_reflex() -> None:
    robot = PerfectRobot()
    controller = FciController(robot)
    _, _, jacobian = Kinematics().forward(HOME_JOINTS)
    wide = np.full(7, 1000.0)
    limits = np.full(6, 15.0), np.full(6, 25.0)
    controller.behavior = fci.CollisionBehavior(wide, wide, *limits)
    controller.move(1, POSE)
    for force, mode in ((20.0, RobotMode.MOVE), (30.0, RobotMode.REFLEX)):
        robot.contact_torques = -jacobian.T @ [0.0, force, 0.0, 0.0, 0.0, 0.0]
        state = controller.cycle(still(controller))
        assert state["robot_mode"] == mode
        np.testing.assert_allclose(state["O_F_ext_hat_K"], [0, force, 0, 0, 0, 0], atol=0.1)
        assert [*state["cartesian_contact"]] == [0, 1, 0, 0, 0, 0]
        assert not state["joint_contact"].any()
    assert [*state["cartesian_collision"]] == [0, 1, 0, 0, 0, 0]
    assert state["errors"][Error.CARTESIAN_REFLEX]
    assert state["reflex_reason"][Error.CARTESIAN_REFLEX]


def test_an_arm_that_was_put_elsewhere_stands_still_there(controller: FciController) -> None:
    controller.move(1, POSE)
    controller.arm.joints = HOME_JOINTS + 0.1  # type: ignore[misc]
    controller.place()
    assert list(controller.finished) == [(1, MoveStatus.ABORTED)]
    np.testing.assert_allclose(controller.cycle(None)["q_d"], HOME_JOINTS + 0.1, atol=1e-6)
    assert controller.stop_move() == Status.NOT_POSSIBLE


def test_recovery_is_not_for_a_moving_arm(controller: FciController) -> None:
    controller.move(1, POSE)
    assert not controller.may_change
    assert controller.recover() == RecoveryStatus.NOT_POSSIBLE


def test_torque_control_is_refused(controller: FciController) -> None:
    torques = MoveRequest(Controller.EXTERNAL, Generator.JOINT_POSITION)
    assert controller.move(1, torques) == MoveStatus.INVALID_ARGUMENT


# ---------------------------------------------------------------- the hand


def settle(hand: GripperController, robot: PerfectRobot) -> GripperStatus:
    for _ in range(1000):
        robot.follow(robot.joints, robot.velocities)
        for _, _, status in hand.cycle():
            return status
    raise AssertionError("the hand does not answer")


def test_the_hand_grasps_what_is_there_and_says_what_it_missed() -> None:
    robot = PerfectRobot()
    hand = GripperController(robot)
    assert not hand.grasped
    grasp = np.array([0.03, 0.005, 0.005, 0.1, 20.0]).tobytes()
    robot.object = 0.031
    assert hand.request(GripperCommand.GRASP, 1, grasp) == []
    assert settle(hand, robot) == GripperStatus.SUCCESS
    assert hand.grasped
    robot.object = 0.0
    hand.request(GripperCommand.GRASP, 2, grasp)
    assert settle(hand, robot) == GripperStatus.UNSUCCESSFUL
    hand.request(GripperCommand.MOVE, 3, np.array([0.05, 0.1]).tobytes())
    ended = hand.request(GripperCommand.STOP, 4, b"")
    assert ended == [
        (GripperCommand.MOVE, 3, GripperStatus.ABORTED),
        (GripperCommand.STOP, 4, GripperStatus.SUCCESS),
    ]


def test_the_hand_goes_to_a_width_or_says_that_it_did_not() -> None:
    robot = PerfectRobot()
    hand = GripperController(robot)
    hand.request(GripperCommand.MOVE, 1, np.array([0.05, 0.1]).tobytes())
    assert settle(hand, robot) == GripperStatus.SUCCESS
    assert robot.width == pytest.approx(0.05)
    robot.object = 0.03
    hand.request(GripperCommand.MOVE, 2, np.array([0.01, 0.1]).tobytes())
    assert settle(hand, robot) == GripperStatus.UNSUCCESSFUL
    ended = hand.request(GripperCommand.STOP, 3, b"")
    assert ended == [(GripperCommand.STOP, 3, GripperStatus.SUCCESS)]
    hand.request(GripperCommand.HOMING, 4, b"")
    assert settle(hand, robot) == GripperStatus.SUCCESS
    assert robot.width == pytest.approx(MAX_WIDTH)
    hand.request(GripperCommand.GRASP, 5, np.array([0.05, 0.005, 0.005, 0.1, 20.0]).tobytes())
    assert settle(hand, robot) == GripperStatus.UNSUCCESSFUL, "what is there is thinner"
    number, width, widest, grasped, _ = fci.GRIPPER_STATE.unpack(hand.state())
    assert (number, widest, grasped) == (1, MAX_WIDTH, False)
    assert width == pytest.approx(0.03)
    short = hand.request(GripperCommand.GRASP, 6, b"x")
    assert short == [(GripperCommand.GRASP, 6, GripperStatus.FAIL)]


class SlowHand(PerfectRobot):
    """Begins to move after 55 ms, and then goes 3 cm a second."""

    def __init__(self) -> None:
        super().__init__()
        self.waited = 0

    def follow(self, joints: np.ndarray, velocities: np.ndarray) -> None:
        self.waited += 1
        if self.waited > 55:
            self.width += float(np.clip(self._goal - self.width, -3e-5, 3e-5))


def test_a_hand_that_begins_late_and_moves_slowly_has_not_ended() -> None:
    robot = SlowHand()
    hand = GripperController(robot)
    hand.request(GripperCommand.MOVE, 1, np.array([0.06, 0.03]).tobytes())
    assert settle(hand, robot) == GripperStatus.SUCCESS
    assert robot.width == pytest.approx(0.06)


@pytest.mark.parametrize("width", [-0.01, 0.2, float("nan")])
def test_a_width_that_the_hand_cannot_have_fails(width: float) -> None:
    hand = GripperController(PerfectRobot())
    payload = np.array([width, 0.1]).tobytes()
    [(_, _, status)] = hand.request(GripperCommand.MOVE, 1, payload)
    assert status == GripperStatus.FAIL


# ---------------------------------------------------------------- on the network


@pytest.fixture
def served() -> Iterator[tuple[FciEmulator, TabletopRobot]]:
    world = TabletopWorld(render_images=False)
    world.reset(seed=3, options={"task": "can_in_basket", "level": 0})
    robot = TabletopRobot(world)
    emulator = FciEmulator(robot, "127.0.0.21", patience=0.5)
    emulator.start()
    with contextlib.closing(emulator):
        yield emulator, robot


def exchange(line: socket.socket, number: int, payload: bytes) -> bytes:
    size = fci.ARM_HEADER.size + len(payload)
    line.sendall(fci.ARM_HEADER.pack(number, 1, size) + payload)
    return line.recv(4096)


def connected(version: int = fci.ARM_VERSION) -> tuple[socket.socket, bytes]:
    line = socket.create_connection(("127.0.0.21", fci.ARM_PORT), 5.0)
    return line, exchange(line, fci.Command.CONNECT, fci.CONNECT_REQUEST.pack(version, 40000))


def test_another_version_is_told_ours(served: object) -> None:
    line, reply = connected(5)
    with line:
        status, version = fci.CONNECT_RESPONSE.unpack(reply[fci.ARM_HEADER.size :])
    assert (status, version) == (1, fci.ARM_VERSION)


def move_request(controller: int, generator: int) -> bytes:
    return np.array([controller, generator], "<u4").tobytes() + bytes(105)


ONES, EYE = np.ones(52), np.eye(4).ravel()


@pytest.mark.parametrize(
    ("number", "payload", "status"),
    [
        (fci.Command.STOP_MOVE, b"", Status.NOT_POSSIBLE),
        (fci.Command.AUTOMATIC_ERROR_RECOVERY, b"", RecoveryStatus.SUCCESS),
        (fci.Command.SET_LOAD, bytes(104), Status.SUCCESS),
        (fci.Command.SET_EE_TO_K, EYE.tobytes(), Status.SUCCESS),
        (fci.Command.SET_NE_TO_EE, (2 * EYE).tobytes(), Status.INVALID_ARGUMENT),
        (fci.Command.SET_COLLISION_BEHAVIOR, ONES.tobytes(), Status.SUCCESS),
        (fci.Command.SET_COLLISION_BEHAVIOR, (0 * ONES).tobytes(), Status.INVALID_ARGUMENT),
        (fci.Command.SET_COLLISION_BEHAVIOR, (np.inf * ONES).tobytes(), Status.INVALID_ARGUMENT),
        (fci.Command.MOVE, move_request(9, 0), MoveStatus.INVALID_ARGUMENT),
        (fci.Command.MOVE, move_request(0, 9), MoveStatus.INVALID_ARGUMENT),
        (fci.Command.MOVE, move_request(0, 2), MoveStatus.STARTED),
    ],
)
def test_a_request_gets_the_answer_of_the_interface(
    number: int, payload: bytes, status: int, served: tuple[FciEmulator, TabletopRobot]
) -> None:
    line, _ = connected()
    with line:
        reply = exchange(line, number, payload)
        assert fci.ARM_HEADER.unpack(reply[:-1]) == (number, 1, fci.ARM_HEADER.size + 1)
        assert reply[-1] == status
        if status is MoveStatus.STARTED:
            assert served[0].controller._motion.generator == Generator.CARTESIAN_POSITION
            assert exchange(line, fci.Command.SET_LOAD, bytes(104))[-1] == Status.NOT_POSSIBLE


def test_thresholds_are_those_of_motion_without_acceleration() -> None:
    values = np.arange(1.0, 53.0)
    behavior = fci.CollisionBehavior.from_bytes(values.tobytes())
    np.testing.assert_array_equal(behavior.torque_contact, values[14:21])
    np.testing.assert_array_equal(behavior.torque_collision, values[21:28])
    np.testing.assert_array_equal(behavior.force_contact, values[40:46])
    np.testing.assert_array_equal(behavior.force_collision, values[46:52])


def test_who_asks_before_saying_hello_is_hung_up_on(served: object) -> None:
    with socket.create_connection(("127.0.0.21", fci.ARM_PORT), 5.0) as line:
        assert exchange(line, fci.Command.STOP_MOVE, b"") == b""


def test_the_arm_has_one_client_at_a_time(served: object) -> None:
    first, _ = connected()
    with first, socket.create_connection(("127.0.0.21", fci.ARM_PORT), 5.0) as second:
        assert second.recv(64) == b""
        reply = exchange(first, fci.Command.STOP_MOVE, b"")
        assert reply[fci.ARM_HEADER.size] == Status.NOT_POSSIBLE


@pytest.mark.parametrize("number", [77, fci.Command.SET_LOAD])
def test_who_does_not_speak_the_protocol_is_hung_up_on(number: int, served: object) -> None:
    line, _ = connected()
    with line:
        assert exchange(line, number, b"xyz") == b""


def test_a_hand_that_is_asked_nonsense_hangs_up_and_goes_on_serving(
    served: tuple[FciEmulator, TabletopRobot],
) -> None:
    for command, payload in ((GripperCommand.CONNECT, b"x"), (99, b"")):
        with socket.create_connection(("127.0.0.21", fci.GRIPPER_PORT), 5.0) as line:
            size = fci.GRIPPER_HEADER.size + len(payload)
            line.sendall(fci.GRIPPER_HEADER.pack(command, 1, size) + payload)
            assert line.recv(64) == b""
    cycles = served[0].cycles
    wait_for(lambda: served[0].cycles > cycles, "further cycles")


@pytest.mark.parametrize("port", [fci.ARM_PORT, fci.GRIPPER_PORT])
def test_who_connects_and_resets_does_not_end_the_service(
    port: int, served: tuple[FciEmulator, TabletopRobot]
) -> None:
    done = silenced(served[0])  # so that the reset is there before the connection is looked at
    line = socket.create_connection(("127.0.0.21", port), 5.0)
    line.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    line.close()
    done.set()
    cycles = served[0].cycles
    wait_for(lambda: served[0].cycles > cycles + 100, "further cycles")
    line, reply = connected()
    line.close()
    assert len(reply) == fci.ARM_HEADER.size + fci.CONNECT_RESPONSE.size


def test_a_client_that_reads_no_answers_holds_nobody_up_and_is_hung_up_on(
    served: tuple[FciEmulator, TabletopRobot],
) -> None:
    line, _ = connected()
    ask = fci.ARM_HEADER.pack(fci.Command.GET_ROBOT_MODEL, 1, fci.ARM_HEADER.size)
    with line:
        with contextlib.suppress(OSError):
            for _ in range(400):
                line.sendall(ask * 10)
        cycles = served[0].cycles
        wait_for(lambda: served[0].cycles > cycles + 100, "further cycles")
    again, reply = connected()
    again.close()
    assert len(reply) == fci.ARM_HEADER.size + fci.CONNECT_RESPONSE.size


def test_an_address_is_served_once_and_free_again_after_it(
    served: tuple[FciEmulator, TabletopRobot],
) -> None:
    with pytest.raises(ConfigError, match="another address"):
        FciEmulator(PerfectRobot(), "127.0.0.21")
    served[0].close()
    FciEmulator(PerfectRobot(), "127.0.0.21").close()


def test_a_job_is_done_between_two_cycles_by_the_thread_that_serves(
    served: tuple[FciEmulator, TabletopRobot],
) -> None:
    by: list[threading.Thread] = []
    served[0].between_cycles(lambda: by.append(threading.current_thread()))
    assert [thread.name for thread in by] == ["fci-emulator"]


def test_a_job_returns_after_the_state_that_shows_it(
    served: tuple[FciEmulator, TabletopRobot], monkeypatch: pytest.MonkeyPatch
) -> None:
    emulator, at = served[0], list[int]()
    cycle = emulator._cycle

    def slow() -> None:
        time.sleep(0.05)
        cycle()

    monkeypatch.setattr(emulator, "_cycle", slow)
    emulator.between_cycles(lambda: at.append(emulator.cycles))
    assert emulator.cycles > at[0]


def test_a_reading_is_as_old_as_the_question() -> None:
    entered: list[float] = []

    class Slow:
        """A robot whose answer takes long."""

        def poll_motion(self) -> None: ...

        def stop(self) -> None: ...

        def join_motion(self, seconds: float) -> None: ...

        @property
        def state(self) -> Any:
            entered.append(time.monotonic())
            time.sleep(0.05)
            now = SimpleNamespace(to_msec=partial(len, tuple(entered)))
            return SimpleNamespace(time=now, robot_mode=None)

    modes = SimpleNamespace(Reflex=1, UserStopped=2)
    thread = RobotThread(Slow(), modes, lambda target: None, lambda: None)
    try:
        wait_for(lambda: len(entered) > 3, "some answers")
        newest = thread.newest
    finally:
        thread.close()
    assert newest is not None
    state, asked = newest
    assert asked <= entered[state.time.to_msec() - 1]


def test_a_command_that_does_not_come_in_time_is_counted(
    served: tuple[FciEmulator, TabletopRobot],
) -> None:
    line, _ = connected()
    with line:
        exchange(line, fci.Command.MOVE, move_request(0, 0))
        wait_for(lambda: served[0].lost > 0, "the emulator to lose its patience")
        assert served[0].moving


# ---------------------------------------------------------------- the real client


@pytest.fixture
def arm(served: tuple[FciEmulator, TabletopRobot]) -> Iterator[FrankaArm]:
    pytest.importorskip("franky", reason="franky-control is not installed")
    arm = FrankaArm(FrankaConfig("127.0.0.21", (ARM_X, 0.0, 0.0)))
    with contextlib.closing(arm):
        yield arm


def wait_for(condition: Callable[[], object], what: str, seconds: float = 60.0) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, f"waited {seconds} s for {what}"
        time.sleep(0.02)


def read(arm: FrankaArm) -> Reading:
    wait_for(arm.read, "a reading")
    reading = arm.read()
    assert reading is not None
    return reading


def here(arm: FrankaArm) -> np.ndarray:
    return read(arm).position


def going(arm: FrankaArm, target: Target, condition: Callable[[], object], what: str) -> None:
    """Asks for `target` every control period, as the node does, until the condition holds."""

    def asked() -> object:
        arm.go(target)
        return condition()

    wait_for(asked, what)


def aimed(arm: FrankaArm, offset: tuple[float, float, float], gripper: float = -1.0) -> Target:
    reading = read(arm)
    return Target(reading.position + offset, quaternion_of(reading.axis_angle), gripper)


def reached(arm: FrankaArm, target: Target) -> bool:
    return bool(np.linalg.norm(here(arm) - target.position) < 5e-4)


def test_the_client_knows_every_error_by_the_place_where_we_put_it(
    arm: FrankaArm, served: tuple[FciEmulator, TabletopRobot]
) -> None:
    flags = served[0].controller._state["errors"]
    known = [name for name in dir(arm._franky.Errors) if not name.startswith("_")]
    assert len(known) == len(flags)

    def seen() -> list[str]:
        newest = arm._thread.newest
        return [name for name in known if newest and getattr(newest[0].current_errors, name)]

    for error in Error:
        flags[error] = True
        wait_for(seen, error.name)
        (name,) = seen()
        assert set(error.name.lower().split("_")) <= set(name.split("_"))
        flags[error] = False
        wait_for(lambda: not seen(), f"{error.name} to go")


def test_the_client_reads_goes_and_is_preempted(
    arm: FrankaArm, served: tuple[FciEmulator, TabletopRobot]
) -> None:
    world = served[1].world
    np.testing.assert_allclose(here(arm), world.position(), atol=1e-4)
    far, near = aimed(arm, (0.0, 0.15, 0.0)), aimed(arm, (0.05, -0.05, 0.02))
    start = here(arm)
    going(arm, far, lambda: here(arm)[1] > start[1] + 0.02, "the first motion")
    going(arm, near, lambda: reached(arm, near), "the second target")
    assert not arm.fault
    assert here(arm)[1] < start[1]
    assert served[0].lost == 0


def watched(emulator: FciEmulator) -> list[np.ndarray]:
    """Fills with the commanded twist (6,) m/s, rad/s, one a millisecond; zeros without a motion."""
    twists: list[np.ndarray] = []
    cycle = emulator.controller.cycle

    def noted(command: np.void | None) -> np.ndarray:
        state = cycle(command)
        twists.append(state["O_dP_EE_c"].copy())
        return state

    emulator.controller.cycle = noted  # type: ignore[method-assign]
    return twists


def keeps(twists: list[np.ndarray], acceleration: float, jerk: float) -> bool:
    """Whether no axis of translation is faster, accelerates or jerks more (m, s)."""
    speeds = np.array(twists)[:, :3]
    bends = np.diff(speeds, axis=0) / CYCLE
    jerks = np.diff(bends, axis=0) / CYCLE
    velocity = FrankaConfig.velocity * LIMITS["translation"][0]
    return all(
        np.abs(values).max() <= most * 1.02
        for values, most in ((speeds, velocity), (bends, acceleration), (jerks, jerk))
    )


def swing(arm: FrankaArm, seconds: float) -> None:
    """To and fro on every axis, each way planned anew before the arm is there."""
    home, until = here(arm), time.monotonic() + seconds
    turns = quaternion_of(read(arm).axis_angle)
    while time.monotonic() < until:
        phase = 3.0 * (until - time.monotonic())
        away = 0.05 * np.sign(np.sin(phase * np.array([1.0, 1.7, 2.3])))
        arm.go(Target(home + away, turns, -1.0))
        time.sleep(CONTROL_PERIOD)


def test_every_motion_keeps_the_limits_of_velocity_acceleration_and_jerk(
    arm: FrankaArm, served: tuple[FciEmulator, TabletopRobot]
) -> None:
    """Going, turning round, being left without a target, resting: limits of ours, each cycle."""
    twists = watched(served[0])
    swing(arm, 2.0)
    wait_for(lambda: not arm._robot.is_in_control, "the arm that is left alone to rest")
    _, most, jerk = LIMITS["translation"]
    assert np.abs(twists).max() > 0.2
    assert keeps(twists, most * STOP_DYNAMICS, jerk * STOP_DYNAMICS)
    swing(arm, 1.0)
    arm.rest()
    wait_for(lambda: not arm._robot.is_in_control, "the arm to rest")
    assert keeps(twists, most * STOP_DYNAMICS, jerk * STOP_DYNAMICS)
    assert not arm.fault


def test_an_arm_that_is_let_go_on_its_way_brakes_within_the_limits(
    served: tuple[FciEmulator, TabletopRobot],
) -> None:
    pytest.importorskip("franky", reason="franky-control is not installed")
    with contextlib.closing(FrankaArm(FrankaConfig("127.0.0.21", (ARM_X, 0.0, 0.0)))) as arm:
        twists = watched(served[0])
        far = aimed(arm, (0.0, 0.25, 0.0))
        going(arm, far, lambda: twists and twists[-1][1] > 0.3, "the arm to be fast")
    wait_for(lambda: np.abs(twists[-1]).max() < 1e-3, "the arm to rest", 5.0)
    _, most, jerk = LIMITS["translation"]
    assert keeps(twists, most * STOP_DYNAMICS, jerk * STOP_DYNAMICS)


def test_the_client_rests_short_of_its_target(arm: FrankaArm) -> None:
    start, far = here(arm), aimed(arm, (0.0, 0.2, 0.0))
    going(arm, far, lambda: here(arm)[1] > start[1] + 0.02, "the motion")
    arm.rest()
    wait_for(lambda: not arm._robot.is_in_control, "the arm to rest")
    assert here(arm)[1] < start[1] + 0.15
    assert not arm.fault
    going(arm, far, lambda: reached(arm, far), "the target after all")


@pytest.mark.fault(
    "robot", "no target follows: our process is blocked", "the client brakes by itself"
)
def test_without_a_further_target_the_client_stops_by_itself(
    arm: FrankaArm, served: tuple[FciEmulator, TabletopRobot]
) -> None:
    start = here(arm)
    arm.go(aimed(arm, (0.0, 0.25, 0.0)))
    wait_for(lambda: arm._robot.is_in_control, "the motion")
    wait_for(lambda: not arm._robot.is_in_control, "the arm to rest")
    assert 0.005 < here(arm)[1] - start[1] < 0.15
    assert not arm.fault


def test_a_reading_carries_the_robots_time(
    arm: FrankaArm, served: tuple[FciEmulator, TabletopRobot]
) -> None:
    before = read(arm).time
    wait_for(lambda: read(arm).time > before, "a later reading")
    assert read(arm).time <= served[0].controller.robot_time * CYCLE


def silenced(emulator: FciEmulator) -> threading.Event:
    """The emulator's thread stands still until the event that is returned is set."""
    silent, done = threading.Event(), threading.Event()

    def stand_still() -> None:
        silent.set()
        done.wait(10.0)

    emulator._jobs.append(stand_still)
    assert silent.wait(5.0)
    return done


@pytest.mark.fault("robot", "the robot falls silent", "a fault; no call waits for it")
def test_a_robot_that_says_nothing_is_known_at_once_and_nobody_waits_for_it(
    arm: FrankaArm, served: tuple[FciEmulator, TabletopRobot]
) -> None:
    target = aimed(arm, (0.0, 0.2, 0.0))
    known, slowest = [], []
    for _ in range(5):  # a busy machine delays some of them
        done, took = silenced(served[0]), []
        began, reading = time.monotonic(), arm.read()
        while time.monotonic() - began < 0.6:  # libfranka gives up after a second
            at = time.monotonic()
            arm.go(target)
            before, reading = reading, arm.read()
            arm.rest()
            assert arm.fault == ""
            took.append(time.monotonic() - at)
            if before and reading is None:
                known.append(time.monotonic() - began)
            time.sleep(0.01)
        done.set()
        slowest.append(max(took))
        wait_for(arm.read, "the robot's return")
        if known and min(known) < 0.3 and min(slowest) < CONTROL_PERIOD:
            break
    assert 0.0 < min(known) < 0.3
    assert min(slowest) < CONTROL_PERIOD


def test_a_target_that_waited_for_a_silent_robot_is_not_gone_to(
    arm: FrankaArm, served: tuple[FciEmulator, TabletopRobot]
) -> None:
    start, done = here(arm), silenced(served[0])
    time.sleep(0.05)  # the arm's thread waits for a state by now
    arm.go(aimed_at(start + [0.0, 0.2, 0.0]))
    time.sleep(0.3)
    done.set()
    wait_for(arm.read, "the robot's return")
    time.sleep(0.3)
    assert np.linalg.norm(here(arm) - start) < 1e-3


def aimed_at(position: np.ndarray) -> Target:
    return Target(position, quaternion_of(POINTING_DOWN), -1.0)


def test_the_gripper_closes_and_opens(arm: FrankaArm) -> None:
    closed, opened = aimed(arm, (0.0, 0.0, 0.0), 1.0), aimed(arm, (0.0, 0.0, 0.0), -1.0)
    going(arm, closed, lambda: fingers(arm) < 0.002, "closed fingers")
    going(arm, opened, lambda: fingers(arm) > 0.038, "open fingers")
    assert not arm.fault


@pytest.mark.parametrize("command", [1.0, -1.0])
def test_resting_stops_fingers_that_move_and_going_on_moves_them(command: float) -> None:
    pytest.importorskip("franky", reason="franky-control is not installed")
    robot = SlowHand()
    robot.width = 0.04
    robot.open_to(0.04)  # or the fingers go to 8 cm before anybody asks
    emulator = FciEmulator(robot, "127.0.0.23", patience=0.5)
    emulator.start()
    with (
        contextlib.closing(emulator),
        contextlib.closing(FrankaArm(FrankaConfig("127.0.0.23"))) as arm,
    ):
        target = aimed(arm, (0.0, 0.0, 0.0), command)
        for _ in range(4):
            widths = [robot.width]

            def moves(begun: float = widths[0]) -> bool:
                return abs(robot.width - begun) > 0.002

            going(arm, target, moves, "fingers that move")
            moving = robot.width
            arm.rest()

            def stands(widths: list[float] = widths) -> bool:
                time.sleep(0.1)
                widths.append(robot.width)
                return abs(widths[-1] - widths[-2]) < 1e-6

            wait_for(stands, "fingers that stand", 3.0)
            assert abs(robot.width - moving) < 0.006, "stopped later than 0.2 s"


def fingers(arm: FrankaArm) -> float:
    return float(read(arm).fingers.mean())


@pytest.mark.fault("robot", "a force beyond the threshold", "its reflex stops it; FAULT")
def test_contact_is_a_fault_until_it_is_recovered_from(arm: FrankaArm) -> None:
    above = here(arm)
    into_the_table = aimed(arm, (0.0, 0.0, -above[2] - 0.03))
    going(arm, into_the_table, lambda: arm.fault, "the reflex")
    assert "reflex" in arm.fault
    stopped = here(arm)
    arm.go(aimed(arm, (0.0, 0.1, 0.0)))
    time.sleep(0.3)
    np.testing.assert_allclose(here(arm), stopped, atol=0.01)  # it yields a little
    assert arm.recover() == ""
    up = aimed(arm, (0.0, 0.0, 0.1))
    going(arm, up, lambda: reached(arm, up), "the way up")
    assert not arm.fault


@pytest.mark.fault(
    "robot", "the user stop is pressed", "FAULT; recovery is refused while it is pressed"
)
@pytest.mark.parametrize("moving", [True, False])
def test_the_user_stop_has_to_be_released_first(
    moving: bool, arm: FrankaArm, served: tuple[FciEmulator, TabletopRobot]
) -> None:
    if moving:
        arm.go(aimed(arm, (0.0, 0.2, 0.0)))
    served[0].press_user_stop()
    wait_for(lambda: arm.fault, "the user stop")
    assert "user stop" in arm.recover()
    served[0].press_user_stop(False)
    wait_for(lambda: arm.recover() == "", "recovery")
    assert not arm.fault


@pytest.mark.fault("robot", "the connection is lost", "FAULT")
def test_a_robot_that_is_gone_is_a_fault(
    arm: FrankaArm, served: tuple[FciEmulator, TabletopRobot]
) -> None:
    served[0].close()
    wait_for(lambda: "lost" in arm.fault, "the loss")
    assert arm.read() is None
    assert "start the node again" in arm.recover()


@pytest.mark.fault("robot", "another tool than the Franka Hand", "the node does not start")
def test_a_robot_with_another_tool_is_refused(
    served: tuple[FciEmulator, TabletopRobot],
) -> None:
    pytest.importorskip("franky", reason="franky-control is not installed")
    served[0].controller._state["F_T_EE"] = np.eye(4).ravel()
    with pytest.raises(ConfigError, match=r"103 mm and 45° off.*choose the Franka Hand"):
        FrankaArm(FrankaConfig("127.0.0.21"))


def test_a_load_is_said(served: tuple[FciEmulator, TabletopRobot]) -> None:
    pytest.importorskip("franky", reason="franky-control is not installed")
    served[0].controller._state["m_load"] = 0.5
    with contextlib.closing(FrankaArm(FrankaConfig("127.0.0.21"))) as arm:
        assert "a load of 0.50 kg" in " ".join(arm.remarks)


@pytest.mark.fault("robot", "a gripper that is not homed", "the node does not start")
def test_a_gripper_that_is_not_homed_is_refused(
    served: tuple[FciEmulator, TabletopRobot],
) -> None:
    pytest.importorskip("franky", reason="franky-control is not installed")
    served[0].gripper.max_width = 0.0
    with pytest.raises(ConfigError, match="not homed.*home it in Desk"):
        FrankaArm(FrankaConfig("127.0.0.21"))


@pytest.mark.fault("robot", "a gripper that forgets its homing", "FAULT")
def test_a_gripper_that_forgets_its_homing_is_a_fault(
    arm: FrankaArm, served: tuple[FciEmulator, TabletopRobot]
) -> None:
    served[0].gripper.max_width = 0.0
    wait_for(lambda: arm.fault, "the fault")
    assert "home it in Desk" in arm.fault


@pytest.mark.parametrize(("expected", "said"), [(0.0, ""), (0.032, ""), (0.06, "an object of 60")])
def test_an_object_that_is_lost_or_another_is_said(expected: float, said: str) -> None:
    pytest.importorskip("franky", reason="franky-control is not installed")
    robot = PerfectRobot()
    robot.object = 0.03
    emulator = FciEmulator(robot, "127.0.0.23", patience=0.5)
    emulator.start()
    config = FrankaConfig("127.0.0.23", grasp_width=expected)
    with contextlib.closing(emulator), contextlib.closing(FrankaArm(config)) as arm:
        closed = aimed(arm, (0.0, 0.0, 0.0), 1.0)
        going(arm, closed, lambda: arm._hand._held, "the grasp")
        assert arm._hand._held == pytest.approx(0.03, abs=1e-3)
        arm.rest()
        time.sleep(0.2)
        assert fingers(arm) == pytest.approx(0.015, abs=1e-3), "what is held is not let go"
        assert said in arm.notice
        assert bool(arm.notice) == bool(said)
        robot.object = 0.0
        wait_for(lambda: "the object was lost" in arm.notice, "the loss")
        assert not arm.fault


def test_the_gripper_changes_on_a_clear_command_and_not_at_once_again() -> None:
    command = TwoValued()
    said = [(0.1, 0.0), (0.5, 0.1), (-0.1, 1.0), (-0.9, 1.1), (0.9, 1.2), (0.9, 1.6)]
    done = [command.update(value, at) for value, at in said]
    assert done == [None, True, True, False, False, True]


def test_no_robot_is_said_with_what_to_do() -> None:
    pytest.importorskip("franky", reason="franky-control is not installed")
    with pytest.raises(ConfigError, match="FCI activated in Desk"):
        FrankaArm(FrankaConfig("127.0.0.22"))


@pytest.mark.parametrize(
    "values",
    [{"address": ""}, {"velocity": 0.0}, {"acceleration": 0.9}, {"force": -1.0},
     {"base": (0.0, np.nan, 0.0)}, {"grip_speed": 0.2}, {"open_width": 0.0},
     {"grasp_width": 0.08}],
)  # fmt: skip
def test_settings_that_make_no_sense_are_refused(values: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        FrankaConfig(**({"address": "127.0.0.22"} | values))  # type: ignore[arg-type]
