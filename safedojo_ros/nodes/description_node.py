"""What RViz, rqt and Foxglove need of the robot: its description and where everything is.

Subscribes `joint_states`; publishes `robot_description` (URDF, latched), `robot/workspace` (the
box in which the arm works, latched), and `/tf` and `/tf_static` where ROS provides tf2_msgs.
"""

import sys
from typing import Any

import numpy as np
from geometry_msgs.msg import Point, TransformStamped
from sensor_msgs.msg import JointState
from std_msgs.msg import String
from visualization_msgs.msg import Marker

from safedojo_ros.core.errors import ConfigError
from safedojo_ros.nodes.conversion import BASE_FRAME, to_stamp
from safedojo_ros.nodes.lifecycle import LATCHED, NEWEST, OK, WARN, DojoNode, Setting
from safedojo_ros.nodes.stack.spinning import run_node
from safedojo_ros.robot.description import (
    CameraFrame,
    Joint,
    Transform,
    arm_joints,
    transforms,
    urdf,
)

POSE = 7
"""Numbers of a camera's pose."""

SETTINGS = (
    Setting("robot_base", [-0.45, 0.0, 0.0], "The arm's foot in the base frame (x, y, z in m)."),
    Setting("camera_frames", ["camera_agentview", "camera_wrist"], "Optical frames of cameras."),
    Setting("camera_parents", [BASE_FRAME, "fr3_hand"], "What each camera is fixed to."),
    Setting("camera_poses", [0.0], "x, y, z (m), quaternion x, y, z, w in that, for each camera."),
    Setting("workspace_lower", [-0.25, -0.32, 0.012], "Lower corner of the workspace (m)."),
    Setting("workspace_upper", [0.34, 0.32, 0.45], "Upper corner of the workspace (m)."),
)


class DescriptionNode(DojoNode):
    """Publishes what `robot.description` says."""

    def __init__(self, **options: Any) -> None:
        super().__init__("description_node", SETTINGS, **options)
        self._joints: list[Joint] = []
        self._ours: list[Any] = []
        self._tf: Any = None
        self._listening: Any = None

    # ---------------------------------------------------------------- life cycle

    def configure(self) -> None:
        """Read where the arm and the cameras are."""
        self._joints = arm_joints(BASE_FRAME, self.corner("robot_base"))
        links = {BASE_FRAME, *(joint.child for joint in self._joints)}
        self._cameras = self._camera_frames(links)
        self._description = self.create_publisher(String, "robot_description", LATCHED)
        self._workspace = self.create_publisher(Marker, "robot/workspace", LATCHED)
        self._ours = [self._description, self._workspace]
        kind = transform_message()
        if kind is not None:
            self._tf = self.create_publisher(kind, "/tf", NEWEST)
            self._tf_static = self.create_publisher(kind, "/tf_static", LATCHED)
            self._ours += [self._tf, self._tf_static]

    def activate(self) -> None:
        """Say once what stays, and listen to what moves."""
        self._description.publish(String(data=urdf(self._joints)))
        self._workspace.publish(self._box())
        fixed = [each.transform() for each in self._cameras] + transforms(self._joints, {})
        self._send("_tf_static", fixed, self.now())
        self._listening = self.create_subscription(
            JointState, "joint_states", self._on_joints, NEWEST
        )

    def deactivate(self) -> None:
        """Stop listening."""
        if self._listening is not None:
            self.destroy_subscription(self._listening)
            self._listening = None

    def cleanup(self) -> None:
        """Forget the publishers."""
        for publisher in self._ours:
            self.destroy_publisher(publisher)
        self._ours, self._tf = [], None

    def diagnose(self) -> tuple[bytes, str, dict[str, Any]]:
        """Whether there is a TF tree."""
        if self._tf is None:
            return WARN, "no /tf: tf2_msgs is not installed; a ROS installation has it", {}
        return OK, "describing the robot", {}

    # ---------------------------------------------------------------- inside

    def _camera_frames(self, links: set[str]) -> list[CameraFrame]:
        names, parents = self.setting("camera_frames"), self.setting("camera_parents")
        poses = self.setting("camera_poses")
        if poses == (0.0,):
            return []
        if not len(names) == len(parents) == len(poses) / POSE:
            raise ConfigError(
                f"{len(names)} camera_frames, {len(parents)} camera_parents, {len(poses)} numbers "
                f"in camera_poses: give one of each and {POSE} numbers for every camera"
            )
        for parent in parents:
            if parent not in links:
                raise ConfigError(f"a camera is fixed to '{parent}', expected base or an fr3_ link")
        return [
            CameraFrame(name, parent, poses[i * POSE : i * POSE + 3], poses[i * POSE + 3 :][:4])
            for i, (name, parent) in enumerate(zip(names, parents, strict=True))
        ]

    def _on_joints(self, message: JointState) -> None:
        positions = dict(zip(message.name, message.position, strict=False))
        moving = [joint for joint in self._joints if joint.kind != "fixed"]
        stamp = message.header.stamp
        self._send("_tf", transforms(moving, positions), stamp.sec * 10**9 + stamp.nanosec)

    def _send(self, publisher: str, found: list[Transform], stamp: int) -> None:
        kind = transform_message()
        if self._tf is None or kind is None:
            return
        getattr(self, publisher).publish(kind(transforms=[stamped(t, stamp) for t in found]))

    def _box(self) -> Marker:
        lower, upper = (np.array(self.corner(f"workspace_{end}")) for end in ("lower", "upper"))
        box = Marker(ns="workspace", type=Marker.LINE_LIST, action=Marker.ADD)
        box.header.frame_id, box.frame_locked = BASE_FRAME, True
        box.scale.x, box.pose.orientation.w = 0.003, 1.0
        box.color.r, box.color.g, box.color.b, box.color.a = 0.3, 0.6, 1.0, 0.8
        corners = np.array([[i & 1, i >> 1 & 1, i >> 2 & 1] for i in range(8)])
        for i in range(8):
            for other in (i | 1, i | 2, i | 4):
                if other != i:
                    for bits in (corners[i], corners[other]):
                        x, y, z = (float(v) for v in lower + bits * (upper - lower))
                        box.points.append(Point(x=x, y=y, z=z))
        return box


def transform_message() -> Any:
    """tf2_msgs' TFMessage where ROS provides it, else None."""
    try:
        from tf2_msgs.msg import TFMessage
    except ImportError:
        return None
    return TFMessage


def stamped(transform: Transform, stamp: int) -> TransformStamped:
    """A transform as a message; stamp: ns."""
    message = TransformStamped(child_frame_id=transform.child)
    message.header.frame_id, message.header.stamp = transform.parent, to_stamp(stamp)
    place, turn = message.transform.translation, message.transform.rotation
    place.x, place.y, place.z = (float(v) for v in transform.place)
    turn.w, turn.x, turn.y, turn.z = (float(v) for v in transform.quaternion)
    return message


def main(arguments: list[str] | None = None) -> int:
    """Run the node until SIGINT."""
    return run_node(DescriptionNode, arguments)


if __name__ == "__main__":
    sys.exit(main())
