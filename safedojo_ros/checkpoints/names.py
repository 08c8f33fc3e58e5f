"""What people call a checkpoint, and where it lies: shipped, in the user's store, elsewhere."""

import os
from pathlib import Path

from safedojo_ros.checkpoints.manifest import IDENTIFIER, verify
from safedojo_ros.checkpoints.store.store import LATEST, CheckpointStore, Prove, check_name
from safedojo_ros.core.errors import CheckpointError
from safedojo_ros.core.files import expand_home


def released_store() -> CheckpointStore:
    """The checkpoints that ship in the package."""
    return CheckpointStore(Path(__file__).parent / "released")


def shipped_policies() -> dict[str, CheckpointStore]:
    """The policies that ship in the package beside the released one, by name.

    `coached` was trained on from it, on demonstrations that touch nothing and on experts that took
    over behind the gate.
    """
    return {"coached": CheckpointStore(Path(__file__).parent / "coached")}


def user_store(root: Path | None = None, prove: Prove | None = None) -> CheckpointStore:
    """The store at `root`; by default the user's, `SAFEDOJO_STORE` or `~/.safedojo/checkpoints`.

    prove: asked about everything that is to enter; see `pipeline.publication`.
    """
    if root is None:
        root = Path(os.environ.get("SAFEDOJO_STORE") or "~/.safedojo/checkpoints")
    return CheckpointStore(root, prove=prove)


def find_checkpoint(kind: str, name: str, store_root: Path | None = None) -> Path:
    """Verified directory of a checkpoint that a person names.

    name: "released", or for policies "coached" (both ship in the package); "latest" (of the user's
    store, or released when that one is empty); an id in any of these stores; or the path of a
    checkpoint directory anywhere, recognised by a "/" in it. Raises `CheckpointError`.
    """
    store = user_store(store_root)
    released = released_store()
    shipped = {"released": released} | shipped_policies()
    if name in shipped:
        return shipped[name].resolve(kind)
    if name == LATEST:
        return (store if store.latest(kind) else released).resolve(kind)
    check_name(name)
    if "/" in name:
        path = expand_home(name)
        manifest = verify(path)
        if manifest.kind != kind:
            raise CheckpointError(f"{path} is of kind '{manifest.kind}', expected '{kind}'")
        return path
    for place in (store, *shipped.values()):
        if IDENTIFIER.fullmatch(name) and (place.root / kind / name).is_dir():
            return place.resolve(kind, name)
    return store.resolve(kind, name)
