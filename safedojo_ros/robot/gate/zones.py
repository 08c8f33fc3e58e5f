"""Forbidden zones: does a chunk's path come too near to boxes, or to points that a camera sees?

Geometry alone, beside the safety head and independent of it, in the manner of nav2's
collision_monitor: stop zones (HOLD) and slow zones (SLOW), a source of points that must not fall
silent. Not safety-rated, and only as good as the boxes, the points and the margins.

What stands inside a stop zone's margin already may go away from it, slowly, and nowhere nearer;
where it is inside the box itself there is no telling which way is out, and a person moves it.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np

from safedojo_ros.core.config import check_ranges, from_mapping, read_toml
from safedojo_ros.core.errors import ConfigError
from safedojo_ros.core.types import Decision
from safedojo_ros.core.units import SECOND
from safedojo_ros.robot.gate.capsules import Sweep, box_distances, box_gaps, point_distances, swept
from safedojo_ros.robot.gate.freshness import FUTURE_TOLERANCE
from safedojo_ros.robot.kinematics import Kinematics

MAX_ZONES = 256
FOOT_TOLERANCE = 0.03
"""Metres that the end-effector may lie off where joints and foot put it."""
FEW, EVERY = 200, 5
"""With more points than that, every fifth sample of a path is looked at first."""
NEARER = 1e-6
"""Metres by which something inside a margin must have come nearer to count."""

Corner = tuple[float, float, float]


@dataclass(frozen=True)
class Zone:
    """A box along the axes of the base frame."""

    name: str
    low: Corner
    """Lower corner, metres."""
    high: Corner
    """Upper corner, metres."""
    type: Literal["stop", "slow"] = "stop"
    margin: float = 0.02
    """Metres around it that belong to it: for the arm's lag behind its target, and for errors."""

    def __post_init__(self) -> None:
        check_ranges(self, margin="[0, 1]")
        if not self.name.strip():
            raise ConfigError("a zone has no name; its name is what a HOLD says")
        corners = _corners(f"zone '{self.name}'", self.low, self.high)
        if not np.all(corners[0] < corners[1]):
            raise ConfigError(
                f"zone '{self.name}': corner {self.low} is not below {self.high} on every axis"
            )


@dataclass(frozen=True)
class PointSource:
    """What is made of a point cloud. It must show neither the robot nor what is to be gripped."""

    stop: float = 0.02
    """HOLD where the robot would come nearer to a point than this, metres."""
    slow: float = 0.05
    """SLOW where it would come nearer than this, metres."""
    radius: float = 0.005
    """Of each point, metres: half of a voxel's diagonal, or half of the points' spacing."""
    max_age: float = 0.3
    """Seconds after which a cloud is too old: HOLD."""
    max_points: int = 20_000
    """A cloud with more points is refused: HOLD."""
    frame: str = "base"
    """Frame that the clouds must be in."""
    translation: Corner = (0.0, 0.0, 0.0)
    """Where that frame's origin is in the base frame, metres."""
    rotation: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 1.0)
    """How that frame is turned in the base frame: quaternion x y z w."""
    low: Corner = (-10.0, -10.0, -10.0)
    """Points below this corner, in the base frame, are left out: the table's, for instance."""
    high: Corner = (10.0, 10.0, 10.0)
    """Points above this one too."""

    def __post_init__(self) -> None:
        check_ranges(self, stop="[0, 1]", slow="[0, 1]", radius="[0, 0.2]", max_age="(0, 10]")
        check_ranges(self, max_points="[1, 1000000]")
        if self.slow < self.stop:
            raise ConfigError(f"slow is {self.slow}, expected at least stop, {self.stop}")
        _corners("points", self.low, self.high)
        _corners("points", self.translation, self.translation)
        norm = float(np.linalg.norm(self.rotation)) if len(self.rotation) == 4 else float("nan")
        if not abs(norm - 1.0) < 1e-3:
            raise ConfigError(f"rotation is {self.rotation}, expected a unit quaternion x y z w")


@dataclass(frozen=True)
class Carried:
    """An object in the closed gripper, as a capsule from the fingertips on."""

    length: float = 0.06
    """How far it reaches beyond the fingertips, metres."""
    radius: float = 0.04
    """Metres."""

    def __post_init__(self) -> None:
        check_ranges(self, length="[0, 1]", radius="(0, 0.5]")


