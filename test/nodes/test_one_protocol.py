"""What is evaluated is what the robot does: one recorded episode, decision for decision.

An episode is evaluated and recorded: observations, proposals, what is committed, the head's answers
and what was executed. Then the safety node judges the same proposals, as messages, and the arm's
control loop executes what it forwards.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

rclpy = pytest.importorskip("rclpy")
pytest.importorskip("safedojo_ros.msg")

from rclpy.context import Context  # noqa: E402
from rclpy.parameter import Parameter  # noqa: E402
from running_stack import publish_scripted  # noqa: E402
from std_msgs.msg import String  # noqa: E402

from safedojo_ros.checkpoints.store.store import CheckpointStore  # noqa: E402
from safedojo_ros.core.types import ActionChunk, Decision, Observation  # noqa: E402
from safedojo_ros.evaluation.filters.gate import GatedPolicy  # noqa: E402
from safedojo_ros.evaluation.play import play  # noqa: E402
from safedojo_ros.evaluation.timing import PERIOD, TimedPolicy  # noqa: E402
from safedojo_ros.msg import ActionChunk as ActionChunkMessage  # noqa: E402
from safedojo_ros.msg import SafetyState  # noqa: E402
from safedojo_ros.nodes.conversion import (  # noqa: E402
    BASE_FRAME,
    chunk_from_message,
    image_from_array,
    joint_state,
    message_from_chunks,
    pose_message,
)
from safedojo_ros.nodes.safety_node import SafetyNode  # noqa: E402
from safedojo_ros.nodes.stack.dds import DomainLease  # noqa: E402
from safedojo_ros.nodes.stack.ros_environment import prepare_environment  # noqa: E402
from safedojo_ros.robot.gate.gate import GateResult  # noqa: E402
from safedojo_ros.robot.limits import Workspace  # noqa: E402
from safedojo_ros.robot.playback.arm_state import ArmMode, ArmState  # noqa: E402
from safedojo_ros.robot.playback.committed import CommittedActions  # noqa: E402
from safedojo_ros.robot.playback.control_loop import ControlLoop  # noqa: E402
from safedojo_ros.robot.playback.playback import ChunkPlayback  # noqa: E402
from safedojo_ros.robot.playback.schedule import LATENCY_STEPS  # noqa: E402
from safedojo_ros.robot.playback.target import TargetPose  # noqa: E402
from safedojo_ros.worlds.vector import VectorWorld  # noqa: E402
from safedojo_ros.worlds.world import Scene  # noqa: E402

START = 1_000_000_000_000
CAMERAS = ("agentview", "wrist")
SAME = partial(np.testing.assert_allclose, rtol=0, atol=1e-6)


class Wanderer:
    """Goes about at random; begins with what is committed."""

    checkpoint_id, chunk_length, image_size, longest_delay = "wanderer", 8, 64, 3
    cameras: tuple[str, ...] = CAMERAS

    def propose(
        self,
        observations: list[Observation],
        generators: list[torch.Generator],
        count: int,
        committed: Sequence[np.ndarray],
    ) -> np.ndarray:
        chunks = np.zeros((len(observations), count, 8, 7), np.float32)
        for row, generator in enumerate(generators):
            way = 0.012 * torch.randn(count, 1, 3, generator=generator)
            chunks[row, ..., :3] = (
                way + 0.003 * torch.randn(count, 8, 3, generator=generator)
            ).clip(-0.04, 0.04)
            chunks[row, ..., 6] = 1.0 if way[0, 0, 0] > 0 else -1.0
            chunks[row, :, : len(committed[row])] = committed[row]
        return chunks

    def act(self, *_: Any) -> np.ndarray:
        raise AssertionError("the stack's timing asks for proposals")


class Head:
    """Answers by a formula of images, state and actions."""

    checkpoint_id, chunk_length, image_size, cameras = "formula", 8, 64, CAMERAS
    cost_m, cost_limit, examples = 2, 0.5, None

    def contexts(self, observations: list[Observation]) -> torch.Tensor:
        shown = [[float(o.images[name].mean()) for name in CAMERAS] for o in observations]
        return torch.tensor(shown) / 255.0

    def judged(
        self, contexts: torch.Tensor, observations: list[Observation], actions: np.ndarray
    ) -> np.ndarray:
        place = observations[0].state[:3]
        path = place + np.cumsum(actions[..., :3], axis=-2)
        wave = np.sin(30.0 * place[:2].sum() + 8.0 * path[..., :2].sum(-1) + float(contexts.mean()))
        return np.asarray(np.clip(0.3 + 0.8 * wave, 0.0, 0.95))

    def step_cost(self, observations: list[Observation], actions: np.ndarray) -> np.ndarray:
        raise AssertionError("with a memory it is asked by several images")


@dataclass
class Recording:
    """What happened at each inference, and what was executed in each control step."""

    observations: list[Observation] = field(default_factory=list)
    proposals: list[np.ndarray] = field(default_factory=list)
    committed: list[np.ndarray] = field(default_factory=list)
    results: list[GateResult] = field(default_factory=list)
    answers: list[tuple[int, np.ndarray, np.ndarray]] = field(default_factory=list)
    """(how many images it was asked by, actions, P(contact))."""
    executed: list[np.ndarray] = field(default_factory=list)


class RecordedPolicy(GatedPolicy):
    """Remembers what the gate was given and what it said."""

    recording: Recording

    def _judge(
        self, observation: Observation, generator: Any, proposed: np.ndarray, committed: int
    ) -> GateResult:
        result = super()._judge(observation, generator, proposed, committed)
        self.recording.observations.append(observation)
        self.recording.proposals.append(proposed)
        self.recording.committed.append(proposed[0, :committed])
        self.recording.results.append(result)
        return result


class RecordedHead(Head):
    def __init__(self, recording: Recording) -> None:
        self.recording = recording

    def judged(
        self, contexts: torch.Tensor, observations: list[Observation], actions: np.ndarray
    ) -> np.ndarray:
        costs = super().judged(contexts, observations, actions)
        self.recording.answers.append((contexts.shape[1], actions, costs))
        return costs


class Replay(Head):
    """Is asked the same again, and answers as it did then."""

    def __init__(self, recording: Recording) -> None:
        self.left = list(recording.answers)

    def judged(
        self, contexts: torch.Tensor, observations: list[Observation], actions: np.ndarray
    ) -> np.ndarray:
        images, asked, costs = self.left.pop(0)
        assert contexts.shape[1] == images
        SAME(actions, asked)
        return costs


def evaluated(steps: int) -> Recording:
    """One episode with the stack's timing, behind the gate with its defaults."""
    recording = Recording()
    policy: Any = RecordedPolicy(Wanderer(), RecordedHead(recording))  # type: ignore[arg-type]
    policy.recording = recording
    vector = VectorWorld(max_steps=steps)
    seen = vector.reset([Scene(7, "cube_on_plate", 1)])
    timed: Any = TimedPolicy(policy)
    for step in play(timed, vector, seen, [7]):
        recording.executed += list(step.executed[0])
    return recording


