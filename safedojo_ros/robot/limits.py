"""What the arm may be asked for: workspace box, per-step deltas, FR3 joint limits.

A value beyond a limit is refused with a sentence; nothing here clips a command into motion.
"""

from dataclasses import dataclass

import numpy as np

from safedojo_ros.core.bounds import MAX_DELTA_POSITION, MAX_DELTA_ROTATION
from safedojo_ros.core.config import check_ranges
from safedojo_ros.core.errors import ChunkRejected, ConfigError
from safedojo_ros.core.types import ACTION_SIZE

ROUNDING = 1e-6
"""Slack for values that travelled as float32 (0.05 comes back as 0.05000000075)."""

# Franka documentation, "Robot and interface specifications", FR3 control parameters.
FR3_POSITION_UPPER = np.array([2.9007, 1.8361, 2.9007, -0.1169, 2.8763, 4.6216, 3.0508])
FR3_POSITION_LOWER = np.array([-2.9007, -1.8361, -2.9007, -3.0770, -2.8763, 0.4398, -3.0508])
FR3_VELOCITY = np.array([2.62, 2.62, 2.62, 2.62, 5.26, 4.18, 5.26])
FR3_VELOCITY_OFFSET = np.array([0.6599, 0.2517, 0.2, 0.3533, 0.5757, 0.4878, 0.4628])
FR3_DECELERATION = np.array([6.0, 2.585, 3.5, 4.0, 17.0, 5.5, 17.0])


@dataclass(frozen=True)
class Workspace:
    """The box, metres in the base frame, that the end-effector target never leaves."""

    lower: tuple[float, float, float]
    upper: tuple[float, float, float]

    def __post_init__(self) -> None:
        corners = np.array([self.lower, self.upper], dtype=np.float64)
        if corners.shape != (2, 3) or not np.all(np.isfinite(corners)):
            raise ConfigError(
                f"workspace corners are {self.lower} and {self.upper}, "
                "expected 3 finite metres each"
            )
        if not np.all(corners[0] < corners[1]):
            raise ConfigError(
                f"workspace corner {self.lower} is not below {self.upper} on every axis; "
                "give the lower corner first"
            )

    def clamp(self, position: np.ndarray) -> np.ndarray:
        """The point of the box that is nearest to `position` (3,) m."""
        return np.clip(np.asarray(position, dtype=np.float64), self.lower, self.upper)

    def widened(self, position: np.ndarray) -> "Workspace":
        """The smallest box that holds this one and `position` (3,) m."""
        lower, upper = np.minimum(self.lower, position), np.maximum(self.upper, position)
        return Workspace(tuple(lower.tolist()), tuple(upper.tolist()))

    def contains(self, position: np.ndarray) -> bool:
        """Whether `position` (3,) m is inside or on the box."""
        position = np.asarray(position, dtype=np.float64)
        return bool(np.all(position >= self.lower) and np.all(position <= self.upper))


def outside(workspace: Workspace, position: np.ndarray, allowed: float) -> str:
    """Why an arm at `position` (3,) m is too far from `workspace`, or "": `allowed` m are not."""
    distance = float(np.linalg.norm(position - workspace.clamp(position)))
    if distance <= allowed + ROUNDING:
        return ""
    place = ", ".join(f"{value:.3f}" for value in position)
    return (
        f"the end-effector is at ({place}) m, {distance:.3f} m outside the workspace (allowed: "
        f"{allowed:g}); check robot_base, the tool and the workspace, or guide the arm back"
    )


@dataclass(frozen=True)
class ActionLimits:
    """Largest delta of one control step, on each axis (LIBERO's convention by default)."""

    position: float = MAX_DELTA_POSITION
    """Metres a step and axis."""
    rotation: float = MAX_DELTA_ROTATION
    """Radians a step and axis."""

    def __post_init__(self) -> None:
        check_ranges(self, position="(0, inf)", rotation="(0, inf)")

    def check(self, actions: np.ndarray) -> None:
        """Raise `ChunkRejected`, naming the first step of `actions` (H, 7) beyond a limit."""
        actions = np.asarray(actions, dtype=np.float64)
        if actions.ndim != 2 or actions.shape[1] != ACTION_SIZE:
            raise ChunkRejected(f"actions have shape {actions.shape}, expected (H, {ACTION_SIZE})")
        bound = np.array([self.position] * 3 + [self.rotation] * 3 + [1.0])
        inside = np.abs(actions) <= bound + ROUNDING  # a NaN is not inside
        if inside.all():
            return
        row, column = (int(i) for i in np.argwhere(~inside)[0])
        unit = "m" if column < 3 else "rad" if column < 6 else "(gripper)"
        raise ChunkRejected(
            f"action {row} asks for {actions[row, column]:.4g} {unit} in component {column}, "
            f"the limit is {bound[column]:g}; the policy must stay within its action space"
        )


@dataclass(frozen=True, eq=False)
class JointLimits:
    """Joint positions (7,) rad and velocities (7,) rad/s that the arm may have.

    The velocity limit shrinks towards the position limits, as the FR3's does:
    min(v_max, max(0, −offset + √max(0, 2·deceleration·(q_upper − q)))), mirrored below.
    """

    lower: np.ndarray
    upper: np.ndarray
    velocity: np.ndarray
    offset: np.ndarray
    deceleration: np.ndarray

    def velocity_range(self, joints: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Lowest and highest allowed velocity (7,) rad/s at `joints` (7,) rad."""
        joints = np.asarray(joints, dtype=np.float64)

        def towards(room: np.ndarray) -> np.ndarray:
            speed = -self.offset + np.sqrt(np.maximum(0.0, 2.0 * self.deceleration * room))
            return np.minimum(self.velocity, np.maximum(0.0, speed))

        return -towards(joints - self.lower), towards(self.upper - joints)

    def fault(self, joints: np.ndarray, velocities: np.ndarray | None = None) -> str:
        """A sentence about the first joint beyond a limit, or "" if there is none."""
        joints = np.asarray(joints, dtype=np.float64)
        if joints.shape != self.lower.shape or not np.all(np.isfinite(joints)):
            return f"joint positions are {joints.tolist()}, expected 7 finite radians"
        outside = (joints < self.lower) | (joints > self.upper)
        if outside.any():
            j = int(np.argmax(outside))
            return (
                f"joint {j + 1} is at {joints[j]:.4f} rad, outside "
                f"[{self.lower[j]:.4f}, {self.upper[j]:.4f}]"
            )
        if velocities is None:
            return ""
        velocities = np.asarray(velocities, dtype=np.float64)
        if velocities.shape != self.lower.shape or not np.all(np.isfinite(velocities)):
            return f"joint velocities are {velocities.tolist()}, expected 7 finite rad/s"
        slowest, fastest = self.velocity_range(joints)
        outside = (velocities < slowest) | (velocities > fastest)
        if outside.any():
            j = int(np.argmax(outside))
            return (
                f"joint {j + 1} moves at {velocities[j]:.3f} rad/s, outside "
                f"[{slowest[j]:.3f}, {fastest[j]:.3f}] at {joints[j]:.3f} rad"
            )
        return ""


FR3_JOINTS = JointLimits(
    FR3_POSITION_LOWER, FR3_POSITION_UPPER, FR3_VELOCITY, FR3_VELOCITY_OFFSET, FR3_DECELERATION
)
