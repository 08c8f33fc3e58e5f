"""The arm's node over real DDS, the test in the gate's place: what it obeys, how soon it stops."""

import os
import signal
import time
from collections.abc import Callable, Iterator

import pytest

pytest.importorskip("rclpy")
pytest.importorskip("safedojo_ros.msg")

from running_stack import RunningStack

from safedojo_ros.msg import ActionChunk, FrankaState, SafetyCost, SafetyState
from safedojo_ros.nodes.conversion import to_stamp
from safedojo_ros.nodes.lifecycle import IN_ORDER, NEWEST

PERIOD = 0.05


class Gate:
    """Says ALLOW and sends a sound chunk every fourth period, but for what a test spoils."""

    def __init__(self, stack: RunningStack) -> None:
        self._node = stack.listener
        self._states = self._node.create_publisher(SafetyState, "safety/state", NEWEST)
        self._chunks = self._node.create_publisher(ActionChunk, "safety/action_chunk", IN_ORDER)
        self.sequence, self._judged, self._ticks = 0, 0, 0
        self.decision, self.speaks, self.covers = SafetyCost.ALLOW, True, True
        self.spoil: Callable[[ActionChunk], object] | None = None
        self._node.create_timer(PERIOD, self._tick)

    def _tick(self) -> None:
        if not self.speaks:
            return
        self._ticks += 1
        if self._ticks % 4 == 0:
            self.sequence += 1
        if self.covers:
            self._judged = self.sequence
        state = SafetyState(decision=self.decision, mode="gate", last_sequence=self._judged)
        self._states.publish(state)
        if self._ticks % 4:
            return
        message = ActionChunk(
            period=PERIOD, proposals=1, length=8, checkpoint="test", sequence=self.sequence
        )
        message.header.frame_id = "base"
        message.observed_at = to_stamp(int(self._node.get_clock().now().nanoseconds))
        message.actions = [0.001, *[0.0] * 6] * 8
        if self.spoil is not None:
            self.spoil(message)
            self.spoil = None
        self._chunks.publish(message)


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningStack]:
    running = RunningStack(
        tmp_path_factory.mktemp("inputs"),
        ("sim_node", "franka_node", "watchdog_node"),
        {"sim_node": {"max_steps": 10_000, "level": 0}},
    )
    yield running
    assert running.close() == []


@pytest.fixture(scope="module")
def gate(stack: RunningStack) -> Gate:
    standing_in = Gate(stack)
    stack.arm_and_move()
    return standing_in


def not_a_number(message: ActionChunk) -> None:
    message.actions[10] = float("nan")


def wrong_shape(message: ActionChunk) -> None:
    message.actions = [0.0] * 55


def several(message: ActionChunk) -> None:
    message.proposals, message.actions = 2, [0.0] * 112


def old_stamp(message: ActionChunk) -> None:
    message.observed_at.sec -= 3


def beyond_limits(message: ActionChunk) -> None:
    message.actions[0] = 0.4


def repeated(message: ActionChunk) -> None:
    message.sequence -= 1


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (not_a_number, "not finite"),
        (wrong_shape, "55 numbers came"),
        (several, "2 chunks came, the arm takes one"),
        (old_stamp, "ago"),
        (beyond_limits, "limit"),
        (repeated, "replayed"),
    ],
)
def test_a_faulty_chunk_at_the_arm_holds_it_by_the_next_tick(
    stack: RunningStack, gate: Gate, spoil: Callable[[ActionChunk], None], reason: str
) -> None:
    heard = stack.listener
    stack.wait_for(lambda: heard.running, "motion")
    heard.first_after_rejection = None
    gate.spoil = spoil
    stack.wait_for(lambda: heard.first_after_rejection is not None, "a rejection")
    first = heard.first_after_rejection
    assert first is not None
    assert first.state == FrankaState.HOLD, "the first tick after the rejection holds"
    assert reason in first.last_rejection
    stack.wait_for(lambda: heard.running, "motion with the next good chunk")


