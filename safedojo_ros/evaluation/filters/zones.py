"""Forbidden zones in evaluation: what the robot's camera would show, from the simulator.

An oracle: the obstacle's surface as points, without noise, delay or anything hidden, and neither
the table, nor the robot, nor what is to be gripped among them. It shows what the check of
`robot.gate.zones` can do, not what a depth camera would make of it.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from safedojo_ros.core.errors import ConfigError
from safedojo_ros.core.types import Observation
from safedojo_ros.robot.gate.zones import Surroundings
from safedojo_ros.worlds.tabletop.scene import THINGS
from safedojo_ros.worlds.tabletop.world import TabletopWorld

if TYPE_CHECKING:
    from collections.abc import Sequence

    from safedojo_ros.worlds.vector import ChunkOutcome, VectorWorld
    from safedojo_ros.worlds.world import Scene, World

SPACING = 0.01
"""Metres between the points."""


@dataclass(frozen=True)
class SurveyedObservation(Observation):
    """An observation with what is known of where things are; its points are as old as its images.

    around: `points` of the obstacle's surface, none where there is none, and the arm's `joints`.
    """

    around: Surroundings = Surroundings()


class SurveyedWorld:
    """Worlds whose observations are `SurveyedObservation`."""

    def __init__(self, vector: "VectorWorld") -> None:
        self.vector = vector

    def __getattr__(self, name: str) -> Any:
        return getattr(self.vector, name)

    def reset(self, scenes: "Sequence[Scene]") -> list[Observation]:
        """See `VectorWorld.reset`."""
        return self._surveyed(self.vector.reset(scenes))

    def step(self, chunks: np.ndarray, steps: int | None = None) -> "ChunkOutcome":
        """See `VectorWorld.step`."""
        outcome = self.vector.step(chunks, steps)
        outcome.observations[:] = self._surveyed(outcome.observations)
        return outcome

    def _surveyed(self, observations: list[Observation]) -> list[Observation]:
        return [
            SurveyedObservation(
                o.images, o.state, o.instruction, o.stamp, o.joints, around=survey(world)
            )
            for o, world in zip(observations, self.vector.worlds, strict=True)
        ]


def survey(world: "World") -> Surroundings:
    """The obstacle's surface and the arm's joints, as they truly are.

    Raises `ConfigError` for another world than the tabletop.
    """
    if not isinstance(world, TabletopWorld):
        raise ConfigError("the simulator's points are of the tabletop's obstacles only")
    points = np.zeros((0, 3))
    if world.obstacle:
        body = world.data.body(world.obstacle)
        thing = THINGS[world.obstacle]
        points = cylinder(thing.radius, thing.height) @ body.xmat.reshape(3, 3).T + body.xpos
    return Surroundings(points, 0, world.joint_positions())


def cylinder(radius: float, height: float) -> np.ndarray:
    """(N, 3) m on the side and the top of a cylinder whose foot is the origin."""
    around = np.linspace(0.0, 2 * np.pi, int(np.ceil(2 * np.pi * radius / SPACING)), endpoint=False)
    rings = [
        np.stack(np.broadcast_arrays(radius * np.cos(around), radius * np.sin(around), z), axis=1)
        for z in np.linspace(0.0, height, int(np.ceil(height / SPACING)) + 1)
    ]
    inner = np.arange(-radius, radius + SPACING / 2, SPACING)
    x, y = (v.ravel() for v in np.meshgrid(inner, inner))
    top = np.stack([x, y, np.full_like(x, height)], axis=1)[np.hypot(x, y) < radius]
    return np.concatenate([*rings, top])
