"""A reader of the store sees a whole checkpoint or none, and nothing altered is ever loaded."""

import errno
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from checkpoint_directories import NORMALISATION, SPEC, safetensors_bytes, value_of, write_source
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from safedojo_ros.checkpoints import names as names_module
from safedojo_ros.checkpoints import provenance
from safedojo_ros.checkpoints.manifest import (
    KINDS,
    MANIFEST,
    Manifest,
    check_path,
    parse_manifest,
    read_manifest,
    verify,
)
from safedojo_ros.checkpoints.names import DEFAULT_POLICY, SHIPPED, find_checkpoint
from safedojo_ros.checkpoints.provenance import package_warnings
from safedojo_ros.checkpoints.store import store as store_module
from safedojo_ros.checkpoints.store.durable import exclusive, together
from safedojo_ros.checkpoints.store.store import STAGING, CheckpointStore
from safedojo_ros.cli.main import main
from safedojo_ros.core.errors import CheckpointError

ROOT = Path(__file__).resolve().parents[1]


class Clock:
    """Seconds since the epoch, set by hand."""

    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def __call__(self) -> float:
        self.now += 1.0
        return self.now


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_source(tmp_path / "trained")


@pytest.fixture
def store(tmp_path: Path) -> CheckpointStore:
    return CheckpointStore(tmp_path / "store", Clock())


@pytest.fixture
def checkpoint(store: CheckpointStore, source: Path) -> Path:
    return store.root / "policy" / publish(store, source).id


def publish(store: CheckpointStore, source: Path, **more: object) -> Manifest:
    return store.publish("policy", source, spec=SPEC, normalisation=NORMALISATION, **more)  # type: ignore[arg-type]


def edit(directory: Path, change: Callable[[dict], object]) -> None:
    content = json.loads((directory / MANIFEST).read_text())
    change(content)
    (directory / MANIFEST).write_text(json.dumps(content))


# -------------------------------------------------------------------- publishing and reading


def test_what_is_published_is_what_is_resolved(store: CheckpointStore, source: Path) -> None:
    manifest = publish(store, source, evaluation={"SSR": 0.5}, parent="older", name="tiny")
    path = store.resolve("policy")
    assert value_of(path) == 1.0
    assert read_manifest(path) == manifest == store.show("policy", manifest.id)
    assert manifest.id.endswith("-tiny")
    assert manifest.parent == "older"
    assert manifest.evaluation == {"SSR": 0.5}
    assert set(manifest.files) == {"config.json", "model.safetensors", "tokenizer/tokenizer.json"}
    assert manifest.size == sum(p.stat().st_size for p in source.rglob("*") if p.is_file())
    assert "numpy" in manifest.packages


def test_latest_moves_with_each_publication_and_back(store: CheckpointStore, source: Path) -> None:
    first, second = publish(store, source), publish(store, source)
    hidden = publish(store, source, make_latest=False)
    assert store.latest("policy") == second.id
    assert [m.id for m in store.list("policy")] == [hidden.id, second.id, first.id]
    store.set_latest("policy", first.id)
    assert store.resolve("policy").name == first.id
    assert store.latest("safety") is None


def test_a_path_inside_the_store_names_a_checkpoint(checkpoint: Path) -> None:
    store = CheckpointStore(checkpoint.parents[1])
    assert store.resolve("policy", str(checkpoint)) == checkpoint
    assert store.resolve("policy", f"policy/{checkpoint.name}") == checkpoint


@pytest.mark.parametrize(
    "name",
    ["../x", "/etc", "policy/../policy/../../x", "", ".", "..", "a b", "-x", "nothing", "x" * 200],
)
def test_a_name_that_leaves_the_store_or_is_unknown_is_refused(checkpoint: Path, name: str) -> None:
    with pytest.raises(CheckpointError):
        CheckpointStore(checkpoint.parents[1]).resolve("policy", name)


def test_reading_creates_nothing(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path / "nowhere")
    assert store.list() == []
    with pytest.raises(CheckpointError, match="no latest checkpoint"):
        store.resolve("policy")
    assert not store.root.exists()


