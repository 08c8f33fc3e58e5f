"""Zones in the safety node: a real PointCloud2 holds, an unusable one holds with a line."""

import struct
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

rclpy = pytest.importorskip("rclpy")
pytest.importorskip("safedojo_ros.msg")

from rclpy.context import Context  # noqa: E402
from rclpy.executors import SingleThreadedExecutor  # noqa: E402
from rclpy.node import Node  # noqa: E402
from rclpy.parameter import Parameter  # noqa: E402
from running_stack import publish_scripted  # noqa: E402
from scripted_nodes import ScriptedSafety  # noqa: E402
from sensor_msgs.msg import Image, JointState, PointCloud2, PointField  # noqa: E402
from std_msgs.msg import String  # noqa: E402
from visualization_msgs.msg import Marker, MarkerArray  # noqa: E402

from safedojo_ros.checkpoints.store.store import CheckpointStore  # noqa: E402
from safedojo_ros.core.errors import ConfigError, ObservationRejected  # noqa: E402
from safedojo_ros.core.rotation import POINTING_DOWN  # noqa: E402
from safedojo_ros.core.types import ActionChunk  # noqa: E402
from safedojo_ros.msg import ActionChunk as ActionChunkMessage  # noqa: E402
from safedojo_ros.msg import SafetyCost, SafetyState  # noqa: E402
from safedojo_ros.nodes.conversion import (  # noqa: E402
    image_from_array,
    joint_state,
    message_from_chunks,
    pose_message,
    to_nanoseconds,
    to_stamp,
)
from safedojo_ros.nodes.forbidden_zones import ForbiddenZones, points_of_cloud  # noqa: E402
from safedojo_ros.nodes.lifecycle import IMAGES, IN_ORDER, LATCHED, NEWEST  # noqa: E402
from safedojo_ros.nodes.safety_node import SafetyNode  # noqa: E402
from safedojo_ros.robot.gate.zones import PointSource  # noqa: E402

SECOND = 1_000_000_000


def cloud(points: Any, stamp: int = 0, frame: str = "base", **changes: Any) -> PointCloud2:
    """x, y, z as float32 and a colour, 16 bytes a point, as depth cameras send them."""
    points = np.asarray(points, np.float32).reshape(-1, 3)
    message = PointCloud2(height=1, width=len(points), point_step=16, row_step=16 * len(points))
    message.header.stamp, message.header.frame_id = to_stamp(stamp), frame
    message.fields = [
        PointField(name=name, offset=4 * i, datatype=PointField.FLOAT32, count=1)
        for i, name in enumerate(("x", "y", "z", "rgb"))
    ]
    message.data = b"".join(struct.pack("<4f", *point, 0.0) for point in points)
    for name, value in changes.items():
        setattr(message, name, value)
    return message


# ---------------------------------------------------------------- reading a cloud


def test_a_cloud_is_read_whatever_lies_between_its_coordinates() -> None:
    points = [[1.0, 2.0, 3.0], [np.nan, 0.0, 0.0], [-1.0, 0.5, 0.25], [np.inf, 0.0, 0.0]]
    found = points_of_cloud(cloud(points), PointSource())
    np.testing.assert_allclose(found, [points[0], points[2]])
    assert points_of_cloud(cloud([]), PointSource()).shape == (0, 3)
    rows = PointCloud2(height=2, width=1, point_step=24, row_step=32, is_bigendian=True)
    rows.header.frame_id = "base"
    rows.fields = [
        PointField(name=name, offset=8 * i, datatype=PointField.FLOAT64, count=1)
        for i, name in enumerate("xyz")
    ]
    rows.data = b"".join(struct.pack(">3d8x", *p) for p in ([1.0, 2.0, 3.0], [4.0, 5.0, 6.0]))
    np.testing.assert_allclose(points_of_cloud(rows, PointSource()), [[1, 2, 3], [4, 5, 6]])


