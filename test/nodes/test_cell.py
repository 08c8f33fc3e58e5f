"""The nodes read the contract of their cell: its topics, its words, and what does not fit it."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

rclpy = pytest.importorskip("rclpy")
pytest.importorskip("safedojo_ros.msg")

from geometry_msgs.msg import PoseStamped  # noqa: E402
from policy_server import StandInServer  # noqa: E402
from rclpy.context import Context  # noqa: E402
from rclpy.lifecycle import TransitionCallbackReturn  # noqa: E402
from rclpy.parameter import Parameter  # noqa: E402
from sensor_msgs.msg import JointState  # noqa: E402

from safedojo_ros.core.contract import Contract, read_contract  # noqa: E402
from safedojo_ros.core.rotation import POINTING_DOWN  # noqa: E402
from safedojo_ros.nodes.camera_node import CameraNode  # noqa: E402
from safedojo_ros.nodes.conversion import image_from_array, to_stamp  # noqa: E402
from safedojo_ros.nodes.inputs import ObservationInputs  # noqa: E402
from safedojo_ros.nodes.policy_node import PolicyNode  # noqa: E402
from safedojo_ros.nodes.safety_node import SafetyNode  # noqa: E402
from safedojo_ros.nodes.view_node import ViewNode  # noqa: E402
from safedojo_ros.robot.kinematics import Kinematics  # noqa: E402
from safedojo_ros.robot.observation_window import ObservationWindow, WindowConfig  # noqa: E402

HOME = np.array([0.0, -np.pi / 4, 0.0, -3 * np.pi / 4, 0.0, np.pi / 2, np.pi / 4])
ONE_CAMERA = """\
cameras:
  - {name: front, topic: camera/front/color/image_raw}
state:
  - {key: observation.state, size: 8}
action:
  gripper: {open: -1, closed: 1}
  parts:
    - {key: action, size: 7}
