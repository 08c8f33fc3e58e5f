"""Arming is explicit, a fault never clears itself, and a release ends in disarming."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from safedojo_ros.core.errors import ConfigError
from safedojo_ros.robot.playback.arm_state import ArmMode, ArmState

MS = 1_000_000
START = 10_000 * MS


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


def test_after_a_late_heartbeat_only_arming_goes_on() -> None:
    arm = running()
    assert arm.may_move(START + 300 * MS)
    assert not arm.moving(START + 301 * MS)
    assert arm.mode == ArmMode.DISARMED
    assert "0.30 s old" in arm.reason
    assert arm.reason.endswith("; call franka/arm to go on")
    arm.enable(START + 400 * MS, True)
    assert not arm.moving(START + 400 * MS)
    assert arm.arm(START + 400 * MS).accepted


def test_a_heartbeat_is_as_old_as_when_it_was_sent() -> None:
    """After a stall the beats that waited in a queue come all at once."""
    arm = running()
    arm.enable(START + 200 * MS, True, START - 100 * MS)
    assert arm.mode == ArmMode.RUNNING
    arm.enable(START + 201 * MS, True, START - 100 * MS)
    assert arm.mode == ArmMode.DISARMED
    assert "0.30 s old" in arm.arm(START + 201 * MS).reason


def test_a_release_counts_however_old_it_is() -> None:
    arm = running()
    arm.enable(START + 200 * MS, False, START - 9_000 * MS)
    assert arm.mode == ArmMode.DISARMED
    assert arm.reason.startswith("the enable switch is released")


def test_a_heartbeat_from_the_future_enables_nothing() -> None:
    arm = running()
    assert arm.may_move(START - 10 * MS)
    assert not arm.may_move(START - 11 * MS)
    assert arm.mode == ArmMode.DISARMED
    assert "0.01 s in the future; synchronise the clocks" in arm.reason


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
    enough = "enough; call franka/arm to go on"
    assert (arm.mode, arm.reason, arm.since) == (ArmMode.DISARMED, enough, START + 3 * MS)
    arm.hold(START + 4 * MS, "nothing to hold")
    arm.disarm(START + 5 * MS, "why it stays disarmed is said by what disarmed it")
    assert (arm.mode, arm.reason) == (ArmMode.DISARMED, enough)


def test_a_released_switch_disarms_at_once_and_pressing_it_again_does_not_arm() -> None:
    arm = running()
    arm.enable(START + MS, False)
    arm.enable(START + 2 * MS, True)
    assert not arm.moving(START + 2 * MS)
    assert arm.mode == ArmMode.DISARMED
    assert arm.reason == "the enable switch is released; call franka/arm to go on"


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
    assert arm.mode == ArmMode.FAULT
    assert arm.reason == "joint 4 reflex; call franka/recover, then franka/arm"
    assert arm.recover(START).accepted
    assert arm.mode == ArmMode.DISARMED
    assert arm.reason == "recovered from: joint 4 reflex; call franka/arm to go on"
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
        armed = armed and call not in ("disarm", "fault", "release")
        lapsed = pressed_at is None or now - pressed_at > 300 * MS
        if lapsed and call in ("check", "moving"):
            armed = False
            assert arm.mode in (ArmMode.DISARMED, ArmMode.FAULT)
        if before == ArmMode.FAULT and call != "recover":
            assert arm.mode == ArmMode.FAULT
        if arm.mode == ArmMode.RUNNING and before != ArmMode.RUNNING:
            assert call == "moving"
            assert armed
            assert pressed_at is not None
            assert now - pressed_at <= 300 * MS
        if arm.mode in (ArmMode.HOLD, ArmMode.FAULT):
            assert arm.reason
