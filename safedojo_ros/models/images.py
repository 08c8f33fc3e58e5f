"""Camera images as tensors."""

from collections.abc import Sequence

import numpy as np
import torch

from safedojo_ros.core.errors import DatasetError, ObservationRejected
from safedojo_ros.core.types import STATE_SIZE, Observation


def stack_images(
    observations: Sequence[Observation],
    cameras: tuple[str, ...],
    image_size: int,
    state_size: int = STATE_SIZE,
) -> torch.Tensor:
    """(B, cameras, 3, S, S) float32 in [−1, 1]; raises `ObservationRejected` for another size.

    Square images whose side is a multiple of S are averaged down to it.
    """
    for observation in observations:
        observation.validate(cameras, state_size)
    sizes = {o.images[name].shape[:2] for o in observations for name in cameras}
    height, width = max(sizes)
    if len(sizes) > 1 or height != width or height % image_size:
        raise ObservationRejected(
            f"the cameras gave images of {_sides(sizes)} pixels, expected "
            f"{image_size}x{image_size}, or all of one multiple of it; set the camera node's size"
        )
    frames = np.stack([[o.images[name] for name in cameras] for o in observations])
    images = to_unit(torch.from_numpy(frames))
    if height == image_size:
        return images
    fewer = torch.nn.functional.avg_pool2d(images.flatten(0, 1), height // image_size)
    return fewer.unflatten(0, images.shape[:2])


def check_side(frames: torch.Tensor, side: int) -> None:
    """Raise `DatasetError` unless recorded frames (..., H, W, 3) are as large as a model's."""
    height, width = frames.shape[-3:-1]
    if (height, width) != (side, side):
        raise DatasetError(
            f"the images are of {width}x{height} pixels, the model sees {side}x{side}; set "
            "image_size of the preset or of the contract, or record them at that size"
        )


def _sides(sizes: set[tuple[int, int]]) -> str:
    return ", ".join(f"{width}x{height}" for height, width in sorted(sizes))


def to_unit(frames: torch.Tensor) -> torch.Tensor:
    """(..., H, W, 3) uint8 → (..., 3, H, W) float32 in [−1, 1]."""
    return frames.movedim(-1, -3).float() / 127.5 - 1.0


def to_uint8(images: torch.Tensor) -> torch.Tensor:
    """Inverse of `to_unit`."""
    scaled = (images.clamp(-1.0, 1.0) + 1.0) * 127.5
    return scaled.round().to(torch.uint8).movedim(-3, -1)
