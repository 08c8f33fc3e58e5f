"""Scripted experts with privileged state: `direct` ignores obstacles, `safe` goes over or around.

Both are feedback policies on the measured state, so they recover from disturbances. `direct` comes
in low from the robot's side and carries low; `safe` descends from above and carries above every
obstacle, or drags the bowl around it.
"""

import numpy as np

from safedojo_ros.core.errors import ConfigError
from safedojo_ros.core.types import ACTION_SIZE
from safedojo_ros.worlds.tabletop.world import TabletopWorld
from safedojo_ros.worlds.world import Style

OPEN, CLOSE = -1.0, 1.0
TOP_SPEED = 0.032
"""Largest commanded travel per control step, metres."""

CAREFUL_SPEED, CAREFUL_RANGE = 0.015, 0.07
"""Largest travel per control step (m) within that distance (m) of where it grasps or releases."""

SETTLED_STEPS = 2
"""Control steps at the grasp before the hand closes, so that the moment can be seen."""

GAIN = 0.6
SAFE_HEIGHT = 0.225
"""Height (m) at which the end-effector, with what it carries, clears every obstacle."""

FRONT = np.array([-0.13, 0.0, 0.085])
"""Where `direct` begins its last approach, relative to the target's foot."""

GRASP_HEIGHT = {"red_cube": 0.020, "blue_can": 0.045, "green_block": 0.020, "bowl": 0.020}
CARRY_HEIGHT = {"red_cube": 0.075, "blue_can": 0.125, "green_block": 0.100}
RELEASE_HEIGHT = {"plate": 0.030, "basket": 0.075, "yellow_block": 0.064}
FINGER_REACH = 0.031
"""How far the closed fingers run ahead of the bowl's centre while they drag it, metres."""

DETOUR = 0.105
"""How far aside of the obstacle's centre the bowl is dragged past it, metres."""


