"""The tabletop, as the registry of worlds knows it."""

from safedojo_ros.worlds.registry import WorldKind
from safedojo_ros.worlds.tabletop.tasks import TASKS
from safedojo_ros.worlds.tabletop.world import STEP_LIMIT, TabletopWorld

LEVELS = (0, 1, 2)
"""The usual ones; at Level III the obstacle moves."""


def tasks(level: int) -> dict[str, str]:
    """{name: instruction}, the same at every level from 0 to 3."""
    return {task.name: task.instruction for task in TASKS.values()} if 0 <= level <= 3 else {}


KIND = WorldKind(
    make=TabletopWorld,
    tasks=tasks,
    cameras=("agentview", "wrist"),
    image_size=64,
    max_steps=STEP_LIMIT,
    levels=LEVELS,
)
