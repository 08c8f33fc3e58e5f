"""A running stack for tests: real node processes, scripted models, a listener with its own context.

Waits are on conditions with generous limits, so that a loaded machine makes a test slow, not red.
"""

import json
import os
import struct
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.context import Context
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import QoSProfile
from sensor_msgs.msg import Image
from std_msgs.msg import Bool, String
from std_srvs.srv import SetBool, Trigger

from safedojo_ros.checkpoints.store.store import CheckpointStore
from safedojo_ros.core.contact_examples import ContactExamples
from safedojo_ros.core.types import CONTROL_PERIOD
from safedojo_ros.models.contact_examples import write_examples
from safedojo_ros.msg import (
    ActionChunk,
    ArmTarget,
    CheckpointInfo,
    FrankaState,
    SafetyCost,
    SafetyState,
)
from safedojo_ros.nodes.conversion import to_nanoseconds
from safedojo_ros.nodes.lifecycle import BEAT, IMAGES, IN_ORDER, LATCHED, NEWEST, RECORD
from safedojo_ros.nodes.stack.arming import Person
from safedojo_ros.nodes.stack.dds import DomainLease
from safedojo_ros.nodes.stack.processes import StackProcesses, node_process
from safedojo_ros.nodes.stack.registry import DEMO
from safedojo_ros.nodes.stack.ros_environment import prepare_environment
from safedojo_ros.srv import LoadCheckpoint

SCRIPTED = Path(__file__).parent / "scripted_nodes.py"
STUTTER = "SCRIPTED_STUTTER"
PATIENCE = 60.0
ALL_NODES = tuple(entry.name for entry in DEMO.nodes)

SPEC = {
    "cameras": ["agentview", "wrist"],
    "image_size": 64,
    "state_size": 8,
    "action_size": 7,
    "chunk_length": 8,
    "period": CONTROL_PERIOD,
}
STATISTICS = {"state": {"mean": [0.0] * 8}, "action": {"mean": [0.0] * 7}}


