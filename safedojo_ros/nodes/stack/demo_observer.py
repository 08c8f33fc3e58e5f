"""Watches a running demonstration and plays the person beside it: arms the arm, recovers it.

A plain node in the process of `safedojo demo`; it decides nothing about motion.
"""

import json
import threading
from collections import deque
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import rclpy
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from rclpy.context import Context
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node
from std_msgs.msg import String
from std_srvs.srv import Trigger

from safedojo_ros.core.units import SECOND
from safedojo_ros.msg import ActionChunk, FrankaState, SafetyCost, SafetyState
from safedojo_ros.nodes.conversion import to_nanoseconds
from safedojo_ros.nodes.lifecycle import IN_ORDER, NEWEST, RECORD
from safedojo_ros.nodes.stack.arming import Person

LOOK_AGAIN = 1.0
"""Seconds between two looks at the graph and at a faulted arm."""


@dataclass
class RunFigures:
    """What was measured while the demonstration ran; times in seconds."""

    policy_compute: list[float] = field(default_factory=list)
    policy_latency: list[float] = field(default_factory=list)
    gate_compute: list[float] = field(default_factory=list)
    overhead: list[float] = field(default_factory=list)
    decisions: dict[str, int] = field(default_factory=dict)
    ticks: int = 0
    missed_ticks: int = 0
    jitter_p50: float = 0.0
    jitter_p99: float = 0.0
    seconds: float = 0.0
    nodes: set[str] = field(default_factory=set)
    topics: set[str] = field(default_factory=set)

    def as_json(self) -> dict[str, Any]:
        """The `run` part of the demonstration's JSON; times in milliseconds."""
        return {
            "control_rate_hz": round(self.ticks / self.seconds, 3) if self.seconds else None,
            "control_ticks": self.ticks,
            "missed_ticks": self.missed_ticks,
            "tick_jitter_ms": {
                "p50": round(self.jitter_p50 * 1e3, 3),
                "p99": round(self.jitter_p99 * 1e3, 3),
            },
            "policy_compute_ms": percentiles(self.policy_compute),
            "policy_latency_ms": percentiles(self.policy_latency),
            "gate_latency_ms": percentiles(self.gate_compute),
            "image_to_gated_chunk_overhead_ms": percentiles(self.overhead),
            "gate_decisions": self.decisions,
            "nodes": sorted(self.nodes),
            "topics": sorted(self.topics),
        }


def percentiles(seconds: list[float]) -> dict[str, float | int | None]:
    """Median and p99 in milliseconds, with the count."""
    if not seconds:
        return {"median": None, "p99": None, "count": 0}
    median, tail = np.percentile(np.array(seconds) * 1e3, (50, 99))
    return {"median": round(float(median), 3), "p99": round(float(tail), 3), "count": len(seconds)}


