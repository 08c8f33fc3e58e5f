"""Records bags with odd messages or damaged files, and converts them.

`python test/bag_faults.py FIRST COUNT` converts COUNT of them, from the random seed FIRST on,
within limits of memory and time. It prints a line for each that ended in anything but a report or a
`SafeDojoError`, and at the end how they ended.
"""

import faulthandler
import json
import logging
import random
import resource
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import bag_messages
import cv2
import numpy as np
from rosbags.rosbag2 import StoragePlugin, Writer
from test_bag_conversion import CAMERAS, CONFIG, SIDE, TOPICS, Played

from safedojo_ros.core.errors import SafeDojoError
from safedojo_ros.data.bags.conversion import all_findings, convert
from safedojo_ros.data.bags.reader import find_bags
from safedojo_ros.data.bags.writer import BagWriter, Topic
from safedojo_ros.data.lerobot.reader import EpisodeReader
from safedojo_ros.data.lerobot.writer import EpisodeWriter

MEMORY = 6 * 2**30
"""Bytes of addresses; the libraries alone map about two gigabytes."""
SECONDS = 30

NUMBERS = (float("nan"), float("inf"), -1e308, 1e30, 0.0)
WHOLE = (-1, 0, 2**31 - 1, 2**63, 10**30)
JSON: tuple[Any, ...] = (
    None, True, -1, 0, 2**63, 10**30, 1e308, float("nan"), float("inf"), "", "x" * 5000, "\ud800",
    [], {}, [1], {"a": 1}, "10",
)  # fmt: skip
TEXTS = ("[1]", "null", "", "{", "[" * 100_000, '"x"', "{}", "9" * 10_000, "\x00")

Messages = list[tuple[str, int, bytes]]
Fault = Callable[[random.Random, Messages, dict[str, Topic]], Messages]


def decoded(topics: dict[str, Topic], topic: str, data: bytes) -> Any:
    return bag_messages.types().deserialize_cdr(data, topics[topic].schema.name)


def odd_fields(rng: random.Random, messages: Messages, topics: dict[str, Topic]) -> Messages:
    """Numbers, lengths and texts that no robot says, in one topic's messages."""
    topic, share = rng.choice(sorted(topics)), rng.choice((0.02, 0.3, 1.0))
    changed = []
    for name, at, data in messages:
        if name == topic and rng.random() < share:
            data = odd_message(rng, decoded(topics, name, data), data)
        changed.append((name, at, data))
    return changed


def odd_message(rng: random.Random, message: Any, data: bytes) -> bytes:
    kind = message.__msgtype__
    if kind == "std_msgs/msg/String":
        try:
            said = json.loads(message.data)
            said[rng.choice(sorted(said))] = rng.choice(JSON)
            text = rng.choice((json.dumps(said), rng.choice(TEXTS)))
        except ValueError:
            text = rng.choice(TEXTS)
        return bag_messages.word(text)
    if hasattr(message, "header") and rng.random() < 0.3:
        message.header.stamp.sec = rng.choice((-(2**31), -1, 0, 2**31 - 1))
        message.header.stamp.nanosec = rng.choice((0, 2**32 - 1))
    if kind == "sensor_msgs/msg/Image":
        field = rng.choice(("height", "width", "step", "encoding", "data"))
        values: dict[str, Any] = {
            "encoding": rng.choice(("", "16UC1", "bgr8", "x" * 1000)),
            "data": np.zeros(rng.choice((0, 1, 4)), np.uint8),
        }
        setattr(message, field, values.get(field, rng.choice((0, 1, 2**32 - 1, 4096))))
    elif kind == "sensor_msgs/msg/JointState":
        message.position = np.full(rng.choice((0, 1, 2, 9)), rng.choice(NUMBERS))
        message.name = rng.choice(([], message.name, ["a"] * 5, message.name * 2))
    elif kind == "geometry_msgs/msg/PoseStamped":
        part = rng.choice((message.pose.position, message.pose.orientation))
        setattr(part, rng.choice("xyz"), rng.choice(NUMBERS))
    elif kind == "safedojo_ros/msg/ArmTarget":
        message.position = np.full(3, rng.choice(NUMBERS))
        message.gripper = rng.choice((message.gripper, float("nan"), 1e30))
        message.sequence = rng.choice((0, 1, 2**32 - 1))
        message.checkpoint = rng.choice(("", "x" * 5000, "a+b"))
    else:
        return data
    return bag_messages.wire(message)


def odd_bytes(rng: random.Random, messages: Messages, topics: dict[str, Topic]) -> Messages:
    """Cut, empty, or random CDR."""
    changed = []
    topic = rng.choice(sorted(topics))
    for name, at, data in messages:
        if name == topic and rng.random() < 0.5:
            data = rng.choice((
                b"", data[: rng.randrange(len(data))], data + bytes(9), rng.randbytes(len(data)),
                data[:4] + b"\xff\xff\xff\xff" + data[8:],
            ))  # fmt: skip
        changed.append((name, at, data))
    return changed


def odd_times(rng: random.Random, messages: Messages, topics: dict[str, Topic]) -> Messages:
    """Messages heard out of order, twice, never, at once, or in another age."""
    kind = rng.randrange(6)
    spread = rng.choice((10**6, 3 * 10**7, 10**9, 10**12))
    if kind == 0:
        return [(n, max(0, at + rng.randrange(-spread, spread)), d) for n, at, d in messages]
    if kind == 1:
        return rng.sample(messages, len(messages))
    if kind == 2:
        return messages + messages[rng.randrange(len(messages)) :]
    if kind == 3:
        return [m for m in messages if rng.random() < 0.7]
    if kind == 4:
        place = rng.randrange(len(messages))
        name, _, data = messages[place]
        return [*messages[:place], (name, 2**64 - 1 - 2**62, data), *messages[place:]]
    return [(n, 0, d) for n, _, d in messages]


