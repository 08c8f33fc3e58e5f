"""The arm: executes gated chunks at 20 Hz, holds whenever anything is missing, late or wrong.

Subscribes `safety/action_chunk`, `safety/state`, `robot/enable`, `watchdog/state` and the backend's
measured state; publishes `joint_states`, `ee_pose`, `franka/state`, and tf where ROS has it; serves
`franka/arm`, `franka/stop`, `franka/recover`. Targets are on `arm/target`: with the backend `sim`
the world follows them, with `fci` a Franka at `fci_address` does, and the topic only reports.

`robot/enable` (std_msgs/Bool) is best effort, the newest only, at 10 Hz or more; its age counts
from when it was sent, so the clocks of both machines must agree.

Simulated time is for the backend `sim` alone: a tick is then a turn that the world gives.
"""

import gc
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from diagnostic_msgs.msg import DiagnosticStatus
from geometry_msgs.msg import PoseStamped
from rclpy.clock import Clock, ClockType
from rclpy.event_handler import SubscriptionEventCallbacks
from sensor_msgs.msg import JointState
from std_msgs.msg import Bool
from std_srvs.srv import Trigger

from safedojo_ros.core.errors import ConfigError, ObservationRejected
from safedojo_ros.core.types import CONTROL_PERIOD, Decision
from safedojo_ros.core.units import SECOND
from safedojo_ros.msg import ActionChunk as ActionChunkMessage
from safedojo_ros.msg import ArmTarget, FrankaState, SafetyState
from safedojo_ros.nodes.arm_publishers import ArmPublishers
from safedojo_ros.nodes.arm_settings import SETTINGS, control_loop, franka_config, is_loopback
from safedojo_ros.nodes.conversion import (
    BASE_FRAME,
    chunk_from_message,
    fingers_from_joint_state,
    joint_state,
    pose_from_message,
    pose_message,
    robot_state,
    to_nanoseconds,
    to_stamp,
)
from safedojo_ros.nodes.lifecycle import BEAT, IN_ORDER, NEWEST, OK, WARN, DojoNode
from safedojo_ros.nodes.stack.scheduling import take_realtime_priority
from safedojo_ros.nodes.stack.spinning import run_node
from safedojo_ros.nodes.stack.turn_order import Turn
from safedojo_ros.nodes.turns import STAMP, Turns
from safedojo_ros.robot.fci.client import FrankaArm
from safedojo_ros.robot.playback.arm_state import MAY_MOVE, ArmMode, Reply
from safedojo_ros.robot.playback.control_loop import WATCHDOG, ControlLoop
from safedojo_ros.robot.playback.target import Target
from safedojo_ros.robot.tick_statistics import TickStatistics

READ_SHARE = 0.4
"""Control periods between two readings of a real arm; images are paired with the nearest one."""

CONNECT_PATIENCE = 10.0
"""Seconds for which a robot that does not answer is tried again."""

LOOK_AT_GRAPH = 1.0
"""Seconds between two looks for simulated nodes beside a real robot."""

ENABLED, MEASURED, WATCHED, JUDGED, CHUNK = range(5)
"""In this order is taken what is heard in one control step of simulated time: a pose counts only
while the switch is pressed, a chunk only behind the gate's decision."""


