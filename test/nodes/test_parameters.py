"""Parameters that cannot be are refused at configuration, with a sentence; nothing ever moves."""

import time
from functools import partial
from typing import Any

import numpy as np
import pytest

rclpy = pytest.importorskip("rclpy")
pytest.importorskip("safedojo_ros.msg")

from rclpy.context import Context  # noqa: E402
from rclpy.lifecycle import TransitionCallbackReturn  # noqa: E402
from rclpy.parameter import Parameter  # noqa: E402
from rosgraph_msgs.msg import Clock as ClockMessage  # noqa: E402
from std_msgs.msg import String  # noqa: E402
from std_srvs.srv import Trigger  # noqa: E402

from safedojo_ros.core.types import Observation  # noqa: E402
from safedojo_ros.nodes.arm_settings import is_loopback  # noqa: E402
from safedojo_ros.nodes.camera_node import CameraNode  # noqa: E402
from safedojo_ros.nodes.franka_node import FrankaNode  # noqa: E402
from safedojo_ros.nodes.policy_node import PolicyNode  # noqa: E402
from safedojo_ros.nodes.safety_node import SafetyNode  # noqa: E402
from safedojo_ros.nodes.sim_node import SimNode  # noqa: E402


@pytest.mark.parametrize(
    ("factory", "name", "value", "reason"),
    [
        (FrankaNode, "max_lead", 9.0, "max_lead"),
        (FrankaNode, "max_lead", float("nan"), "max_lead"),
        (FrankaNode, "max_lead", "long", "max_lead"),
        (FrankaNode, "backend", "fcj", "one of sim"),
        (FrankaNode, "max_leed", 0.05, "did you mean 'max_lead'"),
        (FrankaNode, "workspace_lower", [0.0, 0.0], "workspace"),
        (FrankaNode, "workspace_lower", [1.0, 1.0, 1.0], "workspace"),
        (FrankaNode, "backend", "fci", "'robot_base' has 1 numbers, expected x, y and z"),
        (FrankaNode, "enable_deadline", -1.0, "enable_deadline"),
        (SimNode, "level", 3, "level"),
        (SimNode, "task", "make_tea", "cube_on_plate"),
        (SimNode, "split", "secret", "one of"),
        (CameraNode, "sources", ["sim"] * 3, "give one for all, or one for each"),
        (CameraNode, "sources", ["sim", "telepathy"], "write sim, topic"),
        (CameraNode, "sources", ["sim", "file:/no/such/video.mp4"], "no video file"),
        (CameraNode, "width", 64, "give both"),
        (CameraNode, "contract", "tabletopp", "did you mean 'tabletop'"),
        (SafetyNode, "mode", "hope", "gate, monitor"),
        (SafetyNode, "checkpoint", "nosuch", "nosuch"),
        (SafetyNode, "cost_limit", 2.0, "cost_limit"),
        (SafetyNode, "memory", 0, "memory"),
        (PolicyNode, "checkpoint", "nosuch", "nosuch"),
        (PolicyNode, "checkpoint", "/no/such/folder", "/no/such/folder"),
        (PolicyNode, "max_age", 99.0, "max_age"),
        (PolicyNode, "device", "gpu", "'device' is 'gpu', expected auto, cpu, cuda or cuda:N"),
        (SafetyNode, "device", "cuda:77", "device is cuda:77, but torch sees"),
    ],
)
def test_an_impossible_parameter_fails_the_configuration_and_is_named(
    context: Context, factory: Any, name: str, value: object, reason: str
) -> None:
    node = factory(context=context, parameter_overrides=[Parameter(name, value=value)])
    try:
        assert node.trigger_configure() == TransitionCallbackReturn.FAILURE
        assert reason in node.failure
        assert not node.active
    finally:
        node.shut_down()
        node.destroy_node()


@pytest.mark.parametrize(
    ("factory", "settings", "reason"),
    [
        (FrankaNode, {"backend": "fci"}, "a robot's arm does not wait for a simulated clock"),
        (
            CameraNode,
            {"sources": ["sim", "device:/dev/video0"]},
            "device:/dev/video0: what it sees",
        ),
        (SimNode, {"fci_address": "127.0.0.9"}, "an arm behind fci_address runs in real time"),
    ],
)
@pytest.mark.fault("arm", "simulated time with a real arm or camera", "is not configured")
def test_what_is_real_does_not_take_simulated_time(
    context: Context, factory: Any, settings: dict[str, Any], reason: str
) -> None:
    given = {"use_sim_time": True, **settings}
    node = factory(
        context=context, parameter_overrides=[Parameter(n, value=v) for n, v in given.items()]
    )
    try:
        assert node.trigger_configure() == TransitionCallbackReturn.FAILURE
        assert node.failure.startswith("configure failed: use_sim_time is true")
        assert reason in node.failure
    finally:
        node.shut_down()
        node.destroy_node()


