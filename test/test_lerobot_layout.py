"""Episodes survive the disk unchanged; broken files are named; interruptions leave whole ones."""

import json
import re
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from safedojo_ros.core.errors import DatasetError
from safedojo_ros.core.types import Episode
from safedojo_ros.data.lerobot.reader import EpisodeReader
from safedojo_ros.data.lerobot.writer import EpisodeWriter

CAMERAS = ("agentview", "wrist")
SIZE = 16
DATA = "data/chunk-000/file-000.parquet"


def make_episode(length: int, seed: int = 0, task: str = "cube_on_plate") -> Episode:
    rng = np.random.default_rng(seed)
    return Episode(
        images={c: rng.integers(0, 256, (length, SIZE, SIZE, 3), dtype=np.uint8) for c in CAMERAS},
        state=rng.normal(size=(length, 8)).astype(np.float32),
        actions=rng.normal(size=(length, 7)).astype(np.float32),
        success=np.arange(length) == length - 1,
        cost=rng.integers(0, 2, length).astype(np.float32),
        displacement=rng.random(length).astype(np.float32) * 0.002,
        instruction=f"do {task}",
        task=task,
        level=seed % 3,
        seed=seed,
        source="expert:direct",
        extra={"clean_action": rng.normal(size=(length, 7)).astype(np.float32)},
    )


def write(root: Path, episodes: list[Episode], episodes_per_file: int = 3) -> Path:
    with EpisodeWriter(root, SIZE, CAMERAS, episodes_per_file=episodes_per_file) as writer:
        for episode in episodes:
            writer.add(episode)
    return root


def assert_same(seen: Episode, expected: Episode) -> None:
    for name in ("state", "actions", "success", "cost", "displacement"):
        np.testing.assert_array_equal(getattr(seen, name), getattr(expected, name))
    for name in expected.images:
        np.testing.assert_array_equal(seen.images[name], expected.images[name])
    assert seen.extra.keys() == expected.extra.keys()
    for name in expected.extra:
        np.testing.assert_array_equal(seen.extra[name], expected.extra[name])
    for name in ("instruction", "task", "level", "seed", "source"):
        assert getattr(seen, name) == getattr(expected, name)


@settings(max_examples=15, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 7), min_size=1, max_size=8),
    tasks=st.lists(st.sampled_from(["a", "b", "ü"]), min_size=8, max_size=8),
    episodes_per_file=st.integers(1, 4),
    interrupted_after=st.integers(0, 8),
)
def test_episodes_come_back_bit_for_bit_also_when_written_in_two_goes(
    tmp_path_factory: pytest.TempPathFactory,
    lengths: list[int],
    tasks: list[str],
    episodes_per_file: int,
    interrupted_after: int,
) -> None:
    root = tmp_path_factory.mktemp("data") / "set"
    episodes = [make_episode(n, i, tasks[i]) for i, n in enumerate(lengths)]
    write(root, episodes[:interrupted_after], episodes_per_file)
    write(root, episodes[interrupted_after:], episodes_per_file)

    reader = EpisodeReader(root)
    assert len(reader) == len(episodes)
    for seen, expected in zip(reader, episodes, strict=True):
        assert_same(seen, expected)
    arrays = reader.load_arrays()
    for e, expected in enumerate(episodes):
        here = slice(arrays.starts[e], arrays.starts[e + 1])
        np.testing.assert_array_equal(arrays.actions[here], expected.actions)
        np.testing.assert_array_equal(
            arrays.extra["clean_action"][here], expected.extra["clean_action"]
        )
        for c, camera in enumerate(arrays.cameras):
            np.testing.assert_array_equal(arrays.images[here, c], expected.images[camera])


