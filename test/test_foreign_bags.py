"""Bags of an ordinary Franka stack become episodes by a contract: no topic of ours is in them."""

import json
from pathlib import Path
from typing import Any

import bag_messages
import cv2
import numpy as np
import pytest
from test_bag_conversion import CAMERAS, MS, PERIOD, SIDE, START, TOPICS, Played

from safedojo_ros.cli.main import main
from safedojo_ros.core.config import from_mapping
from safedojo_ros.core.contract import Contract, read_contract
from safedojo_ros.core.rotation import matrix_of, quaternion_of, quaternion_of_matrix
from safedojo_ros.core.types import Episode
from safedojo_ros.data.bags.conversion import ConversionReport, all_findings, convert
from safedojo_ros.data.bags.episodes import ConversionConfig, gripper_commands
from safedojo_ros.data.bags.writer import BagWriter, Topic
from safedojo_ros.data.lerobot.reader import EpisodeReader
from safedojo_ros.data.lerobot.writer import EpisodeWriter
from safedojo_ros.robot.kinematics import Kinematics

FRANKA = {
    "ee_pose": "franka_robot_state_broadcaster/current_pose",
    "joint_states": "franka_gripper/joint_states",
    "camera/agentview/image_raw": "camera/front/color/image_raw/compressed",
    "camera/wrist/image_raw": "camera/wrist/color/image_raw/compressed",
}
KINDS = {
    "franka_robot_state_broadcaster/current_pose": "geometry_msgs/msg/PoseStamped",
    "franka_gripper/joint_states": "sensor_msgs/msg/JointState",
    "camera/front/color/image_raw/compressed": "sensor_msgs/msg/CompressedImage",
    "camera/wrist/color/image_raw/compressed": "sensor_msgs/msg/CompressedImage",
    "joint_states": "sensor_msgs/msg/JointState",
    "rosout": "std_msgs/msg/String",
}


def topics(prefix: str = "") -> dict[str, Topic]:
    return {name: bag_messages.topic(f"/{prefix}{name}", kind) for name, kind in KINDS.items()}


def contract(**changes: Any) -> Contract:
    made = read_contract("franka_realsense").to_json()
    return from_mapping(Contract, made | {"image_size": SIDE, "rate": 20} | changes)


def as_franka(played: Played) -> list[tuple[str, int, bytes]]:
    """The same episode as franka_ros2 and two RealSense cameras record it."""
    messages: list[tuple[str, int, bytes]] = [("rosout", START + MS, bag_messages.word("hello"))]
    arm = [f"fr3_joint{n}" for n in range(1, 8)]
    for topic, at, data in played.messages:
        if topic not in FRANKA:
            continue
        kind = TOPICS[topic].schema.name
        message = bag_messages.types().deserialize_cdr(data, kind)
        if kind == "sensor_msgs/msg/Image":
            picture = message.data.reshape(message.height, message.width, 3)
            coded = cv2.imencode(".png", picture[:, :, ::-1])[1].reshape(-1)
            data = bag_messages.wire(
                bag_messages.make(
                    "sensor_msgs/msg/CompressedImage",
                    header=message.header,
                    format="rgb8; png compressed bgr8",
                    data=coded,
                )
            )
        messages.append((FRANKA[topic], at, data))
        if topic == "joint_states":  # the arm's, several times as often
            for k in range(5):
                joints = bag_messages.make(
                    "sensor_msgs/msg/JointState",
                    header=bag_messages.header(at + k * 10 * MS),
                    name=arm,
                    position=np.zeros(7),
                    velocity=np.zeros(7),
                    effort=np.zeros(0),
                )
                wire = bag_messages.wire(joints)
                messages.append(("joint_states", at + k * 10 * MS + MS, wire))
    return sorted(messages, key=lambda message: message[1])


def write(folder: Path, messages: list[tuple[str, int, bytes]], prefix: str = "") -> Path:
    known, writer = topics(prefix), BagWriter(folder)
    for topic, at, data in messages:
        writer.write(known[topic], at, data)
    writer.close()
    return folder


def converted(bag: Path, out: Path, said: Contract) -> tuple[ConversionReport, list[Episode]]:
    config = ConversionConfig.of(said)
    with EpisodeWriter(out, said.image_size, CAMERAS, fps=said.rate) as writer:
        report = convert([bag], writer, config)
    return report, list(EpisodeReader(out)) if report.episodes else []


@pytest.fixture(scope="module")
def played() -> Played:
    return Played()


@pytest.fixture(scope="module")
def franka(played: Played) -> list[tuple[str, int, bytes]]:
    return as_franka(played)


def test_what_the_arm_did_stands_in_for_what_it_was_told(
    played: Played, franka: list[tuple[str, int, bytes]], tmp_path: Path
) -> None:
    bag = write(tmp_path / "bag", franka)
    report, episodes = converted(bag, tmp_path / "out", contract(instruction="stack it"))
    assert len(episodes) == 1
    episode = episodes[0]
    states = np.array(played.truth["state"])
    # a tick lies on the pose; the first one has no step before it, the last none after it
    assert len(episode) == len(states) - 2
    np.testing.assert_allclose(episode.state[:, :3], states[1:-1, :3], atol=1e-6)
    np.testing.assert_allclose(episode.actions[:, :3], np.diff(states[1:, :3], axis=0), atol=1e-6)
    for name in CAMERAS:
        np.testing.assert_array_equal(episode.images[name][0], played.truth["images"][1][name])
    assert set(np.unique(episode.actions[:, 6])) <= {-1.0, 1.0}
    assert episode.instruction == "stack it"
    assert report.unread == {"rosout": 1, "joint_states": 5 * len(states)}
    assert report.misfits == []


