"""Cameras of any kind as `camera/<name>/image_raw` and `camera_info`, checked, resized, RGB.

Where somebody listens there is `camera/<name>/image_raw/compressed`, too, as image_transport names
it. A driver's `camera_info` is told of crop and resize; without one it is made from `fovy`.

The contract names the cameras. A source a camera, or one for all: `contract` (the topics that it
names), `sim` (the embedded world's `sim/<name>/image`), `topic:/some/driver/image_raw`
(one that ends in `/compressed` has JPEG or PNG images),
`device:/dev/video0` (V4L2), `file:/path/video.mp4` (played in a loop) or a stream's URL.
The stamp of an image is when it was taken; a relayed image keeps its stamp and its frame.
"""

import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from safedojo_ros.core.errors import ConfigError, ObservationRejected
from safedojo_ros.core.units import SECOND
from safedojo_ros.data.capture import Source, frames, open_capture, parse_source
from safedojo_ros.data.images import decode_compressed, fit_image
from safedojo_ros.nodes.cell import CONTRACT, IN_CONTRACT, cell_contract, relayed_topic
from safedojo_ros.nodes.conversion import (
    array_from_image,
    camera_info,
    image_from_array,
    jpeg_from_array,
    resized_info,
    to_nanoseconds,
    to_stamp,
)
from safedojo_ros.nodes.lifecycle import IMAGES, OK, WARN, DojoNode, Setting
from safedojo_ros.nodes.stack.spinning import run_node

COMPRESSED = "/compressed"
"""How image_transport ends the name of a topic with compressed images."""

SILENCE = 1.0
"""Seconds without an image after which diagnostics call a camera silent."""

SETTINGS = (
    CONTRACT,
    Setting("sources", [IN_CONTRACT], "Where images come from: for all cameras, or for each."),
    Setting("fovy", [0.0], "Vertical field of view, for all or each (degrees); 0: not known."),
    Setting("width", 0, "Width to resize to (px); 0: as it comes.", 0, 4096),
    Setting("height", 0, "Height to resize to (px); 0: as it comes.", 0, 4096),
    Setting("rate", 20.0, "Most images a second of devices, files and streams (Hz).", 0.1, 240.0),
)


@dataclass
class Camera:
    """One camera at work."""

    name: str
    source: Source
    fovy: float
    images: Any
    infos: Any
    compressed: Any
    subscriptions: list[Any] = field(default_factory=list)
    calibration: CameraInfo | None = None
    """What the driver says of its own image."""
    capture: Any = None
    info: CameraInfo = field(default_factory=CameraInfo)
    described: tuple[tuple[int, int], tuple[int, int], str] | None = None
    """Sizes and frame that `info` is of."""
    pictures: int = 0
    heard_at: int = field(default_factory=time.monotonic_ns)
    fault: str = ""

    @property
    def frame(self) -> str:
        """Of images that come without one."""
        return f"camera_{self.name}"


