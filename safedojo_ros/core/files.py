"""Files that are whole or not there: written beside, made durable, then given their name."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safedojo_ros.core.errors import ConfigError

PARTIAL_SUFFIX = ".partial"
"""Of a file that is being written; one that stays was left by a process that was killed."""


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


def expand_home(path: str | Path) -> Path:
    """`path` with a leading ~ replaced; raises `ConfigError` where nobody says what home is."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise ConfigError(
            f"{path}: this user has no home folder; set HOME, or give a full path"
        ) from None