def test_a_checkpoint_of_another_kind_is_not_served(store: CheckpointStore, source: Path) -> None:
    manifest = publish(store, source)
    with pytest.raises(CheckpointError, match="no safety checkpoint"):
        store.resolve("safety", manifest.id)
    os.rename(store.root / "policy", store.root / "safety")
    with pytest.raises(CheckpointError, match="is of kind 'policy', expected 'safety'"):
        store.resolve("safety", manifest.id)
    with pytest.raises(CheckpointError, match="unknown kind 'polcy'"):
        store.resolve("polcy")
    with pytest.raises(CheckpointError, match="unknown kind 'polcy'"):
        store.publish("polcy", source, spec=SPEC)
    assert not (store.root / "polcy").exists()


# -------------------------------------------------------------------- damage


def truncate(path: Path) -> None:
    weights = path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])


def flip_a_bit(path: Path) -> None:
    content = bytearray((path / "model.safetensors").read_bytes())
    content[-1] ^= 1
    (path / "model.safetensors").write_bytes(content)


def link_out(path: Path) -> None:
    os.rename(path / "config.json", path.parents[2] / "config.json")
    (path / "config.json").symlink_to(path.parents[2] / "config.json")


def link_folder(path: Path) -> None:
    os.rename(path / "tokenizer", path.parents[2] / "tokenizer")
    (path / "tokenizer").symlink_to(path.parents[2] / "tokenizer")


def fifo(path: Path) -> None:
    (path / "config.json").unlink()
    os.mkfifo(path / "config.json")


def entry(name: str, value: object) -> Callable[[Path], None]:
    return lambda path: edit(path, lambda m: m["files"].__setitem__(name, value))


def key(name: str, value: object) -> Callable[[Path], None]:
    return lambda path: edit(path, lambda m: m.__setitem__(name, value))


