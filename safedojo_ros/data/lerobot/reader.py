"""Reads episodes in the LeRobot v3 layout; every fault is a `DatasetError` that names the file."""

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from safedojo_ros.core.errors import DatasetError
from safedojo_ros.core.files import PARTIAL_SUFFIX
from safedojo_ros.core.types import Episode
from safedojo_ros.data.lerobot import layout
from safedojo_ros.data.lerobot.video import read_video

DECODING_THREADS = min(8, os.cpu_count() or 1)


@dataclass(frozen=True)
class EpisodeRow:
    """What the episode's row in meta/episodes says of it, and where its steps lie."""

    number: int
    length: int
    instruction: str
    task: str
    level: int
    seed: int
    source: str
    success: bool
    collided: bool
    contact_steps: int
    data_path: Path
    first_row: int
    video_places: dict[str, tuple[Path, int]] = field(default_factory=dict)

    @property
    def touched(self) -> bool:
        """Whether it has a contact, or moved the obstacle."""
        return self.collided or self.contact_steps > 0


@dataclass(frozen=True)
class FrameArrays:
    """All steps of the chosen episodes, one after the other, for training.

    images: (N, cameras, H, W, 3) uint8 in the order of `cameras`; state (N, 8) float32; actions
    (N, 7) float32; success (N,) bool; cost, displacement (N,) float32; extra {name: (N, ...)};
    starts: (E + 1,), episode e has the rows starts[e]:starts[e + 1]; rows: the E episodes' rows.
    """

    images: np.ndarray
    cameras: tuple[str, ...]
    state: np.ndarray
    actions: np.ndarray
    success: np.ndarray
    cost: np.ndarray
    displacement: np.ndarray
    extra: dict[str, np.ndarray]
    starts: np.ndarray
    rows: list[EpisodeRow]

    @property
    def episode(self) -> np.ndarray:
        """(N,) which of the E episodes each step is of."""
        return np.repeat(np.arange(len(self.rows)), np.diff(self.starts))


