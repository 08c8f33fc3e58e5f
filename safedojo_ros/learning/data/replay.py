"""Recorded actions replayed in the world model; after the start it sees only its own frames."""

from dataclasses import dataclass

import numpy as np
import torch

from safedojo_ros.core.errors import DatasetError
from safedojo_ros.learning.data.latent_episodes import LatentEpisodes
from safedojo_ros.models.world_model import WorldModel

BATCH = 16
"""Replays that are decoded together."""


@dataclass(frozen=True)
class ReplayStarts:
    """Where replays start; first: (B,) frame; start: (B,) its episode's first; episode: (B,)."""

    first: torch.Tensor
    start: torch.Tensor
    episode: np.ndarray


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


def draw_starts(
    data: LatentEpisodes,
    horizon: int,
    count: int,
    rng: np.random.Generator,
    episodes: np.ndarray | None = None,
    at_end: float = 0.0,
) -> ReplayStarts:
    """`count` random frames after which `horizon` steps are recorded.

    Every such frame of `episodes` (E,) bool (default: all) is equally likely. The share `at_end` of
    the replays ends with the episode, where success is seen. Raises `DatasetError` where no episode
    is long enough.
    """
    room = np.diff(data.starts) - horizon
    room = np.where(True if episodes is None else episodes, room, 0).clip(0)
    if not room.any():
        raise DatasetError(f"no episode is longer than a replay of {horizon} steps; imagine less")
    episode = rng.choice(len(room), count, p=room / room.sum())
    offset = (rng.random(count) * room[episode]).astype(np.int64)
    offset = np.where(rng.random(count) < at_end, room[episode] - 1, offset)
    start = torch.from_numpy(data.starts[episode])
    return ReplayStarts(start + torch.from_numpy(offset), start, episode)


@torch.no_grad()
def replay(
    model: WorldModel,
    data: LatentEpisodes,
    starts: ReplayStarts,
    chunks: int,
    seed: int = 0,
    actions: torch.Tensor | None = None,
    batch: int = 64,
) -> Replays:
    """What the model imagines, on the CPU.

    actions: (B, chunks·H, 7) normalised (default: the recorded ones). The noise depends on `seed`
    and a replay's number alone, neither on `batch` nor on the actions.
    """
    size, first, device = model.size, starts.first, model.device
    if actions is None:
        actions = data.actions[first[:, None] + torch.arange(chunks * size.chunk_length)]
    generator = torch.Generator().manual_seed(seed)
    shape = (len(first), chunks, size.future, *data.latents.shape[1:])
    noise = torch.randn(shape, generator=generator)
    frames, states = [], []
    for rows in torch.arange(len(first)).split(batch):
        before = data.transitions(size, first[rows], starts.start[rows])
        context, state = before.context.to(device), before.state.to(device)
        seen, moved = [], []
        for k, chunk in enumerate(actions[rows].to(device).split(size.chunk_length, dim=1)):
            future, path = model.imagine(context, state, chunk, noise[rows, k].to(device))
            context = model.advanced(context, future)
            state = path[:, -1]
            seen.append(future.cpu())
            moved.append(path.cpu())
        frames.append(torch.cat(seen, dim=1))
        states.append(torch.cat(moved, dim=1))
    ahead = (1 + torch.arange(chunks * size.future)) * size.stride
    return Replays(starts, torch.cat(frames), torch.cat(states), first[:, None] + ahead)


@torch.no_grad()
def decoded(model: WorldModel, latents: torch.Tensor) -> torch.Tensor:
    """(B, K, cameras, 3, H, W) in [−1, 1] of latents (B, K, C, h, w), on the CPU."""
    parts = [model.decode(part.float().to(model.device)).cpu() for part in latents.split(BATCH)]
    return torch.cat(parts).clamp(-1, 1)
