"""An independent check of the arm, for a process of its own: who is late, and what breaks a limit.

It trusts neither the gate nor the control loop: it hears what they hear and what they say, keeps
its own clock, and lets go of the arm when something does not fit. It only stops; it never moves.
"""

from dataclasses import dataclass, fields

import numpy as np

from safedojo_ros.core.config import check_ranges
from safedojo_ros.core.types import Decision
from safedojo_ros.core.units import SECOND
from safedojo_ros.robot.limits import Workspace
from safedojo_ros.robot.playback.arm_state import ArmMode

ARMED = (ArmMode.ARMED, ArmMode.RUNNING, ArmMode.HOLD)
"""The modes in which something may move."""

TOPICS = {
    "arm": "franka/state",
    "gate": "safety/state",
    "enable": "robot/enable",
    "measured": "ee_pose",
}
"""Who must be heard, by the name of its deadline."""

SLACK = 0.005
"""Metres that a target or a pose may be beyond a limit: rounding, and states that cross."""

STILL = 0.002
"""Metres that a target may move while the gate holds."""

STAYS = 0.5
"""Seconds for which a fault is said at least, so that no listener misses it."""


@dataclass(frozen=True)
class Deadlines:
    """Longest silence of each source, seconds; each is above the arm's own deadline."""

    enable: float = 0.4
    """`robot/enable`."""
    gate: float = 0.4
    """`safety/state`."""
    arm: float = 0.25
    """`franka/state`: the control loop is blocked, or its process is gone."""
    measured: float = 0.3
    """`ee_pose`."""
    chunk: float = 0.3
    """From the end of the newest gated chunk, while the arm executes."""
    obey: float = 0.3
    """For which the arm may execute after the gate has said HOLD, or stay armed after the enable
    switch was released: what the arm itself does at once, it need not be told."""

    def __post_init__(self) -> None:
        for field in fields(self):
            check_ranges(self, **{field.name: "(0, 10]"})


