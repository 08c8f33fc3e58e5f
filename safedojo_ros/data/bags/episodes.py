"""From a take to episodes: one row for each control tick that was really played.

A row's observation is the newest not later than its tick, its action the step of the arm's target
from the tick before, its outcome what the world said until the next tick. Where anything is older
than allowed the episode is split there; nothing is interpolated.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from safedojo_ros.core.contract import CameraSource, Contract, Topics
from safedojo_ros.core.errors import ConfigError
from safedojo_ros.core.rotation import quaternion_of, turn_between
from safedojo_ros.core.types import ACTION_SIZE, CONTROL_PERIOD, RESIZE, Episode
from safedojo_ros.core.units import SECOND
from safedojo_ros.data.bags.free_motion import FreeMotion
from safedojo_ros.data.bags.said import Truth
from safedojo_ros.data.bags.series import Finding, Series
from safedojo_ros.data.bags.takes import OUR_TOPICS, TRUTH, ArmTarget, Take

FINGERS_MOVE = 5e-4
"""Metres a step by which the width between the fingers changes where they are commanded."""
EXPECTED_CONTACT = 0.5
"""P(contact) of the safety head from which a step counts as contact, where no truth was heard."""


@dataclass(frozen=True)
class ConversionConfig:
    """How takes become episodes."""

    cameras: tuple[str, ...]
    image_size: int = 64
    """Side of the square pictures, pixels."""
    resize: str = RESIZE
    """How images become square; see `core.types.RESIZES`."""
    period: float = CONTROL_PERIOD
    """Seconds between two control ticks."""
    max_gap: float = 0.12
    """Oldest picture, pose or truth that a row may use, seconds."""
    min_steps: int = 8
    """Shorter pieces are dropped."""
    topics: Topics = OUR_TOPICS
    """Where a bag has poses, joints, targets and the sentence."""
    sources: tuple[CameraSource, ...] = ()
    """Where it has the images of `cameras`; (): camera/<name>/image_raw."""
    instruction: str = ""
    """Of every episode; "": as heard."""
    free_motion: FreeMotion | None = None
    """What the external wrench is without contact, for contact by it."""

    @staticmethod
    def of(contract: Contract, **others: Any) -> "ConversionConfig":
        """As a contract says; others: the fields that it does not say."""
        values: dict[str, Any] = {
            "cameras": contract.camera_names,
            "image_size": contract.image_size,
            "resize": contract.resize,
            "period": 1.0 / contract.rate,
            "topics": contract.topics,
            "sources": contract.cameras,
            "instruction": contract.instruction,
        }
        return ConversionConfig(**(values | others))

    def __post_init__(self) -> None:
        if not self.cameras or len(set(self.cameras)) != len(self.cameras):
            raise ConfigError(f"cameras are {self.cameras}, expected distinct names")
        if not self.period < self.max_gap < 10.0:
            raise ConfigError(f"max_gap is {self.max_gap} s, expected {self.period} to 10")
        if self.min_steps < 1 or not 16 <= self.image_size <= 1024:
            raise ConfigError("expected min_steps of 1 and more, image_size from 16 to 1024")

    @property
    def camera_sources(self) -> tuple[CameraSource, ...]:
        """Where a bag has the images."""
        return self.sources or tuple(CameraSource(name) for name in self.cameras)

    @property
    def longest_tick(self) -> int:
        """Nanoseconds between two ticks from which one has been missed."""
        return int(1.75 * self.period * SECOND)


@dataclass
class Converted:
    """What became of one take. dropped: why nothing, or a part of it, was kept."""

    episodes: list[Episode] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    dropped: list[str] = field(default_factory=list)


def episodes_of(take: Take, config: ConversionConfig) -> Converted:
    """The episodes of one take: one where nothing was amiss, several where it had to be split."""
    result = Converted()
    if take.followed:
        take.targets = followed_targets(take, config)
    ticks, targets = played_ticks(take, config.period)
    first = next((i for i, t in enumerate(targets) if t.sequence), None)
    if first is None:
        result.dropped.append("no chunk was played")
        return result
    first = max(first, 1)
    if len(ticks) <= first:
        result.dropped.append("the arm's target before the first action was not heard")
        return result
    result.findings += _gaps(take, config, ticks, first)
    outcomes = _Outcomes(take, config, ticks)
    result.findings += outcomes.findings
    good = _seen(take, config, ticks) & outcomes.known
    good[:first] = False
    sentences = take.instructions.newest(ticks)
    good &= sentences >= 0
    if not take.instructions.stamps:
        result.dropped.append("no instruction was heard")
        return result
    breaks = np.zeros(len(ticks), dtype=bool)
    breaks[1:] = np.diff(ticks) > config.longest_tick
    breaks[1:] |= np.diff(sentences) != 0
    for rows in runs(good, breaks):
        if len(rows) < config.min_steps:
            result.dropped.append(
                f"{len(rows)} steps from {ticks[rows[0]] / SECOND:.3f}: "
                f"fewer than {config.min_steps}"
            )
            continue
        result.episodes.append(_episode(take, ticks, targets, rows, outcomes, sentences[rows[0]]))
    if not result.episodes and not result.dropped:
        result.dropped.append("no step had pictures, state and outcome together")
    return result


def followed_targets(take: Take, config: ConversionConfig) -> Series:
    """Where the arm was a period later, every period: what it was to do, if nobody said it.

    The gripper closes or opens from where the fingers begin to; at first as far as they are open.
    No target where no pose, or no finger, was heard for too long.
    """
    targets = Series(take.poses.topic)
    if not take.poses.stamps or not take.fingers.stamps:
        return targets
    period = round(config.period * SECOND)
    first = max(take.poses.stamps[0], take.fingers.stamps[0])
    ticks = np.arange(first, take.poses.stamps[-1] + 1, period)
    heard = (take.poses.ages(ticks) <= config.max_gap) & (
        take.fingers.ages(ticks) <= config.max_gap
    )
    poses, fingers = take.poses.newest(ticks), take.fingers.newest(ticks)
    widths = np.array([take.fingers.values[f].sum() for f in fingers])
    closing = gripper_commands(widths)
    for now, then in zip(range(len(ticks)), range(1, len(ticks)), strict=False):
        if heard[now] and heard[then]:
            pose = take.poses.values[poses[then]]
            targets.add(int(ticks[now]), ArmTarget(pose[:3], pose[3:], closing[then], 1, ""))
    return targets


def gripper_commands(widths: np.ndarray) -> list[float]:
    """-1 open or +1 closed at each tick, of widths between the fingers (T,) m."""
    state = 1.0 if len(widths) and widths[0] < widths.max() / 2 else -1.0
    found = []
    for change in np.diff(widths, prepend=widths[:1]):
        if abs(change) > FINGERS_MOVE:
            state = 1.0 if change < 0 else -1.0
        found.append(state)
    return found


def played_ticks(take: Take, period: float) -> tuple[np.ndarray, list[ArmTarget]]:
    """Stamps (N,) ns and targets of the control ticks until the take's end.

    A tick less than half a period after the one before catches up; its target counts as that of
    the next.
    """
    ticks: list[int] = []
    targets: list[ArmTarget] = []
    for stamp, target in zip(take.targets.stamps, take.targets.values, strict=True):
        if take.ended is not None and stamp > take.ended:
            break
        if ticks and stamp - ticks[-1] < period * SECOND / 2:
            continue
        ticks.append(stamp)
        targets.append(target)
    return np.array(ticks, dtype=np.int64), targets


def executed_action(before: ArmTarget, now: ArmTarget) -> np.ndarray:
    """(7,): the step from one target to the next, in the base frame (m, rad), and the gripper."""
    action = np.empty(ACTION_SIZE)
    action[:3] = now.position - before.position
    action[3:6] = turn_between(quaternion_of(before.axis_angle), quaternion_of(now.axis_angle))
    action[6] = now.gripper
    return action


def runs(good: np.ndarray, breaks: np.ndarray) -> list[np.ndarray]:
    """Indices of every stretch of `good` (N,) rows; a row in `breaks` (N,) begins a new one."""
    found: list[list[int]] = []
    for i in np.flatnonzero(good):
        if not found or breaks[i] or found[-1][-1] != i - 1:
            found.append([])
        found[-1].append(int(i))
    return [np.array(rows) for rows in found]


class _Outcomes:
    """contact, displacement (m), success and whether they are known, for every tick (N,)."""

    def __init__(self, take: Take, config: ConversionConfig, ticks: np.ndarray) -> None:
        count = len(ticks)
        self.contact = np.zeros(count, dtype=bool)
        self.displacement = np.zeros(count)
        self.success = np.zeros(count, dtype=bool)
        self.known = np.ones(count, dtype=bool)
        self.findings: list[Finding] = []
        self.cost_source = ""
        said = take.outcome or {}
        self.task, self.level = "", -1
        if take.truths.stamps:
            self.cost_source = "physics"
            self._from_truth(take, config, ticks)
        elif config.free_motion is not None and take.wrenches.stamps:
            self.cost_source = "wrench"
            self._by_wrench(take, config, config.free_motion, ticks)
        elif take.expected_cost:
            self.cost_source = "predicted"
            self._as_expected(take, config, ticks)
        self.task, self.level = said.get("task", self.task), said.get("level", self.level)
        if said.get("success"):
            last = int(np.flatnonzero(self.known)[-1]) if self.known.any() else -1
            self.success[last] = True

    def _from_truth(self, take: Take, config: ConversionConfig, ticks: np.ndarray) -> None:
        """The world tells each step's outcome; that of the last tick until the take's end."""
        truths: list[Truth] = take.truths.values
        self.task, self.level = truths[-1].task, truths[-1].level
        end = 2**62 if take.ended is None else take.ended
        until = np.minimum(np.append(ticks[1:], end), ticks + config.longest_tick)
        before, newest = take.truths.newest(ticks), take.truths.newest(until)
        self.known = take.truths.ages(until) <= config.max_gap
        if newest[-1] <= before[-1]:
            self.known[-1] = False
            if take.ended is not None:
                missing = "the last step's outcome was not heard"
                self.findings.append(Finding(TRUTH, int(ticks[-1]), missing))
        for row in np.flatnonzero(newest >= 0):
            self.contact[row] = any(t.contact for t in truths[before[row] + 1 : newest[row] + 1])
            self.displacement[row] = truths[newest[row]].displacement
            self.success[row] = truths[newest[row]].success

    def _by_wrench(
        self, take: Take, config: ConversionConfig, free: FreeMotion, ticks: np.ndarray
    ) -> None:
        """Contact where the wrench leaves that of free motion between a tick and the next."""
        until = np.minimum(np.append(ticks[1:], 2**62), ticks + config.longest_tick)
        felt = free.contact(np.array(take.wrenches.values))
        before, newest = take.wrenches.newest(ticks), take.wrenches.newest(until)
        self.known = take.wrenches.ages(until) <= config.max_gap
        for row in np.flatnonzero(newest >= 0):
            self.contact[row] = bool(
                felt[min(before[row] + 1, newest[row]) : newest[row] + 1].any()
            )

    def _as_expected(self, take: Take, config: ConversionConfig, ticks: np.ndarray) -> None:
        for row, index in enumerate(take.targets.newest(ticks)):
            sequence = take.targets.values[index].sequence
            costs, observed = take.expected_cost.get(sequence), take.observed_at.get(sequence)
            if costs is not None and observed is not None:
                step = int((ticks[row] - observed) / (config.period * SECOND))
                cost = costs[min(max(step, 0), len(costs) - 1)]
                self.contact[row] = cost >= EXPECTED_CONTACT


def _used(take: Take) -> list[Series]:
    return [*take.pictures.values(), take.poses, take.fingers]


def _seen(take: Take, config: ConversionConfig, ticks: np.ndarray) -> np.ndarray:
    """(N,) whether pictures and state of each tick are new enough."""
    fresh = [series.ages(ticks) <= config.max_gap for series in _used(take)]
    return np.all(fresh, axis=0)


def _gaps(take: Take, config: ConversionConfig, ticks: np.ndarray, first_row: int) -> list[Finding]:
    first, last = int(ticks[first_row]), int(ticks[-1])
    found = [
        Finding(take.targets.topic, int(begin), f"no tick for {(end - begin) / SECOND:.3f} s")
        for begin, end in zip(ticks[first_row - 1 : -1], ticks[first_row:], strict=True)
        if end - begin > config.longest_tick
    ]
    for series in _used(take):
        found += series.gaps(first, last, config.max_gap)
    if take.truths.stamps:
        told = int(ticks[min(first_row + 1, len(ticks) - 1)])  # of the first row, by then
        found += take.truths.gaps(told, last, config.max_gap)
    elif config.free_motion is not None and take.wrenches.stamps:
        found += take.wrenches.gaps(first, last, config.max_gap)
    elif take.wrenches.stamps:
        what = "was heard, but not what it is in free motion; it labels no contact"
        found.append(Finding(take.wrenches.topic, first, what))
    elif take.outcome is not None:
        who = "costs are the safety head's" if take.expected_cost else "nobody labels contact"
        found.append(Finding(TRUTH, first, f"was not heard; {who}"))
    return found


def _episode(
    take: Take,
    ticks: np.ndarray,
    targets: list[ArmTarget],
    rows: np.ndarray,
    outcomes: _Outcomes,
    sentence: int,
) -> Episode:
    instants = ticks[rows]
    poses = take.poses.newest(instants)
    fingers = take.fingers.newest(instants)
    state = [
        np.concatenate([take.poses.values[p], take.fingers.values[f]])
        for p, f in zip(poses, fingers, strict=True)
    ]
    actions = [executed_action(targets[row - 1], targets[row]) for row in rows]
    played = dict.fromkeys(targets[row].checkpoint for row in rows if targets[row].checkpoint)
    return Episode(
        images={
            name: np.stack([series.values[i] for i in series.newest(instants)])
            for name, series in take.pictures.items()
        },
        state=np.array(state, dtype=np.float32),
        actions=np.array(actions, dtype=np.float32),
        success=outcomes.success[rows],
        cost=outcomes.contact[rows].astype(np.float32),
        displacement=outcomes.displacement[rows].astype(np.float32),
        instruction=take.instructions.values[sentence],
        task=outcomes.task,
        level=outcomes.level,
        seed=(take.outcome or {}).get("seed", -1),
        source="policy:" + "+".join(played) if played else "robot",
        cost_source=outcomes.cost_source,
    )
