"""A Franka FR3 and its gripper through franky: the newest target is gone to, and rested at.

The arm plans each motion to a stop at its target (Ruckig, in the client), so that nothing goes on
moving when targets cease. The gripper is served by a thread of its own, since its calls block.
"""

import threading
import time
from dataclasses import dataclass
from typing import Any

import numpy as np

from safedojo_ros.core.config import check_ranges
from safedojo_ros.core.errors import ConfigError
from safedojo_ros.core.rotation import axis_angle_of
from safedojo_ros.robot.playback.target import Target

SAME_POSITION, SAME_ROTATION = 1e-5, 1e-4
"""A target that differs by less (m, rad) from the one before is not sent again."""

LARGEST_SHARE = 0.57
"""The robot limits the length of a vector, the client's plans each of its three axes."""

STOP_DYNAMICS = 0.5
"""Share of the limits with which `rest` brakes."""

ACCELERATION = {"translation": (9.0, 4500.0), "rotation": (17.0, 8500.0)}
"""Largest acceleration (m/s², rad/s²) and jerk of an FR3 (Franka documentation, "Robot and
interface specifications"); franky assumes a Panda's."""

GRIPPER_SPEED = 0.1
GRIPPER_PERIOD = 0.02
GRIPPER_PATIENCE = 2.0
"""m/s; s between two readings; s without a state after which the fingers are unknown."""

NO_FILTER = 1000.0
"""Hz. The client's low-pass of 100 Hz trails the plan, and where a motion takes over from another
that gap becomes a jump of acceleration that the robot refuses."""

RECOVERY_PATIENCE = 2.0
"""Seconds that the arm's state may take to show a recovery."""


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

    def __post_init__(self) -> None:
        if not self.address:
            raise ConfigError("no address of the robot's control is given, for instance 172.16.0.2")
        share, positive = f"(0, {LARGEST_SHARE}]", "(0, inf)"
        check_ranges(self, velocity=share, acceleration=share)
        check_ranges(self, force=positive, torque=positive, grip=positive)
        if len(self.base) != 3 or not np.all(np.isfinite(self.base)):
            raise ConfigError(f"base is {self.base}, expected x, y and z in metres")


