"""The recorder node over real DDS: what is published is in the bag, byte for byte."""

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

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


class Listening:
    """A recorder that spins beside a robot, until the end of the with block."""

    def __init__(
        self, context: Context, root: Path, namespace: str = "", **settings: object
    ) -> None:
        given = {"root": str(root), "free_gb": 0.0, "linger": 0.0, **settings}
        self.robot = Node("robot", context=context, namespace=namespace, use_global_arguments=False)
        self.recorder = RecorderNode(
            context=context,
            namespace=namespace or None,
            parameter_overrides=[Parameter(n, value=v) for n, v in given.items()],
        )
        assert self.recorder.start(), self.recorder.failure
        self._executor = SingleThreadedExecutor(context=context)
        for node in (self.robot, self.recorder):
            self._executor.add_node(node)
        self._thread = threading.Thread(target=self._executor.spin, daemon=True)
        self._thread.start()

    def __enter__(self) -> "Listening":
        return self

    def __exit__(self, *_: object) -> None:
        self._executor.shutdown(timeout_sec=5.0)
        self._thread.join(5.0)
        self.recorder.shut_down()
        for node in (self.recorder, self.robot):
            node.destroy_node()

    @property
    def bag(self) -> str:
        assert self.recorder._thread is not None
        return self.recorder._thread.name

    @property
    def messages(self) -> int:
        assert self.recorder._thread is not None
        return self.recorder._thread.counts.messages

    def heard(self, topic: str) -> Any:
        return self.recorder._heard.get(topic)


def texts(bag: Path) -> list[tuple[str, str]]:
    reader = BagReader(bag)
    return [(m.topic, reader.decode(m).data) for m in reader.messages()]


NOISE = ".*(rosout|parameter_events|transition_event|diagnostics).*"


def test_in_a_namespace_the_own_switch_begins_and_ends_an_episode(
    context: Context, tmp_path: Path
) -> None:
    settings = {"topics": ["robot/.*", "words"], "exclude": ["robot/secret"]}
    with Listening(context, tmp_path, "/left", **settings) as listening:
        others = listening.robot.create_publisher(Bool, "/right/robot/enable", IN_ORDER)
        secret = listening.robot.create_publisher(String, "robot/secret", IN_ORDER)
        words = listening.robot.create_publisher(String, "words", IN_ORDER)
        enable = listening.robot.create_publisher(Bool, "robot/enable", IN_ORDER)
        until(lambda: words.get_subscription_count() and enable.get_subscription_count())
        others.publish(Bool(data=True))
        enable.publish(Bool(data=True))
        until(lambda: listening.bag)
        words.publish(String(data="left's"))
        secret.publish(String(data="nobody's"))
        until(lambda: listening.messages >= 2)
        enable.publish(Bool(data=False))
        until(lambda: not listening.bag)
    (bag,) = own_bags(tmp_path)
    assert texts(bag)[1:] == [("left/words", "left's")]
    assert {topic for topic, _ in texts(bag)} == {"left/words", "left/robot/enable"}


def test_publishers_that_come_later_and_offer_less_are_heard_too(
    context: Context, tmp_path: Path
) -> None:
    with Listening(context, tmp_path, exclude=[NOISE], enable_topic="") as listening:
        latched = listening.robot.create_publisher(String, "words", LATCHED)
        latched.publish(String(data="said before"))
        until(lambda: listening.heard("/words"))
        later = listening.robot.create_publisher(String, "words", IMAGES)
        until(later.get_subscription_count)
        until(latched.get_subscription_count)
        until(lambda: listening.messages >= 1)
        while listening.messages < 2:  # best effort: it may be lost
            later.publish(String(data="best effort"))
            time.sleep(0.02)
    (bag,) = own_bags(tmp_path)
    assert [text for _, text in texts(bag)][:2] == ["said before", "best effort"]


def test_what_latched_publishers_have_said_is_heard_beside_others_that_latch_nothing(
    context: Context, tmp_path: Path
) -> None:
    robot = Node("early", context=context, use_global_arguments=False)
    latched = robot.create_publisher(String, "words", LATCHED)
    latched.publish(String(data="said before"))
    plain = robot.create_publisher(String, "words", IN_ORDER)
    with Listening(context, tmp_path, exclude=[NOISE], enable_topic="") as listening:
        until(lambda: listening.messages >= 1)
        until(plain.get_subscription_count)
        latched.publish(String(data="said once"))
        until(lambda: listening.messages >= 2)
        plain.publish(String(data="said now"))
        until(lambda: listening.messages >= 3)
    robot.destroy_node()
    (bag,) = own_bags(tmp_path)
    assert [text for _, text in texts(bag)] == ["said before", "said once", "said now"]


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
