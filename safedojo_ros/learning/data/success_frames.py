"""Training data of the success classifier: recorded frames, and imagined ones."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from safedojo_ros.core.errors import DatasetError
from safedojo_ros.core.types import RESIZE
from safedojo_ros.data.lerobot.frames import Source, load_frames, open_all
from safedojo_ros.data.lerobot.reader import FrameArrays
from safedojo_ros.learning.data.latent_episodes import LatentEpisodes
from safedojo_ros.learning.data.replay import ReplayStarts, decoded, draw_starts, replay
from safedojo_ros.learning.progress import progress_bar
from safedojo_ros.models.images import to_uint8
from safedojo_ros.models.world_model import WorldModel

BATCH = 32
"""Futures that are imagined together."""


@dataclass
class SuccessFrames:
    """Training data of the classifier, one row for each frame.

    images: (N, cameras, H, W, 3) uint8; success: (N,) bool; instruction: (N,) index into
    `instructions`; clip: (N,) the run of frames to which a frame belongs, in order of time (a
    recorded episode, or one imagined future); episode: (N,) the recorded episode behind it; resize:
    see `FrameArrays`.
    """

    images: np.ndarray
    success: np.ndarray
    instruction: np.ndarray
    clip: np.ndarray
    episode: np.ndarray
    instructions: tuple[str, ...]
    resize: str = RESIZE

    def of(self, chosen: np.ndarray) -> "SuccessFrames":
        """The frames `chosen` (N,) bool."""
        return SuccessFrames(
            self.images[chosen],
            self.success[chosen],
            self.instruction[chosen],
            self.clip[chosen],
            self.episode[chosen],
            self.instructions,
            self.resize,
        )

    @staticmethod
    def recorded(frames: FrameArrays) -> "SuccessFrames":
        """Every frame of recorded episodes, with its label."""
        instructions = tuple(sorted({row.instruction for row in frames.rows}))
        index = np.array([instructions.index(row.instruction) for row in frames.rows])
        return SuccessFrames(
            frames.images,
            frame_success(frames.success, frames.starts),
            index[frames.episode],
            frames.episode,
            frames.episode,
            instructions,
            frames.resize,
        )

    @staticmethod
    def imagined(
        images: np.ndarray,
        shown: np.ndarray,
        instruction: np.ndarray,
        episode: np.ndarray,
        instructions: tuple[str, ...],
    ) -> "SuccessFrames":
        """B futures of K frames: images (B, K, cameras, H, W, 3) uint8; shown (B, K) bool, whether
        the corresponding recorded frame shows success; instruction and episode (B,).
        """
        count, frames = shown.shape
        return SuccessFrames(
            images.reshape(-1, *images.shape[2:]),
            shown.reshape(-1),
            np.repeat(instruction, frames),
            np.repeat(np.arange(count), frames),
            np.repeat(episode, frames),
            instructions,
        )


def recorded_frames(sources: Sequence[Source]) -> SuccessFrames:
    """Every frame of the data sets; raises `DatasetError` where there is none, or no success."""
    frames = SuccessFrames.recorded(load_frames(open_all(sources)))
    if not frames.success.any():
        raise DatasetError(
            "no frame shows a success; collect some with --linger 8, or name the column in the "
            "contract, labels.success"
        )
    return frames


def frame_success(success: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """(N,) bool: whether each frame shows success, from `success` (N,) after each step's action.

    A frame shows the state before its own action, so it takes the label of the step before; an
    episode's first frame is no success. starts: (E + 1,) first row of each episode.
    """
    shown = np.zeros(len(success), dtype=bool)
    shown[1:] = success[:-1]
    shown[starts[:-1]] = False
    return shown


def imagined_frames(
    model: WorldModel,
    data: LatentEpisodes,
    instructions: tuple[str, ...],
    replays: int,
    chunks: int,
    seed: int,
) -> SuccessFrames:
    """Recorded actions replayed in imagination, with the labels of the recorded frames.

    Half of the futures end with an episode that succeeds, where success is seen.
    Raises `DatasetError` where no episode is long enough.
    """
    rng = np.random.default_rng(seed)
    horizon = chunks * model.size.chunk_length
    shows = frame_success(data.success, data.starts)
    succeeded = np.maximum.reduceat(shows, data.starts[:-1])
    if not np.any(succeeded & (np.diff(data.starts) > horizon)):
        succeeded[:] = True
    ending = replays // 2
    parts = (
        draw_starts(data, horizon, replays - ending, rng),
        draw_starts(data, horizon, ending, rng, succeeded, at_end=1.0),
    )
    first, start = (torch.cat([getattr(p, name) for p in parts]) for name in ("first", "start"))
    episode = np.concatenate([part.episode for part in parts])
    images, shown = [], []
    with progress_bar("imagine", 0, replays) as show:
        for begin in range(0, replays, BATCH):
            some = slice(begin, begin + BATCH)
            starts = ReplayStarts(first[some], start[some], episode[some])
            part = replay(model, data, starts, chunks, seed * 1_000_003 + begin)
            images.append(to_uint8(decoded(model, part.latents)).numpy())
            shown.append(shows[part.rows.numpy()])
            show(min(begin + BATCH, replays))
    index = np.array([instructions.index(row.instruction) for row in data.rows])
    return SuccessFrames.imagined(
        np.concatenate(images), np.concatenate(shown), index[episode], episode, instructions
    )


def kinds_of_frames(frames: SuccessFrames, chosen: np.ndarray, near: int) -> list[np.ndarray]:
    """Rows of `chosen` (N,) bool: those that show success, up to `near` before these, all others.

    A kind without a frame gets all chosen rows.
    """
    soon = np.zeros(len(chosen), dtype=bool)
    for row in np.flatnonzero(frames.success[1:] & ~frames.success[:-1]) + 1:
        before = slice(max(0, row - near), row)
        soon[before] |= frames.clip[before] == frames.clip[row]
    soon &= ~frames.success
    kinds = (frames.success, soon, ~frames.success & ~soon)
    rows = [np.flatnonzero(kind & chosen) for kind in kinds]
    return [part if len(part) else np.flatnonzero(chosen) for part in rows]
