"""The robot's side of the Franka Control Interface as a state machine, without sockets or a clock.

`cycle` is one millisecond: it takes the client's command, moves the arm and returns the state that
the robot sends. Faults (reflex on contact, user stop, broken limits, lost packets) stop the arm,
latch, and wait for a recovery, as on the robot.
"""

from collections import deque
from typing import Protocol

import numpy as np

from safedojo_ros.robot.fci.motion import MotionBroken, MotionGenerator
from safedojo_ros.robot.fci.protocol import (
    ROBOT_STATE,
    CollisionBehavior,
    Controller,
    Error,
    Generator,
    MoveRequest,
    MoveStatus,
    RecoveryStatus,
    RobotMode,
    Status,
    pose_columns,
)
from safedojo_ros.robot.kinematics import Kinematics, hand

LOST_IN_A_ROW = 20
"""Lost commands after which the robot stops."""

UNANSWERED = 2
"""States of a motion that libfranka reads before it answers one."""

SUCCESS_WINDOW = 100
"""Cycles over which the share of commands that came in time is reported."""

DEFAULT_BEHAVIOR = CollisionBehavior(
    np.full(7, 20.0), np.full(7, 20.0), np.full(6, 30.0), np.full(6, 30.0)
)


class Arm(Protocol):
    """What is moved: physics, or something simpler."""

    @property
    def joints(self) -> np.ndarray:
        """(7,) rad, measured."""

    @property
    def velocities(self) -> np.ndarray:
        """(7,) rad/s, measured."""

    @property
    def contact_torques(self) -> np.ndarray:
        """(7,) Nm that the surroundings put on the joints."""

    def follow(self, joints: np.ndarray, velocities: np.ndarray) -> None:
        """Move for a millisecond towards `joints` (7,) rad, to be passed at `velocities` (7,)."""