@dataclass(frozen=True, eq=False)
class Reading:
    """What the arm measured: joints (7,) rad, velocities (7,) rad/s, pose, fingers (2,) m each.

    position (3,) m and axis_angle (3,) rad are in the frame of targets.
    """

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
    """Connects, trying for `patience` seconds; raises `ConfigError` where no robot answers.

    Every call returns within a millisecond or so; `fault` says what has stopped the arm.
    """

    def __init__(self, config: FrankaConfig, patience: float = 0.0) -> None:
        self._franky = import_franky()
        self.config = config
        self.base = np.array(config.base, dtype=np.float64)
        until = time.monotonic() + patience
        while True:
            try:
                self._robot, gripper = self._connected()
                break
            except Exception as error:  # franky's exceptions have no common base
                if time.monotonic() > until:
                    raise ConfigError(
                        f"no Franka control at {config.address}: {error}; is the robot on, "
                        "unlocked, and FCI activated in Desk?"
                    ) from error
                time.sleep(0.25)
        share = config.acceleration
        self._dynamics = self._franky.RelativeDynamicsFactor(config.velocity, share, share)
        self._gripper = _GripperThread(self._franky, gripper, config.grip)
        self._sent: Target | None = None
        self._fault = ""
        self._lost = False

    def _connected(self) -> tuple[Any, Any]:
        franky, config = self._franky, self.config
        robot = franky.Robot(config.address, realtime_config=franky.RealtimeConfig.Ignore)
        for kind, (acceleration, jerk) in ACCELERATION.items():
            getattr(robot, f"{kind}_acceleration_limit").set(acceleration)
            getattr(robot, f"{kind}_jerk_limit").set(jerk)
        robot.set_collision_behavior(config.torque, config.force)
        return robot, franky.Gripper(config.address)

    def read(self) -> Reading | None:
        """The newest measured state; None once the connection or the gripper's state is lost."""
        fingers = self._gripper.fingers()
        if self._lost or fingers is None:
            return None
        try:
            state = self._robot.state
        except Exception as error:  # after a second of silence; asking again would take another
            self._lost, self._fault = True, f"the connection to the robot is lost: {error}"
            return None
        pose = state.O_T_EE
        x, y, z, w = np.asarray(pose.quaternion).ravel()
        return Reading(
            np.asarray(state.q, dtype=np.float64),
            np.asarray(state.dq, dtype=np.float64),
            np.asarray(pose.translation, dtype=np.float64).ravel() + self.base,
            axis_angle_of(np.array([w, x, y, z])),
            fingers,
        )

    def go(self, target: Target) -> None:
        """Move to `target` and rest there, from whatever motion is under way."""
        self._gripper.grip(target.gripper > 0)
        if self._fault or (self._sent is not None and _same(self._sent, target)):
            return
        franky = self._franky
        w, x, y, z = target.quaternion
        pose = franky.Affine((target.position - self.base).reshape(3, 1), np.array([x, y, z, w]))
        motion = franky.CartesianMotion(pose, franky.ReferenceType.Absolute, self._dynamics)
        try:
            self._robot.move(motion, asynchronous=True, cutoff_frequency=NO_FILTER)
        except Exception as error:
            self._fault = str(error)
            return
        self._sent = target

    def rest(self) -> None:
        """Come to a stop where the arm is, if it moves."""
        if self._sent is None or self._fault:
            return
        self._sent = None
        try:
            if self._robot.is_in_control:
                stop = self._franky.CartesianStopMotion(STOP_DYNAMICS)
                self._robot.move(stop, asynchronous=True, cutoff_frequency=NO_FILTER)
        except Exception as error:
            self._fault = str(error)

    @property
    def fault(self) -> str:
        """Why the robot stopped, or "". It stays until `recover`."""
        if not self._fault:
            try:
                self._robot.poll_motion()
            except Exception as error:
                self._fault = str(error)
        if not self._fault:
            self._fault = self._gripper.fault
        return self._fault

    def recover(self) -> str:
        """Clear the robot's errors; returns "" or why it could not. May take two seconds."""
        modes = self._franky.RobotMode
        if self._lost:
            return f"{self._fault}; start the node again"
        try:
            if self._robot.state.robot_mode == modes.UserStopped:
                return "the user stop is pressed; release it first"
            # whether it helped is not what this returns: it may look at a state of before
            self._robot.recover_from_errors()
            until = time.monotonic() + RECOVERY_PATIENCE
            while self._robot.state.robot_mode != modes.Idle:
                if time.monotonic() > until:
                    mode = self._robot.state.robot_mode.name
                    return f"the robot could not recover by itself, it is {mode}; look in Desk"
                time.sleep(0.01)
        except Exception as error:
            return str(error)
        self._sent, self._fault, self._gripper.fault = None, "", ""
        return ""

    def close(self) -> None:
        """Stop the arm and let the connection go."""
        self._gripper.close()
        try:
            self._robot.stop()
            self._robot.join_motion(1.0)
        except Exception as error:
            self._fault = str(error)
        del self._robot


class _GripperThread:
    """Opens, or closes with force, as was wished last; keeps the newest width."""

    def __init__(self, franky: Any, gripper: Any, force: float) -> None:
        self._franky, self._gripper, self._force = franky, gripper, force
        self._wish: bool | None = None
        self._width, self._seen_at = 0.0, -np.inf
        self.fault = ""
        self._closing = threading.Event()
        self._look()
        self._thread = threading.Thread(target=self._serve, name="franka-gripper", daemon=True)
        self._thread.start()

    def fingers(self) -> np.ndarray | None:
        """(2,) m, of each finger from the middle; None if nothing was heard for long."""
        if time.monotonic() - self._seen_at > GRIPPER_PATIENCE:
            return None
        return np.full(2, self._width / 2)

    def grip(self, closed: bool) -> None:
        """Close with force, or open."""
        self._wish = closed

    def close(self) -> None:
        """End the thread; the gripper keeps what it holds."""
        self._closing.set()
        self._thread.join(5.0)

    def _look(self) -> None:
        self._width, self._seen_at = float(self._gripper.state.width), time.monotonic()

    def _serve(self) -> None:
        doing: bool | None = None
        running: Any = None
        while not self._closing.wait(GRIPPER_PERIOD):
            try:
                self._look()
                if running is not None and running.wait(0.0):
                    running.get()
                    running = None
                wish = self._wish
                if wish is None or wish == doing:
                    continue
                if running is not None:
                    self._gripper.stop()
                    running = None
                doing, running = wish, self._begin(wish)
            except Exception as error:
                self.fault = self.fault or f"the gripper: {error}"
                doing = running = None
                self._wish = None

    def _begin(self, closed: bool) -> Any:
        if closed:  # around anything, and around nothing
            wide = self._gripper.max_width
            return self._gripper.grasp_async(0.0, GRIPPER_SPEED, self._force, wide, wide)
        return self._gripper.open_async(GRIPPER_SPEED)


def _same(one: Target, other: Target) -> bool:
    return bool(
        np.abs(one.position - other.position).max() < SAME_POSITION
        and np.abs(one.quaternion - other.quaternion).max() < SAME_ROTATION
    )