@dataclass(frozen=True)
class ZonesConfig:
    """A zones file."""

    zone: tuple[Zone, ...] = ()
    points: PointSource | None = None
    """None: no source of points."""
    carried: Carried = field(default_factory=Carried)
    foot: Corner | None = None
    """Where the arm stands in the base frame, metres; None: its links are not checked."""

    def __post_init__(self) -> None:
        names = [zone.name for zone in self.zone]
        for name in names:
            if names.count(name) > 1:
                raise ConfigError(f"two zones are called '{name}'; give each its own name")
        if len(names) > MAX_ZONES:
            raise ConfigError(f"{len(names)} zones, expected at most {MAX_ZONES}")
        if self.foot is not None:
            _corners("foot", self.foot, self.foot)
        if not names and self.points is None:
            raise ConfigError("neither zones nor points; write [[zone]] or [points]")


def _corners(what: str, low: Corner, high: Corner) -> np.ndarray:
    """(2, 3); raises `ConfigError` unless each has three finite numbers."""
    for corner in (low, high):
        if len(corner) != 3 or not np.all(np.isfinite(corner)):
            raise ConfigError(f"{what}: {corner} is not a place, expected 3 finite metres")
    return np.array([low, high], dtype=np.float64)


def read_zones(path: Path) -> ZonesConfig:
    """The zones of a TOML file; raises `ConfigError`."""
    try:
        return from_mapping(ZonesConfig, read_toml(path))
    except ConfigError as error:
        text = str(error)
        raise ConfigError(text if str(path) in text else f"{path}: {text}") from None


@dataclass(frozen=True, eq=False)
class Surroundings:
    """What is known of where things are. points: (N, 3) m in the base frame, taken at `stamp` (ns);
    joints: (7,) rad of the arm. None: not known."""

    points: np.ndarray | None = None
    stamp: int = 0
    joints: np.ndarray | None = None


@dataclass(frozen=True)
class ZoneVerdict:
    """ALLOW, SLOW or HOLD, and for the two why: which zone, at which action (from 1; 0: where the
    robot stands) and how near (m, below 0: inside)."""

    decision: Decision = Decision.ALLOW
    reason: str = ""
    zone: str = ""
    step: int = 0
    distance: float = float("inf")


CLEAR = ZoneVerdict()


@dataclass(frozen=True)
class _Finding:
    """Something within a margin. entered: nearer than before, and in a stop zone."""

    entered: bool
    step: int
    distance: float
    body: str
    zone: str
    kind: str
    margin: float

    def verdict(self) -> ZoneVerdict:
        near = f"{100 * max(0.0, self.distance):.1f} cm from"
        place = f"{near} {self.zone} (margin {100 * self.margin:.3g} cm)"
        if self.step:
            reason = f"step {self.step}: the {self.body} comes to {place}"
        elif self.entered:
            reason = f"the {self.body} stands in {self.zone}; move it out by hand"
        else:
            reason = f"the {self.body} is {place}"
        decision = Decision.HOLD if self.entered else Decision.SLOW
        return ZoneVerdict(decision, reason, self.zone, self.step, self.distance)


class Zones:
    """Checks paths against the zones of one configuration."""

    def __init__(self, config: ZonesConfig) -> None:
        self.config = config
        self._low = np.array([zone.low for zone in config.zone]).reshape(-1, 3)
        self._high = np.array([zone.high for zone in config.zone]).reshape(-1, 3)
        self._margin = np.array([zone.margin for zone in config.zone])
        self._foot = None if config.foot is None else np.array(config.foot)
        self._arm = Kinematics()

    def fault(self, around: Surroundings, now: int) -> str:
        """Why nothing can be said now (ns): the points are missing or old. "" where it can."""
        source = self.config.points
        if source is None:
            return ""
        if around.points is None:
            return "no point cloud has been heard yet"
        age = (now - around.stamp) / SECOND
        if age > source.max_age:
            return f"the point cloud is {age:.2f} s old, the limit is {source.max_age:g} s"
        if age < -FUTURE_TOLERANCE:
            return f"the point cloud is {-age:.2f} s in the future; synchronise the clocks"
        return ""

    def check(
        self, actions: np.ndarray, state: np.ndarray, around: Surroundings, now: int
    ) -> ZoneVerdict:
        """What the zones say of the path through `actions` (H, 7) from `state` (8,), at `now` (ns).

        HOLD too where the points, or the joints of an arm whose links are to be checked, are not
        known.
        """
        fault = self.fault(around, now) or self._misplaced(state, around.joints)
        if fault:
            return ZoneVerdict(Decision.HOLD, fault)
        carried = (self.config.carried.length, self.config.carried.radius)
        sweep = swept(state, actions, carried, around.joints, self._foot)
        found = self._near_boxes(sweep)
        if self.config.points is not None and around.points is not None and len(around.points):
            found += _near_points(sweep, around.points, self.config.points)
        if not found:
            return CLEAR
        return min(found, key=lambda f: (not f.entered, f.step, f.distance)).verdict()

    def _misplaced(self, state: np.ndarray, joints: np.ndarray | None) -> str:
        if self._foot is None:
            return ""
        if joints is None:
            return "the arm's joints are not known, and its links are to be checked"
        apart = float(np.linalg.norm(self._arm.forward(joints)[1] + self._foot - state[:3]))
        if not apart <= FOOT_TOLERANCE:
            return (
                f"joints and foot put the end-effector {100 * apart:.0f} cm from where it was "
                "measured; check 'foot' in the zones file"
            )
        return ""

    def _near_boxes(self, sweep: Sweep) -> list[_Finding]:
        """The first entry into each kind of zone, and where the robot stands in a margin."""
        if not len(self._low):
            return []
        samples, bodies = sweep.start.shape[:2]
        start, end = sweep.start.reshape(-1, 3), sweep.end.reshape(-1, 3)
        thick = np.tile(sweep.radius + sweep.slack, samples)
        gaps = box_gaps(start, end, self._low, self._high)
        row, box = np.nonzero(gaps < thick[:, None] + self._margin)
        if not len(row):
            return []
        exact = box_distances(start[row], end[row], self._low[box], self._high[box])
        axis = np.full((samples * bodies, len(self._low)), np.inf)
        axis[row, box] = exact
        axis = axis.reshape(samples, bodies, -1)
        distance = axis - (sweep.radius + sweep.slack)[:, None]
        found = []
        for b in range(len(self._low)):
            zone = self.config.zone[b]
            what = f"{zone.type} zone '{zone.name}'"
            near = distance[:, :, b]
            found += _findings(sweep, near, axis[0, :, b], zone.margin, what, zone.type)
        return found


