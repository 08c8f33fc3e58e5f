"""The steps of one episode, out of the file that holds them, with every value checked."""

import struct
import zlib
from collections.abc import Collection, Iterator
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from safedojo_ros.core.errors import DatasetError, ObservationRejected
from safedojo_ros.data.images import decode_compressed
from safedojo_ros.data.lerobot import layout
from safedojo_ros.data.lerobot.info import PICTURES, DatasetInfo
from safedojo_ros.data.lerobot.rows import EpisodeRow
from safedojo_ros.data.lerobot.video import check_clip, read_video

GROUP_LIMIT = 2 * 2**30
"""Bytes of the rows that are read together; more are damage."""
PNG_START = b"\x89PNG\r\n\x1a\n"
PNG_HEADER = struct.Struct(">I4sIIBBBBB")
RATE_TOLERANCE = 1e-3
"""Seconds by which a step's time may differ from its number over the rate."""


class StepFiles:
    """The data files of a set. foreign: another tool wrote it, so columns may be lists of any kind
    and numbers of another width, and images JPEG."""

    def __init__(self, root: Path, info: DatasetInfo, foreign: bool = False) -> None:
        self._root, self._info, self._foreign = root, info, foreign
        self._schema = layout.data_schema(info.features)
        self._row_groups: dict[Path, np.ndarray] = {}

    def take(self, path: Path, rows: int) -> None:
        """Check a file's footer; raises `DatasetError` unless it has `rows` and our columns."""
        try:
            seen = pq.read_metadata(layout.contained(self._root, path))
            columns = seen.schema.to_arrow_schema()
            groups = [seen.row_group(i) for i in range(seen.num_row_groups)]
            sizes = [group.num_rows for group in groups]
            largest = max((group.total_byte_size for group in groups), default=0)
        except DatasetError:
            raise
        except Exception as error:  # Arrow's, the system's, Python's: what damage leads to
            raise DatasetError(f"cannot read {path}: {error}; record it again") from None
        if seen.num_rows != rows or sum(sizes) != rows or min(sizes, default=1) < 1:
            raise DatasetError(f"{path} has {seen.num_rows} rows, its episodes have {rows}")
        if largest > GROUP_LIMIT:
            raise DatasetError(f"{path} holds {largest} bytes in one group, too many")
        for name in self._schema.names:
            if columns.names.count(name) != 1:
                what = "has twice" if name in columns.names else "lacks"
                raise DatasetError(f"{path} {what} the column '{name}'")
            seen_type, wanted = columns.field(name).type, self._schema.field(name).type
            if seen_type != wanted and not (self._foreign and _alike(seen_type, wanted)):
                raise DatasetError(f"{path}: column '{name}' is {seen_type}, expected {wanted}")
        self._row_groups[path] = np.concatenate([[0], np.cumsum(sizes)])

    def table(self, row: EpisodeRow, images: Collection[str]) -> pa.Table:
        """The episode's rows, with the features `images` where they are embedded."""
        columns = [n for n in self._schema.names if n in images or not self._is_image(n)]
        bounds = self._row_groups[row.data_path]
        first = int(np.searchsorted(bounds, row.first_row, side="right")) - 1
        last = int(np.searchsorted(bounds, row.first_row + row.length, side="left"))
        try:
            with pq.ParquetFile(row.data_path, page_checksum_verification=True) as file:
                table = file.read_row_groups(
                    list(range(first, last)), columns=columns, use_threads=False
                )
            table = table.slice(row.first_row - int(bounds[first]), row.length)
            table.validate(full=True)
        except Exception as error:  # Arrow's, the system's, Python's: what damage leads to
            reason = " ".join(str(error).split()) or type(error).__name__
            raise DatasetError(
                f"cannot read episode {row.number} of {row.data_path}: {reason}; record it again"
            ) from None
        if table.num_rows != row.length:
            raise DatasetError(f"{row.data_path}: episode {row.number} has {table.num_rows} rows")
        return table

    def values(self, row: EpisodeRow, table: pa.Table) -> dict[str, np.ndarray]:
        """Every column of numbers, (T,) or (T, width)."""
        values = {}
        for name in table.column_names:
            if self._is_image(name):
                continue
            column = table[name].combine_chunks()
            feature = self._info.features[name]
            width = feature["shape"][0]
            plain = column.flatten() if _is_list(column.type) else column
            ragged = _ragged(column, width)
            if ragged or column.null_count or plain.null_count or len(plain) != len(table) * width:
                raise DatasetError(
                    f"{row.data_path}: episode {row.number} lacks values of '{name}'"
                )
            array = plain.to_numpy(zero_copy_only=False).astype(feature["dtype"], copy=False)
            array = array.reshape(len(table), -1)
            array = array[:, 0] if width == 1 else array
            if not np.all(np.isfinite(array)):
                step = int(np.argwhere(~np.isfinite(array))[0, 0])
                raise DatasetError(
                    f"{row.data_path}: '{name}' of episode {row.number} is not finite at step "
                    f"{step}; record it again"
                )
            values[name] = np.array(array)
        frames = np.arange(row.length)
        if not np.array_equal(values["frame_index"], frames) or np.any(
            values["episode_index"] != row.number
        ):
            raise DatasetError(
                f"{row.data_path}: the rows of episode {row.number} are out of order; "
                "record it again"
            )
        if not np.allclose(values["timestamp"], frames / self._info.fps, atol=RATE_TOLERANCE):
            raise DatasetError(
                f"{row.data_path}: the times of episode {row.number} are not those of "
                f"{self._info.fps} steps a second; record it again"
            )
        return values

    def check(self, row: EpisodeRow) -> EpisodeRow:
        """Raise `DatasetError` where the episode is damaged; images are not decoded."""
        images = [name for name in self._info.features if self._is_image(name)]
        table = self.table(row, images)
        self.values(row, table)
        for name in images:
            height, width, _ = self._info.features[name]["shape"]
            if name in row.clips:
                clip = row.clips[name]
                layout.contained(self._root, clip.path)
                check_clip(clip.path, clip.first, row.length, self._info.fps, clip.checksum)
                continue
            for step, value in enumerate(_coded(table, name)):
                jpeg = self._foreign and is_jpeg(value)
                if not jpeg and not sound_png(value, height, width):
                    raise _no_picture(row, name, step, "no whole PNG", (height, width, 3))
        return row

    def pictures(self, row: EpisodeRow, table: pa.Table, name: str) -> Iterator[np.ndarray]:
        """The image (H, W, 3) uint8 RGB of feature `name` in each of `table`'s rows."""
        shape = tuple(self._info.features[name]["shape"])
        if name in row.clips:
            clip = row.clips[name]
            layout.contained(self._root, clip.path)
            yield from read_video(clip.path, clip.first, self._info.fps, len(table), shape)
            return
        for step, value in enumerate(_coded(table, name)):
            jpeg = self._foreign and is_jpeg(value)
            decoded = decode_jpeg(value) if jpeg else decode_png(value, shape[0], shape[1])
            if decoded is None or decoded.shape != shape:
                raise _no_picture(row, name, step, "no such PNG", shape)
            yield decoded

    def pictures_into(
        self, pictures: np.ndarray, row: EpisodeRow, table: pa.Table, name: str
    ) -> None:
        """Fill `pictures` (len(table), H, W, 3) with the first images of `table`'s rows."""
        for step, picture in enumerate(self.pictures(row, table, name)):
            pictures[step] = picture

    def _is_image(self, name: str) -> bool:
        return self._info.features[name]["dtype"] in PICTURES


