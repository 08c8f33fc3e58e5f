"""A Franka FR3 and its gripper through franky: the newest target is gone to, and rested at.

The arm is told velocities (`robot.playback.reference`). Each comes with its end: after less than
a tenth of a second without another one the client's compiled loop of 1 kHz brakes to rest by
itself, whatever this process does meanwhile.
"""

import time
from dataclasses import dataclass
from typing import Any

import numpy as np

from safedojo_ros.core.config import check_ranges
from safedojo_ros.core.errors import ConfigError
from safedojo_ros.core.rotation import axis_angle_of, turn_between
from safedojo_ros.core.types import CONTROL_PERIOD
from safedojo_ros.robot.fci.hand_thread import HandThread
from safedojo_ros.robot.fci.preflight import host_remarks, robot_fault, robot_remarks
from safedojo_ros.robot.fci.robot_thread import RobotThread
from safedojo_ros.robot.playback.reference import MotionLimits, Moving, Reference
from safedojo_ros.robot.playback.target import Target

THERE_POSITION, THERE_ROTATION = 2e-4, 1e-3
"""A resting arm that is nearer to its target (m, rad) is not moved again."""

LARGEST_SHARE = 0.57
"""The robot limits the length of a vector, the client's plans each of its three axes."""

STOP_DYNAMICS = 0.5
"""Share of the limits with which the arm brakes."""

LIMITS = {"translation": (1.7, 9.0, 4500.0), "rotation": (2.5, 17.0, 8500.0)}
"""Velocity (m/s, rad/s) that shares refer to, largest acceleration and jerk of an FR3 (Franka
documentation, "Robot and interface specifications"); franky may assume a Panda's."""

SPARE = 0.02
"""Seconds of the robot's time for which a velocity is kept once it is reached: a control period
that is a little late does not brake the arm."""

NO_FILTER = 1000.0
"""Hz. The client's low-pass of 100 Hz trails the plan, and where a motion takes over from another
that gap becomes a jump of acceleration."""


@dataclass(frozen=True)
class FrankaConfig:
    """How the robot is reached, and how fast and how hard it may move."""

    address: str
    """Of the robot's control."""
    base: tuple[float, float, float] = (0.0, 0.0, 0.0)
    """The arm's foot in the frame of targets, metres."""
    velocity: float = 0.25
    """Share of 1.7 m/s and 2.5 rad/s that motions may use along each axis, at most 0.57."""
    acceleration: float = 0.3
    """The same of the FR3's 9 m/s², 17 rad/s² and of its jerks."""
    force: float = 30.0
    """Contact force beyond which the arm stops by reflex, newtons."""
    torque: float = 20.0
    """The same at a joint, newton metres."""
    grip: float = 20.0
    """Force of the closed gripper, newtons."""
    grip_speed: float = 0.1
    """Of the fingers, m/s."""
    open_width: float = 0.08
    """Metres between the fingers of the open gripper."""
    grasp_width: float = 0.0
    """Metres that the gripper is expected to close to, 5 mm more or less; 0: anything."""

    def __post_init__(self) -> None:
        if not self.address:
            raise ConfigError("no address of the robot's control is given, for instance 172.16.0.2")
        share, positive = f"(0, {LARGEST_SHARE}]", "(0, inf)"
        check_ranges(self, velocity=share, acceleration=share)
        check_ranges(self, force=positive, torque=positive, grip=positive)
        check_ranges(self, grip_speed="(0, 0.1]", open_width="(0, 0.08]", grasp_width="[0, 0.08)")
        if len(self.base) != 3 or not np.all(np.isfinite(self.base)):
            raise ConfigError(f"base is {self.base}, expected x, y and z in metres")


@dataclass(frozen=True, eq=False)
class Reading:
    """What the arm measured: joints (7,) rad, velocities (7,) rad/s, pose, fingers (2,) m each.

    position (3,) m and axis_angle (3,) rad are in the frame of targets. time: s, the robot's own;
    a reading whose time is that of the one before is no news. asked: s of `time.monotonic`, when
    the robot was asked; the state is one of its cycles older at most.
    """

    time: float
    asked: float
    joints: np.ndarray
    velocities: np.ndarray
    position: np.ndarray
    axis_angle: np.ndarray
    fingers: np.ndarray


def import_franky() -> Any:
    """The client library; raises `ConfigError` that says how to get it."""
    try:
        import franky
    except ImportError as error:
        raise ConfigError(
            f"the FCI back end needs franky-control ({error}); install it: "
            "pip install 'safedojo_ros[franka]'"
        ) from error
    return franky


