"""The tabletop scene as MJCF: a Panda-shaped arm from the published DH table, and primitives.

Frame: the robot's base frame `base` has its origin on the table top; the arm stands at
x = `ARM_X`. Nothing is downloaded and no mesh is used. Models are never changed after they are
compiled, so one model serves every world of a process: goals are mocap bodies whose poses live
in the data.
"""

from dataclasses import dataclass
from functools import cache

import mujoco
import numpy as np

from safedojo_ros.core.errors import ConfigError

ARM_X = -0.45
"""Where the arm's first axis stands, metres in x."""

TIMESTEP = 0.005
"""Physics step, seconds."""

HOME_JOINTS = np.array([0.0, -0.565, 0.0, -2.690, 0.0, 2.125, 0.785])
"""Joint angles (rad) from which the gripper points straight down over the near row."""

JOINT_LOWER = np.array([-2.9007, -1.8361, -2.9007, -3.0770, -2.8763, 0.4398, -3.0508])
JOINT_UPPER = np.array([2.9007, 1.8361, 2.9007, -0.1169, 2.8763, 4.6216, 3.0508])

SERVO_STIFFNESS = np.array([4500.0, 4500.0, 3500.0, 3500.0, 2000.0, 2000.0, 2000.0])
SERVO_DAMPING = np.array([180.0, 180.0, 140.0, 140.0, 60.0, 60.0, 60.0])

FINGER_OPEN = 0.04
"""Travel of each finger, metres."""

FINGER_CLOSED = -0.01
"""Where a closing finger is sent, metres: beyond closed, so that a grasp presses."""


@dataclass(frozen=True)
class Thing:
    """A body of the scene. size and height in metres; `body` is MJCF inside the <body> tag."""

    name: str
    radius: float
    height: float
    body: str
    movable: bool = True


def _cylinder(radius: float, height: float, z: float, colour: str, more: str = "") -> str:
    return (
        f'<geom type="cylinder" size="{radius} {height / 2}" pos="0 0 {z}" rgba="{colour}" {more}/>'
    )


def _box(half: tuple[float, float, float], at: tuple[float, float, float], more: str) -> str:
    size = " ".join(f"{v:.5f}" for v in half)
    pos = " ".join(f"{v:.5f}" for v in at)
    return f'<geom type="box" size="{size}" pos="{pos}" {more}/>'


def _ring(radius: float, thickness: float, height: float, z: float, count: int, more: str) -> str:
    walls = []
    half_length = radius * np.tan(np.pi / count) + thickness / 2
    for angle in np.arange(count) * 2 * np.pi / count:
        x, y = radius * np.cos(angle), radius * np.sin(angle)
        quat = f"{np.cos(angle / 2):.5f} 0 0 {np.sin(angle / 2):.5f}"
        walls.append(
            _box((thickness / 2, half_length, height / 2), (x, y, z), f'quat="{quat}" {more}')
        )
    return "".join(walls)


def _walls(inner: float, thickness: float, height: float, colour: str) -> str:
    offset, length = inner + thickness / 2, inner + thickness
    more = f'class="thing" mass="0.1" rgba="{colour}"'
    sides = [(offset, 0.0), (-offset, 0.0), (0.0, offset), (0.0, -offset)]
    return "".join(
        _box(
            (thickness / 2, length, height / 2) if x else (length, thickness / 2, height / 2),
            (x, y, height / 2),
            more,
        )
        for x, y in sides
    )


_GRIP = 'class="thing" friction="1.2 0.02 0.001" condim="4"'
_SLIDES = 'class="thing" priority="1" friction="0.3 0.005 0.0001"'
_SLIPS = 'class="thing" priority="1" friction="0.15 0.005 0.0001"'
"""Obstacles slide rather than topple when pushed below r / friction of their height."""

CUBE_HALF = 0.021
BASKET_INNER = 0.062

