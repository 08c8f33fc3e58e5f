"""How evenly the arm is controlled, and what the way from a picture to a gated chunk costs.

`python benchmarks/robot_loop.py` runs the demonstration's nodes in real time (20 Hz) on the
embedded world and prints, with the bars of the project:

- control tick: jitter |interval − 50 ms|, median and p99, and missed ticks;
- image to gated chunk: from the picture's stamp to the gate's decision, less what the policy and
  the safety head computed themselves; across processes;
- floor, in the same run: a bare DDS round trip, picture one way, chunk back, between two processes.
"""

import argparse
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import rclpy
from demo_stack import demo_stack, machine, stack_options, take_domain
from rclpy.executors import ExternalShutdownException
from rclpy.node import Node
from sensor_msgs.msg import Image

from safedojo_ros.msg import ActionChunk
from safedojo_ros.nodes.conversion import image_from_array
from safedojo_ros.nodes.lifecycle import IMAGES, IN_ORDER
from safedojo_ros.nodes.stack.demo_observer import ObserverThread, RunFigures, percentiles
from safedojo_ros.nodes.stack.processes import NodeProcess

JITTER_BAR = 10.0
OVERHEAD_BAR = 15.0
"""Milliseconds, p99."""

WARM_UP = 5.0
"""Seconds of motion that do not count."""

START_TIME = 120.0


def echo() -> int:
    """The other end of the floor measurement: a chunk for every picture."""
    rclpy.init()
    node = rclpy.create_node("echo")
    replies = node.create_publisher(ActionChunk, "floor/chunk", IN_ORDER)
    reply = ActionChunk(proposals=1, length=8, actions=[0.0] * 56)
    node.create_subscription(Image, "floor/image", lambda _: replies.publish(reply), IMAGES)
    try:
        rclpy.spin(node)
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    finally:
        rclpy.try_shutdown()
    return 0


class Floor:
    """Sends a picture four times a second and times the chunk that comes back."""

    def __init__(self, node: Node) -> None:
        self.round_trips: list[float] = []
        self._sent = 0.0
        self._image = image_from_array(np.zeros((64, 64, 3), np.uint8), 0, "camera")
        self._images = node.create_publisher(Image, "floor/image", IMAGES)
        node.create_subscription(ActionChunk, "floor/chunk", self._back, IN_ORDER)
        node.create_timer(0.25, self._send)

    def _send(self) -> None:
        self._sent = time.monotonic()
        self._images.publish(self._image)

    def _back(self, message: ActionChunk) -> None:
        self.round_trips.append(time.monotonic() - self._sent)


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Run the stack for `options.seconds` and return the figures."""
    lease = take_domain()
    stack = demo_stack(options)
    stack.children.append(NodeProcess("echo", [sys.executable, __file__, "--echo"], []))
    observer = ObserverThread()
    heard, floor = observer.node, Floor(observer.node)
    stack.start()
    try:
        began = time.monotonic()
        while heard.arm is None or heard.arm.state != heard.arm.RUNNING:
            if heard.faults or time.monotonic() - began > START_TIME:
                raise SystemExit(f"the arm does not move: {heard.faults}")
            time.sleep(0.1)
        time.sleep(WARM_UP)
        heard.figures = figures = RunFigures()
        floor.round_trips.clear()
        time.sleep(options.seconds)
        round_trips = list(floor.round_trips)
        load = os.getloadavg()[0]
    finally:
        observer.close()
        stack.stop()
        lease.release()
    return figures.as_json() | {
        "floor_round_trip_ms": percentiles(round_trips),
        "seconds": options.seconds,
        "load_average": round(load, 2),
    }


def main() -> int:
    """Print the figures; 1 when a bar is missed."""
    parser = stack_options(__doc__)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--echo", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.echo:
        return echo()
    figures = measure(options)
    jitter, overhead = figures["tick_jitter_ms"], figures["image_to_gated_chunk_overhead_ms"]
    floor = figures["floor_round_trip_ms"]
    print(machine())
    print(f"load average {figures['load_average']} (with this benchmark's own nodes)")
    print(f"{figures['control_ticks']} ticks at {figures['control_rate_hz']} Hz")
    passed = []
    for label, value, bar in (
        ("control tick jitter p99, ms", jitter["p99"], JITTER_BAR),
        ("missed ticks", figures["missed_ticks"], 0),
        ("image to gated chunk beyond compute p99, ms", overhead["p99"], OVERHEAD_BAR),
    ):
        good = value is not None and value <= bar
        passed.append(good)
        print(f"{label:46s} {value}   bar {bar}   {'met' if good else 'MISSED'}")
    print(f"{'control tick jitter median, ms':46s} {jitter['p50']}")
    print(f"{'image to gated chunk beyond compute median, ms':46s} {overhead['median']}")
    print(f"{'floor: DDS round trip, median / p99 ms':46s} {floor['median']} / {floor['p99']}")
    for label, key in (("policy compute", "policy_compute_ms"), ("gate", "gate_latency_ms")):
        print(f"{label + ', median / p99 ms':46s} {figures[key]['median']} / {figures[key]['p99']}")
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1) + "\n")
    return 0 if all(passed) else 1


if __name__ == "__main__":
    sys.exit(main())
