"""The LeRobot v3 layout: where the files of a dataset lie, which columns they have, safe writes.

    root/meta/info.json                              features, totals, path templates
    root/meta/stats.json                             normalisation statistics
    root/meta/tasks.parquet                          sentence -> task_index
    root/meta/episodes/chunk-000/file-000.parquet    one row for each episode
    root/data/chunk-000/file-000.parquet             one row for each control step
    root/videos/<feature>/chunk-000/file-000.mp4     pictures, where they are kept as video
    root/probes.safetensors                          what motions near the obstacles touched, if any

A data file is complete before the episode rows that point into it are written, so whatever the
episode rows name is whole; a file that no episode row names is a leftover of an interruption.

Every page of a parquet file and every clip of a video carries a checksum. Names of files are made
here from plain numbers, never from the templates in info.json, which have to be the ones below.
"""

import fcntl
import json
import re
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from safedojo_ros.core.errors import DatasetError
from safedojo_ros.core.files import write_whole
from safedojo_ros.core.types import ACTION_SIZE, RESIZE, STATE_SIZE

VERSION = "v3.0"
FILES_PER_CHUNK = 1000
DATA_PATH = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
VIDEO_PATH = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"
EPISODES_PATH = "meta/episodes/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
INFO_PATH = "meta/info.json"
STATS_PATH = "meta/stats.json"
TASKS_PATH = "meta/tasks.parquet"
CAMERA_PREFIX = "observation.images."
WRITING = ".writing"
"""Locked while a process writes the set."""

FILE_NAME = re.compile(r"chunk-\d{3,6}/file-\d{3,6}\.(parquet|mp4)")
MOST_NUMBERED = 1_000_000
"""More files than this, or chunks of files, are numbers of a damaged row."""

METADATA_LIMIT = 64 * 2**20
"""Bytes; larger metadata is damaged."""
MOST_ROWS = 10_000_000
"""Episodes of one file; more are damage."""
OPTIONAL = re.compile(r"videos/.+/checksum|cost_source")
"""Columns of meta/episodes that may be absent."""
OURS = re.compile(r"meta/episodes/.+|task_name|level|seed|source|success|collided|contact_steps")
"""Columns of meta/episodes that sets of other tools lack, too."""

STATE_NAMES = ["x", "y", "z", "rx", "ry", "rz", "finger_left", "finger_right"]
ACTION_NAMES = ["dx", "dy", "dz", "drx", "dry", "drz", "gripper"]

STEP_FEATURES: dict[str, dict[str, Any]] = {
    "observation.state": {"dtype": "float32", "shape": [STATE_SIZE], "names": STATE_NAMES},
    "action": {"dtype": "float32", "shape": [ACTION_SIZE], "names": ACTION_NAMES},
    "next.success": {"dtype": "bool", "shape": [1], "names": None},
    "cost": {"dtype": "float32", "shape": [1], "names": None},
    "displacement": {"dtype": "float32", "shape": [1], "names": None},
}
"""What the robot did, for each step; `Episode.extra` adds columns beside these."""

INDEX_FEATURES: dict[str, dict[str, Any]] = {
    "timestamp": {"dtype": "float32", "shape": [1], "names": None},
    "frame_index": {"dtype": "int64", "shape": [1], "names": None},
    "episode_index": {"dtype": "int64", "shape": [1], "names": None},
    "index": {"dtype": "int64", "shape": [1], "names": None},
    "task_index": {"dtype": "int64", "shape": [1], "names": None},
}

EPISODE_COLUMNS: dict[str, pa.DataType] = {
    "episode_index": pa.int64(),
    "tasks": pa.list_(pa.string()),
    "length": pa.int64(),
    "data/chunk_index": pa.int64(),
    "data/file_index": pa.int64(),
    "dataset_from_index": pa.int64(),
    "dataset_to_index": pa.int64(),
    "meta/episodes/chunk_index": pa.int64(),
    "meta/episodes/file_index": pa.int64(),
    "task_name": pa.string(),
    "level": pa.int64(),
    "seed": pa.int64(),
    "source": pa.string(),
    "success": pa.bool_(),
    "collided": pa.bool_(),
    "contact_steps": pa.int64(),
    "cost_source": pa.string(),
}
"""One row for each episode: LeRobot's columns, then ours (tasks holds the instruction)."""

