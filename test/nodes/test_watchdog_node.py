"""The real watchdog process: small, heard in time, and an ERROR when somebody falls silent."""

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from diagnostic_msgs.msg import DiagnosticStatus
from running_stack import RunningStack
from std_msgs.msg import Bool

from safedojo_ros.msg import FrankaState, SafetyState
from safedojo_ros.nodes.conversion import pose_message
from safedojo_ros.nodes.lifecycle import BEAT, NEWEST

TRIALS = 3
"""A busy machine delays some of them."""
HEAVY = ("torch", "transformers", "diffusers", "mujoco", "franky", "rerun", "pyarrow")


def test_the_watchdog_s_process_loads_no_model_and_no_simulator() -> None:
    script = (
        "import sys, safedojo_ros.nodes.watchdog_node; "
        f"print([name for name in {HEAVY} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr


class Heard:
    """What the watchdog says, and the four whom it wants to hear."""

    def __init__(self, stack: RunningStack) -> None:
        node = stack.listener
        self.newest: DiagnosticStatus | None = None
        self.count = 0
        node.create_subscription(DiagnosticStatus, "watchdog/state", self._take, BEAT)
        self.silent: set[str] = set()
        self._publishers: dict[str, tuple[Any, Any]] = {}
        for kind, topic in (
            (Bool(data=True), "robot/enable"),
            (SafetyState(decision=0, mode="gate"), "safety/state"),
            (FrankaState(state=FrankaState.ARMED), "franka/state"),
            (pose_message(np.array([0.0, 0.0, 0.2]), np.zeros(3), 0), "ee_pose"),
        ):
            self._publishers[topic] = node.create_publisher(type(kind), topic, NEWEST), kind
        node.create_timer(0.05, self._beat)

    def _beat(self) -> None:
        for topic, (publisher, message) in self._publishers.items():
            if topic not in self.silent:
                publisher.publish(message)

    def _take(self, message: DiagnosticStatus) -> None:
        self.newest, self.count = message, self.count + 1

    @property
    def fine(self) -> bool:
        return self.newest is not None and self.newest.level == DiagnosticStatus.OK


def rate(heard: Heard) -> float:
    """Words of the watchdog in a second."""
    before, start = heard.count, time.monotonic()
    time.sleep(1.0)
    return (heard.count - before) / (time.monotonic() - start)


def seconds_to_error(stack: RunningStack, heard: Heard, topic: str) -> float:
    """From the silence of a topic to an ERROR that names it."""
    stack.wait_for(lambda: heard.fine, "an OK", 20.0)
    start = time.monotonic()
    heard.silent = {topic}
    try:
        stack.wait_for(
            lambda: heard.newest and not heard.fine and topic in heard.newest.message,
            f"an ERROR that names {topic}",
            20.0,
        )
        return time.monotonic() - start
    finally:
        heard.silent = set()


def test_a_silent_source_becomes_an_error_in_time(tmp_path: Path) -> None:
    stack = RunningStack(tmp_path, ("watchdog_node",))
    try:
        heard = Heard(stack)
        stack.wait_for(lambda: heard.fine, "an OK", 20.0)
        assert any(rate(heard) > 15.0 for _ in range(TRIALS))
        for topic, within in (("safety/state", 0.4), ("franka/state", 0.25), ("ee_pose", 0.3)):
            took = [seconds_to_error(stack, heard, topic) for _ in range(TRIALS)]
            assert min(took) < within + 0.2
    finally:
        assert stack.close() == []
