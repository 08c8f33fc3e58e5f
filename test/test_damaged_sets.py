"""A damaged data set costs the episodes that are damaged; each is named in one line."""

import json
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from set_faults import LENGTHS, edit_info, record, same
from test_lerobot_layout import CAMERAS, DATA, SIZE, make_episode

from safedojo_ros.cli.damage import damage_printed
from safedojo_ros.core.errors import DatasetError
from safedojo_ros.data.lerobot.reader import EpisodeReader
from safedojo_ros.data.lerobot.steps import decode_png
from safedojo_ros.data.lerobot.writer import EpisodeWriter, encode_picture

CASES = int(os.environ.get("SAFEDOJO_SET_FAULTS", "150"))
"""How many damaged sets are read; 5000 take about two minutes."""


def test_damage_ends_in_whole_episodes_or_one_line_in_bounded_time_and_memory() -> None:
    script = Path(__file__).parent / "set_faults.py"
    result = subprocess.run(
        [sys.executable, str(script), "0", str(CASES)], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stdout + result.stderr[-2000:]


@pytest.fixture(scope="module", params=[False, True], ids=["png", "video"])
def whole(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("whole") / "set"
    record(root, request.param)
    return root


@pytest.fixture
def root(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "set"))


def test_no_flipped_bit_gives_other_steps_or_images_than_were_recorded(root: Path) -> None:
    known, rng = list(EpisodeReader(root)), random.Random(0)
    paths = [*(root / "data").rglob("*.parquet"), *(root / "videos").rglob("*.mp4")]
    seen_damage = 0
    for path in paths:
        data = path.read_bytes()
        for _ in range(60 // len(paths)):
            broken = bytearray(data)
            broken[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
            path.write_bytes(broken)
            try:
                reader = EpisodeReader(root)
                seen_damage += bool(reader.damage)
                for row, episode in zip(reader.rows, reader, strict=True):
                    assert same(episode, known[row.number])
            except DatasetError:
                seen_damage += 1
        path.write_bytes(data)
    assert seen_damage > 20


@pytest.mark.parametrize("key", ["data_path", "video_path"])
@pytest.mark.parametrize(
    "template",
    [
        "../../{chunk_index}/{file_index}.parquet",
        "data/chunk-{chunk_index:099999999999d}/file-{file_index:03d}.parquet",
        "{chunk_index.__class__}",
        7,
    ],
)
def test_a_path_template_of_its_own_is_refused_unformatted(
    root: Path, key: str, template: str
) -> None:
    info = json.loads((root / "meta/info.json").read_text()) | {key: template}
    (root / "meta/info.json").write_text(json.dumps(info))
    with pytest.raises(DatasetError, match=rf"info\.json has {key} .*, expected (data|videos)/"):
        EpisodeReader(root)


def test_a_link_out_of_the_set_is_not_followed_one_within_a_cache_is(
    root: Path, tmp_path: Path
) -> None:
    outside = tmp_path / "file-000.parquet"
    shutil.move(root / DATA, outside)
    (root / DATA).symlink_to(outside)
    reader = EpisodeReader(root)
    assert [row.number for row in reader.rows] == [2, 3]
    assert "leads out of the data set" in reader.damage[0]

    cache = tmp_path / "datasets--lab--cubes"
    shutil.copytree(root, cache / "snapshots/0a1b", symlinks=True)
    linked = cache / "snapshots/0a1b" / DATA
    linked.unlink()
    (cache / "blobs").mkdir()
    shutil.copy(outside, cache / "blobs/beef")
    linked.symlink_to("../../../../blobs/beef")
    assert len(EpisodeReader(cache / "snapshots/0a1b")) == len(LENGTHS)


def test_leftovers_beyond_a_link_are_not_cleared(tmp_path: Path) -> None:
    root, mine = tmp_path / "set", tmp_path / "mine/chunk-000"
    EpisodeWriter(root, SIZE, CAMERAS).close()
    mine.mkdir(parents=True)
    (mine / "file-000.parquet").write_bytes(b"precious")
    (root / "data").symlink_to(mine.parent)
    assert EpisodeReader(root).leftovers == []


def test_nothing_is_added_to_a_damaged_set(root: Path) -> None:
    (root / DATA).write_bytes(b"")
    before = sorted(p.name for p in root.rglob("*.parquet"))
    video = any(root.glob("videos"))
    with pytest.raises(DatasetError, match="is damaged, nothing is added"):
        EpisodeWriter(root, SIZE, CAMERAS, video=video)
    assert sorted(p.name for p in root.rglob("*.parquet")) == before


def test_lost_rows_of_episodes_are_damage(root: Path) -> None:
    (root / "meta/episodes/chunk-000/file-001.parquet").unlink()
    reader = EpisodeReader(root)
    assert len(reader) == 2
    assert "counts 4 episodes, meta/episodes 2" in reader.damage[0]


def test_every_page_that_is_written_has_a_checksum(root: Path) -> None:
    """Read back without checking, a flipped byte of an action passes; with checking it does not."""
    path = root / DATA
    column = pq.read_metadata(path).row_group(0).column(0)
    data = bytearray(path.read_bytes())
    begin = column.dictionary_page_offset or column.data_page_offset
    data[begin + column.total_compressed_size - 1] ^= 1
    path.write_bytes(data)
    with (
        pytest.raises(OSError, match="CRC"),
        pq.ParquetFile(path, page_checksum_verification=True) as file,
    ):
        file.read_row_group(0)


def test_an_image_that_asks_for_gigabytes_is_not_decoded() -> None:
    coded = bytearray(encode_picture(make_episode(1).images["wrist"][0]))
    assert decode_png(bytes(coded), SIZE, SIZE) is not None
    coded[16:24] = (30_000).to_bytes(4) * 2
    assert decode_png(bytes(coded), SIZE, SIZE) is None


def test_a_command_names_each_damage_once_and_counts(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (root / DATA).write_bytes(b"")
    with damage_printed() as lines:
        EpisodeReader(root)
        EpisodeReader(root)
    assert len(lines) == 1
    assert capsys.readouterr().err.count("file-000.parquet") == 1


def test_an_info_file_of_any_content_is_read_or_refused(root: Path) -> None:
    rng, text = random.Random(1), (root / "meta/info.json").read_text()
    for _ in range(300):
        (root / "meta/info.json").write_text(text)
        edit_info(rng, root)
        said = ""
        try:
            EpisodeReader(root)
        except DatasetError as error:
            said = str(error)
        assert len(said) < 1000
