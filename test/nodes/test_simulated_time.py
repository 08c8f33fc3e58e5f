"""In simulated time the arm does the same, however long policy and gate compute."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("rclpy")
pytest.importorskip("safedojo_ros.msg")

from running_stack import simulated_stack
from std_msgs.msg import String

from safedojo_ros.core.types import CONTROL_PERIOD
from safedojo_ros.core.units import SECOND
from safedojo_ros.nodes.conversion import to_nanoseconds
from safedojo_ros.nodes.lifecycle import IN_ORDER
from safedojo_ros.robot.playback.schedule import LATENCY_STEPS

MOVES = 30
EPISODES = 3


def first_moves(folder: Path, delay: float) -> tuple[np.ndarray, np.ndarray, int]:
    """Targets (n, 3) m and their times since the first (n,) s; chunks' age where they are used."""
    stack = simulated_stack(folder, delay)
    moves, known = stack.listener.moves, stack.listener.observed_at

    def ages() -> set[int]:
        """Of the chunks that were heard; the policy may find who listens after the first ones."""
        uses = [m for before, m in pairwise(moves[:]) if m.sequence != before.sequence]
        stamps = {m.sequence: to_nanoseconds(m.header.stamp) for m in uses}
        return {stamp - known[n] for n, stamp in stamps.items() if n in known}

    try:
        stack.wait_for(lambda: len(moves) > MOVES and ages(), "motion", 150.0)
        at = np.array([to_nanoseconds(m.header.stamp) for m in moves[:MOVES]])
        [age] = ages()
        assert stack.listener.arm is not None
        assert stack.listener.arm.missed_ticks == 0
        return np.array([m.position for m in moves[:MOVES]]), (at - at[0]) / SECOND, age
    finally:
        stack.close()


def test_a_policy_that_takes_six_control_periods_moves_the_arm_as_a_fast_one_does(
    tmp_path: Path,
) -> None:
    fast, at, age = first_moves(tmp_path / "fast", 0.0)
    slow, later, older = first_moves(tmp_path / "slow", 0.3)
    assert age == older == round(LATENCY_STEPS * CONTROL_PERIOD * SECOND)
    np.testing.assert_array_equal(at, later)
    np.testing.assert_allclose(at, np.arange(MOVES) * CONTROL_PERIOD, atol=1e-6)
    np.testing.assert_array_equal(fast, slow)


def episodes_and_targets(folder: Path, stutter: float) -> tuple[list[dict], dict[int, tuple]]:
    """What came of the first episodes, and the targets by time (ns) since the first one's end."""
    stack = simulated_stack(folder, stutter=stutter, max_steps=25)
    try:
        heard = stack.listener
        stack.wait_for(lambda: len(heard.episodes) >= EPISODES, "episodes", 200.0)
        episodes, moves = heard.episodes[:EPISODES], list(heard.moves)
    finally:
        stack.close()
    began, ended = episodes[0]["stamp"], episodes[-1]["stamp"]
    targets = {
        at - began: (m.sequence, *m.position, *m.axis_angle, m.gripper)
        for m in moves
        if (at := to_nanoseconds(m.header.stamp)) <= ended
    }
    return [episode | {"stamp": episode["stamp"] - began} for episode in episodes], targets


def test_the_arm_does_the_same_whichever_message_is_the_fastest(tmp_path: Path) -> None:
    episodes, targets = episodes_and_targets(tmp_path / "prompt", 0.0)
    others, again = episodes_and_targets(tmp_path / "late", 0.05)
    assert episodes == others
    both = targets.keys() & again.keys()  # a listener may miss some
    assert len(both) > 0.8 * EPISODES * 25
    assert {at: targets[at] for at in both} == {at: again[at] for at in both}


def test_episodes_follow_each_other_and_time_goes_on_without_a_node_that_died(
    tmp_path: Path,
) -> None:
    stack = simulated_stack(tmp_path, max_steps=20)
    try:
        episodes = stack.listener.episodes
        stack.wait_for(lambda: len(episodes) >= 2, "two episodes", 150.0)
        apart = (episodes[1]["stamp"] - episodes[0]["stamp"]) / SECOND
        assert apart <= 20 * CONTROL_PERIOD + 2.0
        for topic in ("sim/turn", "sim/done"):
            garbage = stack.listener.create_publisher(String, topic, IN_ORDER)
            stack.wait_for(lambda: garbage.get_subscription_count() > 0, topic)  # noqa: B023
            for text in (
                "",
                "[]",
                '{"node": "franka_node"}',
                '{"node": "franka_node", "stamp": 1}',
            ):
                garbage.publish(String(data=text))
        stack.wait_for(lambda: len(episodes) >= 4, "two further episodes", 150.0)
        assert stack.processes.dead() == [], "a malformed message ends no node"
        stack.kill("policy_node")
        stack.wait_for(lambda: stack.listener.disarmed, "the arm lets go", 150.0)
        seen = len(episodes)
        stack.restart("policy_node")
        stack.wait_for(lambda: len(episodes) >= seen + 2, "further episodes", 150.0)
    finally:
        stack.close()
