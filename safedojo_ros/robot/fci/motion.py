"""What a commanded motion becomes, one millisecond at a time, or which limit it breaks.

The arm follows joint positions or velocities, or poses or twists of its end-effector; each cycle's
set-point is differentiated and held against the FR3's limits of velocity, acceleration and jerk,
as the robot does. A lost command is replaced by going on with the acceleration of before.
"""

from math import hypot, isfinite

import numpy as np

from safedojo_ros.core.rotation import matrix_of, small_turn_between
from safedojo_ros.robot.fci.protocol import CYCLE, Error, Generator, pose_columns, pose_parts
from safedojo_ros.robot.kinematics import Kinematics
from safedojo_ros.robot.limits import FR3_JOINTS

# Franka documentation, "Robot and interface specifications", FR3.
JOINT_ACCELERATION, JOINT_JERK = 10.0, 5000.0
CARTESIAN_LIMITS = np.array([[3.0, 9.0, 4500.0], [2.5, 17.0, 8500.0]])
"""Velocity, acceleration and jerk of translation (m) and rotation (rad)."""

SLACK = 1.01
"""Set-points travel partly as float32, so a motion at a limit may seem to be a little beyond."""

START_TOLERANCE = 0.01
"""How far the first set-point may lie from where the arm is told to be: rad, m."""

DAMPING = 1e-3
POSTURE_GAIN = 0.002
"""Share of its way back to the posture of the motion's beginning that the elbow goes each cycle."""


class MotionBroken(Exception):
    """The motion was aborted; `error` is the robot's name for why."""

    def __init__(self, error: Error) -> None:
        super().__init__(error.name.lower())
        self.error = error


