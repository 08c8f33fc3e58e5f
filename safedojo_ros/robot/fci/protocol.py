"""What travels between a client and a robot over the Franka Control Interface, byte for byte.

Server version 10 of the arm, 3 of the gripper, little-endian and packed. Source of layouts and
numbers: the public headers of libfranka-common (research_interface, Apache-2.0).
"""

import struct
from dataclasses import dataclass
from enum import IntEnum

import numpy as np

ARM_PORT, GRIPPER_PORT = 1337, 1338
ARM_VERSION, GRIPPER_VERSION = 10, 3
CYCLE = 0.001
"""Seconds between two states of the arm; `message_id` counts them, so it is robot time in ms."""

ARM_HEADER = struct.Struct("<III")
"""Command, its id, size of the whole message."""

GRIPPER_HEADER = struct.Struct("<HII")


class Command(IntEnum):
    """Requests to the arm."""

    CONNECT = 0
    MOVE = 1
    STOP_MOVE = 2
    SET_COLLISION_BEHAVIOR = 3
    SET_JOINT_IMPEDANCE = 4
    SET_CARTESIAN_IMPEDANCE = 5
    SET_GUIDING_MODE = 6
    SET_EE_TO_K = 7
    SET_NE_TO_EE = 8
    SET_LOAD = 9
    AUTOMATIC_ERROR_RECOVERY = 10
    GET_ROBOT_MODEL = 11


class GripperCommand(IntEnum):
    """Requests to the gripper."""

    CONNECT = 0
    HOMING = 1
    GRASP = 2
    MOVE = 3
    STOP = 4


class Status(IntEnum):
    """Answers to the arm's requests but Move's; getters and setters know INVALID_ARGUMENT."""

    SUCCESS = 0
    NOT_POSSIBLE = 1
    INVALID_ARGUMENT = 2


class RecoveryStatus(IntEnum):
    """Answers to AutomaticErrorRecovery."""

    SUCCESS = 0
    NOT_POSSIBLE = 1
    SAFETY_FUNCTION = 2
    MANUAL_RECOVERY_REQUIRED = 3


class MoveStatus(IntEnum):
    """Answers to Move: STARTED at once, then exactly one of the others."""

    SUCCESS = 0
    STARTED = 1
    PREEMPTED = 2
    SAFETY_PREEMPTED = 3
    SAFETY_REJECTED = 4
    NOT_POSSIBLE = 5
    SINGULAR_START = 6
    INVALID_ARGUMENT = 7
    REFLEX_ABORTED = 8
    EMERGENCY_ABORTED = 9
    INPUT_ERROR_ABORTED = 10
    ABORTED = 11


class GripperStatus(IntEnum):
    """Answers to the gripper's requests."""

    SUCCESS = 0
    FAIL = 1
    UNSUCCESSFUL = 2
    ABORTED = 3


class RobotMode(IntEnum):
    """What the arm does, as its state says it."""

    OTHER = 0
    IDLE = 1
    MOVE = 2
    GUIDING = 3
    REFLEX = 4
    USER_STOPPED = 5
    ERROR_RECOVERY = 6


class Generator(IntEnum):
    """Motion generators, as the state names them; a Move request counts from JOINT_POSITION = 0."""

    IDLE = 0
    JOINT_POSITION = 1
    JOINT_VELOCITY = 2
    CARTESIAN_POSITION = 3
    CARTESIAN_VELOCITY = 4
    NONE = 5


class Controller(IntEnum):
    """Controllers, in the state and in a Move request."""

    JOINT_IMPEDANCE = 0
    CARTESIAN_IMPEDANCE = 1
    EXTERNAL = 2
    OTHER = 3