def test_a_namespace_in_front_of_everything_changes_nothing(
    franka: list[tuple[str, int, bytes]], tmp_path: Path
) -> None:
    said = contract(instruction="stack it")
    plain = converted(write(tmp_path / "a", franka), tmp_path / "one", said)[1]
    bag = write(tmp_path / "b", franka, "left/")
    report, episodes = converted(bag, tmp_path / "two", said)
    assert report.namespace == "left"
    np.testing.assert_array_equal(episodes[0].actions, plain[0].actions)


def test_a_camera_with_a_clock_of_its_own_is_mapped_and_named(
    franka: list[tuple[str, int, bytes]], tmp_path: Path
) -> None:
    topic, kind = KINDS_OF_WRIST
    moved = []
    for name, at, data in franka:
        if name == topic:
            message = bag_messages.types().deserialize_cdr(data, kind)
            stamp = message.header.stamp.sec * 10**9 + message.header.stamp.nanosec
            message.header = bag_messages.header(stamp - START + 7)  # seconds since it was started
            data = bag_messages.wire(message)
        moved.append((name, at, data))
    said = contract(instruction="stack it")
    plain = converted(write(tmp_path / "a", franka), tmp_path / "one", said)[1]
    report, episodes = converted(write(tmp_path / "b", moved), tmp_path / "two", said)
    assert [len(e) for e in episodes] == [len(e) for e in plain]
    lines = [str(finding) for finding in all_findings(report)]
    assert len(lines) == 1
    assert topic in lines[0]
    assert "its clock is" in lines[0]


KINDS_OF_WRIST = (FRANKA["camera/wrist/image_raw"], "sensor_msgs/msg/CompressedImage")


def test_without_poses_they_are_computed_from_the_arm_s_joints(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    start = np.array([0.0, -0.3, 0.0, -2.2, 0.0, 2.0, 0.8])
    path = start + np.cumsum(rng.normal(0, 0.01, (20, 7)), axis=0)
    names = [f"fr3_joint{n}" for n in range(1, 8)] + ["fr3_finger_joint1", "fr3_finger_joint2"]
    messages = []
    for step, joints in enumerate(path):
        now = START + step * PERIOD
        message = bag_messages.make(
            "sensor_msgs/msg/JointState",
            header=bag_messages.header(now),
            name=names,
            position=np.concatenate([joints, [0.04, 0.04]]),
            velocity=np.zeros(9),
            effort=np.zeros(0),
        )
        messages.append(("joint_states", now + MS, bag_messages.wire(message)))
        picture = np.full((SIDE, SIDE, 3), step, np.uint8)
        coded = cv2.imencode(".png", picture)[1].reshape(-1)
        for name in CAMERAS:
            image = bag_messages.make(
                "sensor_msgs/msg/CompressedImage",
                header=bag_messages.header(now),
                format="png",
                data=coded,
            )
            topic = FRANKA[f"camera/{name}/image_raw"]
            messages.append((topic, now + 2 * MS, bag_messages.wire(image)))
    wanted = read_contract("franka_realsense").to_json()["topics"]
    wanted |= {"pose": "", "arm": "joint_states", "joints": "joint_states"}
    said = contract(instruction="go", topics=wanted)
    _, episodes = converted(write(tmp_path / "bag", messages), tmp_path / "out", said)
    assert len(episodes) == 1
    kinematics = Kinematics()
    places = np.array([kinematics.forward(joints)[1].copy() for joints in path])
    np.testing.assert_allclose(episodes[0].state[:, :3], places[1:-1], atol=1e-6)
    np.testing.assert_allclose(episodes[0].actions[:, :3], np.diff(places[1:], axis=0), atol=1e-6)


def test_a_gripper_is_commanded_from_where_its_fingers_begin_to_move() -> None:
    widths = np.array([0.08, 0.08, 0.05, 0.02, 0.02, 0.02, 0.06, 0.08])
    assert gripper_commands(widths) == [-1, -1, 1, 1, 1, 1, -1, -1]
    assert gripper_commands(np.array([0.01, 0.01, 0.08]))[:2] == [1, 1]


@pytest.mark.parametrize("seed", range(5))
def test_a_matrix_and_its_quaternion_are_one_rotation(seed: int) -> None:
    axis_angle = np.random.default_rng(seed).normal(size=3)
    found = quaternion_of_matrix(matrix_of(axis_angle))
    assert abs(found @ quaternion_of(axis_angle)) == pytest.approx(1.0)


def test_the_command_reads_the_contract_and_refuses_options_that_it_says(
    franka: list[tuple[str, int, bytes]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bag = write(tmp_path / "bag", franka)
    (tmp_path / "mine.yaml").write_text(json.dumps(contract(instruction="go").to_json()))
    options = ["--contract", str(tmp_path / "mine.yaml"), "--out", str(tmp_path / "out")]
    assert main(["bag-to-dataset", str(bag), *options]) == 0
    assert "not read: joint_states" in capsys.readouterr().out
    assert main(["bag-to-dataset", str(bag), *options, "--cameras", "front"]) == 2
    assert "--cameras is what --contract says" in capsys.readouterr().err
