"""From delta actions to an absolute end-effector target inside the workspace, never far ahead."""

from dataclasses import dataclass, field

import numpy as np

from safedojo_ros.core.config import check_ranges
from safedojo_ros.core.errors import ChunkRejected
from safedojo_ros.core.rotation import axis_angle_of, multiply, quaternion_of, turn_between
from safedojo_ros.core.types import ACTION_SIZE
from safedojo_ros.robot.limits import Workspace


@dataclass(frozen=True, eq=False)
class Target:
    """Where the end-effector is to go, in the base frame.

    position: (3,) m; quaternion: (4,) unit, w x y z; gripper in [-1 open, +1 close]. moved and
    onward: (6,) m and rad by which the action has moved the target and by which the next one will.
    """

    position: np.ndarray
    quaternion: np.ndarray
    gripper: float
    moved: np.ndarray = field(default_factory=lambda: np.zeros(6))
    onward: np.ndarray = field(default_factory=lambda: np.zeros(6))

    @property
    def axis_angle(self) -> np.ndarray:
        """(3,) rad, angle in [0, π]."""
        return axis_angle_of(self.quaternion)

    def command(self) -> np.ndarray:
        """(7,): position, axis-angle, gripper (the layout of `arm/target`)."""
        return np.concatenate([self.position, self.axis_angle, [self.gripper]])


class TargetPose:
    """Integrates delta actions. Rotations are applied in the base frame (from the left).

    The target stays at most `max_lead` metres and `max_turn` radians ahead of the measured pose, so
    a blocked arm does not wind its target up, and inside `workspace`. Where the arm itself stands
    outside, the target begins there and may come in, but goes no further out: to be pulled in at
    once would be a motion that nobody asked for.
    """

    def __init__(self, workspace: Workspace, max_lead: float = 0.06, max_turn: float = 1.0) -> None:
        self.workspace, self.max_lead, self.max_turn = workspace, max_lead, max_turn
        check_ranges(self, max_lead="(0, inf)", max_turn=f"(0, {np.pi}]")
        self.current: Target | None = None

    def reset(self, position: np.ndarray, axis_angle: np.ndarray, gripper: float) -> Target:
        """Put the target on the measured pose, wherever that is: this never moves the arm."""
        self.current = Target(
            _finite(position, 3),
            quaternion_of(_finite(axis_angle, 3)),
            float(np.clip(gripper, -1.0, 1.0)),
        )
        return self.current

    def step(
        self,
        action: np.ndarray,
        position: np.ndarray,
        axis_angle: np.ndarray,
        following: np.ndarray | None = None,
    ) -> Target:
        """Move the target by `action` (7,), given the measured pose; returns the new target.

        following: (7,), the action that comes next if nothing else does. Raises `ChunkRejected` for
        anything that is not finite or of another shape, before the target has moved. The first call
        starts from the measured pose.
        """
        action = _finite(action, ACTION_SIZE)
        after = np.zeros(ACTION_SIZE) if following is None else _finite(following, ACTION_SIZE)
        position, axis_angle = _finite(position, 3), _finite(axis_angle, 3)
        before = self.current or self.reset(position, axis_angle, float(action[6]))
        goal = self._led(before.position + action[:3], position)
        box = self.workspace.widened(before.position)
        goal = self._led(box.clamp(goal), position)
        measured = quaternion_of(axis_angle)
        turned = multiply(quaternion_of(action[3:6]), before.quaternion)
        ahead = turn_between(measured, turned)
        angle = float(np.linalg.norm(ahead))
        if angle > self.max_turn:
            turned = multiply(quaternion_of(ahead * (self.max_turn / angle)), measured)
        turned = turned / np.linalg.norm(turned)
        self.current = Target(
            goal,
            turned,
            float(np.clip(action[6], -1.0, 1.0)),
            np.concatenate([goal - before.position, turn_between(before.quaternion, turned)]),
            np.concatenate([box.clamp(goal + after[:3]) - goal, after[3:6]]),
        )
        return self.current

    def _led(self, goal: np.ndarray, position: np.ndarray) -> np.ndarray:
        """`goal`, or where the way to it from the measured `position` is `max_lead` long."""
        ahead = goal - position
        distance = float(np.linalg.norm(ahead))
        return position + ahead * (self.max_lead / distance) if distance > self.max_lead else goal


def _finite(values: np.ndarray, size: int) -> np.ndarray:
    values = np.array(values, dtype=np.float64)
    if values.shape != (size,) or not np.all(np.isfinite(values)):
        raise ChunkRejected(f"got {values.tolist()}, expected {size} finite numbers")
    return values
