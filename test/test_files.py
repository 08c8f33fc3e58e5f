"""A file is whole or not there, and says so where it cannot be written."""

import os
from pathlib import Path

import pytest

from safedojo_ros.core.errors import ConfigError
from safedojo_ros.core.files import PARTIAL_SUFFIX, expand_home, replacing, write_whole


def test_text_is_utf_8_whatever_the_locale_says(tmp_path: Path) -> None:
    write_whole(tmp_path / "word.txt", "π0 … Öl")
    assert (tmp_path / "word.txt").read_bytes() == "π0 … Öl".encode()


def test_the_old_file_stays_until_the_new_one_is_durable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a/state"
    write_whole(path, b"old")
    seen: list[tuple[bytes, bool]] = []
    synced = os.fsync

    def sync(descriptor: int) -> None:
        synced(descriptor)
        seen.append((path.read_bytes(), Path(f"/proc/self/fd/{descriptor}").resolve().is_dir()))

    monkeypatch.setattr(os, "fsync", sync)
    write_whole(path, b"new")
    assert seen == [(b"old", False), (b"new", True)], "the file first, then its name"
    assert os.listdir(path.parent) == ["state"]


def test_what_fails_half_way_leaves_the_old_file_and_nothing_beside(tmp_path: Path) -> None:
    path = tmp_path / "state"
    write_whole(path, b"old")

    def write_half() -> None:
        with replacing(path) as partial:
            assert partial.name.endswith(PARTIAL_SUFFIX)
            partial.write_bytes(b"ha")
            raise OSError("the disk is full")

    with pytest.raises(OSError, match="full"):
        write_half()
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["state"]


def test_two_processes_never_write_into_the_same_partial_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with replacing(tmp_path / "state") as first:
        first.write_bytes(b"first")
        monkeypatch.setattr(os, "getpid", lambda: -1)
        write_whole(tmp_path / "state", b"second")
        assert first.read_bytes() == b"first"
    assert (tmp_path / "state").read_bytes() == b"first"


def test_where_nobody_says_what_home_is_the_fault_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HOME", "/home/robot")
    assert expand_home("~/bags") == Path("/home/robot/bags")
    monkeypatch.delenv("HOME")
    monkeypatch.setattr("pwd.getpwuid", {}.__getitem__)  # of a container's user without an entry
    with pytest.raises(ConfigError, match="set HOME"):
        expand_home("~/bags")
    assert expand_home("/data/bags") == Path("/data/bags")
