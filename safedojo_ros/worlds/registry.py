"""The worlds by name: those of this package, and those that another package registers.

Another package names a `WorldKind` in the entry-point group `safedojo_ros.worlds`; it is imported
when its name is first asked for.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from importlib.metadata import entry_points

from safedojo_ros.core.errors import ConfigError
from safedojo_ros.worlds.world import World

DEFAULT_WORLD = "tabletop"
GROUP = "safedojo_ros.worlds"
OWN = {"tabletop": "safedojo_ros.worlds.tabletop.kind:KIND"} | {
    f"safelibero-{suite}": f"safedojo_ros.worlds.safelibero.kind:{suite.upper()}"
    for suite in ("spatial", "goal", "object", "long")
}
"""The embedded world, and the four suites of SafeLIBERO: where their kinds are."""


@dataclass(frozen=True)
class WorldKind:
    """What is known of a world before one is opened.

    make: a world, of image size (pixels), cameras, step limit and whether `step` renders images;
    tasks: {name: instruction} at a level, raises `ConfigError` where its scenes are not there;
    image_size and max_steps: where none is asked for; levels: the usual ones, of all it has;
    side_by_side: most worlds that one process holds; slow_to_load: a task takes seconds to open,
    so that episodes of one task should follow each other.
    """

    make: Callable[[int, tuple[str, ...], int, bool], World]
    tasks: Callable[[int], dict[str, str]]
    cameras: tuple[str, ...]
    image_size: int
    max_steps: int
    levels: tuple[int, ...]
    side_by_side: int = 32
    slow_to_load: bool = False


def world_names() -> list[str]:
    """Names that `world_kind` knows."""
    return [*OWN, *sorted(entry.name for entry in entry_points(group=GROUP))]


def world_name(text: str) -> str:
    """`text`, where a world has that name; raises `ConfigError`."""
    if text not in OWN and text not in world_names():
        raise ConfigError(f"unknown world '{text}'; choose of {', '.join(world_names())}")
    return text


@cache
def world_kind(name: str) -> WorldKind:
    """The kind of that name; raises `ConfigError` for an unknown one, or what is no kind."""
    if name in OWN:
        module, attribute = OWN[name].split(":")
        kind = getattr(import_module(module), attribute)
        assert isinstance(kind, WorldKind)
        return kind
    world_name(name)
    entry = next(entry for entry in entry_points(group=GROUP) if entry.name == name)
    try:
        kind = entry.load()
    except Exception as error:  # another package's code raises anything
        raise ConfigError(f"world '{name}' ({entry.value}) cannot be loaded: {error}") from error
    if not isinstance(kind, WorldKind):
        raise ConfigError(
            f"world '{name}' ({entry.value}) is a {type(kind).__name__}, expected a WorldKind"
        )
    return kind


def open_world(
    name: str,
    image_size: int,
    cameras: tuple[str, ...],
    max_steps: int,
    render_images: bool = True,
) -> World:
    """A world by its name; raises `ConfigError` for an unknown one, or for what it lacks."""
    return world_kind(name).make(image_size, cameras, max_steps, render_images)
