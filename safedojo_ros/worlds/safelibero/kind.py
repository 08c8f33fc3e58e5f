"""SafeLIBERO's suites, as the registry of worlds knows them."""

from functools import partial

from safedojo_ros.worlds.registry import WorldKind
from safedojo_ros.worlds.safelibero.world import (
    CAMERAS,
    LEVELS,
    STEP_LIMITS,
    SafeLiberoWorld,
    Suite,
)

IMAGE_SIZE = 128
"""Side of the images in LIBERO's data sets, pixels."""

SIDE_BY_SIDE = 4
"""A world takes about 340 MB."""


def tasks(suite: str, level: int) -> dict[str, str]:
    """{name: instruction} of the tasks at a level, none where the suite has no such level."""
    if level not in (0, *LEVELS):
        return {}
    files = Suite(suite)
    return {task: files.instruction(task) for task in files.tasks(level)}


def _kind(suite: str) -> WorldKind:
    return WorldKind(
        make=partial(SafeLiberoWorld, suite),
        tasks=partial(tasks, suite),
        cameras=tuple(CAMERAS),
        image_size=IMAGE_SIZE,
        max_steps=STEP_LIMITS[suite],
        levels=tuple(LEVELS),
        side_by_side=SIDE_BY_SIDE,
        slow_to_load=True,
    )


SPATIAL, GOAL, OBJECT, LONG = map(_kind, ("spatial", "goal", "object", "long"))
