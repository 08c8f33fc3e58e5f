"""Asks `franka/arm` until the arm is armed, once: `python -m safedojo_ros.nodes.stack.arming`."""

import sys

import rclpy
from rclpy.node import Node
from rclpy.signals import SignalHandlerOptions
from std_srvs.srv import Trigger

from safedojo_ros.nodes.stack.ros_environment import prepare_environment

ASK_AGAIN = 1.0
"""Seconds between two requests."""


def arm(node: Node) -> None:
    """Return when the arm has been armed."""
    client = node.create_client(Trigger, "franka/arm")
    while True:
        if client.wait_for_service(timeout_sec=ASK_AGAIN):
            future = client.call_async(Trigger.Request())
            rclpy.spin_until_future_complete(node, future, timeout_sec=ASK_AGAIN)
            answer = future.result()
            if answer is not None and answer.success:
                node.get_logger().info(answer.message)
                return
        rclpy.spin_once(node, timeout_sec=ASK_AGAIN)


def main() -> int:
    """Arm and end."""
    prepare_environment()
    rclpy.init(signal_handler_options=SignalHandlerOptions.NO)  # SIGINT stays Python's own
    node = rclpy.create_node("arming")
    try:
        arm(node)
    except KeyboardInterrupt:
        return 1
    finally:
        node.destroy_node()
        rclpy.try_shutdown()
    return 0


if __name__ == "__main__":
    sys.exit(main())
