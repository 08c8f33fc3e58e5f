"""The SROS 2 policy allows what the nodes say, hear and answer, and nothing else."""

import os
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("rclpy")
pytest.importorskip("safedojo_ros.msg")

from running_stack import Listener, RunningStack

from safedojo_ros.nodes.stack.registry import DEMO, DESCRIPTION, ROBOT, TRAIN, VIEW
from safedojo_ros.nodes.stack.ros_environment import share_directory

POLICY = Path(__file__).parents[2] / "config" / "sros2" / "safedojo.policy.xml"
Rights = dict[tuple[str, str], set[str]]
"""{("topic", "publish"): names}."""

ELSEWHERE = {
    "safety_node": {"policy/checkpoint"},  # with the setting `follow: policy`
    "franka_node": {"tf"},  # where a ROS installation provides tf2_ros
}
"""What a node of the demonstration is allowed and does not use there."""


def allowed() -> dict[str, Rights]:
    """{node: what its enclave may do}."""
    rights: dict[str, Rights] = {}
    for enclave in ElementTree.parse(POLICY).getroot().iter("enclave"):
        profiles = list(enclave.iter("profile"))
        assert [enclave.get("path")] == [f"/safedojo/{p.get('node')}" for p in profiles]
        node = rights.setdefault(str(profiles[0].get("node")), {})
        for kind in ("topic", "service", "action"):
            for group in profiles[0].iter(f"{kind}s"):
                for how, answer in group.attrib.items():
                    assert answer == "ALLOW"
                    node[kind, how] = {str(item.text) for item in group}
    return rights


def used(listener: Listener, node: str) -> Rights:
    """What the graph knows of `node`, without the leading slash."""
    asked = {
        ("topic", "publish"): listener.get_publisher_names_and_types_by_node,
        ("topic", "subscribe"): listener.get_subscriber_names_and_types_by_node,
        ("service", "reply"): listener.get_service_names_and_types_by_node,
    }
    return {right: {name.lstrip("/") for name, _ in ask(node, "/")} for right, ask in asked.items()}


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningStack]:
    running = RunningStack(tmp_path_factory.mktemp("policy"))
    try:
        running.arm_and_move()
        yield running
    finally:
        running.close()


@pytest.mark.parametrize("node", [entry.name for entry in DEMO.nodes])
def test_a_node_is_allowed_what_it_uses_and_nothing_else(stack: RunningStack, node: str) -> None:
    may = allowed()[node]

    def unused() -> set[str]:
        if node not in stack.listener.get_node_names():
            return set().union(*may.values())
        does = used(stack.listener, node)
        return set().union(*may.values()) - set().union(*does.values()) - {"parameter_events"}

    expected = ELSEWHERE.get(node, set())  # the graph is learned bit by bit
    stack.wait_for(lambda: unused() == expected, f"{node} uses all that it may", 20.0)
    for right, names in used(stack.listener, node).items():
        assert names <= may.get(right, set()), f"{node} {right} is not allowed in {POLICY.name}"


def test_every_node_has_an_enclave_and_so_has_the_person() -> None:
    nodes = {entry.name for stack in (DEMO, ROBOT, TRAIN) for entry in stack.nodes}
    assert set(allowed()) == nodes | {VIEW.name, DESCRIPTION.name, "operator"}


def test_one_node_speaks_on_each_topic_that_the_arm_obeys() -> None:
    speakers = {
        topic: {n for n, may in allowed().items() if topic in may.get(("topic", "publish"), set())}
        for topic in ("safety/action_chunk", "safety/state", "watchdog/state", "robot/enable")
    }
    assert speakers == {
        "safety/action_chunk": {"safety_node"},
        "safety/state": {"safety_node"},
        "watchdog/state": {"watchdog_node"},
        "robot/enable": {"operator", "sim_node"},
    }


def test_the_person_alone_may_arm_recover_or_change_a_checkpoint() -> None:
    for node, may in allowed().items():
        assert bool(may.get(("service", "request"))) == (node == "operator"), node


def test_the_policy_is_installed_with_the_package() -> None:
    assert (share_directory() / "config" / "sros2" / POLICY.name).exists()


def test_without_security_libraries_a_node_that_must_be_secure_does_not_start(
    tmp_path: Path,
) -> None:
    """So with the wheels of PyPI; where DDS is built with security, other tests are needed."""
    enclave = tmp_path / "enclaves" / "safedojo" / "safety_node"
    enclave.mkdir(parents=True)
    code = (
        "import rclpy; rclpy.init(args=['--ros-args', '--enclave', '/safedojo/safety_node']); "
        "rclpy.create_node('safety_node'); print('it started')"
    )
    environment = dict(os.environ) | {
        "ROS_SECURITY_ENABLE": "true",
        "ROS_SECURITY_STRATEGY": "Enforce",
        "ROS_SECURITY_KEYSTORE": str(tmp_path),
    }
    answer = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
    )
    assert answer.returncode != 0
    assert "it started" not in answer.stdout
