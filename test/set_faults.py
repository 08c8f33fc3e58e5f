"""Damages small data sets in every way that comes to mind, and reads them.

`python test/set_faults.py FIRST COUNT` reads COUNT of them, from the random seed FIRST on, within
limits of memory and time. It prints a line for each that ended in anything but episodes or a
`SafeDojoError`, or in other steps than were recorded, and at the end how they ended.
"""

import faulthandler
import json
import logging
import random
import resource
import shutil
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from test_lerobot_layout import CAMERAS, SIZE, make_episode

from safedojo_ros.core.errors import SafeDojoError
from safedojo_ros.core.types import Episode
from safedojo_ros.data.lerobot.reader import EpisodeReader
from safedojo_ros.data.lerobot.writer import EpisodeWriter

MEMORY = 6 * 2**30
"""Bytes of addresses; the libraries alone map about two gigabytes."""
SECONDS = 20
LENGTHS = (4, 3, 5, 2)

VALUES: list[Any] = [
    None, True, -1, 0, 1, 3, 10**30, 2**63, 1e308, 0.5, float("nan"), float("inf"), "",
    "x" * 10_000,
    "../../../../etc/passwd", "{chunk_index:09999999999d}", "{video_key.__class__}", "{0}", "%s",
    "data/chunk-{chunk_index:03d}/../../../x", "/dev/zero", "int99", "object", "video", "image",
    "string", [], {}, [[]], [0], [-1], [2**40], [1.5], ["a"], [4096, 4096, 3], [16, 16, 4],
    {"dtype": "float32"}, {"dtype": [], "shape": {}}, "\ud800", "a\x00b",
]  # fmt: skip
CELLS: dict[str, list[Any]] = {
    "int": [-1, 0, 1, 7, 999, 10**6, 2**31, 2**62, -(2**62)],
    "float": [float("nan"), float("inf"), -1.0, 1e300],
    "bool": [True, False],
    "string": ["", "../..", "x" * 5000, "\x00"],
    "list": [[], ["a", "b"], [None], ["ü" * 100]],
}
Fault = Callable[[random.Random, Path], bool]
"""Damages the set at a path; returns whether what is read must still be what was recorded."""


def files(root: Path) -> list[Path]:
    return sorted(p for p in root.rglob("*") if p.is_file() and p.name != ".writing")


def flip(rng: random.Random, root: Path) -> bool:
    path = rng.choice(files(root))
    data = bytearray(path.read_bytes())
    for _ in range(rng.choice((1, 1, 1, 2, 8))):
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    path.write_bytes(data)
    return path.name != "info.json"


def cut(rng: random.Random, root: Path) -> bool:
    path = rng.choice(files(root))
    data = path.read_bytes()
    path.write_bytes(data[: rng.randrange(len(data))] + bytes(rng.choice((0, 0, 100))))
    return True


def blot(rng: random.Random, root: Path) -> bool:
    path = rng.choice(files(root))
    data = bytearray(path.read_bytes())
    first, fill = rng.randrange(len(data)), rng.choice((0, 255, rng.randrange(256)))
    length = min(rng.choice((1, 4, 16, 512)), len(data) - first)
    data[first : first + length] = bytes([fill]) * length
    path.write_bytes(data)
    return path.name != "info.json"


def put(rng: random.Random, root: Path) -> bool:
    """Something else in a file's place."""
    path = rng.choice(files(root))
    other = rng.choice(files(root)).read_bytes()
    path.unlink()
    kind = rng.randrange(5)
    if kind == 0:
        path.mkdir()
    elif kind == 1:
        path.symlink_to(path.name)
    elif kind == 2:
        path.symlink_to("/etc/hostname")
    elif kind == 3:
        path.write_bytes(other)
        return path.name != "info.json" and path.suffix != ".parquet"
    return True


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    found = [path] if path else []
    inner = list(value.items()) if isinstance(value, dict) else []
    inner += enumerate(value) if isinstance(value, list) else ()
    for key, item in inner:
        found += places(item, (*path, key))
    return found


def edit_info(rng: random.Random, root: Path) -> bool:
    path = root / "meta/info.json"
    info = json.loads(path.read_text())
    for _ in range(rng.choice((1, 1, 2))):
        *way, last = rng.choice(places(info))
        parent = info
        for key in way:
            parent = parent[key]
        kind = rng.randrange(8)
        if kind == 0:
            del parent[last]
        elif kind == 1 and isinstance(parent, dict) and isinstance(last, str):
            parent[rng.choice(("../x", "", "a/b", last + "x"))] = parent.pop(last)
        else:
            parent[last] = rng.choice(VALUES)
        if not places(info):
            break
    text = json.dumps(info)
    if rng.randrange(20) == 0:
        text = rng.choice(("[" * 100_000, '{"a":' * 50_000, "9" * 10_000, "null", '"x"', ""))
    path.write_text(text)
    return False


