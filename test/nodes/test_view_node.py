"""What the view shows is at the time of the world, which may begin after the first messages."""

from collections.abc import Iterator
from typing import Any

import pytest

pytest.importorskip("rclpy")
pytest.importorskip("safedojo_ros.msg")

import rclpy
from rclpy.context import Context
from std_msgs.msg import String

from safedojo_ros.msg import ActionChunk, CheckpointInfo
from safedojo_ros.nodes.conversion import to_stamp
from safedojo_ros.nodes.view_node import ViewNode

START = 1_796_000_000_000_000_000


class Written:
    """A screen that writes down what it is told, with the time of it."""

    address = "nowhere"

    def __init__(self) -> None:
        self.stamp = 0
        self.shown: list[tuple[int, str, Any]] = []

    def at(self, stamp: int) -> None:
        self.stamp = stamp

    def checkpoint(self, kind: str, name: str, why: str) -> None:
        self.shown.append((self.stamp, kind, name))

    def say(self, text: str) -> None:
        self.shown.append((self.stamp, "say", text))

    def latency(self, what: str, seconds: float) -> None:
        self.shown.append((self.stamp, what, seconds))


@pytest.fixture
def node() -> Iterator[ViewNode]:
    context = Context()
    rclpy.init(context=context)
    made = ViewNode(context=context, use_global_arguments=False)
    made._screen = Written()  # type: ignore[assignment]
    yield made
    made._screen = None
    made.destroy_node()
    rclpy.try_shutdown(context=context)


def test_words_from_before_the_world_s_clock_are_shown_when_it_begins(node: ViewNode) -> None:
    node._on_checkpoint(CheckpointInfo(kind="policy", id="a", reason="loaded", active=True))
    node._on_instruction(String(data="wait"))
    screen: Any = node._screen
    assert screen.shown == []
    chunk = ActionChunk(compute_time=0.25)
    chunk.header.stamp = to_stamp(START)
    node._on_chunk(chunk)
    assert screen.shown == [
        (START, "policy", "a"), (START, "say", "instruction: wait"), (START, "policy", 0.25),
    ]  # fmt: skip


def test_a_swap_is_shown_at_its_own_time(node: ViewNode) -> None:
    swap = CheckpointInfo(kind="safety", id="b", reason="taken over", active=True)
    swap.header.stamp = to_stamp(START + 5)
    node._on_checkpoint(swap)
    refused = CheckpointInfo(kind="safety", id="c", reason="bad", active=False)
    node._on_checkpoint(refused)
    screen: Any = node._screen
    assert screen.shown == [(START + 5, "safety", "b"), (START + 5, "say", "safety c: bad")]