GOOD_ENTRY = {"size": 1, "sha256": "0" * 64}
DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "truncated": (truncate, r"model.safetensors has \d+ bytes"),
    "bit flipped": (flip_a_bit, "model.safetensors was altered"),
    "file missing": (lambda p: (p / "config.json").unlink(), "config.json is missing"),
    "tokenizer missing": (lambda p: shutil.rmtree(p / "tokenizer"), "tokenizer.json is missing"),
    "file too many": (lambda p: (p / "notes.txt").write_text(""), "notes.txt is not in the man"),
    "empty folder": (lambda p: (p / "more").mkdir(), "empty directory"),
    "symlink": (link_out, "config.json is a symbolic link"),
    "linked folder": (link_folder, "tokenizer is a symbolic link"),
    "pipe": (fifo, "not a regular file"),
    "pickle": (lambda p: (p / "model.pt").write_bytes(b""), "may run code"),
    "hidden file": (lambda p: (p / ".hidden").write_text(""), "names are relative"),
    "no manifest": (lambda p: (p / MANIFEST).unlink(), "has no manifest.json"),
    "manifest cut": (lambda p: (p / MANIFEST).write_text('{"schema": 1'), "not valid JSON"),
    "manifest binary": (lambda p: (p / MANIFEST).write_bytes(b"\xff\xfe\x00"), "not valid JSON"),
    "manifest a list": (lambda p: (p / MANIFEST).write_text("[]"), "expected an object"),
    "schema": (key("schema", 2), "has schema 2"),
    "schema true": (key("schema", True), "has schema True"),
    "kind": (key("kind", "dog"), "unknown kind 'dog'"),
    "id": (key("id", "other"), "the manifest of 'other'"),
    "id path": (key("id", "../x"), "characters that ids never have"),
    "unknown key": (key("colour", "red"), "unknown key 'colour'"),
    "wrong type": (key("spec", []), "'spec' is"),
    "no files": (key("files", {}), "lists no files"),
    "infinite": (key("fidelity", {"mse": float("inf")}), "not a finite number"),
    "spec": (key("spec", {"action_size": "7"}), "'action_size'"),
    "spec cameras": (key("spec", {"cameras": "wrist"}), "'cameras'"),
    "spec zero": (key("spec", {"image_size": 0}), "'image_size'"),
    "spec true": (key("spec", {"chunk_length": True}), "'chunk_length'"),
    "spec nameless camera": (key("spec", {"cameras": ["wrist", ""]}), "'cameras'"),
    "spec numbered camera": (key("spec", {"cameras": ["wrist", 3]}), "'cameras'"),
    "spec period": (key("spec", {"period": -1}), "'period'"),
    "spec no period": (key("spec", {"period": 0}), "'period'"),
    "spec true period": (key("spec", {"period": True}), "'period'"),
    "requires a dog": (key("requires", {"dog": "x"}), "unknown kind 'dog'"),
    "requires a path": (key("requires", {"safety": "../x"}), "expected an id"),
    "requires a number": (key("requires", {"safety": 3}), "expected an id"),
    "traversal": (entry("../../x.json", GOOD_ENTRY), "names are relative"),
    "hidden traversal": (entry("a/../../x.json", GOOD_ENTRY), "names are relative"),
    "absolute": (entry("/etc/x.json", GOOD_ENTRY), "names are relative"),
    "backslash": (entry("a\\x.json", GOOD_ENTRY), "names are relative"),
    "listed pickle": (entry("pytorch_model.bin", GOOD_ENTRY), "may run code"),
    "listed program": (entry("run.py", GOOD_ENTRY), "holds only"),
    "lists itself": (entry(MANIFEST, GOOD_ENTRY), "lists itself"),
    "no hash": (entry("config.json", {"size": 1}), "exactly size and sha256"),
    "size text": (entry("config.json", {"size": "1", "sha256": "0" * 64}), "has size '1'"),
    "size true": (entry("config.json", {"size": True, "sha256": "0" * 64}), "has size True"),
    "hash a number": (entry("config.json", {"size": 1, "sha256": 0}), "has sha256 0"),
    "hash short": (entry("config.json", {"size": 1, "sha256": "00"}), "has sha256 '00'"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_checkpoint_is_refused_with_a_sentence(checkpoint: Path, damage: str) -> None:
    harm, words = DAMAGE[damage]
    harm(checkpoint)
    store = CheckpointStore(checkpoint.parents[1])
    for read in (
        lambda: store.resolve("policy"),
        lambda: store.set_latest("policy", checkpoint.name),
    ):
        with pytest.raises(CheckpointError, match=words):
            read()


def test_a_checkpoint_or_shelf_that_is_a_link_is_refused(checkpoint: Path) -> None:
    store, outside = CheckpointStore(checkpoint.parents[1]), checkpoint.parents[2] / "out"
    os.rename(checkpoint, outside)
    checkpoint.symlink_to(outside)
    with pytest.raises(CheckpointError, match="symbolic link"):
        store.resolve("policy")
    checkpoint.unlink()
    os.rename(outside, checkpoint)
    os.rename(checkpoint.parent, outside)
    checkpoint.parent.symlink_to(outside)
    with pytest.raises(CheckpointError, match="symbolic link"):
        store.resolve("policy")


@pytest.mark.parametrize("text", ["", "../../x", "a\nb", "gone", "\x00", "\xff"])
def test_a_latest_pointer_that_leads_nowhere_is_refused(checkpoint: Path, text: str) -> None:
    (checkpoint.parent / "latest").write_text(text)
    store = CheckpointStore(checkpoint.parents[1])
    with pytest.raises(CheckpointError):
        store.resolve("policy")
    store.set_latest("policy", checkpoint.name)
    assert store.resolve("policy") == checkpoint


def test_a_latest_pointer_that_is_a_link_is_refused(checkpoint: Path) -> None:
    latest = checkpoint.parent / "latest"
    os.rename(latest, latest.with_name("elsewhere"))
    latest.symlink_to("elsewhere")
    with pytest.raises(CheckpointError, match="cannot read"):
        CheckpointStore(checkpoint.parents[1]).resolve("policy")


def test_a_broken_neighbour_is_named_and_hides_nothing(
    store: CheckpointStore, source: Path
) -> None:
    good, bad = publish(store, source), publish(store, source)
    (store.root / "policy" / bad.id / MANIFEST).unlink()
    assert [m.id for m in store.list()] == [good.id]
    assert len(store.broken()) == 1
    assert bad.id in store.broken()[0]


# -------------------------------------------------------------------- what may be published


@pytest.mark.parametrize("name", ["model.bin", "model.pt", "a.pkl", "x.ckpt", "run.sh", "noend"])
def test_what_a_checkpoint_never_holds_is_not_published(
    store: CheckpointStore, source: Path, name: str
) -> None:
    (source / name).write_bytes(b"x")
    with pytest.raises(CheckpointError, match=name):
        publish(store, source)
    assert store.list() == []


def test_links_and_nothing_are_not_published(
    store: CheckpointStore, source: Path, tmp_path: Path
) -> None:
    (source / "more.json").symlink_to("/etc/hostname")
    with pytest.raises(CheckpointError, match="symbolic link"):
        publish(store, source)
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match="no files"):
        publish(store, tmp_path / "empty")
    with pytest.raises(CheckpointError, match="cannot read"):
        publish(store, tmp_path / "missing")


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"evaluation": {"SSR": float("nan")}}, "cannot be written as JSON"),
        ({"evaluation": {"SSR": object()}}, "cannot be written as JSON"),
        ({"name": "a/b"}, "name 'a/b' may have letters"),
        ({"spec": {"cameras": 3}}, "'cameras' is 3"),
    ],
)
def test_details_that_no_manifest_can_hold_are_not_published(
    store: CheckpointStore, source: Path, more: dict, words: str
) -> None:
    with pytest.raises(CheckpointError, match=words):
        store.publish("policy", source, **({"spec": SPEC} | more))
    assert store.list() == []
    assert list((store.root).rglob("*.json")) == []


