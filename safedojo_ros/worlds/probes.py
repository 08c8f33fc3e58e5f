"""Short motions near a scene's obstacle, without pictures: where it is touched, and where not.

One episode tells little about where its obstacle is: one path, mostly free. The simulator can try
many, and put everything back after each touch. A safety head learns from them what the episode's
pictures mean; no probe is an episode, and none is possible on a real robot.
"""

from typing import Any, Protocol, TypeGuard, runtime_checkable

import numpy as np

from safedojo_ros.core.errors import ConfigError
from safedojo_ros.core.probes import Probes
from safedojo_ros.core.types import ACTION_SIZE, STATE_SIZE
from safedojo_ros.worlds.world import Scene, World

STREAM = 7
APPROACH_STEPS = 20
"""Most control steps of the way to where the probes of a scene begin."""
NEAR = 0.02
"""Distance at which a place counts as reached, metres."""
FASTEST = 0.035
"""On the way there, metres a step along each axis."""
SPEED = (0.005, 0.03)
"""Slowest and fastest probe, metres a step."""
JITTER = 0.003
"""Standard deviation of each step of a probe, metres."""
NEW_GOAL = 0.4
"""Chance that a probe turns to another place before it has reached its own."""
MOVED = 2e-4
"""Displacement of the obstacle from which on the scene is put back, metres."""


@runtime_checkable
class Restorable(Protocol):
    """What a world has that can be put back, so that motions can be tried in it."""

    def snapshot(self) -> Any:
        """All that changes after `reset`, for `restore`."""

    def restore(self, snapshot: Any) -> None:
        """Put everything back to where it was at the `snapshot` of this scene."""

    def disturbed(self, metres: float) -> bool:
        """Whether the last step touched the obstacle, or it is not where it was to `metres`."""

    def position(self) -> np.ndarray:
        """(3,) m, measured end-effector position."""

    def obstacle_position(self) -> np.ndarray | None:
        """(3,) m, None where there is no obstacle."""


class ProbedWorld(World, Restorable, Protocol):
    """A world that can be probed."""


def can_be_probed(world: World) -> TypeGuard[ProbedWorld]:
    """Whether motions can be tried in it and put back."""
    return isinstance(world, Restorable)


def probe_scene(world: ProbedWorld, scene: Scene, count: int, length: int) -> Probes:
    """`count` motions of `length` control steps in the scene, all with its things where they were.

    Raises `ConfigError` at Level 0, where nothing must not be touched.
    """
    world.reset(seed=scene.seed, options={"task": scene.task, "level": scene.level})
    centre = world.obstacle_position()
    if centre is None:
        raise ConfigError(f"level {scene.level} has no obstacle to probe")
    rng = np.random.default_rng([STREAM, scene.seed])
    start = world.snapshot()
    state = np.zeros((count, STATE_SIZE), np.float32)
    actions = np.zeros((count, length, ACTION_SIZE), np.float32)
    contact = np.zeros((count, length), bool)
    goal, gripper, disturbed = centre, -1.0, True
    for k in range(count):
        if disturbed:
            world.restore(start)
            gripper = float(rng.choice([-1.0, 1.0]))
            _approach(world, centre + _aside(rng, 0.09, 0.12, 0.25), gripper)
            if world.disturbed(MOVED):
                world.restore(start)
        here = world.position()
        if disturbed or rng.random() < NEW_GOAL or np.linalg.norm(goal - here) < NEAR:
            goal = centre + _aside(rng, 0.05, -0.02, 0.16)
        way = goal - here
        step = way / max(1e-6, float(np.linalg.norm(way))) * rng.uniform(*SPEED)
        actions[k, :, :3] = step + rng.normal(0.0, JITTER, (length, 3))
        actions[k, :, 6] = gripper
        state[k] = world.state()
        for h in range(length):
            contact[k, h] = world.step(actions[k, h])[4]["cost"] > 0
        disturbed = bool(contact[k].any()) or world.disturbed(MOVED)
    return Probes(state, actions, contact)


def _aside(rng: np.random.Generator, spread: float, low: float, high: float) -> np.ndarray:
    """(3,) m: sideways normal, upwards uniform."""
    return np.array([*rng.normal(0.0, spread, 2), rng.uniform(low, high)])


def _approach(world: ProbedWorld, place: np.ndarray, gripper: float) -> None:
    for _ in range(APPROACH_STEPS):
        way = place - world.position()
        if np.abs(way).max() < NEAR or world.disturbed(MOVED):
            return
        action = np.zeros(ACTION_SIZE)
        action[:3], action[6] = np.clip(way, -FASTEST, FASTEST), gripper
        world.step(action)
