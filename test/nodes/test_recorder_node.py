"""The recorder node over real DDS: what is published is in the bag, byte for byte."""

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

pytest.importorskip("rclpy")
pytest.importorskip("safedojo_ros.msg")

import rclpy
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.parameter import Parameter
from sensor_msgs.msg import Image
from std_msgs.msg import Bool, String

from safedojo_ros.data.bags.reader import BagReader
from safedojo_ros.data.bags.retention import own_bags
from safedojo_ros.msg import ArmTarget
from safedojo_ros.nodes.lifecycle import IMAGES, IN_ORDER, LATCHED
from safedojo_ros.nodes.recorder_node import RecorderNode
from safedojo_ros.nodes.stack.dds import DomainLease
from safedojo_ros.nodes.stack.ros_environment import prepare_environment

PATIENCE = 60.0


@pytest.fixture
def context(monkeypatch: pytest.MonkeyPatch) -> Iterator[Context]:
    lease = DomainLease()
    monkeypatch.setenv("ROS_DOMAIN_ID", str(lease.number))
    prepare_environment(only_this_machine=True)
    context = Context()
    rclpy.init(context=context)
    yield context
    rclpy.try_shutdown(context=context)
    lease.release()


def until(what: Callable[[], object], why: Callable[[], object] = lambda: "") -> None:
    end = time.monotonic() + PATIENCE
    while not what():
        assert time.monotonic() < end, why()
        time.sleep(0.01)


def test_a_stack_is_recorded_with_its_types_qualities_and_latched_words(
    context: Context, tmp_path: Path
) -> None:
    robot = Node("robot", context=context, use_global_arguments=False)
    enable = robot.create_publisher(Bool, "robot/enable", IN_ORDER)
    words = robot.create_publisher(String, "instruction", LATCHED)
    pictures = robot.create_publisher(Image, "camera/wrist/image_raw", IMAGES)
    targets = robot.create_publisher(ArmTarget, "arm/target", IN_ORDER)
    robot.create_publisher(String, "secret/diary", IN_ORDER)
    words.publish(String(data="put the cube on the plate"))
    # What nodes say by themselves is left out, so that messages can be counted below.
    exclude = ["secret/.*", ".*(rosout|parameter_events|transition_event|diagnostics).*"]
    settings = {"root": str(tmp_path), "exclude": exclude, "linger": 0.0, "free_gb": 0.0}
    recorder = RecorderNode(
        context=context, parameter_overrides=[Parameter(n, value=v) for n, v in settings.items()]
    )
    assert recorder.start(), recorder.failure
    executor = SingleThreadedExecutor(context=context)
    for node in (robot, recorder):
        executor.add_node(node)
    thread = threading.Thread(target=executor.spin, daemon=True)
    thread.start()
    try:
        for publisher in (enable, words, pictures, targets):
            until(publisher.get_subscription_count)
        enable.publish(Bool(data=True))
        until(lambda: recorder._thread is not None and recorder._thread.name)
        for number in range(20):
            targets.publish(ArmTarget(sequence=number, checkpoint="p"))
        pictures.publish(Image(height=1, width=2, step=6, encoding="rgb8", data=bytes(range(6))))
        wanted = 20 + 1 + 2
        until(
            lambda: recorder._thread is not None and recorder._thread.counts.messages >= wanted,
            lambda: recorder.diagnose(),
        )
        enable.publish(Bool(data=False))
        until(lambda: recorder._thread is not None and not recorder._thread.name)
    finally:
        executor.shutdown(timeout_sec=5.0)
        thread.join(5.0)
        recorder.shut_down()
        recorder.destroy_node()
        robot.destroy_node()
    (bag,) = own_bags(tmp_path)
    reader = BagReader(bag)
    found: dict[str, list] = {}
    for message in reader.messages():
        found.setdefault(message.topic, []).append(reader.decode(message))
    assert reader.whole
    assert [m.data for m in found["instruction"]] == ["put the cube on the plate"]
    assert [m.sequence for m in found["arm/target"]] == list(range(20))
    assert found["camera/wrist/image_raw"][0].data.tolist() == list(range(6))
    assert found["robot/enable"][0].data
    assert "secret/diary" not in found
    metadata = (bag / "metadata.yaml").read_text()
    assert "best_effort" in metadata
    assert "transient_local" in metadata


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("topics", ["("], "no regular expression"),
        ("compression", "rar", "zstd, lz4, none"),
        ("total_gb", 1.0, "room for two"),
        ("root", "/proc/bags", "/proc/bags"),
        ("free_gb", -1.0, "free_gb"),
    ],
)
def test_an_impossible_parameter_fails_the_configuration_and_is_named(
    context: Context, tmp_path: Path, name: str, value: object, reason: str
) -> None:
    settings = {"root": str(tmp_path)} | {name: value}
    node = RecorderNode(
        context=context, parameter_overrides=[Parameter(n, value=v) for n, v in settings.items()]
    )
    try:
        assert not node.start()
        assert reason in node.failure
    finally:
        node.shut_down()
        node.destroy_node()


def test_a_full_disk_is_said_on_diagnostics_and_nothing_is_written(
    context: Context, tmp_path: Path
) -> None:
    settings = {"root": str(tmp_path), "free_gb": 1e9, "enable_topic": ""}
    node = RecorderNode(
        context=context, parameter_overrides=[Parameter(n, value=v) for n, v in settings.items()]
    )
    try:
        assert node.start()
        until(lambda: "floor" in node.diagnose()[1])
        assert own_bags(tmp_path) == []
    finally:
        node.shut_down()
        node.destroy_node()
