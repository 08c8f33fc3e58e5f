"""From delta actions to an absolute end-effector target inside the workspace, on a leash."""

from dataclasses import dataclass

import numpy as np

from safedojo_ros.core.errors import ChunkRejected, ConfigError
from safedojo_ros.core.rotation import axis_angle_of, multiply, quaternion_of, turn_between
from safedojo_ros.core.types import ACTION_SIZE
from safedojo_ros.robot.limits import Workspace


@dataclass(frozen=True, eq=False)
class Target:
    """Where the end-effector is to go, in the base frame.

    position: (3,) m; quaternion: (4,) unit, w x y z; gripper in [-1 open, +1 close].
    """

    position: np.ndarray
    quaternion: np.ndarray
    gripper: float

    @property
    def axis_angle(self) -> np.ndarray:
        """(3,) rad, angle in [0, π]."""
        return axis_angle_of(self.quaternion)

    def command(self) -> np.ndarray:
        """(7,): position, axis-angle, gripper (the layout of `sim/command`)."""
        return np.concatenate([self.position, self.axis_angle, [self.gripper]])


class TargetPose:
    """Integrates delta actions. Rotations are applied in the base frame (from the left).

    The target stays inside `workspace` and at most `leash` metres and `rotation_leash` radians
    ahead of the measured pose, so a blocked arm does not wind its target up.
    """

    def __init__(
        self, workspace: Workspace, leash: float = 0.06, rotation_leash: float = 1.0
    ) -> None:
        if not (np.isfinite(leash) and leash > 0):
            raise ConfigError(f"leash is {leash} m, expected a positive number")
        if not 0 < rotation_leash <= np.pi:
            raise ConfigError(f"rotation_leash is {rotation_leash} rad, expected within (0, pi]")
        self.workspace, self.leash, self.rotation_leash = workspace, leash, rotation_leash
        self.current: Target | None = None

    def reset(self, position: np.ndarray, axis_angle: np.ndarray, gripper: float) -> Target:
        """Put the target on the measured pose (position clamped into the workspace)."""
        self.current = Target(
            self.workspace.clamp(_finite(position, 3)),
            quaternion_of(_finite(axis_angle, 3)),
            float(np.clip(gripper, -1.0, 1.0)),
        )
        return self.current

    def step(
        self, action: np.ndarray, position: np.ndarray, axis_angle: np.ndarray | None = None
    ) -> Target:
        """Move the target by `action` (7,), given the measured pose; returns the new target.

        Raises `ChunkRejected` for anything that is not finite or of another shape, before the
        target has moved. The first call starts from the measured pose.
        """
        action = _finite(action, ACTION_SIZE)
        position = _finite(position, 3)
        measured = None if axis_angle is None else quaternion_of(_finite(axis_angle, 3))
        if self.current is None:
            start = measured if measured is not None else np.array([1.0, 0.0, 0.0, 0.0])
            self.current = Target(self.workspace.clamp(position), start, float(action[6]))
        goal = self.current.position + action[:3]
        ahead = goal - position
        distance = float(np.linalg.norm(ahead))
        if distance > self.leash:
            goal = position + ahead * (self.leash / distance)
        turned = multiply(quaternion_of(action[3:6]), self.current.quaternion)
        if measured is not None:
            turned = self._on_leash(turned, measured)
        self.current = Target(
            self.workspace.clamp(goal),
            turned / np.linalg.norm(turned),
            float(np.clip(action[6], -1.0, 1.0)),
        )
        return self.current

    def _on_leash(self, quaternion: np.ndarray, measured: np.ndarray) -> np.ndarray:
        ahead = turn_between(measured, quaternion)
        angle = float(np.linalg.norm(ahead))
        if angle <= self.rotation_leash:
            return quaternion
        return multiply(quaternion_of(ahead * (self.rotation_leash / angle)), measured)


def _finite(values: np.ndarray, size: int) -> np.ndarray:
    values = np.asarray(values, dtype=np.float64)
    if values.shape != (size,) or not np.all(np.isfinite(values)):
        raise ChunkRejected(f"got {values.tolist()}, expected {size} finite numbers")
    return values