THINGS = {
    thing.name: thing
    for thing in (
        Thing(
            "red_cube",
            0.030,
            2 * CUBE_HALF,
            _box((CUBE_HALF,) * 3, (0, 0, CUBE_HALF), f'{_GRIP} mass="0.08" rgba="0.85 0.1 0.1 1"'),
        ),
        Thing(
            "blue_can",
            0.023,
            0.075,
            _cylinder(0.023, 0.075, 0.0375, "0.1 0.25 0.9 1", f'{_GRIP} mass="0.1"'),
        ),
        Thing(
            "plate",
            0.07,
            0.008,
            _cylinder(0.07, 0.008, 0.004, "0.95 0.95 0.9 1", 'class="thing" mass="0.2"')
            + _cylinder(0.05, 0.002, 0.008, "0.75 0.8 0.9 1", 'class="look" mass="0"'),
            movable=False,
        ),
        Thing(
            "basket",
            0.10,
            0.05,
            _walls(BASKET_INNER, 0.008, 0.05, "0.72 0.5 0.25 1")
            + _box(
                (BASKET_INNER, BASKET_INNER, 0.002),
                (0, 0, 0.002),
                'class="thing" mass="0.1" rgba="0.5 0.33 0.15 1"',
            ),
            movable=False,
        ),
        Thing(
            "bowl",
            0.052,
            0.04,
            _cylinder(0.044, 0.006, 0.003, "0.9 0.6 0.1 1", f'{_SLIDES} mass="0.1"')
            + _ring(0.046, 0.006, 0.034, 0.023, 8, f'{_SLIDES} mass="0.01" rgba="0.95 0.65 0.1 1"'),
        ),
        Thing(
            "stove_mark",
            0.065,
            0.002,
            _cylinder(0.065, 0.001, 0.0008, "0.15 0.15 0.18 1", 'class="look"')
            + _cylinder(0.045, 0.001, 0.0012, "0.75 0.15 0.1 1", 'class="look"'),
            movable=False,
        ),
        Thing(
            "green_block",
            0.028,
            0.042,
            _box((0.02, 0.02, 0.021), (0, 0, 0.021), f'{_GRIP} mass="0.07" rgba="0.1 0.7 0.2 1"'),
        ),
        Thing(
            "yellow_block",
            0.042,
            0.04,
            _box((0.03, 0.03, 0.02), (0, 0, 0.02), f'{_GRIP} mass="0.4" rgba="0.95 0.9 0.1 1"'),
        ),
        Thing(
            "carton",
            0.030,
            0.13,
            _box((0.022, 0.022, 0.065), (0, 0, 0.065), f'{_SLIPS} mass="0.12" rgba="0.9 0.9 1 1"')
            + _box((0.0225, 0.0225, 0.02), (0, 0, 0.06), 'class="look" rgba="0.2 0.6 0.9 1"'),
        ),
        Thing(
            "bottle",
            0.024,
            0.15,
            _cylinder(0.024, 0.10, 0.05, "0.05 0.3 0.12 1", f'{_SLIPS} mass="0.12"')
            + _cylinder(0.010, 0.05, 0.125, "0.05 0.3 0.12 1", f'{_SLIPS} mass="0.01"'),
        ),
        Thing(
            "thermos",
            0.026,
            0.12,
            _cylinder(0.026, 0.10, 0.05, "0.55 0.1 0.55 1", f'{_SLIPS} mass="0.12"')
            + _cylinder(0.020, 0.02, 0.11, "0.2 0.2 0.2 1", f'{_SLIPS} mass="0.01"'),
        ),
    )
}

OBSTACLES = ["carton", "bottle", "thermos"]

SCENES: dict[str, tuple[str, ...]] = {
    "groceries": ("red_cube", "plate", "blue_can", "basket"),
    "blocks": ("bowl", "stove_mark", "green_block", "yellow_block"),
}


