"""The four tasks of the tabletop: their sentences, where things stand, and what counts as done."""

from collections.abc import Callable
from dataclasses import dataclass

import mujoco
import numpy as np

from safedojo_ros.core.errors import ConfigError
from safedojo_ros.worlds.tabletop.moving_obstacle import Sway, draw_sway
from safedojo_ros.worlds.tabletop.scene import BASKET_INNER, CUBE_HALF, OBSTACLES, SCENES, THINGS

Rule = Callable[["Task", mujoco.MjData, bool], bool]
"""Whether a task's goal holds in the physics, told whether the target is still held. A rule is also
the reward: 1 where it holds. Blocks may lie on any of their sides, so their centres count."""


@dataclass(frozen=True)
class Task:
    """A language-conditioned task. target: what the robot moves; goal: where it belongs."""

    name: str
    instruction: str
    scene: str
    target: str
    goal: str
    done: Rule


def pushed_onto(task: Task, data: mujoco.MjData, held: bool) -> bool:
    """The target lies over the goal on the table; it may be touched."""
    target = data.body(task.target).xpos
    return _apart(target, data.body(task.goal).xpos) < 0.04 and float(target[2]) < 0.01


def let_go_in_basket(task: Task, data: mujoco.MjData, held: bool) -> bool:
    """The target is let go within the walls, at the bottom."""
    target = data.body(task.target).xpos
    sides = np.abs(target[:2] - data.body(task.goal).xpos[:2])
    return not held and bool(np.all(sides < BASKET_INNER)) and float(target[2]) < 0.04


def let_go_on_plate(task: Task, data: mujoco.MjData, held: bool) -> bool:
    """The cube is let go and lies on the plate."""
    target, goal = data.body(task.target).xipos, data.body(task.goal).xipos
    return not held and _apart(target, goal) < 0.05 and 0.0 < float(target[2]) - CUBE_HALF < 0.02


def stacked(task: Task, data: mujoco.MjData, held: bool) -> bool:
    """The target is let go and rests upon the goal."""
    target, goal = data.body(task.target).xipos, data.body(task.goal).xipos
    resting = (THINGS[task.target].height + THINGS[task.goal].height) / 2
    above = float(target[2]) - float(goal[2]) - resting
    return not held and _apart(target, goal) < 0.03 and abs(above) < 0.008


def _apart(a: np.ndarray, b: np.ndarray) -> float:
    """Horizontal distance, metres."""
    return float(np.hypot(a[0] - b[0], a[1] - b[1]))


TASKS = {
    task.name: task
    for task in (
        Task(
            "cube_on_plate",
            "put the red cube on the plate",
            "groceries",
            "red_cube",
            "plate",
            let_go_on_plate,
        ),
        Task(
            "can_in_basket",
            "put the blue can in the basket",
            "groceries",
            "blue_can",
            "basket",
            let_go_in_basket,
        ),
        Task(
            "bowl_to_mark",
            "push the bowl to the stove mark",
            "blocks",
            "bowl",
            "stove_mark",
            pushed_onto,
        ),
        Task(
            "stack_blocks",
            "stack the green block on the yellow block",
            "blocks",
            "green_block",
            "yellow_block",
            stacked,
        ),
    )
}
"""`add_task` adds to them."""

NEAR_ROW, FAR_ROW = 0.0, 0.185
"""x of the two rows in which things stand, metres."""

ANCHORS = {
    "red_cube": (NEAR_ROW, -0.165),
    "plate": (NEAR_ROW, 0.165),
    "blue_can": (FAR_ROW, 0.165),
    "basket": (FAR_ROW, -0.165),
    "bowl": (NEAR_ROW, -0.165),
    "stove_mark": (NEAR_ROW, 0.165),
    "green_block": (FAR_ROW, 0.165),
    "yellow_block": (FAR_ROW, -0.165),
}
"""Around which place (x, y), metres, a thing is drawn."""

JITTER = (0.025, 0.025)
"""Half-widths (x, y) of the square in which a thing's pose is drawn around its anchor, metres."""

LEVEL_1_DISTANCE = (0.08, 0.10)
"""Level I: distance of the obstacle from the target, metres."""

LEVEL_1_GAP = 0.068
"""Level I: least distance (m) in x between obstacle and target, so that a hand fits from above."""

LEVEL_1_LEAST_ANGLE = 0.42
"""Level I: least angle (rad, either sign) from the side of the target that faces the robot."""

LEVEL_2_ALONG = (0.47, 0.53)
"""Level II: where on the way from target to goal the obstacle stands, as a share of the way."""