@pytest.mark.parametrize(("kind", "topic"), [(String, "sim/truth"), (ClockMessage, "clock")])
@pytest.mark.fault("arm", "a simulated world beside a real robot", "is not armed; disarms")
def test_a_real_robot_is_not_armed_while_a_simulated_world_speaks(
    context: Context, kind: Any, topic: str
) -> None:
    node = FrankaNode(context=context, parameter_overrides=[])
    world = rclpy.create_node("world", context=context)
    executor = rclpy.executors.SingleThreadedExecutor(context=context)
    executor.add_node(node)
    try:
        assert node.start()
        assert node._loop is not None
        node._real = True
        for name in ("enable", "measured state", "safety state", "watchdog"):
            feed(node, name)
        assert node._on_arm(Trigger.Request(), Trigger.Response()).success
        publisher = world.create_publisher(kind, topic, 1)
        end = time.monotonic() + 20.0
        while node._loop.arm.mode != "DISARMED":
            assert time.monotonic() < end
            node._speakers.find_simulation()
            time.sleep(0.02)
        assert f"graph: a simulated world publishes /{topic}" in node._loop.arm.reason
        answer = node._on_arm(Trigger.Request(), Trigger.Response())
        assert not answer.success
        assert f"/{topic}" in answer.message
        world.destroy_publisher(publisher)
    finally:
        node.shut_down()
        executor.shutdown()
        node.destroy_node()
        world.destroy_node()


def feed(node: FrankaNode, name: str) -> None:
    """Let a source be heard now."""
    loop, now = node._loop, node.now()
    assert loop is not None
    if name == "enable":
        loop.enable(True, now)
    elif name == "measured state":
        loop.measured(np.array([0, 0, 0.2, np.pi, 0, 0, 0.04, 0.04]), now)
    else:
        loop.watchdog.feed(name, now)


@pytest.mark.parametrize(
    ("address", "own"),
    [("127.0.0.10", True), ("localhost", True), ("172.16.0.2", False), ("robot.lab", False)],
)
def test_only_an_address_of_this_machine_is_an_emulator_s(address: str, own: bool) -> None:
    assert is_loopback(address) == own


def test_a_node_keeps_the_kind_of_time_that_it_began_with(context: Context) -> None:
    node = FrankaNode(context=context)
    try:
        (result,) = node.set_parameters([Parameter("use_sim_time", value=True)])
        assert not result.successful
        assert "when the node starts" in result.reason
        assert not node.simulated
    finally:
        node.shut_down()
        node.destroy_node()


def test_a_parameter_cannot_be_changed_while_the_node_works(context: Context) -> None:
    node = FrankaNode(context=context)
    try:
        assert node.start()
        (result,) = node.set_parameters([Parameter("max_lead", value=0.05)])
        assert not result.successful
        assert "deactivate" in result.reason
        node.trigger_deactivate()
        node.trigger_cleanup()
        (result,) = node.set_parameters([Parameter("max_lead", value=0.05)])
        assert result.successful
        (result,) = node.set_parameters([Parameter("max_lead", value=5.0)])
        assert not result.successful
        assert node.start()
    finally:
        node.shut_down()
        node.destroy_node()


def test_a_node_survives_its_whole_life_cycle_twice(context: Context) -> None:
    node = SafetyNode(context=context, parameter_overrides=[Parameter("checkpoint", value="")])
    try:
        for _ in range(2):
            assert node.trigger_configure() == TransitionCallbackReturn.SUCCESS
            assert node.trigger_activate() == TransitionCallbackReturn.SUCCESS
            assert node.active
            assert node.trigger_deactivate() == TransitionCallbackReturn.SUCCESS
            assert node.trigger_cleanup() == TransitionCallbackReturn.SUCCESS
        assert node.trigger_shutdown() == TransitionCallbackReturn.SUCCESS
    finally:
        node.destroy_node()


def test_a_scene_is_remembered_until_another_begins(context: Context) -> None:
    node = SafetyNode(context=context, parameter_overrides=[Parameter("memory", value=4)])
    try:
        assert node.start()
        model = node._model
        assert model is not None
        model.seen = None  # type: ignore[attr-defined]  # black images will do
        pictures = {name: np.zeros((64, 64, 3), np.uint8) for name in ("agentview", "wrist")}
        seen = partial(node._judge._looking, model, Observation(pictures, np.zeros(8), "go"))
        memory = seen()
        assert memory is not model
        assert seen() is memory
        for begins in (
            lambda: node._on_instruction(String(data="put the red cube on the plate")),
            lambda: node._on_recover(Trigger.Request(), Trigger.Response()),
        ):
            before = seen()
            begins()
            assert seen() is not before
    finally:
        node.shut_down()
        node.destroy_node()
