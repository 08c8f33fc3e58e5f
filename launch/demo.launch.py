"""The embedded world and the whole robot loop: `ros2 launch safedojo_ros demo.launch.py`.

Its nodes stay on this machine. Arm it with `ros2 service call /franka/arm std_srvs/srv/Trigger`,
for each episode anew, since the enable switch is released in between; `arm:=true` does it for you.
`rviz:=true` and `rqt:=true` show the robot, its cameras and what the gate says.
"""

from launch.launch_description import LaunchDescription

from safedojo_ros.nodes.stack.launch import stack_actions
from safedojo_ros.nodes.stack.registry import DEMO


def generate_launch_description() -> LaunchDescription:
    """Launch arguments and nodes of the demonstration."""
    return LaunchDescription(stack_actions(DEMO))
