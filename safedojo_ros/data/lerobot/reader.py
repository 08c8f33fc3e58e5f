"""Reads episodes in the LeRobot v3 layout; what is damaged is named and left out."""

import logging
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from safedojo_ros.core.contract import Contract
from safedojo_ros.core.errors import DatasetError
from safedojo_ros.core.files import PARTIAL_SUFFIX
from safedojo_ros.core.types import RESIZE, Episode
from safedojo_ros.data.lerobot import layout
from safedojo_ros.data.lerobot.info import read_info
from safedojo_ros.data.lerobot.mapped import MappedSteps, mapped_info
from safedojo_ros.data.lerobot.rows import EpisodeRow, read_episode_rows
from safedojo_ros.data.lerobot.steps import StepFiles

DECODING_THREADS = min(8, os.cpu_count() or 1)

log = logging.getLogger(__name__)
"""Says what was left out, a line for each."""


@dataclass(frozen=True)
class FrameArrays:
    """All steps of the chosen episodes, one after the other, for training.

    images: (N, cameras, H, W, 3) uint8 in the order of `cameras`; state (N, S) float32; actions
    (N, A) float32; success (N,) bool; cost, displacement (N,) float32; extra {name: (N, ...)};
    starts: (E + 1,), episode e has the rows starts[e]:starts[e + 1]; rows: the E episodes' rows;
    contract: that they were read through, None: the layout of this package; resize: the rule by
    which the images became square.
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
    contract: Contract | None = None
    resize: str = RESIZE

    @property
    def episode(self) -> np.ndarray:
        """(N,) which of the E episodes each step is of."""
        return np.repeat(np.arange(len(self.rows)), np.diff(self.starts))


class EpisodeReader(Sequence[Episode]):
    """The dataset at `root` as a sequence of its whole episodes.

    Opening reads every file once and checks all but the pixels: checksums, lengths, shapes, names,
    finiteness. `rows` describes the episodes that are whole; `damage` has a line for each file and
    episode that is not, which is left out and logged; `leftovers` are the files of an interrupted
    recording, which are never read. contract: says what the columns of a set mean that another tool
    wrote, and the sizes and the rate that it is read at. Raises `DatasetError` where the metadata
    of the set is broken, or nothing is whole.
    """

    def __init__(self, root: Path, contract: Contract | None = None) -> None:
        self.root, self.contract = Path(root), contract
        self._steps: StepFiles | MappedSteps
        if contract is None:
            info = read_info(self.root)
            self.features, self.fps = info.features, info.fps
            self.cameras, self.extra_names = info.cameras, info.extra_names
            self.resize = info.resize
            self._steps = StepFiles(self.root, info)
        else:
            info = mapped_info(self.root, contract)
            self._steps = MappedSteps(self.root, info, contract)
            self.features, self.fps = self._steps.features, contract.rate
            self.cameras, self.extra_names = contract.camera_names, ()
            self.resize = contract.resize
            if self.fps != info.fps:
                log.info("%s: %d Hz, read at %d Hz", self.root, info.fps, self.fps)
        found = read_episode_rows(self.root, info, contract)
        self.damage, self.files = found.damage, found.files
        self.rows: list[EpisodeRow] = self._whole(found.rows)
        self.frames = sum(row.length for row in self.rows)
        self.sentences = self._read_sentences() if contract is None else ()
        if self.damage and not self.rows:
            raise DatasetError(self.damage[0])
        for line in self.damage:
            log.warning("left out: %s", line)
        self.leftovers = self._find_leftovers(found.rows) if contract is None else []

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[Episode]:
        return (self[i] for i in range(len(self)))

    def __getitem__(self, index: int) -> Episode:  # type: ignore[override]
        """The episode `index`, checked; raises `DatasetError`."""
        row = self.rows[index]
        table = self._steps.table(row, _features(self.cameras))
        values = self._steps.values(row, table)
        images = {}
        for name in self.cameras:
            pictures = _room((row.length, *self._picture_shape(name)), np.uint8)
            self._steps.pictures_into(pictures, row, table, layout.CAMERA_PREFIX + name)
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
            cost_source=row.cost_source,
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
        pictures = _room((total, len(cameras), *side), np.uint8)

        def load(e: int) -> None:
            row, here = rows[e], slice(starts[e], starts[e + 1])
            table = self._steps.table(row, _features(cameras))
            for name, column in self._steps.values(row, table).items():
                if name in values:
                    values[name][here] = column
            for c, name in enumerate(_features(cameras)):
                self._steps.pictures_into(pictures[here, c], row, table, name)

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
            contract=self.contract,
            resize=self.resize,
        )

    def first_pictures(self, indices: list[int]) -> dict[str, np.ndarray]:
        """{camera feature: (E, H, W, 3) uint8}, the first picture of each of the episodes."""
        result = {}
        for name in self.cameras:
            feature = layout.CAMERA_PREFIX + name
            pictures = np.empty((len(indices), *self._picture_shape(name)), np.uint8)
            for place, index in enumerate(indices):
                row = self.rows[index]
                table = self._steps.table(row, (feature,)).slice(0, 1)
                self._steps.pictures_into(pictures[place : place + 1], row, table, feature)
            result[feature] = pictures
        return result

    # ---------------------------------------------------------------- opening

    def _whole(self, rows: list[EpisodeRow]) -> list[EpisodeRow]:
        """Those whose files and steps are sound; of the others `damage` gets a line."""
        lengths: dict[Path, int] = {}
        for row in rows:
            lengths[row.data_path] = row.first_row + row.length
        broken: set[Path] = set()
        for path, length in lengths.items():
            try:
                self._steps.take(path, length)
            except DatasetError as error:
                self.damage.append(str(error))
                broken.add(path)

        def checked(row: EpisodeRow) -> EpisodeRow | str:
            try:
                return self._steps.check(row)
            except DatasetError as error:
                return str(error)

        readable = [row for row in rows if row.data_path not in broken]
        with ThreadPoolExecutor(DECODING_THREADS) as pool:
            found = list(pool.map(checked, readable))
        self.damage += [fault for fault in found if isinstance(fault, str)]
        return [row for row in found if not isinstance(row, str)]

    def _read_sentences(self) -> tuple[str, ...]:
        if not self.rows:
            return ()
        path = self.root / layout.TASKS_PATH
        try:
            layout.contained(self.root, path)
            rows = layout.read_rows(path, layout.tasks_table([]).schema)
        except DatasetError as error:  # the episodes' rows say their tasks, too
            self.damage.append(str(error))
            return ()
        sentences = tuple(row["task"] for row in rows)
        missing = {row.instruction for row in self.rows} - set(sentences)
        self.damage += [f"{path} lacks the task '{instruction}'" for instruction in missing]
        return sentences

    def _find_leftovers(self, rows: list[EpisodeRow]) -> list[Path]:
        """Files that no row names, none where a row may be lost; nothing beyond a link."""
        if self.damage:
            return []
        known = {row.data_path for row in rows}
        known |= {clip.path for row in rows for clip in row.clips.values()}
        home = self.root.resolve()
        found = {p for p in self.root.rglob("*") if p.name.endswith(PARTIAL_SUFFIX)}
        found |= set((self.root / "data").rglob("*.parquet")) - known
        found |= set((self.root / "videos").rglob("*.mp4")) - known
        return sorted(p for p in found if p.parent.resolve().is_relative_to(home))

    # ---------------------------------------------------------------- sizes

    def _picture_shape(self, camera: str) -> tuple[int, int, int]:
        height, width, channels = self.features[layout.CAMERA_PREFIX + camera]["shape"]
        return height, width, channels

    def _empty(self, name: str, length: int) -> np.ndarray:
        feature = self.features[name]
        width = feature["shape"][0]
        return _room((length,) if width == 1 else (length, width), feature["dtype"])


def _features(cameras: Sequence[str]) -> list[str]:
    return [layout.CAMERA_PREFIX + name for name in cameras]


def _room(shape: tuple[int, ...], dtype: np.typing.DTypeLike) -> np.ndarray:
    try:
        return np.empty(shape, dtype)
    except (MemoryError, ValueError):
        raise DatasetError(
            f"no room in memory for {shape} of {np.dtype(dtype)}; load fewer episodes"
        ) from None