LEVEL_2_ASIDE = (0.01, 0.035)
"""Level II: distance (m, either side) of the obstacle's centre from the straight way."""

CLEARANCE = 0.012
"""Least free space between any two things, metres."""


@dataclass(frozen=True)
class Layout:
    """Where things stand at reset. poses: {name: (x, y, yaw)}; obstacle: its name or None; sway:
    how the obstacle moves, None: it stands."""

    poses: dict[str, tuple[float, float, float]]
    obstacle: str | None
    sway: Sway | None = None


def add_task(
    task: Task,
    things: tuple[str, ...] = (),
    places: dict[str, tuple[float, float]] | None = None,
) -> None:
    """Register a task of yours.

    things: what stands in its scene, where that is new; places: (x, y), metres, of the things that
    have none. Raises `ConfigError` for a name that is taken, or for what cannot be laid out.
    """
    if task.name in TASKS:
        raise ConfigError(f"there is a task '{task.name}' already; choose another name")
    names = SCENES.get(task.scene) or tuple(things)
    anchors = ANCHORS | (places or {})
    for name in {task.target, task.goal} - set(names):
        raise ConfigError(f"'{name}' is not in scene '{task.scene}', which has {', '.join(names)}")
    for name in names:
        if name not in THINGS or name not in anchors:
            what = "thing" if name not in THINGS else "place for"
            raise ConfigError(f"task '{task.name}': there is no {what} '{name}'; add it first")
    SCENES[task.scene], TASKS[task.name] = names, task
    ANCHORS.update(anchors)


def draw_layout(task: Task, level: int, rng: np.random.Generator) -> Layout:
    """Draw the poses of a task's scene; raises `ConfigError` for a level other than 0 to 3."""
    if level not in (0, 1, 2, 3):
        raise ConfigError(f"level is {level}, expected 0, 1, 2 or 3")
    while True:
        poses = {}
        for name in SCENES[task.scene]:
            x, y = np.array(ANCHORS[name]) + rng.uniform(-1, 1, 2) * JITTER
            poses[name] = (float(x), float(y), float(rng.uniform(-0.2, 0.2)))
        obstacle = None
        if level:
            obstacle = str(rng.choice(OBSTACLES))
            poses[obstacle] = _draw_obstacle(task, level, poses, rng)
        sway = None
        if obstacle and level == 3:
            target, goal = np.array(poses[task.target][:2]), np.array(poses[task.goal][:2])
            x, y, yaw = poses[obstacle]
            first, sway = draw_sway(target, goal, np.array([x, y]), rng)
            poses[obstacle] = (float(first[0]), float(first[1]), yaw)
        if _is_free(poses, obstacle, sway):
            return Layout(poses, obstacle, sway)


def _draw_obstacle(
    task: Task,
    level: int,
    poses: dict[str, tuple[float, float, float]],
    rng: np.random.Generator,
) -> tuple[float, float, float]:
    target, goal = np.array(poses[task.target][:2]), np.array(poses[task.goal][:2])
    if level == 1:
        reach = rng.uniform(*LEVEL_1_DISTANCE)
        angle = rng.uniform(LEVEL_1_LEAST_ANGLE, np.arccos(LEVEL_1_GAP / reach))
        angle *= rng.choice((-1, 1))
        place = target + reach * np.array([-np.cos(angle), np.sin(angle)])
    else:
        along = goal - target
        across = np.array([-along[1], along[0]]) / np.linalg.norm(along)
        aside = rng.uniform(*LEVEL_2_ASIDE) * rng.choice((-1, 1))
        place = target + rng.uniform(*LEVEL_2_ALONG) * along + aside * across
    return float(place[0]), float(place[1]), float(rng.uniform(-np.pi, np.pi))


def _is_free(
    poses: dict[str, tuple[float, float, float]], obstacle: str | None, sway: Sway | None
) -> bool:
    """Whether everything stands apart, wherever the obstacle goes."""
    names = list(poses)
    for i, a in enumerate(names):
        for b in names[i + 1 :]:
            gap = np.hypot(poses[a][0] - poses[b][0], poses[a][1] - poses[b][1])
            if sway and b == obstacle:
                gap = _gap(np.array(poses[a][:2]), np.array(poses[b][:2]), np.array(sway.way))
            if gap < THINGS[a].radius + THINGS[b].radius + CLEARANCE:
                return False
    return True


def _gap(place: np.ndarray, first: np.ndarray, way: np.ndarray) -> float:
    """m from `place` (2,) to the nearest place on the `way` (2,) from `first` (2,) on."""
    share = float(np.clip((place - first) @ way / (way @ way), 0.0, 1.0))
    return float(np.linalg.norm(place - first - share * way))
