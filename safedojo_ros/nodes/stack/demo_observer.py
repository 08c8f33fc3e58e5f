"""Watches a running demonstration and plays the person beside it: arms the arm, recovers it.

A plain node in the process of `safedojo demo`; it decides nothing about motion.
"""

import json
import threading
import time
from collections import deque
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import rclpy
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from rclpy.context import Context
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node
from sensor_msgs.msg import CompressedImage
from std_msgs.msg import String
from std_srvs.srv import Trigger

from safedojo_ros.core.units import SECOND
from safedojo_ros.msg import ActionChunk, FrankaState, SafetyCost, SafetyState
from safedojo_ros.nodes.conversion import to_nanoseconds
from safedojo_ros.nodes.lifecycle import IN_ORDER, NEWEST, RECORD
from safedojo_ros.nodes.stack.arming import Person
from safedojo_ros.nodes.stack.registry import OVERVIEW

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
    wall_seconds: float = 0.0
    """Of this machine, for the `seconds` of the arm's time in which it moved."""
    moved_seconds: float = 0.0
    nodes: set[str] = field(default_factory=set)
    topics: set[str] = field(default_factory=set)

    @property
    def world_speed(self) -> float | None:
        """Seconds of the arm's time in one of this machine's, while it moved."""
        return self.moved_seconds / self.wall_seconds if self.wall_seconds else None

    def as_json(self, simulated: bool = False) -> dict[str, Any]:
        """The `run` part of the demonstration's JSON; times in milliseconds.

        simulated: the world has waited for the nodes, so that there is nothing to say of latency.
        """
        figures = self._timeless()
        if simulated:
            speed = self.world_speed
            return figures | {"world_speed": None if speed is None else round(speed, 3)}
        return figures | {
            "tick_jitter_ms": {
                "p50": round(self.jitter_p50 * 1e3, 3),
                "p99": round(self.jitter_p99 * 1e3, 3),
            },
            "policy_latency_ms": percentiles(self.policy_latency),
            "image_to_gated_chunk_overhead_ms": percentiles(self.overhead),
        }

    def _timeless(self) -> dict[str, Any]:
        return {
            "control_rate_hz": round(self.ticks / self.seconds, 3) if self.seconds else None,
            "control_ticks": self.ticks,
            "missed_ticks": self.missed_ticks,
            "policy_compute_ms": percentiles(self.policy_compute),
            "gate_latency_ms": percentiles(self.gate_compute),
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

    def __init__(self, context: Context, images: bool = False) -> None:
        """images: whether to collect those of the whole scene."""
        super().__init__("safedojo_demo", context=context, use_global_arguments=False)
        self.images: deque[tuple[int, bytes]] = deque()
        """(stamp ns, JPEG) of the whole scene."""
        self.episodes: deque[dict[str, Any]] = deque()
        self.figures = RunFigures()
        self.faults: dict[str, str] = {}
        self.words: dict[str, str] = {}
        """What each working node says of itself."""
        self.arm: FrankaState | None = None
        self.safety: SafetyState | None = None
        self.held: dict[str, int] = {}
        """How many chunks the gate has held since the last episode, by reason without numbers'
        differences: the first one's words."""
        self.arm_time, self.arm_heard_at = 0, 0.0
        """The arm's own time (ns) and ours (s) when it was heard last."""
        self._kinds: dict[str, str] = {}
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
        if images:
            self.create_subscription(CompressedImage, OVERVIEW, self._on_image, IN_ORDER)
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

    def _on_image(self, message: CompressedImage) -> None:
        self.images.append((to_nanoseconds(message.header.stamp), bytes(message.data)))

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
            moves = self.arm is not None and self.arm.state in (self.arm.RUNNING, self.arm.HOLD)
            if name in ("HOLD", "STOP") and moves:
                self._count(message.reason)

    def _count(self, reason: str) -> None:
        if not self.held:
            self._kinds = {}
        kind = "".join(c for c in reason if not c.isdigit())
        first = self._kinds.setdefault(kind, reason)
        self.held[first] = self.held.get(first, 0) + 1

    def _on_arm(self, message: FrankaState) -> None:
        self.arm = message
        now = time.monotonic()
        passed = now - self.arm_heard_at
        self.arm_time, self.arm_heard_at = to_nanoseconds(message.header.stamp), now
        self._person.hear(message)
        last, figures = self._last, self.figures
        if last is not None and message.ticks > last.ticks:
            figures.ticks += int(message.ticks - last.ticks)
            figures.missed_ticks += int(message.missed_ticks - last.missed_ticks)
            seconds = (self.arm_time - to_nanoseconds(last.header.stamp)) / SECOND
            figures.seconds += seconds
            if last.state == FrankaState.RUNNING:
                figures.moved_seconds += seconds
                figures.wall_seconds += passed
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

    def __init__(self, images: bool = False) -> None:
        """images: see `DemoObserver`."""
        self._context = Context()
        rclpy.init(context=self._context)
        self.node = DemoObserver(self._context, images)
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
