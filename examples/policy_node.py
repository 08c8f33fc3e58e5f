"""A policy node of your own, for `policy:=none` and `safedojo demo --policy none`.

It brings the gripper before the camera and swings it. Replace `chunk` by your policy's.
"""

from contextlib import suppress

import rclpy
from geometry_msgs.msg import PoseStamped
from rclpy.executors import ExternalShutdownException
from rclpy.node import Node
from rclpy.qos import qos_profile_sensor_data
from sensor_msgs.msg import Image

from safedojo_ros.msg import ActionChunk

LENGTH = 8  # actions, as many as the safety head judges
PERIOD = 0.05  # s between two of them, as everywhere in the stack


class MyPolicy(Node):
    def __init__(self) -> None:
        super().__init__("my_policy")
        self.pose, self.side, self.sequence, self.answered = None, 1.0, 0, 0.0
        self.chunks = self.create_publisher(ActionChunk, "policy/action_chunk", 10)
        self.create_subscription(PoseStamped, "ee_pose", self.on_pose, 1)
        topic = "camera/agentview/image_raw"
        self.create_subscription(Image, topic, self.on_image, qos_profile_sensor_data)

    def on_pose(self, message: PoseStamped) -> None:
        self.pose = message.pose.position

    def chunk(self, x: float, y: float) -> list[float]:
        """8 actions: a step in metres, a turn in radians, gripper -1 open to +1 close."""
        self.side = (-1.0 if y > 0 else 1.0) if abs(y) > 0.1 else self.side
        return [0.01 if x < 0.02 else 0.0, 0.01 * self.side, 0.0, 0.0, 0.0, 0.0, -1.0] * LENGTH

    def on_image(self, image: Image) -> None:
        seen = image.header.stamp.sec + 1e-9 * image.header.stamp.nanosec
        if self.pose is None or seen - self.answered < 3.5 * PERIOD:
            return  # the arm still has half of the last chunk
        self.answered, self.sequence = seen, self.sequence + 1
        answer = ActionChunk(sequence=self.sequence, checkpoint="my policy", period=PERIOD)
        answer.header.stamp, answer.header.frame_id = self.get_clock().now().to_msg(), "base"
        answer.observed_at = image.header.stamp  # the gate looks up what was seen then
        answer.proposals, answer.length = 1, LENGTH
        answer.actions = self.chunk(self.pose.x, self.pose.y)
        self.chunks.publish(answer)


if __name__ == "__main__":
    rclpy.init()
    with suppress(KeyboardInterrupt, ExternalShutdownException):
        rclpy.spin(MyPolicy())
