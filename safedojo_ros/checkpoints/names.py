"""What people call a checkpoint, and where it lies: shipped, in the user's store, elsewhere."""

import difflib
import os
from pathlib import Path

from safedojo_ros.checkpoints.manifest import IDENTIFIER, KINDS, Manifest, verify
from safedojo_ros.checkpoints.store.store import CheckpointStore, Prove, check_name
from safedojo_ros.core.errors import CheckpointError
from safedojo_ros.core.files import expand_home
from safedojo_ros.core.strict_json import read_json

DEFAULT_POLICY = "safe"
"""The policy of every command and node that is given none. It ships beside `base`, the careless
one that it was trained on from."""
SHIPPED = "shipped"
"""The safety head, success classifier and world model that ship; the default, too."""
SERVED = "openpi:"
"""How the name of a policy begins that a server computes; see `models.served.address`."""
NAMES = "names.json"
"""In the folder of what ships: {kind: {name: id}}."""


def shipped_store() -> CheckpointStore:
    """The checkpoints that ship in the package."""
    return CheckpointStore(Path(__file__).parent / "shipped")


def shipped_names() -> dict[str, dict[str, str]]:
    """{kind: {name: id}} of what ships; raises `CheckpointError`."""
    content = read_json(shipped_store().root / NAMES)
    if not isinstance(content, dict) or not all(
        kind in KINDS and isinstance(ids, dict) and all(_is_id(i) for i in ids.values())
        for kind, ids in content.items()
    ):
        raise CheckpointError(f"{NAMES} of what ships is not {{kind: {{name: id}}}}; install anew")
    return content


def shipped_manifests(kind: str | None = None) -> list[tuple[str, Manifest]]:
    """(name, manifest) of what ships, of one kind or of all; raises `CheckpointError`."""
    return [
        (name, shipped_store().show(each, identifier))
        for each, ids in shipped_names().items()
        for name, identifier in ids.items()
        if kind in (None, each)
    ]


def user_store(root: Path | None = None, prove: Prove | None = None) -> CheckpointStore:
    """The store at `root`; by default the user's, `SAFEDOJO_STORE` or `~/.safedojo/checkpoints`.

    prove: asked about everything that is to enter; see `pipeline.publication`.
    """
    if root is None:
        root = Path(os.environ.get("SAFEDOJO_STORE") or "~/.safedojo/checkpoints")
    return CheckpointStore(root, prove=prove)


def is_served(name: str) -> bool:
    """Whether `name` is of a policy that a server computes, of which there are no files here."""
    return name.startswith(SERVED)


def find_checkpoint(kind: str, name: str, store_root: Path | None = None) -> Path:
    """Verified directory of a checkpoint that a person names.

    name: what ships ("safe" or "base" for a policy, "shipped" for the other kinds); "latest" of the
    user's store; an id in either; or the path of a checkpoint directory anywhere, recognised by a
    "/" in it. Raises `CheckpointError`.
    """
    if is_served(name):
        raise CheckpointError(
            f"'{name}' is computed by a server, which has no weights and gives no "
            "log-probabilities; demo, evaluate, collect and the policy node take it, everything "
            "else needs a checkpoint of this package"
        )
    store, shipped = user_store(store_root), shipped_store()
    known = shipped_names().get(kind, {})
    if name in known:
        return shipped.resolve(kind, known[name])
    check_name(name)
    if "/" in name:
        path = expand_home(name)
        manifest = verify(path)
        if manifest.kind != kind:
            raise CheckpointError(f"{path} is of kind '{manifest.kind}', expected '{kind}'")
        return path
    here = store.root / kind / name
    if _is_id(name) and not here.is_dir() and (shipped.root / kind / name).is_dir():
        return shipped.resolve(kind, name)
    try:
        return store.resolve(kind, name)
    except CheckpointError as error:
        if here.is_dir() or not known:
            raise
        shelf = store.root / kind
        ids = [path.name for path in shelf.iterdir()] if shelf.is_dir() else []
        near = difflib.get_close_matches(name, [*known, "latest", *ids], n=1)
        hint = f"; did you mean '{near[0]}'?" if near and near[0] != name else ""
        ships = " and ".join(sorted(known))
        raise CheckpointError(f"{error}; {ships} ship{'s' * (len(known) == 1)}{hint}") from None


def _is_id(text: object) -> bool:
    return isinstance(text, str) and bool(IDENTIFIER.fullmatch(text))
