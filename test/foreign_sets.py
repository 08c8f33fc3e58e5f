"""Data sets as other tools write them in the LeRobot v3 layout: by hand, without our writer."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from safedojo_ros.data.lerobot.video import write_video

Encode = Callable[[np.ndarray], bytes]


def png(image: np.ndarray) -> bytes:
    return bytes(cv2.imencode(".png", image[:, :, ::-1])[1])


def jpeg(image: np.ndarray) -> bytes:
    return bytes(cv2.imencode(".jpg", image[:, :, ::-1])[1])


@dataclass
class ForeignSet:
    """What the episodes hold: images {feature: (T, H, W, 3)}, columns {feature: (T,) or (T, D)}."""

    images: list[dict[str, np.ndarray]]
    columns: list[dict[str, np.ndarray]]
    fps: int = 10
    sentences: Sequence[str] = ("pick up the bolt",)
    video: bool = False
    fixed: bool = False
    encode: Encode = png
    channels_first: bool = False
    strings: dict[str, str] = field(default_factory=dict)
    """{feature: text} of every row, which no contract asks for."""

    def write(self, root: Path) -> Path:
        """All episodes in one file, as LeRobot does."""
        lengths = [len(next(iter(c.values()))) for c in self.columns]
        starts = np.concatenate([[0], np.cumsum(lengths)])
        tables = [self._table(e, int(starts[e])) for e in range(len(lengths))]
        data = root / "data/chunk-000/file-000.parquet"
        data.parent.mkdir(parents=True)
        pq.write_table(pa.concat_tables(tables), data)
        for name in self.images[0] if self.video else ():
            file = root / f"videos/{name}/chunk-000/file-000.mp4"
            file.parent.mkdir(parents=True)
            write_video(file, [episode[name] for episode in self.images], self.fps)
        rows = [self._row(e, int(starts[e]), lengths[e]) for e in range(len(lengths))]
        episodes = root / "meta/episodes/chunk-000/file-000.parquet"
        episodes.parent.mkdir(parents=True)
        pq.write_table(pa.Table.from_pylist(rows), episodes)
        pq.write_table(
            pa.table(
                {
                    "task_index": list(range(len(self.sentences))),
                    "__index_level_0__": list(self.sentences),
                }
            ),
            root / "meta/tasks.parquet",
        )
        (root / "meta/info.json").write_text(json.dumps(self._info(lengths), indent=4))
        (root / "meta/stats.json").write_text("{}")
        return root

    def _info(self, lengths: list[int]) -> dict[str, Any]:
        features: dict[str, Any] = {}
        for name, values in self.columns[0].items():
            names = [f"motor_{i}" for i in range(values.shape[1])] if values.ndim == 2 else None
            shape = list(values.shape[1:]) or [1]
            features[name] = {"dtype": str(values.dtype), "shape": shape, "names": names}
        for name, images in self.images[0].items():
            shape, names = list(images.shape[1:]), ["height", "width", "channels"]
            if self.channels_first:
                shape, names = [shape[2], *shape[:2]], ["channels", "height", "width"]
            kind = "video" if self.video else "image"
            features[name] = {"dtype": kind, "shape": shape, "names": names}
        for name in self.strings:
            features[name] = {"dtype": "string", "shape": [1], "names": None}
        for name in ("frame_index", "episode_index", "index", "task_index"):
            features[name] = {"dtype": "int64", "shape": [1], "names": None}
        features["timestamp"] = {"dtype": "float32", "shape": [1], "names": None}
        return {
            "codebase_version": "v3.0",
            "robot_type": "so100_follower",
            "total_episodes": len(lengths),
            "total_frames": sum(lengths),
            "total_tasks": len(self.sentences),
            "chunks_size": 1000,
            "data_files_size_in_mb": 100,
            "video_files_size_in_mb": 200,
            "fps": self.fps,
            "splits": {"train": f"0:{len(lengths)}"},
            "data_path": "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet",
            "video_path": "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4",
            "features": features,
        }

    def _table(self, episode: int, first: int) -> pa.Table:
        columns = self.columns[episode]
        length = len(next(iter(columns.values())))
        found: dict[str, pa.Array] = {}
        for name, values in columns.items():
            if values.ndim == 1:
                found[name] = pa.array(values)
            elif self.fixed:
                found[name] = pa.FixedSizeListArray.from_arrays(values.reshape(-1), values.shape[1])
            else:
                found[name] = pa.array(values.tolist(), pa.list_(pa.from_numpy_dtype(values.dtype)))
        for name, images in self.images[episode].items() if not self.video else ():
            cells = [{"bytes": self.encode(image), "path": None} for image in images]
            kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
            found[name] = pa.array(cells, kind)
        for name, text in self.strings.items():
            found[name] = pa.array([text] * length)
        frame = np.arange(length)
        found["timestamp"] = pa.array((frame / self.fps).astype(np.float32))
        found["frame_index"] = pa.array(frame)
        found["episode_index"] = pa.array(np.full(length, episode))
        found["index"] = pa.array(frame + first)
        found["task_index"] = pa.array(np.full(length, episode % len(self.sentences)))
        return pa.table(found)

    def _row(self, episode: int, first: int, length: int) -> dict[str, Any]:
        row: dict[str, Any] = {
            "episode_index": episode,
            "tasks": [self.sentences[episode % len(self.sentences)]],
            "length": length,
            "data/chunk_index": 0,
            "data/file_index": 0,
            "dataset_from_index": first,
            "dataset_to_index": first + length,
            "stats/action/mean": [0.0],
            "meta/episodes/chunk_index": 0,
            "meta/episodes/file_index": 0,
        }
        for name in self.images[0] if self.video else ():
            row |= {f"videos/{name}/chunk_index": 0, f"videos/{name}/file_index": 0}
            row[f"videos/{name}/from_timestamp"] = first / self.fps
            row[f"videos/{name}/to_timestamp"] = (first + length) / self.fps
        return row


def bench(
    lengths: Sequence[int] = (24, 20, 26, 22, 24, 28),
    cameras: Sequence[str] = ("observation.images.front", "observation.images.wrist_cam"),
    size: tuple[int, int] = (480, 640),
    state: int = 14,
    action: int = 8,
    seed: int = 0,
    **options: Any,
) -> ForeignSet:
    """A made-up arm: a bright square wanders with the first two numbers of the state; where these
    pass a line, something is touched; the last steps are a success."""
    rng = np.random.default_rng(seed)
    images, columns = [], []
    for length in lengths:
        steps = rng.normal(0, 0.05, (length, action)).astype(np.float32)
        steps[:, -1] = np.where(np.arange(length) > length // 2, 0.0, 0.08)
        place = np.cumsum(np.pad(steps, ((0, 0), (0, state)))[:, :state], axis=0)
        shown = {}
        for name in cameras:
            film = np.full((length, *size, 3), 40, np.uint8)
            for t in range(length):
                y, x = (np.clip(0.5 + place[t, :2], 0.1, 0.9) * size).astype(int)
                film[t, y - 20 : y + 20, x - 20 : x + 20] = (200, 60, 60)
            shown[name] = film
        images.append(shown)
        columns.append(
            {
                "observation.state": place.astype(np.float32),
                "action": steps,
                "bumped": place[:, 0] > 0.08,
                "next.success": np.arange(length) >= length - 3,
            }
        )
    return ForeignSet(images, columns, **options)