class Expert:
    """Gives the action (7,) for the tabletop's current state; make a new one for each episode."""

    def __init__(self, world: TabletopWorld, style: Style = "direct") -> None:
        if style not in ("direct", "safe"):
            raise ConfigError(f"unknown expert style '{style}'; choose direct or safe")
        self._world, self._style = world, style
        self._phase = "approach"
        self._waited = self._settled = 0
        self._passed_obstacle = False

    def act(self) -> np.ndarray:
        """(7,) action: delta position (m), no rotation, gripper."""
        if self._world.task.name == "bowl_to_mark":
            return self._drag()
        return self._pick_and_place()

    # ---------------------------------------------------------------- pick and place

    def _pick_and_place(self) -> np.ndarray:
        world, task = self._world, self._world.task
        here, target = world.position(), world.thing_position(task.target)
        grasp = target + np.array([0.0, 0.0, GRASP_HEIGHT[task.target]])
        if self._phase == "approach" and world.held():
            self._phase, self._waited = "close", 0
        if self._phase == "approach":
            grasp[2] = GRASP_HEIGHT[task.target]  # a fallen target is still taken at this height
            self._settled = self._settled + 1 if np.linalg.norm(grasp - here) < 0.008 else 0
            if self._settled > SETTLED_STEPS:
                self._phase, self._waited = "close", 0
            else:
                return self._towards(self._entry(here, grasp), OPEN, grasp)
        if self._phase == "close":
            self._waited += 1
            if self._waited > 3:
                self._phase = "carry"
            return self._towards(grasp, CLOSE)
        if self._phase == "carry":
            if np.linalg.norm(grasp - here) > 0.04 or not world.held():
                self._phase = "approach"
                return self._towards(here + np.array([0.0, 0.0, 0.04]), OPEN)
            goal = world.thing_position(task.goal)
            release = goal + np.array([0.0, 0.0, RELEASE_HEIGHT[task.goal]])
            release[:2] += here[:2] - target[:2]  # the thing, not the hand, belongs over the goal
            if np.linalg.norm(release - here) < 0.010:
                self._phase, self._waited = "release", 0
            else:
                return self._towards(self._over(here, release), CLOSE, release)
        self._waited += 1
        if self._waited > 6:
            self._phase = "approach"
        return self._towards(here + np.array([0.0, 0.0, 0.02 * (self._waited > 2)]), OPEN)

    def _entry(self, here: np.ndarray, grasp: np.ndarray) -> np.ndarray:
        """The next way point on the way to `grasp`."""
        apart = grasp - here
        if self._style == "safe":
            return self._descend(here, grasp)
        lined_up = abs(apart[1]) < 0.02 and abs(apart[0]) < 0.145
        if lined_up and here[2] < FRONT[2] + grasp[2] + 0.02:
            return grasp
        front = grasp + FRONT
        front[2] = grasp[2] + FRONT[2] - GRASP_HEIGHT[self._world.task.target] + 0.02
        return front

    def _descend(self, here: np.ndarray, place: np.ndarray) -> np.ndarray:
        """Straight down over `place`, from a height that clears the obstacles."""
        aside = float(np.linalg.norm(place[:2] - here[:2]))
        if aside < 0.012 or (aside < 0.025 and here[2] < SAFE_HEIGHT - 0.04):
            return place
        if here[2] < SAFE_HEIGHT - 0.015:
            return np.array([here[0], here[1], SAFE_HEIGHT + 0.01])
        return np.array([place[0], place[1], SAFE_HEIGHT])

    def _over(self, here: np.ndarray, release: np.ndarray) -> np.ndarray:
        if self._style == "safe":
            return self._descend(here, release)
        carry = CARRY_HEIGHT[self._world.task.target]
        aside = float(np.linalg.norm(release[:2] - here[:2]))
        if aside < 0.012:
            return release
        if here[2] < carry - 0.02 and aside > 0.05:
            return np.array([here[0], here[1], carry + 0.01])
        return np.array([release[0], release[1], max(carry, release[2])])

    # ---------------------------------------------------------------- dragging the bowl

    def _drag(self) -> np.ndarray:
        world = self._world
        here, bowl = world.position(), world.thing_position("bowl")
        inside = bowl + np.array([0.0, 0.0, GRASP_HEIGHT["bowl"]])
        if np.linalg.norm(bowl[:2] - here[:2]) > 0.055:
            self._phase = "approach"
        if self._phase == "approach":
            if np.linalg.norm(inside[:2] - here[:2]) < 0.02 and here[2] < 0.027:
                self._phase = "drag"
            else:
                return self._towards(self._entry(here, inside), CLOSE)
        mark = world.thing_position("stove_mark")
        place = self._detour(bowl, mark) if self._style == "safe" else mark
        way = place[:2] - bowl[:2]
        distance = float(np.linalg.norm(way))
        ahead = bowl[:2] + way * min(1.0, (FINGER_REACH + 0.03) / max(distance, 1e-6))
        if place is mark and distance < 0.03:
            ahead = bowl[:2] + way / max(distance, 1e-6) * FINGER_REACH
        return self._towards(np.array([*ahead, GRASP_HEIGHT["bowl"]]), CLOSE)

    def _detour(self, bowl: np.ndarray, mark: np.ndarray) -> np.ndarray:
        """Where to drag the bowl next: aside into a free lane, past the obstacle, to the mark."""
        world = self._world
        if world.obstacle is None or self._passed_obstacle:
            return mark
        obstacle = world.thing_position(world.obstacle)
        if bowl[1] > min(mark[1] - 0.03, obstacle[1] + 0.14):
            self._passed_obstacle = True
            return mark
        side = 1.0 if world.level == 1 else -1.0
        lane = obstacle[0] + side * DETOUR
        if side * (bowl[0] - lane) > -0.01:
            return np.array([lane, mark[1] + 0.05, 0.0])
        return np.array([lane + side * 0.05, bowl[1], 0.0])

    # ---------------------------------------------------------------- motion

    def _towards(
        self, place: np.ndarray, gripper: float, careful_at: np.ndarray | None = None
    ) -> np.ndarray:
        here = self._world.position()
        way = (place - here) * GAIN
        speed = TOP_SPEED
        if careful_at is not None and np.linalg.norm(careful_at - here) < CAREFUL_RANGE:
            speed = CAREFUL_SPEED
        length = float(np.linalg.norm(way))
        if length > speed:
            way = way * (speed / length)
        action = np.zeros(ACTION_SIZE)
        action[:3], action[6] = way, gripper
        return action