def started(context: Context, folder: Path, head: Head) -> Any:
    """The safety node, active, around `head`."""
    store = CheckpointStore(folder / "store")
    publish_scripted(store, folder / "head", "safety")
    values = {"checkpoint": "latest", "store": str(store.root)}
    node = SafetyNode(
        load=lambda path: head,
        context=context,
        parameter_overrides=[Parameter(name, value=value) for name, value in values.items()],
    )
    assert node.start(), node.failure
    return node


class Robot:
    """The safety node and the arm's control loop, with the clock of the recording."""

    def __init__(self, context: Context, folder: Path, head: Head) -> None:
        self.node = started(context, folder, head)
        self.clock = START
        self.node.now = lambda: self.clock
        self.states: list[SafetyState] = []
        self.gated: list[ActionChunkMessage] = []
        self.node._states, self.node._gated = Heard(self.states), Heard(self.gated)
        box = Workspace((-0.25, -0.32, 0.012), (0.34, 0.32, 0.45))
        self.loop = ControlLoop(ChunkPlayback(), TargetPose(box), ArmState())
        self.place = np.array([0.0, 0.0, 0.24, np.pi, 0.0, 0.0, 0.04, 0.04])
        self.committed = CommittedActions(0.05)
        self._beat(START - PERIOD)
        assert self.loop.arm_now(START - PERIOD).accepted

    def see(self, observation: Observation, stamp: int) -> None:
        self.clock, inputs = stamp, self.node._inputs
        inputs._text(String(data=observation.instruction))
        state = observation.state
        inputs._joints(joint_state(np.zeros(7), np.zeros(7), state[6:], stamp))
        inputs._pose(pose_message(state[:3], state[3:6], stamp))
        for name in CAMERAS:
            inputs._image(name, image_from_array(observation.images[name], stamp, name))

    def take(self, message: ActionChunkMessage, now: int) -> None:
        """The policy's message comes to the gate, and what it forwards to the arm."""
        self.clock = now
        self.gated.clear()
        self.node._on_chunk(message)
        self._hear(now)
        for gated in self.gated:
            chunk = chunk_from_message(gated)
            self.committed.forwarded(chunk, now)
            assert self.loop.chunk(chunk, now) == ""

    def tick(self, now: int) -> np.ndarray:
        """One control step; (7,), the action."""
        self._beat(now)
        self._hear(now)
        before = len(self.loop.playback._executed)
        target = self.loop.tick(now)
        self.committed.arm(self.loop.arm.mode == ArmMode.RUNNING, now)
        assert target is not None
        self.place[:3], self.place[3:6] = target.position, target.axis_angle
        if len(self.loop.playback._executed) > before:
            return self.loop.playback._executed[-1][1]
        return np.array([*[0.0] * 6, target.gripper])

    def _hear(self, now: int) -> None:
        if self.states:
            state = self.states[-1]
            decision = Decision(state.decision)
            self.loop.safety(decision, state.reason, now, int(state.last_sequence))

    def _beat(self, now: int) -> None:
        self.loop.enable(True, now)
        self.loop.measured(self.place, now)
        if not self.states:
            self.loop.safety(Decision.HOLD, "", now)


