"""The stack around a policy server: it holds while there is none, says why, and goes on by itself.

The server speaks openpi's public protocol; see `policy_server`.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("rclpy")
pytest.importorskip("safedojo_ros.msg")

from policy_server import StandInServer, swing
from running_stack import RunningStack


class ServedStack(RunningStack):
    """Its policy node asks a server; there is none yet."""

    def __init__(self, folder: Path) -> None:
        with StandInServer() as gone:
            self.port = gone.port
        self.name = f"{gone.name}?steps=8&image_size=64&proposals=2"
        super().__init__(
            folder,
            parameters={
                "sim_node": {"max_steps": 10_000, "level": 0},
                "policy_node": {"checkpoint": self.name},
            },
            safety={"per_speed": 20.0},
        )
        self.listener.rearms = True

    def wait_for_words(self, words: str) -> None:
        """Until the policy node's diagnostics say this."""
        self.wait_for(lambda: words in self.listener.diagnoses.get("policy_node", ""), words)

    def wait_until_moving(self) -> None:
        """Until the arm follows new chunks."""
        count = len(self.listener.moves)
        self.wait_for(lambda: len(self.listener.moves) > count + 20, "a second of motion")


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServedStack]:
    running = ServedStack(tmp_path_factory.mktemp("served"))
    try:
        yield running
    finally:
        assert running.close() == [], "every node ends on SIGINT by itself"


def test_without_its_server_the_node_waits_and_says_for_what(stack: ServedStack) -> None:
    stack.wait_for_words("connection refused; start it, or correct the address")
    assert stack.listener.chunk is None


def test_a_server_that_is_killed_and_restarted_means_hold_and_then_on(stack: ServedStack) -> None:
    heard = stack.listener
    with StandInServer(port=stack.port):
        stack.wait_until_moving()
        assert heard.moves[-1].checkpoint == f"openpi:ws://127.0.0.1:{stack.port}"
        assert heard.chunk is not None
        assert (heard.chunk.proposals, heard.chunk.length) == (2, 8)
    stack.wait_for(lambda: not heard.running, "hold")
    stack.wait_for_words("connection refused")
    last = heard.chunk.sequence
    with StandInServer(port=stack.port):
        stack.wait_until_moving()
        assert heard.chunk.sequence > last
        stack.wait_for_words("acting")


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        ({"actions": np.zeros((10, 8))}, "gives actions of 8 numbers"),
        ({"actions": np.full((10, 7), np.nan)}, "its action 0 is not finite"),
        ({"actions": np.zeros((5, 7))}, "chunks of 5 actions, expected 8"),
        ({}, "has no 'actions'"),
    ],
    ids=["width", "nan", "length", "nothing"],
)
def test_an_answer_that_is_no_chunk_means_hold(
    stack: ServedStack, answer: dict[str, Any], why: str
) -> None:
    spoilt = False

    def policy(question: dict[str, Any]) -> dict[str, Any]:
        return answer if spoilt else swing(question)

    with StandInServer(policy, stack.port):
        stack.wait_until_moving()
        spoilt = True
        stack.wait_for(lambda: not stack.listener.running, "hold")
        stack.wait_for_words(why)
        spoilt = False
        stack.wait_until_moving()


def test_the_gate_chooses_among_the_proposals_of_a_server(stack: ServedStack) -> None:
    fast = False

    def policy(question: dict[str, Any]) -> dict[str, Any]:
        nonlocal fast
        fast = not fast
        chunk = swing(question)
        if fast:
            chunk["actions"][:, 1] *= 5.0  # 5 cm a step, of which the head predicts a contact
        return chunk

    heard = stack.listener

    def second_chosen() -> bool:
        assert heard.chunk is not None
        speeds = np.abs(np.reshape(heard.chunk.actions, (2, 8, 7))[:, 0, 1])
        judged = {cost.sequence: cost for cost in list(heard.costs)}.get(heard.chunk.sequence)
        if judged is None or not np.allclose(speeds, [0.05, 0.01]):
            return False
        return judged.decision == judged.ALLOW and judged.chunk_cost < 0.3

    with StandInServer(policy, stack.port):
        stack.wait_until_moving()
        stack.wait_for(second_chosen, "the second proposal is allowed")


def test_a_checkpoint_takes_over_from_a_server_while_the_arm_moves(stack: ServedStack) -> None:
    with StandInServer(port=stack.port):
        stack.wait_until_moving()
        assert stack.load(stack.policy_id).accepted
        moves = stack.listener.moves
        stack.wait_for(lambda: moves[-1].checkpoint == stack.policy_id, "its chunks")
