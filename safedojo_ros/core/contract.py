"""The contract: what the numbers and images of a data set or of a cell mean.

One YAML file says it for training, for the conversion of bags and for the checkpoints that come of
them. Whatever a contract reads becomes ours: metres, radians, axis-angles, a gripper in
[-1 open, +1 closed], square images, averaged down.
"""

import os
import sys
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from safedojo_ros.core.config import check_ranges, nearest
from safedojo_ros.core.errors import ConfigError
from safedojo_ros.core.types import CONTROL_PERIOD, RESIZE
from safedojo_ros.core.yaml_file import read_yaml

FOLDER = "config/contract"
MOST_NUMBERS = 64
"""Of a state or an action."""

ActionKind = Literal["ee_delta", "ee_pose", "joints"]
Rotation = Literal["none", "axis_angle", "euler_xyz", "quaternion_xyzw"]
LabelSource = Literal["physics", "wrench", "person", "predicted"]


@dataclass(frozen=True)
class CameraSource:
    """Where the images of one camera are."""

    name: str
    """Its name in policies and nodes."""
    key: str = ""
    """Column of a data set (default: observation.images.<name>)."""
    topic: str = ""
    """Topic of a bag, Image or CompressedImage (default: camera/<name>/image_raw); what is
    published beside it as <topic>/compressed counts, too."""

    def __post_init__(self) -> None:
        if not self.name.isidentifier():
            raise ConfigError(f"name is '{self.name}', expected letters, digits and _", "name")

    @property
    def feature(self) -> str:
        """The column of a data set."""
        return self.key or f"observation.images.{self.name}"

    @property
    def image_topic(self) -> str:
        """The topic of a bag, without slash before it and compression behind it."""
        topic = self.topic or f"camera/{self.name}/image_raw"
        return topic.strip("/").removesuffix("/compressed")


@dataclass(frozen=True)
class Numbers:
    """Some numbers of one column of a data set: value · scale + offset, or a rotation."""

    key: str
    """Column of a data set."""
    size: int
    """Numbers that the column has, [1, 64]."""
    columns: tuple[int, ...] = ()
    """Which of them, from 0 (default: all)."""
    rotation: Rotation = "none"
    """What they are as a rotation; it becomes an axis-angle of 3 rad."""
    scale: tuple[float, ...] = ()
    """Factors to metres and radians, one for all or one each (default: 1)."""
    offset: tuple[float, ...] = ()
    """Added afterwards, one for all or one each (default: 0)."""

    def __post_init__(self) -> None:
        check_ranges(self, size=f"[1, {MOST_NUMBERS}]")
        if any(not 0 <= column < self.size for column in self.columns):
            raise ConfigError(
                f"columns are {list(self.columns)}, expected numbers below size {self.size}",
                "columns",
            )
        count = len(self.columns) or self.size
        wanted = {"none": count, "quaternion_xyzw": 4}.get(self.rotation, 3)
        if count != wanted:
            raise ConfigError(f"{count} numbers, {self.rotation} has {wanted}", "rotation")
        for name in ("scale", "offset"):
            values = getattr(self, name)
            if len(values) not in (0, 1, count):
                raise ConfigError(f"{name} has {len(values)} numbers, expected 1 or {count}", name)
            if values and self.rotation != "none":
                raise ConfigError(f"{name} of a rotation, which is in radians already", name)

    @property
    def width(self) -> int:
        """How many numbers come of it."""
        return (len(self.columns) or self.size) if self.rotation == "none" else 3


@dataclass(frozen=True)
class Gripper:
    """What the last number of an action is where the gripper is open and where it is closed."""

    open: float = -1.0
    closed: float = 1.0

    def __post_init__(self) -> None:
        if abs(self.closed - self.open) < 1e-6:
            raise ConfigError(f"open and closed are both {self.open:g}", "closed")


@dataclass(frozen=True)
class Action:
    """What a policy commands."""

    parts: tuple[Numbers, ...]
    """Its numbers, in this order; the last one is the gripper's where `gripper` is there."""
    kind: ActionKind = "ee_delta"
    """ee_delta: steps of the end-effector, position (3) and axis-angle (3). ee_pose: its target, in
    the frame of the state, of which training makes such steps. Both need a state that begins with
    the end-effector's position and axis-angle. joints: anything else, learned as it is; no gate
    lets it through to an arm."""
    gripper: Gripper | None = None
    """Its convention."""

    def __post_init__(self) -> None:
        count = sum(part.width for part in self.parts)
        if not 1 <= count <= MOST_NUMBERS:
            raise ConfigError(f"{count} numbers, expected 1 to {MOST_NUMBERS}", "parts")
        if self.kind != "joints" and (count != 7 or self.gripper is None):
            raise ConfigError(
                f"{count} numbers of kind {self.kind}, expected position, axis-angle and gripper, "
                "7, and its convention",
                "parts",
            )


@dataclass(frozen=True)
class Labels:
    """Columns of a data set that say what came of a step; without one it is not known."""

    success: str = ""
    """Above 0: the task is done."""
    cost: str = ""
    """Above 0: the arm, or what it carries, touches what it must not touch."""
    cost_source: LabelSource = "person"
    """Who says so: the physics of a simulator, forces at the wrist, a person, a model."""
    displacement: str = ""
    """Metres that the obstacle has moved."""