def add_thing(thing: Thing, obstacle: bool = False) -> None:
    """Register a body of yours. obstacle: whether levels I to III may place it; seeds then give
    other scenes than without it. Raises `ConfigError` for a name that is taken, or bad MJCF."""
    if thing.name in THINGS:
        raise ConfigError(f"there is a thing '{thing.name}' already; choose another name")
    THINGS[thing.name] = thing
    try:
        mujoco.MjModel.from_xml_string(scene_xml(next(iter(SCENES)), thing.name))
    except ValueError as error:
        del THINGS[thing.name]
        fault = " ".join(str(error).split())[:200]
        raise ConfigError(f"thing '{thing.name}' is no body: {fault}") from None
    if obstacle:
        OBSTACLES.append(thing.name)


def _link(name: str, pos: str, quat: str, mass: float, inner: str) -> str:
    inertia = f'<inertial pos="0 0 0" mass="{mass}" diaginertia="0.02 0.02 0.02"/>'
    number = name[-1]
    return (
        f'<body name="{name}" pos="{pos}" quat="{quat}" gravcomp="1">{inertia}'
        f'<joint name="joint{number}" class="arm" '
        f'range="{JOINT_LOWER[int(number) - 1]} {JOINT_UPPER[int(number) - 1]}"/>{inner}</body>'
    )


def _arm() -> str:
    turn_back, turn, still = "1 -1 0 0", "1 1 0 0", "1 0 0 0"
    hand = """
      <body name="hand" pos="0 0 0.107" quat="0.9238795 0 0 -0.3826834" gravcomp="1">
        <inertial pos="0 0 0.03" mass="0.7" diaginertia="0.002 0.002 0.002"/>
        <geom class="robot" type="box" size="0.030 0.098 0.028" pos="0 0 0.030"
              rgba="0.92 0.92 0.92 1"/>
        <site name="tcp" pos="0 0 0.1034" size="0.004" group="4"/>
        <camera name="wrist" pos="0.075 0 0.02" quat="0.0436 0.7058 0.7058 0.0436" fovy="80"/>
        <body name="finger_left" pos="0 0 0.0584" gravcomp="1">
          <inertial pos="0 0.01 0.03" mass="0.05" diaginertia="0.0001 0.0001 0.0001"/>
          <joint name="finger_left" class="finger" axis="0 1 0"/>
          <geom class="fingertip" type="box" size="0.010 0.006 0.0265" pos="0 0.006 0.0265"/>
        </body>
        <body name="finger_right" pos="0 0 0.0584" gravcomp="1">
          <inertial pos="0 -0.01 0.03" mass="0.05" diaginertia="0.0001 0.0001 0.0001"/>
          <joint name="finger_right" class="finger" axis="0 -1 0"/>
          <geom class="fingertip" type="box" size="0.010 0.006 0.0265" pos="0 -0.006 0.0265"/>
        </body>
      </body>"""

    def tube(ends: str, radius: float, kind: str = "robot") -> str:
        return (
            f'<geom class="{kind}" type="capsule" fromto="{ends}" size="{radius}" '
            'rgba="0.9 0.9 0.9 1"/>'
        )

    link7 = _link("link7", "0.088 0 0", turn, 0.8, tube("0 0 0.03 0 0 0.08", 0.04) + hand)
    link6 = _link("link6", "0 0 0", turn, 1.5, tube("0 0 0 0.088 0 0", 0.045) + link7)
    link5 = _link(
        "link5",
        "-0.0825 0.384 0",
        turn_back,
        2.5,
        tube("0 0 -0.26 0 0.04 -0.10", 0.05) + tube("0 0.07 -0.08 0 0.03 -0.01", 0.04) + link6,
    )
    link4 = _link(
        "link4", "0.0825 0 0", turn, 3.0, tube("0 0 0 -0.0825 0.06 0", 0.055, "look") + link5
    )
    link3 = _link(
        "link3", "0 -0.316 0", turn, 3.0, tube("0 0 -0.06 0.07 0 0", 0.055, "look") + link4
    )
    link2 = _link("link2", "0 0 0", turn_back, 3.5, tube("0 -0.20 0 0 0 0", 0.06, "look") + link3)
    link1 = _link("link1", "0 0 0.333", still, 3.0, tube("0 0 -0.15 0 0 0", 0.06, "look") + link2)
    pedestal = (
        '<geom class="look" type="cylinder" size="0.08 0.08" pos="0 0 0.08" rgba="0.8 0.8 0.8 1"/>'
    )
    return f'<body name="arm" pos="{ARM_X} 0 0">{pedestal}{link1}</body>'


