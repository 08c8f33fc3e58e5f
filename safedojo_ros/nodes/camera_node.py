"""Cameras of any kind as `camera/<name>/image_raw` and `camera_info`, checked, resized, RGB.

A source a camera: `sim` (the embedded world's `sim/<name>/image`), `topic:/some/driver/image_raw`,
`device:/dev/video0` (V4L2), `file:/path/video.mp4` (played in a loop) or a stream's URL.
The stamp of a picture is when it was taken; a relayed picture keeps its stamp.
"""

import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from sensor_msgs.msg import CameraInfo, Image

from safedojo_ros.core.errors import ConfigError, ObservationRejected
from safedojo_ros.core.units import SECOND
from safedojo_ros.data.images import resize_image
from safedojo_ros.nodes.conversion import (
    array_from_image,
    camera_info,
    image_from_array,
    to_nanoseconds,
    to_stamp,
)
from safedojo_ros.nodes.lifecycle import IMAGES, OK, WARN, DojoNode, Setting
from safedojo_ros.nodes.stack.spinning import run_node

SILENCE = 1.0
"""Seconds without a picture after which diagnostics call a camera silent."""

SETTINGS = (
    Setting("cameras", ["agentview", "wrist"], "Names of the cameras."),
    Setting("sources", ["sim", "sim"], "Where each camera's pictures come from, in that order."),
    Setting("fovy", [40.0, 80.0], "Vertical field of view of each (degrees); 0: not known."),
    Setting("width", 0, "Width to resize to (px); 0: as it comes.", 0, 4096),
    Setting("height", 0, "Height to resize to (px); 0: as it comes.", 0, 4096),
    Setting("rate", 20.0, "Pictures a second of devices, files and streams (Hz).", 0.1, 240.0),
)


@dataclass(frozen=True)
class Source:
    """What a `sources` entry means. kind: sim, topic, device, file or stream."""

    kind: str
    address: str


def parse_source(text: str, camera: str) -> Source:
    """Read one entry of `sources`; raises `ConfigError` that lists what there is."""
    kind, _, address = text.partition(":")
    if text == "sim":
        return Source("sim", f"sim/{camera}/image")
    if kind in ("rtsp", "http", "https") and address.startswith("//"):
        return Source("stream", text)
    if kind in ("topic", "device", "file") and address:
        return Source(kind, address)
    raise ConfigError(
        f"source '{text}' of camera '{camera}' is not known; write sim, topic:/name, "
        "device:/dev/video0, file:/path/video.mp4 or an rtsp:// or http:// address"
    )


def open_capture(source: Source) -> cv2.VideoCapture:
    """Open a device, file or stream; raises `ConfigError` if it gives no pictures."""
    if source.kind == "device":
        number = source.address.removeprefix("/dev/video")
        capture = cv2.VideoCapture(int(number) if number.isdigit() else source.address)
    else:
        if source.kind == "file" and not Path(source.address).is_file():
            raise ConfigError(f"there is no video file {source.address}")
        capture = cv2.VideoCapture(source.address)
    if not capture.isOpened():
        raise ConfigError(f"{source.kind} {source.address} cannot be opened as a video")
    return capture


@dataclass
class Camera:
    """One camera at work."""

    name: str
    source: Source
    fovy: float
    images: Any
    infos: Any
    subscription: Any = None
    capture: cv2.VideoCapture | None = None
    info: CameraInfo | None = None
    pictures: int = 0
    heard_at: int = field(default_factory=time.monotonic_ns)
    fault: str = ""


