"""World, tasks and levels of a request, from text."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from safedojo_ros.core.errors import ConfigError
from safedojo_ros.evaluation.protocol import LEVEL_NAMES
from safedojo_ros.worlds.registry import DEFAULT_WORLD, world_kind, world_name

if TYPE_CHECKING:
    from safedojo_ros.models.policy import StoredPolicy
    from safedojo_ros.models.success_classifier import SuccessModel

LEVELS = {"0": 0, "1": 1, "2": 2, "3": 3, "I": 1, "II": 2, "III": 3}


def level_numbers(text: str) -> tuple[int, ...]:
    """Levels separated by commas, each 0 to 3 or 0, I, II, III; none for the world's usual ones.

    Raises `ConfigError`.
    """
    parts = [part.strip() for part in text.split(",")] if text != "all" else []
    for part in parts:
        if part not in LEVELS:
            raise ConfigError(f"unknown level '{part}'; choose all or of 0, I, II, III")
    return tuple(LEVELS[part] for part in parts)


LEVELS_OPTION = {"option": "level", "parse": level_numbers, "metavar": "LEVELS"}
"""Metadata of a field with levels: one name and one spelling in every command."""


def task_names(text: str) -> tuple[str, ...]:
    """Tasks separated by commas; none for all."""
    return tuple(part.strip() for part in text.split(",")) if text != "all" else ()


@dataclass(frozen=True, kw_only=True)
class OnWorld:
    """A request whose episodes are played in a simulated world."""

    world: str = field(default=DEFAULT_WORLD, metadata={"parse": world_name, "metavar": "WORLD"})
    """tabletop, the embedded world (default); safelibero- and one of spatial, goal, object, long, a
    suite of SafeLIBERO, whose scenes you bring: SAFELIBERO_ROOT names their folder; or a world that
    another package registers"""


def scene_cells(
    world: str, tasks: Sequence[str], levels: Sequence[int]
) -> dict[int, dict[str, str]]:
    """{level: {task: instruction}} of a world, by name; no `levels`: its usual ones; no `tasks`:
    all.

    Raises `ConfigError` for a level that it has not, and a task that none of these levels has.
    """
    kind = world_kind(world)
    cells = {level: kind.tasks(level) for level in levels or kind.levels}
    for level, known in cells.items():
        if not known:
            usual = " and ".join(LEVEL_NAMES[n] for n in kind.levels)
            raise ConfigError(f"{world} has no Level {LEVEL_NAMES[level]}; it has {usual}")
    names = list(dict.fromkeys(name for known in cells.values() for name in known))
    for name in tasks:
        if name not in names:
            raise ConfigError(f"unknown task '{name}'; choose all or of {', '.join(names)}")
    return {
        level: {name: said for name, said in known.items() if name in (tasks or names)}
        for level, known in cells.items()
    }


def chosen_tasks(world: str, tasks: Sequence[str], levels: Sequence[int] = ()) -> list[str]:
    """`tasks`, or all of the world where there are none; see `scene_cells`."""
    cells = scene_cells(world, tasks, levels)
    return list(tasks) or list(dict.fromkeys(name for known in cells.values() for name in known))


def tasks_of(
    model: "StoredPolicy | SuccessModel", world: str, levels: Sequence[int] = ()
) -> list[str]:
    """The tasks of a world whose sentence `model` knows; raises `ConfigError` for none."""
    said = {
        name: sentence
        for known in scene_cells(world, (), levels).values()
        for name, sentence in known.items()
    }
    tasks = [name for name, sentence in said.items() if sentence in model.instructions]
    if not tasks:
        raise ConfigError(
            f"{model.checkpoint_id} knows {list(model.instructions)}, no sentence of {world}'s "
            "tasks"
        )
    return tasks
