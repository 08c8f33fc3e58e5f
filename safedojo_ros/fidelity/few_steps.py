"""What fewer denoising steps cost in quality, and what they save in time."""

import time
from dataclasses import asdict, replace
from typing import Any

from safedojo_ros.evaluation.statistics import ClusterBootstrap
from safedojo_ros.fidelity.held_out import HeldOut, decoded
from safedojo_ros.fidelity.image_error import mean_squared_error
from safedojo_ros.learning.data.replay import ReplayStarts, replay
from safedojo_ros.models.world_model import WorldModel

DENOISING_STEPS = (1, 2, 4)


def few_step_errors(
    world: WorldModel,
    held: HeldOut,
    starts: ReplayStarts,
    chunks: int,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """For each of `DENOISING_STEPS`: the error after the first and the last chunk, and the time.

    mse: of the last frame against the camera's, in [0, 1] units, with an interval over episodes;
    seconds_per_chunk: for a chunk of one replay, without decoding, when all are imagined together.
    """
    usual, result = world.size, []
    bootstrap = ClusterBootstrap(starts.episode, seed)
    try:
        for count in DENOISING_STEPS:
            world.size = replace(usual, denoising_steps=count)
            begun = time.perf_counter()
            replays = replay(world, held.latents, starts, chunks, seed)
            seconds = (time.perf_counter() - begun) / (chunks * len(starts.first))
            for chunk in sorted({1, chunks}):
                at = chunk * usual.future - 1
                imagined = decoded(world, replays.latents[:, at, None])[:, 0]
                real = held.images(replays.rows[:, at])
                error = mean_squared_error(imagined, real).numpy()
                result.append(
                    {
                        "denoising_steps": count,
                        "steps": chunk * usual.chunk_length,
                        "mse": asdict(bootstrap.estimate(lambda rows, e=error: e[rows].mean())),  # type: ignore[misc]
                        "seconds_per_chunk": seconds,
                    }
                )
    finally:
        world.size = usual
    return result