class Heard(list[Any]):
    """A publisher that keeps what is published."""

    def __init__(self, kept: list[Any]) -> None:
        self.publish = kept.append


@pytest.fixture
def context() -> Iterator[Context]:
    lease = DomainLease()
    prepare_environment(only_this_machine=True)
    made = Context()
    rclpy.init(context=made, domain_id=lease.number)
    yield made
    rclpy.try_shutdown(context=made)
    lease.release()


def test_the_robot_decides_and_executes_what_the_evaluation_did(
    context: Context, tmp_path: Path
) -> None:
    recording = evaluated(100)
    kinds = Counter(result.decision.name for result in recording.results)
    assert {"ALLOW", "SLOW", "HOLD"} <= set(kinds), kinds
    assert any(result.detour for result in recording.results)
    assert {len(known) for known in recording.committed} >= {0, 2}
    replay = Replay(recording)
    robot, between = Robot(context, tmp_path, replay), 4
    try:
        for number, expected in enumerate(recording.results):
            asked_at = START + number * between * PERIOD
            robot.see(recording.observations[number], asked_at)
            known = robot.committed.after(asked_at, 3)
            SAME(known, recording.committed[number], err_msg=f"committed at inference {number}")
            chunks = [
                ActionChunk(c, 0.05, asked_at, number + 1, "p", BASE_FRAME, len(known))
                for c in recording.proposals[number]
            ]
            message = message_from_chunks(chunks, asked_at, 0.0)
            for step in range(between):
                begins = asked_at + step * PERIOD
                if step == LATENCY_STEPS:
                    robot.take(message, begins)
                    state = robot.states[-1]
                    found = Decision(state.decision), state.reason, len(robot.gated)
                    forwarded = int(expected.forwarded is not None)
                    assert found == (expected.decision, expected.reason, forwarded), number
                action = robot.tick(begins + PERIOD // 2)
                done = recording.executed[number * between + step]
                SAME(action, done, err_msg=f"step {step} after inference {number}")
        assert replay.left == [], "the head was asked the same questions"
    finally:
        robot.node.shut_down()
        robot.node.destroy_node()
