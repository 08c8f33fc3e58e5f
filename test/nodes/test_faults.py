"""Bad input over real DDS: the arm holds or the old checkpoint goes on, and the topics say why."""

import json
import shutil
from collections.abc import Callable, Iterator

import pytest

pytest.importorskip("rclpy")
pytest.importorskip("safedojo_ros.msg")

from running_stack import FaultyCameras, RunningStack, publish_scripted
from std_msgs.msg import Bool, String

from safedojo_ros.core.units import SECOND
from safedojo_ros.msg import ActionChunk, FrankaState, SafetyState
from safedojo_ros.nodes.conversion import to_nanoseconds, to_stamp
from safedojo_ros.nodes.lifecycle import IN_ORDER, LATCHED
from safedojo_ros.robot.observation_window import WindowConfig

PERIOD = 0.05


class FaultyStack(RunningStack):
    """A stack without a camera node, whose pictures, instruction and chunks a test can spoil."""

    def __init__(self, *arguments: object, **options: object) -> None:
        super().__init__(*arguments, **options)  # type: ignore[arg-type]
        heard = self.listener
        self.cameras = FaultyCameras(heard)
        self._instruction = heard.create_publisher(String, "instruction", LATCHED)
        self._ungated = heard.create_publisher(ActionChunk, "policy/action_chunk", IN_ORDER)

    def say(self, text: str) -> None:
        self._instruction.publish(String(data=text))

    def chunk(self, ahead: int = 1, length: int = 8) -> ActionChunk:
        """A sound chunk that would be the next one."""
        now = int(self.listener.get_clock().now().nanoseconds)
        message = ActionChunk(period=PERIOD, proposals=1, length=length, checkpoint="test")
        message.header.frame_id = "base"
        message.observed_at = to_stamp(now)
        assert self.listener.arm is not None
        message.sequence = int(self.listener.arm.last_sequence) + ahead
        message.actions = [0.0] * (7 * length)
        return message

    def send(self, message: ActionChunk) -> None:
        self._ungated.publish(message)


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FaultyStack]:
    running = FaultyStack(
        tmp_path_factory.mktemp("faults"),
        nodes=("sim_node", "policy_node", "safety_node", "franka_node", "watchdog_node"),
        parameters={"sim_node": {"max_steps": 10_000, "level": 0}},
    )
    try:
        running.arm_and_move()
        yield running
    finally:
        running.close()


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("stops", "camera 'agentview' has stopped"),
        ("freezes", "camera 'agentview' is frozen"),
        ("changes size", "changed from 64x64 rgb8 to 32x32 rgb8"),
        ("changes encoding", "changed from 64x64 rgb8 to 64x64 mono8"),
    ],
)
def test_a_faulty_camera_holds_the_arm_and_the_gate_says_why(
    stack: FaultyStack, fault: str, reason: str
) -> None:
    heard = stack.listener
    stack.wait_for(lambda: heard.running, "motion")
    heard.safety_reasons.clear()
    stack.cameras.fault = fault
    try:
        stack.wait_for(lambda: any(reason in r for r in heard.safety_reasons), reason)
        stack.wait_for(lambda: heard.holding and reason in heard.arm.reason, "hold")  # type: ignore[union-attr]
    finally:
        stack.cameras.fault = ""
    stack.wait_for(lambda: heard.running, "motion after the camera came back")


def test_the_arm_holds_within_a_period_of_a_picture_being_stale(stack: FaultyStack) -> None:
    heard = stack.listener
    stack.wait_for(lambda: heard.running, "motion")
    stack.cameras.fault = "stops"
    try:
        stack.wait_for(lambda: heard.holding and "has stopped" in heard.arm.reason, "hold")  # type: ignore[union-attr]
        assert stack.cameras.last is not None
        seen = to_nanoseconds(stack.cameras.last.header.stamp)
        moved = to_nanoseconds(heard.moves[-1].header.stamp)
        stale, transport = WindowConfig(("agentview",), 64).max_age, 0.02
        assert (moved - seen) / SECOND <= stale + PERIOD + transport
    finally:
        stack.cameras.fault = ""
    stack.wait_for(lambda: heard.running, "motion after the camera came back")


@pytest.mark.parametrize(("text", "reason"), [("", "is empty"), ("x" * 5000, "5000 characters")])
def test_an_impossible_instruction_holds_the_arm(
    stack: FaultyStack, text: str, reason: str
) -> None:
    heard = stack.listener
    stack.wait_for(lambda: heard.running, "motion")
    stack.say(text)
    stack.wait_for(lambda: heard.holding and reason in heard.arm.reason, f"hold: {reason}")  # type: ignore[union-attr]
    stack.say("put the red cube on the plate")
    stack.wait_for(lambda: heard.running, "motion after a good instruction")


def not_a_number(stack: FaultyStack) -> ActionChunk:
    message = stack.chunk()
    message.actions[10] = float("nan")
    return message


def wrong_shape(stack: FaultyStack) -> ActionChunk:
    message = stack.chunk()
    message.actions = [0.0] * 55
    return message


def none_proposed(stack: FaultyStack) -> ActionChunk:
    message = stack.chunk()
    message.proposals, message.actions = 0, []
    return message


def all_committed(stack: FaultyStack) -> ActionChunk:
    message = stack.chunk()
    message.committed = 8
    return message


def old_stamp(stack: FaultyStack) -> ActionChunk:
    message = stack.chunk()
    message.observed_at.sec -= 3
    return message


