"""The described arm is the arm that moves, and its frames are one tree."""

import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import mujoco
import numpy as np
import pytest
import yaml

from safedojo_ros.core.errors import ConfigError
from safedojo_ros.core.rotation import matrix_of
from safedojo_ros.robot.description import (
    CameraFrame,
    Transform,
    arm_joints,
    transforms,
    urdf,
)
from safedojo_ros.robot.kinematics import Kinematics
from safedojo_ros.worlds.tabletop.scene import ARM_X, HOME_JOINTS, compile_scene

FOOT = (ARM_X, 0.0, 0.0)
CONFIG = Path(__file__).parents[1] / "config"


def positions(joints: Any, finger: float) -> dict[str, float]:
    named = {f"fr3_joint{i + 1}": float(v) for i, v in enumerate(joints)}
    return named | {"fr3_finger_joint1": finger, "fr3_finger_joint2": finger}


def as_matrix(transform: Transform) -> np.ndarray:
    w, *vector = transform.quaternion
    pose, length = np.eye(4), float(np.linalg.norm(vector))
    angle = 2.0 * np.arctan2(length, w)
    pose[:3, :3] = matrix_of(np.array(vector) / max(length, 1e-12) * angle)
    pose[:3, 3] = transform.place
    return pose


def in_root(found: list[Transform], frame: str) -> np.ndarray:
    above = {t.child: t for t in found}
    pose = np.eye(4)
    while frame in above:
        pose = as_matrix(above[frame]) @ pose
        frame = above[frame].parent
    return pose


def roots(pairs: Sequence[tuple[str, str]]) -> set[str]:
    """Frames without a parent; each has one parent at most."""
    children = [child for _, child in pairs]
    assert len(set(children)) == len(children)
    return {parent for parent, _ in pairs} - set(children)


@pytest.mark.parametrize("seed", range(5))
def test_the_described_hand_is_where_the_kinematics_say(seed: int) -> None:
    joints = np.random.default_rng(seed).uniform(-1.5, 1.5, 7)
    rotation, position, _ = Kinematics().forward(joints)
    pose = in_root(transforms(arm_joints("base", FOOT), positions(joints, 0.02)), "fr3_hand_tcp")
    np.testing.assert_allclose(pose[:3, 3], position + FOOT, atol=1e-9)
    np.testing.assert_allclose(pose[:3, :3], rotation, atol=1e-9)


def test_the_fingers_part_as_far_as_their_joints_say() -> None:
    found = transforms(arm_joints("base", FOOT), positions(HOME_JOINTS, 0.03))
    left, right = (in_root(found, f"fr3_{side}finger")[:3, 3] for side in ("left", "right"))
    assert np.linalg.norm(left - right) == pytest.approx(0.06)


def test_frames_and_links_are_one_tree_with_one_root() -> None:
    joints = arm_joints("base", FOOT)
    found = transforms(joints, positions(HOME_JOINTS, 0.0))
    assert roots([(t.parent, t.child) for t in found]) == {"base"}
    robot = ElementTree.fromstring(urdf(joints).split("?>", 1)[1])
    links = {link.get("name") for link in robot.iter("link")}
    hung = [
        tuple(str(joint.find(end).get("link")) for end in ("parent", "child"))  # type: ignore[union-attr]
        for joint in robot.iter("joint")
    ]
    assert roots([(parent, child) for parent, child in hung]) == {"base"}
    assert {child for _, child in hung} | {"base"} == links
    assert len(list(robot.iter("cylinder"))) > 8


def test_a_joint_that_is_not_known_yet_has_no_transform() -> None:
    joints = arm_joints("base", FOOT)
    assert {t.child for t in transforms(joints, {})} == {
        j.child for j in joints if j.kind == "fixed"
    }


def test_the_demonstration_s_camera_frames_are_those_of_its_world() -> None:
    settings = yaml.safe_load((CONFIG / "demo.yaml").read_text())
    settings = settings["/**/description_node"]["ros__parameters"]
    model = compile_scene("groceries", None)
    data = mujoco.MjData(model)
    data.qpos[:7] = HOME_JOINTS
    mujoco.mj_forward(model, data)
    arm = transforms(arm_joints("base", settings["robot_base"]), positions(HOME_JOINTS, 0.0))
    poses = np.array(settings["camera_poses"]).reshape(-1, 7)
    names = zip(settings["camera_frames"], settings["camera_parents"], poses, strict=True)
    for name, parent, pose in names:
        camera = CameraFrame(name, parent, tuple(pose[:3]), tuple(pose[3:]))
        pose = in_root([*arm, camera.transform()], name)
        number = model.camera(name.removeprefix("camera_")).id
        np.testing.assert_allclose(pose[:3, 3], data.cam_xpos[number], atol=1e-4)
        looks = data.cam_xmat[number].reshape(3, 3) @ np.diag([1.0, -1.0, -1.0])
        np.testing.assert_allclose(pose[:3, :3], looks, atol=1e-3)


def test_a_camera_s_pose_that_is_none_is_refused() -> None:
    with pytest.raises(ConfigError, match="quaternion x, y, z, w of length 1"):
        CameraFrame("camera_a", "base", (0.0, 0.0, 0.0), (0.0, 0.0, 0.0, 0.5))
