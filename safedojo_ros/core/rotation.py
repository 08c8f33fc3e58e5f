"""Rotations as axis-angles (3,) rad, unit quaternions (4,) w x y z, and matrices (3, 3)."""

from math import asin, cos, hypot, sin

import numpy as np

POINTING_DOWN = np.array([np.pi, 0.0, 0.0])
"""Axis-angle of a gripper that points down. Of the two axis-angles of a pose the one nearer to it
is used, in observations as in the episodes that policies learn from."""

TINY = 1e-9
"""Radians below which a rotation is none."""


def quaternion_of(axis_angle: np.ndarray) -> np.ndarray:
    """(3,) rad → unit quaternion (w, x, y, z)."""
    angle = float(np.linalg.norm(axis_angle))
    if angle < TINY:
        return np.array([1.0, 0.0, 0.0, 0.0])
    return np.concatenate([[np.cos(angle / 2)], np.sin(angle / 2) * axis_angle / angle])


def axis_angle_of(quaternion: np.ndarray, near: np.ndarray | None = None) -> np.ndarray:
    """Unit quaternion (w, x, y, z) → (3,) rad: of the two equal ones the one nearer to `near`.

    near: (3,) rad, by default none, which gives an angle in [0, π].
    """
    w, vector = float(quaternion[0]), np.asarray(quaternion[1:], dtype=np.float64)
    sine = float(np.linalg.norm(vector))
    if sine < TINY / 2.0:  # of half the angle
        return np.zeros(3)
    angle = 2.0 * np.arctan2(sine, w)
    one, other = vector / sine * angle, vector / sine * (angle - 2.0 * np.pi)
    aim = np.zeros(3) if near is None else near
    return other if np.linalg.norm(other - aim) < np.linalg.norm(one - aim) else one


def quaternion_of_euler(angles: np.ndarray) -> np.ndarray:
    """Angles about the fixed axes x, then y, then z (3,) rad → unit quaternion (w, x, y, z)."""
    x, y, z = (quaternion_of(angle * axis) for angle, axis in zip(angles, np.eye(3), strict=True))
    return multiply(z, multiply(y, x))


def quaternion_of_matrix(turn: np.ndarray) -> np.ndarray:
    """Rotation matrix (3, 3) → unit quaternion (w, x, y, z), by its largest part."""
    (a, b, c), (d, e, f), (g, h, i) = turn.tolist()
    parts = np.array([1 + a + e + i, 1 + a - e - i, 1 - a + e - i, 1 - a - e + i])
    largest = int(np.argmax(parts))
    rows = (
        (parts[0], h - f, c - g, d - b),
        (h - f, parts[1], d + b, c + g),
        (c - g, d + b, parts[2], h + f),
        (d - b, c + g, h + f, parts[3]),
    )
    found = np.array(rows[largest])
    return found / np.linalg.norm(found)


def multiply(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Hamilton product of two quaternions (w, x, y, z): the rotation b, then a."""
    w, x, y, z = a
    return np.array(
        [[w, -x, -y, -z], [x, w, -z, y], [y, z, w, -x], [z, -y, x, w]], dtype=np.float64
    ) @ np.asarray(b, dtype=np.float64)


def conjugate(quaternion: np.ndarray) -> np.ndarray:
    """The inverse of a unit quaternion (w, x, y, z)."""
    return np.asarray(quaternion, dtype=np.float64) * np.array([1.0, -1.0, -1.0, -1.0])


def turn_between(start: np.ndarray, end: np.ndarray) -> np.ndarray:
    """(3,) rad in the base frame that turns the pose of quaternion `start` into that of `end`."""
    return axis_angle_of(multiply(end, conjugate(start)))


def matrix_of(axis_angle: np.ndarray) -> np.ndarray:
    """(3,) rad → (3, 3), by Rodrigues' formula; fast enough for a loop of 1 kHz."""
    x, y, z = axis_angle.tolist()
    angle = hypot(x, y, z)
    if angle < TINY:
        return np.array([[1.0, -z, y], [z, 1.0, -x], [-y, x, 1.0]])
    s, c = sin(angle), 1.0 - cos(angle)
    x, y, z = x / angle, y / angle, z / angle
    return np.array(
        [
            [1.0 - c * (y * y + z * z), c * x * y - s * z, c * x * z + s * y],
            [c * x * y + s * z, 1.0 - c * (x * x + z * z), c * y * z - s * x],
            [c * x * z - s * y, c * y * z + s * x, 1.0 - c * (x * x + y * y)],
        ]
    )


def small_turn_between(start: np.ndarray, end: np.ndarray) -> np.ndarray:
    """(3,) rad in the base frame that turns matrix `start` (3, 3) into `end`.

    For turns of less than a quarter, as those of a millisecond are.
    """
    (_, a, b), (c, _, d), (e, f, _) = (end @ start.T).tolist()
    x, y, z = (f - d) / 2, (b - e) / 2, (c - a) / 2
    sine = hypot(x, y, z)
    scale = asin(min(1.0, sine)) / sine if sine > TINY else 1.0
    return np.array([x * scale, y * scale, z * scale])
