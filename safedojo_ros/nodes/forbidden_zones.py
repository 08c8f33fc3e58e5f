"""The safety node's forbidden zones: their file, the topics they need, and how they look.

A cloud that cannot be used is a fault until a usable one comes, and a fault is a HOLD.
"""

from pathlib import Path
from typing import Any

import numpy as np
from sensor_msgs.msg import JointState, PointCloud2, PointField
from std_msgs.msg import ColorRGBA
from visualization_msgs.msg import Marker

from safedojo_ros.core.errors import ConfigError, ObservationRejected
from safedojo_ros.core.rotation import matrix_of
from safedojo_ros.core.units import SECOND
from safedojo_ros.nodes.conversion import ARM_JOINTS, to_nanoseconds
from safedojo_ros.nodes.lifecycle import IMAGES, NEWEST, DojoNode, Setting
from safedojo_ros.robot.gate.zones import (
    PointSource,
    Surroundings,
    Zones,
    ZoneVerdict,
    read_zones,
)

ZONE_SETTINGS = (
    Setting("zones", "", "File of forbidden zones, TOML; empty: none. See docs/how-to/zones.md."),
    Setting("point_cloud", "", "Topic of the PointCloud2 that the file's [points] are about."),
)

FLOATS = {PointField.FLOAT32: "f4", PointField.FLOAT64: "f8"}
COLOURS = {"stop": (0.9, 0.1, 0.1), "slow": (0.9, 0.8, 0.1)}
JOINTS_MAX_AGE = 0.1
"""Seconds after which joint angles are not known any more."""


def points_of_cloud(message: PointCloud2, source: PointSource) -> np.ndarray:
    """(N, 3) m in the base frame, the finite points of a cloud that lie within the source's box.

    Raises `ObservationRejected` for another frame, too many points, fields that are no coordinates,
    sizes that do not fit the data, and for a cloud whose points are all not finite.
    """
    count = message.width * message.height
    if message.header.frame_id != source.frame:
        raise ObservationRejected(
            f"the point cloud's frame is '{message.header.frame_id}', expected '{source.frame}'"
        )
    if count > source.max_points:
        raise ObservationRejected(
            f"the point cloud has {count} points, the limit is {source.max_points}; thin it out"
        )
    kind = _layout(message)
    least = (message.width - 1) * message.point_step + kind.itemsize if message.width else 0
    if message.row_step < least or len(message.data) < message.row_step * message.height:
        raise ObservationRejected(
            f"the point cloud has {len(message.data)} bytes in rows of {message.row_step}, "
            f"expected {message.height} rows of {message.width} points of {message.point_step}"
        )
    if not count:
        return np.zeros((0, 3))
    strides = (message.row_step, message.point_step)
    table = np.ndarray((message.height, message.width), kind, bytes(message.data), 0, strides)
    points = np.stack([table[axis].ravel() for axis in "xyz"], axis=1).astype(np.float64)
    points = points[np.isfinite(points).all(axis=1)]
    if not len(points):
        raise ObservationRejected("the point cloud has no finite point; is the camera covered?")
    w, vector = source.rotation[3], np.array(source.rotation[:3])
    angle = 2.0 * np.arctan2(np.linalg.norm(vector), w)
    axis = vector / max(float(np.linalg.norm(vector)), 1e-12)
    with np.errstate(over="ignore", invalid="ignore"):  # what is that far away is left out
        points = points @ matrix_of(angle * axis).T + source.translation
        inside = (points >= source.low) & (points <= source.high)
    kept: np.ndarray = points[inside.all(axis=1)]
    return kept


def _layout(message: PointCloud2) -> np.dtype:
    """Where x, y and z lie in a point."""
    fields = {field.name: field for field in message.fields}
    order = ">" if message.is_bigendian else "<"
    offsets, formats = [], []
    for name in "xyz":
        field = fields.get(name)
        if field is None or field.datatype not in FLOATS or field.count != 1:
            raise ObservationRejected(
                f"the point cloud's fields are {', '.join(fields) or 'none'}; expected x, y and z "
                "as float32 or float64"
            )
        formats.append(order + FLOATS[field.datatype])
        offsets.append(field.offset)
        if field.offset + np.dtype(formats[-1]).itemsize > message.point_step:
            raise ObservationRejected(
                f"field {name} of the point cloud ends beyond a point of {message.point_step} bytes"
            )
    return np.dtype({"names": list("xyz"), "formats": formats, "offsets": offsets})


