"""Held-out episodes in memory, as pictures, physical values and latents, and their replays."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from safedojo_ros.core.errors import CheckpointError, DatasetError
from safedojo_ros.data.lerobot.reader import EpisodeReader, FrameArrays
from safedojo_ros.learning.data.replay import ReplayStarts, replay
from safedojo_ros.learning.success import frame_success
from safedojo_ros.learning.world_model import LatentEpisodes
from safedojo_ros.models.world_model import WorldModel


@dataclass(frozen=True)
class HeldOut:
    """Episodes that no model was trained on.

    images: (N, cameras, H, W, 3) uint8; state (N, 8), actions (N, 7): physical units; contact:
    (N,) bool, in the step of the row; shows_success: (N,) bool, what the frame shows; episode: (N,)
    which one; collided: (E,) bool; latents: the same frames as the world model sees them.
    """

    images: np.ndarray
    state: np.ndarray
    actions: np.ndarray
    contact: np.ndarray
    shows_success: np.ndarray
    episode: np.ndarray
    collided: np.ndarray
    latents: LatentEpisodes

    @property
    def starts(self) -> np.ndarray:
        """(E + 1,) first row of each episode."""
        return self.latents.starts

    @property
    def instructions(self) -> list[str]:
        """(E,) one sentence an episode."""
        return [row.instruction for row in self.latents.rows]

    def pictures(self, rows: torch.Tensor) -> torch.Tensor:
        """(..., cameras, 3, H, W) float32 in [0, 1] of the rows (...)."""
        return torch.from_numpy(self.images[rows.numpy()]).movedim(-1, -3).float() / 255.0


@dataclass(frozen=True)
class Replays:
    """Futures imagined from recorded frames under recorded actions.

    latents: (B, K, C, h, w), a frame every `stride` steps; states: (B, K·stride, 8) normalised by
    the world model; rows: (B, K) the recorded frames that correspond.
    """

    starts: ReplayStarts
    latents: torch.Tensor
    states: torch.Tensor
    rows: torch.Tensor


def read_held_out(
    directories: Sequence[Path], world: WorldModel, most: int, device: str = "cpu"
) -> HeldOut:
    """At most `most` episodes, evenly spaced over all; raises `DatasetError` where there are none.

    Raises `CheckpointError` where the pictures are not those that the world model sees.
    """
    readers = [EpisodeReader(directory) for directory in directories]
    total = sum(len(reader) for reader in readers)
    if total == 0:
        raise DatasetError(f"no episodes in {[str(d) for d in directories]}; collect some")
    chosen = np.linspace(0, total - 1, min(most, total)).round().astype(int)
    parts, before = [], 0
    for reader in readers:
        mine = [int(i) - before for i in chosen if before <= i < before + len(reader)]
        before += len(reader)
        if mine:
            parts.append((reader.root, reader.load_arrays(mine)))
    return hold(parts, world, device)


def hold(
    parts: Sequence[tuple[Path, FrameArrays]], world: WorldModel, device: str = "cpu"
) -> HeldOut:
    """Episodes that were read from these directories; raises `CheckpointError` as above."""
    wanted = (world.cameras, world.autoencoder.size.image_size)
    for root, arrays in parts:
        seen = (arrays.cameras, arrays.images.shape[2])
        if seen != wanted:
            raise CheckpointError(
                f"{root} has cameras {seen[0]} of {seen[1]} pixels, the world model sees "
                f"{wanted[0]} of {wanted[1]}; record it with these"
            )
    every = [arrays for _, arrays in parts]
    latents = LatentEpisodes.encode(every, world, device)
    lengths = np.diff(latents.starts)
    return HeldOut(
        np.concatenate([a.images for a in every]),
        np.concatenate([a.state for a in every]).astype(np.float32),
        np.concatenate([a.actions for a in every]).astype(np.float32),
        latents.cost > 0,
        frame_success(latents.success, latents.starts),
        np.repeat(np.arange(len(lengths)), lengths),
        np.array([row.collided for row in latents.rows]),
        latents,
    )


def replay_held_out(
    world: WorldModel,
    held: HeldOut,
    starts: ReplayStarts,
    chunks: int,
    seed: int = 0,
    actions: torch.Tensor | None = None,
) -> Replays:
    """Imagine `chunks` chunks from `starts`; actions: normalised, default those recorded."""
    latents, states = replay(world, held.latents, starts.first, starts.start, chunks, seed, actions)
    ahead = (1 + torch.arange(latents.shape[1])) * world.size.stride
    return Replays(starts, latents, states, starts.first[:, None] + ahead)


@torch.no_grad()
def decoded(world: WorldModel, latents: torch.Tensor, batch: int = 16) -> torch.Tensor:
    """(B, K, cameras, 3, H, W) in [0, 1] of latents (B, K, C, h, w), on the CPU."""
    parts = [world.decode(part.float().to(world.device)).cpu() for part in latents.split(batch)]
    return (torch.cat(parts).clamp(-1, 1) + 1) / 2
