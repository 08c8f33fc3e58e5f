"""What the benchmarks of the running robot share: the demonstration's nodes, and the machine."""

import argparse
import os
import platform
import subprocess
import time
from collections.abc import Mapping

from safedojo_ros.checkpoints.names import DEFAULT_POLICY, SHIPPED
from safedojo_ros.nodes.stack.dds import DomainLease
from safedojo_ros.nodes.stack.processes import StackProcesses, node_process
from safedojo_ros.nodes.stack.registry import DEMO, NodeEntry
from safedojo_ros.nodes.stack.ros_environment import prepare_environment


def take_domain() -> DomainLease:
    """A ROS domain of its own for this process and its children, until it is released."""
    lease = DomainLease()
    os.environ["ROS_DOMAIN_ID"] = str(lease.number)
    prepare_environment(only_this_machine=True)
    return lease


def stack_options(description: str | None) -> argparse.ArgumentParser:
    """A parser with the options that `demo_stack` reads."""
    parser = argparse.ArgumentParser(description=(description or "").partition("\n")[0])
    parser.add_argument("--policy", default=DEFAULT_POLICY)
    parser.add_argument("--safety", default=SHIPPED)
    parser.add_argument("--verbose", action="store_true", help="show the nodes' own logs")
    return parser


def demo_stack(
    options: argparse.Namespace,
    further: tuple[NodeEntry, ...] = (),
    parameters: Mapping[str, dict[str, object]] | None = None,
) -> StackProcesses:
    """The demonstration's nodes and `further` ones in long episodes, the gate only reporting."""
    environment = dict(os.environ) | {"OMP_NUM_THREADS": "1"}
    environment.setdefault("MUJOCO_GL", "egl")
    given: dict[str, dict[str, object]] = {
        "sim_node": {"max_steps": 10_000, "level": 0},
        "policy_node": {"checkpoint": options.policy},
        "safety_node": {"checkpoint": options.safety, "mode": "monitor"},
        **(parameters or {}),
    }
    stack = StackProcesses(environment, quiet=not options.verbose)
    for entry in (*DEMO.nodes, *further):
        own = given.get(entry.name, {})
        stack.children.append(node_process(entry, [DEMO.parameters_file], own))
    return stack


def machine() -> str:
    """Processors and date, for the first line of a table."""
    processor = subprocess.run(
        ["lscpu"], capture_output=True, text=True, env={"LC_ALL": "C", "PATH": os.environ["PATH"]}
    ).stdout
    model = next((x.split(":")[1].strip() for x in processor.splitlines() if "Model name" in x), "")
    return f"{os.cpu_count()} cores, {model or platform.processor()}, {time.strftime('%Y-%m-%d')}"