def _findings(
    sweep: Sweep,
    distance: np.ndarray,
    axis: np.ndarray,
    margin: float,
    what: str,
    kind: str,
    bodies: np.ndarray | None = None,
) -> list[_Finding]:
    """At most one: of `distance` (S, K) m, from samples to a zone, the first that matters.

    axis: (K,) m, from the capsules' axes at the first sample: 0 inside. bodies: which of the
    sweep's capsules the K are, in order where None.
    """
    within = distance < margin
    if not within.any():
        return []
    entered = within
    if kind == "stop":
        least = np.where(axis > 0.0, np.minimum(margin, distance[0] - NEARER), margin)
        entered = distance < least
    relevant = entered if entered.any() else within
    step = int(sweep.step[np.argmax(relevant.any(axis=1))])
    of_step = np.where(relevant & (sweep.step == step)[:, None], distance, np.inf).min(0)
    body = int(np.argmin(of_step))
    name = sweep.names[body if bodies is None else int(bodies[body])]
    return [
        _Finding(
            kind == "stop" and bool(entered.any()),
            step,
            float(of_step[body]),
            name,
            what,
            kind,
            margin,
        )
    ]


def _near_points(sweep: Sweep, points: np.ndarray, source: PointSource) -> list[_Finding]:
    """The first entry into the points' margins."""
    found: list[_Finding] = []
    reach = source.radius + source.slow + sweep.slack
    ends = np.concatenate([sweep.start, sweep.end])  # (2 S, C, 3)
    pad = (sweep.radius + reach)[:, None]
    least, most = ends.min(0) - pad, ends.max(0) + pad
    points = points[_inside(points.T, least.min(0), most.max(0))]
    columns = np.ascontiguousarray(points.T)
    for c in range(len(sweep.radius)) if len(points) else ():
        near = points[_inside(columns, least[c], most[c])]
        start, end = sweep.start[:, c], sweep.end[:, c]
        if len(near) > FEW:  # at some samples first: what is far from these is near to none
            coarse = point_distances(start[::EVERY], end[::EVERY], near).min(0)
            bound = sweep.radius[c] + reach + 2 * sweep.slack * (EVERY - 1)
            near = near[coarse < bound]
        if not len(near):
            continue
        axis = point_distances(start, end, near)
        distance = axis - (sweep.radius[c] + sweep.slack + source.radius)
        bodies = np.full(len(near), c)
        for kind, margin in (("stop", source.stop), ("slow", source.slow)):
            found += _findings(sweep, distance, axis[0], margin, "the point cloud", kind, bodies)
    return found


def _inside(columns: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """(N,) bool: which of the points, `columns` (3, N), lie in a box."""
    x, y, z = columns
    keep: np.ndarray = (x > low[0]) & (x < high[0])
    keep &= (y > low[1]) & (y < high[1])
    keep &= (z > low[2]) & (z < high[2])
    return keep
