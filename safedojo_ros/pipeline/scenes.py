"""Tasks and levels of a request, from text."""

from collections.abc import Collection
from typing import TYPE_CHECKING

from safedojo_ros.core.errors import ConfigError
from safedojo_ros.worlds.tabletop.tasks import TASKS

if TYPE_CHECKING:
    from safedojo_ros.models.policy import StoredPolicy
    from safedojo_ros.models.success_classifier import SuccessModel

LEVELS = {"0": 0, "1": 1, "2": 2, "3": 3, "I": 1, "II": 2, "III": 3}


def level_numbers(text: str) -> tuple[int, ...]:
    """Levels separated by commas, each 0 to 3 or 0, I, II, III; none for the usual ones, 0 to II.

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


def chosen_tasks(names: Collection[str], known: Collection[str] = TASKS) -> list[str]:
    """`names`, or all that are `known` where there are none; raises `ConfigError`."""
    for name in names:
        if name not in known:
            raise ConfigError(f"unknown task '{name}'; choose all or of {', '.join(known)}")
    return list(names or known)


def tasks_of(model: "StoredPolicy | SuccessModel") -> list[str]:
    """The tabletop's tasks whose sentence `model` knows; raises `ConfigError` for none."""
    known = [name for name, task in TASKS.items() if task.instruction in model.instructions]
    if not known:
        raise ConfigError(
            f"{model.checkpoint_id} knows {list(model.instructions)}, no sentence of the "
            "tabletop's tasks"
        )
    return known
