"""Files that are whole or not there: written beside, made durable, then given their name."""

import contextlib
import fcntl
import os
import stat
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from safedojo_ros.core.errors import ConfigError

PARTIAL_SUFFIX = ".partial"
"""Of a file that is being written; one that stays was left by a process that was killed."""


IN_USE = ".in_use"
"""File of a folder that one process works in; locked as long as that process lives."""


def claim(folder: Path) -> IO[str]:
    """Make `folder`, and keep other processes from working in it until this file is closed.

    A process that is killed lets go, too. Raises `ConfigError` that names the process which has it.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        file = os.fdopen(os.open(folder / IN_USE, flags, 0o644), "r+", errors="replace")
    except OSError as error:
        raise ConfigError(f"cannot write {folder}: {error.strerror}") from None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        with contextlib.closing(file):
            owner = " ".join(file.read(200).split()) or "another process"
        raise ConfigError(
            f"{folder} is in use by {owner}; wait for it, or choose another --out"
        ) from None
    file.truncate(0)
    file.write(f"process {os.getpid()} since {time.strftime('%Y-%m-%d %H:%M:%S')}\n")
    file.flush()
    return file


def write_whole(path: Path, content: str | bytes) -> None:
    """Write a small file as `replacing` does; text is UTF-8. Raises `OSError`."""
    with replacing(path) as partial:
        partial.write_bytes(content.encode() if isinstance(content, str) else content)


@contextmanager
def replacing(path: Path, partial: Path | None = None) -> Iterator[Path]:
    """Yields where to write a file that is then made durable and named `path`, in one step.

    A reader sees the old file or the new one, whole; the old one stays where writing raises.
    partial: on the same file system; by default beside `path`, whose folder is made.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = partial or path.with_name(f".{path.name}.{os.getpid()}{PARTIAL_SUFFIX}")
    try:
        yield partial
        descriptor = os.open(partial, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    sync_directory(path.parent)


def sync_directory(directory: Path) -> None:
    """Make the names in a directory durable."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def private_folder(name: str) -> Path:
    """This user's folder `name` among the temporary ones, made if it is missing.

    Anybody can make that name first: a link, or a folder that is not this user's alone, is not
    taken, and one with a name that nobody can know is made in its place.
    """
    folder = Path(tempfile.gettempdir(), f"{name}_{os.getuid()}")
    with contextlib.suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    found = folder.lstat()
    own = stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and not found.st_mode & 0o022
    return folder if own else Path(tempfile.mkdtemp(prefix=f"{name}_"))


def expand_home(path: str | Path) -> Path:
    """`path` with a leading ~ replaced; raises `ConfigError` where nobody says what home is."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise ConfigError(
            f"{path}: this user has no home folder; set HOME, or give a full path"
        ) from None
