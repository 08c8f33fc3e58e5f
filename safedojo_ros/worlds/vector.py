"""Many worlds stepped together by whole chunks. An imagined world has the same `step`."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from safedojo_ros.core.costs import COSTS
from safedojo_ros.core.errors import ConfigError
from safedojo_ros.core.types import ACTION_SIZE, Observation
from safedojo_ros.worlds.registry import DEFAULT_WORLD, open_world, world_kind
from safedojo_ros.worlds.world import Scene, World


@dataclass(frozen=True)
class ChunkOutcome:
    """What B worlds did with B chunks of H actions.

    observations: B, after the chunk; success, cost (contact, 0 or 1) and displacement (m): (B, H);
    valid: (B, H) bool, the steps that were taken before the episode's end (`linger` steps after
    success, or the step limit); in other steps displacement holds its last value, the other arrays
    0; done: (B,) bool; taken: states (B, H, S) before each step and actions (B, H, 7), by which the
    registered costs are measured, None where there are none.
    """

    observations: list[Observation]
    success: np.ndarray
    cost: np.ndarray
    displacement: np.ndarray
    valid: np.ndarray
    done: np.ndarray
    taken: tuple[np.ndarray, np.ndarray] | None = field(default=None, kw_only=True)


class VectorWorld:
    """B worlds of one name in this process; images are rendered after each `step` only.

    linger: control steps that are taken after the first success, so that a recording shows it.
    """

    def __init__(
        self,
        image_size: int = 64,
        max_steps: int = 150,
        cameras: tuple[str, ...] = ("agentview", "wrist"),
        linger: int = 0,
        world: str = DEFAULT_WORLD,
    ) -> None:
        self.world = world
        self.image_size, self.max_steps, self.cameras = image_size, max_steps, cameras
        self.linger = linger
        self.worlds: list[World] = []
        self._left = np.zeros(0, dtype=int)
        self._done = np.zeros(0, dtype=bool)
        self._observations: list[Observation] = []

    def reset(
        self, scenes: Sequence[Scene], nudges: Sequence[int] | None = None
    ) -> list[Observation]:
        """Lay out one world for each scene; nudges: option "nudge" of each."""
        while len(self.worlds) < len(scenes):
            self.worlds.append(
                open_world(self.world, self.image_size, self.cameras, self.max_steps, False)
            )
        del self.worlds[len(scenes) :]
        for i, (world, scene) in enumerate(zip(self.worlds, scenes, strict=True)):
            options: dict[str, Any] = {"task": scene.task, "level": scene.level}
            if nudges is not None:
                options["nudge"] = nudges[i]
            world.reset(seed=scene.seed, options=options)
        self._done = np.zeros(len(scenes), dtype=bool)
        self._left = np.full(len(scenes), self.linger)
        self._observations = [observe(world) for world in self.worlds]
        return list(self._observations)

    def leave(self, over: np.ndarray) -> None:
        """Step the worlds `over` (B,) bool no more."""
        self._done |= over

    def step(self, chunks: np.ndarray, steps: int | None = None) -> ChunkOutcome:
        """Execute `chunks` (B, H, 7), or their first `steps`; worlds that are done stay.

        Raises `ConfigError` for another shape.
        """
        chunks = np.asarray(chunks)[:, :steps]
        count, horizon = len(self.worlds), np.shape(chunks)[1]
        if np.shape(chunks) != (count, horizon, ACTION_SIZE):
            raise ConfigError(f"chunks have shape {np.shape(chunks)}, expected ({count}, H, 7)")
        success, cost, displacement = (np.zeros((count, horizon)) for _ in range(3))
        valid = np.zeros((count, horizon), dtype=bool)
        state = np.zeros((count, horizon, len(self.worlds[0].state()))) if COSTS else None
        for i, world in enumerate(self.worlds):
            if self._done[i]:
                displacement[i] = world.displacement
                continue
            for h in range(horizon):
                if state is not None:
                    state[i, h] = world.state()
                _, _, done, truncated, info = world.step(chunks[i, h])
                success[i, h], cost[i, h] = info["success"], info["cost"]
                displacement[i, h:] = info["displacement"]
                valid[i, h] = True
                succeeded = done or self._left[i] < self.linger
                if truncated or (succeeded and self._left[i] == 0):
                    self._done[i] = True
                    break
                self._left[i] -= succeeded
            self._observations[i] = observe(world)
        return ChunkOutcome(
            list(self._observations),
            success,
            cost,
            displacement,
            valid,
            self._done.copy(),
            taken=None if state is None else (state, chunks),
        )


def first_observations(
    world: str, scenes: Sequence[Scene], image_size: int, cameras: tuple[str, ...]
) -> list[Observation]:
    """What the cameras of a world, by its name, see first in each scene."""
    kind, seen = world_kind(world), list[Observation]()
    vector = VectorWorld(image_size, kind.max_steps, cameras, world=world)
    for first in range(0, len(scenes), kind.side_by_side):
        seen += vector.reset(scenes[first : first + kind.side_by_side])
    return seen


def observe(world: World) -> Observation:
    """The world's current observation, images included."""
    return Observation(world.images(), world.state(), world.instruction)
