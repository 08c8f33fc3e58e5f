"""Which checkpoints stay: pins, and pruning that never takes what is still needed."""

import os
import secrets
import shutil
from collections.abc import Collection, Sequence
from pathlib import Path

from safedojo_ros.checkpoints.manifest import IDENTIFIER, Manifest
from safedojo_ros.checkpoints.store.durable import make_directory
from safedojo_ros.checkpoints.store.store import CheckpointStore
from safedojo_ros.core.errors import CheckpointError
from safedojo_ros.core.files import sync_directory

PINNED = ".pinned"
"""Folder beside the checkpoints of a kind, with an empty file for each pinned id."""


def pin(store: CheckpointStore, kind: str, name: str = "latest") -> str:
    """Keep a checkpoint through every pruning; returns its id. Raises `CheckpointError`."""
    with store.writing("nothing was pinned"):
        identifier = store.show(kind, name).id
        folder = store.root / kind / PINNED
        make_directory(folder)
        (folder / identifier).touch()
        sync_directory(folder)
    return identifier


def unpin(store: CheckpointStore, kind: str, identifier: str) -> None:
    """Take a pin away; raises `CheckpointError` when there is none."""
    if identifier not in pinned(store, kind):
        raise CheckpointError(f"{kind} '{identifier:.80}' is not pinned")
    with store.writing("the pin stays"):
        mark = store.root / kind / PINNED / identifier
        mark.unlink(missing_ok=True)
        sync_directory(mark.parent)


def pinned(store: CheckpointStore, kind: str) -> frozenset[str]:
    """The pinned ids of a kind."""
    folder = store.root / kind / PINNED
    names = os.listdir(folder) if folder.is_dir() else []
    return frozenset(name for name in names if IDENTIFIER.fullmatch(name))


def reasons_to_keep(
    newest_first: Sequence[Manifest],
    latest: str | None,
    pins: Collection[str],
    required: Collection[str],
    keep: int,
) -> dict[str, str]:
    """{id: why it stays}; every other checkpoint of `newest_first` may go.

    required: ids that checkpoints of other kinds need; keep: how many of the newest stay.
    """
    reasons = {m.id: f"one of the {keep} newest" for m in newest_first[:keep]}
    ids = [m.id for m in newest_first]
    if latest in ids:
        place = ids.index(latest)
        parent = newest_first[place].parent
        for back, why in ((parent, "parent of latest"), (_at(ids, place + 1), "before latest")):
            if back in ids:
                reasons[back] = f"{why}, for a rollback"
        reasons[latest] = "latest"
    reasons |= {i: "required by a checkpoint of another kind" for i in ids if i in required}
    reasons |= {i: "pinned" for i in ids if i in pins}
    return reasons


def prune(
    store: CheckpointStore, kind: str, keep: int = 10, dry_run: bool = False
) -> tuple[list[Manifest], dict[str, str]]:
    """Remove all checkpoints of a kind but those of `reasons_to_keep`.

    Returns what went (with dry_run: what would go) and {id: why it stayed}. A reader sees each
    checkpoint whole or not at all. Raises `CheckpointError` for keep < 1, for a `latest` that
    points nowhere, and when the disk refuses; what was removed until then stays removed.
    """
    if keep < 1:
        raise CheckpointError(f"keep is {keep}, expected at least 1")
    doomed_places: list[Path] = []
    try:
        with store.writing(f"pruning {kind} stopped") as staging:
            newest_first, latest = store.list(kind), store.latest(kind)
            if latest is not None:
                store.show(kind, latest)
            required = {m.requires[kind] for m in store.list() if kind in m.requires}
            pins = pinned(store, kind)
            reasons = reasons_to_keep(newest_first, latest, pins, required, keep)
            doomed = [m for m in newest_first if m.id not in reasons]
            if dry_run or not doomed:
                return doomed, reasons
            for manifest in doomed:
                doomed_places.append(staging / secrets.token_hex(8))
                os.rename(store.root / kind / manifest.id, doomed_places[-1])
            sync_directory(store.root / kind)
    finally:
        for place in doomed_places:
            shutil.rmtree(place, ignore_errors=True)
    return doomed, reasons


def _at(ids: Sequence[str], place: int) -> str | None:
    return ids[place] if place < len(ids) else None
