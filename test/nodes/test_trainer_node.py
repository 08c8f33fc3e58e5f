"""The trainer node over real DDS, with a pipeline that only speaks the protocol."""

import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("rclpy")
pytest.importorskip("safedojo_ros.action")
pytest.importorskip("torch")

import rclpy
from action_msgs.msg import GoalStatus
from rclpy.action import ActionClient
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.parameter import Parameter

from safedojo_ros.action import Train
from safedojo_ros.checkpoints.store.store import CheckpointStore
from safedojo_ros.msg import TrainingProgress
from safedojo_ros.nodes.lifecycle import LATCHED
from safedojo_ros.nodes.stack.dds import DomainLease
from safedojo_ros.nodes.stack.ros_environment import prepare_environment
from safedojo_ros.nodes.trainer_node import TrainerNode

FAKE = [sys.executable, str(Path(__file__).parents[1] / "fake_pipeline.py")]
PATIENCE = 60.0


class Trainer:
    """A trainer node and a client of its action, in one executor thread."""

    def __init__(self, context: Context, folder: Path) -> None:
        self.folder = folder
        parameters: dict[str, Any] = {"root": str(folder / "runs"), "data_root": str(folder)}
        parameters |= {
            "command": FAKE,
            "store": str(folder / "store"),
            "idle": False,
            "grace": 20.0,
        }
        self.node = TrainerNode(
            context=context,
            parameter_overrides=[Parameter(name, value=v) for name, v in parameters.items()],
        )
        assert self.node.start(), self.node.failure
        self.person = Node("person", context=context, use_global_arguments=False)
        self.client = ActionClient(self.person, Train, "train")
        self.feedback: list[Any] = []
        self.told: list[TrainingProgress] = []
        self.person.create_subscription(
            TrainingProgress, "trainer/progress", self.told.append, LATCHED
        )
        self.executor = SingleThreadedExecutor(context=context)
        for node in (self.node, self.person):
            self.executor.add_node(node)
        self.thread = threading.Thread(target=self.executor.spin, daemon=True)
        self.thread.start()
        assert self.client.wait_for_server(timeout_sec=PATIENCE)
        self.wait(lambda: self.told)  # its topic is found on its own, maybe later

    def wait(self, what: Callable[[], Any]) -> Any:
        end = time.monotonic() + PATIENCE
        while not (value := what()):
            assert time.monotonic() < end, f"{[m.state for m in self.told]} {self.feedback[-1:]}"
            time.sleep(0.01)
        return value

    def send(self, **goal: Any) -> Any:
        future = self.client.send_goal_async(
            Train.Goal(**goal), feedback_callback=lambda m: self.feedback.append(m.feedback)
        )
        self.wait(future.done)
        return future.result()

    def result(self, handle: Any) -> tuple[int, Train.Result]:
        future = handle.get_result_async()
        self.wait(future.done)
        return future.result().status, future.result().result

    def close(self) -> None:
        self.executor.shutdown(timeout_sec=5.0)
        self.thread.join(5.0)
        self.node.shut_down()
        self.client.destroy()
        self.node.destroy_node()
        self.person.destroy_node()


@pytest.fixture
def trainer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Trainer]:
    lease = DomainLease()
    monkeypatch.setenv("ROS_DOMAIN_ID", str(lease.number))
    prepare_environment(only_this_machine=True)
    context = Context()
    rclpy.init(context=context)
    trainer = Trainer(context, tmp_path)
    yield trainer
    trainer.close()
    rclpy.try_shutdown(context=context)
    lease.release()


def publish(folder: Path) -> str:
    """A real, small checkpoint in the store that the trainer looks into."""
    from safedojo_ros.models.pi0_policy import tiny_policy

    model = tiny_policy(0, ["put it there"])
    (folder / "model").mkdir()
    model.save(folder / "model")
    store = CheckpointStore(folder / "store")
    spec, scales = model.spec(), model.scales.to_json()
    return store.publish("policy", folder / "model", spec=spec, normalisation=scales).id


