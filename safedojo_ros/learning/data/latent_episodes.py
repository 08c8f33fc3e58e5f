"""Recorded episodes as inputs of the world model, and the chunks that it is trained on."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch

from safedojo_ros.data.lerobot.frames import Source, load_frames, open_all
from safedojo_ros.data.lerobot.reader import FrameArrays
from safedojo_ros.data.lerobot.rows import EpisodeRow
from safedojo_ros.learning.data.latents import encode, recorded_latents
from safedojo_ros.models.world_model import WorldModel, WorldModelSize


class Transitions(NamedTuple):
    """Context and outcome of B chunks; states and actions are normalised.

    context: (B, F_c, C, h, w), of a remembered frame and the newest ones; future: (B, F, C, h, w);
    state: (B, 8) at the chunk's start; chunk: (B, H, 7).
    """

    context: torch.Tensor
    future: torch.Tensor
    state: torch.Tensor
    chunk: torch.Tensor


@dataclass
class LatentEpisodes:
    """Recorded episodes, encoded.

    latents: (N, C, h, w) float16; state (N, S) and actions (N, A), executed, normalised;
    cost, success: (N,); starts: (E + 1,) first frame of each episode; rows: what is known of each
    episode.
    """

    latents: torch.Tensor
    state: torch.Tensor
    actions: torch.Tensor
    cost: np.ndarray
    success: np.ndarray
    starts: np.ndarray
    rows: list[EpisodeRow]

    @staticmethod
    def read(sources: Sequence[Source], model: WorldModel, device: str) -> "LatentEpisodes":
        """Encode every frame; raises `DatasetError` where there is none.

        The images of one data set at a time are held in memory.
        """
        readers = open_all(sources)
        latents = [recorded_latents(reader, model.autoencoder, device) for reader in readers]
        return LatentEpisodes._of(load_frames(readers, images=False), torch.cat(latents), model)

    @staticmethod
    def encode(frames: FrameArrays, model: WorldModel, device: str) -> "LatentEpisodes":
        """Encode frames that are in memory."""
        latents = encode(torch.from_numpy(frames.images), model.autoencoder, device)
        return LatentEpisodes._of(frames, latents, model)

    @staticmethod
    def _of(frames: FrameArrays, latents: torch.Tensor, model: WorldModel) -> "LatentEpisodes":
        """latents: (N, cameras, C, s, s)."""
        return LatentEpisodes(
            torch.cat(list(latents.unbind(1)), dim=-1),
            model.scales.state.normalise(torch.from_numpy(frames.state)),
            model.scales.action.normalise(torch.from_numpy(frames.actions)),
            frames.cost,
            frames.success,
            frames.starts,
            frames.rows,
        )

    def chunk_starts(self, episodes: np.ndarray, length: int) -> torch.Tensor:
        """(M, 2): frames of `episodes` (E,) bool that `length` steps follow, and their episode's
        first frame.
        """
        pairs = [
            (frame, self.starts[e])
            for e in np.flatnonzero(episodes).tolist()
            for frame in range(self.starts[e], self.starts[e + 1] - length)
        ]
        return torch.tensor(pairs, dtype=torch.int64).reshape(-1, 2)

    def transitions(
        self,
        size: WorldModelSize,
        first: torch.Tensor,
        episode_start: torch.Tensor,
        remembered: torch.Tensor | None = None,
    ) -> Transitions:
        """The transitions of the chunks that start at the frames `first` (B,).

        The episode's first frame takes the place of context before it. remembered: (B,) the
        context's first frame (default: the episode's).
        """
        back = torch.arange(2 - size.context, 1) * size.stride
        ahead = torch.arange(1, size.future + 1) * size.stride
        steps = first[:, None] + torch.arange(size.chunk_length)
        newest = torch.maximum(first[:, None] + back, episode_start[:, None])
        remembered = episode_start if remembered is None else remembered
        return Transitions(
            self.latents[torch.cat([remembered[:, None], newest], dim=1)].float(),
            self.latents[first[:, None] + ahead].float(),
            self.state[first],
            self.actions[steps],
        )
