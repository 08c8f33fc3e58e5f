"""Writes episodes in the LeRobot v3 layout; an interruption at any instant leaves only whole ones.

Episodes gather in memory and go to disk as one file of a few: first the data, then the episode
rows that point into it, then the totals. Opening a dataset again removes what an interruption
left behind and appends.
"""

from pathlib import Path
from types import TracebackType
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from safedojo_ros.core.errors import DatasetError
from safedojo_ros.core.files import replacing
from safedojo_ros.core.types import ACTION_SIZE, RESIZE, STATE_SIZE, Episode
from safedojo_ros.data.lerobot import layout
from safedojo_ros.data.lerobot.reader import EpisodeReader
from safedojo_ros.data.lerobot.video import clip_checksums, write_video
from safedojo_ros.data.statistics import dataset_statistics

PNG_COMPRESSION = 1
"""zlib level: pictures of 64 x 64 become hardly smaller above it, and slower to write."""


class EpisodeWriter:
    """Appends whole episodes to the dataset at `root`; use it as a context manager.

    image_size: side of the square pictures; cameras: in the order of the columns; fps: control
    steps a second; video: keep pictures as mp4 (small, lossy) instead of PNG; resize: how they
    became square, see `core.types.RESIZES`; episodes_per_file: how many gather before they go to
    disk, so at most so many are lost by an interruption.
    Raises `DatasetError` where `root` is something else, or a dataset of another shape or a damaged
    one, or is being written by another process.
    """

    def __init__(
        self,
        root: Path,
        image_size: int,
        cameras: tuple[str, ...],
        fps: int = 20,
        *,
        video: bool = False,
        resize: str = RESIZE,
        episodes_per_file: int = 20,
    ) -> None:
        self.root, self.cameras, self.fps = Path(root), tuple(cameras), fps
        self._image_size, self._video, self._resize = image_size, video, resize
        self._episodes_per_file = episodes_per_file
        self._waiting: list[Episode] = []
        self._sentences: list[str] = []
        self._features: dict[str, Any] = {}
        self._extra_known = False
        self.episodes, self.frames, self._files = 0, 0, 0
        self._prepare_root()

    def __enter__(self) -> "EpisodeWriter":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def add(self, episode: Episode) -> None:
        """Take one whole episode; raises `DatasetError` for a shape, length or value that is off.

        All episodes of a dataset carry the same `extra` columns, each (T,) or (T, k).
        """
        self._check(episode)
        if not self._extra_known:
            self._features |= {k: _extra_feature(k, v) for k, v in episode.extra.items()}
            self._extra_known = True
        self._waiting.append(episode)
        if len(self._waiting) >= self._episodes_per_file:
            self.flush()

    def flush(self) -> None:
        """Put the gathered episodes on disk as one file."""
        if not self._waiting:
            return
        place = {
            "chunk_index": self._files // layout.FILES_PER_CHUNK,
            "file_index": self._files % layout.FILES_PER_CHUNK,
        }
        for episode in self._waiting:
            if episode.instruction not in self._sentences:
                self._sentences.append(episode.instruction)
        self._write_info()  # names every column before a file has it
        self._write_data(self.root / layout.DATA_PATH.format(**place))
        checksums: dict[str, list[int]] = {}
        for name in self.cameras if self._video else ():
            key = layout.CAMERA_PREFIX + name
            path = self.root / layout.VIDEO_PATH.format(video_key=key, **place)
            with replacing(path) as partial:
                write_video(partial, [e.images[name] for e in self._waiting], self.fps)
                lengths = [len(episode) for episode in self._waiting]
                checksums[key] = clip_checksums(partial, lengths, self.fps)
        self._write_table(self.root / layout.TASKS_PATH, layout.tasks_table(self._sentences))
        rows = self._episode_rows(place, checksums)
        schema = layout.episodes_schema(self._features)
        self._write_table(
            self.root / layout.EPISODES_PATH.format(**place),
            pa.Table.from_pylist(rows, schema=schema),
        )
        self.episodes += len(self._waiting)
        self.frames += sum(len(e) for e in self._waiting)
        self._files += 1
        self._waiting = []
        self._write_info()

    def close(self) -> None:
        """Put everything on disk and write the statistics."""
        if self._lock.closed:
            return
        try:
            self.flush()
            if self.episodes:
                reader = EpisodeReader(self.root)
                layout.write_json(self.root / layout.STATS_PATH, dataset_statistics(reader))
        finally:
            self._lock.close()

    # ---------------------------------------------------------------- opening

    def _prepare_root(self) -> None:
        info_path = self.root / layout.INFO_PATH
        if self.root.exists() and not info_path.exists():
            strange = [
                p.name for p in self.root.iterdir() if p.name not in ("meta", layout.WRITING)
            ]
            if strange:
                raise DatasetError(
                    f"{self.root} holds {strange[0]} but no {layout.INFO_PATH}: not a dataset; "
                    "choose an empty directory"
                )
        try:
            self.root.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise DatasetError(f"cannot write {self.root}: {error.strerror}") from None
        self._lock = layout.alone(self.root)
        try:
            if info_path.exists():
                self._open_again()
            else:
                self._features = self._plain_features()
                self._write_info()
        except BaseException:
            self._lock.close()
            raise

    def _open_again(self) -> None:
        reader = EpisodeReader(self.root)
        if reader.damage:
            raise DatasetError(
                f"{self.root} is damaged, nothing is added to it ({reader.damage[0]}); choose an "
                "empty directory"
            )
        mine, theirs = self._plain_features(), reader.features
        extra = {k: v for k, v in theirs.items() if k not in mine}
        if reader.fps != self.fps or any(theirs.get(k) != v for k, v in mine.items()):
            differing = [k for k, v in mine.items() if theirs.get(k) != v] or ["fps"]
            raise DatasetError(
                f"{self.root} has another '{differing[0]}' than this recording; "
                "choose an empty directory"
            )
        for path in reader.leftovers:
            path.unlink()
        self._features = mine | (extra if len(reader) else {})
        self._extra_known = len(reader) > 0
        self.episodes, self.frames = len(reader), reader.frames
        self._files = reader.files
        self._sentences = list(reader.sentences) if len(reader) else []
        self._write_info()

    def _plain_features(self) -> dict[str, Any]:
        cameras = layout.camera_features(self.cameras, self._image_size, self._video, self._resize)
        return cameras | layout.STEP_FEATURES | layout.INDEX_FEATURES

    # ---------------------------------------------------------------- writing

    def _write_info(self) -> None:
        layout.write_json(
            self.root / layout.INFO_PATH,
            {
                "codebase_version": layout.VERSION,
                "robot_type": "franka",
                "total_episodes": self.episodes,
                "total_frames": self.frames,
                "total_tasks": len(self._sentences),
                "chunks_size": layout.FILES_PER_CHUNK,
                "data_files_size_in_mb": 100,
                "video_files_size_in_mb": 200,
                "fps": self.fps,
                "splits": {"train": f"0:{self.episodes}"},
                "data_path": layout.DATA_PATH,
                "video_path": layout.VIDEO_PATH if self._video else None,
                "features": self._features,
            },
        )

    def _write_data(self, path: Path) -> None:
        """One row group for each episode, so that one episode can be read alone."""
        schema = layout.data_schema(self._features)
        first = self.frames
        with (
            replacing(path) as partial,
            pq.ParquetWriter(
                partial, schema, compression="snappy", write_page_checksum=True
            ) as file,
        ):
            for number, episode in enumerate(self._waiting):
                columns = self._columns(episode, self.episodes + number, first)
                arrays = [columns[name] for name in schema.names]
                file.write_table(pa.Table.from_arrays(arrays, schema=schema))
                first += len(episode)

    def _columns(self, episode: Episode, number: int, first: int) -> dict[str, pa.Array]:
        length = len(episode)
        frame = np.arange(length)
        values: dict[str, np.ndarray] = {
            "observation.state": episode.state,
            "action": episode.actions,
            "next.success": episode.success,
            "cost": episode.cost,
            "displacement": episode.displacement,
            "timestamp": frame / self.fps,
            "frame_index": frame,
            "episode_index": np.full(length, number),
            "index": frame + first,
            "task_index": np.full(length, self._sentences.index(episode.instruction)),
        } | episode.extra
        columns = {k: _column(v, self._features[k]) for k, v in values.items()}
        for name in self.cameras if not self._video else ():
            coded = pa.array([encode_picture(p) for p in episode.images[name]], pa.binary())
            paths = pa.nulls(length, pa.string())
            columns[layout.CAMERA_PREFIX + name] = pa.StructArray.from_arrays(
                [coded, paths], fields=list(layout.PICTURE)
            )
        return columns

    def _episode_rows(
        self, place: dict[str, int], checksums: dict[str, list[int]]
    ) -> list[dict[str, Any]]:
        rows, first, first_here = [], self.frames, self.frames
        for number, episode in enumerate(self._waiting):
            row: dict[str, Any] = {
                "episode_index": self.episodes + number,
                "tasks": [episode.instruction],
                "length": len(episode),
                "dataset_from_index": first,
                "dataset_to_index": first + len(episode),
                "task_name": episode.task,
                "level": int(episode.level),
                "seed": int(episode.seed),
                "source": episode.source,
                "success": episode.succeeded,
                "collided": episode.collided,
                "contact_steps": int(np.count_nonzero(episode.cost)),
                "cost_source": episode.cost_source,
            }
            places = ["data/", "meta/episodes/"]
            for name in self.cameras if self._video else ():
                key = layout.CAMERA_PREFIX + name
                prefix = f"videos/{key}/"
                row[prefix + "checksum"] = checksums[key][number]
                places.append(prefix)
                row[prefix + "from_timestamp"] = (first - first_here) / self.fps
                row[prefix + "to_timestamp"] = (first - first_here + len(episode)) / self.fps
            row |= {prefix + key: value for prefix in places for key, value in place.items()}
            rows.append(row)
            first += len(episode)
        return rows

    def _write_table(self, path: Path, table: pa.Table) -> None:
        with replacing(path) as partial:
            layout.write_table(partial, table)

    # ---------------------------------------------------------------- checking

    def _check(self, episode: Episode) -> None:
        length = len(episode)
        if length == 0:
            raise DatasetError("the episode has no steps; there is nothing to record")
        shapes = {
            "state": (np.asarray(episode.state), (length, STATE_SIZE)),
            "actions": (np.asarray(episode.actions), (length, ACTION_SIZE)),
            "success": (np.asarray(episode.success), (length,)),
            "cost": (np.asarray(episode.cost), (length,)),
            "displacement": (np.asarray(episode.displacement), (length,)),
        }
        for name, values in episode.extra.items():
            shapes[name] = (np.asarray(values), (length, *np.shape(values)[1:2]))
        for name, (array, shape) in shapes.items():
            if array.shape != shape:
                raise DatasetError(f"'{name}' has shape {array.shape}, expected {shape}")
            if not np.all(np.isfinite(array)):
                raise DatasetError(
                    f"'{name}' of the episode with seed {episode.seed} is not finite"
                )
        if set(episode.images) != set(self.cameras):
            raise DatasetError(
                f"the episode has cameras {sorted(episode.images)}, expected {sorted(self.cameras)}"
            )
        picture = (length, self._image_size, self._image_size, 3)
        for name, images in episode.images.items():
            if images.shape != picture or images.dtype != np.uint8:
                raise DatasetError(
                    f"camera '{name}' gave {images.dtype} {images.shape}, expected uint8 {picture}"
                )
        plain = self._plain_features()
        for name in episode.extra:
            if name in plain or "/" in name:
                raise DatasetError(f"extra column '{name}' has a reserved name; rename it")
        if self._extra_known:
            known = {k: v for k, v in self._features.items() if k not in plain}
            seen = {k: _extra_feature(k, v) for k, v in episode.extra.items()}
            if seen != known:
                raise DatasetError(
                    f"the episode has extra columns {sorted(seen)}, the dataset {sorted(known)} "
                    "(or of another shape); all episodes carry the same ones"
                )


def encode_picture(picture: np.ndarray) -> bytes:
    """(H, W, 3) uint8 RGB as lossless PNG."""
    swapped = cv2.cvtColor(picture, cv2.COLOR_RGB2BGR)
    return cv2.imencode(".png", swapped, [cv2.IMWRITE_PNG_COMPRESSION, PNG_COMPRESSION])[
        1
    ].tobytes()


def _extra_feature(name: str, values: np.ndarray) -> dict[str, Any]:
    kinds = {"f": "float32", "i": "int64", "u": "int64", "b": "bool"}
    values = np.asarray(values)
    if values.dtype.kind not in kinds:
        raise DatasetError(f"extra column '{name}' has type {values.dtype}, expected numbers")
    width = values.shape[1] if values.ndim == 2 else 1
    return {"dtype": kinds[values.dtype.kind], "shape": [width], "names": None}


def _column(values: np.ndarray, feature: dict[str, Any]) -> pa.Array:
    flat = np.ascontiguousarray(values, dtype=feature["dtype"]).reshape(-1)
    width = feature["shape"][0]
    return pa.array(flat) if width == 1 else pa.FixedSizeListArray.from_arrays(flat, width)
