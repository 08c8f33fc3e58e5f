"""A robot and cameras that are there already: `ros2 launch safedojo_ros safedojo.launch.py`.

`parameters:=/path/to/your.yaml` goes on top of config/safedojo.yaml. `rviz:=true` and
`rqt:=true` show the robot, its cameras and what the gate says.
"""

from launch.launch_description import LaunchDescription

from safedojo_ros.nodes.stack.launch import stack_actions
from safedojo_ros.nodes.stack.registry import ROBOT


def generate_launch_description() -> LaunchDescription:
    """Launch arguments and nodes around a robot."""
    return LaunchDescription(stack_actions(ROBOT))
