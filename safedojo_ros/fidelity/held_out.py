"""Held-out episodes in memory, as images, physical values and latents."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from safedojo_ros.core.errors import CheckpointError
from safedojo_ros.data.lerobot.frames import Source, load_frames, open_all
from safedojo_ros.data.lerobot.reader import FrameArrays
from safedojo_ros.learning.data import replay
from safedojo_ros.learning.data.latent_episodes import LatentEpisodes
from safedojo_ros.models.world_model import WorldModel


@dataclass(frozen=True)
class HeldOut:
    """Episodes that no model was trained on.

    frames: their steps, physical units; latents: the same frames as the world model's input;
    contact: (N,) bool, in the step of the row; collided: (E,) bool.
    """

    frames: FrameArrays
    latents: LatentEpisodes
    contact: np.ndarray
    collided: np.ndarray

    def images(self, rows: torch.Tensor) -> torch.Tensor:
        """(..., cameras, 3, H, W) float32 in [0, 1] of the rows (...)."""
        return torch.from_numpy(self.frames.images[rows.numpy()]).movedim(-1, -3).float() / 255.0


def read_held_out(
    sources: Sequence[Source], world: WorldModel, most: int, device: str = "cpu"
) -> HeldOut:
    """At most `most` episodes, evenly spaced over all; raises `DatasetError` where there are none.

    Raises `CheckpointError` where the images are not of the world model's cameras and size.
    """
    readers = open_all(sources)
    total = sum(len(reader) for reader in readers)
    spaced = np.linspace(0, total - 1, min(most, total)).round().astype(int)
    chosen, before = [], 0
    for reader in readers:
        chosen.append([int(i) - before for i in spaced if before <= i < before + len(reader)])
        before += len(reader)
    return hold(load_frames(readers, chosen=chosen), world, device)


def hold(frames: FrameArrays, world: WorldModel, device: str = "cpu") -> HeldOut:
    """Encode `frames`; raises `CheckpointError` where the images are not the world model's."""
    wanted = (world.cameras, world.autoencoder.size.image_size)
    seen = (frames.cameras, frames.images.shape[2])
    if seen != wanted:
        raise CheckpointError(
            f"the episodes have cameras {seen[0]} of {seen[1]} pixels, the world model sees "
            f"{wanted[0]} of {wanted[1]}; record them with these"
        )
    latents = LatentEpisodes.encode(frames, world, device)
    collided = np.array([row.collided for row in frames.rows])
    return HeldOut(frames, latents, frames.cost > 0, collided)


def decoded(world: WorldModel, latents: torch.Tensor) -> torch.Tensor:
    """(B, K, cameras, 3, H, W) in [0, 1] of latents (B, K, C, h, w), on the CPU."""
    return (replay.decoded(world, latents) + 1) / 2