class FrankaArm:
    """Connects, trying for `patience` seconds; raises `ConfigError` where no robot answers, or one
    that is not set up as this package assumes.

    Every call but `recover` and `close` returns at once, whatever the robot does. `fault` says what
    has stopped the arm; `remarks` were seen on connecting; `notice` is what the gripper has to say.
    """

    def __init__(self, config: FrankaConfig, patience: float = 0.0) -> None:
        self._franky = import_franky()
        self.config = config
        self.base = np.array(config.base, dtype=np.float64)
        until = time.monotonic() + patience
        while True:
            try:
                self._robot = self._connected()
                break
            except Exception as error:  # franky's exceptions have no common base
                if time.monotonic() > until:
                    raise ConfigError(
                        f"no Franka control at {config.address}: {error}; is the robot on, "
                        "unlocked, and FCI activated in Desk?"
                    ) from error
                time.sleep(0.25)
        state = self._robot.state
        if fault := robot_fault(state):
            raise ConfigError(f"the robot at {config.address} is not moved: {fault}")
        self.remarks = [*robot_remarks(state), *host_remarks()]
        limits = motion_limits(config)
        self._reference = Reference(limits)
        jerk = limits.jerk[0] / LIMITS["translation"][2]
        self._dynamics = self._franky.RelativeDynamicsFactor(1.0, config.acceleration, jerk)
        self._hand = HandThread(
            *(self._franky, config.address, config.grip, config.grip_speed),
            *(config.open_width, config.grasp_width),
        )
        self._thread = RobotThread(self._robot, self._franky.RobotMode, self._go, self._stop)

    def _connected(self) -> Any:
        franky, config = self._franky, self.config
        robot = franky.Robot(config.address, realtime_config=franky.RealtimeConfig.Ignore)
        for kind, limits in LIMITS.items():
            for what, limit in zip(("velocity", "acceleration", "jerk"), limits, strict=True):
                getattr(robot, f"{kind}_{what}_limit").set(limit)
        robot.set_collision_behavior(config.torque, config.force)
        return robot

    def read(self) -> Reading | None:
        """The newest measured state; None while the robot or its gripper says nothing new."""
        newest, fingers = self._thread.newest, self._hand.fingers()
        if newest is None or fingers is None:
            return None
        state, asked = newest
        pose = state.O_T_EE
        x, y, z, w = np.asarray(pose.quaternion).ravel()
        return Reading(
            state.time.to_sec(),
            asked,
            np.asarray(state.q, dtype=np.float64),
            np.asarray(state.dq, dtype=np.float64),
            np.asarray(pose.translation, dtype=np.float64).ravel() + self.base,
            axis_angle_of(np.array([w, x, y, z])),
            fingers,
        )

    def go(self, target: Target) -> None:
        """Move towards `target`, from whatever motion is under way.

        Give it every control period, the same one, too: else the arm comes to rest on the way.
        """
        self._hand.grip(target.gripper)
        self._thread.wish(target)

    def rest(self) -> None:
        """Come to a stop where the arm is, if it moves, and stop fingers that move."""
        self._thread.wish(None)
        self._hand.rest()

    @property
    def fault(self) -> str:
        """Why the robot stopped, or "". It stays until `recover`."""
        return self._thread.fault or self._hand.fault

    @property
    def notice(self) -> str:
        """What happened to a grasped object, or ""."""
        return self._hand.notice

    def recover(self) -> str:
        """Clear the robot's errors; returns "" or why it could not. May take seconds."""
        refused = self._thread.recover()
        if not refused:
            self._hand.recover()
        return refused

    def close(self) -> None:
        """Stop the arm and let the connection go."""
        self._hand.close()
        self._thread.close()
        del self._robot

    # ---------------------------------------------------------------- on the arm's own thread

    def _go(self, target: Target) -> None:
        franky, now = self._franky, self._told()
        moving = self._robot.is_in_control
        if not moving and _there(now, target):
            return
        velocity = self._reference.towards(target, now)
        milliseconds = round(self._reference.horizon * 1e3)
        there = franky.CartesianVelocityWaypoint(
            franky.RobotVelocity(franky.Twist(velocity[:3], velocity[3:])),
            self._dynamics,
            minimum_time=franky.Duration(milliseconds),
            hold_target_duration=franky.Duration(round(SPARE * 1e3)),
        )
        rest = franky.CartesianVelocityWaypoint(
            franky.RobotVelocity(franky.Twist(np.zeros(3), np.zeros(3))),
            franky.RelativeDynamicsFactor(STOP_DYNAMICS),
        )
        self._move(franky.CartesianVelocityWaypointMotion([there, rest]))

    def _told(self) -> Moving:
        """Where the robot is told to be now, in the frame of targets; where it is if it rests."""
        state = self._robot.state
        moving = self._robot.is_in_control
        pose = state.O_T_EE_d if moving else state.O_T_EE
        x, y, z, w = np.asarray(pose.quaternion).ravel()
        twist, bend = (
            np.concatenate([np.ravel(part.linear), np.ravel(part.angular)]) * float(moving)
            for part in (state.O_dP_EE_c, state.O_ddP_EE_c)
        )
        position = np.asarray(pose.translation, dtype=np.float64).ravel() + self.base
        return Moving(position, np.array([w, x, y, z]), twist, bend)

    def _stop(self) -> None:
        if self._robot.is_in_control:
            self._move(self._franky.CartesianVelocityStopMotion(STOP_DYNAMICS))

    def _move(self, motion: Any) -> None:
        self._robot.move(motion, asynchronous=True, cutoff_frequency=NO_FILTER)


def motion_limits(config: FrankaConfig) -> MotionLimits:
    """The limits of motion along each axis that the shares of `config` stand for."""
    (velocity, acceleration, _), (turning, bending, _) = LIMITS.values()
    return MotionLimits(
        (velocity * config.velocity, turning * config.velocity),
        (acceleration * config.acceleration, bending * config.acceleration),
        CONTROL_PERIOD,
    )


def _there(now: Moving, target: Target) -> bool:
    return bool(
        np.linalg.norm(now.position - target.position) < THERE_POSITION
        and np.linalg.norm(turn_between(now.quaternion, target.quaternion)) < THERE_ROTATION
    )
