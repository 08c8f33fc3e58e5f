"""The interface of every world, how to open one, and its scripted expert."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from safedojo_ros.core.errors import ConfigError

if TYPE_CHECKING:
    from safedojo_ros.worlds.tabletop.experts import Style

SAFELIBERO = "safelibero-"
WORLDS = ("tabletop", *(SAFELIBERO + suite for suite in ("spatial", "goal", "object", "long")))
"""The embedded world, and the four suites of SafeLIBERO."""


@dataclass(frozen=True)
class Scene:
    """What an episode starts from; the same three values give the same scene."""

    seed: int
    task: str
    level: int


class World(Protocol):
    """A gymnasium environment whose actions and states are those of `core.types`.

    displacement: m, L1, of the obstacle since the settled start; max_steps: control steps after
    which an episode is truncated.
    """

    displacement: float
    level: int
    max_steps: int
    render_images: bool

    @property
    def task_name(self) -> str:
        """Which task this is."""

    @property
    def instruction(self) -> str:
        """The sentence of the task."""

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Lay out the scene of `options` {"task": name, "level": 0 | 1 | 2}, and let it settle."""

    def step(
        self, action: np.ndarray
    ) -> tuple[dict[str, np.ndarray], float, bool, bool, dict[str, Any]]:
        """Execute one action (7,); `info` holds cost, contacts, displacement and success."""

    def observation(self) -> dict[str, np.ndarray]:
        """What `step` returned last; images only where `render_images`."""

    def images(self) -> dict[str, np.ndarray]:
        """{camera: (S, S, 3) uint8}, what the policy's cameras see now."""

    def state(self) -> np.ndarray:
        """(8,) float32: measured end-effector position, axis-angle, finger positions."""

    def render(self) -> np.ndarray:
        """(480, 640, 3) uint8 image of the whole scene, for people."""


class Expert(Protocol):
    """A scripted policy that sees the state of its world."""

    def act(self) -> np.ndarray:
        """(7,) action for the world's current state."""


def open_world(
    name: str,
    image_size: int,
    cameras: tuple[str, ...],
    max_steps: int,
    render_images: bool = True,
) -> World:
    """A world by its name; raises `ConfigError` for an unknown one, or for what it lacks."""
    if name == "tabletop":
        from safedojo_ros.worlds.tabletop.world import TabletopWorld

        return TabletopWorld(image_size, cameras, max_steps, render_images)
    if name in WORLDS:
        from safedojo_ros.worlds.safelibero.world import SafeLiberoWorld

        suite = name.removeprefix(SAFELIBERO)
        return SafeLiberoWorld(suite, image_size, cameras, max_steps, render_images)
    raise ConfigError(f"unknown world '{name}'; choose of {', '.join(WORLDS)}")


def step_limit(name: str) -> int:
    """Control steps after which an episode of that world has failed."""
    if name == "tabletop":
        from safedojo_ros.worlds.tabletop.world import STEP_LIMIT

        return STEP_LIMIT
    from safedojo_ros.worlds.safelibero.world import STEP_LIMITS

    return STEP_LIMITS[name.removeprefix(SAFELIBERO)]


def known_tasks(name: str, level: int) -> list[str]:
    """The tasks of a world at a level (0, 1, 2), none where it has no such level.

    Raises `ConfigError` where its scenes are not there.
    """
    if name == "tabletop":
        from safedojo_ros.worlds.tabletop.tasks import TASKS

        return list(TASKS)
    from safedojo_ros.worlds.safelibero.world import LEVELS, Suite

    return Suite(name.removeprefix(SAFELIBERO)).tasks(level) if level in LEVELS else []


def expert_for(world: World, style: "Style") -> Expert:
    """The scripted expert of `world`, for one episode; raises `ConfigError` where it has none."""
    from safedojo_ros.worlds.safelibero.expert import SafeLiberoExpert
    from safedojo_ros.worlds.safelibero.world import SafeLiberoWorld
    from safedojo_ros.worlds.tabletop.experts import Expert
    from safedojo_ros.worlds.tabletop.world import TabletopWorld

    if isinstance(world, TabletopWorld):
        return Expert(world, style)
    if isinstance(world, SafeLiberoWorld):
        return SafeLiberoExpert(world, style)
    raise ConfigError(f"no expert knows a {type(world).__name__}")
