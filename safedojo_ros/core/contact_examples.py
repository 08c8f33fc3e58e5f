"""Chunks of held-out episodes and whether contact followed: what safety heads are examined by."""

from dataclasses import dataclass

import numpy as np

from safedojo_ros.core.errors import CheckpointError
from safedojo_ros.core.types import ACTION_SIZE, STATE_SIZE, Observation

MAX_EXAMPLES = 1024


@dataclass(frozen=True)
class ContactExamples:
    """N chunks in S scenes.

    cameras: names; images: (S, cameras, side, side, 3) uint8 RGB, one frame of each scene; scene:
    (N,) int32, which of them shows the example's; state: (N, S) float32, where the chunk begins;
    chunks: (N, H, A) float32, physical; contact: (N,) bool, whether the obstacle was touched within
    the chunk; state_size, action_size: S and A. Raises `CheckpointError` for what does not fit
    together, or where there are not both kinds.
    """

    cameras: tuple[str, ...]
    images: np.ndarray
    scene: np.ndarray
    state: np.ndarray
    chunks: np.ndarray
    contact: np.ndarray
    state_size: int = STATE_SIZE
    action_size: int = ACTION_SIZE

    def __post_init__(self) -> None:
        count, side = len(self.contact), self.image_size
        wanted = {
            "images": (np.uint8, (len(self.images), len(self.cameras), side, side, 3)),
            "scene": (np.int32, (count,)),
            "state": (np.float32, (count, self.state_size)),
            "chunks": (np.float32, (count, self.chunk_length, self.action_size)),
            "contact": (np.bool_, (count,)),
        }
        for name, (kind, shape) in wanted.items():
            array = getattr(self, name)
            if array.dtype != kind or array.shape != shape:
                raise CheckpointError(
                    f"contact examples: {name} are {array.dtype} {array.shape}, "
                    f"expected {np.dtype(kind)} {shape}"
                )
        if not (np.all(np.isfinite(self.state)) and np.all(np.isfinite(self.chunks))):
            raise CheckpointError("contact examples: states or chunks are not finite")
        if count > MAX_EXAMPLES or np.any((self.scene < 0) | (self.scene >= len(self.images))):
            raise CheckpointError(
                f"contact examples: {count} in {len(self.images)} scenes, expected at most "
                f"{MAX_EXAMPLES}, each of one of the scenes"
            )
        if not self.contact.any() or self.contact.all():
            raise CheckpointError("contact examples: expected some with and some without contact")

    @property
    def image_size(self) -> int:
        """Side of the images, pixels."""
        return int(self.images.shape[2]) if self.images.ndim == 5 else 0

    @property
    def chunk_length(self) -> int:
        """H."""
        return int(self.chunks.shape[1]) if self.chunks.ndim == 3 else 0

    def observation(self, number: int) -> Observation:
        """What there was to see where an example begins; its instruction says nothing."""
        pictures = dict(zip(self.cameras, self.images[self.scene[number]], strict=True))
        return Observation(pictures, self.state[number].astype(np.float64), "wait")