class FciController:
    """Requests change the mode, `cycle` moves; `finished` holds the terminal answers to Move.

    A user stop comes from outside (`user_stop`), and only there it is released.
    """

    def __init__(self, arm: Arm) -> None:
        self.arm = arm
        self.user_stop = False
        self.mode = RobotMode.IDLE
        self.behavior = DEFAULT_BEHAVIOR
        self.finished: deque[tuple[int, MoveStatus]] = deque()
        self._kinematics = Kinematics()
        self._motion = MotionGenerator(self._kinematics, arm.joints)
        self._controller = Controller.OTHER
        self._move: int | None = None
        self._heard = False
        self._lost = self._unanswered = 0
        self._came: deque[bool] = deque(maxlen=SUCCESS_WINDOW)
        self._measured = (np.zeros(0), np.zeros(16), np.zeros((6, 7)))
        self._state = np.zeros((), ROBOT_STATE)
        fixed = pose_columns(hand()[:3, :3], hand()[:3, 3])
        self._state["F_T_EE"] = self._state["F_T_NE"] = fixed
        self._state["EE_T_K"] = self._state["NE_T_EE"] = np.eye(4).ravel()
        self._state["m_ee"] = 0.73

    # ---------------------------------------------------------------- requests

    @property
    def awaits_command(self) -> bool:
        """Whether a client moves the arm and should have answered the newest state by now."""
        return self._move is not None and (self._heard or self._unanswered >= UNANSWERED)

    @property
    def robot_time(self) -> int:
        """`message_id` of the newest state, ms."""
        return int(self._state["message_id"])

    @property
    def may_change(self) -> bool:
        """Whether settings of the internal controllers may be changed now."""
        return self.mode != RobotMode.MOVE

    def place(self) -> None:
        """The arm was put elsewhere by other hands: stand still there."""
        if self._move is not None:
            self._end(MoveStatus.ABORTED, RobotMode.IDLE)
        self._motion.place(self.arm.joints)

    def move(self, number: int, request: MoveRequest) -> MoveStatus:
        """Begin a motion; its id is `number`."""
        if self.mode == RobotMode.USER_STOPPED:
            return MoveStatus.SAFETY_REJECTED
        if self.mode != RobotMode.IDLE or self._move is not None:
            return MoveStatus.NOT_POSSIBLE
        if request.generator == Generator.NONE or request.controller == Controller.EXTERNAL:
            return MoveStatus.INVALID_ARGUMENT  # joint torques are not emulated
        self._move, self._heard, self._lost, self._unanswered = number, False, 0, 0
        self._came.clear()
        self._motion.begin(request.generator)
        self._controller, self.mode = request.controller, RobotMode.MOVE
        self._state["errors"] = self._state["reflex_reason"] = False
        return MoveStatus.STARTED

    def stop_move(self) -> Status:
        """The client takes its motion back."""
        if self._move is None:
            return Status.NOT_POSSIBLE
        self._end(MoveStatus.PREEMPTED, RobotMode.IDLE)
        return Status.SUCCESS

    def recover(self) -> RecoveryStatus:
        """Leave the reflex; refused while the user stop is pressed."""
        if self.user_stop or self.mode == RobotMode.USER_STOPPED:
            return RecoveryStatus.SAFETY_FUNCTION
        if self.mode == RobotMode.MOVE:
            return RecoveryStatus.NOT_POSSIBLE
        self._state["errors"] = False
        self.mode = RobotMode.IDLE
        return RecoveryStatus.SUCCESS

    def client_left(self) -> None:
        """The connection is gone: a motion without its client is stopped."""
        if self._move is not None:
            self._end(MoveStatus.ABORTED, RobotMode.IDLE)
            self.finished.clear()

    # ---------------------------------------------------------------- a millisecond

    def cycle(self, command: np.void | None) -> np.ndarray:
        """Take the command of this cycle, or None if none came; returns the new state.

        The state is a record of `ROBOT_STATE`, the same one each time.
        """
        if self.user_stop and self.mode != RobotMode.USER_STOPPED:
            self._end(MoveStatus.EMERGENCY_ABORTED, RobotMode.USER_STOPPED)
        elif not self.user_stop and self.mode == RobotMode.USER_STOPPED:
            self.mode = RobotMode.IDLE
        if self._move is None:
            self._motion.brake()
        else:
            self._follow(command)
        self.arm.follow(self._motion.joints, self._motion.velocities)
        self._feel()
        self._report()
        return self._state

    def _follow(self, command: np.void | None) -> None:
        if command is None and not self._heard:
            self._unanswered += 1
            return
        self._heard = True
        self._came.append(command is not None)
        self._lost = 0 if command is not None else self._lost + 1
        if command is not None and command["motion_generation_finished"]:
            self._end(MoveStatus.SUCCESS, RobotMode.IDLE)
            return
        try:
            if self._lost >= LOST_IN_A_ROW:
                raise MotionBroken(Error.COMMUNICATION_CONSTRAINTS)
            self._motion.step(command)
        except MotionBroken as broken:
            self._reflex(broken.error)

    def _feel(self) -> None:
        """Contact: report what is felt, and stop beyond the client's thresholds."""
        torques, behavior = -self.arm.contact_torques, self.behavior
        joints, pose, jacobian = self._measured
        if not np.array_equal(joints, self.arm.joints):
            joints = np.array(self.arm.joints)
            rotation, position, jacobian = self._kinematics.forward(joints)
            pose = pose_columns(rotation, position)
            self._measured = joints, pose, jacobian
        state = self._state
        if torques.any():
            force = np.linalg.lstsq(jacobian.T, torques, rcond=1e-2)[0]
        else:
            force = np.zeros(6)
        state["tau_ext_hat_filtered"], state["O_F_ext_hat_K"] = torques, force
        state["joint_contact"] = np.abs(torques) > behavior.torque_contact
        state["cartesian_contact"] = np.abs(force) > behavior.force_contact
        struck = np.abs(torques) > behavior.torque_collision
        hit = np.abs(force) > behavior.force_collision
        state["joint_collision"], state["cartesian_collision"] = struck, hit
        if self.mode == RobotMode.REFLEX and (struck.any() or hit.any()):
            self._motion.place(joints)  # yield to what was struck
        if self.mode == RobotMode.MOVE and (struck.any() or hit.any()):
            self._reflex(Error.JOINT_REFLEX if struck.any() else Error.CARTESIAN_REFLEX)

    def _reflex(self, error: Error) -> None:
        self._state["errors"][error] = self._state["reflex_reason"][error] = True
        self._end(MoveStatus.REFLEX_ABORTED, RobotMode.REFLEX)

    def _end(self, status: MoveStatus, mode: RobotMode) -> None:
        if self._move is not None:
            self.finished.append((self._move, status))
        self._move, self.mode, self._controller = None, mode, Controller.OTHER
        self._motion.begin(Generator.IDLE)

    def _report(self) -> None:
        state, motion, arm = self._state, self._motion, self.arm
        _, pose, jacobian = self._measured
        moving = self._move is not None
        state["message_id"] += 1
        state["O_T_EE"] = pose
        commanded = motion.pose
        state["O_T_EE_d"] = state["O_T_EE_c"] = commanded
        state["O_dP_EE_c"], state["O_ddP_EE_c"] = motion.twist, motion.bend
        state["O_dP_EE_d"] = motion.twist if moving else jacobian @ motion.velocities
        state["q"] = state["theta"] = arm.joints
        state["dq"] = state["dtheta"] = arm.velocities
        state["q_d"], state["dq_d"] = motion.joints, motion.velocities
        state["ddq_d"] = motion.accelerations
        state["elbow"] = arm.joints[2], np.sign(arm.joints[3])
        state["elbow_d"] = state["elbow_c"] = motion.joints[2], np.sign(motion.joints[3])
        state["motion_generator_mode"] = motion.generator if moving else Generator.IDLE
        state["controller_mode"] = self._controller
        state["robot_mode"] = self.mode
        came = sum(self._came) / len(self._came) if self._came else 0.0
        state["control_command_success_rate"] = came if moving else 0.0
