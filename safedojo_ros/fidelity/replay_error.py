"""Errors of a world model by horizon, as `safedojo train world-model` prints them.

Held-out episodes are replayed open-loop: the model sees the first frames and then only its own. The
whole report is that of `safedojo validate`.
"""

from dataclasses import astuple, dataclass

import numpy as np
import torch

from safedojo_ros.evaluation.statistics import bootstrap_mean
from safedojo_ros.fidelity.held_out import decoded
from safedojo_ros.fidelity.image_error import mean_squared_error
from safedojo_ros.learning.data.latent_episodes import LatentEpisodes
from safedojo_ros.learning.data.replay import ReplayStarts, replay
from safedojo_ros.models.world_model import WorldModel


@dataclass(frozen=True)
class HorizonError:
    """Errors after `steps` control steps, over `count` replays.

    mse: pixel error of the imagined frame against the autoencoder's image of the recorded one,
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
) -> list[HorizonError]:
    """Errors by horizon, one entry a chunk, over random starts in `episodes` (E,) bool."""
    size = model.size
    horizon = chunks * size.chunk_length
    pairs = data.chunk_starts(episodes, horizon)
    if len(pairs) == 0:
        return []
    rng = np.random.default_rng(0)
    picked = rng.choice(len(pairs), size=min(replays, len(pairs)), replace=False)
    first, start = pairs[torch.from_numpy(picked)].unbind(1)
    starts = ReplayStarts(first, start, np.zeros(0))
    other = data.actions[torch.roll(first, 1)[:, None] + torch.arange(horizon)]
    true = replay(model, data, starts, chunks)
    swapped = replay(model, data, starts, chunks, actions=other)
    seen = decoded(model, data.latents[first][:, None])
    known = 1.0 if model.scales.moves_gripper else np.nan
    result = []
    for k in range(1, chunks + 1):
        at, now = first + k * size.chunk_length, k * size.future - 1
        real = decoded(model, data.latents[at][:, None])
        moved = model.scales.state.restore(data.state[at])[:, :3]
        reached = model.scales.state.restore(true.states[:, k * size.chunk_length - 1])[:, :3]
        columns = (
            mean_squared_error(decoded(model, true.latents[:, now, None]), real),
            mean_squared_error(seen, real),
            mean_squared_error(decoded(model, swapped.latents[:, now, None]), real),
            100.0 * (reached - moved).norm(dim=1) * known,
        )
        estimates = (astuple(bootstrap_mean(values.tolist())) for values in columns)
        result.append(HorizonError(k * size.chunk_length, len(first), *estimates))
    return result
