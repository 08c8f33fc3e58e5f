"""A safety node that runs takes no safety head that would let contacts pass, and says why."""

from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("rclpy")
pytest.importorskip("safedojo_ros.msg")

from running_stack import RunningStack, publish_scripted

from safedojo_ros.msg import CheckpointInfo
from safedojo_ros.nodes.lifecycle import LATCHED
from safedojo_ros.srv import LoadCheckpoint


class JudgingStack(RunningStack):
    """A safety node alone: no arm has to move for a head to be refused."""

    def __init__(self, folder: Path) -> None:
        super().__init__(
            folder, nodes=("safety_node",), safety={"per_speed": 20.0, "examples": True}
        )
        self.heads: list[CheckpointInfo] = []
        self.listener.create_subscription(
            CheckpointInfo, "safety/checkpoint", self.heads.append, LATCHED
        )
        self.wait_for(lambda: self.heads, "safety/checkpoint")

    def load_head(self, words: str, **script: object) -> str:
        """Offer a head and wait until the node has said `words`; returns its id."""
        folder = self.folder / f"source{len(list(self.folder.iterdir()))}"
        name = publish_scripted(self.store, folder, "safety", **({"examples": True} | script))  # type: ignore[arg-type]
        self.heads.clear()
        assert self.call(
            LoadCheckpoint, "safety/load_checkpoint", LoadCheckpoint.Request(name=name)
        ).accepted
        self.wait_for(lambda: any(words in head.reason for head in self.heads), words)
        return name


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[JudgingStack]:
    running = JudgingStack(tmp_path_factory.mktemp("heads"))
    try:
        yield running
    finally:
        assert running.close() == [], "every node ends on SIGINT by itself"


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ({"cost": 0.0}, "it does not tell contacts apart on its own contact examples"),
        ({"nan": True}, "are not probabilities"),
        ({"per_speed": 20.0, "limit": 1.0}, "and (0, 1)"),
        ({"per_speed": 5.0, "limit": 0.9}, "recall 0%"),
        ({"per_speed": 20.0, "cost_m": 0}, "its cost_m is 0"),
        ({"per_speed": 20.0, "examples": False}, "it brings no contact examples"),
    ],
    ids=["always 0", "NaN", "limit 1", "late limit", "cost_m 0", "no examples"],
)
def test_a_safety_head_that_would_let_contacts_pass_is_kept_out(
    stack: JudgingStack, script: dict, words: str
) -> None:
    old = stack.heads[-1].id
    bad = stack.load_head(words, **script)
    assert stack.heads[-1].id == old != bad


def test_a_head_that_knows_contacts_is_taken(stack: JudgingStack) -> None:
    good = stack.load_head("swapped in", per_speed=12.0)
    assert stack.heads[-1].id == good
