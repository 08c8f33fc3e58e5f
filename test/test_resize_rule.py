"""One resize rule, from the contract: every place makes the same pixels of a wide image."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from foreign_sets import bench

from safedojo_ros.checkpoints.manifest import Manifest
from safedojo_ros.checkpoints.swap.hot_swap import check_rule, fits_robot
from safedojo_ros.core.config import from_mapping
from safedojo_ros.core.contract import CameraSource, Contract, read_contract
from safedojo_ros.core.errors import CheckpointError, ConfigError, DatasetError
from safedojo_ros.core.types import RESIZES, Episode
from safedojo_ros.data.bags.episodes import ConversionConfig
from safedojo_ros.data.bags.takes import TakeSplitter
from safedojo_ros.data.images import fit_image
from safedojo_ros.data.lerobot.frames import Foreign, load_frames, open_all
from safedojo_ros.data.lerobot.reader import EpisodeReader
from safedojo_ros.data.lerobot.writer import EpisodeWriter
from safedojo_ros.learning.build import Imagination, build_practice
from safedojo_ros.learning.data.demonstrations import Demonstrations
from safedojo_ros.learning.imitation import check_start
from safedojo_ros.learning.rl.methods import METHODS
from safedojo_ros.learning.rl.practice import PracticeConfig
from safedojo_ros.learning.rl.starts import recorded_keyframes
from safedojo_ros.models.loading import load_policy
from safedojo_ros.models.normalisation import RobotScales
from safedojo_ros.models.pi0_policy import tiny_policy
from safedojo_ros.robot.observation_window import ObservationWindow, WindowConfig

SIDE, STATE = 32, np.array([0, 0, 0.2, np.pi, 0, 0, 0.04, 0.04])


def contract(rule: str) -> Contract:
    return from_mapping(
        Contract,
        {
            "cameras": [{"name": "front"}],
            "state": [{"key": "observation.state", "size": 14}],
            "action": {"kind": "joints", "parts": [{"key": "action", "size": 8}]},
            "rate": 10,
            "image_size": SIDE,
            "resize": rule,
        },
    )


def own_set(root: Path, rule: str) -> Path:
    """A set of this package with images of random pixels."""
    rng = np.random.default_rng(0)
    with EpisodeWriter(root, SIDE, ("front",), resize=rule) as writer:
        images = rng.integers(0, 255, (8, SIDE, SIDE, 3)).astype(np.uint8)
        writer.add(
            Episode(
                {"front": images},
                np.tile(STATE, (8, 1)).astype(np.float32),
                np.zeros((8, 7), np.float32),
                np.zeros(8, bool),
                np.zeros(8, bool),
                np.zeros(8, np.float32),
                "go",
                task="bolts",
                level=0,
                seed=0,
                source="robot",
            )
        )
    return root


@pytest.mark.parametrize("rule", RESIZES)
@pytest.mark.parametrize("size", [(480, 640), (60, 44), (20, 27)])
def test_training_bags_and_nodes_see_the_same_pixels(
    tmp_path: Path, rule: str, size: tuple[int, int]
) -> None:
    image = np.random.default_rng(1).integers(0, 255, (*size, 3)).astype(np.uint8)
    wanted = fit_image(image, SIDE, SIDE, rule)
    made = bench([8], cameras=["observation.images.front"], size=size)
    made.images[0]["observation.images.front"] = np.repeat(image[None], 8, axis=0)
    (episode,) = EpisodeReader(made.write(tmp_path / "set"), contract(rule))
    np.testing.assert_array_equal(episode.images["front"][3], wanted)

    config = ConversionConfig.of(contract(rule))
    splitter = TakeSplitter(
        (CameraSource("front"),), config.image_size, config.max_gap, resize=config.resize
    )
    height, width = size
    message = SimpleNamespace(
        data=image.tobytes(), height=height, width=width, step=3 * width, encoding="rgb8"
    )
    splitter._picture_reader("front")(message, 10**9)
    np.testing.assert_array_equal(splitter._take.pictures["front"].values[0], wanted)

    window = ObservationWindow(WindowConfig(("front",), SIDE, resize=rule))
    window.add_image("front", image, 10**9, 10**9)
    window.add_state(STATE, 10**9)
    window.set_instruction("go")
    np.testing.assert_array_equal(window.at(10**9).images["front"], wanted)


def test_a_letterbox_of_any_shape_keeps_the_whole_image() -> None:
    tall = np.full((64, 48, 3), 200, np.uint8)
    boxed = fit_image(tall, 40, 32, "letterbox")
    assert boxed.shape == (32, 40, 3)
    assert (boxed[:, 8:32] == 200).all()
    assert not boxed[:, :8].any()
    assert not boxed[:, 32:].any()


@pytest.mark.parametrize("rule", RESIZES)
def test_a_set_of_ours_says_by_which_rule_its_images_were_made(tmp_path: Path, rule: str) -> None:
    own_set(tmp_path / "set", rule)
    frames = load_frames(open_all([tmp_path / "set"]))
    scales = RobotScales.from_data(frames.state, frames.actions, frames.contract, frames.resize)
    assert frames.resize == scales.resize == rule
    assert RobotScales.from_config(scales.to_config()).resize == rule


def test_sets_of_different_rules_are_not_mixed(tmp_path: Path) -> None:
    crop, boxed = own_set(tmp_path / "a", "crop"), own_set(tmp_path / "b", "letterbox")
    with pytest.raises(DatasetError, match="different rules"):
        open_all([crop, boxed])
    with pytest.raises(DatasetError, match=r"has another 'observation\.images\.front'"):
        own_set(boxed, "crop")
    tabletop = read_contract("tabletop").to_json() | {"cameras": [{"name": "front"}]}
    through = Foreign(boxed, from_mapping(Contract, tabletop))
    with pytest.raises(DatasetError, match="by 'letterbox', the contract says 'crop'"):
        open_all([through])


def test_practice_refuses_a_set_of_another_rule_than_its_models_in_one_line(
    tmp_path: Path,
) -> None:
    boxed = own_set(tmp_path / "set", "letterbox")
    model = SimpleNamespace(resize="crop", checkpoint_id="w1", cameras=("front",))
    with pytest.raises(DatasetError, match="were made to fit by 'letterbox', those of world") as e:
        recorded_keyframes(model, [boxed], [0], [])  # type: ignore[arg-type]
    assert "\n" not in str(e.value)
    data = Demonstrations.read([boxed])
    policy = tiny_policy(0, ("go",))
    policy.cameras = ("front",)
    with pytest.raises(ConfigError, match="made to fit by 'crop', those of the data were by 'let"):
        check_start(policy, policy.size, data)
    policy.scales = replace(policy.scales, resize="letterbox")
    check_start(policy, policy.size, data)


def test_practice_refuses_a_policy_of_another_rule_than_its_world_model_in_one_line(
    tmp_path: Path,
) -> None:
    policy = tiny_policy()
    policy.scales = replace(policy.scales, resize="letterbox")
    world: Any = SimpleNamespace(resize="crop", checkpoint_id="w1")
    models = Imagination(world, None, None, [])  # type: ignore[arg-type]
    with pytest.raises(CheckpointError, match="by 'letterbox', world model w1 by 'crop'") as e:
        build_practice(
            PracticeConfig(), METHODS["safedojo"], policy, [], tmp_path, imagination=models
        )
    assert "\n" not in str(e.value)


def test_a_rule_that_is_none_is_one_line(tmp_path: Path) -> None:
    info = own_set(tmp_path / "set", "letterbox") / "meta/info.json"
    info.write_text(info.read_text().replace("letterbox", "stretch"))
    with pytest.raises(DatasetError, match="resize 'stretch', expected crop or letterbox"):
        EpisodeReader(tmp_path / "set")


def test_a_checkpoint_keeps_its_rule_and_a_cell_of_another_refuses_it(tmp_path: Path) -> None:
    policy = tiny_policy()
    policy.scales = RobotScales(policy.scales.state, policy.scales.action, resize="letterbox")
    policy.save(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["resize"] == "letterbox"
    loaded = load_policy(tmp_path)
    assert loaded.spec()["resize"] == "letterbox"
    scales = loaded.scales.to_json()
    manifest = Manifest("policy", "p1", {"model.safetensors": {}}, loaded.spec(), scales)
    fits_robot(loaded.cameras, resize="letterbox")(manifest)
    with pytest.raises(CheckpointError, match="made to fit by 'letterbox', the contract of this"):
        fits_robot(loaded.cameras, resize="crop")(manifest)
    check_rule(Manifest("policy", "p2", {}, {}), "crop")  # from before the rule was recorded