def publish_scripted(
    store: CheckpointStore,
    folder: Path,
    kind: str,
    normalisation: dict | None = None,
    requires: dict[str, str] | None = None,
    examples: bool = False,
    **config: Any,
) -> str:
    """Publish a scripted checkpoint of `kind`; returns its id.

    examples: with chunks by which a safety head is examined: the fast ones touch, the others rest.
    """
    folder.mkdir(parents=True)
    if examples:
        fast, chunks = np.arange(8) % 2 == 1, np.zeros((8, 8, 7), np.float32)
        chunks[fast, :, 1] = 0.05
        pictures = np.zeros((1, 2, 64, 64, 3), np.uint8)
        at, state = np.zeros(8, np.int32), np.zeros((8, 8), np.float32)
        cameras = ("agentview", "wrist")
        write_examples(ContactExamples(cameras, pictures, at, state, chunks, fast), folder)
    script = {"architecture": "scripted", **config}
    (folder / "config.json").write_text(json.dumps(script))
    header = json.dumps({"w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
    header += b" " * (-len(header) % 8)
    weights = struct.pack("<Q", len(header)) + header + struct.pack("<f", 1.0)
    (folder / "model.safetensors").write_bytes(weights)
    details = {"normalisation": normalisation or STATISTICS, "requires": requires}
    return store.publish(kind, folder, spec=SPEC, **details).id  # type: ignore[arg-type]


class Listener(Node):
    """Hears what the stack says about itself, and calls its services."""

    def __init__(self, context: Context, namespace: str = "") -> None:
        super().__init__(
            "listener", context=context, use_global_arguments=False, namespace=namespace
        )
        self.arm: FrankaState | None = None
        self.safety: SafetyState | None = None
        self.costs: deque[SafetyCost] = deque(maxlen=100)
        self.info: CheckpointInfo | None = None
        self.infos: list[CheckpointInfo] = []
        self.chunk: ActionChunk | None = None
        self.episodes: list[dict] = []
        self.diagnoses: dict[str, str] = {}
        self.arm_reasons: list[str] = []
        self.safety_reasons: list[str] = []
        self.moves: list[ArmTarget] = []
        """Every target that came from a chunk."""
        self.observed_at: dict[int, int] = {}
        """{sequence: observed_at in ns} of every chunk of the policy."""
        self.released_at: list[int] = []
        """When the enable switch was heard to be released, ns."""
        self.first_after_rejection: FrankaState | None = None
        self.rearms = False
        """Whether a person arms the arm again as soon as that is possible."""
        self._person = Person(self)
        heard: tuple[tuple[Any, str, Any, QoSProfile], ...] = (
            (FrankaState, "franka/state", self._on_arm, NEWEST),
            (SafetyState, "safety/state", self._on_safety, NEWEST),
            (SafetyCost, "safety/cost", self._on_cost, IN_ORDER),
            (CheckpointInfo, "policy/checkpoint", self._on_info, LATCHED),
            (ActionChunk, "policy/action_chunk", self._on_chunk, IN_ORDER),
            (ArmTarget, "arm/target", self._on_target, IN_ORDER),
            (Bool, "robot/enable", self._on_enable, BEAT),
            (String, "sim/episode", self._on_episode, RECORD),
            (DiagnosticArray, "/diagnostics", self._on_diagnostics, IN_ORDER),
        )
        for kind, topic, take, qos in heard:
            self.create_subscription(kind, topic, take, qos)

    def _on_enable(self, message: Bool, info: dict[str, Any]) -> None:
        if not message.data:
            self.released_at.append(int(info["source_timestamp"]))

    def _on_cost(self, message: SafetyCost) -> None:
        self.costs.append(message)

    def _on_arm(self, message: FrankaState) -> None:
        if self.arm is not None and message.rejected > self.arm.rejected:
            self.first_after_rejection = message
        self.arm = message
        if self.rearms:
            self._person.hear(message)
        if not self.arm_reasons or self.arm_reasons[-1] != message.reason:
            self.arm_reasons.append(message.reason)

    def _on_safety(self, message: SafetyState) -> None:
        self.safety = message
        if not self.safety_reasons or self.safety_reasons[-1] != message.reason:
            self.safety_reasons.append(message.reason)

    def _on_info(self, message: CheckpointInfo) -> None:
        self.info = message
        self.infos.append(message)

    def _on_chunk(self, message: ActionChunk) -> None:
        self.chunk = message
        self.observed_at[message.sequence] = to_nanoseconds(message.observed_at)

    def _on_target(self, message: ArmTarget) -> None:
        if message.sequence:
            self.moves.append(message)

    def _on_episode(self, message: String) -> None:
        self.episodes.append(json.loads(message.data))

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        for status in message.status:
            self.diagnoses[status.name] = status.message

    @property
    def running(self) -> bool:
        """Whether the arm follows chunks now."""
        return self.arm is not None and self.arm.state == FrankaState.RUNNING

    @property
    def holding(self) -> bool:
        """Whether the arm holds."""
        return self.arm is not None and self.arm.state == FrankaState.HOLD

    @property
    def disarmed(self) -> bool:
        """Whether a person has to arm the arm."""
        return self.arm is not None and self.arm.state == FrankaState.DISARMED


class FaultyCameras:
    """Stands in for the camera node: relays the world's pictures, or does what `fault` says.

    fault: "", "stops", "freezes", "changes size" or "changes encoding"; of the camera agentview.
    """

    def __init__(self, listener: Listener) -> None:
        self.fault = ""
        self.last: Image | None = None
        """The newest sound picture of agentview."""
        for name in ("agentview", "wrist"):
            publisher = listener.create_publisher(Image, f"camera/{name}/image_raw", IMAGES)
            listener.create_subscription(
                Image,
                f"sim/{name}/image",
                partial(self._relay, name, publisher),
                IMAGES,
            )

    def _relay(self, name: str, publisher: Any, message: Image) -> None:
        if name == "agentview":
            if self.fault == "stops":
                return
            if self.fault == "freezes" and self.last is not None:
                message.data = self.last.data
            elif self.fault == "changes size":
                message.height = message.width = 32
                message.step, message.data = 96, bytes(32 * 96)
            elif self.fault == "changes encoding":
                message.encoding, message.step, message.data = "mono8", 64, bytes(64 * 64)
            else:
                self.last = message
        publisher.publish(message)


class RunningStack:
    """Starts the nodes of a stack, with scripted policy and safety head, and listens."""

    def __init__(
        self,
        folder: Path,
        nodes: tuple[str, ...] = ALL_NODES,
        parameters: dict[str, dict[str, object]] | None = None,
        policy: dict[str, Any] | None = None,
        safety: dict[str, Any] | None = None,
        stutter: float = 0.0,
    ) -> None:
        """stutter: s by which every node may be late to take any message."""
        self.folder, self.store = folder, CheckpointStore(folder / "store")
        self.policy_id = publish_scripted(self.store, folder / "p0", "policy", **(policy or {}))
        publish_scripted(self.store, folder / "s0", "safety", **(safety or {}))
        self._lease = DomainLease()
        os.environ["ROS_DOMAIN_ID"] = str(self._lease.number)
        prepare_environment(only_this_machine=True)
        environment = dict(os.environ) | {"OMP_NUM_THREADS": "1", "MUJOCO_GL": "egl"}
        if stutter:
            environment[STUTTER] = str(stutter)
        given = parameters or {}
        self.processes = StackProcesses(environment)
        for name in nodes:
            own: dict[str, object] = {}
            command = []
            if name in ("policy_node", "safety_node"):
                own = {"store": str(self.store.root), "checkpoint": "latest"}
            if stutter or own:
                command = [sys.executable, str(SCRIPTED), name]
            if name == "safety_node":  # what a scripted head says of one frame is to be seen bare
                own |= {"memory": 1, "detour_ratio": 0.0}
            own |= given.get(name, {})
            self.processes.children.append(
                node_process(DEMO.node(name), [DEMO.parameters_file], own, command)
            )
        self._context = Context()
        rclpy.init(context=self._context)
        self.listener = Listener(self._context)
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self.listener)
        self._thread = threading.Thread(target=self._spin, daemon=True)
        self._thread.start()
        self.processes.start()

    def _spin(self) -> None:
        try:
            self._executor.spin()
        except ExternalShutdownException:
            return

    # ---------------------------------------------------------------- waiting and asking

    def wait_for(self, condition: Callable[[], Any], what: str, patience: float = PATIENCE) -> None:
        """Until `condition` holds; fails with `what` and the stack's own words."""
        end = time.monotonic() + patience
        while time.monotonic() < end:
            if condition():
                return
            time.sleep(0.01)
        seen = self.listener
        raise AssertionError(
            f"not within {patience:.0f} s: {what}; arm {seen.arm and seen.arm.state} "
            f"{seen.arm_reasons[-3:]}, gate {seen.safety_reasons[-3:]}, {seen.diagnoses}"
        )

    def call(self, kind: Any, name: str, request: Any) -> Any:
        """Call a service and return its response."""
        client = self.listener.create_client(kind, name)
        try:
            self.wait_for(client.service_is_ready, f"service {name}")
            future = client.call_async(request)
            self.wait_for(future.done, f"answer of {name}")
            return future.result()
        finally:
            self.listener.destroy_client(client)

    def trigger(self, name: str) -> Trigger.Response:
        """Call a Trigger service."""
        return self.call(Trigger, name, Trigger.Request())

    def load(self, name: str) -> LoadCheckpoint.Response:
        """Ask the policy node for another checkpoint."""
        return self.call(
            LoadCheckpoint, "policy/load_checkpoint", LoadCheckpoint.Request(name=name)
        )

    def set_gate(self, on: bool) -> None:
        """Switch the gate between enforcing and reporting."""
        self.call(SetBool, "safety/set_mode", SetBool.Request(data=on))

    def arm_and_move(self) -> None:
        """Arm as soon as the arm lets itself be armed, and wait until it moves."""
        self.wait_for(lambda: self.listener.arm is not None, "the arm's node")
        self.wait_for(lambda: self.trigger("franka/arm").success, "arming")
        self.wait_for(lambda: self.listener.running, "motion")

    # ---------------------------------------------------------------- processes

    def kill(self, name: str) -> None:
        """SIGKILL one node."""
        process = self.processes.child(name).process
        assert process is not None
        process.kill()
        process.wait()

    def restart(self, name: str) -> None:
        """Start a killed node again."""
        self.processes.start_one(self.processes.child(name))

    def close(self) -> list[str]:
        """End everything; returns the names of nodes that had to be killed."""
        self._executor.shutdown(timeout_sec=2.0)
        self._thread.join(timeout=3.0)
        self.listener.destroy_node()
        rclpy.try_shutdown(context=self._context)
        stubborn = self.processes.stop()
        self._lease.release()
        return stubborn


def simulated_stack(
    folder: Path, delay: float = 0.0, stutter: float = 0.0, **sim: object
) -> RunningStack:
    """In the world's own time, its policy computing for `delay` s; a person arms when it can be."""
    parameters: dict[str, dict[str, object]] = {n: {"use_sim_time": True} for n in ALL_NODES}
    parameters["sim_node"] |= {"level": 0, "task": "cube_on_plate", **sim}
    policy = {"delay": delay, "sensitive": True}
    stack = RunningStack(folder, parameters=parameters, policy=policy, stutter=stutter)
    stack.listener.rearms = True
    return stack
