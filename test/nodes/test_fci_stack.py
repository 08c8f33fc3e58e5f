"""The stack with the arm behind the Franka Control Interface: the real client moves it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("rclpy")
pytest.importorskip("safedojo_ros.msg")
pytest.importorskip("franky", reason="franky-control is not installed")

from running_stack import RunningStack

from safedojo_ros.msg import FrankaState
from safedojo_ros.worlds.tabletop.scene import ARM_X

ADDRESS = "127.0.0.31"
SPEED = 0.5
"""Of the world, so that two cores suffice."""


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[RunningStack]:
    nodes = ("sim_node", "camera_node", "policy_node", "safety_node", "franka_node")
    parameters: dict[str, dict] = {name: {"realtime_factor": SPEED} for name in nodes}
    del parameters["camera_node"]
    parameters["sim_node"] |= {"fci_address": ADDRESS, "max_steps": 30}
    parameters["franka_node"] |= {
        "backend": "fci", "fci_address": ADDRESS, "robot_base": [ARM_X, 0.0, 0.0],
    }  # fmt: skip
    running = RunningStack(tmp_path, parameters=parameters)
    running.listener.rearms = True
    yield running
    assert running.close() == [], "every node ends on SIGINT by itself"


def test_episodes_run_and_a_robot_that_is_gone_is_a_fault(stack: RunningStack) -> None:
    heard = stack.listener
    stack.arm_and_move()
    stack.wait_for(lambda: len(heard.episodes) >= 2, "two episodes")
    assert [e["number"] for e in heard.episodes[:2]] == [0, 1]
    assert heard.moves
    assert "FAULT" not in " ".join(heard.arm_reasons)
    stack.wait_for(lambda: heard.running, "motion")
    stack.kill("sim_node")
    stack.wait_for(lambda: heard.arm and heard.arm.state == FrankaState.FAULT, "the fault")
    assert heard.arm is not None
    assert heard.arm.reason
    answer = stack.trigger("franka/recover")
    assert not answer.success
    assert answer.message