# -------------------------------------------------------------------- safetensors


def tensor(dtype: str, shape: list, begin: int, end: int) -> dict:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


UNSOUND = {
    "nothing": b"",
    "short": b"\x01\x00",
    "header too long": (10**9).to_bytes(8, "little") + b"{}",
    "not JSON": (4).to_bytes(8, "little") + b"{{{{",
    "a list": (2).to_bytes(8, "little") + b"[]",
    "beyond the end": safetensors_bytes({"a": tensor("F32", [2], 0, 8)}, b"1234"),
    "data left over": safetensors_bytes({"a": tensor("F32", [1], 0, 4)}, b"12345678"),
    "size and shape differ": safetensors_bytes({"a": tensor("F32", [3], 0, 8)}, b"12345678"),
    "hole": safetensors_bytes(
        {"a": tensor("U8", [2], 0, 2), "b": tensor("U8", [2], 4, 6)}, b"123456"
    ),
    "overlap": safetensors_bytes(
        {"a": tensor("U8", [4], 0, 4), "b": tensor("U8", [4], 2, 6)}, b"123456"
    ),
    "negative": safetensors_bytes({"a": tensor("U8", [-4], 4, 0)}, b""),
    "unknown dtype": safetensors_bytes({"a": tensor("OBJ", [4], 0, 4)}, b"1234"),
    "no offsets": safetensors_bytes({"a": {"dtype": "U8", "shape": [0]}}, b""),
    "text": safetensors_bytes({"a": "x"}, b""),
    "pickle": b"\x80\x04K\x01.",
    "a name twice": (lambda t: len(t).to_bytes(8, "little") + t)(b'{"a":1,"a":2}'),
}


@pytest.mark.parametrize("case", UNSOUND)
def test_an_unsound_safetensors_file_is_refused(
    store: CheckpointStore, source: Path, case: str
) -> None:
    (source / "model.safetensors").write_bytes(UNSOUND[case])
    with pytest.raises(CheckpointError, match="not a sound safetensors file"):
        publish(store, source)


def test_a_file_without_tensors_is_sound(store: CheckpointStore, source: Path) -> None:
    (source / "model.safetensors").write_bytes(safetensors_bytes({}, b""))
    assert publish(store, source).files["model.safetensors"]["size"] == 10


def test_latest_that_moves_away_from_a_pruned_checkpoint_is_followed(
    store: CheckpointStore, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = publish(store, source).id, publish(store, source).id
    answers = [old, old, new]
    monkeypatch.setattr(store, "latest", lambda kind: answers.pop(0) if answers else new)
    shutil.rmtree(store.root / "policy" / old)
    with pytest.raises(CheckpointError, match=f"no policy checkpoint '{old}'"):
        store.resolve("policy")  # it points there still
    answers[:] = [old, new]
    assert store.resolve("policy").name == new


def test_files_of_the_safetensors_library_are_sound(store: CheckpointStore, source: Path) -> None:
    tensors: dict[str, np.ndarray] = {
        "a": np.zeros((2, 3), np.float16),
        "b": np.ones(0, np.int64),
        "scalar": np.array(1.0, np.float64),
        "mask": np.array([True]),
    }
    safetensors.numpy.save_file(tensors, source / "model.safetensors", metadata={"format": "np"})
    publish(store, source)
    verify(store.resolve("policy"))


# -------------------------------------------------------------------- parsing

plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=8,
)
good_manifest = Manifest("policy", "x", {"a.json": dict(GOOD_ENTRY)}, dict(SPEC))
good_content = json.loads(good_manifest.to_json())


