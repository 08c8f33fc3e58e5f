"""Reads bags, also those of `ros2 bag record`, and says of a broken one how far it could be read.

MCAP files are read record by record in the order in which they were written, so that a file
without its end is read up to the cut, and a clock that went back is still seen. Other storages
(sqlite3, compressed bags) go through `rosbags`, which needs them whole and sorts by time.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from mcap.records import Channel, Message, Schema
from mcap.stream_reader import StreamReader
from rosbags.interfaces import Connection, MessageDefinitionFormat
from rosbags.rosbag2 import Reader
from rosbags.serde import SerdeError
from rosbags.typesys import (
    Stores,
    TypesysError,
    get_types_from_idl,
    get_types_from_msg,
    get_typestore,
)

from safedojo_ros.core.errors import DatasetError
from safedojo_ros.data.bags.retention import bag_order
from safedojo_ros.data.bags.writer import METADATA

RECORD_LIMIT = 256 * 2**20
"""Bytes; a longer record is a broken one."""


@dataclass(frozen=True)
class BagMessage:
    """topic without its leading slash; heard_at: ns; kind: "package/msg/Name"; data: CDR."""

    topic: str
    heard_at: int
    kind: str
    data: bytes


class BagReader:
    """One bag. `fault` says, once `messages` has been read to its end, what was broken, or ""."""

    def __init__(self, folder: Path) -> None:
        """folder: of the bag, or a single .mcap file; raises `DatasetError` if it is neither."""
        self.path = Path(folder)
        self.fault = ""
        self.read = 0
        self._types = get_typestore(Stores.ROS2_JAZZY)
        self._registered: set[str] = set()
        self._plain = True
        if self.path.is_file() and self.path.suffix == ".mcap":
            self._files = [self.path]
            return
        if not self.path.is_dir():
            raise DatasetError(f"{self.path} is no bag: expected a folder or an .mcap file")
        metadata = self._metadata()
        if metadata is None:
            self._files = sorted(self.path.glob("*.mcap"), key=_number)
            if not self._files:
                raise DatasetError(
                    f"{self.path} is no bag: it holds neither {METADATA} nor an .mcap file"
                )
            self.fault = f"it was cut: {METADATA} is missing"
            return
        self._plain = metadata.get("storage_identifier") == "mcap" and not metadata.get(
            "compression_mode"
        )
        names = [Path(str(name)).name for name in metadata.get("relative_file_paths") or ()]
        self._files = [self.path / name for name in names]

    @property
    def whole(self) -> bool:
        """Whether nothing broken has been seen so far."""
        return not self.fault

    def messages(self) -> Iterator[BagMessage]:
        """All messages; ends early, and sets `fault`, where the bag is broken."""
        for message in self._mcap() if self._plain else self._rosbags():
            self.read += 1
            yield message

    def decode(self, message: BagMessage) -> Any:
        """The message's fields as attributes; raises `DatasetError`."""
        try:
            return self._types.deserialize_cdr(message.data, message.kind)
        except (SerdeError, KeyError, ValueError, IndexError) as error:
            raise DatasetError(
                f"{self.path}: a {message.kind} on {message.topic} cannot be read: {error!r}"
            ) from None

    # ---------------------------------------------------------------- inside

    def _metadata(self) -> dict[str, Any] | None:
        file = self.path / METADATA
        if not file.is_file():
            return None
        try:
            found = yaml.safe_load(file.read_bytes())["rosbag2_bagfile_information"]
        except (yaml.YAMLError, OSError, KeyError, TypeError, UnicodeDecodeError) as error:
            raise DatasetError(f"{file} is not the metadata of a bag: {error!r}") from None
        if not isinstance(found, dict):
            raise DatasetError(f"{file} is not the metadata of a bag")
        return found

    def _mcap(self) -> Iterator[BagMessage]:
        for file in self._files:
            before = self.read
            try:
                with file.open("rb") as stream:
                    yield from self._records(StreamReader(
                        stream, validate_crcs=True, record_size_limit=RECORD_LIMIT
                    ))  # fmt: skip
            except OSError as error:
                self.fault = f"{file.name} cannot be read: {error.strerror}"
            except Exception as error:  # of the format, of each decompressor, of the definitions
                reason = str(error) or type(error).__name__
                self.fault = f"{file.name} breaks off after {self.read - before} messages: {reason}"

    def _records(self, reader: StreamReader) -> Iterator[BagMessage]:
        schemas: dict[int, Schema] = {}
        channels: dict[int, tuple[str, str]] = {}
        for record in reader.records:
            if isinstance(record, Schema):
                schemas[record.id] = record
                self._register(record.name, record.encoding, record.data.decode())
            elif isinstance(record, Channel):
                kind = schemas[record.schema_id].name if record.schema_id else ""
                channels[record.id] = (record.topic.lstrip("/"), kind)
            elif isinstance(record, Message):
                topic, kind = channels[record.channel_id]
                yield BagMessage(topic, record.log_time, kind, record.data)

    def _rosbags(self) -> Iterator[BagMessage]:
        try:
            with Reader(self.path) as reader:
                for connection in reader.connections:
                    self._register_connection(connection)
                for connection, heard_at, data in reader.messages():
                    topic = connection.topic.lstrip("/")
                    yield BagMessage(topic, heard_at, connection.msgtype, bytes(data))
        except Exception as error:  # rosbags' own errors and those of sqlite come through
            reason = str(error) or type(error).__name__
            self.fault = f"it breaks off after {self.read} messages: {reason}"

    def _register_connection(self, connection: Connection) -> None:
        kinds = {MessageDefinitionFormat.MSG: "ros2msg", MessageDefinitionFormat.IDL: "ros2idl"}
        if connection.msgdef.format in kinds:
            self._register(
                connection.msgtype, kinds[connection.msgdef.format], connection.msgdef.data
            )

    def _register(self, name: str, encoding: str, text: str) -> None:
        """Teach the type store a definition of the bag; the bag's own goes before a known one."""
        if name in self._registered:
            return
        self._registered.add(name)
        try:
            found = (
                get_types_from_idl(text)
                if encoding == "ros2idl"
                else get_types_from_msg(text, name)
            )
            fresh = {k: v for k, v in found.items() if k not in self._types.fielddefs}
            self._types.register(fresh)
        except TypesysError as error:
            raise DatasetError(
                f"{self.path}: the definition of {name} in the bag cannot be read: {error}"
            ) from None


def find_bags(paths: list[Path]) -> list[Path]:
    """The bags among and directly inside `paths`, oldest first; raises `DatasetError`."""
    found: list[Path] = []
    for path in paths:
        if is_bag(path):
            found.append(path)
            continue
        inside = [p for p in path.iterdir() if is_bag(p)] if path.is_dir() else []
        if not inside:
            raise DatasetError(f"{path} is no bag, and no folder of bags")
        found += sorted(inside, key=bag_order)
    return found


def is_bag(path: Path) -> bool:
    """Whether it looks like one, whole or cut."""
    if path.is_file():
        return path.suffix == ".mcap"
    return (path / METADATA).is_file() or any(path.glob("*.mcap"))


def _number(file: Path) -> tuple[int, str]:
    tail = file.stem.rpartition("_")[2]
    return (int(tail) if tail.isdigit() else 0, file.name)