class DemoObserver(Node):
    """Collects episodes and figures; arms when the switch is pressed, recovers in `assist`."""

    def __init__(self, context: Context) -> None:
        super().__init__("safedojo_demo", context=context, use_global_arguments=False)
        self.episodes: deque[dict[str, Any]] = deque()
        self.figures = RunFigures()
        self.faults: dict[str, str] = {}
        self.words: dict[str, str] = {}
        """What each working node says of itself."""
        self.arm: FrankaState | None = None
        self.safety: SafetyState | None = None
        self._last: FrankaState | None = None
        self._last_judged = 0
        self._episode_ended = False
        for kind, topic, take, qos in (
            (String, "sim/episode", self._on_episode, RECORD),
            (FrankaState, "franka/state", self._on_arm, NEWEST),
            (ActionChunk, "policy/action_chunk", self._on_chunk, IN_ORDER),
            (SafetyCost, "safety/cost", self._on_cost, IN_ORDER),
            (SafetyState, "safety/state", self._on_safety, NEWEST),
            (DiagnosticArray, "/diagnostics", self._on_diagnostics, IN_ORDER),
        ):
            self.create_subscription(kind, topic, take, qos)
        self._person = Person(self)
        self._asked = {
            name: self.create_client(Trigger, name) for name in ("franka/recover", "safety/recover")
        }
        self.create_timer(LOOK_AGAIN, self.assist)

    def foreign(self) -> str:
        """Asked before the own nodes start: the topic on which an arm or a switch speaks, or ""."""
        names = (name for name, _ in self.get_topic_names_and_types())
        spoken = (name for name in names if name.endswith(("/robot/enable", "/franka/state")))
        return next((name for name in spoken if self.count_publishers(name)), "")

    # ---------------------------------------------------------------- the person beside the robot

    def assist(self) -> None:
        """Recover a faulted arm once its episode is over; look at the graph."""
        self._look_at_graph()
        if self.arm is None or not self.arm.enabled:
            return
        if self.arm.state == FrankaState.FAULT and self._episode_ended:
            self._ask("safety/recover")
            self._ask("franka/recover")
        self._episode_ended = False

    def _ask(self, service: str) -> None:
        client = self._asked[service]
        if client.service_is_ready():
            client.call_async(Trigger.Request())

    def _look_at_graph(self) -> None:
        self.figures.nodes |= {
            name for name, _ in self.get_node_names_and_namespaces() if name != self.get_name()
        }
        self.figures.topics |= {
            topic for topic, _ in self.get_topic_names_and_types() if self.count_publishers(topic)
        }

    # ---------------------------------------------------------------- what is heard

    def _on_episode(self, message: String) -> None:
        self._episode_ended = True
        self.episodes.append(json.loads(message.data))

    def _on_chunk(self, message: ActionChunk) -> None:
        figures = self.figures
        figures.policy_compute.append(float(message.compute_time))
        published = to_nanoseconds(message.header.stamp) - to_nanoseconds(message.observed_at)
        figures.policy_latency.append(published / SECOND)

    def _on_cost(self, message: SafetyCost) -> None:
        if len(message.step_cost):
            self.figures.gate_compute.append(float(message.compute_time))

    def _on_safety(self, message: SafetyState) -> None:
        self.safety = message
        if message.last_sequence != self._last_judged:
            self._last_judged = message.last_sequence
            self.figures.overhead.append(float(message.latency))
            name = ("ALLOW", "SLOW", "HOLD", "STOP")[min(message.decision, 3)]
            self.figures.decisions[name] = self.figures.decisions.get(name, 0) + 1

    def _on_arm(self, message: FrankaState) -> None:
        self.arm = message
        self._person.hear(message)
        last, figures = self._last, self.figures
        if last is not None and message.ticks > last.ticks:
            figures.ticks += int(message.ticks - last.ticks)
            figures.missed_ticks += int(message.missed_ticks - last.missed_ticks)
            passed = to_nanoseconds(message.header.stamp) - to_nanoseconds(last.header.stamp)
            figures.seconds += passed / SECOND
        figures.jitter_p50 = float(message.tick_jitter_p50)
        figures.jitter_p99 = float(message.tick_jitter_p99)
        self._last = message

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        for status in message.status:
            if status.level == DiagnosticStatus.ERROR:
                self.faults[status.name] = status.message
            else:
                self.faults.pop(status.name, None)
                self.words[status.name] = status.message


class ObserverThread:
    """A `DemoObserver` in a context and a thread of its own."""

    def __init__(self) -> None:
        self._context = Context()
        rclpy.init(context=self._context)
        self.node = DemoObserver(self._context)
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self.node)
        self._thread = threading.Thread(target=self._spin, name="observer", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Leave the graph."""
        self._executor.shutdown(timeout_sec=2.0)
        self._thread.join(timeout=3.0)
        self.node.destroy_node()
        rclpy.try_shutdown(context=self._context)

    def _spin(self) -> None:
        try:
            self._executor.spin()
        except ExternalShutdownException:
            return