class CameraNode(DojoNode):
    """Relays topics and reads devices and files."""

    def __init__(self, **options: Any) -> None:
        super().__init__("camera_node", SETTINGS, **options)
        self._cameras: list[Camera] = []
        self._readers: list[threading.Thread] = []
        self._closing = threading.Event()

    def configure(self) -> None:
        """Check the sources and open the devices and files."""
        contract = cell_contract(self)
        cameras, self._rule = contract.cameras, contract.resize
        sources, fovy = (self._for_each(key, len(cameras)) for key in ("sources", "fovy"))
        self._size = (int(self.setting("width")), int(self.setting("height")))
        if (self._size[0] == 0) != (self._size[1] == 0):
            raise ConfigError(f"width and height are {self._size}; give both, or 0 for both")
        for described, text, angle in zip(cameras, sources, fovy, strict=True):
            name = described.name
            if not 0.0 <= angle < 180.0:
                raise ConfigError(f"fovy of '{name}' is {angle} degrees, expected 0 to 180")
            if text == IN_CONTRACT:
                text = f"topic:{relayed_topic(described)}"
            source = parse_source(text, name)
            if self.simulated and source.kind not in ("sim", "topic"):
                raise ConfigError(
                    f"use_sim_time is true and camera '{name}' is {text}: what it sees does not "
                    "wait for a simulated clock; set use_sim_time to false in every node"
                )
            camera = Camera(
                name,
                source,
                float(angle),
                self.create_publisher(Image, f"camera/{name}/image_raw", IMAGES),
                self.create_publisher(CameraInfo, f"camera/{name}/camera_info", IMAGES),
                self.create_publisher(
                    CompressedImage, f"camera/{name}/image_raw/compressed", IMAGES
                ),
            )
            self._cameras.append(camera)
            if source.kind not in ("sim", "topic"):
                camera.capture = open_capture(source)

    def _for_each(self, name: str, count: int) -> tuple[Any, ...]:
        """A parameter's values, one for each of `count` cameras."""
        given: tuple[Any, ...] = self.setting(name)
        if len(given) not in (1, count):
            raise ConfigError(
                f"'{name}' has {len(given)} values, the contract {count} cameras: give one for "
                "all, or one for each"
            )
        return given * count if len(given) == 1 else given

    def activate(self) -> None:
        """Begin to relay and to read."""
        self._closing = threading.Event()  # a reader that is late to end keeps the old one
        for camera in self._cameras:
            if camera.source.kind in ("sim", "topic"):
                self._listen(camera)
                continue
            capture, camera.capture = camera.capture, None
            reader = threading.Thread(
                target=self._read, args=(camera, capture, self._closing), daemon=True
            )
            reader.start()
            self._readers.append(reader)

    def deactivate(self) -> None:
        """Stop relaying and reading."""
        self._closing.set()
        for reader in self._readers:
            reader.join(timeout=2.0)
        self._readers = []
        for camera in self._cameras:
            for subscription in camera.subscriptions:
                self.destroy_subscription(subscription)
            camera.subscriptions, camera.calibration = [], None

    def cleanup(self) -> None:
        """Close what was opened and never read."""
        for camera in self._cameras:
            if camera.capture is not None:
                camera.capture.release()
            self.destroy_publisher(camera.images)
            self.destroy_publisher(camera.infos)
            self.destroy_publisher(camera.compressed)
        self._cameras = []

    def diagnose(self) -> tuple[bytes, str, dict[str, Any]]:
        """Which cameras are silent or faulty."""
        values: dict[str, Any] = {c.name: f"{c.pictures} images" for c in self._cameras}
        for camera in self._cameras:
            silence = (time.monotonic_ns() - camera.heard_at) / SECOND
            if camera.fault:
                return WARN, f"camera '{camera.name}': {camera.fault}", values
            if silence > SILENCE:
                return WARN, f"camera '{camera.name}' has been silent for {silence:.1f} s", values
        return OK, "working", values

    # ---------------------------------------------------------------- images

    def _listen(self, camera: Camera) -> None:
        topic = camera.source.address
        kind: Any = Image
        take: Callable[[Any], None] = partial(self._relay, camera)
        if topic.endswith(COMPRESSED):
            kind, take = CompressedImage, partial(self._relay_compressed, camera)
        camera.subscriptions = [self.create_subscription(kind, topic, take, IMAGES)]
        if camera.source.kind == "topic":
            beside = topic.removesuffix(COMPRESSED).rpartition("/")[0] + "/camera_info"
            calibrated: Callable[[Any], None] = partial(self._on_calibration, camera)
            camera.subscriptions.append(
                self.create_subscription(CameraInfo, beside, calibrated, IMAGES)
            )

    def _on_calibration(self, camera: Camera, message: CameraInfo) -> None:
        before = camera.calibration
        if before is None or not np.array_equal(before.k, message.k) or before.d != message.d:
            camera.described = None
        camera.calibration = message

    def _relay_compressed(self, camera: Camera, message: CompressedImage) -> None:
        camera.heard_at = time.monotonic_ns()
        try:
            image = decode_compressed(memoryview(message.data))
        except ObservationRejected as error:
            self._reject(camera, error)
            return
        camera.fault = ""
        stamp, frame = to_nanoseconds(message.header.stamp), message.header.frame_id
        self._publish(camera, image, stamp, frame or camera.frame)

    def _reject(self, camera: Camera, error: ObservationRejected) -> None:
        camera.fault = str(error)
        self.get_logger().warning(f"camera '{camera.name}': {error}", throttle_duration_sec=1.0)

    def _relay(self, camera: Camera, message: Image) -> None:
        camera.heard_at = time.monotonic_ns()
        size = (message.width, message.height)
        as_it_is = message.encoding == "rgb8" and self._size in ((0, 0), size)
        try:
            image = array_from_image(message)
        except ObservationRejected as error:
            self._reject(camera, error)
            return
        camera.fault = ""
        stamp, frame = to_nanoseconds(message.header.stamp), message.header.frame_id
        if as_it_is and frame:
            camera.images.publish(message)
            self._publish_beside(camera, image, size, stamp, frame)
        else:
            self._publish(camera, image, stamp, frame or camera.frame)

    def _publish(self, camera: Camera, image: np.ndarray, stamp: int, frame: str) -> None:
        taken = (image.shape[1], image.shape[0])
        width, height = taken if self._size == (0, 0) else self._size
        resized = fit_image(image, width, height, self._rule)
        camera.images.publish(image_from_array(resized, stamp, frame))
        self._publish_beside(camera, resized, taken, stamp, frame)

    def _publish_beside(
        self, camera: Camera, image: np.ndarray, taken: tuple[int, int], stamp: int, frame: str
    ) -> None:
        """Description and JPEG of an image as published; taken: the camera's width and height."""
        size = (image.shape[1], image.shape[0])
        if camera.described != (size, taken, frame):
            known = camera.calibration
            if known is not None and (known.width, known.height) == taken:
                camera.info = resized_info(known, *size, frame, self._rule)
            else:
                camera.info = camera_info(*size, camera.fovy, stamp, frame, taken, self._rule)
            camera.described = (size, taken, frame)
        camera.pictures += 1
        if camera.compressed.get_subscription_count():
            camera.compressed.publish(jpeg_from_array(image, stamp, frame))
        camera.info.header.stamp = to_stamp(stamp)
        camera.infos.publish(camera.info)

    def _read(self, camera: Camera, capture: Any, closing: threading.Event) -> None:
        """The reader thread of a device, file or stream."""
        for frame in frames(camera.source, float(self.setting("rate")), closing, capture):
            if closing.is_set() or not self.context.ok():
                return
            if isinstance(frame, str):
                camera.fault = frame
                continue
            camera.fault, camera.heard_at = "", time.monotonic_ns()
            taken_at, image = frame
            stamp = self.now() - round((time.monotonic() - taken_at) * SECOND)
            self._publish(camera, image, stamp, camera.frame)


def main(arguments: list[str] | None = None) -> int:
    """Run the node until SIGINT."""
    return run_node(CameraNode, arguments)


if __name__ == "__main__":
    sys.exit(main())
