"""A file is whole or not there, and says so where it cannot be written."""

import os
import re
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from safedojo_ros.core.errors import ConfigError
from safedojo_ros.core.files import (
    PARTIAL_SUFFIX,
    claim,
    expand_home,
    private_folder,
    replacing,
    write_whole,
)


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


HOLD = """
import sys, time
from pathlib import Path
from safedojo_ros.core.files import claim
held = claim(Path(sys.argv[1]))
print("held", flush=True)
time.sleep(60)
"""


def test_a_folder_in_use_names_who_works_there_and_a_killed_process_lets_go(
    tmp_path: Path,
) -> None:
    other = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path / "out")], stdout=subprocess.PIPE
    )
    assert other.stdout is not None
    assert other.stdout.readline() == b"held\n"
    said = rf"out is in use by process {other.pid} since \d{{4}}-\d\d-\d\d \d\d:\d\d:\d\d; wait"
    with pytest.raises(ConfigError, match=said):
        claim(tmp_path / "out")
    other.send_signal(signal.SIGKILL)
    other.wait()
    other.stdout.close()
    with claim(tmp_path / "out") as held:
        held.seek(0)
        assert re.match(rf"process {os.getpid()} ", held.read())


def test_a_link_in_place_of_the_claim_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("precious")
    (tmp_path / ".in_use").symlink_to(tmp_path / "mine")
    with pytest.raises(ConfigError, match="cannot write"):
        claim(tmp_path)
    assert (tmp_path / "mine").read_text() == "precious"


def test_a_temporary_folder_that_another_could_have_made_is_not_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    expected = tmp_path / f"logs_{os.getuid()}"
    assert private_folder("logs") == expected
    assert private_folder("logs") == expected
    expected.chmod(0o777)
    assert private_folder("logs") != expected
    expected.rmdir()
    expected.symlink_to(tmp_path)
    taken = private_folder("logs")
    assert taken != expected
    assert taken.stat().st_mode & 0o077 == 0
