"""What is odd in a bag costs what is odd: it is named, and everything else is converted."""

import json
import os
import subprocess
import sys
from pathlib import Path

import bag_messages
import numpy as np
import pytest
from bag_faults import compressed
from mcap.writer import Writer
from test_bag_conversion import CAMERAS, CONFIG, MS, SIDE, TOPICS, Played

from safedojo_ros.cli.main import main
from safedojo_ros.core.errors import LEFT_OUT, ObservationRejected
from safedojo_ros.core.units import SECOND
from safedojo_ros.data.bags.conversion import ConversionReport, all_findings, convert
from safedojo_ros.data.bags.reader import BagReader
from safedojo_ros.data.bags.said import outcome_of, truth_of
from safedojo_ros.data.bags.series import in_order
from safedojo_ros.data.bags.writer import BagWriter, Topic
from safedojo_ros.data.images import decode_compressed
from safedojo_ros.data.lerobot.reader import EpisodeReader
from safedojo_ros.data.lerobot.writer import EpisodeWriter

CASES = int(os.environ.get("SAFEDOJO_BAG_FAULTS", "60"))
"""How many odd bags are converted; 1000 take about two minutes."""

Messages = list[tuple[str, int, bytes]]


def test_odd_bags_end_in_a_report_or_one_line_in_bounded_time_and_memory() -> None:
    script = Path(__file__).parent / "bag_faults.py"
    result = subprocess.run(
        [sys.executable, str(script), "0", str(CASES)], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stdout + result.stderr[-2000:]


@pytest.fixture(scope="module")
def played() -> Played:
    return Played()


def bag(folder: Path, messages: Messages, topics: dict[str, Topic] = TOPICS) -> Path:
    writer = BagWriter(folder)
    for topic, at, data in messages:
        writer.write(topics[topic], at, data)
    writer.close()
    return folder


def converted(path: Path, out: Path) -> ConversionReport:
    with EpisodeWriter(out, SIDE, CAMERAS) as writer:
        return convert([path], writer, CONFIG)


def test_messages_that_were_written_out_of_order_are_taken_by_time(
    played: Played, tmp_path: Path
) -> None:
    late = [(t, at - 20 * MS * t.startswith("camera/"), d) for t, at, d in played.messages]
    report = converted(bag(tmp_path / "bag", late), tmp_path / "out")
    assert [take.episodes for take in report.takes] == [[30]]
    assert list(all_findings(report)) == []


def test_order_within_the_window_is_restored_and_a_clock_that_goes_back_is_seen() -> None:
    class At:
        def __init__(self, seconds: float) -> None:
            self.heard_at = int(seconds * SECOND)

    heard = [At(t) for t in (10.0, 10.05, 10.02, 10.2, 3.0, 3.1, 3.05)]
    seen = [message.heard_at / SECOND for message in in_order(heard, 0.1)]
    assert seen == [10.0, 10.02, 10.05, 10.2, 3.0, 3.05, 3.1]


def test_another_publisher_of_joint_states_without_fingers_is_passed_over(
    played: Played, tmp_path: Path
) -> None:
    arm = [f"fr3_joint{i}" for i in range(1, 8)]
    extra = [
        (
            topic,
            at + k * 10 * MS + MS // 2,
            bag_messages.wire(
                bag_messages.make(
                    "sensor_msgs/msg/JointState",
                    header=bag_messages.header(at + k * 10 * MS - 4 * MS),
                    name=arm,
                    position=np.zeros(7),
                    velocity=np.zeros(7),
                    effort=np.zeros(0),
                )
            ),
        )
        for topic, at, _ in played.messages
        if topic == "joint_states"
        for k in range(5)
    ]
    both = sorted(played.messages + extra, key=lambda message: message[1])
    report = converted(bag(tmp_path / "bag", both), tmp_path / "out")
    assert [take.episodes for take in report.takes] == [[30]]
    assert list(all_findings(report)) == []


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        (b"float64 x\r\nfloat64 y\r\n", "ros2msg"),
        (b"float64 a # in \xb0\n", "ros2msg"),
        (b"\xef\xbb\xbffloat64 x\n", "ros2msg"),
        (b"{}", "jsonschema"),
        (b"?", "ros2msg"),
    ],
)
def test_a_definition_that_nobody_asked_for_decides_nothing(
    played: Played, tmp_path: Path, text: bytes, encoding: str
) -> None:
    file = tmp_path / "b.mcap"
    with file.open("wb") as stream:
        writer = Writer(stream)
        writer.start("ros2", "x")
        schema = writer.register_schema("my_pkg/msg/Odd", encoding, text)
        other = writer.register_channel("/other", "cdr", schema)
        writer.add_message(other, played.messages[0][1], b"\0\1\0\0" + bytes(8), 0)
        known = {}
        for topic, at, data in played.messages:
            if topic not in known:
                kind = TOPICS[topic].schema
                schema = writer.register_schema(kind.name, "ros2msg", kind.text.encode())
                known[topic] = writer.register_channel(TOPICS[topic].name, "cdr", schema)
            writer.add_message(known[topic], at, data, at)
        writer.finish()
    report = converted(file, tmp_path / "out")
    assert (report.steps, report.broken) == (30, {})


