"""Writes one rosbag2 bag: a folder with an MCAP file and, once it is whole, metadata.yaml.

Messages are stored as they came from the wire. What has been flushed is readable also when the
process is killed; `metadata.yaml` appears last, so a folder without it is a bag that was cut.
"""

import contextlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml
from mcap.writer import CompressionType, Writer

from safedojo_ros.core.errors import DatasetError
from safedojo_ros.core.files import write_whole
from safedojo_ros.data.bags.schemas import Schema

METADATA = "metadata.yaml"
VERSION = 9
"""Of rosbag2's metadata, the one of ROS 2 Jazzy."""

CHUNK_BYTES = 256 * 1024
PROFILE = "ros2"
LIBRARY = "safedojo_ros"

Compression = Literal["zstd", "lz4", "none"]
COMPRESSIONS: dict[str, CompressionType] = {
    "zstd": CompressionType.ZSTD,
    "lz4": CompressionType.LZ4,
    "none": CompressionType.NONE,
}


@dataclass(frozen=True)
class Topic:
    """name with its leading slash; qos: rosbag2's profiles of the publishers, as plain mappings;
    latched: whether the newest message counts also for whoever comes later."""

    name: str
    schema: Schema
    qos: tuple[Mapping[str, Any], ...] = ()
    latched: bool = False


@dataclass
class _Count:
    channel: int
    topic: Topic
    messages: int = 0


@dataclass
class _Span:
    """Times in nanoseconds."""

    first: int = 0
    last: int = 0
    messages: int = 0

    def take(self, stamp: int) -> None:
        self.first = min(self.first, stamp) if self.messages else stamp
        self.last = max(self.last, stamp) if self.messages else stamp
        self.messages += 1


@dataclass
class BagWriter:
    """`write` messages, `flush` now and then, `close` once. Raises `OSError` as the disk does."""

    folder: Path
    compression: Compression = "zstd"
    _counts: dict[str, _Count] = field(default_factory=dict)
    _schemas: dict[str, int] = field(default_factory=dict)
    _span: _Span = field(default_factory=_Span)

    def __post_init__(self) -> None:
        if self.folder.exists():
            raise DatasetError(f"{self.folder} exists already; a bag is never written over")
        self.folder.mkdir(parents=True)
        self._file = self.folder / f"{self.folder.name}_0.mcap"
        self._stream = self._file.open("xb")
        self._mcap = Writer(
            self._stream, chunk_size=CHUNK_BYTES, compression=COMPRESSIONS[self.compression]
        )
        self._mcap.start(profile=PROFILE, library=LIBRARY)

    @property
    def size(self) -> int:
        """Bytes on their way to the disk so far, without the chunk in progress."""
        return self._stream.tell()

    @property
    def messages(self) -> int:
        """Messages so far."""
        return self._span.messages

    def write(self, topic: Topic, stamp: int, data: bytes) -> None:
        """One message as it was on the wire (CDR); `stamp`: when it was heard, ns."""
        count = self._counts.get(topic.name)
        if count is None:
            count = self._counts[topic.name] = _Count(self._add(topic), topic)
        self._mcap.add_message(count.channel, stamp, data, stamp, sequence=count.messages)
        count.messages += 1
        self._span.take(stamp)

    def flush(self) -> None:
        """Hand everything so far to the operating system."""
        self._mcap.flush()

    def close(self, notes: Mapping[str, str] | None = None) -> None:
        """Write the index and metadata.yaml; `notes` go into its custom_data."""
        metadata = self._metadata(notes or {})
        self._mcap.add_metadata("rosbag2", {"serialized_metadata": yaml.safe_dump(metadata)})
        self._mcap.finish()
        self._stream.flush()
        os.fsync(self._stream.fileno())
        self._stream.close()
        write_metadata(self.folder, metadata)

    def abandon(self) -> None:
        """Give the file back as it is: a bag that was cut. For a disk that takes no more."""
        with contextlib.suppress(OSError):
            self._stream.close()

    def _add(self, topic: Topic) -> int:
        schema = topic.schema
        if schema.name not in self._schemas:
            self._schemas[schema.name] = self._mcap.register_schema(
                schema.name, "ros2msg", schema.text.encode()
            )
        notes = {
            "offered_qos_profiles": yaml.safe_dump([dict(q) for q in topic.qos]),
            "topic_type_hash": schema.digest,
        }
        return self._mcap.register_channel(topic.name, "cdr", self._schemas[schema.name], notes)

    def _metadata(self, notes: Mapping[str, str]) -> dict[str, Any]:
        topics = [(c.topic, c.messages) for c in self._counts.values()]
        return bag_metadata(self._file.name, topics, self._span, notes)


def bag_metadata(
    file: str, topics: Sequence[tuple[Topic, int]], span: Any, notes: Mapping[str, str]
) -> dict[str, Any]:
    """The content of metadata.yaml below its one key."""
    start = {"nanoseconds_since_epoch": span.first}
    duration = {"nanoseconds": span.last - span.first}
    return {
        "version": VERSION,
        "storage_identifier": "mcap",
        "relative_file_paths": [file],
        "duration": duration,
        "starting_time": start,
        "message_count": span.messages,
        "topics_with_message_count": [
            {
                "topic_metadata": {
                    "name": topic.name,
                    "type": topic.schema.name,
                    "serialization_format": "cdr",
                    "offered_qos_profiles": [dict(q) for q in topic.qos],
                    "type_description_hash": topic.schema.digest,
                },
                "message_count": count,
            }
            for topic, count in topics
        ],
        "compression_format": "",
        "compression_mode": "",
        "files": [
            {
                "path": file,
                "starting_time": dict(start),
                "duration": dict(duration),
                "message_count": span.messages,
            }
        ],
        "custom_data": dict(notes) or None,
        "ros_distro": "jazzy",
    }


def write_metadata(folder: Path, metadata: Mapping[str, Any]) -> None:
    """Put metadata.yaml in place, whole or not at all."""
    content = {"rosbag2_bagfile_information": dict(metadata)}
    write_whole(folder / METADATA, yaml.safe_dump(content, sort_keys=False))
