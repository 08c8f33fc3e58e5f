"""Swaps while the arm moves, over real DDS: followed, announced, never mixed, and undone."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("rclpy")
pytest.importorskip("safedojo_ros.msg")

from running_stack import RunningStack, publish_scripted

from safedojo_ros.msg import ActionChunk, CheckpointInfo
from safedojo_ros.nodes.lifecycle import IN_ORDER, LATCHED
from safedojo_ros.srv import LoadCheckpoint

CANARY_CALLS = 5
"""How often a policy acts before it is taken over: once to warm up, and on four observations."""
PROBATION = 6


class SwappingStack(RunningStack):
    """The policy follows `latest`, the safety head follows the policy; all words are kept."""

    def __init__(self, folder: Path) -> None:
        watched = {"probation_chunks": PROBATION}
        super().__init__(
            folder,
            parameters={
                "sim_node": {"max_steps": 10_000, "level": 0},
                "policy_node": {"follow": "latest", "follow_period": 0.02, **watched},
                "safety_node": {"follow": "policy", **watched},
            },
            policy={"speed": 0.008},
            safety={"per_speed": 20.0, "examples": True},
        )
        self.chunks: list[ActionChunk] = []
        self.heads: list[CheckpointInfo] = []
        self.speeds = {self.policy_id: 0.008}
        listener = self.listener
        listener.create_subscription(ActionChunk, "policy/action_chunk", self._on_chunk, IN_ORDER)
        listener.create_subscription(CheckpointInfo, "safety/checkpoint", self._on_head, LATCHED)

    def _on_chunk(self, message: ActionChunk) -> None:
        self.chunks.append(message)

    def _on_head(self, message: CheckpointInfo) -> None:
        self.heads.append(message)

    @property
    def words(self) -> list[str]:
        """Every reason that the policy node has given."""
        return [info.reason for info in self.listener.infos]

    def publish(self, kind: str = "policy", requires: str = "", **script: Any) -> str:
        """Publish, which moves `latest`; the listener forgets what was said before."""
        self.listener.infos.clear()
        folder = self.folder / f"source{len(list(self.folder.iterdir()))}"
        needed = {"safety": requires} if requires else None
        script = {"examples": kind == "safety"} | script
        name = publish_scripted(self.store, folder, kind, requires=needed, **script)
        if kind == "policy":
            self.speeds[name] = script.get("speed", 0.01)
        return name

    def wait_for_words(self, words: str) -> None:
        """Until the policy node has given a reason with these words."""
        self.wait_for(lambda: any(words in said for said in self.words), f"'{words}'")

    def wait_until_kept(self, name: str) -> None:
        """Until a policy has been taken over and has passed its probation."""
        self.wait_for(
            lambda: any(i.id == name and i.reason.startswith("kept") for i in self.listener.infos),
            f"{name} is kept; {self.words}",
        )

    def wait_until_moving_by(self, name: str) -> None:
        """Until the arm follows chunks of this policy."""
        count = len(self.listener.moves)
        self.wait_for(
            lambda: {m.checkpoint for m in self.listener.moves[count:][-3:]} == {name},
            f"motion by {name}",
        )

    @property
    def running_id(self) -> str:
        """The policy that acts now."""
        assert self.listener.info is not None
        return self.listener.info.id

    @property
    def head(self) -> str:
        """The safety head that judges now."""
        return self.heads[-1].id


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SwappingStack]:
    running = SwappingStack(tmp_path_factory.mktemp("swaps"))
    try:
        running.arm_and_move()
        yield running
    finally:
        assert running.close() == [], "every node ends on SIGINT by itself"


def test_latest_is_followed_while_the_arm_moves_and_no_chunk_is_mixed(
    stack: SwappingStack,
) -> None:
    heard = stack.listener
    names = [stack.policy_id, stack.publish(speed=0.012)]
    stack.wait_until_kept(names[1])
    calm = swaps = 0
    while swaps < 6 or (swaps < 20 and not calm):  # a busy machine makes the arm hold by itself
        name = names[swaps % 2]
        heard.arm_reasons.clear()
        stack.store.set_latest("policy", name)
        stack.wait_until_moving_by(name)
        assert heard.infos[-1].id == name
        calm += not [reason for reason in heard.arm_reasons if reason]
        swaps += 1
    assert calm > 0, "the arm held at every swap"
    assert [chunk.sequence for chunk in stack.chunks] == list(
        range(stack.chunks[0].sequence, stack.chunks[0].sequence + len(stack.chunks))
    )
    for chunk in stack.chunks:
        table = np.array(chunk.actions).reshape(chunk.proposals, chunk.length, 7)
        sideways = np.abs(table[:, chunk.committed :, 1])  # before that it is the old policy's
        np.testing.assert_allclose(sideways, stack.speeds[chunk.checkpoint], atol=1e-6)
    stack.wait_for(lambda: heard.infos[-1].reason.startswith("kept"), "end of the probation")


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ({"delay": 0.25}, "ms a chunk, the old one"),
        ({"limits": True}, "100% of its steps lie at the limits"),
        ({"nan": True}, "not finite"),
        ({"speed": 0.04}, "predicted cost is 0.80"),
    ],
    ids=["slow", "limits", "nan", "dear"],
)
def test_the_canary_keeps_a_bad_policy_out(stack: SwappingStack, script: dict, reason: str) -> None:
    running = stack.running_id
    name = stack.publish(**script)
    stack.wait_for_words(reason)
    assert stack.listener.infos[-1].id == running
    assert name not in {chunk.checkpoint for chunk in stack.chunks}
    stack.wait_for(lambda: stack.listener.running, "motion goes on")


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ({"delay": 0.25}, "ms a chunk, the old one"),
        ({"limits": True}, "of its steps lie at the limits"),
        ({"nan": True}, "not finite"),
        ({"late_speed": 0.04}, "predicted cost is"),
    ],
    ids=["slow", "limits", "nan", "dear"],
)
def test_a_policy_that_turns_bad_after_the_swap_is_left_by_itself_and_not_taken_again(
    stack: SwappingStack, script: dict, reason: str
) -> None:
    running = stack.running_id
    name = stack.publish(late=CANARY_CALLS + 1, **script)
    stack.wait_for_words(f"rolled back from {name} to {running}")
    assert any(reason in said for said in stack.words)
    assert stack.listener.infos[-1].id == running
    assert name in {chunk.checkpoint for chunk in stack.chunks}, "it did act before"
    assert all(np.all(np.isfinite(chunk.actions)) for chunk in stack.chunks)
    stack.listener.infos.clear()
    stack.store.set_latest("policy", running)
    moves = len(stack.listener.moves)
    stack.wait_for(
        lambda: len(stack.listener.moves) > moves + 20, "a second, in which `latest` is looked at"
    )
    stack.wait_until_moving_by(running)
    stack.store.set_latest("policy", name)
    stack.wait_for_words(f"latest is {name}, which is not taken again")
    stack.wait_until_moving_by(running)
    assert name not in {info.id for info in stack.listener.infos}


def test_a_matched_pair_changes_together_in_both_directions(stack: SwappingStack) -> None:
    old_head = stack.head
    new_head = stack.publish("safety", per_speed=10.0)
    first = stack.publish(speed=0.012, requires=old_head)
    stack.wait_until_kept(first)
    assert stack.head == old_head
    second = stack.publish(speed=0.008, requires=new_head)
    stack.wait_for_words(f"{second} waits: it requires safety head {new_head}")
    stack.wait_until_kept(second)
    assert stack.head == new_head
    assert stack.trigger("policy/rollback").success
    stack.wait_until_moving_by(first)
    stack.wait_for(lambda: stack.head == old_head, "the old safety head")


def test_a_policy_whose_safety_head_does_not_exist_waits_and_changes_nothing(
    stack: SwappingStack,
) -> None:
    running, head = stack.running_id, stack.head
    name = stack.publish(requires="nosuchhead")
    stack.wait_for_words(f"{name} waits: it requires safety head nosuchhead")
    stack.wait_for(lambda: "no safety checkpoint 'nosuchhead'" in stack.heads[-1].reason, "refusal")
    assert (stack.listener.infos[-1].id, stack.head) == (running, head)
    stack.wait_until_moving_by(running)


def load_head(stack: SwappingStack, name: str) -> None:
    request = LoadCheckpoint.Request(name=name)
    assert stack.call(LoadCheckpoint, "safety/load_checkpoint", request).accepted


def test_a_safety_head_is_swapped_between_two_chunks_and_back(stack: SwappingStack) -> None:
    plain = stack.publish(speed=0.008)
    stack.wait_until_kept(plain)
    old, new = stack.head, stack.publish("safety", per_speed=12.0)
    stack.heads.clear()
    load_head(stack, new)
    stack.wait_for(lambda: stack.heads and stack.heads[-1].reason.startswith("kept"), "kept")
    assert (stack.heads[-1].id, stack.heads[-1].previous) == (new, old)
    assert stack.trigger("safety/rollback").success
    stack.wait_for(lambda: stack.head == old, "rolled back")
    stack.wait_until_moving_by(plain)


@pytest.mark.parametrize(
    ("late", "word"), [(0, "was not taken"), (PROBATION // 2, "rolled back from")]
)
def test_a_safety_head_that_gives_no_probabilities_is_kept_out_or_left(
    stack: SwappingStack, late: int, word: str
) -> None:
    old = stack.head
    bad = stack.publish("safety", per_speed=20.0, nan=True, late=late)
    stack.heads.clear()
    load_head(stack, bad)
    stack.wait_for(lambda: any(word in head.reason for head in stack.heads), word)
    assert stack.head == old
    stack.wait_for(lambda: stack.listener.running, "motion")