@given(st.sampled_from(sorted(good_content)), plain)
def test_a_manifest_with_any_value_anywhere_parses_or_is_refused(name: str, value: object) -> None:
    text = json.dumps({**good_content, name: value})
    try:
        manifest = parse_manifest(text)
    except CheckpointError:
        return
    assert manifest.schema == 1
    assert manifest.kind in KINDS
    assert parse_manifest(manifest.to_json()) == manifest


@given(st.binary(max_size=200))
def test_a_manifest_of_any_bytes_is_refused(text: bytes) -> None:
    with pytest.raises(CheckpointError):
        parse_manifest(text)


@given(
    st.text(max_size=40) | st.lists(st.sampled_from(["..", ".", "", "a", "b.json"])).map("/".join)
)
def test_an_accepted_file_name_stays_inside_the_checkpoint(name: str) -> None:
    try:
        check_path(name, "test")
    except CheckpointError:
        return
    path = os.path.normpath(os.path.join("/checkpoint", name))
    assert path.startswith("/checkpoint/")
    assert path == f"/checkpoint/{name}"


@given(st.data())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
def test_any_altered_byte_is_found(checkpoint: Path, data: st.DataObject) -> None:
    manifest = read_manifest(checkpoint)
    name = data.draw(st.sampled_from(sorted(manifest.files)))
    content = (checkpoint / name).read_bytes()
    position = data.draw(st.integers(0, len(content) - 1))
    altered = bytearray(content)
    altered[position] ^= data.draw(st.integers(1, 255))
    try:
        (checkpoint / name).write_bytes(altered)
        with pytest.raises(CheckpointError, match="was altered"):
            verify(checkpoint)
    finally:
        (checkpoint / name).write_bytes(content)


def test_only_another_minor_version_of_a_watched_package_is_a_warning() -> None:
    manifest = Manifest("policy", "x", {}, {}, packages={"torch": "2.13.0", "numpy": "1.26"})
    assert package_warnings(manifest, {"torch": "2.13.1+cpu", "numpy": "2.4"}) == []
    (sentence,) = package_warnings(manifest, {"torch": "2.14.0"})
    assert "torch 2.13.0" in sentence
    assert "2.14.0" in sentence


