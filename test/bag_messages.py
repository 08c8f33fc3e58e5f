"""Messages of bags for tests, serialized without ROS from the definitions in this package."""

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from rosbags.typesys import Stores, get_types_from_msg, get_typestore

from safedojo_ros.data.bags.schemas import Schema
from safedojo_ros.data.bags.writer import Topic

ROOT = Path(__file__).resolve().parents[1]


@cache
def types() -> Any:
    """ROS 2 Jazzy's message types and those of this package."""
    store = get_typestore(Stores.ROS2_JAZZY)
    for file in ROOT.glob("msg/*.msg"):
        store.register(get_types_from_msg(file.read_text(), f"safedojo_ros/msg/{file.stem}"))
    return store


def topic(name: str, kind: str, latched: bool = False) -> Topic:
    """A topic with the whole definition of its type."""
    text, _ = types().generate_msgdef(kind, ros_version=2)
    return Topic(name, Schema(kind, text, types().hash_rihs01(kind)), (), latched)


def make(kind: str, **fields: Any) -> Any:
    """A message; nested messages are given as such."""
    return types().types[kind](**fields)


def header(stamp: int, frame: str = "base") -> Any:
    """std_msgs/Header of a stamp in ns."""
    time = make("builtin_interfaces/msg/Time", sec=stamp // 10**9, nanosec=stamp % 10**9)
    return make("std_msgs/msg/Header", stamp=time, frame_id=frame)


def wire(message: Any) -> bytes:
    """CDR."""
    return bytes(types().serialize_cdr(message, message.__msgtype__))


def word(text: str) -> bytes:
    """std_msgs/String."""
    return wire(make("std_msgs/msg/String", data=text))


def switch(pressed: bool) -> bytes:
    """std_msgs/Bool."""
    return wire(make("std_msgs/msg/Bool", data=pressed))


def image(stamp: int, picture: np.ndarray) -> bytes:
    """sensor_msgs/Image, rgb8."""
    height, width = picture.shape[:2]
    return wire(
        make(
            "sensor_msgs/msg/Image",
            header=header(stamp, "camera"),
            height=height,
            width=width,
            encoding="rgb8",
            is_bigendian=0,
            step=width * 3,
            data=np.ascontiguousarray(picture).reshape(-1),
        )
    )


def pose(stamp: int, position: ArrayLike, quaternion: ArrayLike) -> bytes:
    """geometry_msgs/PoseStamped; quaternion w, x, y, z."""
    x, y, z = (float(v) for v in np.asarray(position))
    w, i, j, k = (float(v) for v in np.asarray(quaternion))
    place = make("geometry_msgs/msg/Point", x=x, y=y, z=z)
    turn = make("geometry_msgs/msg/Quaternion", x=i, y=j, z=k, w=w)
    inner = make("geometry_msgs/msg/Pose", position=place, orientation=turn)
    return wire(make("geometry_msgs/msg/PoseStamped", header=header(stamp), pose=inner))


def joints(stamp: int, fingers: ArrayLike) -> bytes:
    """sensor_msgs/JointState with two fingers."""
    return wire(
        make(
            "sensor_msgs/msg/JointState",
            header=header(stamp),
            name=["fr3_finger_joint1", "fr3_finger_joint2"],
            position=np.asarray(fingers, np.float64),
            velocity=np.zeros(2),
            effort=np.zeros(0),
        )
    )


def target(
    stamp: int,
    position: ArrayLike,
    axis_angle: ArrayLike,
    gripper: float,
    sequence: int,
    checkpoint: str,
) -> bytes:
    """safedojo_ros/ArmTarget."""
    return wire(
        make(
            "safedojo_ros/msg/ArmTarget",
            header=header(stamp),
            position=np.asarray(position, np.float64),
            axis_angle=np.asarray(axis_angle, np.float64),
            gripper=float(gripper),
            sequence=sequence,
            checkpoint=checkpoint,
        )
    )