def test_a_topic_of_another_type_is_named_with_the_expected_one(
    played: Played, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = bag(tmp_path / "bag", played.messages)
    command = ["bag-to-dataset", str(path), "--out", str(tmp_path / "out"), "--image-size", "16"]
    assert main([*command, "--target-topic", "/ee_pose"]) == 2
    said = capsys.readouterr().err
    assert "ee_pose is of type 'geometry_msgs/msg/PoseStamped', expected safedojo_ros/" in said


def test_compressed_images_are_decoded(played: Played, tmp_path: Path) -> None:
    class Whole:
        def choice(self, options: tuple[str, ...]) -> str:
            return options[0]

        def random(self) -> float:
            return 1.0

    topics, messages = dict(TOPICS), played.messages
    for name in CAMERAS:
        messages = compressed(Whole(), messages, topics, f"camera/{name}/image_raw")  # type: ignore[arg-type]
    with EpisodeWriter(tmp_path / "out", SIDE, CAMERAS) as writer:
        report = convert([bag(tmp_path / "bag", messages, topics)], writer, CONFIG)
        assert report.steps == 30
        (episode,) = writer._waiting
    for step, images in enumerate(played.truth["images"]):
        for name in CAMERAS:
            np.testing.assert_array_equal(episode.images[name][step], images[name])


def test_a_compressed_image_that_is_none_is_rejected() -> None:
    for data in (b"", b"x" * 9, b"\x89PNG\r\n\x1a\n", b"GIF89a" + bytes(50)):
        with pytest.raises(ObservationRejected, match="compressed image"):
            decode_compressed(data)


@pytest.mark.parametrize(
    "text",
    [
        "[1]",
        "null",
        "[" * 100_000,
        '{"cost": 0}',
        '{"cost": NaN, "displacement": 0, "success": true}',
        '{"cost": 0, "displacement": 1e300, "success": true}',
        '{"cost": 0, "displacement": 0, "success": "yes"}',
        f'{{"cost": 0, "displacement": 0, "success": true, "level": {10**30}}}',
        '{"cost": 0, "displacement": 0, "success": true, "task": 7}',
    ],
)
def test_what_the_world_cannot_have_said_is_a_value_error(text: str) -> None:
    with pytest.raises(ValueError, match=r"expected|nested|text"):
        truth_of(text)


def test_an_outcome_has_whole_numbers_and_text_that_can_be_written() -> None:
    said = outcome_of(json.dumps({"task": "a\ud800  b", "seed": 3, "success": False, "x": [1]}))
    assert said == {"task": "a? b", "seed": 3, "success": False}
    with pytest.raises(ValueError, match=r"'seed' is 1e\+30"):
        outcome_of('{"seed": 1e30}')


def test_a_damaged_part_of_a_file_costs_that_part_and_is_said_by_the_exit_code(
    played: Played, tmp_path: Path
) -> None:
    writer = BagWriter(tmp_path / "two")
    for part in (played, Played(seed=4)):
        for topic, at, data in part.messages:
            writer.write(TOPICS[topic], at, data)
        writer.flush()  # ends a part of the file
    writer.close()
    file = tmp_path / "two/two_0.mcap"
    broken = bytearray(file.read_bytes())
    broken[1000] ^= 1  # in the first part, which has the definitions, too
    file.write_bytes(broken)
    command = ["bag-to-dataset", str(tmp_path / "two"), "--image-size", "16"]
    assert main([*command, "--out", str(tmp_path / "out")]) == LEFT_OUT
    (episode,) = EpisodeReader(tmp_path / "out")
    assert episode.seed == 4
    reader = BagReader(tmp_path / "two")
    assert len(list(reader.messages())) == len(Played(seed=4).messages)
    assert "two_0.mcap is damaged from 1700000000.000 on, for a part" in reader.fault
