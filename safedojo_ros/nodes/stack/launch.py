"""From the table of nodes to launch actions; needs the launch packages of a ROS installation."""

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from launch.actions import (
    DeclareLaunchArgument,
    ExecuteProcess,
    OpaqueFunction,
    RegisterEventHandler,
)
from launch.event_handlers import OnShutdown
from launch.launch_context import LaunchContext
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node

from safedojo_ros.nodes.stack.processes import composed_command
from safedojo_ros.nodes.stack.registry import (
    CELL_NODES,
    DEMO,
    DESCRIPTION,
    MODEL_NODES,
    NO_POLICY,
    POLICY,
    SIM,
    TRAIN,
    Stack,
    cell_remappings,
    in_namespace,
    namespace_arguments,
)
from safedojo_ros.nodes.stack.ros_environment import (
    prepare_environment,
    share_directory,
    stay_on_this_machine,
)
from safedojo_ros.nodes.stack.turn_order import members

PACKAGE = "safedojo_ros"


def stack_actions(stack: Stack) -> list[Any]:
    """The launch arguments of a stack, and what starts its nodes.

    The demonstration stays on this machine, so that it meets no robot; and there alone somebody
    can be asked to play the person who arms.
    """
    simulated = stack is DEMO
    if simulated:
        stay_on_this_machine()
    else:
        prepare_environment()
    arguments = [
        DeclareLaunchArgument(
            "parameters", default_value="", description="A parameters file on top of the default."
        ),
        DeclareLaunchArgument(
            "composed",
            default_value="false",
            description="All nodes but the watchdog in one process.",
        ),
        DeclareLaunchArgument(
            "namespace",
            default_value="",
            description="Of all nodes, topics, services and tf, so that several cells can share a "
            "domain: cell/left.",
        ),
    ]
    if stack is not TRAIN:
        arguments.append(
            DeclareLaunchArgument(
                "policy",
                default_value="",
                description="The policy node's checkpoint, such as openpi:ws://HOST:PORT, in "
                "place of the parameters file's; none: a node of yours publishes "
                "policy/action_chunk.",
            )
        )
        arguments.append(
            DeclareLaunchArgument(
                "contract",
                default_value="",
                description="The contract of the cell in place of the parameters file's: a "
                "ready-made one or a file.yaml.",
            )
        )
        arguments.append(
            DeclareLaunchArgument(
                "device",
                default_value="",
                description="Where policy and safety head compute, in place of the parameters "
                "file's: auto, cpu, cuda:N.",
            )
        )
        arguments += [
            DeclareLaunchArgument(name, default_value="false", description=text)
            for name, text in (
                ("rviz", "Start RViz with config/safedojo.rviz."),
                ("rqt", "Start rqt with config/safedojo.perspective."),
            )
        ]
    if simulated:
        arguments += [
            DeclareLaunchArgument(
                "arm", default_value="false", description="Arm whenever the arm can be armed."
            ),
            DeclareLaunchArgument(
                "use_sim_time",
                default_value="true",
                description="The world waits for its nodes, and its time is on /clock.",
            ),
        ]
    return [*arguments, OpaqueFunction(function=lambda context: _processes(stack, context))]


def _processes(stack: Stack, context: LaunchContext) -> list[Any]:
    files = [str(stack.parameters_file)]
    extra = LaunchConfiguration("parameters").perform(context)
    if extra:
        files.append(extra)
    actions: list[Any] = []
    namespace = in_namespace(LaunchConfiguration("namespace").perform(context))
    composed = is_true(context, "composed")
    policy = "" if stack is TRAIN else LaunchConfiguration("policy").perform(context)
    without = POLICY.name if policy == NO_POLICY else ""
    entries = list(stack.without(without).nodes if without else stack.nodes)
    clock: dict[str, Any] = {}
    if stack is DEMO:
        clock["use_sim_time"] = is_true(context, "use_sim_time")
    given: dict[str, dict[str, Any]] = {}
    if policy and not without:
        given[POLICY.name] = {"checkpoint": policy}
    for name, nodes in (("contract", CELL_NODES), ("device", MODEL_NODES)):
        value = "" if stack is TRAIN else LaunchConfiguration(name).perform(context)
        for entry in entries if value else ():
            if entry in nodes:
                given.setdefault(entry.name, {})[name] = value
    if without and stack is DEMO:
        given[SIM.name] = {"members": members(without)}
    if stack is not TRAIN:
        entries.append(DESCRIPTION)
    own = {f"/**/{node}": settings for node, settings in given.items()}
    if clock:
        own["/**"] = clock
    if own:
        file = _parameters_file(own)
        files.append(file)
        actions.append(RegisterEventHandler(OnShutdown(on_shutdown=lambda *_: _delete(file))))
    if composed:
        command = [*composed_command(stack, without), "--ros-args"]
        command += namespace_arguments(namespace)
        for file in files:
            command += ["--params-file", file]
        actions.append(ExecuteProcess(cmd=command, output="screen", name="composed"))
    actions += [
        Node(
            package=PACKAGE,
            executable=entry.executable,
            name=entry.name,
            parameters=files,
            namespace=namespace,
            remappings=[*entry.remappings, *cell_remappings(namespace)],
            respawn=entry.respawn,
            respawn_delay=1.0,
            output="screen",
            additional_env={"OMP_NUM_THREADS": "1"},
        )
        for entry in entries
        if entry.alone or not composed or entry is DESCRIPTION
    ]
    if stack is not TRAIN:
        actions += _windows(context, files[-1:] if clock else [], namespace)
    if stack is DEMO and is_true(context, "arm"):
        command = [sys.executable, "-P", "-m", "safedojo_ros.nodes.stack.arming"]
        command += ["--ros-args", *namespace_arguments(namespace)]
        actions.append(ExecuteProcess(cmd=command, output="screen", name="arming"))
    return actions


def is_true(context: LaunchContext, name: str) -> bool:
    """Whether a launch argument says so."""
    return bool(LaunchConfiguration(name).perform(context).lower() == "true")


def _parameters_file(sections: dict[str, dict[str, Any]]) -> str:
    """A file of parameters: on a command line, `-p node:name:=` is lost in any namespace, and the
    file that launch_ros makes of a table of its own stays for ever."""
    content = {name: {"ros__parameters": values} for name, values in sections.items()}
    with tempfile.NamedTemporaryFile("w", prefix="safedojo_", suffix=".yaml", delete=False) as file:
        json.dump(content, file)
    return file.name


def _delete(file: str) -> None:
    Path(file).unlink(missing_ok=True)


def _windows(context: LaunchContext, files: list[str], namespace: str) -> list[Any]:
    """RViz and rqt, where they are asked for; both come with a ROS installation."""
    folder, windows = share_directory() / "config", []
    how: dict[str, Any] = {"parameters": files, "namespace": namespace}
    how["remappings"] = cell_remappings(namespace)
    if is_true(context, "rviz"):
        arguments = ["-d", str(folder / "safedojo.rviz")]
        windows.append(Node(package="rviz2", executable="rviz2", arguments=arguments, **how))
    if is_true(context, "rqt"):
        arguments = ["--perspective-file", str(folder / "safedojo.perspective")]
        windows.append(Node(package="rqt_gui", executable="rqt_gui", arguments=arguments, **how))
    return windows