def beyond_limits(stack: FaultyStack) -> ActionChunk:
    message = stack.chunk()
    message.actions[0] = 0.4
    return message


FAULTY = [
    (not_a_number, "not finite"),
    (wrong_shape, "55 numbers came"),
    (none_proposed, "0 chunks are proposed"),
    (all_committed, "8 steps are committed"),
    (old_stamp, "ago"),
    (beyond_limits, "limit"),
]


@pytest.mark.fault(
    "arm", "a second publisher on a topic that the arm obeys", "a fault that names both"
)
@pytest.mark.parametrize(
    ("kind", "topic"),
    [
        (Bool, "robot/enable"),
        (SafetyState, "safety/state"),
        (ActionChunk, "safety/action_chunk"),
    ],
)
def test_a_second_publisher_of_what_the_arm_obeys_is_a_fault(
    stack: FaultyStack, kind: type, topic: str
) -> None:
    heard = stack.listener
    stack.wait_for(lambda: heard.running, "motion")
    second = heard.create_publisher(kind, topic, IN_ORDER)
    try:
        stack.wait_for(lambda: heard.arm and heard.arm.state == FrankaState.FAULT, "the fault")
        assert heard.arm is not None
        assert f"{topic} has 2 publishers: /" in heard.arm.reason
        assert not stack.trigger("franka/arm").success
    finally:
        heard.destroy_publisher(second)
    assert stack.trigger("franka/recover").success
    stack.arm_and_move()


@pytest.mark.parametrize(("spoil", "reason"), FAULTY, ids=[f[0].__name__ for f in FAULTY])
def test_a_faulty_chunk_of_the_policy_is_held_by_the_gate(
    stack: FaultyStack, spoil: Callable[[FaultyStack], ActionChunk], reason: str
) -> None:
    heard = stack.listener
    stack.wait_for(lambda: heard.running, "motion")
    heard.safety_reasons.clear()
    stack.send(spoil(stack))
    stack.wait_for(lambda: any(reason in r for r in heard.safety_reasons), f"gate says {reason}")
    stack.wait_for(lambda: heard.running, "motion with the next good chunk")


def publish_tampered(stack: FaultyStack, kind: str) -> str:
    """Publish a checkpoint with one fault; returns its id."""
    options: dict[str, object] = {}
    if kind == "other architecture":
        options["architecture"] = "rt-9"
    if kind == "other normalisation":
        options["normalisation"] = {"state": {"mean": [0.0] * 6}, "action": {"mean": [0.0] * 7}}
    if kind == "not finite":
        options["nan"] = True
    folder = stack.folder / kind.replace(" ", "_")
    shutil.rmtree(folder, ignore_errors=True)
    name = publish_scripted(stack.store, folder, "policy", **options)  # type: ignore[arg-type]
    directory = stack.store.root / "policy" / name
    directory.chmod(0o755)
    if kind == "missing file":
        (directory / "model.safetensors").unlink()
    if kind == "wrong hash":
        config = directory / "config.json"
        config.chmod(0o644)
        config.write_text(json.dumps({"architecture": "scripted", "speed": 0.011}))
    return name


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("missing file", "model.safetensors"),
        ("wrong hash", "config.json"),
        ("other architecture", "rt-9"),
        ("other normalisation", "normalisation"),
        ("not finite", "not finite"),
    ],
)
def test_a_broken_checkpoint_is_refused_with_a_reason_and_the_old_one_goes_on(
    stack: FaultyStack, kind: str, reason: str
) -> None:
    heard = stack.listener
    stack.wait_for(lambda: heard.running, "motion")
    name = publish_tampered(stack, kind)
    heard.infos.clear()
    stack.load(name)
    stack.wait_for(lambda: any(reason in info.reason for info in heard.infos), f"{kind}: {reason}")
    assert heard.infos[-1].id == stack.policy_id
    count = len(heard.moves)
    stack.wait_for(lambda: len(heard.moves) > count + 10, "motion goes on")
    assert {m.checkpoint for m in heard.moves[count:]} == {stack.policy_id}


def test_an_unknown_checkpoint_is_refused(stack: FaultyStack) -> None:
    heard = stack.listener
    heard.infos.clear()
    stack.load("nosuchcheckpoint")
    stack.wait_for(lambda: any("nosuchcheckpoint" in i.reason for i in heard.infos), "refusal")


def test_a_good_checkpoint_is_swapped_in_while_the_arm_moves_and_rolled_back(
    stack: FaultyStack,
) -> None:
    heard = stack.listener
    stack.wait_for(lambda: heard.running, "motion")
    name = publish_scripted(stack.store, stack.folder / "better", "policy", speed=0.008)
    calm = False
    for _ in range(10):  # a busy machine makes the arm hold by itself
        stack.wait_for(lambda: heard.running, "motion")
        heard.arm_reasons.clear()
        assert stack.load(name).accepted
        stack.wait_for(lambda: heard.moves[-1].checkpoint == name, "motion by the new checkpoint")
        calm = calm or not [r for r in heard.arm_reasons if r]
        assert heard.info is not None
        assert (heard.info.id, heard.info.previous) == (name, stack.policy_id)
        assert stack.trigger("policy/rollback").success
        stack.wait_for(lambda: heard.moves[-1].checkpoint == stack.policy_id, "rolled back")
        assert not stack.trigger("policy/rollback").success
        if calm:
            break
    assert calm, f"the arm held at every swap: {heard.arm_reasons}"
