"""Plays the person beside a simulated robot: `python -m safedojo_ros.nodes.stack.arming`.

Arms the arm whenever it is disarmed while the enable switch is pressed. Never for a real robot:
there a person looks first.
"""

import sys
import time

import rclpy
from rclpy.executors import ExternalShutdownException
from rclpy.node import Node
from rclpy.signals import SignalHandlerOptions
from rclpy.task import Future
from std_srvs.srv import Trigger

from safedojo_ros.msg import FrankaState
from safedojo_ros.nodes.lifecycle import NEWEST
from safedojo_ros.nodes.stack.ros_environment import prepare_environment

ASK_AGAIN = 1.0
"""Seconds after which a request that nobody has answered is repeated."""


class Person:
    """Asks `franka/arm` at the state message that says that the arm can be armed."""

    def __init__(self, node: Node) -> None:
        self._client = node.create_client(Trigger, "franka/arm")
        self._asked: Future | None = None
        self._asked_at = 0.0

    def hear(self, state: FrankaState) -> None:
        """One message of `franka/state`."""
        if state.state != FrankaState.DISARMED or not state.enabled:
            return
        now = time.monotonic()
        waiting = self._asked is not None and not self._asked.done()
        if waiting and now - self._asked_at < ASK_AGAIN:
            return
        if self._client.service_is_ready():
            self._asked, self._asked_at = self._client.call_async(Trigger.Request()), now


def main() -> int:
    """Play the person until SIGINT."""
    prepare_environment()
    rclpy.init(signal_handler_options=SignalHandlerOptions.NO)  # SIGINT stays Python's own
    node = rclpy.create_node("arming")
    person = Person(node)
    node.create_subscription(FrankaState, "franka/state", person.hear, NEWEST)
    try:
        rclpy.spin(node)
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    finally:
        node.destroy_node()
        rclpy.try_shutdown()
    return 0


if __name__ == "__main__":
    sys.exit(main())
