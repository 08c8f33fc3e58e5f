"""Camera pictures as tensors."""

from collections.abc import Sequence

import numpy as np
import torch

from safedojo_ros.core.errors import ObservationRejected
from safedojo_ros.core.types import Observation


def stack_pictures(
    observations: Sequence[Observation], cameras: tuple[str, ...], image_size: int
) -> torch.Tensor:
    """(B, cameras, 3, S, S) float32 in [−1, 1]; raises `ObservationRejected` for another size."""
    for observation in observations:
        observation.validate(cameras)
        for name in cameras:
            shape = observation.images[name].shape
            if shape[:2] != (image_size, image_size):
                raise ObservationRejected(
                    f"camera '{name}' gave {shape[1]}x{shape[0]} pixels, expected "
                    f"{image_size}x{image_size}; set the camera node's size"
                )
    frames = np.stack([[o.images[name] for name in cameras] for o in observations])
    return to_unit(torch.from_numpy(frames))


def to_unit(frames: torch.Tensor) -> torch.Tensor:
    """(..., H, W, 3) uint8 → (..., 3, H, W) float32 in [−1, 1]."""
    return frames.movedim(-1, -3).float() / 127.5 - 1.0


def to_uint8(pictures: torch.Tensor) -> torch.Tensor:
    """Inverse of `to_unit`."""
    scaled = (pictures.clamp(-1.0, 1.0) + 1.0) * 127.5
    return scaled.round().to(torch.uint8).movedim(-3, -1)
