"""A first look at a world model: replayed actions, imagined beside recorded frames, by horizon.

Held-out episodes are replayed open-loop: the model sees the first frames and then only its own.
`safedojo train world-model` prints these; the whole report is that of `safedojo validate`.
"""

from dataclasses import dataclass

import numpy as np
import torch

from safedojo_ros.evaluation.statistics import bootstrap_mean
from safedojo_ros.learning.data.replay import replay
from safedojo_ros.learning.world_model import LatentEpisodes, chunk_starts, clip
from safedojo_ros.models.world_model import WorldModel


@dataclass(frozen=True)
class HorizonError:
    """Errors after `steps` control steps, over `count` replays.

    mse: pixel error of the imagined frame against the autoencoder's picture of the recorded one,
    in [0, 1] units; copying: of the last seen frame; permuted: of the frame imagined under another
    replay's actions; state_cm: distance of the predicted end-effector from the recorded one,
    centimetres. Each with a 95 % bootstrap interval.
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
    pairs = chunk_starts(data, episodes, horizon)
    if len(pairs) == 0:
        return []
    rng = np.random.default_rng(seed)
    picked = rng.choice(len(pairs), size=min(replays, len(pairs)), replace=False)
    first, start = pairs[torch.from_numpy(picked)].unbind(1)
    steps = torch.arange(horizon)
    other = data.actions[torch.roll(first, 1)[:, None] + steps]
    frames, states = replay(model, data, first, start, chunks, seed)
    swapped, _ = replay(model, data, first, start, chunks, seed, other)
    seen = _pictures(model, clip(data, size, first, start)[0][:, -1:])
    result = []
    for k in range(1, chunks + 1):
        at, now = first + k * size.chunk_length, k * size.future - 1
        real = _pictures(model, data.latents[at][:, None].float())
        moved = model.scales.state.restore(data.state[at])[:, :3]
        imagined_at = model.scales.state.restore(states[:, k * size.chunk_length - 1])[:, :3]
        columns = (
            _pixel_error(_pictures(model, frames[:, now, None]), real),
            _pixel_error(seen, real),
            _pixel_error(_pictures(model, swapped[:, now, None]), real),
            (100.0 * (imagined_at - moved).norm(dim=1)).numpy(),
        )
        intervals = [_with_interval(values) for values in columns]
        result.append(HorizonError(k * size.chunk_length, len(first), *intervals))
    return result


def _pictures(model: WorldModel, latents: torch.Tensor) -> torch.Tensor:
    return (model.decode(latents.to(model.device)).cpu().clamp(-1, 1) + 1) / 2


def _pixel_error(one: torch.Tensor, other: torch.Tensor) -> np.ndarray:
    return np.asarray((one - other).square().flatten(1).mean(1))


def _with_interval(values: np.ndarray) -> tuple[float, float, float]:
    mean = bootstrap_mean(values.tolist())
    return mean.value, mean.low, mean.high
