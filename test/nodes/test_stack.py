"""The real nodes over real DDS: episodes run, the gate gates, a killed node means hold."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("rclpy")
pytest.importorskip("safedojo_ros.msg")

from running_stack import RunningStack

from safedojo_ros.msg import FrankaState, SafetyCost
from safedojo_ros.nodes.conversion import to_nanoseconds
from safedojo_ros.nodes.stack.registry import DEMO, TOPICS


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningStack]:
    running = RunningStack(
        tmp_path_factory.mktemp("stack"), parameters={"sim_node": {"max_steps": 30}}
    )
    running.listener.rearms = True
    yield running
    assert running.close() == [], "every node ends on SIGINT by itself"


def test_episodes_run_one_after_the_other(stack: RunningStack) -> None:
    heard = stack.listener
    stack.arm_and_move()
    stack.wait_for(lambda: len(heard.episodes) >= 3, "three episodes")
    assert [e["number"] for e in heard.episodes[:3]] == [0, 1, 2]
    assert all(e["steps"] == 30 or e["success"] for e in heard.episodes)
    assert len({e["task"] for e in heard.episodes[:3]}) == 3


def test_nothing_observed_before_a_reset_moves_the_arm_after_it(stack: RunningStack) -> None:
    heard = stack.listener
    stack.wait_for(lambda: len(heard.episodes) >= 4 and heard.running, "motion after a reset")
    checked = 0
    for move in list(heard.moves):
        stamp = to_nanoseconds(move.header.stamp)
        before = [at for at in heard.released_at if at < stamp]
        if before and move.sequence in heard.observed_at:
            assert heard.observed_at[move.sequence] > before[-1]
            checked += 1
    assert checked > 30


def test_every_node_and_topic_of_the_table_is_alive(stack: RunningStack) -> None:
    nodes = set(stack.listener.get_node_names())
    assert {entry.name for entry in DEMO.nodes} <= nodes
    topics = {name for name, _ in stack.listener.get_topic_names_and_types()}
    assert {f"/{topic}" for topic in TOPICS} <= topics


@pytest.mark.fault("arm", "a node is killed: gate, policy or world", "a person arms again")
@pytest.mark.fault("arm", "the camera's node is killed", "holds until it is back")
@pytest.mark.parametrize("name", ["camera_node", "policy_node", "safety_node", "sim_node"])
def test_after_a_node_was_killed_nothing_moves_before_a_person_has_armed(
    stack: RunningStack, name: str
) -> None:
    heard = stack.listener
    stack.wait_for(lambda: heard.running, f"motion before {name} is killed")
    heard.rearms = False
    try:
        stack.kill(name)
        stack.wait_for(lambda: heard.holding or heard.disarmed, f"{name} was killed")
        assert heard.arm is not None
        assert heard.arm.reason, "the state says why"
        stack.restart(name)
        if name == "camera_node":  # the gate is there all the time, and judges again
            stack.wait_for(lambda: heard.running or heard.disarmed, "motion or a new episode")
            return
        stack.wait_for(lambda: heard.disarmed, "the arm is disarmed")
        assert "call franka/arm" in heard.arm.reason
        count = len(heard.moves)
        stack.wait_for(lambda: heard.chunk is not None, "a chunk")
        time.sleep(3.0)
        assert heard.disarmed
        assert len(heard.moves) == count
    finally:
        heard.rearms = True
    stack.wait_for(lambda: heard.running, f"motion after {name} came back")


@pytest.mark.fault("arm", "its own node is killed and comes back", "disarmed until a person arms")
def test_a_killed_arm_node_comes_back_disarmed(stack: RunningStack) -> None:
    heard = stack.listener
    stack.wait_for(lambda: heard.running, "motion")
    heard.rearms = False
    stack.kill("franka_node")
    heard.arm = None
    stack.restart("franka_node")
    stack.wait_for(lambda: heard.arm is not None, "the arm's node is back")
    assert heard.arm is not None
    assert heard.arm.state == FrankaState.DISARMED
    heard.rearms = True
    stack.wait_for(lambda: heard.running, "motion")


def test_stopping_disarms_and_only_arming_goes_on(stack: RunningStack) -> None:
    heard = stack.listener
    stack.wait_for(lambda: heard.running, "motion")
    heard.rearms = False
    assert stack.trigger("franka/stop").success
    stack.wait_for(lambda: heard.disarmed, "disarmed")
    heard.rearms = True
    stack.wait_for(lambda: heard.running, "motion")


def test_a_costly_chunk_is_held_by_the_gate_and_passes_in_monitor_mode(tmp_path: Path) -> None:
    running = RunningStack(tmp_path, safety={"cost": 0.6})
    heard = running.listener
    heard.rearms = True
    try:
        running.wait_for(
            lambda: heard.safety and "predicted cost 0.60" in heard.safety.reason, "HOLD by cost"
        )
        assert heard.safety is not None
        assert heard.safety.decision == SafetyCost.HOLD
        assert not heard.moves
        running.set_gate(False)
        running.wait_for(lambda: heard.running, "motion in monitor mode")
        running.set_gate(True)
        running.wait_for(lambda: heard.holding, "hold in gate mode")
    finally:
        running.close()


def test_a_costly_chunk_takes_a_detour_and_the_state_says_which(tmp_path: Path) -> None:
    """What swings sideways costs, and the arm moves on other ways."""
    running = RunningStack(
        tmp_path,
        parameters={"safety_node": {"detour_ratio": 0.6}},
        safety={"cost": 0.1, "per_speed": 50.0},
    )
    heard = running.listener
    heard.rearms = True
    try:
        running.wait_for(lambda: heard.running and heard.moves, "motion")
        running.wait_for(
            lambda: any("detour by" in reason for reason in heard.safety_reasons), "a detour"
        )
        running.wait_for(
            lambda: any("detour by" in cost.reason for cost in heard.costs), "its cost"
        )
        cost = next(cost for cost in heard.costs if "detour by" in cost.reason)
        assert cost.decision == SafetyCost.ALLOW
        assert cost.chunk_cost == pytest.approx(0.6), "of what was proposed, not of what is played"
    finally:
        running.close()
