"""The robot's client as it plans each millisecond, without a robot; for tests and benchmarks."""

import numpy as np
import ruckig

from safedojo_ros.core.rotation import multiply, quaternion_of
from safedojo_ros.core.types import CONTROL_PERIOD
from safedojo_ros.robot.playback.reference import MotionLimits, Moving, Reference
from safedojo_ros.robot.playback.target import Target

CYCLE, SPARE = 0.001, 0.02
"""Seconds of the robot's cycle, and for which the client keeps a velocity that it has reached."""


class VelocityClient:
    """Leads over to the velocity asked for, then to rest, each millisecond.

    Ruckig, its positions being our velocities. position (3,) m and quaternion (4,): where it
    begins. `seen` are (n, 6) velocities in m/s and rad/s, one a millisecond.
    """

    def __init__(self, limits: MotionLimits, position: np.ndarray, quaternion: np.ndarray) -> None:
        self.position, self.quaternion = position.copy(), quaternion.copy()
        self.velocity, self.acceleration = np.zeros(6), np.zeros(6)
        self.seen = [np.zeros(6)]
        self._limits, self._out = limits, ruckig.OutputParameter(6)
        self.ask(np.zeros(6), 0.0)

    def now(self) -> Moving:
        """Where it is told to be, and how that changes."""
        return Moving(self.position, self.quaternion, self.velocity, self.acceleration)

    def ask(self, velocity: np.ndarray, horizon: float) -> None:
        """Have `velocity` (6,) in `horizon` seconds."""
        self._spare = round(SPARE / CYCLE)
        self._planner, plan = ruckig.Ruckig(6, CYCLE), ruckig.InputParameter(6)
        plan.current_position, plan.current_velocity = self.velocity, self.acceleration
        plan.current_acceleration = [0.0] * 6
        plan.max_velocity = np.repeat(self._limits.acceleration, 3)
        plan.max_acceleration = np.repeat(self._limits.jerk, 3)
        plan.max_jerk = [np.inf] * 6
        plan.target_position, plan.minimum_duration = velocity, horizon
        self._plan = plan

    def run(self, seconds: float) -> None:
        """Go on with what was asked last."""
        out, plan, before = self._out, self._plan, len(self.seen)
        for _ in range(round(seconds / CYCLE)):
            done = self._planner.update(plan, out)
            if done == ruckig.Result.Finished:
                self._spare -= 1
                if self._spare == 0:
                    plan.target_position, plan.minimum_duration = [0.0] * 6, None
            elif done != ruckig.Result.Working:
                raise ArithmeticError(f"no plan from {self.now()}: {done}")
            out.pass_to_input(plan)
            self.seen.append(np.array(out.new_position))
        self.velocity, self.acceleration = self.seen[-1], np.array(out.new_velocity)
        moved = np.sum(self.seen[before:], axis=0) * CYCLE
        self.position = self.position + moved[:3]
        turned = multiply(quaternion_of(moved[3:]), self.quaternion)
        self.quaternion = turned / np.linalg.norm(turned)


class Motion:
    """The way of an arm that is led from target to target, millisecond for millisecond.

    state: (8,) where it begins.
    """

    def __init__(self, limits: MotionLimits, state: np.ndarray) -> None:
        self._limits, self._reference = limits, Reference(limits)
        self._client = VelocityClient(limits, state[:3], quaternion_of(state[3:6]))

    def period(self, target: Target | None) -> str:
        """A control period towards `target`, or to rest; returns what was beyond a limit, or ""."""
        client, reference = self._client, self._reference
        if target is None and not client.velocity.any() and not client.acceleration.any():
            return ""
        if target is not None:
            client.ask(reference.towards(target, client.now()), reference.horizon)
        del client.seen[:-3]
        client.run(CONTROL_PERIOD)
        return beyond(client.seen, self._limits)


def beyond(seen: list[np.ndarray], limits: MotionLimits) -> str:
    """What is more than `limits` allow in `seen` (n, 6), or ""."""
    speeds = np.array(seen)
    bends = np.diff(speeds, axis=0) / CYCLE
    jerks = np.diff(bends, axis=0) / CYCLE
    for what, values, most in (
        ("velocity", speeds, limits.velocity),
        ("acceleration", bends, limits.acceleration),
        ("jerk", jerks, limits.jerk),
    ):
        share = np.abs(values) / np.repeat(most, 3)
        if not np.all(share <= 1.001):  # a NaN is not within
            return f"{what} of {share.max():.3f} times the limit"
    return ""