def test_a_cloud_is_moved_into_the_base_frame_and_cut_to_its_box() -> None:
    half = float(np.sqrt(0.5))
    source = PointSource(
        frame="camera",
        translation=(1.0, 0.0, 0.0),
        rotation=(0.0, 0.0, half, half),  # a quarter about z
        low=(-5.0, -5.0, 0.1),
    )
    found = points_of_cloud(
        cloud([[1.0, 0.0, 0.5], [1.0, 0.0, 0.0], [9e30, 0, 1]], 0, "camera"), source
    )
    np.testing.assert_allclose(found, [[1.0, 1.0, 0.5]], atol=1e-6)


X = PointField(name="x", offset=0, datatype=PointField.INT32, count=1)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"frame": "map"}, "frame is 'map', expected 'base'"),
        ({"fields": []}, "fields are none; expected x, y and z"),
        ({"fields": [X]}, "fields are x; expected x, y and z"),
        ({"point_step": 8, "row_step": 16}, "field z of the point cloud ends beyond a point"),
        ({"data": b"123"}, "has 3 bytes"),
        ({"row_step": 4}, "in rows of 4"),
        ({"width": 2**31, "row_step": 2**32 - 1}, "has 2147483648 points, the limit is 20000"),
        ({"height": 2**31}, "points, the limit is 20000"),
        ({"points": [[np.nan] * 3] * 4}, "no finite point; is the camera covered"),
    ],
)
def test_an_unusable_cloud_is_refused_in_one_line(changes: dict, words: str) -> None:
    points = changes.pop("points", [[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
    frame = changes.pop("frame", "base")
    with pytest.raises(ObservationRejected, match=words) as caught:
        points_of_cloud(cloud(points, 0, frame, **changes), PointSource())
    assert "\n" not in str(caught.value)


def test_random_clouds_are_read_or_refused() -> None:
    rng = np.random.default_rng(0)
    for _ in range(2000):
        message = cloud(rng.normal(size=(4, 3)))
        for name in rng.choice(["height", "width", "point_step", "row_step"], 2):
            setattr(message, name, int(rng.choice([0, 1, 3, 4, 12, 17, 70000, 2**32 - 1])))
        message.data = bytes(rng.integers(0, 256, int(rng.integers(0, 80)), dtype=np.uint8))
        field = message.fields[int(rng.integers(0, 3))]
        field.offset = int(rng.choice([0, 2, 4, 13, 2**32 - 1]))
        field.datatype = int(rng.integers(0, 10))
        field.count = int(rng.choice([0, 1, 1, 1, 2**32 - 1]))
        try:
            points = points_of_cloud(message, PointSource())
        except ObservationRejected:
            continue
        assert points.shape[1:] == (3,)
        assert np.all(np.isfinite(points))


# ---------------------------------------------------------------- in the node


class Bench:
    """A safety node whose head finds nothing dangerous, and everything that it listens to."""

    def __init__(self, context: Context, folder: Path, text: str, **more: Any) -> None:
        (folder / "zones.toml").write_text(text)
        store = CheckpointStore(folder / "store")
        publish_scripted(store, folder / "head", "safety", cost=0.0)
        values = {
            "checkpoint": "latest",
            "store": str(store.root),
            "zones": str(folder / "zones.toml"),
            "max_age": 1.0,
            "frozen_frames": 1000,
            "memory": 1,  # of a scripted head, and what it holds is to be seen held
            "detour_ratio": 0.0,
            **more,
        }
        self.safety = SafetyNode(
            load=ScriptedSafety,
            context=context,
            parameter_overrides=[Parameter(name, value=value) for name, value in values.items()],
        )
        assert self.safety.start(), self.safety.failure
        self.node = Node("bench", context=context)
        make = self.node.create_publisher
        self.images = [make(Image, f"camera/{n}/image_raw", IMAGES) for n in ("agentview", "wrist")]
        self.joints = make(JointState, "joint_states", NEWEST)
        self.poses = make(type(pose_message(np.zeros(3), np.zeros(3), 0)), "ee_pose", NEWEST)
        self.chunks = make(ActionChunkMessage, "policy/action_chunk", IN_ORDER)
        self.clouds = make(PointCloud2, "camera/points", IMAGES)
        make(String, "instruction", LATCHED).publish(String(data="go"))
        self.states: list[SafetyState] = []
        self.gated: list[ActionChunkMessage] = []
        self.markers: list[Marker] = []
        listen = self.node.create_subscription
        listen(SafetyState, "safety/state", self.states.append, NEWEST)
        listen(ActionChunkMessage, "safety/action_chunk", self.gated.append, IN_ORDER)
        listen(MarkerArray, "safety/markers", self._on_markers, NEWEST)
        self.executor = SingleThreadedExecutor(context=context)
        self.executor.add_node(self.safety)
        self.executor.add_node(self.node)
        self.sequence = 0

    def _on_markers(self, message: MarkerArray) -> None:
        self.markers.extend(message.markers)

    def now(self) -> int:
        return int(self.node.get_clock().now().nanoseconds)

    def step(self, message: PointCloud2 | None, speed: float = 0.01) -> None:
        """One observation, one chunk along x and what happens within 60 ms."""
        if message is not None:
            self.clouds.publish(message)
        now = self.look()
        actions = np.zeros((8, 7))
        actions[:, 0], actions[:, 6] = speed, -1.0
        chunk = ActionChunk(actions, observed_at=now, sequence=self.sequence)
        self.chunks.publish(message_from_chunks([chunk], now, 0.0))
        self.spin(0.03)

    def look(self) -> int:
        """One observation; returns its stamp."""
        now, self.sequence = self.now(), self.sequence + 1
        rng = np.random.default_rng(self.sequence)
        for publisher in self.images:
            shown = rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)
            publisher.publish(image_from_array(shown, now, "camera"))
        self.joints.publish(joint_state(np.zeros(7), np.zeros(7), np.full(2, 0.04), now))
        self.poses.publish(pose_message(np.array([0.0, 0.0, 0.2]), POINTING_DOWN, now))
        self.spin(0.03)
        return now

    def spin(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            self.executor.spin_once(timeout_sec=0.01)

    def until(
        self, message: Callable[[int], PointCloud2 | None], decision: int, words: str = ""
    ) -> str:
        """Steps until the state says so; returns its reason."""
        for _ in range(300):
            self.step(message(self.now()))
            state = self.states[-1] if self.states else SafetyState()
            if state.decision == decision and words in state.reason:
                return str(state.reason)
        raise AssertionError(f"last: {self.states[-1] if self.states else None}")

    def close(self) -> None:
        self.executor.shutdown()
        self.node.destroy_node()
        self.safety.shut_down()
        self.safety.destroy_node()


POINTS = "[points]\nmax_age = 1.0\n"
FAR, NEAR = [[0.5, 0.5, 0.5]], [[0.1, 0.0, 0.27]]
ALLOW, HOLD = SafetyCost.ALLOW, SafetyCost.HOLD


def test_a_point_cloud_in_the_way_holds_and_so_does_one_that_fails_or_falls_silent(
    context: Context, tmp_path: Path
) -> None:
    bench = Bench(context, tmp_path, POINTS, point_cloud="camera/points")
    try:
        assert "no point cloud" in bench.until(lambda now: None, HOLD, "point cloud")
        assert not bench.gated
        bench.until(lambda now: cloud(FAR, now), ALLOW)
        assert bench.gated
        reason = bench.until(lambda now: cloud(NEAR, now), HOLD)
        assert "the hand comes to" in reason
        assert "from the point cloud (margin 2 cm)" in reason
        bench.until(lambda now: cloud(FAR, now), ALLOW)
        assert "frame is 'map'" in bench.until(lambda now: cloud(FAR, now, "map"), HOLD, "map")
        bench.until(lambda now: cloud(FAR, now), ALLOW)
        passed = len(bench.gated)
        stale = bench.now() - SECOND // 4
        bench.until(lambda now: cloud(FAR, stale), HOLD, "s old, the limit is 1 s")
        assert all(
            to_nanoseconds(m.observed_at) - stale < 1.1 * SECOND for m in bench.gated[passed:]
        )
    finally:
        bench.close()


def test_a_cloud_that_falls_silent_holds_before_another_chunk_comes(
    context: Context, tmp_path: Path
) -> None:
    bench = Bench(context, tmp_path, POINTS, point_cloud="camera/points", silence=60.0)
    try:
        bench.until(lambda now: cloud(FAR, now), ALLOW)
        for _ in range(200):
            bench.look()
            if bench.states[-1].decision == HOLD:
                break
        assert "the point cloud is" in bench.states[-1].reason
    finally:
        bench.close()


def test_a_box_holds_and_is_shown_to_whoever_looks(context: Context, tmp_path: Path) -> None:
    text = '[[zone]]\nname = "post"\nlow = [0.1, -0.1, 0.0]\nhigh = [0.2, 0.1, 0.4]\n'
    text += '[[zone]]\nname = "door"\ntype = "slow"\nlow = [2, 2, 0]\nhigh = [3, 4, 1]\n'
    bench = Bench(context, tmp_path, text)
    try:
        assert "stop zone 'post'" in bench.until(lambda now: None, HOLD, "post")
        for _ in range(100):
            if len({m.id for m in bench.markers if m.ns == "zones"}) == 2:
                break
            bench.step(None)
        stop, slow = (
            next(m for m in bench.markers if m.ns == "zones" and m.id == i) for i in (0, 1)
        )
        assert (stop.type, stop.header.frame_id) == (Marker.CUBE, "base")
        assert (stop.pose.position.x, stop.scale.x) == (pytest.approx(0.15), pytest.approx(0.1))
        assert stop.color.r > 0.5 > stop.color.g
        assert slow.scale.y == pytest.approx(2.0)
        assert slow.color.g > 0.5
    finally:
        bench.close()


@pytest.mark.parametrize(
    ("text", "values", "words"),
    [
        (POINTS, {}, "takes both or neither"),
        (None, {"point_cloud": "points"}, "needs 'zones'"),
        ("[points", {}, "is not valid TOML"),
        ("", {}, "neither zones nor points"),
    ],
)
def test_zones_that_cannot_be_are_refused_at_configuration(
    context: Context, tmp_path: Path, text: str | None, values: dict, words: str
) -> None:
    if text is not None:
        (tmp_path / "zones.toml").write_text(text)
        values = {"zones": str(tmp_path / "zones.toml"), **values}
    overrides = [Parameter(k, value=v) for k, v in {"checkpoint": "", **values}.items()]
    node = SafetyNode(context=context, parameter_overrides=overrides)
    try:
        assert not node.start()
        assert words in node.failure
    finally:
        node.shut_down()
        node.destroy_node()


def test_boxes_alone_take_no_topic(tmp_path: Path) -> None:
    path = tmp_path / "zones.toml"
    path.write_text('[[zone]]\nname = "a"\nlow = [0, 0, 0]\nhigh = [1, 1, 1]\n')
    with pytest.raises(ConfigError, match="has no section"):
        ForbiddenZones(None, str(path), "points")  # type: ignore[arg-type]


def test_an_older_cloud_does_not_replace_a_newer_one_unless_the_clock_went_back(
    tmp_path: Path,
) -> None:
    path = tmp_path / "zones.toml"
    path.write_text(POINTS)
    clock = [100 * SECOND]
    zones = ForbiddenZones(SimpleNamespace(now=lambda: clock[0]), str(path), "points")  # type: ignore[arg-type]
    state = np.array([0.0, 0.0, 0.2, *POINTING_DOWN, 0.04, 0.04])
    actions = np.zeros((8, 7))
    actions[:, 0] = 0.01
    zones._on_cloud(cloud(NEAR, 100 * SECOND))
    zones._on_cloud(cloud(FAR, 99 * SECOND + SECOND // 2))
    assert zones.check(actions, state, clock[0]).decision == HOLD
    clock[0] = 50 * SECOND
    assert "in the future" in zones.fault(clock[0])
    zones._on_cloud(cloud(FAR, 50 * SECOND))
    assert zones.check(actions, state, clock[0]).decision == ALLOW