def test_chosen_episodes_and_cameras_can_be_loaded_alone(tmp_path: Path) -> None:
    episodes = [make_episode(n, i) for i, n in enumerate((3, 5, 2, 4))]
    reader = EpisodeReader(write(tmp_path / "set", episodes))
    arrays = reader.load_arrays([3, 1], cameras=("wrist",))
    assert arrays.images.shape == (9, 1, SIZE, SIZE, 3)
    np.testing.assert_array_equal(arrays.images[:4, 0], episodes[3].images["wrist"])
    np.testing.assert_array_equal(arrays.state[4:], episodes[1].state)
    assert reader.load_arrays(images=False).images.size == 0


def test_the_layout_is_that_of_lerobot_v3(tmp_path: Path) -> None:
    root = write(tmp_path / "set", [make_episode(4, 0), make_episode(2, 1, "other")])
    info = json.loads((root / "meta/info.json").read_text())
    assert info["codebase_version"] == "v3.0"
    assert (info["total_episodes"], info["total_frames"], info["total_tasks"]) == (2, 6, 2)
    assert info["splits"] == {"train": "0:2"}
    assert info["features"]["observation.images.wrist"]["dtype"] == "image"
    data = pq.read_table(root / info["data_path"].format(chunk_index=0, file_index=0))
    assert data["index"].to_pylist() == list(range(6))
    assert data["frame_index"].to_pylist() == [0, 1, 2, 3, 0, 1]
    assert data["task_index"].to_pylist() == [0, 0, 0, 0, 1, 1]
    np.testing.assert_allclose(data["timestamp"].to_pylist()[:3], [0.0, 0.05, 0.1], atol=1e-6)
    picture = data["observation.images.wrist"][0].as_py()
    assert picture["bytes"].startswith(b"\x89PNG")
    assert picture["path"] is None
    noted = json.loads(data.schema.metadata[b"huggingface"])["info"]["features"]
    assert noted["observation.images.wrist"] == {"_type": "Image"}
    rows = pq.read_table(root / "meta/episodes/chunk-000/file-000.parquet").to_pylist()
    assert [(r["dataset_from_index"], r["dataset_to_index"]) for r in rows] == [(0, 4), (4, 6)]
    assert rows[0]["tasks"] == ["do cube_on_plate"]
    tasks = pq.read_table(root / "meta/tasks.parquet")
    assert tasks.to_pydict() == {"task_index": [0, 1], "task": ["do cube_on_plate", "do other"]}
    assert json.loads(tasks.schema.metadata[b"pandas"])["index_columns"] == ["task"]
    stats = json.loads((root / "meta/stats.json").read_text())
    assert len(stats["action"]["q99"]) == 7
    assert np.shape(stats["observation.images.wrist"]["mean"]) == (3, 1, 1)


def test_video_keeps_length_order_and_rough_colours(tmp_path: Path) -> None:
    episodes = [make_episode(n, i) for i, n in enumerate((3, 4, 5))]
    for episode in episodes:
        for camera, images in episode.images.items():
            shade = np.linspace(20 + 50 * episode.seed, 230, len(images)).astype(np.uint8)
            images[:] = shade[:, None, None, None] // (1 if camera == "wrist" else 2)
    root = tmp_path / "set"
    with EpisodeWriter(root, SIZE, CAMERAS, video=True, episodes_per_file=2) as writer:
        for episode in episodes:
            writer.add(episode)
    reader = EpisodeReader(root)
    for seen, expected in zip(reader, episodes, strict=True):
        for camera in CAMERAS:
            apart = np.abs(seen.images[camera].astype(int) - expected.images[camera])
            assert apart.max() < 12
    broken = root / "videos/observation.images.wrist/chunk-000/file-001.mp4"
    broken.write_bytes(broken.read_bytes()[:200])
    with pytest.raises(DatasetError, match=r"wrist/chunk-000/file-001\.mp4"):
        reader[2]
    reader = EpisodeReader(root)
    assert len(reader) == 2
    assert "wrist/chunk-000/file-001.mp4" in reader.damage[0]


# ---------------------------------------------------------------- broken files


