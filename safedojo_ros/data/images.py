"""Raw camera bytes to RGB images, with every field of the message checked. No ROS needed."""

import io
import struct

import cv2
import numpy as np
from PIL import Image

from safedojo_ros.core.errors import ObservationRejected
from safedojo_ros.core.types import LETTERBOX

CHANNELS = {"rgb8": 3, "bgr8": 3, "rgba8": 4, "bgra8": 4, "mono8": 1}
"""Encodings that need no cv_bridge, with their bytes a pixel."""

MAX_SIDE = 4096
"""Largest width or height of an image that is taken seriously, pixels."""


def decode_image(
    data: bytes | bytearray | memoryview, height: int, width: int, step: int, encoding: str
) -> np.ndarray:
    """(H, W, 3) uint8 RGB of one image message's fields.

    Raises `ObservationRejected` for an unknown encoding, an impossible size or a wrong length.
    """
    channels = CHANNELS.get(encoding)
    if channels is None:
        raise ObservationRejected(
            f"encoding '{encoding}' is not supported; publish one of {', '.join(CHANNELS)}, "
            "or install cv_bridge for others"
        )
    if not (0 < height <= MAX_SIDE and 0 < width <= MAX_SIDE):
        raise ObservationRejected(
            f"an image of {width}x{height} pixels; expected sides of 1 to {MAX_SIDE}"
        )
    if step < width * channels:
        raise ObservationRejected(
            f"a row of {step} bytes cannot hold {width} pixels of '{encoding}'"
        )
    if len(data) != height * step:
        raise ObservationRejected(
            f"{len(data)} bytes for {height} rows of {step} bytes, expected {height * step}"
        )
    rows = np.frombuffer(data, dtype=np.uint8).reshape(height, step)
    pixels = rows[:, : width * channels].reshape(height, width, channels)
    if encoding in ("bgr8", "bgra8"):
        return np.ascontiguousarray(pixels[:, :, 2::-1])
    if encoding == "mono8":
        return np.repeat(pixels, 3, axis=2)
    return np.ascontiguousarray(pixels[:, :, :3])


def decode_compressed(data: bytes | bytearray | memoryview) -> np.ndarray:
    """(H, W, 3) uint8 RGB of a JPEG or PNG; raises `ObservationRejected`.

    The header is looked at first: a few bytes can ask for gigabytes.
    """
    try:
        with Image.open(io.BytesIO(data), formats=("JPEG", "PNG")) as image:
            width, height = image.size
            if image.mode not in ("RGB", "RGBA", "L"):
                raise ObservationRejected(f"a compressed image of '{image.mode}' pixels")
            if not (0 < height <= MAX_SIDE and 0 < width <= MAX_SIDE):
                raise ObservationRejected(f"a compressed image of {width}x{height} pixels")
            return np.array(image.convert("RGB"))
    except (OSError, ValueError, SyntaxError, struct.error, Image.DecompressionBombError) as error:
        reason = " ".join(str(error).split())[:100]
        raise ObservationRejected(f"a compressed image that cannot be read: {reason}") from None


def resize_image(image: np.ndarray, width: int, height: int) -> np.ndarray:
    """(height, width, 3) uint8: the largest middle part of that aspect ratio (`RESIZE`), averaged
    down over all its pixels, or enlarged by interpolation."""
    tall, wide = image.shape[:2]
    if (tall, wide) == (height, width):
        return image
    scale = max(width / wide, height / tall)
    part_wide, part_tall = round(width / scale), round(height / scale)
    left, top = (wide - part_wide) // 2, (tall - part_tall) // 2
    part = image[top : top + part_tall, left : left + part_wide]
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    return cv2.resize(part, (width, height), interpolation=method)


def fit_image(image: np.ndarray, width: int, height: int, rule: str) -> np.ndarray:
    """(height, width, 3) uint8 by a rule of `core.types.RESIZES`, the one way in which an image of
    a camera becomes a model's. letterbox: the whole image, averaged down or enlarged, between black
    bars."""
    tall, wide = image.shape[:2]
    if rule != LETTERBOX or wide * height == tall * width:
        return resize_image(image, width, height)
    left, top, part_wide, part_tall = letterbox(wide, tall, width, height)
    whole = np.zeros((height, width, 3), np.uint8)
    part = resize_image(image, part_wide, part_tall)
    whole[top : top + part_tall, left : left + part_wide] = part
    return whole


def letterbox(wide: int, tall: int, width: int, height: int) -> tuple[int, int, int, int]:
    """Left, top, width and height (px) of the part of `width` x `height` that shows the whole of
    an image of `wide` x `tall`."""
    scale = min(width / wide, height / tall)
    part_wide, part_tall = max(1, round(wide * scale)), max(1, round(tall * scale))
    return (width - part_wide) // 2, (height - part_tall) // 2, part_wide, part_tall
