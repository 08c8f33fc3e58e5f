"""The arm as ROS describes robots: URDF text and the transforms of its links, from one table.

Joints and links have the names of franka_ros2. Shapes are the outlines that the forbidden zones
are checked with (`gate.capsules`), so what is shown is what is kept away from them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import acos, atan2, pi

import numpy as np

from safedojo_ros.core.errors import ConfigError
from safedojo_ros.core.rotation import quaternion_of
from safedojo_ros.robot.fci.urdf import EFFORT
from safedojo_ros.robot.gate.capsules import HAND, LINKS
from safedojo_ros.robot.kinematics import (
    DH_A,
    DH_ALPHA,
    DH_D,
    FLANGE,
    HAND_ANGLE,
    HAND_LENGTH,
)
from safedojo_ros.robot.limits import FR3_JOINTS

FINGER_HEIGHT = 0.0584
"""Metres from the hand's frame to that of a finger."""

FINGER_TRAVEL = 0.04
"""Metres that a finger moves."""


@dataclass(frozen=True)
class Joint:
    """How `child` hangs on `parent`. kind: fixed, revolute or prismatic.

    place: (3,) m; turn: (3,) roll, pitch, yaw (rad), of which one at most is not 0; axis: (3,).
    """

    name: str
    kind: str
    parent: str
    child: str
    place: tuple[float, float, float]
    turn: tuple[float, float, float]
    axis: tuple[float, float, float] = (0.0, 0.0, 1.0)


@dataclass(frozen=True)
class Transform:
    """place: (3,) m; quaternion: (4,), w first; of `child` in `parent`."""

    parent: str
    child: str
    place: np.ndarray
    quaternion: np.ndarray


@dataclass(frozen=True)
class CameraFrame:
    """Where a camera's optical frame (z ahead, x to the right) is in `parent`.

    place: (3,) m; quaternion: (4,), x, y, z, w, as ROS writes it.
    """

    name: str
    parent: str
    place: tuple[float, ...]
    quaternion: tuple[float, ...]

    def __post_init__(self) -> None:
        length = float(np.linalg.norm(self.quaternion)) if len(self.quaternion) == 4 else 0.0
        if len(self.place) != 3 or not abs(length - 1.0) < 1e-3:
            raise ConfigError(
                f"the pose of '{self.name}' is {(*self.place, *self.quaternion)}, expected x, y, z "
                "in metres and a quaternion x, y, z, w of length 1"
            )

    def transform(self) -> Transform:
        """The same as a transform."""
        x, y, z, w = self.quaternion
        return Transform(self.parent, self.name, np.array(self.place), np.array([w, x, y, z]))


def arm_joints(world: str, foot: Sequence[float]) -> list[Joint]:
    """Every joint of arm and hand. foot: (3,) m, where the arm stands in the frame `world`."""
    x, y, z = (float(v) for v in foot)
    joints = [Joint("fr3_foot", "fixed", world, "fr3_link0", (x, y, z), (0.0, 0.0, 0.0))]
    for i in range(7):
        # Craig's convention: turn and shift of the link before, then the joint's own
        sine, cosine = float(np.sin(DH_ALPHA[i])), float(np.cos(DH_ALPHA[i]))
        place = float(DH_A[i]), round(-sine * DH_D[i], 9), round(cosine * DH_D[i], 9)
        turn = (float(DH_ALPHA[i]), 0.0, 0.0)
        link = f"fr3_link{i + 1}"
        joints.append(Joint(f"fr3_joint{i + 1}", "revolute", f"fr3_link{i}", link, place, turn))
    still = (0.0, 0.0, 0.0)
    finger = (0.0, 0.0, FINGER_HEIGHT)
    left, right, hand = "fr3_leftfinger", "fr3_rightfinger", "fr3_hand"
    along = (0.0, 1.0, 0.0)
    joints += [
        Joint("fr3_joint8", "fixed", "fr3_link7", "fr3_link8", (0.0, 0.0, FLANGE), still),
        Joint("fr3_hand_joint", "fixed", "fr3_link8", hand, still, (0.0, 0.0, HAND_ANGLE)),
        Joint("fr3_hand_tcp_joint", "fixed", hand, "fr3_hand_tcp", (0.0, 0.0, HAND_LENGTH), still),
        Joint("fr3_finger_joint1", "prismatic", hand, left, finger, still, along),
        Joint("fr3_finger_joint2", "prismatic", hand, right, finger, (0.0, 0.0, pi), along),
    ]
    return joints