class MotionGenerator:
    """Desired joints, and what they were derived from.

    joints, velocities, accelerations: (7,) rad, rad/s, rad/s²; pose: rotation (3, 3) and position
    (3,) m of the last commanded pose; twist (6,) m/s, rad/s and bend (6,), its change a second.
    """

    def __init__(self, kinematics: Kinematics, joints: np.ndarray) -> None:
        self._kinematics = kinematics
        self.place(joints)

    def place(self, joints: np.ndarray) -> None:
        """Stand still at `joints` (7,)."""
        self.joints = np.array(joints, dtype=np.float64)
        self.velocities, self.accelerations = np.zeros(7), np.zeros(7)
        self.begin(Generator.IDLE)

    def begin(self, generator: Generator) -> None:
        """The next commands are of this kind."""
        self.generator = generator
        self.rotation, self.position, _ = self._kinematics.forward(self.joints)
        self.twist, self.bend = np.zeros(6), np.zeros(6)
        self._posture = self.joints.copy()
        self._first = True

    @property
    def pose(self) -> np.ndarray:
        """(16,) the last commanded pose, by columns."""
        return pose_columns(self.rotation, self.position)

    def step(self, command: np.void | None) -> None:
        """Follow one command, or none that came; raises `MotionBroken`."""
        first, self._first = self._first, False
        if self.generator in (Generator.JOINT_POSITION, Generator.JOINT_VELOCITY):
            self._step_joints(command, first)
        else:
            self._step_pose(command, first)

    def brake(self) -> None:
        """No motion is commanded: come to rest as fast as the limits allow."""
        slower = JOINT_ACCELERATION * CYCLE
        before = self.velocities
        self.velocities = np.sign(before) * np.maximum(0.0, np.abs(before) - slower)
        self.accelerations = (self.velocities - before) / CYCLE
        self.joints = self.joints + self.velocities * CYCLE
        if before.any():
            self.begin(Generator.IDLE)

    def _step_joints(self, command: np.void | None, first: bool) -> None:
        if command is None:
            velocities = self.velocities + self.accelerations * CYCLE
        elif self.generator == Generator.JOINT_VELOCITY:
            velocities = np.array(command["dq_c"])
        else:
            apart = command["q_c"] - self.joints
            if first and largest(apart) > START_TOLERANCE:
                raise MotionBroken(Error.JOINT_START_POSE_INVALID)
            velocities = apart / CYCLE
        accelerations = (velocities - self.velocities) / CYCLE
        joints = self.joints + velocities * CYCLE
        if not np.all(np.isfinite(joints)):
            raise MotionBroken(Error.JOINT_GENERATOR_VELOCITY_LIMITS)
        if command is not None:
            if not within(joints):
                raise MotionBroken(Error.JOINT_GENERATOR_POSITION_LIMITS)
            if too_fast(self.joints, velocities):
                raise MotionBroken(Error.JOINT_GENERATOR_VELOCITY_LIMITS)
            if largest(accelerations) > JOINT_ACCELERATION * SLACK:
                raise MotionBroken(Error.JOINT_GENERATOR_VELOCITY_DISCONTINUITY)
            if largest(accelerations - self.accelerations) > JOINT_JERK * CYCLE * SLACK:
                raise MotionBroken(Error.JOINT_GENERATOR_ACCELERATION_DISCONTINUITY)
        self.joints, self.velocities, self.accelerations = joints, velocities, accelerations

    def _step_pose(self, command: np.void | None, first: bool) -> None:
        if command is None:
            twist = self.twist + self.bend * CYCLE
        elif self.generator == Generator.CARTESIAN_VELOCITY:
            twist = np.array(command["O_dP_EE_c"])
        else:
            twist = self._twist_to(command["O_T_EE_c"], first)
        bend = (twist - self.twist) / CYCLE
        if not isfinite(twist.sum()):
            raise MotionBroken(Error.CARTESIAN_GENERATOR_VELOCITY_LIMITS)
        if command is not None:
            for part, (velocity, acceleration, jerk) in zip(
                (slice(0, 3), slice(3, 6)), CARTESIAN_LIMITS * SLACK, strict=True
            ):
                if hypot(*twist[part].tolist()) > velocity:
                    raise MotionBroken(Error.CARTESIAN_GENERATOR_VELOCITY_LIMITS)
                if hypot(*bend[part].tolist()) > acceleration:
                    raise MotionBroken(Error.CARTESIAN_GENERATOR_VELOCITY_DISCONTINUITY)
                if hypot(*(bend[part] - self.bend[part]).tolist()) > jerk * CYCLE:
                    raise MotionBroken(Error.CARTESIAN_GENERATOR_ACCELERATION_DISCONTINUITY)
        self.position = self.position + twist[:3] * CYCLE
        self.rotation = matrix_of(twist[3:] * CYCLE) @ self.rotation
        self.twist, self.bend = twist, bend
        self._track()

    def _twist_to(self, columns: np.ndarray, first: bool) -> np.ndarray:
        try:
            rotation, position = pose_parts(columns)
        except ValueError:
            raise MotionBroken(Error.CARTESIAN_GENERATOR_INVALID_FRAME) from None
        apart = position - self.position
        if first and hypot(*apart.tolist()) > START_TOLERANCE:
            raise MotionBroken(Error.CARTESIAN_START_POSE_INVALID)
        return np.concatenate([apart, small_turn_between(self.rotation, rotation)]) / CYCLE

    def _track(self) -> None:
        """Move the joints to the commanded pose, the elbow staying as it was."""
        rotation, position, jacobian = self._kinematics.forward(self.joints)
        apart = np.concatenate(
            [self.position - position, small_turn_between(rotation, self.rotation)]
        )
        posture = POSTURE_GAIN * (self._posture - self.joints)
        gram = jacobian @ jacobian.T
        gram[np.diag_indices(6)] += DAMPING**2
        move = posture + jacobian.T @ np.linalg.solve(gram, apart - jacobian @ posture)
        joints, velocities = self.joints + move, move / CYCLE
        if not within(joints):
            raise MotionBroken(Error.CARTESIAN_GENERATOR_JOINT_POSITION_LIMITS)
        if too_fast(self.joints, velocities):
            raise MotionBroken(Error.CARTESIAN_GENERATOR_JOINT_VELOCITY_LIMITS)
        self.accelerations = (velocities - self.velocities) / CYCLE
        self.joints, self.velocities = joints, velocities


def within(joints: np.ndarray) -> bool:
    """Whether `joints` (7,) rad are positions that the arm can have."""
    return bool(((joints >= FR3_JOINTS.lower) & (joints <= FR3_JOINTS.upper)).all())


def too_fast(joints: np.ndarray, velocities: np.ndarray) -> bool:
    """Whether one of `velocities` (7,) rad/s is more than the arm may have at `joints` (7,) rad."""
    lowest, highest = FR3_JOINTS.velocity_range(joints)
    return bool(((velocities > highest * SLACK) | (velocities < lowest * SLACK)).any())


def largest(values: np.ndarray) -> float:
    """The largest magnitude of a few numbers; NaN if one is."""
    return float(np.abs(values).max())
