"""`safedojo checkpoint`: what is in the store, what stays in it, and what goes and comes."""

import argparse
import json
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from safedojo_ros.checkpoints.hub import pull, push
from safedojo_ros.checkpoints.manifest import (
    KINDS,
    MANIFEST,
    Manifest,
    read_manifest,
    verify,
)
from safedojo_ros.checkpoints.names import find_checkpoint, user_store
from safedojo_ros.checkpoints.provenance import package_warnings
from safedojo_ros.checkpoints.store.retention import pin, pinned, prune, unpin
from safedojo_ros.checkpoints.store.store import CheckpointStore
from safedojo_ros.core.errors import CheckpointError


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        "--store", type=Path, help="root (default: $SAFEDOJO_STORE or ~/.safedojo/checkpoints)"
    )
    actions = parser.add_subparsers(dest="action", required=True)

    listing = actions.add_parser("list", help="what is in the store, newest first")
    listing.add_argument("kind", nargs="?", choices=KINDS)
    listing.add_argument("--json", action="store_true", help="manifests as JSON")

    name_help = "latest, released, practised, coached, an id, or a directory path with a '/' in it"
    for name, summary in (
        ("show", "print a manifest"),
        ("verify", "read every file and compare it with the manifest"),
    ):
        action = actions.add_parser(name, help=summary)
        action.add_argument("kind", choices=KINDS)
        action.add_argument("name", nargs="?", default="latest", help=name_help)

    publish = actions.add_parser("publish", help="copy a directory into the store as 'latest'")
    publish.add_argument("kind", choices=KINDS)
    publish.add_argument("directory", type=Path)
    publish.add_argument(
        "--details",
        type=Path,
        help="JSON with spec, normalisation, evaluation, fidelity, requires "
        "(default: those of the directory's own manifest.json)",
    )
    publish.add_argument("--parent", help="id of the checkpoint it was trained from")
    publish.add_argument("--name", help="a word to append to the id")
    publish.add_argument("--keep-latest", action="store_true", help="do not move 'latest'")

    rollback = actions.add_parser("rollback", help="point 'latest' to an older checkpoint")
    rollback.add_argument("kind", choices=KINDS)
    rollback.add_argument("id", nargs="?", help="default: the one that was published before it")

    for name, summary in (
        ("pin", "keep a checkpoint through every pruning"),
        ("unpin", "take a pin away"),
    ):
        action = actions.add_parser(name, help=summary)
        action.add_argument("kind", choices=KINDS)
        action.add_argument("id")

    pruning = actions.add_parser(
        "prune", help="remove old checkpoints; never latest, pinned or needed ones"
    )
    pruning.add_argument("kind", choices=KINDS)
    pruning.add_argument("--keep", type=int, default=10, help="how many of the newest stay (10)")
    pruning.add_argument("--dry-run", action="store_true", help="only say what would go")

    push = actions.add_parser("push", help="send a checkpoint to the Hugging Face Hub")
    push.add_argument("kind", choices=KINDS)
    push.add_argument("name", help="latest or an id")
    push.add_argument("repository", help="owner/name")
    push.add_argument("--public", action="store_true", help="a new repository is public")

    pull = actions.add_parser("pull", help="fetch a checkpoint from the Hugging Face Hub")
    pull.add_argument("kind", choices=KINDS)
    pull.add_argument("repository", help="owner/name")
    pull.add_argument("--revision", required=True, help="the commit, 40 hexadecimal digits")
    pull.add_argument("--latest", action="store_true", help="also point 'latest' to it")


def run(args: argparse.Namespace) -> int:
    """Run one action; raises `CheckpointError`."""
    store = CheckpointStore(args.store) if args.store else user_store()
    action = {
        "list": _list,
        "show": _show,
        "verify": _verify,
        "publish": _publish,
        "rollback": _rollback,
        "pin": _pin,
        "unpin": _unpin,
        "prune": _prune,
        "push": _push,
        "pull": _pull,
    }[args.action]
    return action(store, args)


def _list(store: CheckpointStore, args: argparse.Namespace) -> int:
    manifests = store.list(args.kind)
    if args.json:
        print(json.dumps([json.loads(m.to_json()) for m in manifests], indent=2))
    else:
        table = Table("kind", "id", "MB", "parent", "revision", "", box=box.SIMPLE)
        for m in manifests:
            mark = "latest" if store.latest(m.kind) == m.id else ""
            mark += " pinned" if m.id in pinned(store, m.kind) else ""
            size = f"{m.size / 1e6:.1f}"
            table.add_row(m.kind, m.id, size, m.parent or "-", m.revision[:12] or "-", mark.strip())
        Console().print(table if manifests else f"{store.root} holds no checkpoints yet")
    broken = store.broken(args.kind)
    for sentence in broken:
        print(f"broken: {sentence}")
    return 1 if broken else 0


