"""Who says which steps have contact is kept, and no safety head learns from what a head said."""

import json
from dataclasses import replace
from pathlib import Path

import bag_messages
import cv2
import numpy as np
import pyarrow.parquet as pq
import pytest
from test_bag_conversion import CAMERAS, MS, SIDE, START, Played
from test_foreign_bags import KINDS, as_franka, contract
from test_lerobot_layout import SIZE, make_episode

from safedojo_ros.cli.main import main
from safedojo_ros.core.contract import read_contract
from safedojo_ros.core.errors import DatasetError
from safedojo_ros.data.bags.conversion import all_findings, convert
from safedojo_ros.data.bags.episodes import ConversionConfig
from safedojo_ros.data.bags.free_motion import FreeMotion, false_alarms, free_wrenches
from safedojo_ros.data.bags.writer import BagWriter
from safedojo_ros.data.lerobot.layout import EPISODES_PATH
from safedojo_ros.data.lerobot.reader import EpisodeReader
from safedojo_ros.data.lerobot.writer import EpisodeWriter
from safedojo_ros.learning.data.contacts import check_labels

WRENCH = read_contract("franka_realsense").topics.wrench


def recorded(root: Path, *sources: str) -> Path:
    with EpisodeWriter(root, SIZE, CAMERAS) as writer:
        for number, source in enumerate(sources):
            writer.add(replace(make_episode(4, seed=number), cost_source=source))
    return root


def test_the_source_of_a_cost_comes_back(tmp_path: Path) -> None:
    root = recorded(tmp_path / "set", "physics", "wrench", "person", "predicted", "")
    reader = EpisodeReader(root)
    wanted = ["physics", "wrench", "person", "predicted", ""]
    assert [row.cost_source for row in reader.rows] == wanted
    assert [episode.cost_source for episode in reader] == wanted


def test_a_set_from_before_has_costs_of_the_simulator(tmp_path: Path) -> None:
    root = recorded(tmp_path / "set", "person")
    path = root / EPISODES_PATH.format(chunk_index=0, file_index=0)
    pq.write_table(pq.read_table(path).drop_columns("cost_source"), path)
    assert EpisodeReader(root).rows[0].cost_source == "physics"


@pytest.mark.parametrize(
    ("source", "says"),
    [("predicted", "a safety head's own prediction in 1 of 2"), ("", "not known in 1 of 2")],
)
def test_a_head_learns_neither_from_its_own_kind_nor_from_nothing(
    tmp_path: Path, source: str, says: str
) -> None:
    check_labels([recorded(tmp_path / "good", "physics", "wrench")])
    with pytest.raises(DatasetError, match=says):
        check_labels([recorded(tmp_path / "bad", "physics", source)])


def test_contact_is_what_leaves_free_motion() -> None:
    rng = np.random.default_rng(0)
    free = FreeMotion.of(np.array([0.0, 0.0, -3.0, 0.0, 0.0, 0.0]) + rng.normal(size=(500, 6)))
    again = np.array([0.0, 0.0, -3.0, 0.0, 0.0, 0.0]) + 0.9 * rng.normal(size=(500, 6))
    assert free.contact(again).mean() < 0.01
    pressing = FreeMotion.of(again - [0, 0, 80, 0, 0, 0] * (rng.random((500, 1)) < 0.1))
    sideways, down = np.array([[0.0, 12.0, -3.0, 0, 0, 0]]), np.array([[0.0, 0, -60.0, 0, 0, 0]])
    assert pressing.contact(sideways).all(), "who presses down may still be pushed aside"
    assert not pressing.contact(down).any()
    pushed = np.array([[0.0, 12.0, -3.0, 0.0, 0.0, 0.0], [0.0, 0.0, -3.0, 0.0, 0.0, -9.0]])
    assert free.contact(pushed).all()
    assert not free.contact(pushed * [1, 0, 1, 1, 1, 0]).any()
    with pytest.raises(DatasetError, match="99 wrenches of free motion"):
        FreeMotion.of(np.zeros((99, 6)))


