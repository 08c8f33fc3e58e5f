"""Scenes in SafeLIBERO's layout, made of boxes: what the library reads, and nothing of its data.

Four suites of four tasks with 50 states at each level. On the table (suite spatial) stand a bowl, a
plate, a cabinet and one of two obstacles; on the floor (suite object) a carton and an obstacle on a
pedestal. The other obstacle lies out of reach. The other two suites have the table's scene.
"""

import pickle
import zipfile
from pathlib import Path

import cv2
import numpy as np

from safedojo_ros.worlds.safelibero.world import LEVELS

STATES = 50
TASKS = {
    "spatial": ("pick_the_akita_black_bowl_and_place_it_on_the_plate", "q", "r", "s"),
    "goal": ("open_the_top_drawer", "put_the_bowl_on_the_plate", "y", "z"),
    "object": ("pick_the_milk_and_place_it_on_the_plate", "b", "c", "d"),
    "long": ("a", "b", "c", "d"),
}
OBSTACLES = ("carton_obstacle", "tin_obstacle")
TABLE = 0.9
"""Height of the table's top, metres; robosuite's robot stands at it."""
ARM = (0.0, -0.161, 0.0, -2.445, 0.0, 2.227, 0.785, 0.021, -0.021)
"""Where LIBERO's arm begins: joints (rad) and fingers (m)."""

Box = tuple[tuple[float, float, float], tuple[float, float, float], float]
"""Middle and half size (m) of a box, and its turn about the vertical (rad)."""


def write_scenes(root: Path) -> None:
    """Fill a folder with `assets`, `bddl_files` and `init_files`."""
    objects = {
        f"obstacle_objects/{name}/{name}": ([_block(0.03, 0.08)], "0.8 0.2 0.2")
        for name in OBSTACLES
    }
    objects["obstacle_objects/box_base/box_base"] = ([_block(0.06, 0.02)], "0.5 0.5 0.5")
    objects["stable_hope_objects/milk/milk"] = ([_block(0.02, 0.05)], "0.9 0.9 0.9")
    objects["stable_scanned_objects/akita_black_bowl/akita_black_bowl"] = (_bowl(), "0.7 0.7 0.7")
    objects["stable_scanned_objects/plate/plate"] = ([_block(0.07, 0.005)], "0.9 0.9 0.9")
    objects["articulated_objects/wooden_cabinet"] = ([_block(0.1, 0.1)], "0.05 0.03 0.02")
    for name, (boxes, colour) in objects.items():
        path = root / "assets" / f"{name}.xml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(_object(boxes, colour))
    (root / "assets/scenes").mkdir()
    (root / "assets/textures").mkdir()
    (root / "assets/scenes/libero_tabletop_base_style.xml").write_text(_arena(_TABLE_BODY))
    (root / "assets/scenes/libero_floor_base_style.xml").write_text(_arena(_FLOOR_BODY))
    for texture in ("light-gray-floor-tile.png", "light-gray-plaster.png"):
        cv2.imwrite(str(root / "assets/textures" / texture), np.full((8, 8, 3), 200, np.uint8))
    for suite, tasks in TASKS.items():
        problems, states = (root / f / f"safelibero_{suite}" for f in ("bddl_files", "init_files"))
        problems.mkdir(parents=True)
        states.mkdir(parents=True)
        for task in tasks:
            (problems / f"{task}.bddl").write_text(
                _floor(task) if suite == "object" else _table(task)
            )
            for level in LEVELS:
                name = f"{task}_level_{LEVELS[level]}.pruned_init"
                content = pickle.dumps(_states(suite == "object", level), protocol=2)
                with zipfile.ZipFile(states / name, "w") as archive:
                    archive.writestr("archive/data.pkl", content)


def _states(on_floor: bool, level: int) -> np.ndarray:
    """(50, S) time, joint positions and velocities; the obstacle is closer at Level I."""
    rng = np.random.default_rng(level)
    aside = (0.0, 0.16)[level - 1]
    rows = []
    for number in range(STATES):
        here, away = (0, 1) if number % 2 else (1, 0)
        jitter = rng.uniform(-0.01, 0.01, (6, 2))
        places = np.zeros((2, 3))
        if on_floor:
            movable = [[-0.1, 0.2, 0.05], [0.1, -0.2, 0.006], [0.05, aside, 0.02]]
            places[here] = [0.05, aside, 0.122]
        else:
            movable = [[-0.05, 0.22, TABLE + 0.003], [0.05, -0.16, TABLE + 0.006], [0.9, 0.9, -2.0]]
            places[here] = [aside, 0.03, TABLE + 0.082]
        places[away] = [5.0, 5.0, -1.0]
        objects = np.array([*movable, *places])
        objects[:3, :2] += jitter[:3] * np.array([[1.0], [1.0], [0.0]])
        free = np.hstack([objects, np.tile([1.0, 0.0, 0.0, 0.0], (5, 1))])
        rows.append(np.concatenate([[0.0], ARM, free.ravel(), np.zeros(9 + 6 * 5)]))
    return np.array(rows)


def _block(half: float, height: float) -> Box:
    """A box that stands on its frame's middle: half its width, half its height, metres."""
    return (0.0, 0.0, 0.0), (half, half, height), 0.0


