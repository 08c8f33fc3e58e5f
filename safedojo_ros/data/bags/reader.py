"""Reads bags, also those of `ros2 bag record`, and says of a broken one how far it could be read.

MCAP files are read record by record in the order in which they were written, so that a file
without its end is read up to the cut, and a clock that went back is still seen; a damaged part of
it is passed over. Other storages (sqlite3, compressed bags) go through `rosbags`, which needs them
whole and sorts by time.

What nobody asks for decides nothing: definitions are read when a message of theirs is decoded.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import IO, Any

import lz4.frame
import yaml
import zstandard
from mcap.reader import SeekingReader
from mcap.records import Channel, Chunk, McapRecord, Message, Schema
from mcap.stream_reader import StreamReader, breakup_chunk
from rosbags.interfaces import Connection, MessageDefinitionFormat
from rosbags.rosbag2 import Reader
from rosbags.typesys import Stores, get_types_from_idl, get_types_from_msg, get_typestore

from safedojo_ros.core.errors import DatasetError
from safedojo_ros.data.bags.retention import bag_order
from safedojo_ros.data.bags.series import in_order
from safedojo_ros.data.bags.writer import METADATA

RECORD_LIMIT = 256 * 2**20
"""Bytes; a longer record, or a part of a file that unpacks to more, is a broken one."""
METADATA_LIMIT = 16 * 2**20
"""Bytes of a bag's metadata.yaml, and of one definition."""
DISORDER = 0.1
"""Seconds by which messages may have been written in another order than they were heard in: a
recorder's callbacks run side by side. A clock that goes back by more is seen as such."""
LATEST = 2**62
"""ns; a later stamp is none."""


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
        self._definitions: dict[str, tuple[str, bytes]] = {}
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
        names = metadata.get("relative_file_paths")
        if not isinstance(names, list) or any(not isinstance(name, str) for name in names):
            raise DatasetError(f"{self.path / METADATA} names no files; delete it to read them all")
        self._files = [self.path / Path(name).name for name in names]

    @property
    def whole(self) -> bool:
        """Whether nothing broken has been seen so far."""
        return not self.fault

    def messages(self) -> Iterator[BagMessage]:
        """All messages; ends early, and sets `fault`, where the bag is broken."""
        yield from in_order(self._mcap(), DISORDER) if self._plain else self._rosbags()

    def decode(self, message: BagMessage) -> Any:
        """The message's fields as attributes; raises `DatasetError`."""
        try:
            self._register(message.kind)
            return self._types.deserialize_cdr(message.data, message.kind)
        except Exception as error:  # of the definition, or of a message that does not fit it
            raise DatasetError(
                f"{self.path}: a {message.kind} on {message.topic} cannot be read: {brief(error)}"
            ) from None

    # ---------------------------------------------------------------- inside

    def _metadata(self) -> dict[str, Any] | None:
        file = self.path / METADATA
        if not file.is_file():
            return None
        try:
            if file.stat().st_size > METADATA_LIMIT:
                raise ValueError(f"more than {METADATA_LIMIT} bytes")
            found = yaml.safe_load(file.read_bytes())["rosbag2_bagfile_information"]
        except Exception as error:  # of the format, of the system
            raise DatasetError(f"{file} is not the metadata of a bag: {brief(error)}") from None
        if not isinstance(found, dict):
            raise DatasetError(f"{file} is not the metadata of a bag")
        return found

    def _mcap(self) -> Iterator[BagMessage]:
        for file in self._files:
            before = self.read
            if not file.is_file():
                self.fault = f"{file.name} cannot be read: no such file"
                continue
            try:
                with file.open("rb") as stream:
                    known = _summary(stream)
                    reader = StreamReader(
                        stream,
                        emit_chunks=True,
                        validate_crcs=True,
                        record_size_limit=RECORD_LIMIT,
                    )
                    yield from self._messages(chain(known, self._records(file, reader)))
            except OSError as error:
                self.fault = f"{file.name} cannot be read: {error.strerror}"
            except Exception as error:  # of the format
                count = self.read - before
                self.fault = f"{file.name} breaks off after {count} messages: {brief(error)}"

    def _messages(self, records: Iterable[McapRecord]) -> Iterator[BagMessage]:
        schemas: dict[int, str] = {}
        channels: dict[int, tuple[str, str]] = {}
        for record in records:
            if isinstance(record, Schema):
                schemas[record.id] = record.name
                self._definitions.setdefault(record.name, (record.encoding, record.data))
            elif isinstance(record, Channel):
                kind = schemas.get(record.schema_id, "")
                kind = kind if record.message_encoding == "cdr" else record.message_encoding
                channels[record.id] = (record.topic.lstrip("/"), kind)
            elif isinstance(record, Message):
                self.read += 1
                topic, kind = channels.get(record.channel_id, ("", ""))
                if record.log_time < LATEST:
                    yield BagMessage(topic, record.log_time, kind, record.data)

    def _records(self, file: Path, reader: StreamReader) -> Iterator[McapRecord]:
        """Records in and between the chunks; of a damaged chunk, nothing."""
        for record in reader.records:
            if not isinstance(record, Chunk):
                yield record
                continue
            try:
                inside = breakup_chunk(_bounded(record), validate_crc=True)
            except Exception as error:  # of the format, of each decompressor
                at = f"{record.message_start_time / 1e9:.3f}"
                self.fault = f"{file.name} is damaged from {at} on, for a part: {brief(error)}"
                continue
            yield from inside

    def _rosbags(self) -> Iterator[BagMessage]:
        try:
            with Reader(self.path) as reader:
                for connection in reader.connections:
                    self._define(connection)
                for connection, heard_at, data in reader.messages():
                    self.read += 1
                    topic = connection.topic.lstrip("/")
                    if 0 <= heard_at < LATEST:
                        yield BagMessage(topic, heard_at, connection.msgtype, bytes(data))
        except Exception as error:  # rosbags' own errors and those of sqlite come through
            self.fault = f"it breaks off after {self.read} messages: {brief(error)}"

    def _define(self, connection: Connection) -> None:
        kinds = {MessageDefinitionFormat.MSG: "ros2msg", MessageDefinitionFormat.IDL: "ros2idl"}
        encoding = kinds.get(connection.msgdef.format, "")
        text = connection.msgdef.data.encode()
        self._definitions.setdefault(connection.msgtype, (encoding, text))

    def _register(self, name: str) -> None:
        """Teach the type store the bag's definition of a type that it does not know."""
        if name in self._registered or name in self._types.fielddefs:
            return
        encoding, data = self._definitions.get(name, ("", b""))
        if encoding not in ("ros2msg", "ros2idl") or len(data) > METADATA_LIMIT:
            raise DatasetError(f"its definition is {encoding or 'missing'}, expected ros2msg")
        text = data.decode("utf-8-sig", errors="replace").replace("\r\n", "\n")
        found = (
            get_types_from_idl(text) if encoding == "ros2idl" else get_types_from_msg(text, name)
        )
        self._types.register({k: v for k, v in found.items() if k not in self._types.fielddefs})
        self._registered.add(name)


