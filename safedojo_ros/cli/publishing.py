"""Actions of `safedojo checkpoint` that publish, ship, send and fetch."""

import argparse
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from safedojo_ros.checkpoints.details import DETAILS, read_details, read_evaluation
from safedojo_ros.checkpoints.hub import pull, push
from safedojo_ros.checkpoints.manifest import read_manifest
from safedojo_ros.checkpoints.names import find_checkpoint
from safedojo_ros.checkpoints.store.store import CheckpointStore
from safedojo_ros.cli.help import program
from safedojo_ros.pipeline.publication import publish, serve
from safedojo_ros.pipeline.shipping import ship

FORCE = (
    "even if it cannot act or is worse than the policy that serves, and point 'latest' to it even "
    "if it comes of the preset smoke"
)


def configure(action: Callable[..., Any]) -> None:
    """Declare the actions with `action(name, act, text)`, which returns `add_argument`."""
    option = action("publish", _publish, "copy a directory into the store as 'latest'")
    option("directory", type=Path)
    option("--details", type=Path, help=f"JSON with {', '.join(DETAILS)} (default: its manifest's)")
    option("--evaluation", type=Path, help="of this policy, by 'safedojo evaluate --json'")
    option("--parent", help="id of the checkpoint it was trained from")
    option("--name", help="a word to append to the id")
    option("--keep-latest", action="store_true", help="do not move 'latest'")
    option("--force", action="store_true", help=f"publish {FORCE}")
    option = action("ship", _ship, "replace what ships (for maintainers of the package)")
    option("name", help="an id or ./path")
    option("--as", dest="title", required=True, help="policy: base, safe; other kinds: shipped")
    option("--evaluation", type=Path, help="of this policy, by 'safedojo evaluate --json'")
    option("--force", action="store_true", help="even if it makes what ships too large")
    option = action("push", _push, "send a checkpoint to the Hugging Face Hub")
    option("name", help="latest or an id")
    option("repository", help="owner/name")
    option("--public", action="store_true", help="a new repository is public")
    option = action("pull", _pull, "fetch a checkpoint from the Hugging Face Hub")
    option("repository", help="owner/name")
    option("--revision", required=True, help="the commit, 40 hexadecimal digits")
    option("--latest", action="store_true", help="also point 'latest' to it")
    option("--force", action="store_true", help="with --latest, even if it is worse, or of smoke")


def _publish(store: CheckpointStore, args: argparse.Namespace) -> Iterator[str]:
    details, parent = read_details(args.kind, args.directory, args.details)
    if args.evaluation:
        details["evaluation"] = read_evaluation(args.evaluation, parent)
    details |= {"parent": args.parent or parent, "name": args.name}
    latest = not args.keep_latest
    publish(store.root, args.kind, args.directory, force=args.force, make_latest=latest, **details)
    yield from ()


def _ship(store: CheckpointStore, args: argparse.Namespace) -> Iterator[str]:
    evaluation = None
    if args.evaluation:
        source = find_checkpoint(args.kind, args.name, store.root)
        evaluation = read_evaluation(args.evaluation, read_manifest(source).id)
    how: dict[str, Any] = {"evaluation": evaluation, "force": args.force, "store_root": store.root}
    ship(args.kind, args.name, args.title, **how)
    yield from ()


def _push(store: CheckpointStore, args: argparse.Namespace) -> Iterator[str]:
    commit = push(store, args.kind, args.name, args.repository, private=not args.public)
    fetch = f"{program()} checkpoint pull {args.kind} {args.repository} --revision {commit}"
    yield f"{args.repository} holds it now; {fetch}"


def _pull(store: CheckpointStore, args: argparse.Namespace) -> Iterator[str]:
    made = pull(store, args.kind, args.repository, args.revision)
    yield f"{args.kind} {made.id} is in {store.root}"
    if args.latest:
        serve(store, args.kind, made.id, args.force)
