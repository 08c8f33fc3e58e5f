"""A film of a recorded episode above its imagined one."""

from pathlib import Path

import cv2
import numpy as np
import torch
from PIL import Image

from safedojo_ros.core.errors import ConfigError, DatasetError
from safedojo_ros.core.types import CONTROL_PERIOD
from safedojo_ros.data.lerobot.video import write_video
from safedojo_ros.fidelity.held_out import HeldOut
from safedojo_ros.learning.data.replay import ReplayStarts, decoded, replay
from safedojo_ros.models.images import to_uint8
from safedojo_ros.models.world_model import WorldModel

HEADING = 24
"""Height of the line of text over the images, pixels."""

SIDE = 192
"""Least side of a camera's image in the film, pixels."""

STRIP_FRAMES = 6
FORMATS = (".mp4", ".gif", ".png")


def imagined_film(
    world: WorldModel, held: HeldOut, start: int, chunks: int, seed: int = 0
) -> np.ndarray:
    """(K + 1, H, W, 3) uint8 of the only episode in `held`: recorded above, imagined below.

    One frame every `stride` steps; the first is the last one that the model has seen. Raises
    `DatasetError` where fewer than `chunks` chunks follow step `start`.
    """
    horizon, length = chunks * world.size.chunk_length, len(held.frames.images)
    if start < 0 or chunks < 1 or start + horizon >= length:
        raise DatasetError(
            f"the episode has {length} steps: {chunks} chunks from step {start} need "
            f"{start + horizon + 1}; give a smaller --start or fewer --chunks"
        )
    starts = ReplayStarts(torch.tensor([start]), torch.tensor([0]), np.zeros(1, dtype=np.int64))
    replays = replay(world, held.latents, starts, chunks, seed)
    imagined = to_uint8(decoded(world, replays.latents)[0]).cpu().numpy()
    rows = np.concatenate([[start], replays.rows[0].numpy()])
    imagined = np.concatenate([held.frames.images[start][None], imagined])
    scale = -(-SIDE // held.frames.images.shape[2])
    frames = []
    for row, image in zip(rows, imagined, strict=True):
        step = int(row) - start
        touched = bool(held.contact[start:row].any())
        parts = [
            _heading(f"recorded, step {step}" + (", touched" if touched else ""), scale, held),
            _enlarged(held.frames.images[row], scale),
            _heading("imagined" if step else "seen", scale, held),
            _enlarged(image, scale),
        ]
        frames.append(np.vstack(parts))
    return np.stack(frames)


def write_film(path: Path, frames: np.ndarray, stride: int) -> None:
    """Write (T, H, W, 3) as mp4, gif, or a PNG strip of some of them, by the path's suffix.

    Raises `ConfigError` for another suffix.
    """
    suffix = path.suffix.lower()
    if suffix not in FORMATS:
        raise ConfigError(f"cannot write '{path.name}'; choose one of {', '.join(FORMATS)}")
    path.parent.mkdir(parents=True, exist_ok=True)
    period = CONTROL_PERIOD * stride
    if suffix == ".mp4":
        write_video(path, [frames], round(1 / period))
    elif suffix == ".gif":
        first, *rest = [Image.fromarray(frame) for frame in frames]
        first.save(path, save_all=True, append_images=rest, duration=round(1000 * period), loop=0)
    else:
        chosen = np.linspace(0, len(frames) - 1, min(STRIP_FRAMES, len(frames))).round()
        Image.fromarray(np.hstack([frames[int(i)] for i in chosen])).save(path)


def _enlarged(images: np.ndarray, scale: int) -> np.ndarray:
    """(cameras, H, W, 3) → one row, each pixel `scale` pixels wide."""
    row = np.hstack(list(images))
    return np.asarray(row.repeat(scale, axis=0).repeat(scale, axis=1))


def _heading(text: str, scale: int, held: HeldOut) -> np.ndarray:
    width = held.frames.images.shape[1] * held.frames.images.shape[3] * scale
    bar = np.full((HEADING, width, 3), 255, np.uint8)
    return np.asarray(cv2.putText(bar, text, (6, 17), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (40, 40, 40)))