class CameraNode(DojoNode):
    """Relays topics and reads devices and files."""

    def __init__(self, **options: Any) -> None:
        super().__init__("camera_node", SETTINGS, **options)
        self._cameras: list[Camera] = []
        self._readers: list[threading.Thread] = []
        self._closing = threading.Event()

    def configure(self) -> None:
        """Check the sources and open the devices and files."""
        names, sources, fovy = (self.setting(key) for key in ("cameras", "sources", "fovy"))
        if not names or not len(names) == len(sources) == len(fovy):
            raise ConfigError(
                f"{len(names)} cameras, {len(sources)} sources, {len(fovy)} fovy: "
                "give one of each for every camera"
            )
        self._size = (int(self.setting("width")), int(self.setting("height")))
        if (self._size[0] == 0) != (self._size[1] == 0):
            raise ConfigError(f"width and height are {self._size}; give both, or 0 for both")
        for name, text, angle in zip(names, sources, fovy, strict=True):
            if not 0.0 <= angle < 180.0:
                raise ConfigError(f"fovy of '{name}' is {angle} degrees, expected 0 to 180")
            source = parse_source(text, name)
            camera = Camera(
                name,
                source,
                float(angle),
                self.create_publisher(Image, f"camera/{name}/image_raw", IMAGES),
                self.create_publisher(CameraInfo, f"camera/{name}/camera_info", IMAGES),
            )
            self._cameras.append(camera)
            if source.kind not in ("sim", "topic"):
                camera.capture = open_capture(source)

    def activate(self) -> None:
        """Begin to relay and to read."""
        self._closing.clear()
        for camera in self._cameras:
            if camera.capture is None:
                take: Callable[[Image], None] = partial(self._relay, camera)
                camera.subscription = self.create_subscription(
                    Image, camera.source.address, take, IMAGES
                )
                continue
            reader = threading.Thread(target=self._read, args=(camera,), daemon=True)
            reader.start()
            self._readers.append(reader)

    def deactivate(self) -> None:
        """Stop relaying and reading."""
        self._closing.set()
        for reader in self._readers:
            reader.join(timeout=2.0)
        self._readers = []
        for camera in self._cameras:
            if camera.subscription is not None:
                self.destroy_subscription(camera.subscription)
                camera.subscription = None

    def cleanup(self) -> None:
        """Close the devices and files."""
        for camera in self._cameras:
            if camera.capture is not None:
                camera.capture.release()
            self.destroy_publisher(camera.images)
            self.destroy_publisher(camera.infos)
        self._cameras = []

    def diagnose(self) -> tuple[bytes, str, dict[str, Any]]:
        """Which cameras are silent or faulty."""
        values: dict[str, Any] = {c.name: f"{c.pictures} pictures" for c in self._cameras}
        for camera in self._cameras:
            silence = (time.monotonic_ns() - camera.heard_at) / SECOND
            if camera.fault:
                return WARN, f"camera '{camera.name}': {camera.fault}", values
            if silence > SILENCE:
                return WARN, f"camera '{camera.name}' has been silent for {silence:.1f} s", values
        return OK, "working", values

    # ---------------------------------------------------------------- pictures

    def _relay(self, camera: Camera, message: Image) -> None:
        camera.heard_at = time.monotonic_ns()
        as_it_is = message.encoding == "rgb8" and self._size in (
            (0, 0),
            (message.width, message.height),
        )
        try:
            picture = array_from_image(message)
        except ObservationRejected as error:
            camera.fault = str(error)
            self.get_logger().warning(f"camera '{camera.name}': {error}", throttle_duration_sec=1.0)
            return
        camera.fault = ""
        stamp = to_nanoseconds(message.header.stamp)
        if as_it_is:
            camera.images.publish(message)
            self._publish_info(camera, message.width, message.height, stamp)
            camera.pictures += 1
        else:
            self._publish(camera, picture, stamp)

    def _publish(self, camera: Camera, picture: np.ndarray, stamp: int) -> None:
        width, height = self._size
        if width:
            picture = resize_image(picture, width, height)
        camera.images.publish(image_from_array(picture, stamp, f"camera_{camera.name}"))
        self._publish_info(camera, picture.shape[1], picture.shape[0], stamp)
        camera.pictures += 1

    def _publish_info(self, camera: Camera, width: int, height: int, stamp: int) -> None:
        info = camera.info
        if info is None or (info.width, info.height) != (width, height):
            info = camera_info(width, height, camera.fovy, stamp, f"camera_{camera.name}")
            camera.info = info
        info.header.stamp = to_stamp(stamp)
        camera.infos.publish(info)

    def _read(self, camera: Camera) -> None:
        """The reader thread of a device, file or stream: the newest picture, `rate` times a s."""
        capture, period = camera.capture, 1.0 / float(self.setting("rate"))
        assert capture is not None
        due = time.monotonic()
        while not self._closing.is_set():
            taken, picture = capture.read()
            stamp = self.now()
            if not taken and camera.source.kind == "file":
                capture.set(cv2.CAP_PROP_POS_FRAMES, 0)
                taken, picture = capture.read()
            if not taken:
                camera.fault = "gives no more pictures"
                self._closing.wait(0.2)
                continue
            camera.fault, camera.heard_at = "", time.monotonic_ns()
            if self._closing.is_set() or not self.context.ok():
                return
            self._publish(camera, cv2.cvtColor(picture, cv2.COLOR_BGR2RGB), stamp)
            due = max(due + period, time.monotonic())
            if camera.source.kind == "file":
                self._closing.wait(max(0.0, due - time.monotonic()))


def main(arguments: list[str] | None = None) -> int:
    """Run the node until SIGINT."""
    return run_node(CameraNode, arguments)


if __name__ == "__main__":
    sys.exit(main())
