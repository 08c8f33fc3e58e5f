"""What RViz, rqt and Foxglove are told to show exists, with its type, while the stack runs."""

import ast
import importlib
import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

pytest.importorskip("rclpy")
pytest.importorskip("safedojo_ros.msg")

from geometry_msgs.msg import TransformStamped
from running_stack import RunningStack, simulated_stack
from sensor_msgs.msg import JointState
from std_msgs.msg import String

from safedojo_ros.nodes import description_node
from safedojo_ros.nodes.description_node import DescriptionNode
from safedojo_ros.nodes.lifecycle import LATCHED, NEWEST
from safedojo_ros.nodes.stack.processes import node_process
from safedojo_ros.nodes.stack.registry import DEMO, DESCRIPTION

CONFIG = Path(__file__).parents[2] / "config"
KINDS = {
    "rviz_default_plugins/RobotModel": "std_msgs/msg/String",
    "rviz_default_plugins/MarkerArray": "visualization_msgs/msg/MarkerArray",
    "rviz_default_plugins/Marker": "visualization_msgs/msg/Marker",
    "rviz_default_plugins/Image": "sensor_msgs/msg/Image",
}
MARKERS = ("visualization_msgs/msg/MarkerArray", "visualization_msgs/msg/Marker")
FIXED: dict[str, dict[str, str]] = {
    "rqt_runtime_monitor/RuntimeMonitor": {"/diagnostics": "diagnostic_msgs/msg/DiagnosticArray"},
    "rqt_robot_monitor/RobotMonitor": {"/diagnostics_agg": "diagnostic_msgs/msg/DiagnosticArray"},
    "rqt_reconfigure/Param": {},
}
"""{plugin of rqt: the topics that its own code names, with their types}."""


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningStack]:
    running = simulated_stack(tmp_path_factory.mktemp("view"))
    child = node_process(DESCRIPTION, [DEMO.parameters_file], {"use_sim_time": True})
    running.processes.children.append(child)
    running.processes.start_one(child)
    try:
        running.wait_for(lambda: len(running.listener.moves) > 3, "motion", 150.0)
        yield running
    finally:
        running.close()


def types(stack: RunningStack) -> dict[str, list[str]]:
    return dict(stack.listener.get_topic_names_and_types())


def shown_by_rviz() -> dict[str, str]:
    """{topic: type} of the .rviz file."""
    manager = yaml.safe_load((CONFIG / "safedojo.rviz").read_text())["Visualization Manager"]
    assert manager["Global Options"]["Fixed Frame"] == "base"
    shown = {}
    for display in manager["Displays"]:
        topic = display.get("Topic") or display.get("Description Topic")
        if topic:
            shown[topic["Value"]] = KINDS[display["Class"]]
    assert len(shown) == 5
    return shown


def test_every_topic_of_the_rviz_file_is_there_with_its_type(stack: RunningStack) -> None:
    shown = shown_by_rviz()
    stack.wait_for(lambda: shown.keys() <= types(stack).keys(), "every topic")
    assert {topic: types(stack)[topic] for topic in shown} == {t: [k] for t, k in shown.items()}


@pytest.mark.skipif(
    description_node.transform_message() is None,
    reason="tf2_msgs is not installed; a ROS installation has it",
)
def test_the_transforms_that_rviz_shows_are_published(stack: RunningStack) -> None:
    kind = ["tf2_msgs/msg/TFMessage"]
    stack.wait_for(lambda: {"/tf", "/tf_static"} <= types(stack).keys(), "transforms")
    assert types(stack)["/tf"] == types(stack)["/tf_static"] == kind