def _bowl() -> list[Box]:
    """A floor and twelve staves, 9 cm wide and 5 cm high; its frame is at its underside."""
    floor: Box = (0.0, 0.0, 0.003), (0.03, 0.03, 0.003), 0.0
    angles = np.arange(12) * np.pi / 6
    return [floor] + [
        ((0.043 * np.cos(a), 0.043 * np.sin(a), 0.025), (0.002, 0.012, 0.025), a) for a in angles
    ]


def _object(boxes: list[Box], colour: str) -> str:
    """MJCF of an object as robosuite reads it: shapes to see, shapes to touch, three sites."""
    shapes = ""
    for (x, y, z), (a, b, c), turn in boxes:
        turned = f"{np.cos(turn / 2)} 0 0 {np.sin(turn / 2)}"
        place = f'type="box" pos="{x} {y} {z}" size="{a} {b} {c}" quat="{turned}"'
        shapes += f'<geom {place} group="1" contype="0" conaffinity="0" rgba="{colour} 1"/>'
        shapes += f'<geom {place} group="0" density="150" friction="0.95 0.3 0.1"/>'
    low, high = (
        float(f(z + s * c for (_, _, z), (_, _, c), _ in boxes)) for f, s in ((min, -1), (max, 1))
    )
    half = max(max(abs(x) + a, abs(y) + b) for (x, y, _), (a, b, _), _ in boxes)
    return f"""<mujoco><asset/><worldbody><body>
      <body name="object">{shapes}</body>
      <site name="bottom_site" pos="0 0 {low}"/>
      <site name="top_site" pos="0 0 {high}"/>
      <site name="horizontal_radius_site" pos="{half} {half} 0"/>
    </body></worldbody></mujoco>"""


_LEGS = "".join(
    f'<geom name="table_leg{n}_visual" type="cylinder" size="0.02 0.1" contype="0" conaffinity="0" '
    'group="1"/>'
    for n in range(1, 5)
)
_TABLE_BODY = f"""<geom name="floor" type="plane" size="3 3 .1" group="1" material="floorplane"/>
    <body name="table">
      <geom name="table_collision" type="box" size=".4 .4 .4" group="0"/>
      <geom name="table_visual" type="box" size=".4 .4 .4" contype="0" conaffinity="0" group="1"
        rgba=".8 .7 .6 1"/>
      <site name="table_top"/>{_LEGS}
    </body>"""
_FLOOR_BODY = """<body name="floor">
      <geom name="floor" type="plane" size="3 3 .1" group="1" material="floorplane"/>
    </body>"""


def _arena(body: str) -> str:
    return f"""<mujoco><asset>
      <texture name="texplane" type="2d" file="../textures/any.png"/>
      <texture name="tex-wall" type="2d" file="../textures/any.png"/>
      <material name="floorplane" texture="texplane"/>
    </asset><worldbody>{body}
      <light pos="1 1 4" dir="0 -.15 -1" directional="false"/>
    </worldbody></mujoco>"""


def _table(task: str) -> str:
    places = {
        "akita_black_bowl_1": (-0.06, 0.19),
        "plate_1": (0.05, -0.01),
        "box_base_1": (-0.4, -0.3),
        "carton_obstacle_1": (0.3, 0.3),
        "tin_obstacle_1": (0.3, -0.3),
        "wooden_cabinet_1": (0.02, -0.42),
    }
    kinds = "akita_black_bowl_1 - akita_black_bowl plate_1 - plate"
    fixtures = "main_table - table wooden_cabinet_1 - wooden_cabinet"
    goal = "(On akita_black_bowl_1 plate_1)"
    return _problem(
        "LIBERO_Tabletop_Manipulation", task, "main_table", places, fixtures, kinds, goal
    )


def _floor(task: str) -> str:
    places = {
        "milk_1": (-0.1, 0.2),
        "plate_1": (0.1, -0.2),
        "box_base_1": (-0.4, -0.3),
        "carton_obstacle_1": (0.3, 0.3),
        "tin_obstacle_1": (0.3, -0.3),
    }
    kinds = "milk_1 - milk plate_1 - plate"
    goal = "(On milk_1 plate_1)"
    return _problem(
        "LIBERO_Floor_Manipulation", task, "floor", places, "floor - floor", kinds, goal
    )


def _problem(
    kind: str,
    task: str,
    ground: str,
    places: dict[str, tuple[float, float]],
    fixtures: str,
    objects: str,
    goal: str,
) -> str:
    """A task in BDDL: each object starts in a square of the ground."""
    regions = "".join(
        f"({name}_region (:target {ground}) (:ranges (({x} {y} {x + 0.02} {y + 0.02}))))\n"
        for name, (x, y) in places.items()
    )
    begin = "".join(f"(On {name} {ground}_{name}_region)\n" for name in places)
    more = "box_base_1 - box_base carton_obstacle_1 - carton_obstacle tin_obstacle_1 - tin_obstacle"
    return f"""(define (problem {kind})
  (:domain robosuite)
  (:language {task.replace("_", " ")})
  (:regions {regions})
  (:fixtures {fixtures})
  (:objects {objects} {more})
  (:obj_of_interest plate_1)
  (:init {begin})
  (:goal (And {goal})))
"""
