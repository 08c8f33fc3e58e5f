"""Arming is explicit, a fault never clears itself, and whoever falls silent makes the arm hold."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from safedojo_ros.core.errors import ConfigError
from safedojo_ros.core.types import ActionChunk, Decision
from safedojo_ros.robot.limits import Workspace
from safedojo_ros.robot.playback.arm_state import ArmMode, ArmState
from safedojo_ros.robot.playback.control_loop import ControlLoop
from safedojo_ros.robot.playback.playback import ChunkPlayback
from safedojo_ros.robot.playback.target import Target, TargetPose

MS = 1_000_000
TICK = 50 * MS
START = 10_000 * MS
HOME = np.array([-0.1, 0.0, 0.24, np.pi, 0.0, 0.0, 0.04, 0.04])


def running() -> ArmState:
    arm = ArmState()
    arm.enable(START, True)
    assert arm.arm(START).accepted
    assert arm.moving(START)
    return arm


def test_the_arm_starts_disarmed_and_arming_alone_moves_nothing() -> None:
    arm = ArmState()
    assert arm.mode == ArmMode.DISARMED
    assert not arm.moving(START)
    arm.enable(START, True)
    assert not arm.moving(START)
    assert arm.arm(START).accepted
    assert arm.mode == ArmMode.ARMED


def test_arming_needs_the_enable_switch() -> None:
    arm = ArmState()
    assert "no enable heartbeat" in arm.arm(START).reason
    arm.enable(START, False)
    assert "released" in arm.arm(START).reason
    arm.enable(START, True)
    assert not arm.arm(START + 301 * MS).accepted
    assert arm.mode == ArmMode.DISARMED


def test_a_late_heartbeat_holds_and_the_next_one_lets_it_go_on() -> None:
    arm = running()
    assert arm.may_move(START + 300 * MS)
    assert not arm.moving(START + 301 * MS)
    assert arm.mode == ArmMode.HOLD
    assert "0.30 s old" in arm.reason
    arm.enable(START + 400 * MS, True)
    assert arm.moving(START + 400 * MS)
    assert arm.mode == ArmMode.RUNNING


def test_a_heartbeat_from_the_future_enables_nothing() -> None:
    arm = running()
    assert not arm.may_move(START - 1)
    assert arm.mode == ArmMode.HOLD


def test_arming_an_armed_arm_changes_nothing() -> None:
    arm = running()
    reply = arm.arm(START + MS)
    assert (reply.accepted, reply.reason) == (True, "already RUNNING")
    assert (arm.mode, arm.since) == (ArmMode.RUNNING, START)


def test_a_state_says_since_when_and_why() -> None:
    arm = running()
    arm.hold(START + MS, "first")
    arm.hold(START + 2 * MS, "second")
    assert (arm.mode, arm.reason, arm.since) == (ArmMode.HOLD, "second", START + MS)
    assert arm.disarm(START + 3 * MS, "enough").accepted
    assert (arm.mode, arm.reason, arm.since) == (ArmMode.DISARMED, "enough", START + 3 * MS)
    arm.hold(START + 4 * MS, "nothing to hold")
    assert (arm.mode, arm.reason) == (ArmMode.DISARMED, "enough")


def test_a_released_switch_holds_at_once() -> None:
    arm = running()
    arm.enable(START + MS, False)
    assert (arm.mode, arm.reason) == (ArmMode.HOLD, "the enable switch is released")


def test_a_fault_keeps_its_first_reason_and_needs_recover_and_arm() -> None:
    arm = running()
    arm.fault(START, "joint 4 reflex")
    arm.fault(START, "something later")
    arm.hold(START, "hold")
    arm.disarm(START)
    arm.enable(START, True)
    refusal = arm.arm(START)
    assert not refusal.accepted
    assert "recover" in refusal.reason
    assert (arm.mode, arm.reason) == (ArmMode.FAULT, "joint 4 reflex")
    assert arm.recover(START).accepted
    assert arm.mode == ArmMode.DISARMED
    assert not arm.moving(START)
    assert arm.arm(START).accepted


def test_only_a_fault_can_be_recovered_from() -> None:
    arm = running()
    assert not arm.recover(START).accepted
    assert arm.mode == ArmMode.RUNNING


def test_a_deadline_that_is_none_is_refused() -> None:
    for deadline in (0.0, float("inf"), float("nan")):
        with pytest.raises(ConfigError):
            ArmState(enable_deadline=deadline)


calls = st.lists(
    st.tuples(
        st.sampled_from(
            ["arm", "disarm", "recover", "fault", "hold", "press", "release", "moving", "check"]
        ),
        st.integers(0, 400),
    ),
    max_size=50,
)


@given(calls)
def test_faults_end_only_by_recover_and_motion_needs_arming_and_enable(calls: list) -> None:
    arm, now, armed, pressed_at = ArmState(), START, False, None
    for call, elapsed in calls:
        now += elapsed * MS
        before = arm.mode
        if call in ("press", "release"):
            arm.enable(now, call == "press")
            pressed_at = now if call == "press" else None
        elif call in ("fault", "hold"):
            getattr(arm, call)(now, "because")
        else:
            getattr(arm, call)(now)
        armed = call == "arm" and arm.mode == ArmMode.ARMED or armed
        armed = armed and call not in ("disarm", "fault")
        if before == ArmMode.FAULT and call != "recover":
            assert arm.mode == ArmMode.FAULT
        if arm.mode == ArmMode.RUNNING and before != ArmMode.RUNNING:
            assert call == "moving"
            assert armed
            assert pressed_at is not None
            assert now - pressed_at <= 300 * MS
        if arm.mode in (ArmMode.HOLD, ArmMode.FAULT):
            assert arm.reason


class Rig:
    """A control loop with an arm that follows perfectly and everybody alive."""

    def __init__(self) -> None:
        box = Workspace((-0.25, -0.32, 0.012), (0.34, 0.32, 0.45))
        self.loop = ControlLoop(ChunkPlayback(), TargetPose(box), ArmState())
        self.now, self.sequence, self.state = START, 0, HOME.copy()
        self.silent: set[str] = set()
        self.decision = Decision.ALLOW
        self.enabled = True

    def beat(self) -> None:
        if "enable" not in self.silent:
            self.loop.enable(self.enabled, self.now)
        if "measured" not in self.silent:
            self.loop.measured(self.state, self.now)
        if "safety" not in self.silent:
            self.loop.safety(self.decision, "as told", self.now)

    def step(self) -> Target | None:
        self.now += TICK
        self.beat()
        target = self.loop.tick(self.now)
        if target is not None:
            self.state[:3], self.state[3:6] = target.position, target.axis_angle
        return target

    def offer(self, age: int = 30 * MS, dx: float = 0.004) -> str:
        self.sequence += 1
        actions = np.zeros((16, 7))
        actions[:, 0], actions[:, 6] = dx, 1.0
        chunk = ActionChunk(actions, observed_at=self.now - age, sequence=self.sequence)
        return self.loop.chunk(chunk, self.now)

    def run(self) -> "Rig":
        self.beat()
        assert self.loop.arm_now(self.now).accepted
        self.step()
        assert self.offer() == ""
        for _ in range(3):
            self.step()
        assert self.loop.arm.mode == ArmMode.RUNNING
        return self

    def stands(self) -> bool:
        """Whether neither the arm nor its target moves for the next ticks."""
        places = [t.position for t in (self.step() for _ in range(3)) if t is not None]
        return bool(np.ptp(places, axis=0).max() == 0.0) if places else True


def test_a_chunk_moves_the_arm_by_its_deltas() -> None:
    rig = Rig().run()
    assert rig.state[0] == pytest.approx(HOME[0] + 3 * 0.004)


def test_arming_puts_the_target_on_the_arm_and_keeps_the_hand() -> None:
    for fingers, command in ((0.04, -1.0), (0.0381, -1.0), (0.0379, 1.0), (0.0, 1.0)):
        rig = Rig()
        rig.state[6:] = fingers
        rig.beat()
        rig.loop.arm_now(rig.now)
        target = rig.loop.tick(rig.now)
        assert target is not None
        assert target.position == pytest.approx(rig.state[:3])
        assert target.gripper == command


def test_nothing_is_sent_before_arming_or_after_stopping() -> None:
    rig = Rig()
    assert rig.step() is None
    rig.run()
    rig.loop.stop(rig.now)
    assert rig.step() is None
    assert rig.loop.arm.mode == ArmMode.DISARMED


@pytest.mark.parametrize("silent", ["measured", "safety"])
def test_arming_is_refused_while_somebody_is_silent(silent: str) -> None:
    rig = Rig()
    rig.silent = {silent}
    rig.beat()
    reply = rig.loop.arm_now(rig.now)
    assert not reply.accepted
    assert "has not been heard" in reply.reason


@pytest.mark.parametrize(
    ("silent", "deadline"), [("measured", 200), ("safety", 500), ("enable", 300)]
)
def test_whoever_falls_silent_makes_the_arm_hold_and_resumes_it(silent: str, deadline: int) -> None:
    rig = Rig().run()
    rig.silent = {silent}
    for _ in range(deadline // 50):
        rig.step()
    assert rig.loop.arm.mode == ArmMode.RUNNING
    rig.step()
    assert rig.loop.arm.mode == ArmMode.HOLD
    assert rig.loop.arm.reason
    assert rig.stands()
    rig.silent = set()
    rig.step()
    assert rig.loop.arm.mode == ArmMode.HOLD, "the old chunk is not continued"
    assert "before the arm held" in rig.offer(age=250 * MS)
    rig.now += TICK
    rig.beat()
    assert rig.offer(age=10 * MS) == ""
    rig.step()
    assert rig.loop.arm.mode == ArmMode.RUNNING


def test_the_gates_hold_acts_at_the_next_tick_and_its_stop_is_a_fault() -> None:
    rig = Rig().run()
    rig.decision = Decision.HOLD
    rig.step()
    assert (rig.loop.arm.mode, rig.loop.arm.reason) == (ArmMode.HOLD, "safety gate: as told")
    assert rig.stands()
    rig.decision = Decision.ALLOW
    rig.step()
    assert rig.offer(age=10 * MS) == ""
    rig.step()
    assert rig.loop.arm.mode == ArmMode.RUNNING
    rig.decision = Decision.STOP
    rig.step()
    assert rig.loop.arm.mode == ArmMode.FAULT
    rig.decision = Decision.ALLOW
    assert rig.stands()
    assert "FAULT" in rig.offer(age=10 * MS)
    assert rig.loop.arm.recover(rig.now).accepted
    assert rig.step() is None


def test_a_rejected_chunk_freezes_the_target_on_the_arm() -> None:
    rig = Rig().run()
    lagging = rig.state.copy()
    lagging[0] -= 0.02
    rig.state = lagging.copy()
    rig.loop.measured(rig.state, rig.now)
    assert "limit" in rig.offer(dx=0.06)
    target = rig.step()
    assert target is not None
    assert target.position == pytest.approx(lagging[:3])
    assert rig.loop.arm.mode == ArmMode.HOLD
    assert "limit" in rig.loop.arm.reason


def test_a_chunk_observed_before_or_during_a_release_is_never_played() -> None:
    rig = Rig().run()
    rig.enabled = False
    for _ in range(4):
        rig.step()
        assert rig.offer(age=20 * MS).startswith("the arm is HOLD")
    rig.enabled = True
    rig.step()
    assert "before the arm held" in rig.offer(age=60 * MS)
    assert rig.stands()
    assert rig.offer(age=10 * MS) == ""


def test_an_arm_that_was_moved_during_a_release_does_not_go_back() -> None:
    rig = Rig().run()
    rig.enabled = False
    rig.step()
    moved = HOME.copy()
    moved[:3] += (0.05, -0.2, 0.1)
    rig.state = moved.copy()
    rig.now += TICK
    rig.loop.enable(False, rig.now)
    rig.loop.measured(rig.state, rig.now)
    target = rig.loop.tick(rig.now)
    assert target is not None
    assert target.position == pytest.approx(moved[:3])
    assert target.gripper == -1.0
    rig.enabled = True
    target = rig.step()
    assert target is not None
    assert target.position == pytest.approx(moved[:3])
    assert target.gripper == -1.0, "the hand was open when it was found again"


def test_a_held_arm_that_sags_a_little_is_not_followed_down() -> None:
    rig = Rig().run()
    rig.enabled = False
    before = rig.step()
    assert before is not None
    for _ in range(20):
        rig.state[2] = before.position[2] - 0.004
        rig.now += TICK
        rig.beat()
        target = rig.loop.tick(rig.now)
        assert target is not None
        assert target.position == pytest.approx(before.position)
    rig.enabled = True
    rig.now += TICK
    rig.beat()
    target = rig.loop.tick(rig.now)
    assert target is not None
    assert target.position == pytest.approx(rig.state[:3]), "nor pulled up when it goes on"
    assert target.gripper == -1.0, "which is how it is seen now"


def test_a_measurement_that_is_not_finite_does_not_count_as_heard() -> None:
    rig = Rig().run()
    rig.silent = {"measured"}
    for _ in range(5):
        assert "finite" in rig.loop.measured(np.full(8, np.nan), rig.now)
        rig.step()
    assert rig.loop.arm.mode == ArmMode.HOLD
    assert "'measured state' has been silent" in rig.loop.arm.reason


def test_a_measurement_of_another_size_is_ignored() -> None:
    rig = Rig().run()
    assert "expected 8 finite numbers" in rig.loop.measured(np.zeros(7), rig.now)
    assert rig.stands() is False


@pytest.mark.parametrize(("decision", "expected"), [(Decision.ALLOW, 0.0), (Decision.SLOW, 0.002)])
def test_a_slowed_chunk_is_executed_as_it_is(decision: Decision, expected: float) -> None:
    """Otherwise the arm would make up for what the old chunk did: 4 mm where this one goes 2."""
    rig = Rig().run()
    rig.decision = decision
    rig.beat()
    assert rig.offer(dx=0.002) == ""
    before = rig.state[0]
    rig.step()
    assert rig.state[0] - before == pytest.approx(expected, abs=1e-9)


def test_arming_again_while_the_arm_runs_interrupts_nothing() -> None:
    rig = Rig().run()
    before = rig.state[0]
    assert rig.loop.arm_now(rig.now).accepted
    rig.step()
    assert rig.state[0] - before == pytest.approx(0.004)


def test_a_hold_keeps_the_gripper_as_it_was_commanded() -> None:
    rig = Rig().run()  # closing, and still seen open
    rig.decision = Decision.HOLD
    target = rig.step()
    assert target is not None
    assert target.gripper == 1.0


@pytest.mark.parametrize("end", ["stop", "fault"])
def test_after_a_stop_or_fault_the_old_chunk_is_not_continued(end: str) -> None:
    rig = Rig().run()
    lagging = rig.state.copy()
    lagging[0] -= 0.02
    rig.loop.measured(lagging, rig.now)
    getattr(rig.loop, end)(rig.now, "because")
    assert rig.loop.arm.mode == (ArmMode.DISARMED if end == "stop" else ArmMode.FAULT)
    assert rig.loop.arm.reason == "because"
    assert rig.loop.target.current is not None
    assert rig.loop.target.current.position == pytest.approx(lagging[:3])
    if end == "fault":
        assert rig.loop.tick(rig.now) is rig.loop.target.current
        assert rig.loop.arm.recover(rig.now).accepted
    rig.beat()
    assert rig.loop.arm_now(rig.now).accepted
    assert rig.stands()
    assert rig.loop.arm.mode == ArmMode.ARMED


@pytest.mark.parametrize(
    ("place", "turn", "follows"),
    [(0.009, 0.0, False), (0.011, 0.0, True), (0.0, 0.09, False), (0.0, 0.11, True)],
)
def test_a_released_arm_that_was_moved_takes_its_target_along(
    place: float, turn: float, follows: bool
) -> None:
    rig = Rig().run()
    rig.enabled = False
    before = rig.step()
    assert before is not None
    rig.state[0] += place
    rig.state[3] += turn
    rig.now += TICK
    rig.beat()
    target = rig.loop.tick(rig.now)
    assert target is not None
    assert (target is not before) == follows


def test_after_the_switch_is_pressed_a_pose_is_awaited_before_anything_moves() -> None:
    rig = Rig().run()
    rig.loop.enable(False, rig.now)
    rig.loop.enable(True, rig.now)
    assert "waiting for a measured pose" in rig.offer(age=-MS)
    rig.beat()
    assert rig.offer(age=-MS) == ""


def test_an_arm_on_hold_says_every_reason_at_once() -> None:
    rig = Rig().run()
    rig.silent = {"measured", "safety"}
    rig.now += 600 * MS
    rig.loop.enable(True, rig.now)
    rig.loop.tick(rig.now)
    assert rig.loop.arm.mode == ArmMode.HOLD
    assert "'measured state' has been silent for 0.60 s" in rig.loop.playback.reason
    assert "; 'safety state' has been silent" in rig.loop.playback.reason


def test_a_chunk_that_runs_out_makes_the_arm_hold() -> None:
    rig = Rig().run()
    for _ in range(20):
        rig.step()
    assert rig.loop.arm.mode == ArmMode.HOLD
    assert "ran out" in rig.loop.arm.reason


def test_a_hold_of_the_gate_begins_once_however_often_it_is_said() -> None:
    rig = Rig().run()
    rig.decision = Decision.HOLD
    for _ in range(5):
        rig.step()
    rig.decision = Decision.ALLOW
    rig.step()
    assert rig.offer(age=120 * MS) == "", "observed while it held"


def test_arming_anew_takes_the_arm_as_it_stands_and_nothing_from_before() -> None:
    rig = Rig().run()
    rig.loop.stop(rig.now)
    rig.state[:3] = HOME[:3] + [0.1, 0.1, -0.1]
    rig.now += TICK
    rig.beat()
    rig.now += TICK
    assert rig.loop.arm_now(rig.now).accepted
    target = rig.loop.tick(rig.now)
    assert target is not None
    assert target.position == pytest.approx(rig.state[:3])
    assert target.gripper == -1.0, "as it is seen, not as it was commanded"
    rig.sequence = 0  # a restarted policy
    assert "before the arm held" in rig.offer(age=40 * MS)
    rig.step()
    assert rig.offer(age=10 * MS) == ""


def test_after_a_late_heartbeat_a_pose_is_awaited_before_anything_moves() -> None:
    rig = Rig().run()
    rig.now += 400 * MS
    rig.loop.tick(rig.now)
    rig.loop.enable(True, rig.now)
    assert "waiting for a measured pose" in rig.offer(age=-MS)
