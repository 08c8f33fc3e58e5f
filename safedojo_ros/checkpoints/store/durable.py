"""Writing that survives a power cut, and the locks that keep two writers of one store apart.

The locks are `flock`s: the kernel gives them back when their holder dies, however it dies, and no
clock is asked. Readers take none.
"""

import fcntl
import hashlib
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safedojo_ros.checkpoints.manifest import open_regular
from safedojo_ros.core.errors import CheckpointError
from safedojo_ros.core.files import sync_directory
from safedojo_ros.core.tensor_file import read_header

COPY_BYTES = 1024 * 1024
LOCK_TIMEOUT = 60.0
"""Seconds to wait for another writer, who holds the store only to rename and to remove names."""


def copy_file(source: Path, target: Path) -> dict[str, Any]:
    """Copy one file and sync it; returns its manifest entry, computed from what was written."""
    target.parent.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256()
    with open_regular(source) as reader, open(target, "xb") as writer:
        before = os.fstat(reader.fileno())
        if source.suffix == ".safetensors":
            read_header(reader, before.st_size, str(source))
            reader.seek(0)
        while block := reader.read(COPY_BYTES):
            digest.update(block)
            writer.write(block)
        writer.flush()
        os.fsync(writer.fileno())
        size, after = writer.tell(), os.fstat(reader.fileno())
    if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
        raise CheckpointError(f"{source} changed while it was published; publish again")
    return {"size": size, "sha256": digest.hexdigest()}


def sync_tree(directory: Path) -> None:
    """Sync the names in a directory and in all below it."""
    for current, _, _ in os.walk(directory, topdown=False):
        sync_directory(Path(current))


def make_directory(directory: Path) -> None:
    """Make a directory and its parents, each new name on disk before it is used."""
    if directory.is_dir():
        return
    make_directory(directory.parent)
    directory.mkdir(exist_ok=True)
    sync_directory(directory.parent)


def clear_directory(directory: Path) -> None:
    """Remove what lies in a directory, as far as it lets itself be removed."""
    for path in directory.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def words_of(error: OSError) -> str:
    """What the system said, and of which file."""
    return f"{error.strerror} ({error.filename})" if error.filename else f"{error.strerror}"


@contextmanager
def exclusive(path: Path, timeout: float = LOCK_TIMEOUT) -> Iterator[None]:
    """Hold the lock file `path` alone; raises `CheckpointError` when another keeps it too long."""
    descriptor = _open_lock(path)
    try:
        _acquire(descriptor, fcntl.LOCK_EX, path, timeout)
        yield
    finally:
        os.close(descriptor)


@contextmanager
def together(
    path: Path, alone: Callable[[], None], timeout: float = LOCK_TIMEOUT
) -> Iterator[None]:
    """Hold the lock file `path` together with others; `alone` is called first if nobody else does.

    Whatever `alone` finds was left by somebody who died.
    """
    descriptor = _open_lock(path)
    try:
        if _take(descriptor, fcntl.LOCK_EX):
            alone()
        _acquire(descriptor, fcntl.LOCK_SH, path, timeout)
        yield
    finally:
        os.close(descriptor)


def _open_lock(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)


def _acquire(descriptor: int, kind: int, path: Path, timeout: float) -> None:
    end = time.monotonic() + timeout
    while not _take(descriptor, kind):
        if time.monotonic() > end:
            raise CheckpointError(
                f"another writer has held {path} for {timeout:g} s; "
                f"see who ('fuser {path}') and end it, then try again"
            )
        time.sleep(0.005)


def _take(descriptor: int, kind: int) -> bool:
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