@pytest.mark.fault("arm", "a chunk while the gate says HOLD", "is not executed")
def test_chunks_under_hold_move_nothing_and_allow_lets_the_next_one_pass(
    stack: RunningStack, gate: Gate
) -> None:
    heard = stack.listener
    stack.wait_for(lambda: heard.running, "motion")
    gate.decision = SafetyCost.HOLD
    try:
        stack.wait_for(lambda: heard.holding, "hold")
        moves = len(heard.moves)
        time.sleep(1.0)
        assert heard.holding
        assert len(heard.moves) == moves
    finally:
        gate.decision = SafetyCost.ALLOW
    stack.wait_for(lambda: heard.running, "motion")


@pytest.mark.fault("arm", "a chunk that the gate's state does not cover", "is not executed; holds")
def test_a_chunk_that_the_state_does_not_cover_is_not_executed(
    stack: RunningStack, gate: Gate
) -> None:
    heard = stack.listener
    stack.wait_for(lambda: heard.running, "motion")
    gate.covers = False
    try:
        stack.wait_for(lambda: heard.holding and "has not judged" in heard.arm_reasons[-1], "hold")
    finally:
        gate.covers = True
    stack.wait_for(lambda: heard.running, "motion")


@pytest.mark.fault("arm", "`safety/state` is silent", "a person arms again")
def test_a_gate_that_comes_back_moves_nothing_before_a_person_has_armed(
    stack: RunningStack, gate: Gate
) -> None:
    heard = stack.listener
    stack.wait_for(lambda: heard.running, "motion")
    gate.speaks = False
    stack.wait_for(lambda: heard.disarmed, "disarmed")
    gate.speaks = True
    moves = len(heard.moves)
    time.sleep(1.5)
    assert heard.disarmed
    assert len(heard.moves) == moves
    stack.arm_and_move()


@pytest.mark.fault("arm", "the watchdog is killed", "a person arms again")
def test_nothing_moves_without_the_watchdog(stack: RunningStack, gate: Gate) -> None:
    heard = stack.listener
    stack.wait_for(lambda: heard.running, "motion")
    stack.kill("watchdog_node")
    stack.wait_for(lambda: heard.disarmed, "disarmed", 5.0)  # 0.25 s where nothing else computes
    assert heard.arm is not None
    assert "'watchdog' has been silent" in heard.arm.reason
    answer = stack.trigger("franka/arm")
    assert not answer.success
    assert "'watchdog' has been silent" in answer.message
    stack.restart("watchdog_node")
    stack.wait_for(lambda: stack.trigger("franka/arm").success, "arming")
    stack.wait_for(lambda: heard.running, "motion")


@pytest.mark.fault(
    "arm", "old heartbeats after a stall of the arm's process", "a person arms again"
)
def test_beats_from_before_a_stall_enable_nothing(stack: RunningStack, gate: Gate) -> None:
    heard = stack.listener
    stack.wait_for(lambda: heard.running, "motion")
    arm = stack.processes.child("franka_node").process
    world = stack.processes.child("sim_node").process
    assert arm is not None
    assert world is not None
    os.kill(arm.pid, signal.SIGSTOP)
    try:
        time.sleep(0.3)
        os.kill(world.pid, signal.SIGSTOP)  # no beat from now on; the last one waits for the arm
        time.sleep(1.0)
        moves = len(heard.moves)
        os.kill(arm.pid, signal.SIGCONT)
        stack.wait_for(lambda: heard.disarmed, "disarmed")
        assert len(heard.moves) == moves
    finally:
        os.kill(arm.pid, signal.SIGCONT)
        os.kill(world.pid, signal.SIGCONT)
    stack.wait_for(lambda: stack.trigger("franka/arm").success, "arming")
    stack.wait_for(lambda: heard.running, "motion")
