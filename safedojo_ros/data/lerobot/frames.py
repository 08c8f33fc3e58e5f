"""The steps of several data sets, one after the other, for training."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from safedojo_ros.core.contract import Contract
from safedojo_ros.core.errors import DatasetError
from safedojo_ros.core.types import CONTROL_PERIOD
from safedojo_ros.data.lerobot.reader import EpisodeReader, FrameArrays


@dataclass(frozen=True)
class Foreign:
    """A data set of another tool. contract: what its columns mean, and how it is read."""

    directory: Path
    contract: Contract

    def __str__(self) -> str:
        return str(self.directory)


Source = Path | Foreign
"""A data set of this package, or of another tool."""


def open_set(source: Source) -> EpisodeReader:
    """The reader of one data set; raises `DatasetError`."""
    if isinstance(source, Foreign):
        return EpisodeReader(source.directory, source.contract)
    return EpisodeReader(source)


def open_all(sources: Sequence[Source]) -> list[EpisodeReader]:
    """A reader of each; raises `DatasetError` for no episode at all, for different cameras or
    resize rules, or for another rate than this package's without a contract that says so."""
    readers = [open_set(source) for source in sources]
    for reader in readers:
        if reader.contract is None and reader.fps != round(1 / CONTROL_PERIOD):
            raise DatasetError(
                f"{reader.root} has {reader.fps} steps a second, models act "
                f"{1 / CONTROL_PERIOD:g} times; --contract says the rate to learn at"
            )
    names = [str(source) for source in sources]
    if not any(len(reader) for reader in readers):
        raise DatasetError(f"no episodes in {names}; collect some")
    cameras = sorted({reader.cameras for reader in readers})
    if len(cameras) > 1:
        raise DatasetError(f"the data sets {names} have different cameras: {cameras}")
    rules = sorted({reader.resize for reader in readers})
    if len(rules) > 1:
        raise DatasetError(f"the images of {names} were made to fit by different rules: {rules}")
    return readers


def load_frames(
    readers: Sequence[EpisodeReader],
    images: bool = True,
    chosen: Sequence[Sequence[int]] | None = None,
) -> FrameArrays:
    """All steps of the data sets, as from `EpisodeReader.load_arrays`.

    chosen: the episodes of each (default: all). The images of one data set at a time are in memory
    beside those of all. `extra` holds the columns that all have; but the action that was executed
    stands in for a "clean_action" that only some have. Raises `DatasetError` for images of
    different sizes.
    """
    episodes = chosen or [range(len(reader)) for reader in readers]
    count = sum(r.rows[i].length for r, some in zip(readers, episodes, strict=True) for i in some)
    parts: list[FrameArrays] = []
    every, first = np.empty((0, 0, 0, 0, 3), np.uint8), 0
    for reader, some in zip(readers, episodes, strict=True):
        part = reader.load_arrays(some, images=images)
        if not parts:
            every = np.empty((count, *part.images.shape[1:]), np.uint8)
        if part.images.shape[1:] != every.shape[1:]:
            raise DatasetError(
                f"{reader.root} has images of another size than {readers[0].root}: "
                f"{part.images.shape[1:]} and {every.shape[1:]} (cameras, height, width, colours)"
            )
        end = first + len(part.state)
        every[first:end] = part.images
        first = end
        parts.append(replace(part, images=part.images[:0]))
    labels = [part.extra.get("clean_action", part.actions) for part in parts]
    common = set.intersection(*(set(part.extra) for part in parts))
    extra = {name: np.concatenate([part.extra[name] for part in parts]) for name in common}
    if any("clean_action" in part.extra for part in parts):
        extra["clean_action"] = np.concatenate(labels)
    lengths = np.concatenate([np.diff(part.starts) for part in parts])
    return FrameArrays(
        images=every,
        cameras=parts[0].cameras,
        state=np.concatenate([part.state for part in parts]),
        actions=np.concatenate([part.actions for part in parts]),
        success=np.concatenate([part.success for part in parts]),
        cost=np.concatenate([part.cost for part in parts]),
        displacement=np.concatenate([part.displacement for part in parts]),
        extra=extra,
        starts=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        rows=[row for part in parts for row in part.rows],
        contract=parts[0].contract,
        resize=parts[0].resize,
    )


def steps_ahead(rows: np.ndarray, ends: np.ndarray, length: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows (B, H) of the steps from `rows` (B,) on, and which of them exist (B, H) bool.

    ends: (B,) row after the last one that does, which stands in for those that do not.
    """
    steps = rows[:, None] + np.arange(length)
    return np.minimum(steps, ends[:, None] - 1), steps < ends[:, None]
