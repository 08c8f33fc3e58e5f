"""From a fault to the arm's standstill: the real nodes, with every core busy.

`python benchmarks/stops.py --backend sim` (or `fci`, with the emulator) breaks something while the
arm moves, many times each, and prints how long the arm went on. A standstill is the first of the
world's poses, one a control period, from which the arm moves slower than 1 cm/s for the rest of the
look; so no figure is finer than a control period.
"""

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import rclpy
from demo_stack import demo_stack, machine, stack_options, take_domain
from geometry_msgs.msg import PoseStamped
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from std_msgs.msg import Bool
from std_srvs.srv import Trigger

from safedojo_ros.core.types import CONTROL_PERIOD
from safedojo_ros.msg import FrankaState
from safedojo_ros.nodes.lifecycle import BEAT, IN_ORDER, NEWEST
from safedojo_ros.nodes.stack.arming import Person
from safedojo_ros.nodes.stack.processes import StackProcesses
from safedojo_ros.worlds.tabletop.scene import ARM_X

MOVING, STILL = 0.03, 0.01
"""m/s: faster, the arm counts as moving; slower, as standing."""

LOOK = 1.2
"""Seconds of the world's time that are looked at after a fault."""

EPISODE = 100
"""Steps: a policy that was stopped on its way may hover, and then there is nothing to stop."""

PATIENCE = 120.0
BEAT_PERIOD = 0.1
FCI_SPEED = 0.5
"""Of the world then, as in `safedojo demo --fci`."""


class Bench:
    """Plays the enable switch and the person, and watches the arm."""

    def __init__(self, node: Node, stack: StackProcesses) -> None:
        self.node, self.stack = node, stack
        self.state: FrankaState | None = None
        self.places: deque[tuple[float, np.ndarray]] = deque(maxlen=400)
        self.pressed, self.beats, self.rearms = True, True, True
        self._world_enabled = False
        self._person = Person(self.node)
        self.second: Any = None
        self._enable = node.create_publisher(Bool, "robot/enable", BEAT)
        node.create_subscription(Bool, "sim/enable", self._on_world, BEAT)
        node.create_subscription(FrankaState, "franka/state", self._on_arm, NEWEST)
        node.create_subscription(PoseStamped, "sim/ee_pose", self._on_pose, NEWEST)
        node.create_timer(BEAT_PERIOD, self._beat)
        self._services = {
            name: node.create_client(Trigger, name) for name in ("franka/stop", "franka/recover")
        }

    def _on_world(self, message: Bool) -> None:
        changed, self._world_enabled = message.data != self._world_enabled, message.data
        if changed:
            self._beat()

    def _beat(self) -> None:
        if self.beats:
            self._enable.publish(Bool(data=self.pressed and self._world_enabled))

    def _on_arm(self, message: FrankaState) -> None:
        self.state = message
        if not self.rearms:
            return
        self._person.hear(message)
        if message.state == FrankaState.FAULT:
            self.ask("franka/recover")

    def _on_pose(self, message: PoseStamped) -> None:
        place = message.pose.position
        self.places.append((time.monotonic(), np.array([place.x, place.y, place.z])))

    def ask(self, service: str) -> None:
        """Call a Trigger service; nobody waits for the answer."""
        if self._services[service].service_is_ready():
            self._services[service].call_async(Trigger.Request())

    def send(self, name: str, number: int) -> None:
        """A signal to a node."""
        process = self.stack.child(name).process
        if process is None:
            raise SystemExit(f"{name} does not run")
        os.kill(process.pid, number)

    def press(self, pressed: bool) -> None:
        """The switch, told at once."""
        self.pressed = pressed
        self._beat()

    def moving(self) -> bool:
        """Whether the arm executes, and has moved in the last three periods."""
        if self.state is None or self.state.state != FrankaState.RUNNING:
            return False
        newest = list(self.places)[-4:]
        return len(newest) == 4 and all(speed > MOVING for speed in speeds(newest))

    def await_motion(self) -> None:
        """Until the arm moves; ends the benchmark with the arm's own words otherwise."""
        end = time.monotonic() + PATIENCE
        while not self.moving():
            if time.monotonic() > end:
                raise SystemExit(f"the arm does not move: {self.state and self.state.reason}")
            time.sleep(0.005)


def speeds(places: list[tuple[float, np.ndarray]]) -> list[float]:
    """m/s between neighbours, by the period, since the times of arrival jitter."""
    return [
        float(np.linalg.norm(b - a)) / CONTROL_PERIOD
        for (_, a), (_, b) in zip(places, places[1:], strict=False)
    ]


def stood_after(places: list[tuple[float, np.ndarray]], began: float) -> float:
    """Seconds from `began` to the pose from which the arm stands; NaN if it does not."""
    after = [place for place in places if place[0] > began]
    if len(after) < 3:
        return 0.0  # the world itself stood still
    fast = [k for k, speed in enumerate(speeds(after)) if speed > STILL]
    last = fast[-1] + 1 if fast else 0
    return after[last][0] - began if last < len(after) - 2 else float("nan")


