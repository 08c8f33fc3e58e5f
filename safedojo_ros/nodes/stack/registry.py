"""The one table of nodes: launch files, `safedojo demo` and the tests start what it says."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from safedojo_ros.core.errors import ConfigError
from safedojo_ros.nodes.stack.ros_environment import share_directory


@dataclass(frozen=True)
class NodeEntry:
    """How one node is started.

    name: in the graph; executable: under lib/safedojo_ros; module: offers `main(arguments)`;
    factory: the node's class in that module; niceness: priority of the process, where the
    operating system allows it; respawn: whether it is started again when it dies; alone: whether
    it has a process of its own also where the others share one.
    """

    name: str
    executable: str
    module: str
    factory: str
    remappings: tuple[tuple[str, str], ...] = ()
    niceness: int = 0
    respawn: bool = True
    alone: bool = False


@dataclass(frozen=True)
class Stack:
    """Nodes that run together. parameters: the file in `config/` with a section for each node."""

    name: str
    parameters: str
    nodes: tuple[NodeEntry, ...]

    def node(self, name: str) -> NodeEntry:
        """One entry by name; raises `ConfigError` that lists the others."""
        for entry in self.nodes:
            if entry.name == name:
                return entry
        known = ", ".join(entry.name for entry in self.nodes)
        raise ConfigError(f"stack '{self.name}' has no node '{name}'; it has {known}")

    def without(self, name: str) -> "Stack":
        """The same, but for one node: somebody else does its work."""
        gone = self.node(name)
        return replace(self, nodes=tuple(entry for entry in self.nodes if entry is not gone))

    @property
    def parameters_file(self) -> Path:
        """Where the parameters lie."""
        return share_directory() / "config" / self.parameters


SIM = NodeEntry("sim_node", "sim_node", "safedojo_ros.nodes.sim_node", "SimNode")
CAMERA = NodeEntry("camera_node", "camera_node", "safedojo_ros.nodes.camera_node", "CameraNode")
POLICY = NodeEntry("policy_node", "policy_node", "safedojo_ros.nodes.policy_node", "PolicyNode")
SAFETY = NodeEntry("safety_node", "safety_node", "safedojo_ros.nodes.safety_node", "SafetyNode")
FRANKA = NodeEntry("franka_node", "franka_node", "safedojo_ros.nodes.franka_node", "FrankaNode")
WATCHDOG = NodeEntry(
    "watchdog_node", "watchdog_node", "safedojo_ros.nodes.watchdog_node", "WatchdogNode", alone=True
)
"""Lets go of the arm; nothing that computes may share its process."""

RECORDER = NodeEntry(
    "recorder_node", "recorder_node", "safedojo_ros.nodes.recorder_node", "RecorderNode", niceness=5
)
"""Bags of every episode; `safedojo demo --record` adds it."""

TRAINER = NodeEntry(
    "trainer_node", "trainer_node", "safedojo_ros.nodes.trainer_node", "TrainerNode", niceness=10
)
"""Trains beside the robot; its pipeline has a lower priority still."""

VIEW = NodeEntry(
    "view_node", "view_node", "safedojo_ros.nodes.view_node", "ViewNode", niceness=10, respawn=False
)
"""The live view; `safedojo demo` adds it where there is a viewer."""

CELL_NODES = (CAMERA, POLICY, SAFETY, VIEW)
"""Those that read the contract of the cell."""

MODEL_NODES = (POLICY, SAFETY, VIEW)
"""Those with networks, which compute on a `device`."""

NO_POLICY = "none"
"""In place of a policy's name: no policy node, a node of yours publishes `policy/action_chunk`."""

DESCRIPTION = NodeEntry(
    "description_node",
    "description_node",
    "safedojo_ros.nodes.description_node",
    "DescriptionNode",
    niceness=5,
)
"""What RViz, rqt and Foxglove need of the robot; the launch files add it."""

DEMO = Stack("demo", "demo.yaml", (SIM, CAMERA, POLICY, SAFETY, FRANKA, WATCHDOG))
"""The embedded world and everything around it."""

ROBOT = Stack("safedojo", "safedojo.yaml", (CAMERA, POLICY, SAFETY, FRANKA, WATCHDOG))
"""The same without the world: a robot and cameras are there already."""

TRAIN = Stack("train", "train.yaml", (RECORDER, TRAINER))
"""What turns a working robot's episodes into a better policy; runs beside either of the others."""

OVERVIEW = "sim/overview/image/compressed"
"""The embedded world for people, JPEG; drawn only where somebody looks."""

TOPICS = (
    "instruction",
    "joint_states",
    "ee_pose",
    "robot/enable",
    "policy/action_chunk",
    "policy/checkpoint",
    "safety/action_chunk",
    "safety/cost",
    "safety/chunk_cost",
    "safety/state",
    "franka/state",
    "watchdog/state",
    "arm/target",
    "sim/episode",
)
"""Topics that a running demonstration is expected to have, beside the cameras'."""


OF_A_CELL = (("/clock", "clock"), ("/tf", "tf"), ("/tf_static", "tf_static"))
"""Topics outside of any namespace that a cell in one has for itself."""


def in_namespace(text: str) -> str:
    """`text` as a namespace, /cell/left, or "" for none; raises `ConfigError`."""
    name = text.strip("/")
    if name and not re.fullmatch(r"[A-Za-z_]\w*(/[A-Za-z_]\w*)*", name):
        raise ConfigError(f"namespace is '{text}', expected words such as cell/left")
    return f"/{name}" if name else ""


def cell_remappings(namespace: str) -> list[tuple[str, str]]:
    """What a node in a cell's namespace is to be told beside it; nothing for none."""
    return list(OF_A_CELL) if namespace else []


def namespace_arguments(namespace: str) -> list[str]:
    """What follows `--ros-args` for a whole process in a namespace; nothing for none."""
    rules = [("__ns", namespace), *OF_A_CELL] if namespace else []
    return [word for source, target in rules for word in ("-r", f"{source}:={target}")]


def ros_arguments(
    entry: NodeEntry,
    parameter_files: Sequence[Path],
    parameters: dict[str, object] | None = None,
    namespace: str = "",
) -> list[str]:
    """What follows the executable: `--ros-args` with files, single parameters and remappings.

    namespace: see `in_namespace`.
    """
    arguments = ["--ros-args", *namespace_arguments(namespace)]
    for file in parameter_files:
        arguments += ["--params-file", str(file)]
    for name, value in (parameters or {}).items():
        arguments += ["-p", f"{name}:={as_yaml(value)}"]
    for source, target in entry.remappings:
        arguments += ["-r", f"{source}:={target}"]
    return arguments


def as_yaml(value: object) -> str:
    """A parameter's value as rcl reads it; words are quoted, so that '0' stays a word."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return repr(value)
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(as_yaml(item) for item in value) + "]"
    quoted = str(value).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{quoted}"'