@dataclass(frozen=True)
class Topics:
    """Where a bag has what an episode is made of, beside the images; names within the namespace of
    the robot."""

    pose: str = "ee_pose"
    """PoseStamped of the end-effector; "": by the arm's joints."""
    arm: str = ""
    """JointState of the arm's seven joints, for where `pose` is "": the pose is computed."""
    arm_joints: tuple[str, ...] = tuple(f"fr3_joint{n}" for n in range(1, 8))
    """Their names, from the foot on."""
    joints: str = "joint_states"
    """JointState of the fingers."""
    fingers: tuple[str, ...] = ("fr3_finger_joint1", "fr3_finger_joint2")
    """Their names."""
    target: str = "arm/target"
    """ArmTarget of this package; "": nobody commanded by it, so actions are how the pose moved."""
    instruction: str = "instruction"
    """String."""
    wrench: str = ""
    """WrenchStamped of the external forces, by which contact is told from free motion."""

    def __post_init__(self) -> None:
        if len(self.fingers) != 2 or len(self.arm_joints) != 7:
            raise ConfigError("expected two fingers and seven arm_joints", "fingers")
        if not self.pose and not self.arm:
            raise ConfigError("neither pose nor arm is named; one of them is needed", "pose")


@dataclass(frozen=True)
class Contract:
    """What a contract file says; `read_contract` reads one."""

    cameras: tuple[CameraSource, ...]
    """At least one, in the order in which models see them."""
    state: tuple[Numbers, ...]
    """What the robot knows of itself, put together in this order."""
    action: Action
    rate: int = round(1 / CONTROL_PERIOD)
    """Steps a second of what is learned; sets of another rate are resampled."""
    image_size: int = 64
    """Side of the images that models see, pixels."""
    resize: Literal["crop", "letterbox"] = "crop"
    """How images of another shape are made to fit, averaged down: crop, the middle is cut out;
    letterbox, the whole image between black bars."""
    resample: Literal["windows"] = "windows"
    """How sets of another rate are made to fit; see `data.lerobot.mapped`."""
    frame: str = "base"
    """Frame of the end-effector's poses."""
    instruction: str = ""
    """A sentence for every episode (default: the data set's own)."""
    costs: tuple[str, ...] = ()
    """Costs beside contact that a safety head of this cell must predict, and no others (default:
    whatever it predicts)."""
    labels: Labels = field(default_factory=Labels)
    topics: Topics = field(default_factory=Topics)
    """Where a bag has them."""

    def __post_init__(self) -> None:
        names = [camera.name for camera in self.cameras]
        if not names or len(set(names)) < len(names):
            raise ConfigError(f"cameras are {names}, expected different names", "cameras")
        if not 1 <= self.state_size <= MOST_NUMBERS:
            raise ConfigError(f"{self.state_size} numbers, expected 1 to {MOST_NUMBERS}", "state")
        if self.action.kind != "joints" and self.state_size < 6:
            raise ConfigError(
                f"{self.state_size} numbers, {self.action.kind} needs a pose first",
                "state",
            )
        check_ranges(self, rate="[1, 1000]", image_size="[8, 1024]")

    @property
    def state_size(self) -> int:
        """Numbers of a state."""
        return sum(part.width for part in self.state)

    @property
    def action_size(self) -> int:
        """Numbers of an action."""
        return sum(part.width for part in self.action.parts)

    @property
    def camera_names(self) -> tuple[str, ...]:
        """In the order in which models see them."""
        return tuple(camera.name for camera in self.cameras)

    @property
    def learned_kind(self) -> ActionKind:
        """Of the actions that training sees: steps are made of targets."""
        return "joints" if self.action.kind == "joints" else "ee_delta"

    @cached_property
    def keys(self) -> dict[str, int]:
        """{column: its numbers} of state and action."""
        return {part.key: part.size for part in (*self.state, *self.action.parts)}

    def to_json(self) -> dict[str, Any]:
        """Plain values, for a checkpoint; `from_mapping` reads them again."""
        return asdict(self)


def contract_names() -> list[str]:
    """Names of the contracts that come with the package."""
    return sorted({path.stem for folder in _folders() for path in folder.glob("*.yaml")})


def read_contract(name: str) -> Contract:
    """A ready-made contract, by name, or that of a file; raises `ConfigError` with its line."""
    if name.endswith((".yaml", ".yml")):
        return read_yaml(Contract, Path(name))
    for folder in _folders():
        if (folder / f"{name}.yaml").is_file():
            return read_yaml(Contract, folder / f"{name}.yaml")
    raise ConfigError(f"no contract '{name}'{nearest(name, contract_names())}; or give a file.yaml")


def _folders() -> list[Path]:
    """Where contracts lie: in the source tree, or as installed by pip or colcon."""
    prefixes = [*os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep), sys.prefix]
    shares = [Path(prefix) / "share/safedojo_ros" for prefix in prefixes if prefix]
    return [share / FOLDER for share in (Path(__file__).resolve().parents[2], *shares)]


assert Contract.resize == RESIZE