def test_a_truncated_data_file_is_named_on_opening(tmp_path: Path) -> None:
    root = write(tmp_path / "set", [make_episode(5)])
    path = root / DATA
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(DatasetError, match=r"data/chunk-000/file-000\.parquet"):
        EpisodeReader(root)


def test_a_missing_data_file_is_named_on_opening(tmp_path: Path) -> None:
    root = write(tmp_path / "set", [make_episode(5)])
    (root / DATA).unlink()
    with pytest.raises(DatasetError, match=r"data/chunk-000/file-000\.parquet"):
        EpisodeReader(root)


def rewrite(root: Path, column: str, values: list[object]) -> None:
    """Replace a column of the first data file."""
    table = pq.read_table(root / DATA)
    place = table.schema.get_field_index(column)
    kind = table.schema.field(column).type
    pq.write_table(table.set_column(place, column, pa.array(values, kind)), root / DATA)


def test_a_value_that_is_not_finite_is_named_with_file_column_episode_and_step(
    tmp_path: Path,
) -> None:
    root = write(tmp_path / "set", [make_episode(5), make_episode(5, 1)])
    actions = pq.read_table(root / DATA)["action"].to_pylist()
    actions[7][2] = float("nan")
    rewrite(root, "action", actions)
    reader = EpisodeReader(root)
    assert [e.seed for e in reader] == [0]
    wanted = r"file-000\.parquet: 'action' of episode 1 is not finite at step 2"
    assert len(reader.damage) == 1
    assert re.search(wanted, reader.damage[0])


def test_a_picture_that_does_not_decode_is_named(tmp_path: Path) -> None:
    root = write(tmp_path / "set", [make_episode(3)])
    pictures = pq.read_table(root / DATA)["observation.images.wrist"].to_pylist()
    pictures[1]["bytes"] = pictures[1]["bytes"][:30]
    rewrite(root, "observation.images.wrist", pictures)
    with pytest.raises(
        DatasetError, match=r"file-000\.parquet: camera 'wrist' of episode 0 step 1"
    ):
        EpisodeReader(root)[0]


def test_rows_out_of_order_are_named(tmp_path: Path) -> None:
    root = write(tmp_path / "set", [make_episode(3)])
    rewrite(root, "frame_index", [0, 2, 1])
    with pytest.raises(DatasetError, match=r"file-000\.parquet.*episode 0 are out of order"):
        EpisodeReader(root)[0]


def test_a_data_file_without_rows_for_its_episodes_is_named(tmp_path: Path) -> None:
    root = write(tmp_path / "set", [make_episode(5)])
    pq.write_table(pq.read_table(root / DATA).slice(0, 3), root / DATA)
    with pytest.raises(DatasetError, match=r"file-000\.parquet has 3 rows, its episodes have 5"):
        EpisodeReader(root)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", r"info\.json is not valid JSON"),
        ('{"codebase_version": "v2.1"}', r"codebase_version v2\.1"),
        ('{"codebase_version": "v3.0"}', r"info\.json lacks or garbles 'features'"),
    ],
)
def test_broken_metadata_is_named(tmp_path: Path, text: str, message: str) -> None:
    root = write(tmp_path / "set", [make_episode(5)])
    (root / "meta/info.json").write_text(text)
    with pytest.raises(DatasetError, match=message):
        EpisodeReader(root)


def test_a_directory_that_is_no_dataset_says_so(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="is no dataset"):
        EpisodeReader(tmp_path)
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(DatasetError, match="holds notes.txt"):
        EpisodeWriter(tmp_path, SIZE, CAMERAS)


# ---------------------------------------------------------------- writing


def broken_episodes() -> list[tuple[Episode, str]]:
    short, nan, size, camera, other = (make_episode(4) for _ in range(5))
    short.cost = short.cost[:3]
    nan.state[2, 1] = np.nan
    size.images["wrist"] = size.images["wrist"][:, :8]
    del camera.images["wrist"]
    other.extra = {}
    return [
        (short, r"'cost' has shape \(3,\), expected \(4,\)"),
        (nan, "'state' of the episode with seed 0 is not finite"),
        (size, "camera 'wrist' gave uint8"),
        (camera, r"has cameras \['agentview'\]"),
        (other, "extra columns"),
    ]


