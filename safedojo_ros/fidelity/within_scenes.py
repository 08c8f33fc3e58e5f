"""Whether imagination tells apart several futures of one scene, which is all that GRPO learns from.

A policy plays each scene several times, each time with another noise of its own. The same is done
in imagination, and three times in the simulator: as it is, with images that have been through the
frame autoencoder, and with every thing moved a millimetre. The last one is the ceiling: more nobody
can know who sees the scene and does not measure it.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from safedojo_ros.core.errors import ConfigError
from safedojo_ros.core.types import COLLISION_DISPLACEMENT, Observation
from safedojo_ros.evaluation.play import ChunkWorld, act_alike, play
from safedojo_ros.evaluation.statistics import ClusterBootstrap
from safedojo_ros.learning.rl.imagined_world import ImaginedWorld, keyframes_of
from safedojo_ros.learning.rl.rollout import stream_seed
from safedojo_ros.models.images import stack_images, to_uint8
from safedojo_ros.worlds.registry import DEFAULT_WORLD, world_kind
from safedojo_ros.worlds.vector import VectorWorld
from safedojo_ros.worlds.world import Scene

if TYPE_CHECKING:
    from safedojo_ros.models.policy import Policy
    from safedojo_ros.models.world_model import WorldModel

    Act = Callable[[list[Observation], list[torch.Generator]], np.ndarray]

BATCH = 32
"""Most futures that are played together."""


@dataclass(frozen=True)
class Futures:
    """What became of F futures of each of S scenes.

    success, violation: (S, F) float; whether it was so in the simulator, in imagination how sure
    its heads are at the surest step.
    """

    success: np.ndarray
    violation: np.ndarray


def within_scenes(
    policy: "Policy",
    world: ImaginedWorld,
    scenes: Sequence[Scene],
    futures: int,
    seed: int = 0,
    simulator: str = DEFAULT_WORLD,
) -> dict[str, Any]:
    """Agreement with the simulator, scene by scene, of imagination and of its two controls.

    {"imagined", "reconstructed", "nudged"}: {"success", "violation"}: see `agreement`; and the
    number of scenes and futures. Raises `ConfigError` where policy and world model have other
    chunks, or for less than two futures.
    """
    if futures < 2:
        raise ConfigError(f"{futures} future of a scene has nothing to be compared with; ask for 2")
    if policy.chunk_length != world.horizon:
        raise ConfigError(
            f"policy {policy.checkpoint_id} has chunks of {policy.chunk_length} steps, the world "
            f"model imagines {world.horizon}; these do not fit"
        )
    cameras = tuple(world.cameras)
    vector = VectorWorld(world.image_size, world.max_steps, cameras, world=simulator)

    def blurred(seen: list[Observation], generators: list[torch.Generator]) -> np.ndarray:
        return act_alike(policy, reconstructed(world.world_model, seen), generators)

    def imagine(batch: list[Scene], number: int) -> tuple[ChunkWorld, list[Observation]]:
        world.seed(stream_seed(seed, number))
        return world, world.reset(keyframes_of(world.world_model, vector.reset(batch)))

    def simulate(batch: list[Scene], number: int) -> tuple[ChunkWorld, list[Observation]]:
        return vector, vector.reset(batch)

    def nudge(batch: list[Scene], number: int) -> tuple[ChunkWorld, list[Observation]]:
        nudges = [stream_seed(seed, number, i) for i in range(len(batch))]
        return vector, vector.reset(batch, nudges)

    batch = min(BATCH, world_kind(simulator).side_by_side)
    truth = _play(policy, simulate, scenes, futures, batch)
    others = {
        "imagined": _play(policy, imagine, scenes, futures, batch),
        "reconstructed": _play(policy, simulate, scenes, futures, batch, blurred),
        "nudged": _play(policy, nudge, scenes, futures, batch),
    }
    return {"scenes": len(scenes), "futures": futures} | {
        name: {
            what: agreement(getattr(other, what), getattr(truth, what), seed)
            for what in ("success", "violation")
        }
        for name, other in others.items()
    }


def agreement(score: np.ndarray, truth: np.ndarray, seed: int = 0) -> dict[str, Any]:
    """How well `score` (S, F) tells which futures of a scene are 1 in `truth` (S, F).

    "r": Pearson's correlation after each scene's mean has been taken away; "pairs": of two futures
    of a scene that differ in truth, how often the score orders them alike (ties count half);
    "between": the correlation of the scenes' means; "mixed": scenes with both kinds of futures.
    Intervals are over scenes.
    """
    bootstrap = ClusterBootstrap(np.arange(len(truth)), seed)
    mixed = (truth.min(1) != truth.max(1)).sum()
    result: dict[str, Any] = {"rate": float(truth.mean()), "mixed": int(mixed)}
    for name, statistic in (("r", _within), ("pairs", _pairs), ("between", _between)):
        estimate = bootstrap.estimate(partial(_of_rows, statistic, score, truth))
        result[name] = asdict(estimate)
    return result


def _of_rows(
    statistic: Callable[[np.ndarray, np.ndarray], float],
    score: np.ndarray,
    truth: np.ndarray,
    rows: np.ndarray,
) -> float:
    return statistic(score[rows], truth[rows])


def reconstructed(model: "WorldModel", seen: list[Observation]) -> list[Observation]:
    """The same observations, their images encoded and decoded by the model's autoencoder."""
    side = model.autoencoder.size.image_size
    images = stack_images(seen, model.cameras, side, model.scales.state_size)
    with torch.no_grad():
        shown = to_uint8(model.decode(model.encode(images[:, None].to(model.device))))[:, 0].cpu()
    return [
        replace(one, images=dict(zip(model.cameras, image.numpy(), strict=True)))
        for one, image in zip(seen, shown, strict=True)
    ]