def edit_table(rng: random.Random, root: Path) -> bool:
    """Other values, types, columns or rows in a parquet file."""
    path = rng.choice([p for p in files(root) if p.suffix == ".parquet"])
    table = pq.read_table(path)
    name = rng.choice(table.column_names)
    place, kind = table.column_names.index(name), table.schema.field(name).type
    what = rng.randrange(7)
    if what == 0:
        table = table.drop_columns([name])
    elif what == 1:
        table = table.set_column(place, name, pa.array(["x"] * len(table)))
    elif what == 2:
        table = table.set_column(place, name, pa.nulls(len(table), kind))
    elif what == 3:
        rows = [rng.randrange(len(table)) for _ in range(rng.randrange(12))]
        table = table.take(pa.array(rows, pa.int64()))
    elif what == 4:
        table = table.append_column(name, table[name])
    else:
        values = table[name].to_pylist()
        values[rng.randrange(len(values))] = cell(rng, kind)
        try:
            table = table.set_column(place, name, pa.array(values, kind))
        except (pa.ArrowException, OverflowError, UnicodeEncodeError, TypeError):
            return False
    pq.write_table(table, path)
    return False


def cell(rng: random.Random, kind: pa.DataType) -> Any:
    if pa.types.is_struct(kind):
        return {"bytes": picture(rng), "path": rng.choice((None, "/etc/passwd"))}
    if pa.types.is_fixed_size_list(kind):
        return [rng.choice((float("nan"), 1e30, None, 0.0))] * kind.list_size
    if pa.types.is_list(kind):
        return rng.choice(CELLS["list"])
    for name, values in CELLS.items():
        if name in str(kind):
            return rng.choice(values)
    return None


def picture(rng: random.Random) -> bytes | None:
    small = cv2.imencode(".png", np.zeros((SIZE, SIZE, 3), np.uint8))[1].tobytes()
    huge = bytearray(small)
    huge[16:24] = (30_000).to_bytes(4) * 2
    return rng.choice([
        None, b"", b"x", small[:40], bytes(huge),
        cv2.imencode(".jpg", np.zeros((SIZE, SIZE, 3), np.uint8))[1].tobytes(),
        cv2.imencode(".png", np.zeros((SIZE, SIZE), np.uint8))[1].tobytes(),
        cv2.imencode(".png", np.zeros((SIZE, 2 * SIZE, 3), np.uint8))[1].tobytes(),
        b"#EXTM3U\n#EXTINF:1,\n/etc/passwd\n", small + bytes(1000),
    ])  # fmt: skip


FAULTS: tuple[Fault, ...] = (flip, flip, flip, cut, blot, put, edit_info, edit_info, edit_table)


def record(root: Path, video: bool) -> list[Episode]:
    episodes = [make_episode(length, i) for i, length in enumerate(LENGTHS)]
    with EpisodeWriter(root, SIZE, CAMERAS, video=video, episodes_per_file=2) as writer:
        for episode in episodes:
            writer.add(episode)
    return list(EpisodeReader(root))


def same(seen: Episode, known: Episode) -> bool:
    arrays = ("state", "actions", "success", "cost", "displacement")
    return (
        all(np.array_equal(getattr(seen, n), getattr(known, n)) for n in arrays)
        and all(np.array_equal(seen.images[n], known.images[n]) for n in known.images)
        and all(np.array_equal(seen.extra[n], known.extra[n]) for n in known.extra)
        and (seen.instruction, seen.task, seen.seed) == (known.instruction, known.task, known.seed)
    )


def outcome(root: Path, known: list[Episode], exact: bool) -> str:
    """What became of reading the set; raises `AssertionError` for other steps than recorded."""
    try:
        reader = EpisodeReader(root)
    except SafeDojoError:
        return "refused"
    assert all(line for line in reader.damage)
    unread = 0
    for row, index in zip(reader.rows, range(len(reader)), strict=True):
        try:
            episode = reader[index]
        except SafeDojoError:
            unread += 1
            continue
        assert not exact or same(episode, known[row.number]), f"episode {row.number} is another"
    try:
        arrays = reader.load_arrays()
        assert not exact or len(arrays.state) == sum(LENGTHS[row.number] for row in arrays.rows)
    except SafeDojoError:
        unread += 1
    if not reader.damage and len(reader) == len(known) and not unread:
        return "read whole"
    return f"{len(reader)} of {len(known)} kept" + (", unread" if unread else "")


def say(line: str) -> None:
    sys.stdout.write(line + "\n")


def main(first: int, count: int) -> int:
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    logging.disable(logging.WARNING)
    ends: Counter[str] = Counter()
    failed, longest = 0, 0.0
    with tempfile.TemporaryDirectory() as folder:
        whole = {video: Path(folder) / f"whole_{video}" for video in (False, True)}
        known = {video: record(root, video) for video, root in whole.items()}
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        for seed in range(first, first + count):
            rng, root = random.Random(seed), Path(folder) / "set"
            video = rng.random() < 0.3
            shutil.copytree(whole[video], root)
            fault = rng.choice(FAULTS)
            exact = fault(rng, root)
            faulthandler.dump_traceback_later(SECONDS, exit=True)
            begun = time.monotonic()
            try:
                ends[outcome(root, known[video], exact)] += 1
            except Exception:
                failed += 1
                last = traceback.format_exc().strip().splitlines()
                say(f"seed {seed}, {fault.__name__}: {last[-1][:200]} | {last[-3].strip()[:120]}")
            longest = max(longest, time.monotonic() - begun)
            faulthandler.cancel_dump_traceback_later()
            shutil.rmtree(root)
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024
    say(f"{failed} of {count} failed; longest {longest:.2f} s; {grown} MB more; {dict(ends)}")
    return failed > 0 or grown > 1024


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), int(sys.argv[2])))