class ArmWatchdog:
    """Tell it what is heard, then `check`. Times are ns of one clock that never goes back.

    Only an armed arm is watched: before that nothing may move, and arming has its own conditions.
    But who has never been heard cannot be watched either, and that is said at once.
    """

    def __init__(
        self,
        workspace: Workspace,
        max_lead: float,
        max_speed: float,
        deadlines: Deadlines | None = None,
    ) -> None:
        """max_lead: m, from the measured pose to the target; max_speed: m/s, of target and pose."""
        self.workspace, self.max_lead, self.max_speed = workspace, max_lead, max_speed
        check_ranges(self, max_lead="(0, 1]", max_speed="(0, 10]")
        self.deadlines = deadlines or Deadlines()
        self._heard: dict[str, int] = {}
        self._mode = ArmMode.DISARMED
        self._armed_at = 0
        self._released_since: int | None = None
        self._holds_since: int | None = None
        self._held_at: np.ndarray | None = None
        self._chunk_ends: int | None = None
        self._pose: tuple[np.ndarray, int] | None = None
        self._target: tuple[np.ndarray, int] | None = None
        self._broken = ""
        self._fault, self._fault_at = "", 0

    # ---------------------------------------------------------------- what is heard

    def enable(self, pressed: bool, now_ns: int) -> None:
        """One heartbeat of the enable switch."""
        self._heard["enable"] = now_ns
        if pressed:
            self._released_since = None
        elif self._released_since is None:
            self._released_since = now_ns

    def gate(self, decision: Decision, now_ns: int) -> None:
        """The gate's enforced decision."""
        self._heard["gate"] = now_ns
        if decision <= Decision.SLOW:
            self._holds_since = self._held_at = None
        elif self._holds_since is None:
            self._holds_since = now_ns

    def chunk(self, seconds: float, now_ns: int) -> None:
        """A gated chunk of `seconds` was published."""
        self._chunk_ends = now_ns + round(seconds * SECOND)

    def arm(self, mode: ArmMode, now_ns: int) -> None:
        """What the control loop says of itself."""
        if mode in ARMED and self._mode not in ARMED:
            self._armed_at, self._broken = now_ns, ""
            self._target = self._held_at = None  # where it stands now is where it may stand
        self._heard["arm"], self._mode = now_ns, mode

    def measured(self, position: np.ndarray, now_ns: int) -> None:
        """The arm's measured position (3,) m."""
        self._heard["measured"] = now_ns
        before, self._pose = self._pose, (np.array(position, dtype=np.float64), now_ns)
        if not np.all(np.isfinite(self._pose[0])):
            self._break(f"the measured position is {self._pose[0].tolist()}")
        elif self._beyond(self._pose[0]) > self.max_lead + SLACK:
            self._break(f"the arm is {self._beyond(self._pose[0]):.3f} m outside the workspace")
        elif before is not None:
            self._check_speed("the arm", *before, *self._pose, reserve=SLACK)

    def target(self, position: np.ndarray, stamp: int, now_ns: int) -> None:
        """Where the arm is sent, (3,) m, at the control tick `stamp` (ns)."""
        before, self._target = self._target, (np.array(position, dtype=np.float64), stamp)
        goal = self._target[0]
        if not np.all(np.isfinite(goal)):
            self._break(f"the target is {goal.tolist()}")
            return
        pose = self._pose[0] if self._pose is not None else goal
        allowed = max(0.0, self._beyond(pose)) + SLACK  # an arm outside may be led back in
        if self._beyond(goal) > allowed:
            self._break(f"the target is {self._beyond(goal):.3f} m outside the workspace")
        lead = float(np.linalg.norm(goal - pose))
        if before is not None:
            if lead > float(np.linalg.norm(before[0] - pose)):  # back to the arm is no motion
                self._check_speed("the target", *before, *self._target, reserve=SLACK)
            if lead > self.max_lead + SLACK + self._travel(now_ns):
                self._break(
                    f"the target is {lead:.3f} m ahead of the arm, the limit is {self.max_lead:g} m"
                )
        self._check_hold(goal, now_ns)

    # ---------------------------------------------------------------- what is said

    def check(self, now_ns: int) -> str:
        """Why the arm is let go, or "". A fault is said for `STAYS` seconds at least, but that
        somebody has not been heard yet only as long as that is so: nobody could arm before."""
        armed = self._mode in ARMED
        missing = self._missing()
        if missing:
            return missing
        fault = self._broken if armed else ""
        fault = fault or self._silent(now_ns, armed)
        if armed and not fault:
            fault = self._released(now_ns) or self._outlived(now_ns) or self._disobeyed(now_ns)
        self._broken = ""
        if fault:
            self._fault, self._fault_at = fault, now_ns
        elif self._fault and now_ns - self._fault_at > STAYS * SECOND:
            self._fault = ""
        return self._fault

    def _break(self, reason: str) -> None:
        self._broken = self._broken or reason

    def _late(self, name: str, now_ns: int) -> bool:
        since = max(self._heard[name], self._armed_at)
        return bool(now_ns - since > getattr(self.deadlines, name) * SECOND)

    def _missing(self) -> str:
        topics = (topic for name, topic in TOPICS.items() if name not in self._heard)
        return next((f"'{topic}' has not been heard yet" for topic in topics), "")

    def _silent(self, now_ns: int, armed: bool) -> str:
        """A disarmed arm may fall silent, and others beside it."""
        for name, topic in TOPICS.items():
            if (armed or name == "arm") and self._late(name, now_ns):
                silence = (now_ns - self._heard[name]) / SECOND
                return f"'{topic}' has been silent for {silence:.2f} s"
        return ""

    def _released(self, now_ns: int) -> str:
        if self._released_since is None:
            return ""
        since = (now_ns - self._released_since) / SECOND
        if since <= self.deadlines.obey:
            return ""
        return f"the arm is still armed {since:.2f} s after the enable switch was released"

    def _outlived(self, now_ns: int) -> str:
        if self._mode != ArmMode.RUNNING or self._chunk_ends is None:
            return ""
        late = (now_ns - self._chunk_ends) / SECOND
        if late > self.deadlines.chunk:
            return f"the arm executes {late:.2f} s after the newest chunk has ended"
        return ""

    def _disobeyed(self, now_ns: int) -> str:
        if self._holds_since is None or self._mode != ArmMode.RUNNING:
            return ""
        held = (now_ns - self._holds_since) / SECOND
        if held > self.deadlines.obey:
            return f"the arm executes although the gate has held for {held:.2f} s"
        return ""

    def _check_hold(self, goal: np.ndarray, now_ns: int) -> None:
        since = self._holds_since
        if since is None or now_ns - since <= self.deadlines.obey * SECOND:
            return
        if self._held_at is None:
            self._held_at = goal
        moved = float(np.linalg.norm(goal - self._held_at))
        if moved > STILL:
            self._break(f"the target moved by {moved:.3f} m although the gate holds")

    def _check_speed(
        self, what: str, one: np.ndarray, then: int, other: np.ndarray, now: int, reserve: float
    ) -> None:
        seconds = max((now - then) / SECOND, 1e-3)
        way = float(np.linalg.norm(other - one))
        if way > self.max_speed * seconds + reserve:
            self._break(
                f"{what} moved by {way:.3f} m in {seconds:.3f} s, "
                f"the limit is {self.max_speed:g} m/s"
            )

    def _travel(self, now_ns: int) -> float:
        """Metres that the arm may have moved since its newest pose."""
        age = (now_ns - self._pose[1]) / SECOND if self._pose is not None else 0.0
        return self.max_speed * min(age, self.deadlines.measured)

    def _beyond(self, position: np.ndarray) -> float:
        """Metres outside the workspace; 0 inside."""
        return float(np.linalg.norm(position - self.workspace.clamp(position)))
