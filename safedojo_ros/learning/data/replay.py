"""Recorded actions replayed through the world model, which sees only its own frames after start."""

from dataclasses import dataclass

import numpy as np
import torch

from safedojo_ros.core.errors import DatasetError
from safedojo_ros.learning.world_model import LatentEpisodes, clip
from safedojo_ros.models.world_model import WorldModel


@dataclass(frozen=True)
class ReplayStarts:
    """Where replays begin. first: (B,) frame; start: (B,) its episode's first; episode: (B,)."""

    first: torch.Tensor
    start: torch.Tensor
    episode: np.ndarray


def draw_starts(
    data: LatentEpisodes,
    horizon: int,
    count: int,
    rng: np.random.Generator,
    episodes: np.ndarray | None = None,
    at_end: float = 0.0,
) -> ReplayStarts:
    """`count` random frames after which `horizon` steps are recorded.

    Every such frame of `episodes` (E,) bool (default: all) is as likely as any other; but of the
    share `at_end`, the replay ends where its episode ends, since success is to be seen there.
    Raises `DatasetError` where no episode is long enough.
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
    first: torch.Tensor,
    start: torch.Tensor,
    chunks: int,
    seed: int = 0,
    actions: torch.Tensor | None = None,
    batch: int = 64,
) -> tuple[torch.Tensor, torch.Tensor]:
    """What the model imagines from the frames `first` (B,) on, their episodes beginning at `start`.

    actions: (B, chunks·H, 7) normalised; default: those recorded. Returns latents
    (B, chunks·F, C, h, w) and normalised states (B, chunks·H, 8), on the CPU. The noise depends on
    `seed` and a replay's place alone, so neither `batch` nor other actions change it.
    """
    size = model.size
    steps = torch.arange(chunks * size.chunk_length)
    if actions is None:
        actions = data.actions[first[:, None] + steps]
    device = model.device
    generator = torch.Generator().manual_seed(seed)
    shape = (len(first), chunks, size.future, *data.latents.shape[1:])
    noise = torch.randn(shape, generator=generator)
    frames, states = [], []
    for rows in torch.arange(len(first)).split(batch):
        context, _, state, _, _ = clip(data, size, first[rows], start[rows])
        context, state = context.to(device), state.to(device)
        seen, moved = [], []
        for k, chunk in enumerate(actions[rows].to(device).split(size.chunk_length, dim=1)):
            future, path = model.imagine(context, state, chunk, noise[rows, k].to(device))
            context = model.advanced(context, future)
            state = path[:, -1]
            seen.append(future.cpu())
            moved.append(path.cpu())
        frames.append(torch.cat(seen, dim=1))
        states.append(torch.cat(moved, dim=1))
    return torch.cat(frames), torch.cat(states)