class ForbiddenZones:
    """Listens to points and joints for `robot.gate.zones`. Raises `ConfigError` for a faulty file,
    for points without a topic and for a topic without points."""

    def __init__(self, node: DojoNode, path: str, topic: str) -> None:
        self._node, self._topic = node, topic
        self._zones = Zones(read_zones(Path(path).expanduser()))
        self._around = Surroundings()
        self._joints_at = 0
        self._fault = ""
        self._subscriptions: list[Any] = []
        source = self._zones.config.points
        if (source is None) == bool(topic):
            raise ConfigError(
                f"parameter 'point_cloud' is '{topic}' and {path} has "
                f"{'no' if source is None else 'a'} section [points]; it takes both or neither"
            )

    def listen(self) -> None:
        """Subscribe."""
        node = self._node
        if self._topic:
            self._subscriptions.append(
                node.create_subscription(PointCloud2, self._topic, self._on_cloud, IMAGES)
            )
        if self._zones.config.foot is not None:
            self._subscriptions.append(
                node.create_subscription(JointState, "joint_states", self._on_joints, NEWEST)
            )

    def close(self) -> None:
        """Stop listening, and forget what was seen."""
        for subscription in self._subscriptions:
            self._node.destroy_subscription(subscription)
        self._subscriptions, self._around, self._fault = [], Surroundings(), ""

    def fault(self, now: int) -> str:
        """Why nothing may move now (ns): the points are unusable, missing or old. Else ""."""
        return self._fault or self._zones.fault(self._around, now)

    def check(self, actions: np.ndarray, state: np.ndarray, now: int) -> ZoneVerdict:
        """See `Zones.check`; raises `ObservationRejected` where the newest cloud is unusable."""
        if self._fault:
            raise ObservationRejected(self._fault)
        around = self._around
        if (now - self._joints_at) / SECOND > JOINTS_MAX_AGE:
            around = Surroundings(around.points, around.stamp)
        return self._zones.check(actions, state, around, now)

    def markers(self, header: Any) -> list[Marker]:
        """A cube for each box, without its margin: stop zones red, slow zones yellow."""
        cubes = []
        for number, zone in enumerate(self._zones.config.zone):
            cube = Marker(header=header, ns="zones", id=number, type=Marker.CUBE, action=Marker.ADD)
            low, high = np.array(zone.low), np.array(zone.high)
            place, size = (low + high) / 2, high - low
            point, scale = cube.pose.position, cube.scale
            point.x, point.y, point.z = (float(v) for v in place)
            scale.x, scale.y, scale.z = (float(v) for v in size)
            cube.pose.orientation.w = 1.0
            red, green, blue = COLOURS[zone.type]
            cube.color = ColorRGBA(r=red, g=green, b=blue, a=0.35)
            cubes.append(cube)
        return cubes

    def _on_cloud(self, message: PointCloud2) -> None:
        source, now = self._zones.config.points, self._node.now()
        assert source is not None
        stamp, last = to_nanoseconds(message.header.stamp), self._around.stamp
        if self._around.points is not None and stamp <= last <= now:
            return  # an old cloud, or the same again: it makes nothing newer
        try:
            points = points_of_cloud(message, source)
        except ObservationRejected as error:
            self._fault = str(error)
            return
        self._fault = ""
        self._around = Surroundings(points, stamp, self._around.joints)

    def _on_joints(self, message: JointState) -> None:
        positions = dict(zip(message.name, message.position, strict=False))
        joints = np.array([positions.get(name, np.nan) for name in ARM_JOINTS])
        if np.all(np.isfinite(joints)):
            self._joints_at = self._node.now()
            self._around = Surroundings(self._around.points, self._around.stamp, joints)