class Error(IntEnum):
    """Places in the state's lists of errors; those that the emulator can raise."""

    JOINT_REFLEX = 6
    CARTESIAN_REFLEX = 7
    JOINT_START_POSE_INVALID = 11
    JOINT_GENERATOR_POSITION_LIMITS = 12
    JOINT_GENERATOR_VELOCITY_LIMITS = 13
    JOINT_GENERATOR_VELOCITY_DISCONTINUITY = 14
    JOINT_GENERATOR_ACCELERATION_DISCONTINUITY = 15
    CARTESIAN_START_POSE_INVALID = 16
    CARTESIAN_GENERATOR_VELOCITY_LIMITS = 18
    CARTESIAN_GENERATOR_VELOCITY_DISCONTINUITY = 19
    CARTESIAN_GENERATOR_ACCELERATION_DISCONTINUITY = 20
    COMMUNICATION_CONSTRAINTS = 25
    CARTESIAN_GENERATOR_JOINT_POSITION_LIMITS = 27
    CARTESIAN_GENERATOR_JOINT_VELOCITY_LIMITS = 28
    CARTESIAN_GENERATOR_INVALID_FRAME = 31


ERROR_COUNT = 41

_FLOAT, _DOUBLE = "<f4", "<f8"

ROBOT_STATE = np.dtype(
    [("message_id", "<u8")]
    + [(n, _FLOAT, 16) for n in ("O_T_EE", "O_T_EE_d", "F_T_EE", "EE_T_K", "F_T_NE", "NE_T_EE")]
    + [("m_ee", _FLOAT), ("I_ee", _FLOAT, 9), ("F_x_Cee", _FLOAT, 3)]
    + [("m_load", _FLOAT), ("I_load", _FLOAT, 9), ("F_x_Cload", _FLOAT, 3)]
    + [("elbow", _FLOAT, 2), ("elbow_d", _FLOAT, 2)]
    + [(n, _FLOAT, 7) for n in ("tau_J", "tau_J_d", "dtau_J", "q", "q_d", "dq", "dq_d", "ddq_d")]
    + [("joint_contact", _FLOAT, 7), ("cartesian_contact", _FLOAT, 6)]
    + [("joint_collision", _FLOAT, 7), ("cartesian_collision", _FLOAT, 6)]
    + [("tau_ext_hat_filtered", _FLOAT, 7), ("O_F_ext_hat_K", _FLOAT, 6)]
    + [("K_F_ext_hat_K", _FLOAT, 6), ("O_dP_EE_d", _FLOAT, 6), ("O_ddP_O", _FLOAT, 3)]
    + [("elbow_c", _FLOAT, 2), ("delbow_c", _FLOAT, 2), ("ddelbow_c", _FLOAT, 2)]
    + [("O_T_EE_c", _FLOAT, 16), ("O_dP_EE_c", _FLOAT, 6), ("O_ddP_EE_c", _FLOAT, 6)]
    + [("theta", _FLOAT, 7), ("dtheta", _FLOAT, 7)]
    + [("accelerometer_top", _FLOAT, 18), ("accelerometer_bottom", _FLOAT, 18)]
    + [("motion_generator_mode", "u1"), ("controller_mode", "u1")]
    + [("errors", "?", ERROR_COUNT), ("reflex_reason", "?", ERROR_COUNT)]
    + [("robot_mode", "u1"), ("control_command_success_rate", _FLOAT)]
)
"""1377 bytes by UDP each cycle. Poses are 4×4 matrices by columns; forces are those of the robot
on its surroundings."""

ROBOT_COMMAND = np.dtype(
    [("message_id", "<u8")]
    + [("q_c", _DOUBLE, 7), ("dq_c", _DOUBLE, 7), ("O_T_EE_c", _DOUBLE, 16)]
    + [("O_dP_EE_c", _DOUBLE, 6), ("elbow_c", _DOUBLE, 2)]
    + [("valid_elbow", "?"), ("motion_generation_finished", "?")]
    + [("tau_J_d", _DOUBLE, 7), ("torque_command_finished", "?")]
)
"""371 bytes by UDP, back for each state while the client moves the arm."""

GRIPPER_STATE = struct.Struct("<Idd?H")
"""message_id, width (m), maximal width (m), whether something is grasped, temperature (°C)."""

