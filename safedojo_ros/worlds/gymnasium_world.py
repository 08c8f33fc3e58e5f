"""A gymnasium environment of another package, behind the interface of every world."""

from collections.abc import Callable, Mapping
from typing import Any

import cv2
import gymnasium
import numpy as np

from safedojo_ros.core.bounds import ACTION_BOUND, checked_action
from safedojo_ros.core.errors import ConfigError
from safedojo_ros.core.types import STATE_SIZE
from safedojo_ros.worlds.registry import WorldKind
from safedojo_ros.worlds.world import Expert, Style


class GymnasiumWorld:
    """One environment. Actions (7,) in metres and radians are clipped to our bounds.

    `reset` gets the seed and options {"task": name, "level": number}. An observation holds
    {camera: (H, W, 3) uint8} and "state" (8,), see `World`; images are averaged down to
    `image_size`. `info` may hold success (else: whether the episode terminated), cost (0 or 1,
    whether something was touched that must not be) and displacement (m, of the obstacle). An
    environment with a method `expert(style)` has a scripted expert. Raises `ConfigError` for an
    observation that lacks something.
    """

    def __init__(
        self,
        environment: gymnasium.Env,
        tasks: Mapping[str, str],
        image_size: int,
        cameras: tuple[str, ...],
        max_steps: int,
        render_images: bool,
    ) -> None:
        self.environment, self.tasks = environment, dict(tasks)
        self.image_size, self.cameras, self.max_steps = image_size, cameras, max_steps
        self.render_images = render_images
        self.task_name, self.level = next(iter(tasks)), 0
        self.steps, self.displacement = 0, 0.0
        self._seen: dict[str, Any] = {}

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Start an episode; raises `ConfigError` for an unknown task."""
        now: dict[str, Any] = {"task": self.task_name, "level": self.level}
        options = now | (options or {})
        if options["task"] not in self.tasks:
            known = ", ".join(self.tasks)
            raise ConfigError(f"unknown task '{options['task']}'; choose one of {known}")
        self.task_name, self.level = str(options["task"]), int(options["level"])
        self._seen, info = self.environment.reset(seed=seed, options=options)
        self.steps, self.displacement = 0, 0.0
        return self.observation(), self._info(info, False)

    def step(
        self, action: np.ndarray
    ) -> tuple[dict[str, np.ndarray], float, bool, bool, dict[str, Any]]:
        """Execute one action (7,); raises `ConfigError` for one of another shape, or not finite."""
        action = np.clip(checked_action(action), -ACTION_BOUND, ACTION_BOUND)
        self._seen, reward, over, truncated, info = self.environment.step(action)
        self.steps += 1
        self.displacement = float(info.get("displacement", 0.0))
        said = self._info(info, over)
        truncated = truncated or self.steps >= self.max_steps or (over and not said["success"])
        return self.observation(), float(reward), said["success"], truncated, said

    def observation(self) -> dict[str, np.ndarray]:
        """What `step` returned last; images only where `render_images`."""
        return (self.images() if self.render_images else {}) | {"state": self.state()}

    def images(self) -> dict[str, np.ndarray]:
        """{camera: (S, S, 3) uint8}, of the last observation."""
        size = self.image_size, self.image_size
        return {
            name: cv2.resize(self._part(name), size, interpolation=cv2.INTER_AREA)
            for name in self.cameras
        }

    def state(self) -> np.ndarray:
        """(8,) float32, of the last observation."""
        state = np.asarray(self._part("state"), dtype=np.float32)
        if state.shape != (STATE_SIZE,):
            raise ConfigError(f"the world's state has shape {state.shape}, expected (8,)")
        return state

    def render(self) -> np.ndarray:
        """(480, 640, 3) uint8: the first camera's image, larger."""
        return cv2.resize(self._part(self.cameras[0]), (640, 480))

    def expert(self, style: Style) -> Expert:
        """What the environment's `expert` makes; raises `ConfigError` where it has none."""
        make = getattr(self.environment.unwrapped, "expert", None)
        if make is None:
            name = type(self.environment.unwrapped).__name__
            raise ConfigError(f"{name} has no scripted expert; record a policy with --policy")
        expert: Expert = make(style)
        return expert

    @property
    def instruction(self) -> str:
        """The sentence of the task."""
        return self.tasks[self.task_name]

    def _part(self, name: str) -> Any:
        if name not in self._seen:
            raise ConfigError(f"the world's observation lacks '{name}'; it has {[*self._seen]}")
        return self._seen[name]

    def _info(self, info: Mapping[str, Any], over: bool) -> dict[str, Any]:
        return {
            "instruction": self.instruction,
            "task": self.task_name,
            "level": self.level,
            "cost": float(info.get("cost", 0.0)),
            "contacts": int(info.get("cost", 0.0) > 0),
            "displacement": self.displacement,
            "success": bool(info.get("success", over)),
        }


def gymnasium_kind(
    make: Callable[[], gymnasium.Env],
    tasks: Mapping[str, str],
    cameras: tuple[str, ...],
    max_steps: int,
    image_size: int = 64,
    levels: tuple[int, ...] = (0,),
) -> WorldKind:
    """The kind of a world whose environments `make` gives; tasks: {name: instruction}, the same at
    all `levels`."""

    def world(size: int, seen: tuple[str, ...], limit: int, render: bool) -> GymnasiumWorld:
        unknown = set(seen) - set(cameras)
        if unknown:
            raise ConfigError(f"the world has no camera {sorted(unknown)}; it has {[*cameras]}")
        return GymnasiumWorld(make(), tasks, size, seen, limit, render)

    return WorldKind(
        make=world,
        tasks=lambda level: dict(tasks) if level in levels else {},
        cameras=cameras,
        image_size=image_size,
        max_steps=max_steps,
        levels=levels,
    )