def transforms(joints: Sequence[Joint], positions: Mapping[str, float]) -> list[Transform]:
    """Of every joint that is fixed, or whose position (rad, m) is given."""
    found = []
    for joint in joints:
        if joint.kind != "fixed" and joint.name not in positions:
            continue
        moved = np.array(joint.axis) * positions.get(joint.name, 0.0)
        place, quaternion = np.array(joint.place), quaternion_of(np.array(joint.turn))
        if joint.kind == "revolute":
            quaternion = _product(quaternion, quaternion_of(moved))
        elif joint.kind == "prismatic":
            place = place + _turned(quaternion, moved)
        found.append(Transform(joint.parent, joint.child, place, quaternion))
    return found


def urdf(joints: Sequence[Joint]) -> str:
    """URDF text; metres and radians."""
    root = joints[0].parent
    parts = [f'<link name="{root}"/>']
    for joint in joints:
        shapes = "".join(_cylinder(*part) for part in OUTLINES.get(joint.child, []))
        parts.append(f'<link name="{joint.child}">{shapes}</link>')
        parts.append(
            f'<joint name="{joint.name}" type="{joint.kind}">{_origin(joint.place, joint.turn)}'
            f'<parent link="{joint.parent}"/><child link="{joint.child}"/>'
            f'<axis xyz="{_numbers(joint.axis)}"/>{_limit(joint)}</joint>'
        )
    return '<?xml version="1.0"?><robot name="fr3">' + "".join(parts) + "</robot>"


def _limit(joint: Joint) -> str:
    if joint.kind == "fixed":
        return ""
    if joint.kind == "prismatic":
        return f'<limit effort="70" lower="0" upper="{FINGER_TRAVEL}" velocity="0.1"/>'
    i = int(joint.name[-1]) - 1
    limits = FR3_JOINTS
    return (
        f'<limit effort="{EFFORT[i]}" lower="{limits.lower[i]}" upper="{limits.upper[i]}" '
        f'velocity="{limits.velocity[i]}"/>'
    )


Place = tuple[float, float, float]


def _outlines() -> dict[str, list[tuple[Place, Place, float]]]:
    found: dict[str, list[tuple[Place, Place, float]]] = {
        "fr3_link0": [((0.0, 0.0, 0.0), (0.0, 0.0, 0.16), 0.08)],
        "fr3_link1": [((0.0, 0.0, -0.18), (0.0, 0.0, -0.03), 0.06)],
    }
    for _, joint, one, other, radius in LINKS:
        found.setdefault(f"fr3_link{joint}", []).append((one, other, radius))
    one, other, radius = HAND
    found["fr3_hand_tcp"] = [(one, other, radius * 0.7)]
    for side in ("left", "right"):
        found[f"fr3_{side}finger"] = [((0.0, 0.006, 0.0), (0.0, 0.006, 0.053), 0.008)]
    return found


OUTLINES = _outlines()
"""{link: its parts, each from one end (m) to the other in the link's frame, with a radius}."""


def _cylinder(one: Sequence[float], other: Sequence[float], radius: float) -> str:
    apart = np.array(other) - np.array(one)
    length = float(np.linalg.norm(apart))
    ahead = apart / length
    turn = (0.0, acos(float(ahead[2])), atan2(float(ahead[1]), float(ahead[0])))
    middle = tuple(float(v) for v in (np.array(one) + np.array(other)) / 2.0)
    return (
        f"<visual>{_origin(middle, turn)}"
        f'<geometry><cylinder radius="{radius:g}" length="{length:g}"/></geometry>'
        '<material name="white"><color rgba="0.9 0.9 0.92 1"/></material></visual>'
    )


def _origin(place: Sequence[float], turn: Sequence[float]) -> str:
    return f'<origin xyz="{_numbers(place)}" rpy="{_numbers(turn)}"/>'


def _numbers(values: Sequence[float]) -> str:
    return " ".join(f"{v:.12g}" for v in values)


def _product(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Hamilton's product of two quaternions (4,), w first."""
    a, b = one[1:], other[1:]
    vector = one[0] * b + other[0] * a + np.cross(a, b)
    return np.concatenate([[one[0] * other[0] - a @ b], vector])


def _turned(quaternion: np.ndarray, vector: np.ndarray) -> np.ndarray:
    """(3,) turned by a quaternion (4,), w first."""
    twice = 2.0 * np.cross(quaternion[1:], vector)
    turned: np.ndarray = vector + quaternion[0] * twice + np.cross(quaternion[1:], twice)
    return turned