PICTURE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def alone(root: Path) -> IO[bytes]:
    """Keep other processes from writing the set in `root` until this file is closed.

    Raises `DatasetError` while another one does, or where nothing can be written.
    """
    try:
        lock = (root / WRITING).open("wb")
    except OSError as error:
        raise DatasetError(f"cannot write {root}: {error.strerror}") from None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        lock.close()
        raise DatasetError(
            f"{root} is being written by another process; wait for it or choose another directory"
        ) from None
    return lock


def numbered(chunk: Any, file: Any) -> dict[str, int]:
    """What a file's name is made of; raises `DatasetError` unless both are small plain numbers."""
    for value in (chunk, file):
        if not isinstance(value, int) or not 0 <= value < MOST_NUMBERED:
            raise DatasetError(
                f"a file with chunk {chunk!r} and number {file!r} cannot be one's name"
            )
    return {"chunk_index": chunk, "file_index": file}


def contained(root: Path, path: Path) -> Path:
    """`path`, where it leads to a plain file of the data set at `root`; raises `DatasetError`.

    A link may lead to another place in the data set or, in a cache of Hugging Face, from
    `snapshots/<revision>` to the `blobs` beside it. No other link is followed.
    """
    try:
        home, real = root.resolve(), path.resolve()
        plain = real.is_file()
    except (OSError, RuntimeError) as error:  # a link to itself
        raise DatasetError(f"cannot read {path}: {error}") from None
    homes = [home]
    if home.parent.name == "snapshots":
        homes.append(home.parent.parent / "blobs")
    if not any(real.is_relative_to(h) for h in homes):
        raise DatasetError(
            f"{path} leads out of the data set, to {real}; put the file itself there"
        )
    if not plain:
        raise DatasetError(f"cannot read {path}: no such file; record it again")
    return path


def camera_features(
    cameras: tuple[str, ...], image_size: int, video: bool, resize: str = RESIZE
) -> dict[str, Any]:
    """Features of square RGB pictures, as lossless PNG (`image`) or as mp4 (`video`). resize: the
    rule by which they became square, which is written where it is not the usual one."""
    rule = {} if resize == RESIZE else {"resize": resize}
    return {
        CAMERA_PREFIX + name: {
            "dtype": "video" if video else "image",
            "shape": [image_size, image_size, 3],
            "names": ["height", "width", "channels"],
        }
        | rule
        for name in cameras
    }


def data_schema(features: dict[str, Any]) -> pa.Schema:
    """Arrow schema of a data file, with the note by which Hugging Face datasets finds pictures."""
    fields: list[pa.Field] = []
    described: dict[str, Any] = {}
    for name, feature in features.items():
        if feature["dtype"] == "video":
            continue
        if feature["dtype"] == "image":
            fields.append(pa.field(name, PICTURE))
            described[name] = {"_type": "Image"}
            continue
        value = pa.bool_() if feature["dtype"] == "bool" else pa.type_for_alias(feature["dtype"])
        plain = {"dtype": feature["dtype"], "_type": "Value"}
        width = feature["shape"][0]
        if width == 1:
            fields.append(pa.field(name, value))
            described[name] = plain
        else:
            fields.append(pa.field(name, pa.list_(value, width)))
            described[name] = {"feature": plain, "length": width, "_type": "Sequence"}
    note = json.dumps({"info": {"features": described}})
    return pa.schema(fields, metadata={"huggingface": note})