@dataclass(frozen=True)
class Fault:
    """What is broken, and how it is mended."""

    name: str
    breaks: Callable[[Bench], object]
    mends: Callable[[Bench], object] = lambda bench: None


def silent(name: str, node: str) -> Fault:
    """A process that is stopped says nothing more."""
    return Fault(
        name,
        lambda bench: bench.send(node, signal.SIGSTOP),
        lambda bench: bench.send(node, signal.SIGCONT),
    )


def set_beats(bench: Bench, beats: bool) -> None:
    bench.beats = beats


def second_publisher(bench: Bench) -> None:
    bench.second = bench.node.create_publisher(Bool, "robot/enable", IN_ORDER)


def no_second_publisher(bench: Bench) -> None:
    bench.node.destroy_publisher(bench.second)


FAULTS = (
    Fault("franka/stop is called", lambda bench: bench.ask("franka/stop")),
    Fault("the switch is released", lambda b: b.press(False), lambda b: b.press(True)),
    Fault("the switch falls silent", lambda b: set_beats(b, False), lambda b: set_beats(b, True)),
    Fault("a second publisher of the switch", second_publisher, no_second_publisher),
    silent("the gate's process falls silent", "safety_node"),
    silent("the policy's process falls silent", "policy_node"),
    silent("the watchdog falls silent", "watchdog_node"),
    silent("the arm's own process is blocked", "franka_node"),
)


@contextlib.contextmanager
def busy(cores: int) -> Iterator[None]:
    """Every core computes, at the priority of the nodes."""
    burners = [multiprocessing.Process(target=burn, daemon=True) for _ in range(cores)]
    for burner in burners:
        burner.start()
    try:
        yield
    finally:
        for burner in burners:
            burner.kill()


def burn() -> None:
    """Compute for ever."""
    while True:
        sum(range(10_000))


def main() -> int:
    """Print the table; 1 if the arm once did not stand."""
    parser = stack_options(__doc__)
    parser.add_argument("--backend", choices=("sim", "fci"), default="sim")
    parser.add_argument("--times", type=int, default=50, help="of each fault (default 50)")
    options = parser.parse_args()
    lease = take_domain()
    factor = FCI_SPEED if options.backend == "fci" else 1.0
    own: dict[str, dict[str, object]] = {
        "sim_node": {"max_steps": EPISODE, "level": 0, "realtime_factor": factor},
        "franka_node": {"realtime_factor": factor},
    }
    for name in ("policy", "safety"):
        own[f"{name}_node"] = {
            "checkpoint": getattr(options, name), "realtime_factor": factor,
        }  # fmt: skip
    own["safety_node"]["mode"] = "monitor"
    if options.backend == "fci":
        address = f"127.0.0.{10 + lease.number}"
        own["sim_node"]["fci_address"] = address
        own["franka_node"] |= {
            "backend": "fci", "fci_address": address, "robot_base": [ARM_X, 0.0, 0.0],
        }  # fmt: skip
    stack = demo_stack(options, parameters=own)
    stack.child("sim_node").arguments += ["-r", "robot/enable:=sim/enable"]
    context = Context()
    rclpy.init(context=context)
    node = rclpy.create_node("stops", context=context)
    bench = Bench(node, stack)
    executor = SingleThreadedExecutor(context=context)
    executor.add_node(node)
    thread = threading.Thread(target=executor.spin, daemon=True)
    thread.start()
    found: dict[str, list[float]] = {fault.name: [] for fault in FAULTS}
    try:
        stack.start()
        bench.await_motion()
        with busy(os.cpu_count() or 1):
            for _ in range(options.times):
                for fault in FAULTS:
                    found[fault.name].append(once(bench, fault, LOOK / factor))
            load = os.getloadavg()[0]
    finally:
        for child in stack.children:
            if child.alive and child.process is not None:
                child.process.send_signal(signal.SIGCONT)
        executor.shutdown(timeout_sec=2.0)
        thread.join(timeout=3.0)
        stack.stop()
        node.destroy_node()
        rclpy.try_shutdown(context=context)
        lease.release()
    print(f"{machine()}; backend {options.backend}, load {load:.1f}, {options.times} times each")
    print("| Fault | Median (s) | p99 (s) | Longest (s) |\n|---|---|---|---|")
    for name, times in found.items():
        figures = [np.median(times), np.percentile(times, 99), np.max(times)]
        print(f"| {name} | " + " | ".join(f"{figure:.2f}" for figure in figures) + " |")
    return int(not np.all(np.isfinite(np.concatenate(list(found.values())))))


def once(bench: Bench, fault: Fault, look: float) -> float:
    """Break, look, mend; seconds from the one to the arm's standstill."""
    bench.await_motion()
    bench.rearms = False
    began = time.monotonic()
    fault.breaks(bench)
    time.sleep(look)
    seconds = stood_after(list(bench.places), began)
    fault.mends(bench)
    bench.rearms = True
    return seconds


if __name__ == "__main__":
    sys.exit(main())
