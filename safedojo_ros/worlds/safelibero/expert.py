"""Scripted experts for SafeLIBERO, from privileged state: pick a thing, put it where it belongs.

`direct` goes straight; `safe` rises above every obstacle first, and comes down over its place.
"""

import numpy as np

from safedojo_ros.core.types import ACTION_SIZE
from safedojo_ros.worlds.safelibero.world import SafeLiberoWorld
from safedojo_ros.worlds.tabletop.experts import Style

OPEN, CLOSE = -1.0, 1.0
GAIN = 1.0
"""Commanded travel as a share of the way that is left; the arm's impedance makes less of it."""

NEAR = 0.012
"""A way point is reached within that distance, metres."""

RIM = {"bowl": 0.040, "mug": 0.055}
"""Held at the rim, `RIM_REACH` aside of their middle: how high above their position, metres."""

RIM_REACH = 0.045
FINGER_DEPTH = 0.035
"""How far the fingers reach down beside a thing, metres; what is lower is held in the middle."""

LIFT = 0.10
"""From how high the hand comes down on things and places, metres."""

CLEARANCE = 0.04
"""How far above the obstacle `safe` travels with all that it holds, metres."""

BERTH = 0.16
"""Ways that pass the obstacle closer than that (m) go over it: the hand is 20 cm wide."""

DROP = 0.02
"""How far above its place a thing is let go, metres; in a basket, `INSIDE` below the rim."""

INSIDE = 0.04
HOLDING_STEPS, LETTING_GO_STEPS = 12, 8
"""Control steps that the fingers need."""

TRAVEL_STEPS, LOWERING_STEPS = 90, 40
"""Most control steps to a place, and down to it: where the arm can't reach, it goes on."""


class SafeLiberoExpert:
    """Gives the action (7,) for the world's current state; make a new one for each episode."""

    def __init__(self, world: SafeLiberoWorld, style: Style) -> None:
        self._world, self._safe = world, style == "safe"
        self._jobs = [(thing, place) for _, thing, place in world.goal]
        self._phase, self._waited = "above", 0
        self._side = 1.0
        self._held, self._depth = np.zeros(3), 0.0

    def act(self) -> np.ndarray:
        """(7,) action: delta position (m), no rotation, gripper."""
        world, here = self._world, self._world.position()
        if not self._jobs:
            return self._towards(here, OPEN)
        thing, place = self._jobs[0]
        at = world.thing_position(thing)
        if self._phase in ("above", "down"):
            grasp = at + self._grasp(thing, at)
            if self._phase == "above":
                return self._over(here, grasp, OPEN, "down")
            if np.linalg.norm(grasp - here) < NEAR:
                self._enter("hold")
            return self._towards(grasp, OPEN)
        if self._phase == "hold":
            self._waited += 1
            if self._waited > HOLDING_STEPS:
                self._held, self._depth = here - at, here[2] - world.thing_heights(thing)[0]
                self._enter("carry")
            return self._towards(here, CLOSE)
        goal = world.thing_position(place) + self._held
        goal[2] = self._floor(place) + self._depth
        if self._phase == "carry":
            return self._over(here, goal, CLOSE, "lower")
        if self._phase == "lower":
            self._waited += 1
            if np.linalg.norm(goal - here) < NEAR or self._waited > LOWERING_STEPS:
                self._enter("let_go")
            return self._towards(goal, CLOSE)
        self._waited += 1
        if self._waited > 2 * LETTING_GO_STEPS:
            self._jobs.pop(0)
            self._depth = 0.0
            self._enter("above")
        rise = LIFT * (self._waited > LETTING_GO_STEPS)
        return self._towards(here + [0.0, 0.0, rise], OPEN)

    def _enter(self, phase: str) -> None:
        self._phase, self._waited = phase, 0

    def _grasp(self, thing: str, at: np.ndarray) -> np.ndarray:
        """(3,) m, where to hold a thing, from its position."""
        world = self._world
        height = next((height for word, height in RIM.items() if word in thing), None)
        if height is None:
            return np.array(
                [0.0, 0.0, max(0.0, world.thing_heights(thing)[1] - at[2] - FINGER_DEPTH)]
            )
        if self._phase == "above" and self._safe:  # the rim that is away from the obstacle
            self._side = 1.0 if world.thing_position(world.obstacle)[1] < at[1] else -1.0
        return np.array([0.0, self._side * RIM_REACH, height])

    def _floor(self, place: str) -> float:
        """m, where the underside of a thing is when it is let go."""
        holder = self._world.holder(place)
        if holder is None:
            return float(self._world.thing_position(place)[2]) + DROP
        top = self._world.thing_heights(holder)[1]
        return top - INSIDE if "basket" in holder else top + DROP

    def _over(self, here: np.ndarray, goal: np.ndarray, gripper: float, then: str) -> np.ndarray:
        """Up, across, and `then`, when above `goal` or after `TRAVEL_STEPS`."""
        height = goal[2] + LIFT
        obstacle = self._world.obstacle
        aside = float(np.linalg.norm(goal[:2] - here[:2]))
        passes = _distance(self._world.thing_position(obstacle)[:2], here[:2], goal[:2]) < BERTH
        if self._safe and passes:
            top = self._world.thing_heights(obstacle)[1]
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
    """m, from `point` (2,) to the straight way from `start` to `end`."""
    way = end - start
    along = np.clip((point - start) @ way / max(1e-9, float(way @ way)), 0.0, 1.0)
    return float(np.linalg.norm(start + along * way - point))