def test_a_goal_gives_feedback_and_ends_with_a_checkpoint_that_is_really_there(
    trainer: Trainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    identity = publish(trainer.folder)
    monkeypatch.setenv("FAKE_PUBLISHED", identity)
    monkeypatch.setenv("FAKE_WAIT_AT", "5")
    handle = trainer.send(preset="smoke", base="latest", publish=True)
    assert handle.accepted
    trainer.wait(lambda: trainer.feedback and trainer.feedback[-1].step == 5)
    (run,) = (trainer.folder / "runs").iterdir()
    (run / "go").touch()
    status, result = trainer.result(handle)
    assert status == GoalStatus.STATUS_SUCCEEDED
    assert (result.published, result.reason) == (identity, "all gates passed")
    last = trainer.feedback[-1]
    assert (last.stage, last.total, list(last.metric_names)) == ("practice", 6, ["loss"])
    told = trainer.wait(lambda: [m for m in trainer.told if m.state == m.PUBLISHED])
    assert told[-1].published == identity
    assert trainer.told[0].state == TrainingProgress.IDLE


def test_a_pipeline_that_names_a_checkpoint_that_is_not_there_is_not_believed(
    trainer: Trainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_PUBLISHED", "20260101T000000Z-00000000")
    status, result = trainer.result(trainer.send(preset="smoke", publish=True))
    assert status == GoalStatus.STATUS_ABORTED
    assert result.published == ""
    assert "names 20260101T000000Z-00000000 as published, but" in result.reason


def test_a_gate_that_does_not_hold_ends_the_goal_with_its_reason(
    trainer: Trainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_CODE", "3")
    monkeypatch.setenv("FAKE_REASON", "the world model is worse than copying")
    status, result = trainer.result(trainer.send(preset="smoke", publish=True))
    assert status == GoalStatus.STATUS_ABORTED
    assert (result.published, result.reason) == ("", "the world model is worse than copying")
    trainer.wait(lambda: trainer.told[-1].state == TrainingProgress.REFUSED)


def test_cancel_saves_and_the_same_goal_goes_on_from_there(
    trainer: Trainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_WAIT_AT", "3")
    handle = trainer.send(preset="smoke")
    trainer.wait(lambda: trainer.feedback and trainer.feedback[-1].step == 3)
    assert not trainer.send(preset="smoke").accepted, "one run at a time"
    trainer.wait(handle.cancel_goal_async().done)
    status, result = trainer.result(handle)
    assert status == GoalStatus.STATUS_CANCELED
    assert "the same goal resumes it" in result.reason
    monkeypatch.delenv("FAKE_WAIT_AT")
    status, result = trainer.result(trainer.send(preset="smoke"))
    assert status == GoalStatus.STATUS_SUCCEEDED
    (run,) = (trainer.folder / "runs").iterdir()
    assert len((run / "pipeline/progress.jsonl").read_text().splitlines()) == 6


@pytest.mark.parametrize(
    "goal", [{"preset": "huge"}, {"data": ["../../etc"]}, {"base": "nosuch"}, {"base": "/etc"}]
)
def test_an_impossible_goal_is_rejected_and_starts_nothing(
    trainer: Trainer, goal: dict[str, Any]
) -> None:
    assert not trainer.send(**goal).accepted
    assert list((trainer.folder / "runs").iterdir()) == []


def test_deactivating_ends_the_goal_and_activating_goes_on_with_the_run(
    trainer: Trainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_WAIT_AT", "3")
    handle = trainer.send(preset="smoke")
    trainer.wait(lambda: trainer.feedback and trainer.feedback[-1].step == 3)
    done: list[bool] = []
    trainer.executor.create_task(lambda: done.append(bool(trainer.node.trigger_deactivate())))
    status, result = trainer.result(handle)
    assert status == GoalStatus.STATUS_ABORTED
    assert "goes on" in result.reason
    monkeypatch.delenv("FAKE_WAIT_AT")
    trainer.executor.create_task(lambda: done.append(bool(trainer.node.trigger_activate())))
    told = trainer.wait(lambda: [m for m in trainer.told if m.state == m.FINISHED])
    assert told[0].step == 6