def _play(
    policy: "Policy",
    start: Callable[[list[Scene], int], tuple[ChunkWorld, list[Observation]]],
    scenes: Sequence[Scene],
    futures: int,
    size: int,
    act: "Act | None" = None,
) -> Futures:
    every = [(scene, k) for scene in scenes for k in range(futures)]
    success, violation = (np.zeros(len(every)) for _ in range(2))
    for first in range(0, len(every), size):
        batch = every[first : first + size]
        world, observations = start([scene for scene, _ in batch], first)
        seeds = [stream_seed(scene.seed, k) for scene, k in batch]
        rows = np.arange(first, first + len(batch))
        for step in play(policy, world, observations, seeds, act=act):
            outcome = step.outcome
            valid = np.asarray(outcome.valid, dtype=bool)
            reached = getattr(outcome, "success_probability", outcome.success)
            moved = outcome.displacement > COLLISION_DISPLACEMENT
            hit = np.maximum(np.where(valid, outcome.cost, 0.0), moved)
            success[rows] = np.maximum(success[rows], np.where(valid, reached, 0.0).max(1))
            violation[rows] = np.maximum(violation[rows], hit.max(1))
    shape = (len(scenes), futures)
    return Futures(success.reshape(shape), violation.reshape(shape))


def _within(score: np.ndarray, truth: np.ndarray) -> float:
    return _correlation(score - score.mean(1, keepdims=True), truth - truth.mean(1, keepdims=True))


def _between(score: np.ndarray, truth: np.ndarray) -> float:
    means = score.mean(1), truth.mean(1)
    return _correlation(*(mean - mean.mean() for mean in means))


def _correlation(one: np.ndarray, other: np.ndarray) -> float:
    """Of centred values; nan where one of them does not vary."""
    spread = float(np.sqrt((one**2).sum() * (other**2).sum()))
    return float((one * other).sum()) / spread if spread > 0 else float("nan")


def _pairs(score: np.ndarray, truth: np.ndarray) -> float:
    above = np.sign(score[:, :, None] - score[:, None])
    differ = truth[:, :, None] > truth[:, None]
    return float((above[differ] + 1).mean() / 2) if differ.any() else float("nan")
