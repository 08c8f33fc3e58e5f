"""A policy server, the gate, and the arm behind the Franka Control Interface, all as processes."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("rclpy")
pytest.importorskip("safedojo_ros.msg")
pytest.importorskip("franky", reason="franky-control is not installed")

from policy_server import StandInServer
from running_stack import RunningStack

from safedojo_ros.msg import FrankaState
from safedojo_ros.worlds.tabletop.scene import ARM_X

ADDRESS = "127.0.0.61"
SPEED = 0.5
"""Of the world, so that two cores suffice."""
SERVER = Path(__file__).resolve().parents[1] / "policy_server.py"


class ServerProcess:
    """The stand-in with openpi's protocol, as a process that can be killed."""

    def __init__(self) -> None:
        with StandInServer() as gone:
            self.port, self.name = gone.port, gone.name
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Serve from now on."""
        self.process = subprocess.Popen([sys.executable, str(SERVER), str(self.port)])

    def kill(self) -> None:
        """End without a goodbye."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()


@pytest.fixture
def server() -> Iterator[ServerProcess]:
    made = ServerProcess()
    yield made
    made.kill()


@pytest.fixture
def stack(tmp_path: Path, server: ServerProcess) -> Iterator[RunningStack]:
    nodes = ("sim_node", "policy_node", "safety_node", "franka_node")
    parameters: dict[str, dict] = {name: {"realtime_factor": SPEED} for name in nodes}
    parameters["sim_node"] |= {"fci_address": ADDRESS, "max_steps": 60, "level": 0}
    parameters["policy_node"]["checkpoint"] = f"{server.name}?steps=8&image_size=64"
    parameters["franka_node"] |= {
        "backend": "fci", "fci_address": ADDRESS, "robot_base": [ARM_X, 0.0, 0.0],
    }  # fmt: skip
    running = RunningStack(tmp_path, parameters=parameters)
    running.listener.rearms = True
    yield running
    assert running.close() == [], "every node ends on SIGINT by itself"


def test_an_episode_runs_and_a_server_that_is_killed_and_restarted_means_hold_and_then_on(
    stack: RunningStack, server: ServerProcess
) -> None:
    heard = stack.listener

    def moving() -> None:
        count = len(heard.moves)
        stack.wait_for(lambda: len(heard.moves) > count + 10, "motion by the server's chunks")
        assert heard.moves[-1].checkpoint == server.name

    server.start()
    moving()
    stack.wait_for(lambda: heard.episodes, "an episode")
    moving()
    server.kill()
    stack.wait_for(lambda: not heard.running, "hold")
    stack.wait_for(
        lambda: "start it, or correct the address" in heard.diagnoses.get("policy_node", ""),
        "the reason",
    )
    count = len(heard.moves)
    server.start()
    moving()
    assert count < len(heard.moves)
    assert heard.arm is not None
    assert heard.arm.state != FrankaState.FAULT
    assert "FAULT" not in " ".join(heard.arm_reasons)