# -------------------------------------------------------------------- faults while publishing


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EIO])
def test_a_disk_that_fails_leaves_the_old_checkpoint_and_no_litter(
    store: CheckpointStore, source: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    before = publish(store, source)
    real, calls, failed = os.fsync, [0], 0
    for fail_at in range(1, 40):
        calls[0] = 0

        def fsync(descriptor: int, fail_at: int = fail_at) -> None:
            calls[0] += 1
            if calls[0] == fail_at:
                raise OSError(code, os.strerror(code))
            real(descriptor)

        monkeypatch.setattr(os, "fsync", fsync)
        count, message = len(store.list()), ""
        try:
            publish(store, source)
        except CheckpointError as error:
            message = str(error)
        if not message:
            break
        failed += 1
        assert os.strerror(code) in message
        assert (len(store.list()) > count) == ("is in the store" in message)
        assert store.broken() == ()
        assert value_of(store.resolve("policy")) == 1.0
    assert failed >= 8
    assert store.show("policy", before.id) == before
    assert not any((store.root / STAGING).iterdir())


def test_all_is_on_the_disk_before_a_checkpoint_has_its_name_and_latest_points_to_it(
    store: CheckpointStore, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(store, source)
    steps: list[str] = []
    fsync, rename = os.fsync, os.rename

    def sync(descriptor: int) -> None:
        steps.append(os.readlink(f"/proc/self/fd/{descriptor}"))
        fsync(descriptor)

    def move(old: Path, new: Path) -> None:
        steps.append(f"{old} is {new}")
        rename(old, new)

    monkeypatch.setattr(os, "fsync", sync)
    monkeypatch.setattr(os, "rename", move)
    identity = publish(store, source).id
    shelf = store.root / "policy"
    (named,) = [n for n, step in enumerate(steps) if step.endswith(f" is {shelf / identity}")]
    staged = steps[named].split(" is ")[0]
    files = {str(file.relative_to(shelf / identity)) for file in (shelf / identity).rglob("*")}
    files.remove(MANIFEST)  # is written whole under another name
    assert {f"{staged}/{file}" for file in files} | {staged} <= set(steps[:named])
    assert any(step.startswith(f"{staged}/") and MANIFEST in step for step in steps[:named])
    pointed = [n for n, step in enumerate(steps) if n > named and "latest" in step][0]
    assert str(shelf) in steps[named:pointed]


def test_a_checkpoint_that_is_pruned_while_it_is_verified_does_not_become_latest(
    store: CheckpointStore, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = publish(store, source).id, publish(store, source).id
    verified = store._verified

    def verify_and_lose(kind: str, path: Path) -> Manifest:
        manifest = verified(kind, path)
        shutil.rmtree(path)
        return manifest

    monkeypatch.setattr(store, "_verified", verify_and_lose)
    with pytest.raises(CheckpointError, match=f"there is no policy checkpoint '{old}'"):
        store.set_latest("policy", old)
    assert store.latest("policy") == new


def test_a_store_that_cannot_be_written_to_says_so(tmp_path: Path, source: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="cannot write"):
        publish(CheckpointStore(tmp_path / "file" / "store"), source)


def test_what_a_dead_publisher_left_is_removed_whatever_the_clock_says(
    store: CheckpointStore, source: Path
) -> None:
    publish(store, source)
    staging = store.root / STAGING
    with store.writing("a live one"):
        leftover = shutil.copytree(source, staging / "leftover")
        (staging / "latest-0").write_text("x")
        with together(store.root / store_module.PUBLISHING, alone=leftover.rmdir):
            assert leftover.exists(), "a live writer's files are left alone"
    os.utime(leftover, (4e9, 4e9))
    publish(store, source)
    assert not any(staging.iterdir())


def test_a_writer_that_hangs_is_named_and_not_waited_for_without_end(tmp_path: Path) -> None:
    late = exclusive(tmp_path / "lock", timeout=0.01)
    with (
        exclusive(tmp_path / "lock"),
        pytest.raises(CheckpointError, match="another writer has held"),
        late,
    ):
        pass


def test_a_clock_that_was_set_back_neither_hides_the_new_checkpoint_nor_turns_the_order(
    store: CheckpointStore, source: Path
) -> None:
    ids = [publish(store, source).id for _ in range(3)]
    late = CheckpointStore(store.root, lambda: 1_000_000_000.0)
    ids += [publish(late, source).id for _ in range(3)]
    assert store.resolve("policy").name == ids[-1]
    assert [m.id for m in store.list("policy")] == ids[::-1]


def test_a_source_that_changes_while_it_is_copied_is_not_published(
    store: CheckpointStore, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.fsync

    def fsync(descriptor: int) -> None:
        with (source / "config.json").open("a") as file:
            file.write(" ")
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(
        store_module, "make_directory", lambda d: d.mkdir(parents=True, exist_ok=True)
    )
    with pytest.raises(CheckpointError, match="changed while"):
        publish(store, source)


# -------------------------------------------------------------------- kill -9


def assert_whole(store: CheckpointStore, promised: list[str]) -> None:
    """Every checkpoint verifies, latest resolves, and nothing that was promised is lost."""
    assert store.broken() == ()
    present = [store.verify("policy", m.id).id for m in store.list("policy")]
    assert set(promised) <= set(present)
    if promised:
        latest = store.resolve("policy")
        value_of(latest)
        assert present.index(latest.name) <= present.index(promised[-1]), "latest went back"


def test_kill_at_every_file_operation_leaves_readers_whole(tmp_path: Path, source: Path) -> None:
    clock = Clock()
    store = CheckpointStore(tmp_path / "store", clock)
    promised = [publish(store, source).id]
    finished = killed = 0
    for fatal in range(1, 400):
        clock.now += 60.0
        child = os.fork()
        if child == 0:
            _publish_and_die(store, source, fatal)
        _, status = os.waitpid(child, 0)
        killed += os.WIFSIGNALED(status)
        assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0
        assert_whole(store, promised)
        if not os.WIFSIGNALED(status):
            finished += 1
            break
    assert finished == 1
    assert killed >= 30


def _publish_and_die(store: CheckpointStore, source: Path, fatal: int) -> None:
    """In a forked child: publish, with SIGKILL just before the `fatal`-th file operation."""
    count = 0

    def strike(*_: object) -> None:
        nonlocal count
        count += 1
        if count == fatal:
            os.kill(os.getpid(), signal.SIGKILL)

    def audit(event: str, _: tuple) -> None:
        if event in ("open", "os.rename", "os.mkdir", "os.remove", "os.rmdir"):
            strike()

    real = os.fsync
    os.fsync = lambda descriptor: (strike(), real(descriptor), strike())[1]  # type: ignore[func-returns-value,assignment]
    provenance.revision = lambda: ""  # type: ignore[assignment]
    sys.addaudithook(audit)
    try:
        publish(store, source)
    except BaseException:
        os._exit(3)
    os._exit(0)


PUBLISHER = """
import sys
from pathlib import Path
from safedojo_ros.checkpoints import provenance
from safedojo_ros.checkpoints.store import store
provenance.revision = lambda: ""
print("ready", flush=True)
for _ in range(int(sys.argv[3])):
    root, source = Path(sys.argv[1]), Path(sys.argv[2])
    manifest = store.CheckpointStore(root).publish("policy", source, spec={})
    print(manifest.id, flush=True)
"""


def publisher(store: CheckpointStore, source: Path, count: int) -> subprocess.Popen:
    command = [sys.executable, "-c", PUBLISHER, str(store.root), str(source), str(count)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)


def test_kill_at_random_instants_leaves_every_read_whole(tmp_path: Path) -> None:
    spec = importlib.util.spec_from_file_location("kills", ROOT / "benchmarks" / "store.py")
    assert spec is not None
    assert spec.loader is not None
    kills = sys.modules["kills"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(kills)
    outcome = kills.kill_publishers(tmp_path, 30, seed=7)
    assert outcome.faults == []
    assert outcome.kills == 30
    assert outcome.reads > 100
    assert outcome.kills_while_publishing > 0
    assert outcome.publications > 0


def test_two_publishers_and_a_reader_do_not_disturb_each_other(
    tmp_path: Path, source: Path
) -> None:
    store = CheckpointStore(tmp_path / "store")
    publish(store, source)
    processes = [publisher(store, source, 10) for _ in range(2)]
    reads = 0
    while any(p.poll() is None for p in processes):
        value_of(store.resolve("policy"))
        reads += 1
    promised = [p.communicate()[0].split()[1:] for p in processes]
    assert [len(ids) for ids in promised] == [10, 10]
    assert len({*promised[0], *promised[1]}) == 20
    assert len(store.list()) == 21
    assert reads > 0
    assert store.latest("policy") in (promised[0][-1], promised[1][-1])
    assert not any((store.root / STAGING).iterdir())


# -------------------------------------------------------------------- names and the command


@pytest.fixture
def shipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CheckpointStore:
    """A policy 9.0 that ships as `safe`, and 5.0 that ships as `base`."""
    store = CheckpointStore(tmp_path / "shipped", Clock())
    monkeypatch.setattr(names_module, "shipped_store", lambda: store)
    sources = {name: tmp_path / f"as-{name}" for name in ("base", "safe")}
    made = {
        name: publish(store, write_source(sources[name], value)).id
        for name, value in (("base", 5.0), ("safe", 9.0))
    }
    (store.root / "names.json").write_text(json.dumps({"policy": made}))
    return store


def test_a_name_is_what_ships_an_id_or_a_directory(
    tmp_path: Path, source: Path, shipped: CheckpointStore
) -> None:
    root = tmp_path / "store"
    safe = names_module.shipped_names()["policy"]["safe"]
    mine = publish(CheckpointStore(root), source)
    assert value_of(find_checkpoint("policy", DEFAULT_POLICY, root)) == 9.0
    assert value_of(find_checkpoint("policy", "base", root)) == 5.0
    assert value_of(find_checkpoint("policy", safe, root)) == 9.0
    assert value_of(find_checkpoint("policy", mine.id, root)) == 1.0
    copied = shutil.copytree(root / "policy" / mine.id, tmp_path / "copied")
    assert find_checkpoint("policy", str(copied), root) == copied
    with pytest.raises(CheckpointError, match="kind 'policy', expected 'safety'"):
        find_checkpoint("safety", str(copied), root)
    flip_a_bit(copied)
    with pytest.raises(CheckpointError, match="altered"):
        find_checkpoint("policy", str(copied), root)


def test_latest_is_the_users_own_and_never_what_ships(
    tmp_path: Path, source: Path, shipped: CheckpointStore
) -> None:
    root = tmp_path / "store"
    with pytest.raises(CheckpointError, match="no latest checkpoint.*base and safe ship"):
        find_checkpoint("policy", "latest", root)
    publish(CheckpointStore(root), source)
    assert value_of(find_checkpoint("policy", "latest", root)) == 1.0


def test_a_name_that_nothing_has_is_answered_with_those_that_ship(
    tmp_path: Path, shipped: CheckpointStore
) -> None:
    for name in ("nosuch", "shipped"):
        with pytest.raises(CheckpointError, match=f"'{name}'.*base and safe ship"):
            find_checkpoint("policy", name, tmp_path / "store")


@pytest.mark.parametrize("text", ["[]", '{"policy": {"safe": 1}}', '{"heads": {}}', "{"])
def test_a_list_of_names_that_is_none_is_one_line(shipped: CheckpointStore, text: str) -> None:
    (shipped.root / "names.json").write_text(text)
    with pytest.raises(CheckpointError, match="names.json"):
        find_checkpoint("policy", "safe")


def test_every_name_that_ships_has_its_checkpoint_and_the_other_way_round() -> None:
    store, names = names_module.shipped_store(), names_module.shipped_names()
    assert {kind: sorted(ids) for kind, ids in names.items()} == {
        "policy": ["base", DEFAULT_POLICY],
        **dict.fromkeys(("safety", "world_model", "success"), [SHIPPED]),
    }
    assert not store.broken()
    assert {(m.kind, m.id) for m in store.list()} == {
        (kind, identifier) for kind, ids in names.items() for identifier in ids.values()
    }


def test_the_users_store_follows_the_environment(
    tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SAFEDOJO_STORE", str(tmp_path / "mine"))
    manifest = publish(CheckpointStore(tmp_path / "mine"), source)
    assert find_checkpoint("policy", "latest").name == manifest.id


def test_the_command_publishes_lists_shows_verifies_and_rolls_back(
    tmp_path: Path,
    source: Path,
    shipped: CheckpointStore,
    capsys: pytest.CaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    root = tmp_path / "store"

    def run(*words: str) -> tuple[int, str]:
        code = main(["checkpoint", "--store", str(root), *words])
        return code, "".join(capsys.readouterr())

    details = tmp_path / "details.json"
    details.write_text(json.dumps({"spec": SPEC, "normalisation": NORMALISATION}))
    assert run("list")[0] == 0
    code, text = run("publish", "policy", str(source))
    assert code == 2
    assert "--details" in text
    code, text = run("publish", "policy", str(source), "--details", str(details))
    assert code == 2
    assert "this policy is not fit to be used" in text
    monkeypatch.setattr("safedojo_ros.models.trial.act_once", lambda kind, directory, spec: None)
    assert run("publish", "policy", str(source), "--details", str(details))[0] == 0
    safe = names_module.shipped_names()["policy"]["safe"]
    directory = str(shipped.resolve("policy", safe))
    assert run("publish", "policy", directory, "--name", "imported")[0] == 0
    store = CheckpointStore(root)
    newest, oldest = sorted(store.list(), key=lambda m: m.id.endswith("-imported"), reverse=True)
    assert newest.parent == safe
    assert run("list", "--json", str(tmp_path / "list.json"))[0] == 0
    listed = {m["id"]: m.get("name") for m in json.loads((tmp_path / "list.json").read_text())}
    assert {i for i, name in listed.items() if name is None} == {newest.id, oldest.id}
    assert listed[safe] == "safe"
    assert "latest" in run("list")[1]
    assert json.loads(run("show", "policy")[1])["id"] == newest.id
    assert "all as in the manifest" in run("verify", "policy")[1]
    assert run("rollback", "policy", oldest.id)[0] == 0
    assert store.latest("policy") == oldest.id
    flip_a_bit(root / "policy" / newest.id)
    code, text = run("verify", "policy", newest.id)
    assert code == 2
    assert "altered" in text
    assert run("rollback", "policy", newest.id)[0] == 2
    assert store.latest("policy") == oldest.id


def test_rollback_without_an_id_goes_to_the_one_before(
    store: CheckpointStore, source: Path, capsys: pytest.CaptureFixture
) -> None:
    first, _ = publish(store, source), publish(store, source)
    words = ["checkpoint", "--store", str(store.root), "rollback", "policy"]
    assert main(words) == 0
    assert store.latest("policy") == first.id
    assert main(words) == 2
    assert "no policy checkpoint older" in capsys.readouterr().err