def _actuators() -> str:
    servos = []
    limits = [87, 87, 87, 87, 12, 12, 12]
    for i in range(7):
        servos.append(
            f'<position name="servo{i + 1}" joint="joint{i + 1}" kp="{SERVO_STIFFNESS[i]}" '
            f'kv="{SERVO_DAMPING[i]}" forcerange="-{limits[i]} {limits[i]}"/>'
        )
    for side in ("left", "right"):
        servos.append(
            f'<position name="grip_{side}" joint="finger_{side}" kp="1500" kv="25" '
            f'ctrlrange="{FINGER_CLOSED} {FINGER_OPEN}" forcerange="-20 20"/>'
        )
    return "".join(servos)


def scene_xml(scene: str, obstacle: str | None) -> str:
    """MJCF text of a scene ("groceries" or "blocks") with one of `OBSTACLES` or none."""
    bodies = []
    for name in (*SCENES[scene], *((obstacle,) if obstacle else ())):
        thing = THINGS[name]
        head = "" if thing.movable else ' mocap="true"'
        joint = f'<freejoint name="{name}"/>' if thing.movable else ""
        bodies.append(f'<body name="{name}"{head}>{joint}{thing.body}</body>')
    return f"""
<mujoco model="tabletop">
  <compiler angle="radian" autolimits="true"/>
  <option timestep="{TIMESTEP}" integrator="implicitfast" cone="elliptic" impratio="5"
          iterations="50"/>
  <size memory="4M"/>
  <visual>
    <global offwidth="1280" offheight="960"/>
    <quality offsamples="0" shadowsize="2048" numslices="16" numstacks="8"/>
    <headlight ambient="0.45 0.45 0.45" diffuse="0.35 0.35 0.35" specular="0 0 0"/>
    <map znear="0.01" zfar="10"/>
  </visual>
  <default>
    <default class="arm"><joint axis="0 0 1" armature="0.1" damping="1"/></default>
    <default class="finger">
      <joint type="slide" range="0 {FINGER_OPEN}" armature="0.05" damping="5"/>
    </default>
    <default class="robot"><geom contype="1" conaffinity="0" mass="0" friction="0.6"/></default>
    <default class="fingertip">
      <geom contype="1" conaffinity="0" mass="0" friction="1.5 0.02 0.001" condim="4"
            rgba="0.25 0.25 0.25 1" solref="0.02 1"/>
    </default>
    <default class="thing"><geom contype="2" conaffinity="3" solref="0.02 1"/></default>
    <default class="look"><geom contype="0" conaffinity="0" mass="0"/></default>
  </default>
  <worldbody>
    <light pos="0.3 0.4 1.6" dir="-0.15 -0.2 -1" diffuse="0.5 0.5 0.5" specular="0.1 0.1 0.1"/>
    <geom name="table" type="plane" size="0.75 0.6 0.1" rgba="0.55 0.55 0.58 1"
          contype="0" conaffinity="3" friction="0.8 0.005 0.0001"/>
    <camera name="agentview" pos="0.62 0 0.60" xyaxes="0 1 0 -0.728 0 0.686" fovy="40"/>
    <camera name="overview" pos="0.95 -0.75 0.75" xyaxes="0.62 0.78 0 -0.43 0.34 0.84" fovy="40"/>
    {_arm()}
    {"".join(bodies)}
  </worldbody>
  <equality><joint joint1="finger_left" joint2="finger_right" polycoef="0 1 0 0 0"/></equality>
  <actuator>{_actuators()}</actuator>
</mujoco>"""


@cache
def compile_scene(scene: str, obstacle: str | None) -> mujoco.MjModel:
    """The compiled model, one a process; callers must not change it."""
    return mujoco.MjModel.from_xml_string(scene_xml(scene, obstacle))
