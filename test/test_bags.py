"""Bags: whole, cut and bounded, written without ROS and read by independent readers."""

import os
import signal
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import bag_messages
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mcap.reader import make_reader
from rosbags.highlevel import AnyReader
from rosbags.rosbag2 import StoragePlugin, Writer

from safedojo_ros.core.errors import ConfigError, DatasetError
from safedojo_ros.data.bags.reader import BagReader, find_bags
from safedojo_ros.data.bags.recorder import LATCHED_MESSAGES, BagBounds, EpisodeBags, RecorderThread
from safedojo_ros.data.bags.retention import bag_name, bag_size, own_bags, remove_oldest
from safedojo_ros.data.bags.schemas import SchemaBook, inner_types
from safedojo_ros.data.bags.writer import BagWriter

ROOT = Path(__file__).resolve().parents[1]
WORDS = bag_messages.topic("/words", "std_msgs/msg/String")
LATCHED = bag_messages.topic("/instruction", "std_msgs/msg/String", latched=True)
TARGETS = bag_messages.topic("/arm/target", "safedojo_ros/msg/ArmTarget")


class Clock:
    """Seconds that a test sets."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def recorder(root: Path, clock: Clock | None = None, **bounds: object) -> EpisodeBags:
    given = {"free_floor": 0, **bounds}
    return EpisodeBags(BagBounds(root, **given), clock or Clock())  # type: ignore[arg-type]


def read(bag: Path) -> list[tuple[str, str]]:
    reader = BagReader(bag)
    return [(m.topic, reader.decode(m).data) for m in reader.messages()]


# ---------------------------------------------------------------- one bag


def test_a_bag_is_read_by_rosbags_and_by_mcap_with_the_types_of_this_package(
    tmp_path: Path,
) -> None:
    writer = BagWriter(tmp_path / "bag")
    message = bag_messages.target(7 * 10**9, [0.1, 0.2, 0.3], [3.1, 0, 0], -1.0, 5, "policy-a")
    writer.write(TARGETS, 7 * 10**9, message)
    writer.write(WORDS, 8 * 10**9, bag_messages.word("done"))
    writer.close({"ended": "test"})
    with AnyReader([tmp_path / "bag"]) as reader:
        found: dict[str, Any] = {
            c.topic: reader.deserialize(d, c.msgtype) for c, _, d in reader.messages()
        }
        assert reader.duration == 10**9 + 1
    assert found["/arm/target"].checkpoint == "policy-a"
    assert list(found["/arm/target"].position) == [0.1, 0.2, 0.3]
    assert found["/words"].data == "done"
    with (tmp_path / "bag/bag_0.mcap").open("rb") as file:
        summary = make_reader(file).get_summary()
    assert summary is not None
    assert {s.name for s in summary.schemas.values()} == {
        "safedojo_ros/msg/ArmTarget",
        "std_msgs/msg/String",
    }


@given(st.lists(st.text(max_size=40), min_size=1, max_size=60), st.integers(0, 2**16))
@settings(max_examples=60, deadline=None)
def test_whatever_a_bag_is_cut_to_is_read_as_a_beginning_and_named_as_broken(
    tmp_path_factory: pytest.TempPathFactory, texts: list[str], place: int
) -> None:
    folder = tmp_path_factory.mktemp("cut")
    writer = BagWriter(folder / "bag")
    for number, text in enumerate(texts):
        writer.write(WORDS, number, bag_messages.word(text))
        writer.flush()
    writer.abandon()
    file = folder / "bag/bag_0.mcap"
    whole = file.read_bytes()
    file.write_bytes(whole[: place % (len(whole) + 1)])
    reader = BagReader(folder / "bag")
    got = [reader.decode(message).data for message in reader.messages()]
    assert got == texts[: len(got)]
    assert not reader.whole
    if len(whole) == file.stat().st_size:
        assert got == texts


def test_a_recorder_killed_at_once_leaves_what_it_had_flushed(tmp_path: Path) -> None:
    program = f"""
import sys, time
sys.path[:0] = [{str(ROOT / "test")!r}, {str(ROOT)!r}]
import bag_messages
from pathlib import Path
from safedojo_ros.data.bags.writer import BagWriter
writer = BagWriter(Path({str(tmp_path / "bag")!r}))
topic = bag_messages.topic("/words", "std_msgs/msg/String")
for number in range(500):
    writer.write(topic, number, bag_messages.word(str(number)))
