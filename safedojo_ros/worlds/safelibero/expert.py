"""Scripted experts for SafeLIBERO, from privileged state: pick an object and place it.

`direct` moves straight; `safe` rises above the obstacle where its path passes close to it.
"""

import numpy as np

from safedojo_ros.core.types import ACTION_SIZE
from safedojo_ros.worlds.safelibero.world import SafeLiberoWorld
from safedojo_ros.worlds.world import Style

OPEN, CLOSE = -1.0, 1.0
GAIN = 1.0
"""Commanded travel as a share of the remaining distance; the arm's impedance executes less."""

NEAR = 0.012
"""A waypoint is reached within this distance, metres."""

RIM = {"bowl": 0.040, "mug": 0.055}
"""Objects that are held at the rim, `RIM_REACH` from their centre; its height over their position,
metres."""

RIM_REACH = 0.045
FINGER_DEPTH = 0.035
"""How far the fingers reach down beside an object, metres; a lower one is held at its centre."""

LIFT = 0.10
"""Height from which the gripper descends on objects and places, metres."""

CLEARANCE = 0.04
"""How far above the obstacle `safe` carries the lowest point of what it holds, metres."""

BERTH = 0.16
"""Paths that pass the obstacle closer than this (m) go over it: the gripper is 20 cm wide."""

DROP = 0.02
"""How far above its place an object is released, metres; in a basket, `INSIDE` below the rim."""

INSIDE = 0.04
CLOSING_STEPS, OPENING_STEPS = 12, 8
"""Control steps that the fingers need."""

TRAVEL_STEPS, LOWERING_STEPS = 90, 40
"""Most control steps to a place, and down to it; then the next phase begins, for places that the
arm cannot reach."""


class SafeLiberoExpert:
    """Gives the action (7,) for the world's current state. Make a new one for each episode."""

    def __init__(self, world: SafeLiberoWorld, style: Style) -> None:
        self._world, self._safe = world, style == "safe"
        self._jobs = [(name, place) for _, name, place in world.goal]
        self._phase, self._waited = "above", 0
        self._side = 1.0
        self._held, self._depth = np.zeros(3), 0.0

    def act(self) -> np.ndarray:
        """(7,) action: delta position (m), no rotation, gripper."""
        world, here = self._world, self._world.position()
        if not self._jobs:
            return self._towards(here, OPEN)
        name, place = self._jobs[0]
        at = world.object_position(name)
        if self._phase in ("above", "down"):
            grasp = at + self._grasp(name, at)
            if self._phase == "above":
                return self._over(here, grasp, OPEN, "down")
            if np.linalg.norm(grasp - here) < NEAR:
                self._enter("hold")
            return self._towards(grasp, OPEN)
        if self._phase == "hold":
            self._waited += 1
            if self._waited > CLOSING_STEPS:
                self._held, self._depth = here - at, here[2] - world.object_heights(name)[0]
                self._enter("carry")
            return self._towards(here, CLOSE)
        goal = world.object_position(place) + self._held
        goal[2] = self._floor(place) + self._depth
        if self._phase == "carry":
            return self._over(here, goal, CLOSE, "lower")
        if self._phase == "lower":
            self._waited += 1
            if np.linalg.norm(goal - here) < NEAR or self._waited > LOWERING_STEPS:
                self._enter("release")
            return self._towards(goal, CLOSE)
        self._waited += 1
        if self._waited > 2 * OPENING_STEPS:
            self._jobs.pop(0)
            self._depth = 0.0
            self._enter("above")
        rise = LIFT * (self._waited > OPENING_STEPS)
        return self._towards(here + [0.0, 0.0, rise], OPEN)

    def _enter(self, phase: str) -> None:
        self._phase, self._waited = phase, 0

    def _grasp(self, name: str, at: np.ndarray) -> np.ndarray:
        """(3,) m, where to hold an object, from its position."""
        world = self._world
        height = next((height for word, height in RIM.items() if word in name), None)
        if height is None:
            top = world.object_heights(name)[1] - at[2]
            return np.array([0.0, 0.0, max(0.0, top - FINGER_DEPTH)])
        obstacle = world.obstacle_position()
        if self._phase == "above" and self._safe and obstacle is not None:  # the side away from it
            self._side = 1.0 if obstacle[1] < at[1] else -1.0
        return np.array([0.0, self._side * RIM_REACH, height])

    def _floor(self, place: str) -> float:
        """m, height of an object's underside when it is released."""
        holder = self._world.holder(place)
        if holder is None:
            return float(self._world.object_position(place)[2]) + DROP
        top = self._world.object_heights(holder)[1]
        return top - INSIDE if "basket" in holder else top + DROP

    def _over(self, here: np.ndarray, goal: np.ndarray, gripper: float, then: str) -> np.ndarray:
        """Up, across, and `then`, when above `goal` or after `TRAVEL_STEPS`."""
        height = goal[2] + LIFT
        obstacle = self._world.obstacle_position()
        aside = float(np.linalg.norm(goal[:2] - here[:2]))
        passes = obstacle is not None and _distance(obstacle[:2], here[:2], goal[:2]) < BERTH
        if self._safe and passes:
            top = self._world.object_heights(self._world.obstacle)[1]
            height = max(height, top + CLEARANCE + self._depth)
        self._waited += 1
        if aside < NEAR or self._waited > TRAVEL_STEPS:
            self._enter(then)
        rises = gripper == CLOSE or (self._safe and passes)
        if rises and here[2] < height - 0.03 and aside > 2 * NEAR:
            return self._towards(np.array([here[0], here[1], height]), gripper)
        return self._towards(np.array([goal[0], goal[1], height]), gripper)

    def _towards(self, place: np.ndarray, gripper: float) -> np.ndarray:
        action = np.zeros(ACTION_SIZE)
        action[:3] = GAIN * (place - self._world.position())
        action[:3] *= min(1.0, 0.05 / max(1e-9, float(np.abs(action[:3]).max())))
        action[6] = gripper
        return action


def _distance(point: np.ndarray, start: np.ndarray, end: np.ndarray) -> float:
    """m, from `point` (2,) to the straight path from `start` to `end`."""
    path = end - start
    along = np.clip((point - start) @ path / max(1e-9, float(path @ path)), 0.0, 1.0)
    return float(np.linalg.norm(start + along * path - point))
