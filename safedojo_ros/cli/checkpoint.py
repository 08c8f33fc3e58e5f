"""List, show, publish and roll back checkpoints; keep and remove them; send and fetch them."""

import argparse
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from safedojo_ros.checkpoints.manifest import KINDS, read_manifest
from safedojo_ros.checkpoints.names import find_checkpoint, shipped_manifests
from safedojo_ros.checkpoints.provenance import package_warnings
from safedojo_ros.checkpoints.store.retention import pin, prune, unpin
from safedojo_ros.checkpoints.store.store import CheckpointStore
from safedojo_ros.cli import publishing
from safedojo_ros.cli.help import teach
from safedojo_ros.cli.options import add_json, write_json
from safedojo_ros.cli.tables import print_checkpoints
from safedojo_ros.pipeline.publication import publishing_store

EXAMPLES = {
    "list": "policy",
    "show": "policy safe",
    "verify": "safety shipped",
    "rollback": "policy",
    "pin": "policy ID",
    "unpin": "policy ID",
    "prune": "policy --keep 5 --dry-run",
    "publish": "policy runs/policy/checkpoint --evaluation report.json",
    "ship": "policy ID --as safe --evaluation report.json",
    "push": "policy latest OWNER/NAME",
    "pull": "policy OWNER/NAME --revision COMMIT",
}


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--store", type=Path, help="root of the store (default: the user's)")
    actions = parser.add_subparsers(dest="action", required=True)

    def action(name: str, act: Callable[..., Iterator[str]], text: str) -> Callable[..., Any]:
        declared = actions.add_parser(name, help=text, description=text)
        teach(declared, f"checkpoint {name} {EXAMPLES[name]}")
        declared.set_defaults(act=act)
        declared.add_argument("kind", choices=KINDS, nargs="?" if name == "list" else None)
        return declared.add_argument

    option = action("list", _list, "what ships and what is in the store, newest first")
    add_json(option)
    name = {"nargs": "?", "default": "latest", "help": "latest, what ships, an id or ./path"}
    action("show", _show, "print a manifest")("name", **name)
    action("verify", _show, "read every file and compare it with the manifest")("name", **name)
    option = action("rollback", _rollback, "point 'latest' to an older checkpoint")
    option("id", nargs="?", help="default: the one that was published before it")
    action("pin", _pin, "keep a checkpoint through every pruning")("id")
    action("unpin", _pin, "take a pin away")("id")
    option = action("prune", _prune, "remove old checkpoints; never latest, pinned or needed ones")
    option("--keep", type=int, default=10, help="how many of the newest stay (10)")
    option("--dry-run", action="store_true", help="only say what would go")
    publishing.configure(action)


def run(args: argparse.Namespace) -> int:
    """Run one action and print its sentences; 1: the list has broken checkpoints."""
    store = publishing_store(args.store)
    for sentence in args.act(store, args):
        print(sentence)
    return int(args.action == "list" and bool(store.broken(args.kind)))


def _list(store: CheckpointStore, args: argparse.Namespace) -> Iterator[str]:
    ships = shipped_manifests(args.kind)
    manifests = store.list(args.kind)
    print_checkpoints(store, ships, manifests)
    rows = [{"name": name} | asdict(m) for name, m in ships] + [asdict(m) for m in manifests]
    write_json(args.json, rows)
    yield from (f"broken: {sentence}" for sentence in store.broken(args.kind))


def _show(store: CheckpointStore, args: argparse.Namespace) -> Iterator[str]:
    manifest = read_manifest(path := find_checkpoint(args.kind, args.name, store.root))
    files = f"{len(manifest.files)} files, {manifest.size} bytes, all as in the manifest"
    yield manifest.to_json().rstrip() if args.action == "show" else f"{path}: {files}"
    yield from (f"warning: {sentence}" for sentence in package_warnings(manifest))


def _rollback(store: CheckpointStore, args: argparse.Namespace) -> Iterator[str]:
    now, made = store.latest(args.kind), store.roll_back(args.kind, args.id)
    yield f"'latest' of {args.kind} is {made.id} now (it was {now})"


def _pin(store: CheckpointStore, args: argparse.Namespace) -> Iterator[str]:
    if args.action == "pin":
        yield f"{args.kind} {pin(store, args.kind, args.id)} is pinned"
    else:
        unpin(store, args.kind, args.id)
        yield f"{args.kind} {args.id} is not pinned any more"


def _prune(store: CheckpointStore, args: argparse.Namespace) -> Iterator[str]:
    gone, reasons = prune(store, args.kind, args.keep, args.dry_run)
    verb = "would remove" if args.dry_run else "removed"
    yield from (f"{verb} {args.kind} {m.id}, {m.size / 1e6:.1f} MB" for m in gone)
    yield from (f"kept {args.kind} {name}: {reason}" for name, reason in reasons.items())
