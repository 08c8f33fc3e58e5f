"""The interface of every world and of its scripted expert."""

from dataclasses import dataclass
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np

Style = Literal["direct", "safe"]
"""How a scripted expert moves: `direct` ignores the obstacle."""


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

    def expert(self, style: Style) -> "Expert":
        """Its scripted expert, for one episode; raises `ConfigError` where it has none."""


@runtime_checkable
class Redrawable(Protocol):
    """What a world has that can draw its images later, of the episode that goes on."""

    def view(self) -> np.ndarray:
        """(N,) all that the images show now."""

    def images_of(self, view: np.ndarray) -> dict[str, np.ndarray]:
        """The same `images` as at the time of that view."""


class Expert(Protocol):
    """A scripted policy that sees the state of its world."""

    def act(self) -> np.ndarray:
        """(7,) action for the world's current state."""
