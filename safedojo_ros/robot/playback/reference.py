"""From targets, one a control period, to a velocity that changes smoothly, within limits of ours.

Each period plans the time-optimal motion (Ruckig) from where the arm is told to be to the newest
target, and asks for the velocity that it has a little after the period's end. The robot's client
leads over to that velocity, and to rest if nothing follows. Nothing is planned to a stop between
two actions that go the same way, and no motion begins with an acceleration other than it has.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from safedojo_ros.core.config import check_ranges
from safedojo_ros.core.errors import ConfigError
from safedojo_ros.core.rotation import turn_between
from safedojo_ros.robot.playback.target import Target

HORIZON = 1.3
"""Control periods from now to the velocity that is asked for: beyond the next period's beginning,
so that the acceleration has not yet come to its end when the next velocity takes over."""

AHEAD = 2.0
"""Control periods in which a target that is near is reached and passed on from: more than the
horizon, so that the way to it has a velocity there."""

RISE = 0.25
"""Share of a control period in which an acceleration comes to its limit: the jerk that this takes
is enough, and more would only shake the arm."""

INSIDE = 0.999
"""Share of a limit that a velocity may have at a target: Ruckig refuses what is at a limit."""


@dataclass(frozen=True)
class MotionLimits:
    """Largest velocity and acceleration along each axis, of translation (m) and rotation (rad)."""

    velocity: tuple[float, float]
    acceleration: tuple[float, float]
    period: float
    """Control period, seconds; the limits of jerk follow from it."""

    def __post_init__(self) -> None:
        if not all(0.0 < value < np.inf for value in (*self.velocity, *self.acceleration)):
            raise ConfigError(f"limits of motion are {self}, expected positive numbers")
        check_ranges(self, period="(0, inf)")

    @property
    def jerk(self) -> tuple[float, float]:
        """m/s³, rad/s³."""
        translation, rotation = self.acceleration
        return translation / (RISE * self.period), rotation / (RISE * self.period)


class Moving(NamedTuple):
    """Where the arm is told to be, and how that changes: position (3,) m, quaternion (4,) w x y z,
    velocity (6,) and acceleration (6,) in m and rad, in the base frame."""

    position: np.ndarray
    quaternion: np.ndarray
    velocity: np.ndarray
    acceleration: np.ndarray


class Reference:
    """`towards` a target gives the velocity to have `horizon` seconds from now.

    Raises `ConfigError` where ruckig is not installed.
    """

    def __init__(self, limits: MotionLimits) -> None:
        self.limits, self.horizon = limits, HORIZON * limits.period
        self._velocity = np.repeat(limits.velocity, 3)
        self._acceleration, self._jerk = (
            np.repeat(limits.acceleration, 3),
            np.repeat(limits.jerk, 3),
        )
        try:
            from ruckig import InputParameter, Result, Ruckig, Trajectory
        except ImportError as error:
            raise ConfigError(
                f"motions are planned by ruckig ({error}); install it: "
                "pip install 'safedojo_ros[franka]'"
            ) from error
        self._fine = (Result.Working, Result.Finished)
        self._ruckig, self._plan, self._input = Ruckig(6), Trajectory(6), InputParameter(6)
        self._input.max_velocity = self._velocity.tolist()
        self._input.max_acceleration = self._acceleration.tolist()
        self._input.max_jerk = self._jerk.tolist()
        self._input.minimum_duration = AHEAD * limits.period
        self._input.current_position = self._input.target_acceleration = [0.0] * 6

    def towards(self, target: Target, now: Moving) -> np.ndarray:
        """(6,) m/s and rad/s, none beyond its limit; zeros where no motion can be planned."""
        velocity = self.passing(target)
        goal = self._goal(target, now) + velocity * (AHEAD - 1.0) * self.limits.period
        plan = self._input
        plan.current_velocity = self._within(now.velocity, self._velocity)
        plan.current_acceleration = self._within(now.acceleration, self._acceleration)
        plan.target_position, plan.target_velocity = goal.tolist(), velocity.tolist()
        if self._ruckig.calculate(plan, self._plan) not in self._fine:
            return np.zeros(6)
        if self._plan.duration > self.horizon:
            velocity = np.array(self._plan.at_time(self.horizon)[1])
        return np.clip(velocity, -self._velocity, self._velocity)

    def passing(self, target: Target) -> np.ndarray:
        """(6,) the velocity with which `target` is passed.

        None on an axis that turns back there; never more than the next action itself needs, nor
        more than a stop within that action allows: without a further target nothing goes beyond.
        """
        before, after = target.moved, target.onward
        same = before * after > 0.0
        mean = np.where(same, 2.0 * before * after / np.where(same, before + after, 1.0), 0.0)
        lag = self._acceleration**2 / self._jerk  # room = v²/2a + v a/2j
        stop = np.sqrt(lag**2 / 4 + 2.0 * self._acceleration * np.abs(after)) - lag / 2
        most = np.minimum(np.maximum(stop, 0.0), INSIDE * self._velocity)
        return np.clip(mean / self.limits.period, -most, most)

    def _goal(self, target: Target, now: Moving) -> np.ndarray:
        return np.concatenate(
            [target.position - now.position, turn_between(now.quaternion, target.quaternion)]
        )

    @staticmethod
    def _within(values: np.ndarray, most: np.ndarray) -> list[float]:
        clipped: list[float] = np.clip(values, -most, most).tolist()
        return clipped