class EpisodeReader(Sequence[Episode]):
    """The dataset at `root` as a sequence of episodes.

    Opening checks the metadata and every data file's footer; reading an episode checks lengths,
    shapes, finiteness and pictures. `rows` describes the episodes without reading their steps;
    `leftovers` are the files of an interrupted recording, which are never read.
    """

    def __init__(self, root: Path) -> None:
        self.root = Path(root)
        info_path = self.root / layout.INFO_PATH
        if not info_path.exists():
            raise DatasetError(
                f"{self.root} is no dataset: {layout.INFO_PATH} is missing; "
                "give the directory that `safedojo collect --out` wrote"
            )
        info = layout.read_json(info_path)
        version = str(info.get("codebase_version"))
        if not version.startswith("v3."):
            raise DatasetError(f"{info_path} has codebase_version {version}, expected v3.x")
        try:
            self.features: dict[str, Any] = dict(info["features"])
            self.fps = int(info["fps"])
            self._data_path = str(info["data_path"])
            self._video_path = str(info.get("video_path") or layout.VIDEO_PATH)
            self._check_features(info_path)
        except (KeyError, TypeError, ValueError) as error:
            raise DatasetError(f"{info_path} lacks or garbles {error}; record it again") from None
        self.cameras = tuple(
            name.removeprefix(layout.CAMERA_PREFIX)
            for name in self.features
            if name.startswith(layout.CAMERA_PREFIX)
        )
        self.rows: list[EpisodeRow] = []
        self.frames, self.files = 0, 0
        self._row_groups: dict[Path, np.ndarray] = {}
        self._read_episode_rows()
        self._check_data_files()
        self.sentences = self._read_sentences()
        self.leftovers = self._find_leftovers()

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[Episode]:
        return (self[i] for i in range(len(self)))

    def __getitem__(self, index: int) -> Episode:  # type: ignore[override]
        """The episode `index`, checked; raises `DatasetError`."""
        row = self.rows[index]
        table = self._steps(row)
        values = self._values(row, table)
        images = {}
        for name in self.cameras:
            side = self._picture_shape(name)
            pictures = np.empty((row.length, *side), np.uint8)
            self._pictures_into(pictures, row, table, name)
            images[name] = pictures
        return Episode(
            images=images,
            state=values["observation.state"],
            actions=values["action"],
            success=values["next.success"],
            cost=values["cost"],
            displacement=values["displacement"],
            instruction=row.instruction,
            task=row.task,
            level=row.level,
            seed=row.seed,
            source=row.source,
            extra={name: values[name] for name in self.extra_names},
        )

    @property
    def extra_names(self) -> tuple[str, ...]:
        """Names of the columns that come back as `Episode.extra`."""
        known = layout.STEP_FEATURES.keys() | layout.INDEX_FEATURES.keys()
        return tuple(
            n for n in self.features if n not in known and not n.startswith(layout.CAMERA_PREFIX)
        )

    def load_arrays(
        self,
        indices: Sequence[int] | None = None,
        cameras: tuple[str, ...] | None = None,
        images: bool = True,
    ) -> FrameArrays:
        """All steps of the episodes `indices` (default: all), with the pictures of `cameras`.

        Checked like single episodes. With `images=False` the pictures are not read and
        `FrameArrays.images` is (N, 0, 0, 0, 3).
        """
        rows = self.rows if indices is None else [self.rows[i] for i in indices]
        cameras = (self.cameras if cameras is None else cameras) if images else ()
        for name in cameras:
            if name not in self.cameras:
                raise DatasetError(f"{self.root} has no camera '{name}', but {self.cameras}")
        starts = np.concatenate([[0], np.cumsum([r.length for r in rows])]).astype(np.int64)
        total = int(starts[-1])
        values = {n: self._empty(n, total) for n in (*layout.STEP_FEATURES, *self.extra_names)}
        side = self._picture_shape(cameras[0]) if cameras else (0, 0, 3)
        if any(self._picture_shape(n) != side for n in cameras):
            raise DatasetError("the cameras differ in size; load them one at a time")
        pictures = np.empty((total, len(cameras), *side), np.uint8)

        def load(e: int) -> None:
            row, here = rows[e], slice(starts[e], starts[e + 1])
            table = self._steps(row, cameras)
            for name, column in self._values(row, table).items():
                if name in values:
                    values[name][here] = column
            for c, name in enumerate(cameras):
                self._pictures_into(pictures[here, c], row, table, name)

        with ThreadPoolExecutor(DECODING_THREADS) as pool:
            for _ in pool.map(load, range(len(rows))):
                pass
        return FrameArrays(
            images=pictures,
            cameras=tuple(cameras),
            state=values["observation.state"],
            actions=values["action"],
            success=values["next.success"],
            cost=values["cost"],
            displacement=values["displacement"],
            extra={name: values[name] for name in self.extra_names},
            starts=starts,
            rows=list(rows),
        )

    def first_pictures(self, indices: list[int]) -> dict[str, np.ndarray]:
        """{camera feature: (E, H, W, 3) uint8}, the first picture of each of the episodes."""
        result = {}
        for name in self.cameras:
            pictures = np.empty((len(indices), *self._picture_shape(name)), np.uint8)
            for place, index in enumerate(indices):
                row = self.rows[index]
                table = self._steps(row, (name,)).slice(0, 1)
                self._pictures_into(pictures[place : place + 1], row, table, name)
            result[layout.CAMERA_PREFIX + name] = pictures
        return result

    # ---------------------------------------------------------------- opening

    def _check_features(self, info_path: Path) -> None:
        for name, expected in (layout.STEP_FEATURES | layout.INDEX_FEATURES).items():
            seen = self.features[name]
            if seen["dtype"] != expected["dtype"] or list(seen["shape"]) != expected["shape"]:
                raise DatasetError(
                    f"{info_path}: feature '{name}' is {seen['dtype']} {seen['shape']}, expected "
                    f"{expected['dtype']} {expected['shape']}"
                )

    def _read_episode_rows(self) -> None:
        paths = sorted((self.root / "meta/episodes").glob("chunk-*/file-*.parquet"))
        first_of_file: dict[Path, int] = {}
        schema = layout.episodes_schema(self.features)
        for path in paths:
            table = layout.read_table(path, schema)
            for values in table.to_pylist():
                self._add_row(path, values, first_of_file)
        self.files = len(paths)

    def _add_row(self, path: Path, values: dict[str, Any], first_of_file: dict[Path, int]) -> None:
        number, first, length = len(self.rows), self.frames, values["length"]
        seen = (values["episode_index"], values["dataset_from_index"], values["dataset_to_index"])
        if seen != (number, first, first + length) or length < 1:
            raise DatasetError(
                f"{path}: episode {seen[0]} has rows {seen[1]} to {seen[2]} and length {length}, "
                f"expected episode {number} from row {first}; record the dataset again"
            )
        place = {key: values[f"data/{key}"] for key in ("chunk_index", "file_index")}
        data_path = self.root / self._data_path.format(**place)
        first_of_file.setdefault(data_path, first)
        video_places = {}
        for name, feature in self.features.items():
            if feature["dtype"] == "video":
                where = {k: values[f"videos/{name}/{k}"] for k in ("chunk_index", "file_index")}
                video = self.root / self._video_path.format(video_key=name, **where)
                frame = round(values[f"videos/{name}/from_timestamp"] * self.fps)
                video_places[name] = (video, frame)
        self.rows.append(
            EpisodeRow(
                number=number,
                length=length,
                instruction=values["tasks"][0],
                task=values["task_name"],
                level=values["level"],
                seed=values["seed"],
                source=values["source"],
                success=values["success"],
                collided=values["collided"],
                contact_steps=values["contact_steps"],
                data_path=data_path,
                first_row=first - first_of_file[data_path],
                video_places=video_places,
            )
        )
        self.frames += length

    def _check_data_files(self) -> None:
        expected: dict[Path, int] = {}
        for row in self.rows:
            expected[row.data_path] = row.first_row + row.length
        schema = layout.data_schema(self.features)
        for path, rows in expected.items():
            try:
                seen = pq.read_metadata(path)
                columns = seen.schema.to_arrow_schema()
            except (pa.ArrowException, OSError) as error:
                raise DatasetError(f"cannot read {path}: {error}; record it again") from None
            if seen.num_rows != rows:
                raise DatasetError(f"{path} has {seen.num_rows} rows, its episodes have {rows}")
            for name in schema.names:
                if name not in columns.names:
                    raise DatasetError(f"{path} lacks the column '{name}'")
                if columns.field(name).type != schema.field(name).type:
                    raise DatasetError(
                        f"{path}: column '{name}' is {columns.field(name).type}, expected "
                        f"{schema.field(name).type}"
                    )
            sizes = [seen.row_group(i).num_rows for i in range(seen.num_row_groups)]
            self._row_groups[path] = np.concatenate([[0], np.cumsum(sizes)])

    def _read_sentences(self) -> tuple[str, ...]:
        if not self.rows:
            return ()
        path = self.root / layout.TASKS_PATH
        sentences = tuple(
            layout.read_table(path, layout.tasks_table([]).schema)["task"].to_pylist()
        )
        for row in self.rows:
            if row.instruction not in sentences:
                raise DatasetError(f"{path} lacks the task '{row.instruction}'")
        return sentences

    def _find_leftovers(self) -> list[Path]:
        known = {row.data_path for row in self.rows}
        known |= {video for row in self.rows for video, _ in row.video_places.values()}
        found = {p for p in self.root.rglob("*") if p.name.endswith(PARTIAL_SUFFIX)}
        found |= set((self.root / "data").rglob("*.parquet")) - known
        found |= set((self.root / "videos").rglob("*.mp4")) - known
        return sorted(found)

    # ---------------------------------------------------------------- one episode

    def _steps(self, row: EpisodeRow, cameras: tuple[str, ...] | None = None) -> pa.Table:
        """The episode's rows, with the pictures of `cameras` (default: all) where embedded."""
        cameras = self.cameras if cameras is None else cameras
        columns = [n for n in layout.data_schema(self.features).names if self._wanted(n, cameras)]
        bounds = self._row_groups[row.data_path]
        first = int(np.searchsorted(bounds, row.first_row, side="right")) - 1
        last = int(np.searchsorted(bounds, row.first_row + row.length, side="left"))
        try:
            with pq.ParquetFile(row.data_path) as file:
                table = file.read_row_groups(
                    list(range(first, last)), columns=columns, use_threads=False
                )
        except (pa.ArrowException, OSError) as error:
            raise DatasetError(f"cannot read {row.data_path}: {error}; record it again") from None
        return table.slice(row.first_row - int(bounds[first]), row.length)

    def _wanted(self, name: str, cameras: tuple[str, ...]) -> bool:
        camera = name.removeprefix(layout.CAMERA_PREFIX)
        return camera == name or camera in cameras

    def _values(self, row: EpisodeRow, table: pa.Table) -> dict[str, np.ndarray]:
        values = {}
        for name in table.column_names:
            if name.startswith(layout.CAMERA_PREFIX):
                continue
            column = table[name].combine_chunks()
            if column.null_count:
                raise DatasetError(
                    f"{row.data_path}: episode {row.number} lacks values of '{name}'"
                )
            width = self.features[name]["shape"][0]
            plain = column if width == 1 else column.flatten()
            array = plain.to_numpy(zero_copy_only=False).reshape(len(table), -1)
            array = array[:, 0] if width == 1 else array
            if not np.all(np.isfinite(array)):
                step = int(np.argwhere(~np.isfinite(array))[0, 0])
                raise DatasetError(
                    f"{row.data_path}: '{name}' of episode {row.number} is not finite at step "
                    f"{step}; record it again"
                )
            values[name] = np.array(array)
        if not np.array_equal(values["frame_index"], np.arange(row.length)) or np.any(
            values["episode_index"] != row.number
        ):
            raise DatasetError(
                f"{row.data_path}: the rows of episode {row.number} are out of order; "
                "record it again"
            )
        return values

    def _pictures_into(
        self, pictures: np.ndarray, row: EpisodeRow, table: pa.Table, camera: str
    ) -> None:
        """Fill `pictures` (len(table), H, W, 3) with the first pictures of `table`'s rows."""
        name = layout.CAMERA_PREFIX + camera
        if self.features[name]["dtype"] == "video":
            path, first = row.video_places[name]
            seen = read_video(path, first, len(pictures), self.fps)
            if seen.shape != pictures.shape:
                raise DatasetError(
                    f"{path} has pictures {seen.shape[1:]}, expected {self.features[name]['shape']}"
                )
            pictures[:] = seen
            return
        coded = table[name].combine_chunks().field("bytes")
        for step, value in enumerate(coded):
            buffer = value.as_buffer()
            decoded = None
            if buffer is not None and buffer.size:
                decoded = cv2.imdecode(np.frombuffer(buffer, np.uint8), cv2.IMREAD_COLOR)
            if decoded is None or decoded.shape != pictures.shape[1:]:
                seen_shape = None if decoded is None else decoded.shape
                raise DatasetError(
                    f"{row.data_path}: camera '{camera}' of episode {row.number} step {step} is "
                    f"{seen_shape or 'no picture'}, expected {pictures.shape[1:]}"
                )
            cv2.cvtColor(decoded, cv2.COLOR_BGR2RGB, dst=decoded)
            pictures[step] = decoded

    def _picture_shape(self, camera: str) -> tuple[int, int, int]:
        height, width, channels = self.features[layout.CAMERA_PREFIX + camera]["shape"]
        return int(height), int(width), int(channels)

    def _empty(self, name: str, length: int) -> np.ndarray:
        feature = self.features[name]
        width = feature["shape"][0]
        return np.empty((length,) if width == 1 else (length, width), feature["dtype"])
