"""Recorder and trainer beside a working robot: `ros2 launch safedojo_ros train.launch.py`.

Begin a training then with `ros2 action send_goal --feedback /train safedojo_ros/action/Train
"{preset: tiny, data: [datasets/monday], base: latest, publish: true}"`.
"""

from launch.launch_description import LaunchDescription

from safedojo_ros.nodes.stack.launch import stack_actions
from safedojo_ros.nodes.stack.registry import TRAIN


def generate_launch_description() -> LaunchDescription:
    """Launch arguments and the two nodes."""
    return LaunchDescription(stack_actions(TRAIN))
