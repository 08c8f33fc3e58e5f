"""Whoever falls silent or contradicts itself stops the arm; what needs a person waits for one."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

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


class Rig:
    """A control loop with an arm that follows perfectly and everybody alive."""

    def __init__(self) -> None:
        box = Workspace((-0.25, -0.32, 0.012), (0.34, 0.32, 0.45))
        self.rests: list[int] = []
        """When the robot was told to rest, ns."""
        arm = ArmState(rest=lambda: self.rests.append(self.now))
        self.loop = ControlLoop(ChunkPlayback(), TargetPose(box), arm)
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
            self.judge()

    def judge(self) -> None:
        """What the gate says every period; it has judged every chunk that was offered."""
        self.loop.safety(self.decision, "as told", self.now, self.sequence)

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
        self.judge()
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


def lose_publisher(loop: ControlLoop, now: int) -> None:
    loop.matched("safety/state", 1, 1, "gate", now)
    loop.matched("safety/state", 0, 0, "", now)


ENDINGS: dict[str, Callable[[Rig], object]] = {
    "franka/stop": lambda rig: rig.loop.stop(rig.now),
    "release": lambda rig: rig.loop.enable(False, rig.now),
    "old beat": lambda rig: rig.loop.enable(True, rig.now, rig.now - 400 * MS),
    "HOLD": lambda rig: rig.loop.safety(Decision.HOLD, "contact", rig.now, rig.sequence),
    "STOP": lambda rig: rig.loop.safety(Decision.STOP, "contact", rig.now, rig.sequence),
    "bad chunk": lambda rig: rig.offer(age=5_000 * MS),
    "jump": lambda rig: rig.loop.measured(rig.state + 0.2, rig.now + MS),
    "second publisher": lambda rig: rig.loop.matched("safety/state", 2, 1, "two", rig.now),
    "no publisher": lambda rig: lose_publisher(rig.loop, rig.now),
    "watchdog": lambda rig: rig.loop.guard("watchdog", "lets go", rig.now),
    "reflex": lambda rig: rig.loop.fault(rig.now, "reflex"),
    "clock": lambda rig: rig.loop.enable(True, rig.now - MS),
}


@pytest.mark.parametrize("ending", ENDINGS)
def test_whatever_ends_motion_rests_the_robot_at_once_and_not_at_the_next_tick(ending: str) -> None:
    rig = Rig().run()
    assert rig.rests == []
    ENDINGS[ending](rig)
    assert rig.rests == [rig.now]


def test_nothing_is_sent_before_arming_or_after_stopping() -> None:
    rig = Rig()
    assert rig.step() is None
    rig.run()
    rig.loop.stop(rig.now)
    target = rig.step()
    assert target is not None, "once more, so that nobody goes on to an old target"
    assert target.position == pytest.approx(rig.state[:3])
    assert rig.step() is None
    assert rig.loop.arm.mode == ArmMode.DISARMED


@pytest.mark.fault("arm", "it is armed while somebody is silent", "refused, with who")
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
def test_whoever_falls_silent_disarms_the_arm_at_its_deadline(silent: str, deadline: int) -> None:
    rig = Rig().run()
    rig.offer()
    rig.silent = {silent}
    for _ in range(deadline // 50):
        rig.step()
    assert rig.loop.arm.mode == ArmMode.RUNNING
    rig.step()
    assert rig.loop.arm.mode == ArmMode.DISARMED


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
    rig.step()
    assert rig.step() is None


def test_a_rejected_chunk_freezes_the_target_on_the_arm() -> None:
    rig = Rig().run()
    lagging = rig.state.copy()
    lagging[0] -= 0.015
    rig.state = lagging.copy()
    rig.loop.measured(rig.state, rig.now)
    assert "limit" in rig.offer(dx=0.06)
    target = rig.step()
    assert target is not None
    assert target.position == pytest.approx(lagging[:3])
    assert rig.loop.arm.mode == ArmMode.HOLD
    assert "limit" in rig.loop.arm.reason


def test_a_chunk_observed_before_arming_is_never_executed() -> None:
    rig = Rig().run()
    rig.enabled = False
    for _ in range(4):
        rig.step()
        assert rig.offer(age=20 * MS).startswith("the arm is DISARMED: the enable switch is rel")
    rig.enabled = True
    rig.step()
    assert "the arm is DISARMED" in rig.offer(age=10 * MS)
    assert rig.loop.arm_now(rig.now).accepted
    assert "before the arm held" in rig.offer(age=10 * MS)
    assert rig.stands()
    assert rig.offer(age=10 * MS) == ""


def test_an_arm_that_was_moved_while_it_was_disarmed_does_not_go_back() -> None:
    rig = Rig().run()
    rig.enabled = False
    rig.step()
    rig.state[:3] += (0.05, -0.2, 0.1)  # further than an arm moves in a period: not armed, no fault
    rig.enabled = True
    assert rig.step() is None
    assert rig.loop.arm_now(rig.now).accepted
    target = rig.loop.tick(rig.now)
    assert target is not None
    assert target.position == pytest.approx(rig.state[:3])
    assert target.gripper == -1.0, "the hand was open when it was found again"


@pytest.mark.parametrize("mode", ["HOLD", "FAULT"])
def test_a_held_arm_that_is_pushed_away_takes_its_target_along_beyond_the_lead(mode: str) -> None:
    rig = Rig().run()
    if mode == "HOLD":
        rig.decision = Decision.HOLD
    else:
        rig.loop.fault(rig.now, "because")
    before = rig.step()
    assert before is not None
    for pushed, follows in ((0.03, False), (0.059, False), (0.07, True)):
        rig.state[:3] = before.position + [0.0, pushed, 0.0]
        rig.now += TICK
        rig.beat()
        target = rig.loop.tick(rig.now)
        assert target is not None
        assert (target is not before) == follows
    assert rig.loop.arm.mode.value == mode
    assert target is not None
    assert target.position == pytest.approx(rig.state[:3])


def test_a_measurement_that_is_not_finite_does_not_count_as_heard() -> None:
    rig = Rig().run()
    rig.silent = {"measured"}
    for _ in range(5):
        assert "finite" in rig.loop.measured(np.full(8, np.nan), rig.now)
        rig.step()
    assert rig.loop.arm.mode == ArmMode.DISARMED
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
    lagging[0] -= 0.015
    rig.loop.measured(lagging, rig.now)
    getattr(rig.loop, end)(rig.now, "because")
    assert rig.loop.arm.mode == (ArmMode.DISARMED if end == "stop" else ArmMode.FAULT)
    assert rig.loop.arm.reason.startswith("because; call franka/")
    assert rig.loop.target.current is not None
    assert rig.loop.target.current.position == pytest.approx(lagging[:3])
    if end == "fault":
        assert rig.loop.tick(rig.now) is rig.loop.target.current
        assert rig.loop.arm.recover(rig.now).accepted
    rig.beat()
    assert rig.loop.arm_now(rig.now).accepted
    assert rig.stands()
    assert rig.loop.arm.mode == ArmMode.ARMED


def test_after_the_switch_is_pressed_a_pose_is_awaited_before_the_arm_can_be_armed() -> None:
    rig = Rig().run()
    rig.loop.enable(False, rig.now)
    rig.loop.enable(True, rig.now)
    assert "waiting for a measured pose" in rig.loop.arm_now(rig.now).reason
    rig.beat()
    assert rig.loop.arm_now(rig.now).accepted


def test_a_pose_from_before_the_press_does_not_count_however_late_it_comes() -> None:
    rig = Rig().run()
    rig.loop.enable(False, rig.now)
    rig.now += TICK
    rig.loop.enable(True, rig.now)
    pressed, late = rig.now, rig.now + 5 * MS
    rig.loop.measured(rig.state, late, stamp_ns=pressed - 1)
    assert "waiting for a measured pose" in rig.loop.arm_now(late).reason
    rig.state[:3] += 0.1  # moved by hand while it was released: no jump of an armed arm
    rig.loop.measured(rig.state, late, stamp_ns=pressed + MS)
    assert rig.loop.arm_now(late).accepted
    assert rig.loop.arm.mode == ArmMode.ARMED


def test_a_clock_that_goes_back_while_the_switch_is_held_does_not_block_arming() -> None:
    rig = Rig().run()
    rig.loop.enable(False, rig.now)
    rig.loop.enable(True, rig.now)
    rig.now -= 10_000 * MS
    rig.beat()
    rig.now += TICK
    rig.beat()
    assert rig.loop.arm_now(rig.now).accepted


def test_a_disarmed_arm_says_every_reason_at_once() -> None:
    rig = Rig().run()
    rig.silent = {"measured", "safety"}
    rig.now += 200 * MS
    rig.loop.tick(rig.now)
    rig.now += 240 * MS
    rig.loop.enable(True, rig.now)
    rig.loop.tick(rig.now)
    assert rig.loop.arm.mode == ArmMode.DISARMED
    rig.now += 240 * MS
    rig.loop.enable(True, rig.now)
    reason = rig.loop.arm_now(rig.now).reason
    assert "'measured state' has been silent for 0.68 s" in reason
    assert "; 'safety state' has been silent" in reason


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
    rig.sequence = 0  # a restarted policy
    rig.now += TICK
    rig.beat()
    rig.now += TICK
    assert rig.loop.arm_now(rig.now).accepted
    target = rig.loop.tick(rig.now)
    assert target is not None
    assert target.position == pytest.approx(rig.state[:3])
    assert target.gripper == -1.0, "as it is seen, not as it was commanded"
    assert "before the arm held" in rig.offer(age=40 * MS)
    rig.step()
    assert rig.offer(age=10 * MS) == ""


def restarted(rig: Rig) -> None:
    """The policy counts from the beginning again, and the gate judges what it says."""
    rig.sequence = 0
    rig.judge()


def clock_back(rig: Rig) -> None:
    rig.now -= 5_000 * MS
    rig.beat()


def stalled(rig: Rig) -> None:
    rig.now += 251 * MS
    rig.beat()
    rig.loop.tick(rig.now)


def released(rig: Rig) -> None:
    rig.loop.enable(False, rig.now)


def lapsed(rig: Rig) -> None:
    """Beats go on arriving, but each was sent long ago."""
    rig.loop.enable(True, rig.now, rig.now - 301 * MS)


def silent_gate(rig: Rig) -> None:
    rig.silent = {"safety"}
    for _ in range(11):
        rig.step()


def silent_arm(rig: Rig) -> None:
    rig.silent = {"measured"}
    for _ in range(5):
        rig.step()


def repeated_state(rig: Rig) -> None:
    """Somebody repeats the last measured state for ever."""
    rig.silent, stamp = {"measured"}, rig.now
    for _ in range(5):
        rig.step()
        assert "repeated" in rig.loop.measured(rig.state, rig.now, stamp)


def guard_finds(rig: Rig) -> None:
    rig.loop.guard("watchdog", "the target is too fast", rig.now)


def guard_finds_nothing(rig: Rig) -> None:
    rig.loop.guard("watchdog", "", rig.now)


def leaves(rig: Rig) -> None:
    """It is carried out of the box, no faster than an arm moves."""
    rig.silent, carried = {"measured"}, rig.state.copy()
    for _ in range(12):
        rig.step()
        carried[2] += 0.03
        rig.loop.measured(carried, rig.now)


def jumps(rig: Rig) -> None:
    rig.now += TICK
    rig.loop.measured(rig.state + [0.34, 0, 0, 0, 0, 0, 0, 0], rig.now)


def turns_too_fast(rig: Rig) -> None:
    rig.now += TICK
    rig.loop.measured(rig.state - [0, 0, 0, 0.7, 0, 0, 0, 0], rig.now)


def gone(topic: str) -> Callable[[Rig], None]:
    return lambda rig: rig.loop.matched(topic, 0, 0, "", rig.now)


def replaced(topic: str) -> Callable[[Rig], None]:
    return lambda rig: rig.loop.matched(topic, 1, 1, "/other", rig.now)


def renumbered(topic: str) -> Callable[[Rig], None]:
    """The one publisher in the graph counts its messages from the beginning."""
    return lambda rig: rig.loop.heard(topic, 1, rig.now)


def second(topic: str) -> Callable[[Rig], None]:
    return lambda rig: rig.loop.matched(topic, 2, 1, "/safety_node, /spoof", rig.now)


def back_beside_its_ghost(topic: str) -> Callable[[Rig], None]:
    """A killed node is in the graph for some seconds; the new one speaks after arming."""

    def speaks(rig: Rig) -> None:
        rig.loop.disarm(rig.now, "it was killed")
        rig.loop.matched(topic, 2, 1, "/safety_node, /safety_node", rig.now)
        rig.step()
        assert rig.loop.arm_now(rig.now).accepted
        rig.loop.heard(topic, 1, rig.now)
        rig.loop.heard(topic, 2, rig.now)

    return speaks


def holds(rig: Rig) -> None:
    rig.loop.safety(Decision.HOLD, "predicted cost 0.9", rig.now, rig.sequence)


def stops(rig: Rig) -> None:
    rig.loop.safety(Decision.STOP, "predicted cost 1", rig.now, rig.sequence)


def runs_out(rig: Rig) -> None:
    for _ in range(20):
        rig.step()


def one_rejected(rig: Rig) -> None:
    assert rig.offer(dx=0.06)


def one_uncovered(rig: Rig) -> None:
    spoof = ActionChunk(np.zeros((8, 7)), observed_at=rig.now, sequence=rig.sequence + 1)
    assert rig.loop.chunk(spoof, rig.now) == ""
    rig.step()
    rig.sequence += 1
    assert "the gate has not judged chunk 2" in rig.loop.last_rejection


TOPIC = "safety/action_chunk"
WHAT_ENDS_MOTION = [
    *[(cause, "HOLD", words) for cause, words in (
        (holds, "predicted cost 0.9"),
        (runs_out, "ran out"),
        (one_rejected, "limit"),
        (one_uncovered, "has not judged"),
    )],
    *[(cause, "DISARMED", words) for cause, words in (
        (released, "the enable switch is released"),
        (lapsed, "heartbeat is 0.30 s old"),
        (silent_gate, "'safety state' has been silent"),
        (silent_arm, "'measured state' has been silent"),
        (repeated_state, "'measured state' has been silent"),
        (restarted, "was started again"),
        (clock_back, "the clock went back by 5.000 s"),
        (stalled, "the control loop stalled for 0.251 s"),
        (guard_finds, "watchdog: the target is too fast"),
        (leaves, "outside the workspace"),
        (lambda rig: rig.loop.stop(rig.now), "stopped by request"),
        *[(gone(t), f"the publisher of {t} went away")
          for t in ("robot/enable", "safety/state", TOPIC)],
        (replaced("safety/state"), "the publisher of safety/state was replaced"),
        (renumbered("robot/enable"), "another publisher is heard on robot/enable"),
        (back_beside_its_ghost(TOPIC), f"another publisher is heard on {TOPIC}"),
    )],
    *[(cause, "FAULT", words) for cause, words in (
        (stops, "STOP, predicted cost 1"),
        (jumps, "jumped by 0.340 m"),
        (turns_too_fast, "0.70 rad in 0.050 s"),
        *[(second(t), f"{t} has 2 publishers: /safety_node, /spoof")
          for t in ("robot/enable", "safety/state", TOPIC)],
        (lambda rig: rig.loop.fault(rig.now, "joint 4 reflex"), "joint 4 reflex"),
    )],
]  # fmt: skip


@pytest.mark.parametrize(
    ("cause", "mode", "words"), WHAT_ENDS_MOTION, ids=[words for _, _, words in WHAT_ENDS_MOTION]
)
def test_what_needs_a_person_waits_for_one_and_what_does_not_goes_on(
    cause: Callable[[Rig], object], mode: str, words: str
) -> None:
    """The rule is written at `ArmState`."""
    rig = Rig()
    for topic in ("robot/enable", "safety/state", TOPIC):
        rig.loop.matched(topic, 1, 1, "/safety_node", rig.now)
        rig.loop.heard(topic, 7, rig.now)
    rig.run()
    cause(rig)
    assert rig.loop.arm.mode.value == mode
    assert words in rig.loop.arm.reason
    rig.silent, rig.enabled, rig.decision = set(), True, Decision.ALLOW
    rig.state[:3] = HOME[:3]  # everything is as it should be again
    rig.loop.guard("watchdog", "", rig.now)
    for topic in ("robot/enable", "safety/state", TOPIC):
        rig.loop.matched(topic, 1, 0, "/safety_node", rig.now)
    for _ in range(25):
        rig.step()
        rig.offer(age=10 * MS)
    assert rig.loop.arm.mode == (ArmMode.RUNNING if mode == "HOLD" else ArmMode(mode))
    if mode == "HOLD":
        return
    assert "call franka/" in rig.loop.arm.reason
    place = rig.state[0]
    if mode == "FAULT":
        assert "recover" in rig.loop.arm_now(rig.now).reason
        assert rig.loop.arm.recover(rig.now).accepted
        rig.step()
    assert rig.stands()
    assert rig.loop.arm_now(rig.now).accepted
    rig.step()
    assert rig.offer(age=10 * MS) == ""
    rig.step()
    assert rig.loop.arm.mode == ArmMode.RUNNING
    assert rig.state[0] == pytest.approx(place + 0.004)


def test_two_publishers_that_speak_in_turns_keep_the_arm_from_being_armed() -> None:
    rig = Rig()
    rig.loop.matched(TOPIC, 1, 1, "/safety_node", rig.now)
    rig.loop.heard(TOPIC, 7, rig.now)
    rig.run()
    rig.loop.disarm(rig.now, "while the second one comes")
    rig.loop.matched(TOPIC, 2, 1, "/safety_node, /spoof", rig.now)
    for turn in range(3):
        rig.loop.heard(TOPIC, 1 + turn, rig.now)
        rig.step()
        reply = rig.loop.arm_now(rig.now)
        assert not reply.accepted
        assert f"{TOPIC} has 2 publishers: /safety_node, /spoof; end all but one" in reply.reason
        rig.loop.heard(TOPIC, 8 + turn, rig.now)
    for _ in range(25):  # one of them is silent from now on: it was a ghost
        rig.step()
    assert rig.loop.arm_now(rig.now).accepted


def test_a_chunk_waits_a_period_for_the_state_that_covers_it() -> None:
    rig = Rig().run()
    actions = np.full((8, 7), [0.007, 0, 0, 0, 0, 0, 1.0])
    chunk = ActionChunk(actions, observed_at=rig.now, sequence=2)
    assert rig.loop.chunk(chunk, rig.now + 2 * MS) == ""
    assert rig.loop.playback.last_sequence == 1
    rig.loop.safety(Decision.ALLOW, "", rig.now + 4 * MS, 2)
    assert (rig.loop.playback.last_sequence, rig.loop.rejected) == (2, 0)


@pytest.mark.fault("arm", "a chunk that the gate has not judged", "rejected after a period")
def test_a_chunk_that_is_covered_too_late_is_not_executed() -> None:
    rig = Rig().run()
    chunk = ActionChunk(np.zeros((8, 7)), observed_at=rig.now, sequence=2)
    assert rig.loop.chunk(chunk, rig.now) == ""
    rig.step()
    assert rig.loop.rejected == 1
    rig.loop.safety(Decision.ALLOW, "", rig.now, 2)
    assert not rig.loop.playback.executing


@pytest.mark.fault("arm", "a chunk comes while the gate says HOLD or STOP", "rejected")
@pytest.mark.parametrize("decision", [Decision.HOLD, Decision.STOP])
def test_no_chunk_is_taken_unless_the_gate_allows(decision: Decision) -> None:
    rig = Rig().run()
    rig.decision = decision
    for _ in range(10):
        rig.step()
        assert rig.offer(age=10 * MS)
    assert rig.stands()


@pytest.mark.fault("arm", "a fast chunk while the gate says SLOW", "rejected")
def test_a_chunk_that_nobody_has_slowed_is_not_executed_while_the_gate_says_slow() -> None:
    rig = Rig().run()
    rig.decision = Decision.SLOW
    rig.step()
    assert "the gate says SLOW, but action 0 asks for 0.026 m" in rig.offer(dx=0.026)
    assert rig.stands()
    assert rig.offer(age=10 * MS, dx=0.025) == ""


@pytest.mark.fault("arm", "a chunk is replayed after the clock went back", "rejected")
def test_a_chunk_replayed_after_the_clock_went_back_never_moves_the_arm() -> None:
    rig = Rig().run()
    actions = np.full((8, 7), [0.02, 0, 0, 0, 0, 0, 1.0])
    old = [ActionChunk(actions, observed_at=rig.now + k * TICK, sequence=1 + k) for k in range(200)]
    back = rig.now
    for _ in range(40):
        rig.step()
        rig.offer(age=10 * MS)
    rig.now = back - 200 * MS
    rig.beat()
    assert rig.loop.arm_now(rig.now).accepted
    for _ in range(43):  # every recorded chunk again, just when its stamp is fresh
        rig.step()
        for chunk in old:
            if 0 <= rig.now - chunk.observed_at < TICK:
                rig.judge()
                rig.loop.chunk(replace(chunk), rig.now)
        assert rig.loop.arm.mode == ArmMode.ARMED


@pytest.mark.fault("arm", "it is armed outside the workspace", "refused, with what to check")
@pytest.mark.parametrize(
    ("place", "accepted"),
    [
        ((0.307 - 0.45, 0.0, 0.487), True),  # the FR3's ready pose, 37 mm above the box
        ((0.1, 0.6, 0.3), False),
        ((0.75, 0.0, 0.3), False),
    ],
)
def test_arming_is_refused_further_outside_the_workspace_than_the_lead(
    place: tuple[float, float, float], accepted: bool
) -> None:
    rig = Rig()
    rig.state[:3] = place
    rig.beat()
    reply = rig.loop.arm_now(rig.now)
    assert reply.accepted == accepted
    if not accepted:
        assert "outside the workspace (allowed: 0.06); check robot_base" in reply.reason
        return
    rig.step()
    rig.offer(dx=0.0)
    for _ in range(5):
        target = rig.step()
        assert target is not None
        assert target.position == pytest.approx(np.array(place))


def test_a_single_wrong_pose_is_not_what_the_target_is_put_on() -> None:
    rig = Rig().run()
    before = rig.state[:3].copy()
    jumps(rig)
    target = rig.loop.tick(rig.now)
    assert target is not None
    assert target.position == pytest.approx(before)


def test_a_gate_s_state_that_waited_in_a_queue_is_as_old_as_it_is() -> None:
    rig = Rig().run()
    rig.silent = {"safety"}
    for _ in range(10):
        rig.step()
        rig.loop.safety(Decision.ALLOW, "", rig.now, rig.sequence, rig.now - 440 * MS)
    assert rig.loop.arm.mode != ArmMode.DISARMED, "the deadline of this loop is 0.5 s"
    rig.loop.safety(Decision.ALLOW, "", rig.now, rig.sequence, rig.now - 501 * MS)
    rig.step()
    assert rig.loop.arm.mode == ArmMode.DISARMED
    assert "'safety state' has been silent" in rig.loop.arm.reason


def test_a_wrong_pose_does_not_count_as_heard() -> None:
    rig = Rig().run()
    rig.silent = {"measured"}
    jumps(rig)
    for _ in range(4):
        rig.step()
    rig.loop.arm.recover(rig.now)
    assert "'measured state' has been silent for 0.25 s" in rig.loop.arm_now(rig.now).reason


def test_a_measured_state_of_another_time_does_not_count_as_heard() -> None:
    rig = Rig()
    rig.loop.enable(True, rig.now, sent_at_ns=rig.now - 250 * MS)
    rig.loop.safety(Decision.ALLOW, "", rig.now)
    assert "0.02 s in the future" in rig.loop.measured(rig.state, rig.now, rig.now + 20 * MS)
    assert "has not been heard" in rig.loop.arm_now(rig.now).reason
    rig.loop.measured(rig.state, rig.now, rig.now - 201 * MS)
    assert "silent for 0.20 s" in rig.loop.arm_now(rig.now).reason
    rig.loop.measured(rig.state, rig.now, rig.now - 199 * MS)
    assert rig.loop.arm_now(rig.now).accepted


def test_arming_is_refused_while_two_publishers_speak_but_not_for_the_ghost_of_a_killed_one() -> (
    None
):
    rig = Rig()
    rig.beat()
    rig.loop.matched("robot/enable", 1, 1, "/sim_node", rig.now)
    rig.loop.heard("robot/enable", 100, rig.now)
    rig.loop.matched("robot/enable", 2, 1, "/sim_node, /sim_node", rig.now)
    rig.loop.heard("robot/enable", 1, rig.now)
    assert "robot/enable has 2 publishers" in rig.loop.arm_now(rig.now).reason
    for number in range(2, 23):
        rig.step()
        rig.loop.heard("robot/enable", number, rig.now)
    assert rig.loop.arm_now(rig.now).accepted
    rig.loop.matched("robot/enable", 1, 0, "/sim_node", rig.now)
    assert rig.loop.arm.mode == ArmMode.ARMED, "the ghost has left"


def test_a_fault_learns_the_names_that_the_graph_learns_after_it() -> None:
    rig = Rig().run()
    rig.loop.matched(TOPIC, 2, 1, "/safety_node, /unknown", rig.now)
    rig.loop.named(TOPIC, "/safety_node, /spoof")
    assert rig.loop.arm.mode == ArmMode.FAULT
    assert "/safety_node, /spoof; end all but one; call franka/recover" in rig.loop.arm.reason


def test_publishers_without_numbers_are_counted() -> None:
    rig = Rig()
    rig.beat()
    rig.loop.matched("safety/state", 2, 2, "/a, /b", rig.now)
    rig.loop.heard("safety/state", None, rig.now)
    assert "safety/state has 2 publishers" in rig.loop.arm_now(rig.now).reason


def test_a_guard_that_finds_something_forbids_arming() -> None:
    rig = Rig()
    rig.beat()
    rig.loop.guard("graph", "simulated nodes are here", rig.now)
    assert rig.loop.arm_now(rig.now) == (False, "graph: simulated nodes are here")
    rig.loop.guard("graph", "", rig.now)
    assert rig.loop.arm_now(rig.now).accepted