def _is_list(kind: pa.DataType) -> bool:
    lists = pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list
    return any(test(kind) for test in lists)


def _ragged(column: pa.Array, width: int) -> bool:
    """Whether a column of lists has one that is not of this width."""
    if not _is_list(column.type) or pa.types.is_fixed_size_list(column.type):
        return False
    lengths = pc.list_value_length(column)
    return bool(len(column)) and pc.min_max(lengths).as_py() != {"min": width, "max": width}


def _alike(seen: pa.DataType, wanted: pa.DataType) -> bool:
    """Whether a column of another tool can be read as ours: lists of any kind, numbers of any
    width, images with bytes."""
    if pa.types.is_struct(wanted):
        return bool(pa.types.is_struct(seen)) and seen.get_field_index("bytes") >= 0
    fixed = pa.types.is_fixed_size_list
    if fixed(seen) and seen.list_size != (wanted.list_size if fixed(wanted) else 1):
        return False
    seen = seen.value_type if _is_list(seen) else seen
    wanted = wanted.value_type if _is_list(wanted) else wanted
    kinds = pa.types.is_floating, pa.types.is_integer, pa.types.is_boolean
    return any(test(seen) for test in kinds) and any(test(wanted) for test in kinds)


def _coded(table: pa.Table, name: str) -> list[bytes]:
    """The coded image of each row, empty where there is none."""
    column = table[name].combine_chunks()
    return [value or b"" for value in column.field("bytes").to_pylist()]


def _no_picture(
    row: EpisodeRow, name: str, step: int, what: str, shape: tuple[int, ...]
) -> DatasetError:
    camera = name.removeprefix(layout.CAMERA_PREFIX)
    return DatasetError(
        f"{row.data_path}: camera '{camera}' of episode {row.number} step {step} is {what}, "
        f"expected one of {shape}"
    )


def png_size(data: bytes) -> tuple[int, int] | None:
    """(height, width) that the header of a PNG names; None where it is none."""
    if len(data) < len(PNG_START) + PNG_HEADER.size or not data.startswith(PNG_START):
        return None
    size, kind, width, height, *_ = PNG_HEADER.unpack_from(data, len(PNG_START))
    return (height, width) if (size, kind) == (13, b"IHDR") else None


def sound_png(data: bytes, height: int, width: int) -> bool:
    """Whether it is a PNG of this size whose parts are whole, each with its checksum."""
    if png_size(data) != (height, width):
        return False
    place, view = len(PNG_START), memoryview(data)
    while place + 12 <= len(data):
        (size,) = struct.unpack_from(">I", data, place)
        end = place + 8 + size
        if end + 4 > len(data) or zlib.crc32(view[place + 4 : end]) != int.from_bytes(
            view[end : end + 4]
        ):
            return False
        if view[place + 4 : place + 8] == b"IEND":
            return True
        place = end + 4
    return False


def is_jpeg(data: bytes) -> bool:
    """Whether it is a whole JPEG, by its first and last marker."""
    return data.startswith(b"\xff\xd8\xff") and data.rstrip(b"\0").endswith(b"\xff\xd9")


def decode_jpeg(data: bytes) -> np.ndarray | None:
    """(H, W, 3) uint8 RGB; None where it cannot be read."""
    try:
        return decode_compressed(data)
    except ObservationRejected:
        return None


def decode_png(data: bytes, height: int, width: int) -> np.ndarray | None:
    """(height, width, 3) uint8 RGB; None unless it is a PNG of that size.

    The header is looked at first: a few bytes can ask for gigabytes.
    """
    if png_size(data) != (height, width):
        return None
    try:
        decoded = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    except cv2.error:
        return None
    if decoded is None or decoded.shape != (height, width, 3):
        return None
    return cv2.cvtColor(decoded, cv2.COLOR_BGR2RGB, dst=decoded)
