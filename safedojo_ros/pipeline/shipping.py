"""Put a checkpoint among those that ship, under a name: a step of the package's maintainers.

It keeps its id where its weights are float16 already. Else they are stored so, under a new id whose
parent is the old one: ship the heads first, validate the world model with them, and ship it last.
"""

import json
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from safedojo_ros.checkpoints.manifest import MANIFEST, Manifest, read_manifest
from safedojo_ros.checkpoints.names import NAMES, find_checkpoint, shipped_names, shipped_store
from safedojo_ros.checkpoints.store.store import CheckpointStore
from safedojo_ros.checkpoints.swap.hot_swap import fits_robot
from safedojo_ros.core.errors import CheckpointError
from safedojo_ros.core.files import write_whole
from safedojo_ros.core.tensor_file import read_header
from safedojo_ros.learning.progress import Say

LIMIT = 15_000_000
"""Bytes of all that ships together."""


def ship(
    kind: str,
    name: str,
    title: str,
    *,
    evaluation: dict[str, Any] | None = None,
    force: bool = False,
    store_root: Path | None = None,
    say: Say = print,
) -> Manifest:
    """Replace what ships as `title` by the checkpoint `name`, of the store, by path or by id.

    evaluation: for its manifest, in place of what that has. Raises `CheckpointError`: for an
    unknown title, for what cannot act, for what requires a checkpoint that does not ship, and, but
    for `force`, where all that ships would grow beyond `LIMIT`.
    """
    from safedojo_ros.models.trial import act_once

    root, names = shipped_store().root, shipped_names()
    if title not in names.get(kind, {}):
        known = ", ".join(names.get(kind, {}))
        raise CheckpointError(f"no {kind} ships as '{title}'; known: {known}")
    old = root / kind / names[kind][title]
    with tempfile.TemporaryDirectory(prefix="safedojo_ship_") as folder:
        new = _as_half(kind, find_checkpoint(kind, name, store_root), Path(folder), evaluation)
        made = read_manifest(new)
        act_once(kind, new, made.spec)
        if kind == "policy":  # what the nodes ask for, so that none ships that they refuse
            fits_robot(made.spec.get("cameras", []))(made)
        names[kind][title] = made.id
        _check_requirements(made, names)
        gone = {old} - {root / kind / identifier for identifier in names[kind].values()}
        before = size_of(root)
        after = before + size_of(new) - sum(size_of(path) for path in gone | _present(root, made))
        if LIMIT < after > before and not force:
            raise CheckpointError(
                f"all that ships would have {after / 1e6:.1f} MB instead of {before / 1e6:.1f}, "
                f"expected at most {LIMIT / 1e6:.0f}; a smaller model, or --force"
            )
        target = root / kind / made.id
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(new, target)
        write_whole(root / NAMES, json.dumps(names, indent=2) + "\n")
    for path in gone:
        shutil.rmtree(path)
    say(f"{kind} {made.id} ships as '{title}'; all that ships has {size_of(root) / 1e6:.1f} MB")
    return made


def size_of(directory: Path) -> int:
    """Bytes of all files below a directory, hidden ones left out."""
    paths = (path for path in directory.rglob("*") if not path.name.startswith("."))
    return sum(path.stat().st_size for path in paths if path.is_file())


def _as_half(kind: str, source: Path, folder: Path, evaluation: dict[str, Any] | None) -> Path:
    """A copy of a checkpoint in `folder`, its weights in float16."""
    made = read_manifest(source)
    made = replace(made, evaluation=made.evaluation if evaluation is None else evaluation)
    if _is_half(source):
        target = folder / made.id
        shutil.copytree(source, target)
        write_whole(target / MANIFEST, made.to_json())
        return target
    weights = folder / "weights"
    weights.mkdir()
    _loaders()[kind](source).save(weights, half=True)
    store = CheckpointStore(folder / "store")
    kept = ("spec", "normalisation", "evaluation", "fidelity", "requires", "preset")
    details: dict[str, Any] = {key: getattr(made, key) for key in kept}
    half = store.publish(kind, weights, parent=made.id, **details)
    return store.root / kind / half.id


def _is_half(directory: Path) -> bool:
    path = directory / "model.safetensors"
    with path.open("rb") as file:
        entries = read_header(file, path.stat().st_size, str(path))
    return not any(entry.dtype in ("F32", "F64") for entry in entries.values())


def _present(root: Path, made: Manifest) -> set[Path]:
    """What lies there under the same id, and is written anew."""
    path = root / made.kind / made.id
    return {path} if path.is_dir() else set()


def _check_requirements(made: Manifest, names: dict[str, dict[str, str]]) -> None:
    for kind, identifier in made.requires.items():
        if identifier not in names.get(kind, {}).values():
            raise CheckpointError(
                f"{made.id} requires {kind} {identifier}, which does not ship; ship that first"
            )


def _loaders() -> dict[str, Any]:
    from safedojo_ros.models import loading

    return {
        "policy": loading.load_policy,
        "safety": loading.load_safety,
        "world_model": loading.load_world_model,
        "success": loading.load_success,
    }