def ros2(*words: str) -> str:
    """What the public command line prints."""
    done = subprocess.run(
        ["ros2", *words], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.skipif(
    shutil.which("ros2") is None,
    reason="there is no ros2 command line; a ROS installation has it",
)
def test_the_ros2_command_line_finds_the_topics_and_reads_the_description(
    stack: RunningStack,
) -> None:
    options = ("--no-daemon", "--spin-time", "5")
    listed = dict(line.split(" ", 1) for line in ros2("topic", "list", "-t", *options).splitlines())
    for topic, kind in shown_by_rviz().items():
        assert listed.get(topic) == f"[{kind}]"
    assert {"/description_node", "/safety_node", "/franka_node"} <= set(
        ros2("node", "list", *options).split()
    )
    qos = ("--qos-durability", "transient_local", "--qos-reliability", "reliable")
    words = ("topic", "echo", "--once", "--full-length", "--field", "data", *qos)
    said = ros2(*words, "/robot_description", "std_msgs/msg/String")
    assert '<robot name="fr3">' in said
    assert said.count('type="revolute"') == 7


def fields_exist(stack: RunningStack, topic: str, field: str) -> bool:
    (kind,) = types(stack)[topic]
    package, _, name = kind.split("/")
    message = getattr(importlib.import_module(f"{package}.msg"), name)
    return not field or hasattr(message(), field)


def test_what_rqt_and_foxglove_plot_is_there(stack: RunningStack) -> None:
    groups = json.loads((CONFIG / "safedojo.perspective").read_text())["groups"]
    plugins = groups["pluginmanager"]["groups"]
    plot = plugins["plugin__rqt_plot__Plot__1"]["groups"]["plugin"]["keys"]
    for path in ast.literal_eval(plot["topics"]["repr"]):
        assert fields_exist(stack, *path.rsplit("/", 1)), path
    image = plugins["plugin__rqt_image_view__ImageView__1"]["groups"]["plugin"]["keys"]
    image_topic = ast.literal_eval(image["topic"]["repr"])
    assert types(stack)[image_topic] == ["sensor_msgs/msg/Image"]
    running = ast.literal_eval(groups["pluginmanager"]["keys"]["running-plugins"]["repr"])
    assert running.keys() - FIXED.keys() == {"rqt_plot/Plot", "rqt_image_view/ImageView"}
    for plugin in running.keys() & FIXED.keys():
        for topic, kind in FIXED[plugin].items():
            assert types(stack).get(topic) == [kind], plugin
    panels = json.loads((CONFIG / "foxglove.json").read_text())["configById"]
    for panel in panels.values():
        for path in panel.get("paths", []):
            assert fields_exist(stack, *path["value"].split(".")), path
        mode, layers = panel.get("imageMode", {}), panel.get("layers", {}).values()
        wanted: dict[str, tuple[str, ...]] = dict.fromkeys(panel.get("topics", {}), MARKERS)
        wanted |= {layer["topic"]: ("std_msgs/msg/String",) for layer in layers}
        for key, kind in (("imageTopic", "Image"), ("calibrationTopic", "CameraInfo")):
            if mode:
                wanted[mode[key]] = (f"sensor_msgs/msg/{kind}",)
        if "topicToRender" in panel:
            wanted[panel["topicToRender"]] = ("diagnostic_msgs/msg/DiagnosticArray",)
        for topic, kinds in wanted.items():
            assert types(stack)[topic][0] in kinds, topic


def test_the_frames_of_a_running_stack_are_one_tree(
    stack: RunningStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a message of the same fields where tf2_msgs is not installed."""
    monkeypatch.setattr(description_node, "transform_message", lambda: SimpleNamespace)
    described: list[str] = []
    moved: list[JointState] = []

    def hear(message: String) -> None:
        described.append(message.data)

    stack.listener.create_subscription(String, "robot_description", hear, LATCHED)
    stack.listener.create_subscription(JointState, "joint_states", moved.append, NEWEST)
    stack.wait_for(lambda: described and moved, "description and joints")
    sent: list[TransformStamped] = []
    publisher = SimpleNamespace(publish=lambda message: sent.extend(message.transforms))
    settings = yaml.safe_load(DEMO.parameters_file.read_text())["/**/description_node"]
    node = a_node(settings["ros__parameters"], stack, publisher)
    try:
        node.activate()
        node._on_joints(moved[-1])
    finally:
        node.shut_down()
        node.destroy_node()
    children = [transform.child_frame_id for transform in sent]
    assert len(set(children)) == len(children)
    assert {transform.header.frame_id for transform in sent} - set(children) == {"base"}
    assert {"camera_agentview", "camera_wrist", "fr3_hand_tcp"} <= set(children)
    assert 'joint name="fr3_joint7"' in described[0]


def a_node(settings: dict[str, Any], stack: RunningStack, publisher: Any) -> DescriptionNode:
    """Configured, sending its transforms to `publisher`."""
    from rclpy.parameter import Parameter

    node = DescriptionNode(
        context=stack.listener.context,
        use_global_arguments=False,
        parameter_overrides=[Parameter(n, value=v) for n, v in settings.items()],
    )
    real = node.create_publisher

    def create(kind: Any, topic: str, qos: Any, **more: Any) -> Any:
        return publisher if topic.startswith("/tf") else real(kind, topic, qos, **more)

    node.create_publisher = create  # type: ignore[method-assign,assignment]
    node.configure()
    node._busy = True
    node._ours = node._ours[:2]
    return node
