"""Devices, video files and streams by OpenCV: images at a rate, opened anew when they cease.

No ROS in it; clock and opening are passed in.
"""

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from safedojo_ros.core.errors import ConfigError

OPEN_AGAIN = 1.0
"""Seconds between two tries to open a source that has ceased."""
PATIENCE_MS = 2000
"""Milliseconds that a stream may take to open, or to go on, before it counts as ceased."""


@dataclass(frozen=True)
class Source:
    """Where images come from. kind: sim, topic, device, file or stream."""

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
    """Open a device, file or stream; raises `ConfigError` if it cannot be opened."""
    if source.kind == "device":
        number = source.address.removeprefix("/dev/video")
        capture = cv2.VideoCapture(int(number) if number.isdigit() else source.address)
    elif source.kind == "file":
        if not Path(source.address).is_file():
            raise ConfigError(f"there is no video file {source.address}")
        capture = cv2.VideoCapture(source.address)
    else:
        patience = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, PATIENCE_MS]
        patience += [cv2.CAP_PROP_READ_TIMEOUT_MSEC, PATIENCE_MS]
        capture = cv2.VideoCapture(source.address, cv2.CAP_FFMPEG, patience)
    if not capture.isOpened():
        capture.release()
        raise ConfigError(f"{source.kind} {source.address} cannot be opened as a video")
    return capture


class RateLimit:
    """Lets images through at a rate, or as they come where they come more slowly."""

    def __init__(self, rate: float) -> None:
        """rate: images a second (Hz)."""
        self._period = 1.0 / rate
        self._due: float | None = None

    def wait(self, now: float) -> float:
        """Seconds until the next image is due."""
        return 0.0 if self._due is None else max(0.0, self._due - now)

    def lets(self, now: float) -> bool:
        """Whether an image of `now` (s) goes through: it is nearer to a due one than to the last.

        So one that comes a little early is not lost.
        """
        if self._due is not None and now < self._due - self._period / 2:
            return False
        self._due = now + self._period if self._due is None else max(self._due + self._period, now)
        return True


def frames(
    source: Source,
    rate: float,
    closing: threading.Event,
    capture: Any = None,
    open_source: Callable[[Source], Any] = open_capture,
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[tuple[float, np.ndarray] | str]:
    """When each image was taken (s) and it itself, (H, W, 3) uint8 RGB; or a fault, a sentence.

    Until `closing`; whoever takes the frames sees it at the next one. A source that ceases is
    opened anew; a file is played in a loop. capture: the source, opened already; released here.
    """
    limit, grabbed = RateLimit(rate), False
    try:
        while not closing.is_set():
            if capture is None:
                try:
                    capture, grabbed = open_source(source), False
                except ConfigError as error:
                    yield f"is not there: {error}"
                    closing.wait(OPEN_AGAIN)
                    continue
            if source.kind == "file":
                closing.wait(limit.wait(clock()))
            if not capture.grab():
                capture.release()
                capture = None
                if source.kind != "file" or not grabbed:
                    yield "gives no more images; it is opened anew"
                    closing.wait(OPEN_AGAIN)
                continue
            grabbed, taken_at = True, clock()
            if limit.lets(taken_at):
                decoded, image = capture.retrieve()
                if decoded:
                    yield taken_at, cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
    finally:
        if capture is not None:
            capture.release()