writer.flush()
writer.write(topic, 500, bag_messages.word("never flushed"))
sys.stdout.write("flushed\\n"); sys.stdout.flush()
time.sleep(600)
"""
    child = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    assert child.stdout.readline() == "flushed\n"
    os.kill(child.pid, signal.SIGKILL)
    child.communicate()
    reader = BagReader(tmp_path / "bag")
    assert len(list(reader.messages())) == 500
    assert "breaks off after 500 messages" in reader.fault


def test_a_flipped_bit_is_noticed_by_its_checksum(tmp_path: Path) -> None:
    writer = BagWriter(tmp_path / "bag", "none")
    for number in range(50):
        writer.write(WORDS, number, bag_messages.word("x" * 100))
    writer.close()
    file = tmp_path / "bag/bag_0.mcap"
    content = bytearray(file.read_bytes())
    content[content.index(b"x" * 100) + 50] ^= 1
    file.write_bytes(content)
    reader = BagReader(tmp_path / "bag")
    assert list(reader.messages()) == []
    assert "crc" in reader.fault


@pytest.mark.parametrize("plugin", list(StoragePlugin), ids=lambda plugin: plugin.name)
def test_bags_of_other_writers_are_read_whatever_their_storage(
    tmp_path: Path, plugin: StoragePlugin
) -> None:
    with Writer(tmp_path / "bag", version=9, storage_plugin=plugin) as writer:
        connection = writer.add_connection(
            "/arm/target", "safedojo_ros/msg/ArmTarget", typestore=bag_messages.types()
        )
        for number in range(3):
            message = bag_messages.target(number, [0, 0, 0.1], [0, 0, 0], 1.0, number, "p")
            writer.write(connection, number, message)
    reader = BagReader(tmp_path / "bag")
    messages = list(reader.messages())
    assert [reader.decode(m).sequence for m in messages] == [0, 1, 2]
    assert [m.heard_at for m in messages] == [0, 1, 2]
    assert reader.whole


def test_what_is_no_bag_is_named(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "odd").mkdir()
    (tmp_path / "odd/metadata.yaml").write_text("- 1\n")
    for path in (tmp_path / "missing", tmp_path / "empty"):
        with pytest.raises(DatasetError, match=path.name):
            BagReader(path)
        with pytest.raises(DatasetError, match=path.name):
            find_bags([path])
    with pytest.raises(DatasetError, match="not the metadata"):
        BagReader(tmp_path / "odd")


def test_metadata_cannot_name_a_file_outside_of_its_bag(tmp_path: Path) -> None:
    for name in ("inner", "outer"):
        writer = BagWriter(tmp_path / name)
        writer.write(WORDS, 1, bag_messages.word(name))
        writer.close()
    metadata = tmp_path / "inner/metadata.yaml"
    metadata.write_text(metadata.read_text().replace("inner_0", "../outer/outer_0"))
    reader = BagReader(tmp_path / "inner")
    assert list(reader.messages()) == []
    assert "outer_0.mcap" in reader.fault


# ---------------------------------------------------------------- definitions


def test_a_definition_brings_every_type_inside_it_and_no_constant(tmp_path: Path) -> None:
    for package, name, text in (
        ("a", "Top", "uint8 ONE=1\nb/Inner[] many # why\nHeader header\nstring<=9 word\nOwn own\n"),
        ("a", "Own", "float64[3] x\nfloat32 gain 0.5\n"),
        ("b", "Inner", "builtin_interfaces/Time[<=4] at\n"),
        ("std_msgs", "Header", "builtin_interfaces/Time stamp\nstring frame_id\n"),
        ("builtin_interfaces", "Time", "int32 sec\nuint32 nanosec\n"),
    ):
        folder = tmp_path / package / "msg"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{name}.msg").write_text(text)
    text = SchemaBook([tmp_path]).schema("a/msg/Top").text
    named = [line[5:] for line in text.splitlines() if line.startswith("MSG: ")]
    assert named == ["b/Inner", "std_msgs/Header", "a/Own", "builtin_interfaces/Time"]
    assert inner_types("uint8 A=1\nstring word\n", "a/msg/X") == []
    (tmp_path / "b/msg/Inner.msg").unlink()
    with pytest.raises(DatasetError, match=r"b/msg/Inner \(inside a/msg/Top\)"):
        SchemaBook([tmp_path]).schema("a/msg/Top")
    with pytest.raises(DatasetError, match="not a message type"):
        SchemaBook([tmp_path]).schema("a/srv/Top")


# ---------------------------------------------------------------- episodes


def test_every_episode_is_a_bag_that_begins_with_the_latched_messages(tmp_path: Path) -> None:
    clock = Clock()
    bags = recorder(tmp_path, clock, linger=1.0)
    bags.take(LATCHED, 1, bag_messages.word("put it there"))
    bags.take(WORDS, 2, bag_messages.word("before"))
    for number in range(2):
        bags.begin(10 * number)
        bags.take(WORDS, 10 * number + 1, bag_messages.word(f"during {number}"))
        bags.end(10 * number + 2)
        bags.take(WORDS, 10 * number + 3, bag_messages.word(f"last word {number}"))
        clock.now += 1.5
        bags.take(WORDS, 10 * number + 4, bag_messages.word("between"))
    bags.close()
    first, second = own_bags(tmp_path)
    expected = [("instruction", "put it there"), ("words", "during 0"), ("words", "last word 0")]
    assert read(first) == expected
    assert [text for _, text in read(second)] == ["put it there", "during 1", "last word 1"]
    assert all(BagReader(bag).whole for bag in (first, second))


def test_a_bag_begins_with_the_newest_latched_message_of_every_publisher(tmp_path: Path) -> None:
    bags = recorder(tmp_path)
    for number, text in ((1, "table"), (1, "arm"), (2, "arm moved"), (3, "arm moved again")):
        bags.take(LATCHED, 0, bag_messages.word(text), number)
    bags.begin(10)
    bags.close()
    assert [text for _, text in read(own_bags(tmp_path)[0])] == ["table", "arm", "arm moved again"]


def test_where_messages_are_not_counted_the_newest_alone_is_kept(tmp_path: Path) -> None:
    bags = recorder(tmp_path)
    for text in ("first", "second"):
        bags.take(LATCHED, 0, bag_messages.word(text))
    bags.begin(10)
    bags.close()
    assert read(own_bags(tmp_path)[0]) == [("instruction", "second")]


def test_publishers_that_start_again_and_again_do_not_fill_the_bags(tmp_path: Path) -> None:
    bags = recorder(tmp_path)
    for start in range(100):
        bags.take(LATCHED, 0, bag_messages.word(f"{start}"), 1)
    bags.begin(10)
    bags.close()
    texts = [text for _, text in read(own_bags(tmp_path)[0])]
    assert texts == [f"{start}" for start in range(100 - LATCHED_MESSAGES, 100)]


def test_after_the_clock_was_set_back_the_newest_bags_stay_and_come_last(tmp_path: Path) -> None:
    wall = {"now": 1.8e9}
    bags = EpisodeBags(
        BagBounds(tmp_path, max_bag=300_000, total=900_000, free_floor=0, compression="none"),
        Clock(),
        wall=lambda: wall["now"],
    )
    for number in range(8):
        wall["now"] -= 3600.0
        bags.begin(number)
        bags.take(WORDS, number, bag_messages.word(f"{number}" + "x" * 250_000))
    bags.close()
    left = own_bags(tmp_path)
    assert [read(bag)[0][1][0] for bag in left] == [str(n) for n in range(8 - len(left), 8)]
    assert find_bags([tmp_path]) == left


def test_a_full_bag_goes_on_in_the_next_and_loses_nothing(tmp_path: Path) -> None:
    bags = recorder(tmp_path, max_bag=600_000, compression="none")
    bags.begin(0)
    texts = [f"{number:05d}" + "x" * 20_000 for number in range(100)]
    for number, text in enumerate(texts):
        bags.take(WORDS, number, bag_messages.word(text))
    bags.close()
    written = own_bags(tmp_path)
    assert len(written) > 2
    assert all(bag_size(bag) < 900_000 for bag in written)
    assert [text for bag in written for _, text in read(bag)] == texts


def test_a_disk_at_its_floor_is_never_written_to_and_the_reason_is_said(tmp_path: Path) -> None:
    clock, free = Clock(), {"bytes": 5_000_000}
    bags = EpisodeBags(
        BagBounds(tmp_path / "bags", free_floor=1_000_000), clock, free=lambda _: free["bytes"]
    )
    bags.begin(0)
    bags.take(WORDS, 1, bag_messages.word("there is room"))
    free["bytes"] = 999_999
    clock.now += 2
    bags.take(WORDS, 2, bag_messages.word("there is none"))
    assert "floor" in bags.counts.refusal
    assert bags.counts.failed == 1
    bags.begin(3)
    bags.take(WORDS, 4, bag_messages.word("still none"))
    assert bags.name == ""
    free["bytes"] = 5_000_000
    bags.begin(5)
    bags.take(WORDS, 6, bag_messages.word("room again"))
    assert bags.counts.refusal == ""
    bags.close()
    assert [read(bag)[0][1] for bag in own_bags(tmp_path / "bags")] == [
        "there is room",
        "room again",
    ]


def test_a_disk_that_fails_ends_the_bag_and_not_the_recorder(tmp_path: Path) -> None:
    bags = recorder(tmp_path / "bags")
    bags.begin(0)
    bags.take(WORDS, 1, bag_messages.word("x"))
    assert bags._writer is not None

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    bags._writer._mcap.add_message = full  # type: ignore[method-assign]
    bags.take(WORDS, 2, bag_messages.word("y"))
    assert "No space left" in bags.counts.refusal
    bags.begin(3)
    bags.take(WORDS, 4, bag_messages.word("z"))
    bags.close()
    broken, whole = own_bags(tmp_path / "bags")
    assert not BagReader(broken).whole
    assert read(whole) == [("words", "z")]


def test_the_oldest_bags_of_the_recorder_go_and_nothing_else(tmp_path: Path) -> None:
    other = tmp_path / "holiday"
    other.mkdir()
    (other / "holiday_0.mcap").write_bytes(b"x" * 10**6)
    outside = tmp_path.parent / f"{tmp_path.name}_outside"
    outside.mkdir()
    (outside / "precious.mcap").write_bytes(b"x" * 10**6)
    (tmp_path / bag_name(0, "20200101T000000")).symlink_to(outside)
    bags = recorder(tmp_path, max_bag=300_000, total=900_000, compression="none")
    for number in range(10):
        bags.begin(number)
        bags.take(WORDS, number, bag_messages.word(f"{number}" + "x" * 250_000))
    bags.close()
    left = own_bags(tmp_path)
    assert sum(map(bag_size, left)) <= 900_000
    assert bags.counts.removed == 10 - len(left)
    assert [read(bag)[0][1][0] for bag in left] == [str(n) for n in range(10 - len(left), 10)]
    assert (other / "holiday_0.mcap").exists()
    assert (outside / "precious.mcap").exists()


def test_a_bag_s_folder_with_something_else_in_it_stays(tmp_path: Path) -> None:
    bag = tmp_path / bag_name(1, "20260101T000000")
    bag.mkdir()
    (bag / "a_0.mcap").write_bytes(b"x" * 1000)
    (bag / "notes.txt").write_text("mine")
    assert remove_oldest(tmp_path, 0) == [bag]
    assert [file.name for file in bag.iterdir()] == ["notes.txt"]


def test_a_total_that_holds_less_than_two_bags_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="room for two"):
        BagBounds(tmp_path, max_bag=100, total=150)


# ---------------------------------------------------------------- the queue


def test_a_slow_disk_drops_and_counts_and_never_holds_up_who_hears(tmp_path: Path) -> None:
    bags = recorder(tmp_path)
    gate, entered = threading.Event(), threading.Event()
    write = bags.take

    def slow(*message: object) -> None:
        entered.set()
        gate.wait(30)
        write(*message)  # type: ignore[arg-type]

    bags.take = slow  # type: ignore[assignment,method-assign]
    data = bag_messages.word("x" * 1000)
    thread = RecorderThread(bags, max_queue=3 * len(data))
    thread.begin(0)
    thread.message(WORDS, 0, data)
    assert entered.wait(30)
    taken = [thread.message(WORDS, number, data) for number in range(1, 10)]
    assert taken == [True] * 3 + [False] * 6
    assert thread.dropped == Counter({"/words": 6})
    gate.set()
    assert thread.close()
    assert thread.failure == ""
    (bag,) = own_bags(tmp_path)
    assert [m.heard_at for m in BagReader(bag).messages()] == [0, 1, 2, 3]


def test_a_recorder_that_is_closed_has_written_everything_that_waited(tmp_path: Path) -> None:
    thread = RecorderThread(recorder(tmp_path), max_queue=10**6)
    thread.begin(0)
    for number in range(200):
        assert thread.message(WORDS, number, bag_messages.word(str(number)))
    assert thread.close()
    (bag,) = own_bags(tmp_path)
    assert [text for _, text in read(bag)] == [str(number) for number in range(200)]
