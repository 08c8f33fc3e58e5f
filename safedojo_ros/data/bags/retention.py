"""Keeps a folder of bags within its bounds: free disk first, then the bags' total size."""

import contextlib
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from safedojo_ros.core.files import PARTIAL_SUFFIX
from safedojo_ros.data.bags.writer import METADATA

BAG_NAME = re.compile(r"episode_\d{8}T\d{6}_\d{6}")
"""Names of the recorder's own bags; nothing else in the folder is ever touched."""


def bag_name(number: int, clock_text: str) -> str:
    """clock_text: as 20260131T235959; the number goes on where the clock goes back."""
    return f"episode_{clock_text}_{number:06d}"


def own_bags(root: Path) -> list[Path]:
    """The recorder's bags directly in `root`, oldest first; links are nobody's."""
    if not root.is_dir():
        return []
    bags = [
        path
        for path in root.iterdir()
        if BAG_NAME.fullmatch(path.name) and path.is_dir() and not path.is_symlink()
    ]
    return sorted(bags, key=bag_order)


def bag_order(bag: Path) -> tuple[int, str]:
    """By the recorder's number, since the clock may go back; other bags by name, before them."""
    own = BAG_NAME.fullmatch(bag.name)
    return (bag_number(bag) if own else 0, bag.name)


def bag_number(bag: Path) -> int:
    """Counts the recorder's bags in one folder."""
    return int(bag.name.rpartition("_")[2])


def bag_size(bag: Path) -> int:
    """Bytes of its files; what vanishes meanwhile counts nothing."""
    total = 0
    for file in _files(bag):
        with contextlib.suppress(OSError):
            total += file.stat().st_size
    return total


def remove_oldest(root: Path, bound: int) -> list[Path]:
    """Remove the oldest own bags until all take at most `bound` bytes; returns what went."""
    bags = own_bags(root)
    sizes = {bag: bag_size(bag) for bag in bags}
    total, removed = sum(sizes.values()), []
    for bag in bags:
        if total <= bound:
            break
        remove_bag(bag)
        total -= sizes[bag]
        removed.append(bag)
    return removed


def remove_bag(bag: Path) -> None:
    """Remove the files of a bag, and the folder unless something else lies in it."""
    for file in _files(bag):
        file.unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        bag.rmdir()


def space_fault(
    root: Path, floor: int, free: Callable[[Path], int] = lambda path: shutil.disk_usage(path).free
) -> str:
    """Why nothing more may be written below `root`, or "": less than `floor` bytes are free."""
    place = root
    while not place.exists() and place != place.parent:
        place = place.parent
    try:
        left = free(place)
    except OSError as error:
        return f"{place}: {error.strerror}"
    if left >= floor:
        return ""
    return f"{left / 1e9:.2f} GB are free in {place}, the floor is {floor / 1e9:.2f} GB"


def _files(bag: Path) -> Iterator[Path]:
    for pattern in ("*.mcap", METADATA, f".{METADATA}.*{PARTIAL_SUFFIX}"):
        yield from (path for path in bag.glob(pattern) if not path.is_dir())
