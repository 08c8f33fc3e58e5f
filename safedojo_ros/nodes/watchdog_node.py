"""The watchdog: a small process of its own that lets go of the arm when something does not fit.

Subscribes `robot/enable`, `safety/state`, `safety/action_chunk`, `franka/state`, `ee_pose` and
`arm/target`; publishes `watchdog/state` at 20 Hz: OK, or ERROR with the reason. The arm's node
moves nothing without a recent OK. No model runs in this process. Its clock is the machine's own,
which nobody can set; where time is simulated it is the world's, and so are the silences.
"""

import sys
import time
from typing import Any

from diagnostic_msgs.msg import DiagnosticStatus, KeyValue
from geometry_msgs.msg import PoseStamped
from rclpy.clock import Clock, ClockType
from std_msgs.msg import Bool

from safedojo_ros.core.errors import ObservationRejected
from safedojo_ros.core.types import Decision
from safedojo_ros.msg import ActionChunk, ArmTarget, FrankaState, SafetyState
from safedojo_ros.nodes.conversion import pose_from_message, to_nanoseconds
from safedojo_ros.nodes.lifecycle import BEAT, OK, WARN, DojoNode, Setting
from safedojo_ros.nodes.stack.scheduling import take_realtime_priority
from safedojo_ros.nodes.stack.spinning import run_node
from safedojo_ros.nodes.stack.turn_order import Turn
from safedojo_ros.nodes.turns import STAMP, Turns
from safedojo_ros.robot.arm_watchdog import ArmWatchdog
from safedojo_ros.robot.limits import Workspace
from safedojo_ros.robot.playback.arm_state import ArmMode

PERIOD = 0.05
"""Seconds between two states."""

SETTINGS = (
    Setting("workspace_lower", [-0.25, -0.32, 0.012], "Lower corner of the workspace (m)."),
    Setting("workspace_upper", [0.34, 0.32, 0.45], "Upper corner of the workspace (m)."),
    Setting("max_lead", 0.06, "How far the target may be ahead of the arm (m).", 0.005, 0.2),
    Setting("max_speed", 2.0, "Of the arm and of its target (m/s).", 0.01, 4.0),
    Setting("realtime_priority", 30, "Of this process, if allowed; 0: ordinary.", 0, 99),
)


class WatchdogNode(DojoNode):
    """Converts and publishes; every decision is `robot.arm_watchdog`'s."""

    def __init__(self, **options: Any) -> None:
        super().__init__("watchdog_node", SETTINGS, **options)
        self._listening: list[Any] = []
        self._reason = ""
        self._measured_at = self._arm_at = 0

    # ---------------------------------------------------------------- life cycle

    def configure(self) -> None:
        """Read the limits."""
        self._workspace = Workspace(self.corner("workspace_lower"), self.corner("workspace_upper"))
        self._limits = float(self.setting("max_lead")), float(self.setting("max_speed"))
        self._states = self.create_publisher(DiagnosticStatus, "watchdog/state", BEAT)

    def activate(self) -> None:
        """Listen and watch."""
        priority = int(self.setting("realtime_priority"))
        if priority and not take_realtime_priority(priority):
            self.get_logger().info("no right to real-time priority; faults may be seen late")
        self._watchdog = ArmWatchdog(self._workspace, *self._limits)
        subscribe = self.create_subscription
        self._listening = [
            subscribe(Bool, "robot/enable", self._on_enable, BEAT),
            subscribe(SafetyState, "safety/state", self._on_gate, BEAT),
            subscribe(ActionChunk, "safety/action_chunk", self._on_chunk, BEAT),
            subscribe(FrankaState, "franka/state", self._on_arm, BEAT),
            subscribe(PoseStamped, "ee_pose", self._on_pose, BEAT),
            subscribe(ArmTarget, "arm/target", self._on_target, BEAT),
        ]
        self._turns = Turns(self, self._ready, self._take_turn)
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        self._timer = self.create_timer(PERIOD, self._on_time, clock=steady)

    def deactivate(self) -> None:
        """Say nothing more: the arm is let go."""
        if not self._listening:
            return
        for subscription in self._listening:
            self.destroy_subscription(subscription)
        self._turns.close()
        self.destroy_timer(self._timer)
        self._listening = []

    def cleanup(self) -> None:
        """Forget the publisher."""
        if hasattr(self, "_states"):
            self.destroy_publisher(self._states)
            del self._states

    def diagnose(self) -> tuple[bytes, str, dict[str, Any]]:
        """What it says of the arm."""
        return (WARN, f"lets go: {self._reason}", {}) if self._reason else (OK, "watching", {})

    # ---------------------------------------------------------------- what is heard and said

    def _on_enable(self, message: Bool) -> None:
        self._watchdog.enable(message.data, self._time())

    def _on_gate(self, message: SafetyState) -> None:
        try:
            decision = Decision(message.decision)
        except ValueError:
            decision = Decision.HOLD
        self._watchdog.gate(decision, self._time())

    def _on_chunk(self, message: ActionChunk) -> None:
        self._watchdog.chunk(message.length * float(message.period), self._time())

    def _on_arm(self, message: FrankaState) -> None:
        modes = list(ArmMode)
        mode = modes[message.state] if message.state < len(modes) else ArmMode.RUNNING
        self._watchdog.arm(mode, self._time())
        self._arm_at = to_nanoseconds(message.header.stamp)
        self._turns.look()

    def _on_pose(self, message: PoseStamped) -> None:
        stamp = to_nanoseconds(message.header.stamp)
        self.heard_at(stamp)
        if self.simulated and stamp <= self._measured_at:
            return  # a world that waits repeats itself
        try:
            position, _ = pose_from_message(message)
        except ObservationRejected as error:
            self.get_logger().warning(str(error), throttle_duration_sec=1.0)
            return
        self._measured_at = stamp
        self._watchdog.measured(position, stamp if self.simulated else self._time())
        self._turns.look()

    def _on_target(self, message: ArmTarget) -> None:
        stamp = to_nanoseconds(message.header.stamp)
        self._watchdog.target(message.position, stamp, self._time())

    def _time(self) -> int:
        return self.now() if self.simulated else time.monotonic_ns()

    def _ready(self, turn: Turn) -> bool:
        measured = not turn["pose"] or self._measured_at >= turn["stamp"]
        return measured and self._arm_at >= turn["before"].get("acted", 0)

    def _take_turn(self, turn: Turn) -> Turn:
        self._tick()
        return {"watched": True, "fine": not self._reason}

    def _on_time(self) -> None:
        if not self._turns.asked:
            self._tick()

    def _tick(self) -> None:
        now = self._time()
        reason = self._watchdog.check(now)
        level = DiagnosticStatus.ERROR if reason else DiagnosticStatus.OK
        state = DiagnosticStatus(level=level, name=self.get_name(), message=reason)
        state.values = [KeyValue(key=STAMP, value=str(now))]
        self._states.publish(state)
        if reason != self._reason:
            self._reason = reason
            self.say(f"lets go of the arm: {reason}" if reason else "")


def main(arguments: list[str] | None = None) -> int:
    """Run the node until SIGINT."""
    return run_node(WatchdogNode, arguments)


if __name__ == "__main__":
    sys.exit(main())