def _show(store: CheckpointStore, args: argparse.Namespace) -> int:
    path = find_checkpoint(args.kind, args.name, store.root)
    manifest = read_manifest(path)
    print(manifest.to_json(), end="")
    _warn(manifest)
    return 0


def _verify(store: CheckpointStore, args: argparse.Namespace) -> int:
    path = find_checkpoint(args.kind, args.name, store.root)
    manifest = read_manifest(path)
    print(f"{path}: {len(manifest.files)} files, {manifest.size} bytes, all as in the manifest")
    _warn(manifest)
    return 0


def _publish(store: CheckpointStore, args: argparse.Namespace) -> int:
    details, parent = _details(args)
    manifest = store.publish(
        args.kind,
        args.directory,
        parent=args.parent or parent,
        name=args.name,
        make_latest=not args.keep_latest,
        **details,
    )
    print(f"published {args.kind} {manifest.id} in {store.root}")
    return 0


def _rollback(store: CheckpointStore, args: argparse.Namespace) -> int:
    now = store.latest(args.kind)
    target = args.id
    if target is None:
        older = [m.id for m in store.list(args.kind)]
        older = older[older.index(now) + 1 :] if now in older else []
        if not older:
            raise CheckpointError(
                f"there is no {args.kind} checkpoint older than {now}; name one: "
                f"safedojo checkpoint rollback {args.kind} ID"
            )
        target = older[0]
    manifest = store.set_latest(args.kind, target)
    print(f"'latest' of {args.kind} is {manifest.id} now (it was {now})")
    return 0


def _pin(store: CheckpointStore, args: argparse.Namespace) -> int:
    print(f"{args.kind} {pin(store, args.kind, args.id)} is pinned")
    return 0


def _unpin(store: CheckpointStore, args: argparse.Namespace) -> int:
    unpin(store, args.kind, args.id)
    print(f"{args.kind} {args.id} is not pinned any more")
    return 0


def _prune(store: CheckpointStore, args: argparse.Namespace) -> int:
    gone, reasons = prune(store, args.kind, args.keep, args.dry_run)
    for manifest in gone:
        verb = "would remove" if args.dry_run else "removed"
        print(f"{verb} {args.kind} {manifest.id}, {manifest.size / 1e6:.1f} MB")
    for identifier, reason in reasons.items():
        print(f"kept {args.kind} {identifier}: {reason}")
    return 0


def _push(store: CheckpointStore, args: argparse.Namespace) -> int:
    commit = push(store, args.kind, args.name, args.repository, private=not args.public)
    print(f"{args.repository} holds it now; safedojo checkpoint pull {args.kind} {args.repository} "
          f"--revision {commit}")  # fmt: skip
    return 0


def _pull(store: CheckpointStore, args: argparse.Namespace) -> int:
    manifest = pull(store, args.kind, args.repository, args.revision, args.latest)
    print(f"{args.kind} {manifest.id} is in {store.root}")
    return 0


DETAILS = ("spec", "normalisation", "evaluation", "fidelity", "requires")


def _details(args: argparse.Namespace) -> tuple[dict[str, Any], str | None]:
    """What the manifest says beside the files, and the parent; from --details or the source."""
    if args.details is None:
        if not (args.directory / MANIFEST).is_file():
            raise CheckpointError(
                f"{args.directory} has no {MANIFEST}; give --details FILE with at least 'spec'"
            )
        manifest = verify(args.directory)
        if manifest.kind != args.kind:
            raise CheckpointError(f"{args.directory} is of kind '{manifest.kind}'")
        return {key: getattr(manifest, key) for key in DETAILS}, manifest.id
    try:
        content = json.loads(args.details.read_text())
    except (OSError, ValueError) as error:
        raise CheckpointError(f"cannot read {args.details}: {error}") from None
    if not isinstance(content, dict) or "spec" not in content or set(content) - set(DETAILS):
        raise CheckpointError(f"{args.details} needs 'spec' and may have {', '.join(DETAILS[1:])}")
    return content, None


def _warn(manifest: Manifest) -> None:
    for sentence in package_warnings(manifest):
        print(f"warning: {sentence}")
