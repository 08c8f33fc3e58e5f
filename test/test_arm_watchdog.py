"""The watchdog lets go of an armed arm when somebody is late or a limit is broken, only then."""

from collections.abc import Callable

import numpy as np
import pytest

from safedojo_ros.core.errors import ConfigError
from safedojo_ros.core.types import Decision
from safedojo_ros.robot.arm_watchdog import STAYS, ArmWatchdog, Deadlines
from safedojo_ros.robot.limits import Workspace
from safedojo_ros.robot.playback.arm_state import ArmMode

MS = 1_000_000
TICK = 50 * MS
BOX = Workspace((-0.25, -0.32, 0.012), (0.34, 0.32, 0.45))
HOME = np.array([0.0, 0.0, 0.2])


class Rig:
    """A running arm around the watchdog; whoever is in `silent` is not heard."""

    def __init__(self, max_speed: float = 2.0) -> None:
        self.now = 1_000_000 * MS
        self.watchdog = ArmWatchdog(BOX, 0.06, max_speed)
        self.mode, self.decision, self.pressed = ArmMode.RUNNING, Decision.ALLOW, True
        self.pose, self.goal = HOME.copy(), HOME.copy()
        self.silent: set[str] = set()

    def tick(self) -> str:
        """One control period."""
        self.now += TICK
        watchdog = self.watchdog
        for name, beat in (
            ("enable", lambda: watchdog.enable(self.pressed, self.now)),
            ("gate", lambda: watchdog.gate(self.decision, self.now)),
            ("chunk", lambda: watchdog.chunk(0.4, self.now)),
            ("arm", lambda: watchdog.arm(self.mode, self.now)),
            ("measured", lambda: watchdog.measured(self.pose, self.now)),
            ("target", lambda: watchdog.target(self.goal, self.now, self.now)),
        ):
            if name not in self.silent:
                beat()
        return watchdog.check(self.now)

    def runs(self, ticks: int = 20) -> "Rig":
        """It has worked for a while, and nothing was found."""
        for _ in range(ticks):
            assert self.tick() == ""
        return self

    def until_fault(self, ticks: int = 40) -> tuple[float, str]:
        """Seconds until it lets go, and why."""
        for number in range(ticks):
            reason = self.tick()
            if reason:
                return number * TICK / 1e9, reason
        raise AssertionError("it never let go")


@pytest.mark.parametrize(
    ("silent", "deadline", "words"),
    [
        pytest.param("enable", 0.4, "'robot/enable' has been silent",
            marks=pytest.mark.fault("watchdog", "`robot/enable` is silent", "lets go")),
        pytest.param("gate", 0.4, "'safety/state' has been silent",
            marks=pytest.mark.fault("watchdog", "`safety/state` is silent", "lets go")),
        pytest.param("arm", 0.25, "'franka/state' has been silent",
            marks=pytest.mark.fault("watchdog", "the control loop is blocked", "lets go")),
        pytest.param("measured", 0.3, "'ee_pose' has been silent",
            marks=pytest.mark.fault("watchdog", "the arm's pose is silent", "lets go")),
        pytest.param("chunk", 0.7, "after the newest chunk has ended",
            marks=pytest.mark.fault("watchdog", "the arm goes on without chunks", "lets go")),
    ],
)  # fmt: skip
def test_who_falls_silent_makes_it_let_go_in_time(silent: str, deadline: float, words: str) -> None:
    rig = Rig().runs()
    rig.silent = {silent}
    late, reason = rig.until_fault()
    assert words in reason
    assert late <= deadline + 0.05


@pytest.mark.parametrize("silent", ["enable", "gate", "measured", "chunk", "target"])
def test_a_disarmed_arm_needs_nobody_but_its_own_node(silent: str) -> None:
    rig = Rig().runs()
    rig.mode, rig.silent = ArmMode.DISARMED, {silent}
    rig.runs(60)


@pytest.mark.parametrize(
    ("silent", "topic"),
    [
        ("enable", "robot/enable"),
        ("gate", "safety/state"),
        ("arm", "franka/state"),
        ("measured", "ee_pose"),
    ],
)
def test_an_arm_is_not_armed_before_everybody_has_been_heard(silent: str, topic: str) -> None:
    """Otherwise it would move for a deadline, watched by somebody who cannot hear."""
    rig = Rig()
    rig.mode, rig.silent = ArmMode.DISARMED, {silent}
    assert f"'{topic}' has not been heard yet" in rig.tick()


def test_arming_gives_everybody_their_deadline_anew() -> None:
    rig = Rig().runs()
    rig.mode, rig.silent = ArmMode.DISARMED, {"gate"}
    rig.runs(60)
    rig.mode = ArmMode.ARMED
    late, reason = rig.until_fault()
    assert "safety/state" in reason
    assert late > 0.3


@pytest.mark.fault(
    "watchdog", "the arm stays armed after the enable switch was released", "lets go"
)
def test_a_released_switch_is_enough() -> None:
    rig = Rig().runs()
    rig.pressed = False
    late, reason = rig.until_fault()
    assert "after the enable switch was released" in reason
    assert 0.3 <= late <= 0.4


