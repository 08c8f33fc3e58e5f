"""The arm's node in front of a robot: what ends its motion reaches the client at once."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

pytest.importorskip("rclpy")
pytest.importorskip("safedojo_ros.msg")

from rclpy.context import Context
from rclpy.parameter import Parameter
from std_srvs.srv import Trigger

from safedojo_ros.core.types import Decision
from safedojo_ros.nodes import franka_node
from safedojo_ros.nodes.franka_node import FrankaNode
from safedojo_ros.robot.playback.arm_state import ArmMode
from safedojo_ros.robot.playback.control_loop import SAFETY, WATCHDOG, ControlLoop


class Client:
    """Stands in for the robot's client: notes what it is asked for, and reads nothing."""

    def __init__(self, *config: Any) -> None:
        self.remarks: list[str] = []
        self.fault = self.notice = ""
        self.asked: list[str] = []

    def go(self, target: Any) -> None:
        self.asked.append("go")

    def rest(self) -> None:
        self.asked.append("rest")

    def read(self) -> None:
        """Nothing new."""

    def close(self) -> None:
        """Nothing to close."""


@pytest.fixture
def node(context: Context, monkeypatch: pytest.MonkeyPatch) -> Iterator[FrankaNode]:
    """An arm that executes; nobody spins it, so that no tick comes but a test's."""
    monkeypatch.setattr(franka_node, "FrankaArm", Client)
    given = {"backend": "fci", "fci_address": "127.0.0.9", "robot_base": [0.0, 0.0, 0.0]}
    node = FrankaNode(
        context=context,
        parameter_overrides=[
            Parameter(name, value=value)
            for name, value in ({"realtime_priority": 0} | given).items()
        ],
    )
    try:
        assert node.start(), node.failure
        control, now = loop(node), node.now()
        control.enable(True, now)
        control.measured(np.array([0, 0, 0.2, np.pi, 0, 0, 0.04, 0.04]), now)
        for name in (SAFETY, WATCHDOG):
            control.watchdog.feed(name, now)
        assert control.arm_now(now).accepted
        assert control.arm.moving(now)
        yield node
    finally:
        node.shut_down()
        node.destroy_node()


def loop(node: FrankaNode) -> ControlLoop:
    assert node._loop is not None
    return node._loop


ENDINGS: dict[str, Callable[[FrankaNode], object]] = {
    "franka/stop": lambda node: node._on_stop(Trigger.Request(), Trigger.Response()),
    "the switch is released": lambda node: loop(node).enable(False, node.now()),
    "the gate holds": lambda node: loop(node).safety(Decision.HOLD, "contact", node.now()),
    "the node is deactivated": lambda node: node.trigger_deactivate(),
}


@pytest.mark.fault("arm", "`franka/stop` is called", "the client is told at once; DISARMED")
@pytest.mark.parametrize("ending", ENDINGS)
def test_a_stop_reaches_the_client_before_the_next_tick(node: FrankaNode, ending: str) -> None:
    client: Any = node._franka
    node._tick()
    client.asked.clear()
    assert loop(node).arm.moving(node.now())
    ENDINGS[ending](node)
    assert "rest" in client.asked
    assert "go" not in client.asked
    assert loop(node).arm.mode != ArmMode.RUNNING