def find_bags(paths: list[Path]) -> list[Path]:
    """The bags among and directly inside `paths`, oldest first; raises `DatasetError`."""
    found: list[Path] = []
    for path in paths:
        try:
            if is_bag(path):
                found.append(path)
                continue
            inside = [p for p in path.iterdir() if is_bag(p)] if path.is_dir() else []
        except OSError as error:
            raise DatasetError(f"{path} cannot be read: {error.strerror}") from None
        if not inside:
            raise DatasetError(f"{path} is no bag, and no folder of bags")
        found += sorted(inside, key=bag_order)
    return found


def is_bag(path: Path) -> bool:
    """Whether it looks like one, whole or cut."""
    if path.is_file():
        return path.suffix == ".mcap"
    return (path / METADATA).is_file() or any(path.glob("*.mcap"))


def brief(error: Exception) -> str:
    """What a library's error says, short and in one line."""
    return " ".join(str(error).split())[:200] or type(error).__name__


def _summary(stream: IO[bytes]) -> list[McapRecord]:
    """Definitions and channels as the file's end repeats them: their own place may be damaged."""
    try:
        found = SeekingReader(stream, record_size_limit=RECORD_LIMIT).get_summary()
        known = [*found.schemas.values(), *found.channels.values()] if found else []
    except Exception:  # a file that was cut has none
        known = []
    stream.seek(0)
    return known


def _bounded(chunk: Chunk) -> Chunk:
    """`chunk`, where it unpacks to no more than `RECORD_LIMIT`; raises `ValueError`."""
    size = chunk.uncompressed_size
    if chunk.compression == "zstd":
        size = max(size, zstandard.frame_content_size(chunk.data))
    if size > RECORD_LIMIT:
        raise ValueError(f"it unpacks to {size} bytes, expected at most {RECORD_LIMIT}")
    if chunk.compression != "lz4":
        return chunk
    data = lz4.frame.LZ4FrameDecompressor().decompress(chunk.data, max_length=RECORD_LIMIT)
    return replace(chunk, compression="", data=data)


def _number(file: Path) -> tuple[int, str]:
    tail = file.stem.rpartition("_")[2]
    return (int(tail) if tail.isdigit() else 0, file.name)