def episodes_schema(features: dict[str, Any]) -> pa.Schema:
    """Arrow schema of an episodes file; a video adds where in which file the episode lies."""
    columns = dict(EPISODE_COLUMNS)
    for name, feature in features.items():
        if feature["dtype"] == "video":
            columns[f"videos/{name}/chunk_index"] = pa.int64()
            columns[f"videos/{name}/file_index"] = pa.int64()
            columns[f"videos/{name}/from_timestamp"] = pa.float64()
            columns[f"videos/{name}/to_timestamp"] = pa.float64()
            columns[f"videos/{name}/checksum"] = pa.int64()
    return pa.schema(list(columns.items()))


def tasks_table(sentences: list[str]) -> pa.Table:
    """tasks.parquet as pandas would write a frame indexed by `task`: LeRobot reads it so."""
    columns = [
        {
            "name": "task_index",
            "field_name": "task_index",
            "pandas_type": "int64",
            "numpy_type": "int64",
            "metadata": None,
        },
        {
            "name": "task",
            "field_name": "task",
            "pandas_type": "unicode",
            "numpy_type": "object",
            "metadata": None,
        },
    ]
    note = {"index_columns": ["task"], "column_indexes": [], "columns": columns}
    schema = pa.schema(
        [("task_index", pa.int64()), ("task", pa.string())],
        metadata={"pandas": json.dumps(note)},
    )
    return pa.table([list(range(len(sentences))), sentences], schema=schema)


def write_table(path: Path, table: pa.Table) -> None:
    """Write a metadata file, with a checksum of every page."""
    pq.write_table(table, path, write_page_checksum=True)


def read_rows(path: Path, schema: pa.Schema, foreign: bool = False) -> list[dict[str, Any]]:
    """Rows of a metadata file; columns named in `OPTIONAL` may be absent or null, then None.

    foreign: so may those in `OURS`. Raises `DatasetError` for a damaged file, a missing column or
    value, or another type.
    """
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            size = _bytes_of(file.metadata, set(schema.names))
            if size > METADATA_LIMIT or file.metadata.num_rows > MOST_ROWS:
                raise DatasetError(
                    f"{path} is too large: {file.metadata.num_rows} rows of {size} B"
                )
            present = [name for name in schema.names if name in file.schema_arrow.names]
            table = file.read(columns=present, use_threads=False)
        for name in schema.names:
            if OPTIONAL.fullmatch(name) or (foreign and OURS.fullmatch(name)):
                continue
            if name not in table.column_names:
                raise DatasetError(f"{path} lacks the column '{name}'")
            if table[name].null_count:
                raise DatasetError(f"{path} lacks values of '{name}'")
        fields = [schema.field(name) for name in table.column_names]
        rows = table.cast(pa.schema(fields)).to_pylist()
    except DatasetError:
        raise
    except Exception as error:  # Arrow's, the system's, Python's: what a damaged file leads to
        raise DatasetError(f"cannot read {path}: {_brief(error)}; record it again") from None
    return [dict.fromkeys(schema.names) | row for row in rows]


def _bytes_of(metadata: pq.FileMetaData, names: set[str]) -> int:
    """Bytes that these columns unpack to; other tools add statistics beside them."""
    groups = (metadata.row_group(i) for i in range(metadata.num_row_groups))
    columns = (group.column(j) for group in groups for j in range(group.num_columns))
    return sum(
        column.total_uncompressed_size
        for column in columns
        if column.path_in_schema.split(".")[0] in names
    )


def _brief(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]


def read_json(path: Path) -> dict[str, Any]:
    """Parse a JSON object; raises `DatasetError` that names the file."""
    try:
        size = path.stat().st_size
        if size > METADATA_LIMIT:
            raise DatasetError(f"{path} has {size} bytes, expected at most {METADATA_LIMIT}")
        value = json.loads(path.read_bytes())
    except OSError as error:
        raise DatasetError(f"cannot read {path}: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise DatasetError(f"{path} is not valid JSON: {error}; record it again") from None
    if not isinstance(value, dict):
        raise DatasetError(f"{path} holds a {type(value).__name__}, expected an object")
    return value


def write_json(path: Path, value: dict[str, Any]) -> None:
    """Write a JSON object so that a reader sees the old file or the new one, whole."""
    write_whole(path, json.dumps(value, indent=2) + "\n")
