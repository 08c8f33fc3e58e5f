"""From the table of nodes to launch actions; needs the launch packages of a ROS installation."""

import sys
from typing import Any

from launch.actions import DeclareLaunchArgument, ExecuteProcess, OpaqueFunction
from launch.launch_context import LaunchContext
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node

from safedojo_ros.nodes.stack.processes import composed_command
from safedojo_ros.nodes.stack.registry import DEMO, NO_POLICY, POLICY, TRAIN, Stack, as_yaml
from safedojo_ros.nodes.stack.ros_environment import prepare_environment, stay_on_this_machine

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
    if simulated:
        arguments.append(
            DeclareLaunchArgument(
                "arm", default_value="false", description="Arm whenever the arm can be armed."
            )
        )
    return [*arguments, OpaqueFunction(function=lambda context: _processes(stack, context))]


def _processes(stack: Stack, context: LaunchContext) -> list[Any]:
    files = [str(stack.parameters_file)]
    extra = LaunchConfiguration("parameters").perform(context)
    if extra:
        files.append(extra)
    actions: list[Any] = []
    composed = LaunchConfiguration("composed").perform(context).lower() == "true"
    policy = "" if stack is TRAIN else LaunchConfiguration("policy").perform(context)
    without = POLICY.name if policy == NO_POLICY else ""
    entries = stack.without(without).nodes if without else stack.nodes
    given = {"checkpoint": policy} if policy and not without else {}
    if composed:
        command = [*composed_command(stack, without), "--ros-args"]
        for file in files:
            command += ["--params-file", file]
        for name, value in given.items():
            command += ["-p", f"{POLICY.name}:{name}:={as_yaml(value)}"]
        actions.append(ExecuteProcess(cmd=command, output="screen", name="composed"))
    actions += [
        Node(
            package=PACKAGE,
            executable=entry.executable,
            name=entry.name,
            parameters=[*files, given] if given and entry is POLICY else files,
            remappings=list(entry.remappings),
            respawn=entry.respawn,
            respawn_delay=1.0,
            output="screen",
            additional_env={"OMP_NUM_THREADS": "1"},
        )
        for entry in entries
        if entry.alone or not composed
    ]
    if stack is DEMO and LaunchConfiguration("arm").perform(context).lower() == "true":
        command = [sys.executable, "-P", "-m", "safedojo_ros.nodes.stack.arming"]
        actions.append(ExecuteProcess(cmd=command, output="screen", name="arming"))
    return actions
