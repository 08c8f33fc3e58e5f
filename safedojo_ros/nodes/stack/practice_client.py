"""The person who sends a working robot's episodes to training: goal, progress, and the new policy.

Uses a node that something else spins; every method returns at once.
"""

from typing import Any

from rclpy.action import ActionClient
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy
from rclpy.task import Future

from safedojo_ros.action import Train
from safedojo_ros.msg import CheckpointInfo, TrainingProgress
from safedojo_ros.nodes.lifecycle import LATCHED

ALL_LATCHED = QoSProfile(
    reliability=ReliabilityPolicy.RELIABLE,
    durability=DurabilityPolicy.TRANSIENT_LOCAL,
    history=HistoryPolicy.KEEP_LAST,
    depth=20,
)
"""Latched, and none skipped while several follow each other."""


class PracticeClient:
    """One goal of the action `train`, and what the policy node says of its checkpoints."""

    def __init__(self, node: Node) -> None:
        self.progress: TrainingProgress | None = None
        self.feedback: Train.Feedback | None = None
        self.policies: list[CheckpointInfo] = []
        self.result: Train.Result | None = None
        self.rejected = False
        self._handle: Any = None
        self._train = ActionClient(node, Train, "train")
        node.create_subscription(TrainingProgress, "trainer/progress", self._on_progress, LATCHED)
        node.create_subscription(CheckpointInfo, "policy/checkpoint", self._on_policy, ALL_LATCHED)

    @property
    def ready(self) -> bool:
        """Whether the trainer is there."""
        return bool(self._train.server_is_ready())

    def send(self, preset: str, data: list[str], base: str, publish: bool) -> None:
        """Send the goal; `result` or `rejected` follows."""
        self.result, self.rejected, self.feedback = None, False, None
        goal = Train.Goal(preset=preset, data=data, base=base, publish=publish)
        sent = self._train.send_goal_async(goal, feedback_callback=self._on_feedback)
        sent.add_done_callback(self._on_answer)

    def cancel(self) -> None:
        """Take the goal back, if there is one."""
        if self._handle is not None:
            self._handle.cancel_goal_async()

    def running(self, checkpoint: str) -> bool:
        """Whether the policy node says that it runs `checkpoint` now."""
        newest = self.policies[-1:]
        return bool(newest) and newest[0].active and newest[0].id == checkpoint

    def refusal(self, checkpoint: str) -> str:
        """The policy node's last word about `checkpoint` while it runs another, or ""."""
        about = [i for i in self.policies if checkpoint in i.reason and i.id != checkpoint]
        return about[-1].reason if about and not self.running(checkpoint) else ""

    def _on_answer(self, sent: Future) -> None:
        self._handle = sent.result()
        if not self._handle.accepted:
            self.rejected = True
            return
        self._handle.get_result_async().add_done_callback(self._on_result)

    def _on_result(self, future: Future) -> None:
        self.result = future.result().result

    def _on_feedback(self, message: Any) -> None:
        self.feedback = message.feedback

    def _on_progress(self, message: TrainingProgress) -> None:
        self.progress = message

    def _on_policy(self, message: CheckpointInfo) -> None:
        self.policies.append(message)