def odd_types(rng: random.Random, messages: Messages, topics: dict[str, Topic]) -> Messages:
    """A topic of another type, or images that are compressed."""
    name = rng.choice(sorted(topics))
    if name.startswith("camera/") and rng.random() < 0.7:
        return compressed(rng, messages, topics, name)
    kinds = sorted({topic.schema.name for topic in topics.values()})
    topics[name] = bag_messages.topic(f"/{name}", rng.choice(kinds))
    return messages


def compressed(
    rng: random.Random, messages: Messages, topics: dict[str, Topic], name: str
) -> Messages:
    kind, fresh = "sensor_msgs/msg/CompressedImage", f"{name}/compressed"
    topics[fresh] = bag_messages.topic(f"/{fresh}", kind)
    changed = []
    for topic, at, data in messages:
        if topic == name:
            message = decoded(topics, name, data)
            pixels = message.data.reshape(message.height, message.width, 3)[..., ::-1]
            coded = bytearray(cv2.imencode(rng.choice((".png", ".jpg")), pixels)[1].tobytes())
            if rng.random() < 0.2:
                coded[rng.randrange(len(coded))] ^= 1 << rng.randrange(8)
            if rng.random() < 0.1:
                coded = coded[: rng.randrange(len(coded))]
            data = bag_messages.wire(
                bag_messages.make(
                    kind,
                    header=message.header,
                    format="rgb8; png compressed bgr8",
                    data=np.frombuffer(bytes(coded), np.uint8),
                )
            )
            topic = fresh
        changed.append((topic, at, data))
    return changed


def odd_file(rng: random.Random, bag: Path) -> None:
    """Flip, cut or blot one file of a bag, or edit its metadata."""
    path = rng.choice(sorted(p for p in bag.iterdir() if p.is_file()))
    data = bytearray(path.read_bytes())
    kind = rng.randrange(5)
    if kind == 0:
        del data[rng.randrange(len(data)) :]
    elif kind == 1:
        first = rng.randrange(len(data))
        data[first : first + 64] = bytes(len(data[first : first + 64]))
    elif kind == 2 and path.suffix == ".yaml":
        lines = data.decode().splitlines()
        place = rng.randrange(len(lines))
        key = lines[place].split(":")[0]
        lines[place] = rng.choice(("", f"{key}: -1", f"{key}: [[1]]", f"{key}: ../../x", "? [a"))
        data = bytearray("\n".join(lines).encode())
    else:
        for _ in range(rng.choice((1, 1, 4, 32))):
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    path.write_bytes(data)


FAULTS: tuple[Fault, ...] = (odd_fields, odd_fields, odd_bytes, odd_times, odd_types)


def write(folder: Path, messages: Messages, topics: dict[str, Topic], sqlite: bool) -> Path:
    if not sqlite:
        writer = BagWriter(folder)
        for topic, at, data in messages:
            writer.write(topics[topic], at, data)
        writer.close()
        return folder
    with Writer(folder, version=9, storage_plugin=StoragePlugin.SQLITE3) as sqlite_writer:
        connections: dict[str, Any] = {}
        for topic, at, data in messages:
            if topic not in connections:
                connections[topic] = sqlite_writer.add_connection(
                    topics[topic].name, topics[topic].schema.name, typestore=bag_messages.types()
                )
            sqlite_writer.write(connections[topic], min(at, 2**62), data)
    return folder


def outcome(bag: Path, out: Path) -> str:
    try:
        with EpisodeWriter(out, SIDE, CAMERAS) as writer:
            report = convert(find_bags([bag]), writer, CONFIG)
    except SafeDojoError:
        return "refused"
    json.dumps(report.as_json())
    assert all("\n" not in str(finding) for finding in all_findings(report))
    assert len(list(all_findings(report))) < 2000
    if report.episodes:
        assert not EpisodeReader(out).damage
        return "converted" if not report.broken else "converted a part"
    return "no episode"


def main(first: int, count: int) -> int:
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    logging.disable(logging.WARNING)
    ends: Counter[str] = Counter()
    failed, longest, played = 0, 0.0, Played().messages
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for seed in range(first, first + count):
        rng, topics = random.Random(seed), dict(TOPICS)
        name, messages = "odd_file", list(played)
        with tempfile.TemporaryDirectory() as folder:
            if rng.random() < 0.7:
                fault = rng.choice(FAULTS)
                name, messages = fault.__name__, fault(rng, messages, topics)
            bag = write(Path(folder) / "bag", messages, topics, rng.random() < 0.2)
            if name == "odd_file":
                odd_file(rng, bag)
            faulthandler.dump_traceback_later(SECONDS, exit=True)
            begun = time.monotonic()
            try:
                ends[outcome(bag, Path(folder) / "out")] += 1
            except Exception:
                failed += 1
                last = traceback.format_exc().strip().splitlines()
                say(f"seed {seed}, {name}: {last[-1][:200]} | {last[-3].strip()[:120]}")
            longest = max(longest, time.monotonic() - begun)
            faulthandler.cancel_dump_traceback_later()
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024
    say(f"{failed} of {count} failed; longest {longest:.2f} s; {grown} MB more; {dict(ends)}")
    return failed > 0 or grown > 1024


def say(line: str) -> None:
    sys.stdout.write(line + "\n")


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), int(sys.argv[2])))
