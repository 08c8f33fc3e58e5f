"""How far a world model can be believed: replayed actions, imagined beside recorded frames.

Held-out episodes are replayed open-loop: the model sees the first frames and then only its own.
"""

from dataclasses import dataclass

import numpy as np
import torch

from safedojo_ros.learning.world_model_training import LatentEpisodes, clip
from safedojo_ros.models.world_model import WorldModel


@dataclass(frozen=True)
class HorizonError:
    """Errors after `steps` control steps, over `count` replays.

    mse: pixel error of the imagined frame, in [0, 1] units; copying: of the last seen frame;
    permuted: of the frame imagined under another replay's actions; state_cm: distance of the
    predicted end-effector from the recorded one, centimetres. Each with a 95 % bootstrap interval.
    """

    steps: int
    count: int
    mse: tuple[float, float, float]
    copying: tuple[float, float, float]
    permuted: tuple[float, float, float]
    state_cm: tuple[float, float, float]


@torch.no_grad()
def replay_errors(
    model: WorldModel,
    data: LatentEpisodes,
    episodes: np.ndarray,
    chunks: int = 5,
    replays: int = 64,
    seed: int = 0,
) -> list[HorizonError]:
    """Errors by horizon, one entry a chunk, over random starts in `episodes` (E,) bool."""
    size = model.size
    horizon = chunks * size.chunk_length
    rng = np.random.default_rng(seed)
    pairs = [
        (frame, data.starts[e])
        for e in np.flatnonzero(episodes)
        for frame in range(data.starts[e], data.starts[e + 1] - horizon)
    ]
    if not pairs:
        return []
    picked = rng.choice(len(pairs), size=min(replays, len(pairs)), replace=False)
    first, start = torch.tensor([pairs[i] for i in picked]).unbind(1)
    true = _roll(model, data, first, start, chunks, seed, other=None)
    swapped = _roll(model, data, first, start, chunks, seed, other=torch.roll(first, 1))
    seen = _pictures(model, clip(data, size, first, start)[0][:, -1:])
    result = []
    for k in range(chunks):
        at = first + (k + 1) * size.chunk_length
        real = _pictures(model, data.latents[at][:, None].float())
        moved = model.scales.state.restore(data.state[at])[:, :3]
        imagined_at = model.scales.state.restore(true[k][1])[:, :3]
        columns = (
            _pixel_error(_pictures(model, true[k][0]), real),
            _pixel_error(seen, real),
            _pixel_error(_pictures(model, swapped[k][0]), real),
            (100.0 * (imagined_at - moved).norm(dim=1)).numpy(),
        )
        intervals = [_with_interval(values, rng) for values in columns]
        result.append(HorizonError((k + 1) * size.chunk_length, len(first), *intervals))
    return result


def _roll(
    model: WorldModel,
    data: LatentEpisodes,
    first: torch.Tensor,
    start: torch.Tensor,
    chunks: int,
    seed: int,
    other: torch.Tensor | None,
) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """(last frame, state) after each chunk; `other`: frames whose actions are taken instead."""
    size = model.size
    context, future, state, _, _ = clip(data, size, first, start)
    generator = torch.Generator().manual_seed(seed)
    steps = torch.arange(size.chunk_length)
    source = first if other is None else other
    result = []
    for k in range(chunks):
        chunk = data.actions[source[:, None] + k * size.chunk_length + steps]
        noise = torch.randn(future.shape, generator=generator)
        frames, states = model.imagine(context, state, chunk, noise)
        context = torch.cat([context, frames], dim=1)[:, -size.context :]
        state = states[:, -1]
        result.append((frames[:, -1:], state))
    return result


def _pictures(model: WorldModel, latents: torch.Tensor) -> torch.Tensor:
    return (model.decode(latents).clamp(-1, 1) + 1) / 2


def _pixel_error(one: torch.Tensor, other: torch.Tensor) -> np.ndarray:
    return np.asarray((one - other).square().flatten(1).mean(1))


def _with_interval(values: np.ndarray, rng: np.random.Generator) -> tuple[float, float, float]:
    draws = rng.integers(0, len(values), (1000, len(values)))
    low, high = np.percentile(values[draws].mean(axis=1), [2.5, 97.5])
    return float(values.mean()), float(low), float(high)