CONNECT_REQUEST = struct.Struct("<HH")
"""Version of the client's library, the UDP port to which states are sent."""

CONNECT_RESPONSE = struct.Struct("<BH")
GRIPPER_CONNECT_RESPONSE = struct.Struct("<HH")
"""Status and version of the server."""

GRIPPER_STATUS = struct.Struct("<H")

_MOVE_REQUEST = struct.Struct("<II3d3d?7d")

PAYLOADS = {
    Command.CONNECT: CONNECT_REQUEST.size,
    Command.MOVE: _MOVE_REQUEST.size,
    Command.STOP_MOVE: 0,
    Command.SET_COLLISION_BEHAVIOR: 8 * 52,
    Command.SET_JOINT_IMPEDANCE: 8 * 7,
    Command.SET_CARTESIAN_IMPEDANCE: 8 * 6,
    Command.SET_GUIDING_MODE: 7,
    Command.SET_EE_TO_K: 8 * 16,
    Command.SET_NE_TO_EE: 8 * 16,
    Command.SET_LOAD: 8 * 13,
    Command.AUTOMATIC_ERROR_RECOVERY: 0,
    Command.GET_ROBOT_MODEL: 0,
}
"""Bytes that follow the header of each request."""


@dataclass(frozen=True)
class MoveRequest:
    """What a client asks for when a motion begins."""

    controller: Controller
    generator: Generator

    @staticmethod
    def from_bytes(payload: bytes) -> "MoveRequest":
        """Raises `ValueError` for modes that do not exist."""
        controller, generator, *_ = _MOVE_REQUEST.unpack(payload)
        return MoveRequest(Controller(controller), Generator(generator + 1))


@dataclass(frozen=True, eq=False)
class CollisionBehavior:
    """Thresholds beyond which the arm stops by reflex: torque (7,) Nm and force (6,) N, Nm.

    The lower ones, contact, are only reported; those for phases of acceleration are not kept.
    """

    torque_contact: np.ndarray
    torque_collision: np.ndarray
    force_contact: np.ndarray
    force_collision: np.ndarray

    @staticmethod
    def from_bytes(payload: bytes) -> "CollisionBehavior":
        """Raises `ValueError` for thresholds that are not finite and positive."""
        values = np.frombuffer(payload, _DOUBLE)
        if not (np.all(np.isfinite(values)) and np.all(values > 0.0)):
            raise ValueError("thresholds must be finite and positive")
        torques, forces = values[:28].reshape(4, 7), values[28:].reshape(4, 6)
        return CollisionBehavior(torques[2], torques[3], forces[2], forces[3])


_IDENTITY, _LAST_ROW = np.eye(3), [0.0, 0.0, 0.0, 1.0]


def answer(command: int, number: int, body: bytes) -> bytes:
    """A reply of the arm: header, then status (and more)."""
    return ARM_HEADER.pack(command, number, ARM_HEADER.size + len(body)) + body


def gripper_answer(command: int, number: int, body: bytes) -> bytes:
    """A reply of the gripper."""
    return GRIPPER_HEADER.pack(command, number, GRIPPER_HEADER.size + len(body)) + body


def pose_columns(rotation: np.ndarray, position: np.ndarray) -> np.ndarray:
    """(3, 3) and (3,) m → (16,), a 4×4 matrix by columns."""
    pose = np.zeros(16)
    pose.reshape(4, 4)[:3, :3] = rotation.T
    pose[12:15], pose[15] = position, 1.0
    return pose


def pose_parts(columns: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(16,) → rotation (3, 3) and position (3,) m; raises `ValueError` unless it is a pose."""
    matrix = np.asarray(columns, dtype=np.float64).reshape(4, 4).T
    rotation = matrix[:3, :3]
    skewed = np.abs(rotation @ rotation.T - _IDENTITY).max()
    if not skewed < 1e-4 or matrix[3].tolist() != _LAST_ROW:  # a NaN is not below
        raise ValueError("not a homogeneous transformation")
    return rotation, matrix[:3, 3]
