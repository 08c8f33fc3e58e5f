"""The start states of practice, each for a whole group of trajectories.

Both worlds have the same interface: `start(update)` returns the first observations of an update's
trajectories, `step(chunks, steps)` executes part of a chunk. Starts depend on seed and update
alone; each may also lay out one group of them.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from safedojo_ros.core.costs import CostLimit
from safedojo_ros.core.errors import ConfigError, DatasetError
from safedojo_ros.core.types import Observation
from safedojo_ros.data.lerobot.layout import CAMERA_PREFIX
from safedojo_ros.data.lerobot.reader import EpisodeReader
from safedojo_ros.learning.rl.imagined_world import (
    ImaginedOutcome,
    ImaginedWorld,
    Keyframes,
    keyframes_of,
)
from safedojo_ros.learning.rl.rollout import stream_seed
from safedojo_ros.models.world_model import WorldModel
from safedojo_ros.worlds.seeds import TRAINING
from safedojo_ros.worlds.vector import ChunkOutcome, VectorWorld
from safedojo_ros.worlds.world import Scene


class PracticeWorld(Protocol):
    """A world that practice takes its trajectories from.

    real: its episodes and collisions are counted as real; contact_threshold: see
    `learning.rl.rollout.RolloutWorld`.
    """

    real: bool
    contact_threshold: float

    @property
    def others(self) -> Sequence[CostLimit]:
        """The costs beside contact that its outcomes have."""
        ...

    def start(self, update: int, /) -> list[Observation]:
        """Observations of all groups in order; those of a group are the same."""
        ...

    def step(self, chunks: np.ndarray, steps: int) -> Any:
        """See `evaluation.play.ChunkWorld`."""
        ...


class DividedWorld(PracticeWorld, Protocol):
    """A practice world whose groups can be started one by one, on several workers."""

    def start(self, update: int, group: int | None = None) -> list[Observation]:
        """Observations of this group alone, or of all."""
        ...


class SimulatorStarts:
    """The simulator: every group has a scene from a random training seed."""

    real = True
    contact_threshold = 0.5  # its step costs are 0 or 1
    others: Sequence[CostLimit] = ()

    def __init__(
        self,
        vector: VectorWorld,
        tasks: Sequence[str],
        levels: Sequence[int],
        groups: int,
        group_size: int,
        seed: int,
    ) -> None:
        self.vector, self.tasks, self.levels = vector, list(tasks), list(levels)
        self.groups, self.group_size, self.seed = groups, group_size, seed

    def start(self, update: int, group: int | None = None) -> list[Observation]:
        """Lay out the scenes; tasks and levels alternate over groups and updates."""
        rng = np.random.default_rng([self.seed, update])
        seeds = rng.integers(TRAINING.start, TRAINING.stop, self.groups).tolist()
        tasks, levels = self.tasks, self.levels
        scenes = [
            Scene(seed, tasks[n % len(tasks)], levels[n // len(tasks) % len(levels)])
            for n, seed in enumerate(seeds, update * self.groups)
        ]
        chosen = scenes if group is None else [scenes[group]]
        return self.vector.reset([s for s in chosen for _ in range(self.group_size)])

    def step(self, chunks: np.ndarray, steps: int) -> ChunkOutcome:
        """Execute the first `steps` actions of a chunk in every scene."""
        return self.vector.step(chunks, steps)


class KeyframeStarts:
    """The imagined world: every group has one recorded keyframe."""

    real = False

    def __init__(
        self,
        imagined: ImaginedWorld,
        keyframes: Keyframes,
        groups: int,
        group_size: int,
        seed: int,
    ) -> None:
        self.imagined, self.keyframes = imagined, keyframes
        self.contact_threshold, self.others = imagined.contact_threshold, imagined.safety.others
        self.groups, self.group_size, self.seed = groups, group_size, seed

    def start(self, update: int, group: int | None = None) -> list[Observation]:
        """Keyframes in a random order, none twice before all have been used."""
        count, first = len(self.keyframes), update * self.groups
        rows = [
            np.random.default_rng([self.seed, n // count]).permutation(count)[n % count]
            for n in range(first, first + self.groups)
        ]
        self.imagined.seed(stream_seed(self.seed, update))
        size = self.group_size
        if group is None:
            return self.imagined.reset(self.keyframes.chosen(np.array(rows)).repeated(size))
        chosen = self.keyframes.chosen(np.array(rows[group : group + 1])).repeated(size)
        return self.imagined.reset(chosen, (group * size, self.groups * size))

    def step(self, chunks: np.ndarray, steps: int) -> ImaginedOutcome:
        """Imagine the first `steps` actions of a chunk in every future."""
        return self.imagined.step(chunks, steps)


def recorded_keyframes(
    model: WorldModel, directories: Sequence[Path], levels: Sequence[int], tasks: Sequence[str]
) -> Keyframes:
    """The first frames of recorded episodes at these levels and of these tasks (none: all).

    Raises `DatasetError` for images that were made to fit by another rule than the model's.
    """
    observations = []
    for directory in directories:
        reader = EpisodeReader(directory)
        if reader.resize != model.resize:
            raise DatasetError(
                f"the images of {directory} were made to fit by '{reader.resize}', those of world "
                f"model {model.checkpoint_id} by '{model.resize}'; give --data of its rule"
            )
        wanted = [
            e
            for e, row in enumerate(reader.rows)
            if row.level in levels and (not tasks or row.task in tasks)
        ]
        if not wanted:
            continue
        first = reader.first_pictures(wanted)
        arrays = reader.load_arrays(wanted, images=False)
        for place, e in enumerate(wanted):
            images = {n: first[CAMERA_PREFIX + n][place] for n in model.cameras}
            state = arrays.state[arrays.starts[place]]
            observations.append(Observation(images, state, reader.rows[e].instruction))
    if not observations:
        raise ConfigError(
            f"no episode of {[str(d) for d in directories]} is at levels {list(levels)} and of "
            f"the tasks {list(tasks) or 'all'}; collect some"
        )
    return keyframes_of(model, observations)
