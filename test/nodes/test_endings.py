"""A node that is interrupted, at whatever moment, ends with exit code 0."""

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("rclpy")
pytest.importorskip("safedojo_ros.msg")

import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from geometry_msgs.msg import PoseStamped
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from running_stack import publish_scripted
from sensor_msgs.msg import JointState
from std_msgs.msg import Bool
from std_srvs.srv import Trigger

from safedojo_ros.checkpoints.store.store import CheckpointStore
from safedojo_ros.core.types import CONTROL_PERIOD
from safedojo_ros.core.types import ActionChunk as Chunk
from safedojo_ros.msg import ActionChunk, FrankaState, SafetyCost, SafetyState
from safedojo_ros.nodes.conversion import (
    BASE_FRAME,
    joint_state,
    message_from_chunks,
    pose_message,
)
from safedojo_ros.nodes.lifecycle import BEAT, IN_ORDER, NEWEST
from safedojo_ros.nodes.stack.dds import DomainLease
from safedojo_ros.nodes.stack.ros_environment import prepare_environment

PATIENCE, RUNS = 60.0, 6
NODES = "safedojo_ros.nodes"


class WorldAndGate(Node):
    """Says to the arm's node what the world and the gate would, and arms it; hears all nodes."""

    def __init__(self, context: Context) -> None:
        super().__init__("world_and_gate", context=context, use_global_arguments=False)
        self.moves = 0
        self.reports: dict[str, int] = {}
        """{node: its messages on /diagnostics}."""
        self._joints = self.create_publisher(JointState, "sim/joint_states", NEWEST)
        self._pose = self.create_publisher(PoseStamped, "sim/ee_pose", NEWEST)
        self._safety = self.create_publisher(SafetyState, "safety/state", NEWEST)
        self._chunks = self.create_publisher(ActionChunk, "safety/action_chunk", IN_ORDER)
        self._enable = self.create_publisher(Bool, "robot/enable", BEAT)
        self._arm = self.create_client(Trigger, "franka/arm")
        self.create_subscription(FrankaState, "franka/state", self._on_state, NEWEST)
        self.create_subscription(DiagnosticArray, "/diagnostics", self._on_report, IN_ORDER)
        self._sequence = 0
        self.create_timer(CONTROL_PERIOD / 2, self._tick)

    def _tick(self) -> None:
        now = int(self.get_clock().now().nanoseconds)
        self._enable.publish(Bool(data=True))
        fingers = np.array([0.04, 0.04])
        self._joints.publish(joint_state(np.zeros(7), np.zeros(7), fingers, now))
        self._pose.publish(pose_message(np.array([0.1, 0.0, 0.2]), np.array([3.1, 0, 0]), now))
        self._sequence += 1
        self._safety.publish(
            SafetyState(decision=SafetyCost.ALLOW, mode="gate", last_sequence=self._sequence)
        )
        chunk = Chunk(np.zeros((8, 7)), CONTROL_PERIOD, now, self._sequence, "p", BASE_FRAME)
        self._chunks.publish(message_from_chunks([chunk], now, 0.0))
        if self._arm.service_is_ready():
            self._arm.call_async(Trigger.Request())

    def _on_state(self, message: FrankaState) -> None:
        self.moves += message.state == FrankaState.RUNNING

    def _on_report(self, message: DiagnosticArray) -> None:
        for status in message.status:
            self.reports[status.name] = self.reports.get(status.name, 0) + 1


class Forks:
    """Starts nodes and interrupts them."""

    def __init__(self, world: WorldAndGate, environment: dict[str, str]) -> None:
        self.world, self._moments = world, random.Random(0)
        self._server = subprocess.Popen(
            [sys.executable, str(Path(__file__).parent / "forked_nodes.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )

    def ending(self, module: str, arguments: list[str], at_work: Callable[[], object]) -> int:
        """The exit code of a run that gets SIGINT twice, soon after it is at work."""
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        self._server.stdin.write(json.dumps([module, arguments]) + "\n")
        self._server.stdin.flush()
        process = int(self._server.stdout.readline())
        try:
            end = time.monotonic() + PATIENCE
            while not at_work():
                assert time.monotonic() < end, f"{module} {arguments} does not begin to work"
                time.sleep(0.001)
            time.sleep(self._moments.uniform(0.0, 2 * CONTROL_PERIOD))
            os.kill(process, signal.SIGINT)
            os.kill(process, signal.SIGINT)
        except AssertionError:
            os.kill(process, signal.SIGKILL)
            raise
        return int(self._server.stdout.readline())

    def close(self) -> None:
        assert self._server.stdin is not None
        self._server.stdin.close()
        self._server.wait(timeout=PATIENCE)


@pytest.fixture(scope="module")
def forks() -> Iterator[Forks]:
    lease, context = DomainLease(), Context()
    environment = dict(os.environ) | {"ROS_DOMAIN_ID": str(lease.number), "MUJOCO_GL": "egl"}
    prepare_environment(environment, only_this_machine=True)
    prepare_environment(only_this_machine=True)
    rclpy.init(context=context, domain_id=lease.number)
    world, executor = WorldAndGate(context), SingleThreadedExecutor(context=context)
    executor.add_node(world)
    closing = threading.Event()

    def spin() -> None:
        while not closing.is_set():
            executor.spin_once(timeout_sec=0.1)

    thread = threading.Thread(target=spin)
    thread.start()
    running = Forks(world, environment)
    yield running
    running.close()
    closing.set()
    thread.join()
    executor.shutdown()
    world.destroy_node()
    rclpy.try_shutdown(context=context)
    lease.release()


def test_an_arm_that_is_interrupted_while_it_plays_ends_well_every_time(forks: Forks) -> None:
    def plays() -> bool:
        return forks.world.moves >= 3

    endings, arguments = [], ["--ros-args", "-p", "watchdog:=false"]
    for _ in range(RUNS):
        forks.world.moves = 0
        endings.append(forks.ending(f"{NODES}.franka_node", arguments, plays))
    assert endings == [0] * RUNS


@pytest.mark.parametrize(
    "name", ["sim_node", "camera_node", "policy_node", "safety_node", "recorder_node"]
)
def test_every_node_ends_well_when_it_is_interrupted(
    forks: Forks, tmp_path: Path, name: str
) -> None:
    module, arguments = f"{NODES}.{name}", ["--ros-args"]
    if name in ("policy_node", "safety_node"):
        store = CheckpointStore(tmp_path / "store")
        publish_scripted(store, tmp_path / "model", name.removesuffix("_node"))
        module, arguments = "scripted_nodes", [name, *arguments]
        arguments += ["-p", f"store:={store.root}", "-p", "checkpoint:=latest"]
    if name == "recorder_node":
        arguments += ["-p", f"root:={tmp_path}"]
    before = forks.world.reports.get(name, 0)
    ending = forks.ending(module, arguments, lambda: forks.world.reports.get(name, 0) > before)
    assert ending == 0