class FrankaNode(DojoNode):
    """Converts and publishes; every decision is `robot.playback.control_loop`'s."""

    def __init__(self, **options: Any) -> None:
        super().__init__("franka_node", SETTINGS, **options)
        self._ours: list[Any] = []
        self._loop: ControlLoop | None = None
        self._franka: FrankaArm | None = None
        self._fingers: np.ndarray | None = None
        self._last_rejection = self._mode_said = self._gripper_said = ""
        self._robot_time = -1.0
        self._enabled_said, self._rejected_said = False, 0
        self._pressed = self._sent = False
        self._fingers_at = self._measured_at = self._watched_at = self._judged_at = 0
        self._chunk_heard = self._acted_at = 0

    # ---------------------------------------------------------------- life cycle

    def configure(self) -> None:
        """Build the control loop; the arm starts disarmed."""
        self._period = CONTROL_PERIOD / float(self.setting("realtime_factor"))
        if self.simulated and self.setting("backend") == "fci":
            raise ConfigError(
                "use_sim_time is true and backend is fci: a robot's arm does not wait for a "
                "simulated clock; set use_sim_time to false in every node"
            )
        self._real = self.setting("backend") == "fci" and not is_loopback(
            self.setting("fci_address")
        )
        self._loop = control_loop(self, self._period, self._rest)
        self._speakers = ArmPublishers(self, self._loop)
        if self.setting("backend") == "fci":
            self._franka = FrankaArm(franka_config(self), CONNECT_PATIENCE)
            for remark in self._franka.remarks:
                self.say(remark)
        self._targets = self.create_publisher(ArmTarget, "arm/target", NEWEST)
        self._joints = self.create_publisher(JointState, "joint_states", NEWEST)
        self._pose = self.create_publisher(PoseStamped, "ee_pose", NEWEST)
        self._states = self.create_publisher(FrankaState, "franka/state", NEWEST)
        publishers = (self._targets, self._joints, self._pose, self._states)
        self._ours = [(self.destroy_publisher, p) for p in publishers]
        for name, answer in (
            ("franka/arm", self._on_arm),
            ("franka/stop", self._on_stop),
            ("franka/recover", self._on_recover),
        ):
            self._ours.append((self.destroy_service, self.create_service(Trigger, name, answer)))
        self._transforms = transform_broadcaster(self)

    def activate(self) -> None:
        """Listen and start the control tick."""
        priority = int(self.setting("realtime_priority"))
        if priority and not take_realtime_priority(priority):
            self.get_logger().info("no right to real-time priority; ticks may be late under load")
        self._statistics = TickStatistics(self._period)
        subscribe = self.create_subscription
        guarded: tuple[tuple[Any, str, Any, Any], ...] = (
            (Bool, "robot/enable", self._on_enable, BEAT),
            (SafetyState, "safety/state", self._on_safety, NEWEST),
            (ActionChunkMessage, "safety/action_chunk", self._on_chunk, IN_ORDER),
        )
        self._listening = [
            subscribe(
                kind,
                topic,
                take,
                quality,
                event_callbacks=SubscriptionEventCallbacks(
                    matched=partial(self._speakers.matched, topic)
                ),
            )
            for kind, topic, take, quality in guarded
        ]
        if self.setting("watchdog"):
            take: Any = self._on_watchdog
            self._listening.append(subscribe(DiagnosticStatus, "watchdog/state", take, BEAT))
        if self._franka is None:
            self._listening += [
                subscribe(JointState, "sim/joint_states", self._on_joints, NEWEST),
                subscribe(PoseStamped, "sim/ee_pose", self._on_pose, NEWEST),
            ]
        gc.collect()
        self._turns = Turns(self, self._ready, self._take_turn)
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        clock = self.get_clock() if self.simulated else steady
        self._clocks = [self.create_timer(self._period, self._on_time, clock=clock)]
        if self._franka is not None:
            reading = self._period * READ_SHARE
            self._clocks.append(self.create_timer(reading, self._read_robot, clock=steady))
        if self._real:
            self._clocks.append(
                self.create_timer(LOOK_AT_GRAPH, self._speakers.find_simulation, clock=steady)
            )

    def deactivate(self) -> None:
        """Stop the tick and disarm; the arm stays where it is."""
        if self._loop is None or not hasattr(self, "_listening"):
            return
        self._loop.stop(self.now(), "the node was deactivated")
        if self._franka is not None:
            self._franka.rest()
        for subscription in self._listening:
            self.destroy_subscription(subscription)
        for timer in self._clocks:
            self.destroy_timer(timer)
        self._turns.close()
        self._listening, self._clocks = [], []

    def cleanup(self) -> None:
        """Forget the control loop and let go of the robot."""
        if self._franka is not None:
            self._franka.close()
            self._franka = None
        for destroy, entity in self._ours:
            destroy(entity)
        self._ours, self._loop = [], None

    def diagnose(self) -> tuple[bytes, str, dict[str, Any]]:
        """Mode, reason and timing."""
        assert self._loop is not None
        arm, ticks = self._loop.arm, self._statistics.summary()
        values = {
            "mode": arm.mode.value,
            "ticks": ticks.ticks,
            "missed_ticks": ticks.missed,
            "jitter_p99_ms": round(ticks.jitter_p99 * 1e3, 3),
            "rejected_chunks": self._loop.rejected,
        }
        level = OK if arm.mode in (ArmMode.RUNNING, ArmMode.ARMED) else WARN
        return level, f"{arm.mode.value}: {arm.reason}" if arm.reason else arm.mode.value, values

    # ---------------------------------------------------------------- what is heard

    def _on_joints(self, message: JointState) -> None:
        try:
            self._fingers = fingers_from_joint_state(message)
        except ObservationRejected as error:
            self.get_logger().warning(str(error), throttle_duration_sec=1.0)
            return
        self._fingers_at = to_nanoseconds(message.header.stamp)
        self._joints.publish(message)
        self._turns.look()

    def _on_pose(self, message: PoseStamped) -> None:
        self._measured_at = to_nanoseconds(message.header.stamp)
        self.heard_at(self._measured_at)
        if self._fingers is None:
            return
        try:
            position, axis_angle = pose_from_message(message)
        except ObservationRejected as error:
            self.get_logger().warning(str(error), throttle_duration_sec=1.0)
            return
        self._turns.hear(MEASURED, partial(self._measure, position, axis_angle, self._measured_at))
        self._pose.publish(message)
        if self._transforms is not None:
            self._transforms(message)
        self._turns.look()

    def _measure(self, position: np.ndarray, axis_angle: np.ndarray, stamp: int) -> None:
        assert self._loop is not None
        assert self._fingers is not None
        state = robot_state(position, axis_angle, self._fingers)
        ignored = self._loop.measured(state, self.now(), stamp)
        if ignored and not self.simulated:  # a world that waits repeats itself
            self.get_logger().warning(ignored, throttle_duration_sec=1.0)
        if not self._turns.asked and self._enabled != self._enabled_said:
            self._publish_state()  # at once, so that whoever waits for it may arm before the images

    def _on_chunk(self, message: ActionChunkMessage, info: dict[str, Any]) -> None:
        self.heard_at(to_nanoseconds(message.header.stamp))
        self._chunk_heard = int(message.sequence)
        self._turns.hear(CHUNK, partial(self._take_chunk, message, info))
        self._turns.look()

    def _take_chunk(self, message: ActionChunkMessage, info: dict[str, Any]) -> None:
        assert self._loop is not None
        self._speakers.heard("safety/action_chunk", info)
        self._loop.chunk(chunk_from_message(message), self.now())
        self._say_rejection()

    def _on_safety(self, message: SafetyState, info: dict[str, Any]) -> None:
        self._judged_at = to_nanoseconds(message.header.stamp)
        self.heard_at(self._judged_at)
        self._turns.hear(JUDGED, partial(self._take_decision, message, info))
        self._turns.look()

    def _take_decision(self, message: SafetyState, info: dict[str, Any]) -> None:
        assert self._loop is not None
        self._speakers.heard("safety/state", info)
        try:
            decision = Decision(message.decision)
        except ValueError:
            decision = Decision.HOLD
        now = self.now()
        self._loop.safety(
            decision, message.reason, now, int(message.last_sequence), self._sent_at(info, now)
        )
        self._say_rejection()

    def _on_enable(self, message: Bool, info: dict[str, Any]) -> None:
        self._pressed = bool(message.data)
        self._turns.hear(ENABLED, partial(self._take_enable, self._pressed, info))
        self._turns.look()

    def _take_enable(self, pressed: bool, info: dict[str, Any]) -> None:
        assert self._loop is not None
        self._speakers.heard("robot/enable", info)
        now = self.now()
        self._loop.enable(pressed, now, self._sent_at(info, now))
        if not self._turns.asked and self._enabled_said and not self._enabled:
            self._publish_state()

    def _on_watchdog(self, message: DiagnosticStatus, info: dict[str, Any]) -> None:
        stamps = [value.value for value in message.values if value.key == STAMP]
        if stamps and stamps[0].isdecimal():
            self._watched_at = int(stamps[0])
        self._turns.hear(WATCHED, partial(self._take_watchdog, message, info))
        self._turns.look()

    def _take_watchdog(self, message: DiagnosticStatus, info: dict[str, Any]) -> None:
        assert self._loop is not None
        now = self.now()
        self._loop.watchdog.feed(WATCHDOG, min(self._sent_at(info, now), now))
        fine = message.level == DiagnosticStatus.OK
        self._loop.guard(WATCHDOG, "" if fine else message.message or "not OK", now)

    def _say_rejection(self) -> None:
        assert self._loop is not None
        rejection = self._loop.last_rejection
        if self._loop.rejected == self._rejected_said:
            return
        self._rejected_said = self._loop.rejected
        said, logger = f"chunk rejected: {rejection}", self.get_logger()
        # an arm that waits to be armed says the same all the time; each call has one throttle
        if rejection == self._last_rejection:
            logger.warning(said, throttle_duration_sec=30.0)
        else:
            logger.warning(said, throttle_duration_sec=1.0)
        self._last_rejection = rejection

    # ---------------------------------------------------------------- the control tick

    def _sent_at(self, info: dict[str, Any], now: int) -> int:
        """When a message was published, ns. A world that waits for its nodes makes none old."""
        return now if self.simulated else sent_at(info, now)

    def _ready(self, turn: Turn) -> bool:
        """Whether all of this control step that concerns the arm has been heard."""
        stamp = turn["stamp"]
        return (
            (not turn["pose"] or min(self._measured_at, self._fingers_at) >= stamp)
            and self._pressed == turn["enabled"]
            and (not turn.get("watched") or self._watched_at >= stamp)
            and ("judged" not in turn or self._judged_at >= stamp)
            and self._chunk_heard >= turn.get("forwarded", 0)
        )

    def _take_turn(self, turn: Turn) -> Turn:
        self._tick()
        self._acted_at = turn["stamp"]
        return self._words()

    def _words(self) -> Turn:
        """What the world must know of the arm."""
        assert self._loop is not None
        armed = self._loop.arm.mode in MAY_MOVE
        return {"armed": armed, "sent": self._sent, "acted": self._acted_at}

    def _on_time(self) -> None:
        if not self._turns.asked:
            self._tick()

    def _tick(self) -> None:
        assert self._loop is not None
        now, loop = self.now(), self._loop
        self._statistics.tick(now if self.simulated else time.monotonic_ns())
        self._speakers.learn_names()
        target = loop.tick(now)
        self._say_rejection()
        self._sent = target is not None
        if target is not None:
            self._targets.publish(self._target_message(target))
        if self._franka is not None:
            if target is not None and loop.arm.mode == ArmMode.RUNNING:
                self._franka.go(target)
            else:
                self._franka.rest()
        self._publish_state()

    def _rest(self) -> None:
        """What ends the motion of a robot does not wait for the next tick."""
        if self._franka is not None:
            self._franka.rest()

    def _read_robot(self) -> None:
        """Backend fci: what the robot measures, and what has stopped it."""
        if self._franka is None or self._loop is None:
            return
        reading, fault, notice = self._franka.read(), self._franka.fault, self._franka.notice
        if fault:
            self._loop.fault(self.now(), fault)
        if notice != self._gripper_said:
            self._gripper_said = notice
            if notice:
                self.say(notice)
        if reading is None or reading.time == self._robot_time:  # a state of before is no news
            return
        self._robot_time = reading.time
        stamp = self.now() - round((time.monotonic() - reading.asked) * SECOND)
        self._on_joints(joint_state(reading.joints, reading.velocities, reading.fingers, stamp))
        self._on_pose(pose_message(reading.position, reading.axis_angle, stamp))

    def _target_message(self, target: Target) -> ArmTarget:
        assert self._loop is not None
        running = self._loop.arm.mode == ArmMode.RUNNING
        message = ArmTarget(
            position=target.position.astype(np.float64),
            axis_angle=target.axis_angle.astype(np.float64),
            gripper=float(target.gripper),
            sequence=self._loop.playback.last_sequence if running else 0,
            checkpoint=self._loop.playback.checkpoint if running else "",
        )
        message.header.stamp = to_stamp(self.now())
        message.header.frame_id = BASE_FRAME
        return message

    @property
    def _enabled(self) -> bool:
        """Whether the enable switch is held, and the arm was measured since."""
        return self._loop is not None and self._loop.enabled(self.now())

    def _publish_state(self) -> None:
        assert self._loop is not None
        loop, arm, ticks = self._loop, self._loop.arm, self._statistics.summary()
        state = FrankaState(
            state=list(ArmMode).index(arm.mode),
            reason=arm.reason,
            enabled=self._enabled,
            last_sequence=loop.playback.last_sequence,
            checkpoint=loop.playback.checkpoint,
            rejected=loop.rejected,
            last_rejection=loop.last_rejection,
            ticks=ticks.ticks,
            missed_ticks=ticks.missed,
            tick_jitter_p50=ticks.jitter_p50,
            tick_jitter_p99=ticks.jitter_p99,
        )
        state.header.stamp = to_stamp(self.now())
        state.header.frame_id = BASE_FRAME
        self._enabled_said = state.enabled
        self._states.publish(state)
        if arm.mode.value != self._mode_said:
            self._mode_said = arm.mode.value
            self.get_logger().info(f"{arm.mode.value}: {arm.reason}" if arm.reason else "RUNNING")

    # ---------------------------------------------------------------- services

    def _on_arm(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        if self.active and self._real:
            self._speakers.find_simulation()
        return self._answer("arm", lambda loop: loop.arm_now(self.now()), response)

    def _on_stop(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        return self._answer("stop", lambda loop: loop.stop(self.now()), response)

    def _on_recover(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        return self._answer("recover", self._recover, response)

    def _recover(self, loop: ControlLoop) -> Reply:
        if self._franka is not None and loop.arm.mode == ArmMode.FAULT:
            refused = self._franka.recover()
            if refused:
                return Reply(False, refused)
        return loop.arm.recover(self.now())

    def _answer(
        self, what: str, ask: Callable[[ControlLoop], Reply], response: Trigger.Response
    ) -> Trigger.Response:
        reply = Reply(False, "the node is not active")
        if self.active and self._loop is not None:
            reply = ask(self._loop)
        response.success, response.message = bool(reply.accepted), reply.reason
        if self.active and self.simulated:
            self._publish_state()
            self._turns.again(self._words())
        if reply.accepted:
            self.get_logger().info(f"{what}: {reply.reason}")
        else:
            self.say(f"{what} refused: {reply.reason}")
        return response


def sent_at(info: dict[str, Any], now: int) -> int:
    """When a message was published, ns on the node's clock: one that waited in a queue is old."""
    return now - (time.time_ns() - int(info["source_timestamp"]))


def transform_broadcaster(node: DojoNode) -> Callable[[PoseStamped], None] | None:
    """Publishes base → end-effector on tf where a ROS installation provides tf2_ros, else None."""
    try:
        from geometry_msgs.msg import TransformStamped
        from tf2_ros import TransformBroadcaster
    except ImportError:
        return None
    broadcaster = TransformBroadcaster(node)

    def send(pose: PoseStamped) -> None:
        transform = TransformStamped(header=pose.header, child_frame_id="end_effector")
        place, step = pose.pose.position, transform.transform.translation
        step.x, step.y, step.z = place.x, place.y, place.z
        transform.transform.rotation = pose.pose.orientation
        broadcaster.sendTransform(transform)

    return send


def main(arguments: list[str] | None = None) -> int:
    """Run the node until SIGINT."""
    return run_node(FrankaNode, arguments)


if __name__ == "__main__":
    sys.exit(main())
