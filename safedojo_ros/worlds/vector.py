"""Many worlds stepped together by whole chunks: the loop that policies are run in.

An imagined world offers the same `reset` and `step`, so a rollout does not know whether it dreams.
"""

from dataclasses import dataclass

import numpy as np

from safedojo_ros.core.errors import ConfigError
from safedojo_ros.core.types import ACTION_SIZE, Observation
from safedojo_ros.worlds.world import World, open_world


@dataclass(frozen=True)
class ChunkOutcome:
    """What B worlds did with B chunks of H actions.

    observations: B, after the chunk; success, cost (contact, 0 or 1) and displacement (m): (B, H);
    valid: (B, H) bool, the steps really taken, none after the end (success and what lingers after
    it, or the last allowed step); where a step is not valid the other arrays hold 0, but
    displacement holds its last value;
    done: (B,) bool.
    """

    observations: list[Observation]
    success: np.ndarray
    cost: np.ndarray
    displacement: np.ndarray
    valid: np.ndarray
    done: np.ndarray


class VectorWorld:
    """B worlds of one name in this process; pictures are rendered at chunk ends only.

    linger: control steps that go on after the first success, so that a recording shows it.
    """

    def __init__(
        self,
        image_size: int = 64,
        max_steps: int = 150,
        cameras: tuple[str, ...] = ("agentview", "wrist"),
        linger: int = 0,
        world: str = "tabletop",
    ) -> None:
        self.world = world
        self.image_size, self.max_steps, self.cameras = image_size, max_steps, cameras
        self.linger = linger
        self.worlds: list[World] = []
        self._left = np.zeros(0, dtype=int)
        self._done = np.zeros(0, dtype=bool)
        self._observations: list[Observation] = []

    def reset(self, seeds: list[int], tasks: list[str], levels: list[int]) -> list[Observation]:
        """Lay out one world for each (seed, task, level); raises `ConfigError` on other lengths."""
        if not len(seeds) == len(tasks) == len(levels):
            raise ConfigError(
                f"{len(seeds)} seeds, {len(tasks)} tasks, {len(levels)} levels: give equally many"
            )
        while len(self.worlds) < len(seeds):
            self.worlds.append(
                open_world(self.world, self.image_size, self.cameras, self.max_steps, False)
            )
        del self.worlds[len(seeds) :]
        for world, seed, task, level in zip(self.worlds, seeds, tasks, levels, strict=True):
            world.reset(seed=seed, options={"task": task, "level": level})
        self._done = np.zeros(len(seeds), dtype=bool)
        self._left = np.full(len(seeds), self.linger)
        self._observations = [observe(world) for world in self.worlds]
        return list(self._observations)

    def step(self, chunks: np.ndarray) -> ChunkOutcome:
        """Play `chunks` (B, H, 7); worlds that are done stay as they are."""
        count, horizon = len(self.worlds), np.shape(chunks)[1]
        if np.shape(chunks) != (count, horizon, ACTION_SIZE):
            raise ConfigError(f"chunks have shape {np.shape(chunks)}, expected ({count}, H, 7)")
        success, cost, displacement = (np.zeros((count, horizon)) for _ in range(3))
        valid = np.zeros((count, horizon), dtype=bool)
        for i, world in enumerate(self.worlds):
            if self._done[i]:
                displacement[i] = world.displacement
                continue
            for h in range(horizon):
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
            list(self._observations), success, cost, displacement, valid, self._done.copy()
        )


def observe(world: World) -> Observation:
    """The world's current observation, pictures included."""
    return Observation(world.pictures(), world.state(), world.instruction)