def test_false_alarms_are_of_free_motion_that_the_limits_have_not_seen() -> None:
    rng = np.random.default_rng(0)
    steady = rng.uniform(-20.0, 20.0, (5000, 6))
    margins = np.array([0.0, 0.25, 1.0])
    assert FreeMotion.of(steady).contact(steady).sum() == 0
    assert false_alarms(steady, margins).tolist() == [0.0, 0.0, 0.0], "at least 1 N beyond"
    once = steady.copy()
    once[4700:4800, 2] = -30.0  # half beyond the others' reach, in one tenth alone
    assert false_alarms(once, margins).tolist() == pytest.approx([0.02, 0.02, 0.0])
    with pytest.raises(DatasetError, match="wrenches of free motion"):
        false_alarms(steady[:50], margins)


def pushing(stamp: int, force: float) -> bytes:
    push = bag_messages.make("geometry_msgs/msg/Vector3", x=force, y=0.0, z=-3.0)
    none = bag_messages.make("geometry_msgs/msg/Vector3", x=0.0, y=0.0, z=0.0)
    wrench = bag_messages.make("geometry_msgs/msg/Wrench", force=push, torque=none)
    header = bag_messages.header(stamp)
    return bag_messages.wire(
        bag_messages.make("geometry_msgs/msg/WrenchStamped", header=header, wrench=wrench)
    )


def bag(folder: Path, messages: list[tuple[str, int, bytes]], pushed: tuple[int, int]) -> Path:
    """With wrenches at 100 Hz, a push between two times (ns after the start)."""
    end = messages[-1][1]
    felt = [
        (WRENCH, at + MS, pushing(at, 25.0 if pushed[0] <= at - START < pushed[1] else 0.0))
        for at in range(START, end, 10 * MS)
    ]
    kinds = KINDS | {WRENCH: "geometry_msgs/msg/WrenchStamped"}
    topics = {name: bag_messages.topic(f"/{name}", kind) for name, kind in kinds.items()}
    writer = BagWriter(folder)
    for topic, at, data in sorted(messages + felt, key=lambda message: message[1]):
        writer.write(topics[topic], at, data)
    writer.close()
    return folder


def test_a_push_is_contact_in_the_steps_in_which_it_is_felt(tmp_path: Path) -> None:
    messages = as_franka(Played())
    free = FreeMotion.of(free_wrenches([bag(tmp_path / "free", messages, (0, 0))], WRENCH))
    config = ConversionConfig.of(contract(instruction="go"), free_motion=free)
    pushed = bag(tmp_path / "pushed", messages, (510 * MS, 580 * MS))
    with EpisodeWriter(tmp_path / "out", SIDE, CAMERAS) as writer:
        report = convert([pushed], writer, config)
    episode = EpisodeReader(tmp_path / "out")[0]
    assert episode.cost_source == "wrench"
    assert report.takes[0].cost_source == "wrench"
    # step k is what is felt after 100 + 50 k ms, for 50 ms
    assert np.flatnonzero(episode.cost).tolist() == [8, 9]
    with EpisodeWriter(tmp_path / "other", SIDE, CAMERAS) as writer:
        report = convert([pushed], writer, replace(config, free_motion=None))
    assert report.takes[0].cost_source == ""
    assert any("labels no contact" in str(finding) for finding in all_findings(report))


def test_the_command_says_and_draws_its_false_alarms(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    messages = as_franka(Played())
    free, pushed = (
        bag(tmp_path / name, messages, push)
        for name, push in (("free", (0, 0)), ("pushed", (510 * MS, 580 * MS)))
    )
    mine = tmp_path / "mine.yaml"
    mine.write_text(json.dumps(contract(instruction="go").to_json()))
    words = ["bag-to-dataset", str(pushed), "--contract", str(mine), "--out", str(tmp_path / "out")]
    assert main([*words, "--free-motion", str(free)]) == 0
    assert "N; false alarms: 0.00% of its wrenches, see free_motion.png" in capsys.readouterr().out
    drawn = cv2.imread(str(tmp_path / "out/free_motion.png"))
    assert drawn is not None
    assert drawn.std() > 10
    assert EpisodeReader(tmp_path / "out").rows[0].cost_source == "wrench"
