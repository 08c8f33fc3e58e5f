"""Sets of other tools are read through a contract, at its sizes, its rate and its conventions."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from foreign_sets import ForeignSet, bench, jpeg, png
from test_lerobot_layout import CAMERAS, SIZE, make_episode

from safedojo_ros.core.config import from_mapping
from safedojo_ros.core.contract import Contract, Gripper, Numbers, read_contract
from safedojo_ros.core.errors import ConfigError, DatasetError
from safedojo_ros.core.rotation import POINTING_DOWN, axis_angle_of, multiply, quaternion_of
from safedojo_ros.data.images import resize_image
from safedojo_ros.data.lerobot.frames import Foreign, open_all
from safedojo_ros.data.lerobot.mapped import Windows, closing, converted, steps_to
from safedojo_ros.data.lerobot.reader import EpisodeReader
from safedojo_ros.data.lerobot.writer import EpisodeWriter
from safedojo_ros.learning.data.demonstrations import Demonstrations
from safedojo_ros.learning.imitation import new_policy
from safedojo_ros.models.images import check_side
from safedojo_ros.models.normalisation import RobotScales
from safedojo_ros.models.pi0_network import PI0Size

CONTRACT: dict[str, Any] = {
    "cameras": [
        {"name": "front"},
        {"name": "wrist", "key": "observation.images.wrist_cam"},
    ],
    "state": [{"key": "observation.state", "size": 14}],
    "action": {
        "kind": "joints",
        "parts": [{"key": "action", "size": 8}],
        "gripper": {"open": 0.08, "closed": 0.0},
    },
    "rate": 10,
    "labels": {"success": "next.success", "cost": "bumped", "cost_source": "person"},
}


def contract(**changes: Any) -> Contract:
    return from_mapping(Contract, CONTRACT | changes)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"fixed": True},
        {"encode": jpeg},
        {"channels_first": True},
        {"video": True},
        {"strings": {"language": "nobody asks for it"}},
    ],
    ids=["lists", "fixed-size lists", "jpeg", "channels first", "video", "text column"],
)
def test_a_foreign_set_is_read_at_the_sizes_of_its_contract(
    tmp_path: Path, options: dict[str, Any]
) -> None:
    made = bench((9, 6), **options)
    reader = EpisodeReader(made.write(tmp_path / "set"), contract())
    assert not reader.damage
    assert reader.cameras == ("front", "wrist")
    assert [row.length for row in reader.rows] == [9, 6]
    for number, episode in enumerate(reader):
        columns = made.columns[number]
        np.testing.assert_array_equal(episode.state, columns["observation.state"])
        np.testing.assert_array_equal(episode.actions[:, :7], columns["action"][:, :7])
        np.testing.assert_array_equal(episode.cost > 0, columns["bumped"])
        np.testing.assert_array_equal(episode.success, columns["next.success"])
        np.testing.assert_allclose(np.abs(episode.actions[:, 7]), 1.0, atol=1e-6)
        assert episode.instruction == "pick up the bolt"
        for name, key in (("front", "front"), ("wrist", "wrist_cam")):
            wanted = resize_image(made.images[number][f"observation.images.{key}"][4], 64, 64)
            seen = episode.images[name][4].astype(int)
            assert np.abs(seen - wanted).mean() < (4.0 if "video" in options else 1.0)


def test_without_a_contract_a_foreign_set_is_refused_with_what_to_do(tmp_path: Path) -> None:
    root = bench((4,)).write(tmp_path / "set")
    with pytest.raises(DatasetError, match="--contract"):
        EpisodeReader(root)


def test_labels_that_nobody_made_are_known_as_such(tmp_path: Path) -> None:
    root = bench((6, 5)).write(tmp_path / "set")
    reader = EpisodeReader(root, contract(labels={}))
    assert [row.cost_source for row in reader.rows] == ["", ""]
    labelled = EpisodeReader(root, contract())
    assert [row.cost_source for row in labelled.rows] == ["person", "person"]
    assert [row.contact_steps for row in labelled.rows] == [
        int(episode.cost.sum()) for episode in labelled
    ]


FAULTS: dict[str, tuple[dict[str, Any], str]] = {
    "no such column": (
        {"state": [{"key": "observation.stat", "size": 14}]},
        "no 'observation.stat', which the contract names; did you mean 'observation.state'",
    ),
    "another size": (
        {"state": [{"key": "observation.state", "size": 12}]},
        "'observation.state' is 'float32' [14], the contract says 12 numbers",
    ),
    "no image": (
        {"cameras": [{"name": "front", "key": "observation.state"}]},
        "expected images or video",
    ),
}


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS.keys())
def test_a_contract_that_does_not_fit_the_set_is_one_line(
    tmp_path: Path, fault: tuple[dict[str, Any], str]
) -> None:
    changes, says = fault
    root = bench((4,)).write(tmp_path / "set")
    with pytest.raises(DatasetError) as caught:
        EpisodeReader(root, contract(**changes))
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_damaged_foreign_episode_is_named_and_the_others_are_read(tmp_path: Path) -> None:
    made = bench((5, 6, 4))
    made.columns[1]["action"][2, 3] = np.nan
    reader = EpisodeReader(made.write(tmp_path / "set"), contract())
    assert [row.number for row in reader.rows] == [0, 2]
    assert len(reader.damage) == 1
    assert "'action' of episode 1 is not finite at step 2" in reader.damage[0]


def test_an_image_of_another_size_than_the_set_says_is_named(tmp_path: Path) -> None:
    made = bench((4,), encode=lambda image: jpeg(image[:100]))
    reader = EpisodeReader(made.write(tmp_path / "set"), contract())
    with pytest.raises(DatasetError, match="step 0"):
        reader.load_arrays()


def test_our_own_set_reads_alike_through_the_contract_of_our_cell(tmp_path: Path) -> None:
    with EpisodeWriter(tmp_path / "set", SIZE, CAMERAS) as writer:
        writer.add(make_episode(7, seed=3))
    ours = read_contract("tabletop")
    mine = from_mapping(Contract, ours.to_json() | {"image_size": SIZE})
    plain, mapped = EpisodeReader(tmp_path / "set")[0], EpisodeReader(tmp_path / "set", mine)[0]
    np.testing.assert_array_equal(plain.state, mapped.state)
    np.testing.assert_allclose(plain.actions[:, :6], mapped.actions[:, :6])
    np.testing.assert_array_equal(plain.cost, mapped.cost)
    assert (plain.task, plain.level, plain.seed) == (mapped.task, mapped.level, mapped.seed)
    for name in CAMERAS:
        np.testing.assert_array_equal(plain.images[name], mapped.images[name])


# ---------------------------------------------------------------- rates


@pytest.mark.parametrize(("fps", "rate"), [(10, 20), (30, 10), (15, 20), (20, 20), (50, 20)])
def test_whatever_the_rate_the_motion_of_an_episode_is_the_same(fps: int, rate: int) -> None:
    steps = np.random.default_rng(0).normal(size=(60, 6))
    windows = Windows(60, fps, rate)
    assert windows.count == 60 * rate // fps
    np.testing.assert_allclose(windows.summed(steps).sum(0), steps.sum(0), atol=1e-9)
    assert np.all(windows.seen * rate <= np.arange(windows.count) * fps + 1e-6)
    assert windows.last.max() == 59


def test_a_state_between_two_recorded_ones_is_between_them_unless_it_jumps() -> None:
    values = np.array([[0.0], [1.0], [9.0]])
    found = Windows(3, 10, 20).at_begin(values)[:, 0]
    np.testing.assert_allclose(found, [0.0, 0.5, 1.0, 1.0, 9.0, 9.0])


def test_a_set_of_30_hz_is_learned_at_10_hz(tmp_path: Path) -> None:
    made = bench((31, 30), fps=30)
    reader = EpisodeReader(made.write(tmp_path / "set"), contract())
    assert reader.fps == 10
    assert [row.length for row in reader.rows] == [10, 10]
    episode, columns = reader[1], made.columns[1]
    np.testing.assert_allclose(episode.state, columns["observation.state"][::3])
    np.testing.assert_allclose(episode.actions[:, :7], columns["action"][2::3, :7])
    bumps = columns["bumped"].reshape(10, 3).any(1)
    np.testing.assert_array_equal(episode.cost > 0, bumps)
    wanted = resize_image(made.images[1]["observation.images.front"][6], 64, 64)
    np.testing.assert_array_equal(episode.images["front"][2], wanted)


def test_an_image_is_never_newer_than_its_step(tmp_path: Path) -> None:
    made = bench((6,), fps=10)
    episode = EpisodeReader(made.write(tmp_path / "set"), contract(rate=20))[0]
    assert len(episode) == 12
    film = made.images[0]["observation.images.front"]
    for step in range(12):
        np.testing.assert_array_equal(
            episode.images["front"][step], resize_image(film[step // 2], 64, 64)
        )


# ---------------------------------------------------------------- conventions


def test_a_gripper_s_width_becomes_minus_one_open_to_one_closed() -> None:
    widths = np.array([0.08, 0.04, 0.0, 0.1])
    np.testing.assert_allclose(closing(widths, Gripper(open=0.08, closed=0.0)), [-1, 0, 1, -1])


def test_rotations_of_every_kind_become_the_same_axis_angle() -> None:
    wanted = np.array([[2.9, 0.3, -0.2], [3.0, -0.4, 0.1]])
    quaternions = np.array([quaternion_of(row) for row in wanted])[:, [1, 2, 3, 0]]
    part = Numbers("q", 4, rotation="quaternion_xyzw")
    np.testing.assert_allclose(converted(part, quaternions), wanted, atol=1e-9)
    part = Numbers("e", 3, rotation="euler_xyz")
    angles = converted(part, np.array([[np.pi, 0.0, 0.0], [0.0, 0.0, 0.5]]))
    np.testing.assert_allclose(angles[0], POINTING_DOWN, atol=1e-9)
    np.testing.assert_allclose(angles[1], [0.0, 0.0, 0.5], atol=1e-9)


def test_targets_become_steps_that_lead_to_them() -> None:
    state = np.array([[0.1, 0.2, 0.3, np.pi, 0.0, 0.0, 0.04, 0.04]])
    turned = axis_angle_of(quaternion_of(np.array([np.pi, 0.0, 0.2])), near=POINTING_DOWN)
    targets = np.concatenate([[0.11, 0.18, 0.3], turned, [1.0]])[None]
    step = steps_to(targets, state)[0]
    np.testing.assert_allclose(step[:3], [0.01, -0.02, 0.0], atol=1e-12)
    assert step[6] == 1.0
    halves = steps_to(targets, state, share=0.5)[0]
    np.testing.assert_allclose(halves[:6], step[:6] / 2)
    np.testing.assert_allclose(steps_to(np.append(state[:, :6], [[0.0]], 1), state)[0, :6], 0.0)


def droid(length: int = 20) -> ForeignSet:
    rng = np.random.default_rng(0)
    pose = np.cumsum(rng.normal(0, 0.01, (length, 6)), axis=0)
    pose[:, 3] += np.pi - 0.2
    shown = {
        f"observation.images.{name}": np.full((length, 180, 320, 3), 90, np.uint8)
        for name in ("exterior_1_left", "wrist_left")
    }
    columns = {
        "observation.state.cartesian_position": pose,
        "observation.state.gripper_position": np.zeros((length, 1)),
        "action.cartesian_position": np.roll(pose, -1, axis=0),
        "action.gripper_position": np.ones((length, 1)),
    }
    columns = {n: v if v.shape[1] > 1 else v[:, 0] for n, v in columns.items()}
    return ForeignSet([shown], [columns], fps=15)


def test_a_droid_set_gives_steps_of_the_end_effector(tmp_path: Path) -> None:
    made = droid()
    reader = EpisodeReader(made.write(tmp_path / "set"), read_contract("droid"))
    episode = reader[0]
    pose = made.columns[0]["observation.state.cartesian_position"]
    np.testing.assert_allclose(episode.state[:, :3], pose[:, :3], atol=1e-6)
    np.testing.assert_allclose(episode.state[:, 6:], 0.04, atol=1e-6)
    np.testing.assert_allclose(episode.actions[:-1, :3], np.diff(pose[:, :3], axis=0), atol=1e-6)
    np.testing.assert_array_equal(episode.actions[:, 6], 1.0)
    # the turn of a step leads from this row's orientation to the next one's
    here, there = quaternion_of(episode.state[3, 3:6]), quaternion_of(episode.state[4, 3:6])
    reached = multiply(quaternion_of(episode.actions[3, 3:6].astype(float)), here)
    assert abs(abs(reached @ there) - 1.0) < 1e-6


def libero(lengths: tuple[int, ...] = (24, 20, 26, 22), seed: int = 0) -> ForeignSet:
    keys = ("observation.images.image", "observation.images.image2")
    made = bench(lengths, keys, (128, 128), state=8, action=7, seed=seed, fps=20)
    for columns in made.columns:
        columns["action"] = np.clip(columns["action"] * 10, -1, 1)
        columns["action"][:, 6] = np.where(np.arange(len(columns["action"])) > 9, 1.0, -1.0)
    return made


def test_a_libero_set_has_physical_actions(tmp_path: Path) -> None:
    made = libero((12,))
    episode = EpisodeReader(made.write(tmp_path / "set"), read_contract("libero"))[0]
    given = made.columns[0]["action"]
    np.testing.assert_allclose(episode.actions[:, :3], 0.05 * given[:, :3], atol=1e-7)
    np.testing.assert_allclose(episode.actions[:, 3:6], 0.5 * given[:, 3:6], atol=1e-7)
    np.testing.assert_array_equal(episode.actions[:, 6], given[:, 6])


def test_png_and_jpeg_are_told_apart_by_their_bytes() -> None:
    image = np.full((8, 8, 3), 9, np.uint8)
    assert png(image)[:4] == b"\x89PNG"
    assert jpeg(image)[:2] == b"\xff\xd8"


# ---------------------------------------------------------------- what training makes of it


def test_our_own_set_of_another_rate_needs_a_contract(tmp_path: Path) -> None:
    with EpisodeWriter(tmp_path / "set", SIZE, CAMERAS, fps=10) as writer:
        writer.add(make_episode(5))
    with pytest.raises(DatasetError, match="has 10 steps a second, models act 20 times"):
        open_all([tmp_path / "set"])
    said = from_mapping(Contract, read_contract("tabletop").to_json() | {"image_size": SIZE})
    assert open_all([Foreign(tmp_path / "set", said)])[0].rows[0].length == 10


def test_images_of_another_size_than_the_model_s_are_one_line() -> None:
    with pytest.raises(DatasetError, match="images are of 64x48 pixels, the model sees 64x64"):
        check_side(torch.zeros((2, 1, 48, 64, 3), dtype=torch.uint8), 64)


def test_an_expert_is_told_no_places_where_the_state_has_no_pose(tmp_path: Path) -> None:
    root = bench((10,), size=(64, 64)).write(tmp_path / "set")
    data = Demonstrations.read([Foreign(root, contract())])
    with pytest.raises(ConfigError, match=r"do not begin with a pose, which size\.places needs"):
        new_policy(PI0Size(places=True), data)


def test_joints_are_not_bounded_like_steps_and_resting_means_holding_them(tmp_path: Path) -> None:
    far, chunk = np.array([[2.8, -1.7, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0]]), torch.randn(2, 8, 8)
    ones = np.ones((2, 14)), np.ones((2, 8))
    joints = RobotScales.from_data(*ones, contract())
    np.testing.assert_array_equal(joints.bounded(far), far)
    assert torch.equal(joints.resting(chunk), chunk[:, :1].expand(-1, 8, -1))
    steps = RobotScales.from_data(np.ones((2, 8)), np.ones((2, 7)))
    np.testing.assert_allclose(steps.bounded(far[:, :7])[0, :2], [0.05, -0.05])
    again = RobotScales.from_config(json.loads(json.dumps(joints.to_config())))
    assert again.contract == contract()
    assert "contract" not in steps.to_config()