"""


def contract_of(folder: Path, more: str = "", base: str = ONE_CAMERA) -> str:
    file = folder / "cell.yaml"
    file.write_text(base + more)
    return str(file)


def two_cameras() -> str:
    """The same of a cell with the cameras of the checkpoints that ship."""
    front = "  - {name: front, topic: camera/front/color/image_raw}\n"
    return ONE_CAMERA.replace(front, "  - {name: agentview}\n  - {name: wrist}\n")


class Heard:
    """Inputs of a contract without ROS: {topic: what takes its messages}."""

    def __init__(self, contract: Contract, cameras: tuple[str, ...] = ("front",)) -> None:
        self.topics: dict[str, Any] = {}

        def subscribe(kind: Any, topic: str, take: Any, qos: Any) -> None:
            self.topics[topic] = take

        node: Any = SimpleNamespace(
            create_subscription=subscribe,
            simulated=False,
            heard_at=lambda stamp: None,
            now=lambda: 10**9,
        )
        self.inputs = ObservationInputs(node, WindowConfig(cameras, 64), contract)

    def feed_camera(self, name: str) -> None:
        image = np.arange(64 * 64 * 3).astype(np.uint8).reshape(64, 64, 3)
        self.topics[f"camera/{name}/image_raw"](image_from_array(image, 10**9, name))


def joints(names: tuple[str, ...], positions: Any) -> JointState:
    message = JointState(name=list(names), position=[float(p) for p in positions])
    message.header.stamp = to_stamp(10**9)
    return message


def test_arm_fingers_and_words_come_from_the_topics_that_the_contract_names() -> None:
    contract = read_contract("franka_realsense")
    heard = Heard(contract, contract.camera_names)
    assert set(heard.topics) == {
        "camera/agentview/image_raw", "camera/wrist/image_raw", "instruction",
        "franka_robot_state_broadcaster/current_pose", "franka_gripper/joint_states",
    }  # fmt: skip
    heard.topics["instruction"](SimpleNamespace(data="put the bolt into the box"))
    for name in contract.camera_names:
        heard.feed_camera(name)
    heard.topics[contract.topics.joints](joints(contract.topics.fingers, (0.02, 0.02)))
    pose = PoseStamped()
    pose.header.stamp = to_stamp(10**9)
    pose.pose.position.x, pose.pose.orientation.x = 0.4, 1.0
    pose.pose.orientation.w = 0.0
    heard.topics[contract.topics.pose](pose)
    seen = heard.inputs.window.newest(10**9)
    assert seen.state == pytest.approx([0.4, 0, 0, *POINTING_DOWN, 0.02, 0.02], abs=1e-6)
    assert seen.instruction == "put the bolt into the box"


def test_without_a_pose_it_is_computed_from_the_joints_that_the_contract_names(
    tmp_path: Path,
) -> None:
    names = [f"panda_joint{n}" for n in range(1, 8)]
    fingers = ["left", "right"]
    more = f"instruction: tidy up\ntopics: {{pose: '', arm: arm/states, arm_joints: {names}, "
    contract = read_contract(contract_of(tmp_path, more + f"joints: hand, fingers: {fingers}}}\n"))
    heard = Heard(contract)
    assert set(heard.topics) == {"camera/front/image_raw", "arm/states", "hand"}
    heard.feed_camera("front")
    heard.topics["hand"](joints(tuple(fingers), (0.03, 0.01)))
    heard.topics["arm/states"](joints(tuple(names), HOME))
    seen = heard.inputs.window.newest(10**9)
    _, place, _ = Kinematics().forward(HOME)
    assert seen.state[:3] == pytest.approx(place, abs=1e-6)
    assert seen.state[6:] == pytest.approx([0.03, 0.01])
    assert seen.joints == pytest.approx(HOME)
    assert seen.instruction == "tidy up"


def configured(context: Context, factory: Any, **settings: Any) -> Any:
    overrides = [Parameter(name, value=value) for name, value in settings.items()]
    node = factory(context=context, parameter_overrides=overrides)
    node.result = node.trigger_configure()
    return node


def gone(node: Any) -> None:
    node.shut_down()
    node.destroy_node()


def refusal(*given: Any, **settings: Any) -> str:
    """The one line in which a node says why it does not begin; see `configured`."""
    node = configured(*given, **settings)
    try:
        assert node.result == TransitionCallbackReturn.FAILURE
        assert "\n" not in node.failure
        return str(node.failure)
    finally:
        gone(node)


@pytest.mark.parametrize(
    ("more", "why"),
    [
        ("rate: 15\n", "the rate is 15, the gate takes 20"),
        ("frame: world\n", "the frame is world, the gate takes base"),
        ("rate: fast\n", "cell.yaml:9: 'rate' is 'fast', expected int"),
    ],
)
@pytest.mark.parametrize("factory", [PolicyNode, SafetyNode])
def test_a_cell_that_the_gate_cannot_serve_is_refused_in_one_line(
    context: Context, tmp_path: Path, factory: Any, more: str, why: str
) -> None:
    assert why in refusal(context, factory, contract=contract_of(tmp_path, more))


@pytest.mark.parametrize(
    ("factory", "settings"),
    [(PolicyNode, {}), (SafetyNode, {}), (ViewNode, {"success": "shipped"})],
)
def test_a_checkpoint_that_looks_at_other_cameras_than_the_cell_has_is_refused_in_one_line(
    context: Context, tmp_path: Path, factory: Any, settings: dict[str, str]
) -> None:
    assert "needs cameras ['agentview', 'wrist'], this robot has ['front']" in refusal(
        context, factory, contract=contract_of(tmp_path), **settings
    )


def test_cameras_are_relayed_from_the_drivers_topics_of_the_contract(context: Context) -> None:
    node = configured(context, CameraNode, contract="franka_realsense")
    try:
        assert node.result == TransitionCallbackReturn.SUCCESS, node.failure
        node.activate()
        assert [c.subscriptions[0].topic_name for c in node._cameras] == [
            "/camera/front/color/image_raw", "/camera/wrist/color/image_raw",
        ]  # fmt: skip
        assert {c.name for c in node._cameras} == {"agentview", "wrist"}
    finally:
        gone(node)


def test_a_contract_without_a_driver_s_topic_says_so(context: Context) -> None:
    node = configured(context, CameraNode, contract="tabletop")
    try:
        assert "names no topic of a driver for camera 'agentview'" in node.failure
    finally:
        gone(node)


@pytest.mark.parametrize(
    ("rule", "said", "expected"),
    [
        ("letterbox", "", "letterbox"),
        ("crop", "", "crop"),
        ("crop", "&resize=letterbox", "letterbox"),
    ],
)
def test_a_policy_server_is_sent_images_by_the_rule_of_the_contract_unless_its_name_says_one(
    context: Context, tmp_path: Path, rule: str, said: str, expected: str
) -> None:
    cell = contract_of(tmp_path, f"resize: {rule}\n", two_cameras())
    with StandInServer() as server:
        words = {"contract": cell, "checkpoint": f"{server.name}?image_size=64{said}"}
        node = configured(context, PolicyNode, **words)
        try:
            assert node.result == TransitionCallbackReturn.SUCCESS, node.failure
            node.activate()
            assert node._inputs.window.config.resize == expected
            node.deactivate()
        finally:
            gone(node)


def test_a_head_without_the_costs_that_the_cell_expects_is_refused_in_one_line(
    context: Context, tmp_path: Path
) -> None:
    cell = contract_of(tmp_path, "costs: [near_person]\n", two_cameras())
    assert "predicts contact, the contract of this cell expects contact, near" in refusal(
        context, SafetyNode, contract=cell
    )


@pytest.mark.parametrize(("rule", "sides"), [("letterbox", 0), ("crop", 200)])
def test_a_wide_image_is_made_square_by_the_policy_s_own_rule(rule: str, sides: int) -> None:
    window = ObservationWindow(WindowConfig(("front",), 32, resize=rule))
    image = np.full((48, 64, 3), 200, np.uint8)
    image[:, :8] = image[:, 56:] = 100
    window.add_image("front", image, 10**9, 10**9)
    window.add_state(np.array([0, 0, 0.2, np.pi, 0, 0, 0.04, 0.04]), 10**9)
    window.set_instruction("go")
    seen = window.at(10**9).images["front"]
    assert seen[0, 16, 0] == sides
    assert (seen[16, 0, 0] == 100) == (rule == "letterbox")
    assert window.reshapes
