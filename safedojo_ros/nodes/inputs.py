"""Subscriptions that fill an `ObservationWindow`; the same for the policy and the safety node.

Cameras come as `camera_node` publishes them, all else from the topics that the contract names.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from geometry_msgs.msg import PoseStamped
from sensor_msgs.msg import Image, JointState
from std_msgs.msg import String

from safedojo_ros.core.contract import Contract
from safedojo_ros.core.errors import ObservationRejected
from safedojo_ros.core.rotation import POINTING_DOWN, axis_angle_of, quaternion_of_matrix
from safedojo_ros.core.types import RESIZE
from safedojo_ros.nodes.conversion import (
    array_from_image,
    fingers_from_joint_state,
    joints_from_joint_state,
    pose_from_message,
    robot_state,
    to_nanoseconds,
)
from safedojo_ros.nodes.lifecycle import IMAGES, LATCHED, NEWEST, DojoNode, Setting
from safedojo_ros.nodes.stack.turn_order import Turn
from safedojo_ros.robot.kinematics import Kinematics
from safedojo_ros.robot.observation_window import ObservationWindow, WindowConfig

WINDOW_SETTINGS = (
    Setting("max_age", 0.1, "Age at which an image or the arm's state is stale (s).", 0.05, 5.0),
    Setting("max_skew", 0.03, "How far images and state may lie apart (s).", 0.0, 1.0),
    Setting("frozen_frames", 8, "Images that show the same and may mean a freeze ...", 2, 1000),
    Setting("frozen_motion", 0.1, "... if the arm moved so far meanwhile (m).", 0.001, 1.0),
    Setting("max_instruction", 200, "Longest instruction (characters).", 1, 10_000),
)


def window_config(
    node: DojoNode, cameras: tuple[str, ...], image_size: int, resize: str = RESIZE
) -> WindowConfig:
    """The window that a node's parameters and its model ask for."""
    return WindowConfig(
        cameras=cameras,
        image_size=image_size,
        resize=resize,
        **{setting.name: node.setting(setting.name) for setting in WINDOW_SETTINGS},
    )


class ObservationInputs:
    """Listens to the cameras, the arm, its fingers and the instruction while it is open."""

    def __init__(
        self,
        node: DojoNode,
        config: WindowConfig,
        contract: Contract,
        on_change: Callable[[], None] = lambda: None,
        on_instruction: Callable[[], None] = lambda: None,
    ) -> None:
        """on_change: called after every image and pose; on_instruction: after a new one."""
        self.window = ObservationWindow(config)
        self._node, self._on_change, self._on_instruction = node, on_change, on_instruction
        self._topics, self._fixed = contract.topics, bool(contract.instruction)
        self.text: str | None = None
        """The instruction as it was heard last."""
        self._fingers: np.ndarray | None = None
        self._fingers_at = 0
        self._waiting: PoseStamped | None = None
        self._kinematics = Kinematics()
        self._subscriptions: list[Any] = [
            node.create_subscription(
                Image, f"camera/{name}/image_raw", partial(self._image, name), IMAGES
            )
            for name in config.cameras
        ]
        topics = contract.topics
        listened: list[tuple[Any, str, Any, Any]] = [
            (JointState, topics.joints, self._joints, NEWEST)
        ]
        if topics.pose:
            listened.append((PoseStamped, topics.pose, self._pose, NEWEST))
        if topics.arm:
            listened.append((JointState, topics.arm, self._arm, NEWEST))
        if self._fixed:
            self.window.set_instruction(contract.instruction)
        else:
            listened.append((String, topics.instruction, self._text, LATCHED))
        self._subscriptions += [node.create_subscription(*how) for how in listened]

    def close(self) -> None:
        """Stop listening."""
        for subscription in self._subscriptions:
            self._node.destroy_subscription(subscription)
        self._subscriptions = []

    def _image(self, camera: str, message: Image) -> None:
        self._node.heard_at(to_nanoseconds(message.header.stamp))
        now = self._node.now()
        try:
            image = array_from_image(message)
        except ObservationRejected as error:
            self.window.reject_image(camera, str(error), now)
            return
        stamp = to_nanoseconds(message.header.stamp)
        self.window.add_image(camera, image, stamp, now, message.encoding)
        self._on_change()

    def _joints(self, message: JointState) -> None:
        try:
            self._fingers = fingers_from_joint_state(message, self._topics.fingers)
        except ObservationRejected as error:
            self._node.get_logger().warning(str(error), throttle_duration_sec=1.0)
        self._fingers_at = to_nanoseconds(message.header.stamp)
        if not self._topics.arm:
            self._add_joints(message)
        waiting, self._waiting = self._waiting, None
        if waiting is not None:
            self._pose(waiting)

    def _arm(self, message: JointState) -> None:
        """Joints of the arm on a topic of their own: where no pose is said, it is computed."""
        joints = self._add_joints(message)
        if joints is None or self._topics.pose or self._fingers is None:
            return
        turn, position, _ = self._kinematics.forward(joints)
        axis_angle = axis_angle_of(quaternion_of_matrix(turn), near=POINTING_DOWN)
        self._state(position, axis_angle, to_nanoseconds(message.header.stamp))

    def _add_joints(self, message: JointState) -> np.ndarray | None:
        joints = joints_from_joint_state(message, self._topics.arm_joints)
        if joints is not None:
            self.window.add_joints(joints, to_nanoseconds(message.header.stamp))
        return joints

    def _pose(self, message: PoseStamped) -> None:
        """In the world's time a pose waits for the fingers of its instant, which come at any rate:
        what is seen must not depend on which message is faster."""
        if self._node.simulated and self._fingers_at < to_nanoseconds(message.header.stamp):
            self._waiting = message
            return
        if self._fingers is None:
            return
        try:
            position, axis_angle = pose_from_message(message)
        except ObservationRejected as error:
            self._node.get_logger().warning(str(error), throttle_duration_sec=1.0)
            return
        self._state(position, axis_angle, to_nanoseconds(message.header.stamp))

    def _state(self, position: np.ndarray, axis_angle: np.ndarray, stamp: int) -> None:
        assert self._fingers is not None
        self.window.add_state(robot_state(position, axis_angle, self._fingers), stamp)
        self._on_change()

    def _text(self, message: String) -> None:
        self.text = message.data
        if self.window.set_instruction(message.data):
            self._on_instruction()

    def heard(self, turn: Turn) -> bool:
        """Whether all is here that a turn of simulated time tells of."""
        window, stamp = self.window, turn["stamp"]
        return (
            (not turn["pose"] or window.state_stamp >= stamp)
            and (not turn["images"] or window.complete_stamp() >= stamp)
            and (self._fixed or turn.get("instruction", "") in ("", self.text))
        )