@pytest.mark.fault("watchdog", "the arm goes on while the gate holds", "lets go")
@pytest.mark.parametrize("decision", [Decision.HOLD, Decision.STOP])
def test_an_arm_that_executes_although_the_gate_holds_is_let_go(decision: Decision) -> None:
    rig = Rig().runs()
    rig.decision = decision
    late, reason = rig.until_fault()
    assert "although the gate has held" in reason
    assert 0.3 <= late <= 0.4


@pytest.mark.fault("watchdog", "the target moves while the gate holds", "lets go")
def test_a_target_that_creeps_while_the_gate_holds_is_let_go() -> None:
    rig = Rig().runs()
    rig.decision, rig.mode = Decision.HOLD, ArmMode.HOLD
    rig.runs(20)
    rig.goal[0] += 0.001
    rig.runs(1)
    rig.goal[0] += 0.0015
    assert "although the gate holds" in rig.tick()


def test_an_arm_that_was_carried_while_disarmed_may_be_armed_under_the_same_hold() -> None:
    rig = Rig().runs()
    rig.decision, rig.mode = Decision.HOLD, ArmMode.HOLD
    rig.runs(20)
    rig.mode = ArmMode.DISARMED
    rig.runs(5)
    rig.goal[0] = rig.pose[0] = 0.05
    rig.runs(5)
    rig.mode = ArmMode.ARMED
    rig.runs(20)
    rig.goal[0] += 0.003
    assert "although the gate holds" in rig.tick()


def test_a_hold_that_ends_is_forgotten() -> None:
    rig = Rig().runs()
    rig.decision, rig.mode = Decision.HOLD, ArmMode.HOLD
    rig.runs(20)
    rig.decision, rig.mode = Decision.SLOW, ArmMode.RUNNING
    rig.goal[0] += 0.01
    rig.runs(20)


def far(rig: Rig) -> None:
    rig.goal[1] = 0.1


def above(rig: Rig) -> None:
    rig.pose[2] = rig.goal[2] = 0.53


def outside(rig: Rig) -> None:
    rig.pose[:] = (0.33, 0.0, 0.2)
    rig.goal[:] = (0.36, 0.0, 0.2)


def nan_target(rig: Rig) -> None:
    rig.goal[2] = np.nan


def nan_pose(rig: Rig) -> None:
    rig.pose[2] = np.nan


def jump(rig: Rig) -> None:
    rig.pose[:] = (0.2, 0.0, 0.2)


@pytest.mark.parametrize(
    ("breaks", "words"),
    [
        pytest.param(far, "ahead of the arm",
            marks=pytest.mark.fault("watchdog", "a target beyond the maximum lead", "lets go")),
        pytest.param(above, "outside the workspace",
            marks=pytest.mark.fault("watchdog", "the arm leaves workspace and lead", "lets go")),
        pytest.param(outside, "outside the workspace",
            marks=pytest.mark.fault("watchdog", "a target outside the workspace", "lets go")),
        pytest.param(nan_target, "the target is [",
            marks=pytest.mark.fault("watchdog", "a target that is not finite", "lets go")),
        pytest.param(nan_pose, "the measured position is [",
            marks=pytest.mark.fault("watchdog", "a pose that is not finite", "lets go")),
        pytest.param(jump, "the arm moved by",
            marks=pytest.mark.fault("watchdog", "a pose that jumps", "lets go")),
    ],
)  # fmt: skip
def test_a_broken_limit_makes_it_let_go_at_once(breaks: Callable[[Rig], None], words: str) -> None:
    rig = Rig(max_speed=10.0 if breaks in (above, outside) else 2.0).runs()
    breaks(rig)
    assert words in rig.tick()


@pytest.mark.fault("watchdog", "a target faster than the speed limit", "lets go")
def test_a_target_that_is_too_fast_is_let_go_and_one_that_returns_is_not() -> None:
    rig = Rig(max_speed=0.5).runs()
    rig.goal[0] = 0.02
    rig.runs(1)  # 25 mm a period are allowed
    rig.goal[0] = 0.058
    assert "the target moved by 0.038 m" in rig.tick()
    back = Rig(max_speed=0.5).runs()
    for goal in (0.025, 0.05):
        back.goal[0] = goal
        back.runs(1)
    back.goal[0] = 0.0  # put back on the arm, which has not moved
    back.runs(1)


def test_an_arm_outside_may_be_led_back_in() -> None:
    rig = Rig(max_speed=10.0)
    rig.pose[:] = rig.goal[:] = (0.38, 0.0, 0.2)
    rig.runs(2)
    rig.goal[0] = 0.36
    rig.runs(2)


def test_a_fault_is_said_long_enough_to_be_heard_and_then_ends() -> None:
    rig = Rig().runs()
    jump(rig)
    rig.goal = rig.pose.copy()
    said = sum(bool(rig.tick()) for _ in range(40))
    assert STAYS <= said * 0.05 <= STAYS + 0.1


@pytest.mark.parametrize(("lead", "speed"), [(0.0, 1.0), (0.06, 0.0), (0.06, float("nan"))])
def test_limits_that_are_none_are_refused(lead: float, speed: float) -> None:
    with pytest.raises(ConfigError):
        ArmWatchdog(BOX, lead, speed)


def test_deadlines_that_are_none_are_refused() -> None:
    with pytest.raises(ConfigError, match="gate"):
        Deadlines(gate=0.0)