@pytest.mark.parametrize(("episode", "message"), broken_episodes())
def test_a_broken_episode_is_refused_and_the_others_stay(
    tmp_path: Path, episode: Episode, message: str
) -> None:
    with EpisodeWriter(tmp_path / "set", SIZE, CAMERAS) as writer:
        writer.add(make_episode(3, 1))
        with pytest.raises(DatasetError, match=message):
            writer.add(episode)
        writer.add(make_episode(2, 2))
    assert [len(e) for e in EpisodeReader(tmp_path / "set")] == [3, 2]


def test_a_recording_of_another_shape_is_not_mixed_in(tmp_path: Path) -> None:
    root = write(tmp_path / "set", [make_episode(3)])
    with pytest.raises(DatasetError, match="has another"):
        EpisodeWriter(root, SIZE * 2, CAMERAS)


def test_only_one_process_writes(tmp_path: Path) -> None:
    writer = EpisodeWriter(tmp_path / "set", SIZE, CAMERAS)
    with pytest.raises(DatasetError, match="being written by another process"):
        EpisodeWriter(tmp_path / "set", SIZE, CAMERAS)
    writer.close()
    EpisodeWriter(tmp_path / "set", SIZE, CAMERAS).close()


def test_a_data_file_that_no_episode_names_is_a_leftover_and_is_cleared(tmp_path: Path) -> None:
    root = write(tmp_path / "set", [make_episode(3, i) for i in range(4)], episodes_per_file=2)
    (root / "meta/episodes/chunk-000/file-001.parquet").unlink()  # died before it was written
    info = json.loads((root / "meta/info.json").read_text()) | {"total_episodes": 2}
    (root / "meta/info.json").write_text(json.dumps(info))
    (root / "data/chunk-000/file-002.parquet.partial").write_bytes(b"half")
    reader = EpisodeReader(root)
    assert [e.seed for e in reader] == [0, 1]
    assert [p.name for p in reader.leftovers] == ["file-001.parquet", "file-002.parquet.partial"]
    write(root, [make_episode(2, 9)])
    reader = EpisodeReader(root)
    assert [e.seed for e in reader] == [0, 1, 9]
    assert reader.leftovers == []
    assert json.loads((root / "meta/info.json").read_text())["total_frames"] == 8


ENDLESS = """
import sys
sys.path.insert(0, sys.argv[2])
from pathlib import Path
from test_lerobot_layout import CAMERAS, SIZE, make_episode
from safedojo_ros.data.lerobot.writer import EpisodeWriter
with EpisodeWriter(Path(sys.argv[1]), SIZE, CAMERAS, episodes_per_file=2) as writer:
    start = writer.episodes
    print("ready", flush=True)
    for number in range(start, 100000):
        writer.add(make_episode(1 + number % 5, number))
"""


def test_a_killed_recording_leaves_only_whole_episodes_and_goes_on(tmp_path: Path) -> None:
    root, before = tmp_path / "set", 0
    for delay in (0.11, 0.173):
        process = subprocess.Popen(
            [sys.executable, "-c", ENDLESS, str(root), str(Path(__file__).parent)],
            stdout=subprocess.PIPE,
        )
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        end = time.monotonic() + 30  # kill in the midst of writing: once new episodes are there
        while len(list((root / "meta/episodes").rglob("*.parquet"))) * 2 <= before + 2:
            assert time.monotonic() < end
            time.sleep(0.01)
        time.sleep(delay)
        process.kill()
        process.wait()
        process.stdout.close()
        reader = EpisodeReader(root)
        assert len(reader) > before
        for number, episode in enumerate(reader):
            assert_same(episode, make_episode(1 + number % 5, number))
        before = len(reader)
