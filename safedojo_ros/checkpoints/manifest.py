"""What a checkpoint directory holds, and the proof that it still holds exactly that.

A checkpoint directory is `manifest.json` plus the files that it lists with size and sha256.
Weights are safetensors; pickle is never read, written or listed.
"""

import dataclasses
import hashlib
import json
import os
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from safedojo_ros.core.errors import CheckpointError
from safedojo_ros.core.strict_json import MAX_BYTES, parse_json
from safedojo_ros.core.tensor_file import read_header

SCHEMA = 1
KINDS = ("policy", "safety", "world_model", "success")
MANIFEST = "manifest.json"

ALLOWED_SUFFIXES = frozenset(
    {".json", ".jsonl", ".safetensors", ".txt", ".model", ".md", ".toml", ".csv", ".png", ".html"}
)
PICKLE_SUFFIXES = frozenset(
    {".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".joblib", ".npy", ".npz", ".tar", ".zip"}
)
IDENTIFIER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Manifest:
    """The contents of `manifest.json`.

    files: {relative POSIX path: {"size": bytes, "sha256": hex}}; spec: what goes in and out
    (cameras, image_size in pixels, state_size, action_size, chunk_length, period in s);
    normalisation: statistics of state and action in physical units; evaluation and fidelity:
    figures with their intervals; created: ISO 8601 UTC, never before that of the checkpoint that
    was published before; revision: git, "" when unknown; requires: {kind: id} of checkpoints
    without which this one must not be used (a policy and its safety head); preset: what it was
    trained by, "" when unknown.
    """

    kind: str
    id: str
    files: dict[str, dict[str, Any]]
    spec: dict[str, Any]
    normalisation: dict[str, Any] = field(default_factory=dict)
    evaluation: dict[str, Any] = field(default_factory=dict)
    fidelity: dict[str, Any] = field(default_factory=dict)
    parent: str | None = None
    created: str = ""
    revision: str = ""
    packages: dict[str, str] = field(default_factory=dict)
    requires: dict[str, str] = field(default_factory=dict)
    preset: str = ""
    schema: int = SCHEMA

    @property
    def size(self) -> int:
        """Bytes of all files together, the manifest itself not counted."""
        return sum(int(entry["size"]) for entry in self.files.values())

    def to_json(self) -> str:
        """The text of `manifest.json`; raises `CheckpointError` for a value JSON cannot hold."""
        content = dataclasses.asdict(self)
        for name in ("requires", "preset"):
            if not content[name]:
                del content[name]  # so that older versions can read it
        try:
            return json.dumps(content, indent=2, allow_nan=False) + "\n"
        except (TypeError, ValueError) as error:
            raise CheckpointError(
                f"the manifest cannot be written as JSON ({error}); use finite plain numbers"
            ) from None


def parse_manifest(text: str | bytes, where: str = MANIFEST) -> Manifest:
    """Parse and check the text of a manifest; raises `CheckpointError` naming `where`."""
    content = parse_json(text, where)
    if not isinstance(content, dict):
        raise CheckpointError(f"{where} holds a {type(content).__name__}, expected an object")
    if content.get("schema") != SCHEMA or isinstance(content.get("schema"), bool):
        raise CheckpointError(
            f"{where} has schema {content.get('schema')!r:.40}, this version reads {SCHEMA}; "
            "publish the checkpoint again with this version, or update safedojo"
        )
    fields = {f.name: f for f in dataclasses.fields(Manifest)}
    unknown = sorted(set(content) - set(fields))
    if unknown:
        known = ", ".join(fields)
        raise CheckpointError(f"{where} has unknown key {unknown[0]!r:.80}; known: {known}")
    content.setdefault("requires", {})
    content.setdefault("preset", "")
    for name in fields:
        if name not in content:
            raise CheckpointError(f"{where} lacks '{name}'; publish the checkpoint again")
        expected = _TYPES[name]
        if not isinstance(content[name], expected):
            raise CheckpointError(
                f"{where}: '{name}' is {content[name]!r:.80}, expected {expected}"
            )
    manifest = Manifest(**content)
    _check_kind(manifest.kind, where)
    if not IDENTIFIER.fullmatch(manifest.id):
        raise CheckpointError(f"{where}: id {manifest.id!r:.80} has characters that ids never have")
    if not manifest.files:
        raise CheckpointError(f"{where} lists no files; publish the checkpoint again")
    for path, entry in manifest.files.items():
        _check_entry(path, entry, where)
    _check_spec(manifest.spec, where)
    _check_requires(manifest.requires, where)
    return manifest


def read_manifest(directory: Path) -> Manifest:
    """Read and check `directory/manifest.json` (not yet the files it lists)."""
    path = Path(directory) / MANIFEST
    try:
        with open_regular(path) as file:
            text = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise CheckpointError(f"{directory} is not a checkpoint: it has no {MANIFEST}") from None
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror}") from None
    return parse_manifest(text, str(path))


def verify(directory: Path, manifest: Manifest | None = None) -> Manifest:
    """Check every file of `directory` against its manifest; returns the manifest.

    Raises `CheckpointError` that names the file and what to do when one is missing, extra,
    altered, a symbolic link or not a regular file, or when a safetensors header is unsound.
    Whether weights are finite is for the loader to find out.
    """
    directory = Path(directory)
    manifest = manifest or read_manifest(directory)
    found = set(list_files(directory)) - {MANIFEST}
    for name in sorted(set(manifest.files) - found):
        raise CheckpointError(f"{directory / name} is missing; copy or publish it again")
    for name in sorted(found - set(manifest.files)):
        raise CheckpointError(f"{directory / name} is not in the manifest; remove it")
    for name, entry in manifest.files.items():
        path = directory / name
        try:
            with open_regular(path) as file:
                size = os.fstat(file.fileno()).st_size
                if size != entry["size"]:
                    raise CheckpointError(
                        f"{path} has {size} bytes, the manifest says {entry['size']}; "
                        "copy or publish the checkpoint again"
                    )
                digest = hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]
                if digest != entry["sha256"]:
                    raise CheckpointError(
                        f"{path} was altered: sha256 {digest[:12]}…, the manifest says "
                        f"{entry['sha256'][:12]}…; copy or publish the checkpoint again"
                    )
                if path.suffix == ".safetensors":
                    file.seek(0)
                    read_header(file, size, str(path))
        except OSError as error:
            raise CheckpointError(f"cannot read {path}: {error.strerror}") from None
    return manifest


def list_files(directory: Path) -> list[str]:
    """Relative POSIX paths of all files below `directory`, sorted.

    Raises `CheckpointError` for a symbolic link, a special file, an unsafe name or a suffix that
    a checkpoint never has (pickle above all).
    """
    return sorted(_walk(Path(directory), Path(directory)))


def _walk(root: Path, directory: Path) -> Iterator[str]:
    try:
        mode = os.lstat(directory).st_mode
        entries = [] if not stat.S_ISDIR(mode) else sorted(os.listdir(directory))
    except OSError as error:
        raise CheckpointError(f"cannot read {directory}: {error.strerror}") from None
    if not stat.S_ISDIR(mode):
        raise CheckpointError(f"{directory} is not a directory (symbolic links are not followed)")
    if not entries and directory != root:
        raise CheckpointError(f"{directory} is an empty directory; remove it")
    for name in entries:
        path = directory / name
        try:
            mode = os.lstat(path).st_mode
        except OSError as error:
            raise CheckpointError(f"cannot read {path}: {error.strerror}") from None
        if stat.S_ISDIR(mode):
            yield from _walk(root, path)
        elif stat.S_ISREG(mode):
            relative = path.relative_to(root).as_posix()
            check_path(relative, str(root))
            yield relative
        else:
            what = "a symbolic link" if stat.S_ISLNK(mode) else "not a regular file"
            raise CheckpointError(f"{path} is {what}; a checkpoint holds plain files only")


def check_path(path: str, where: str) -> None:
    """Raise `CheckpointError` unless `path` is a plain relative path with an allowed suffix."""
    parts = path.split("/")
    if not all(IDENTIFIER.fullmatch(part) for part in parts) or len(parts) > 8:
        raise CheckpointError(
            f"{where} has file name {path!r:.120}: names are relative, without '..', and made of "
            "letters, digits, '.', '_' and '-'"
        )
    suffix = Path(parts[-1]).suffix.lower()
    if suffix in PICKLE_SUFFIXES:
        raise CheckpointError(
            f"{where} has '{path}': files of type {suffix} may run code when loaded; "
            "save the weights as model.safetensors"
        )
    if suffix not in ALLOWED_SUFFIXES:
        allowed = " ".join(sorted(ALLOWED_SUFFIXES))
        raise CheckpointError(f"{where} has '{path}'; a checkpoint holds only {allowed}")


def open_regular(path: Path) -> BinaryIO:
    """Open a regular file for reading, following no symbolic link in its last component."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise CheckpointError(f"{path} is not a regular file")
    return os.fdopen(descriptor, "rb")


_TYPES: dict[str, Any] = {
    **dict.fromkeys(("kind", "id", "created", "revision", "preset"), str),
    **dict.fromkeys(("files", "spec", "normalisation", "evaluation", "fidelity"), dict),
    **dict.fromkeys(("packages", "requires"), dict),
    "parent": str | None,
    "schema": int,
}


def _check_kind(kind: str, where: str) -> None:
    if kind not in KINDS:
        raise CheckpointError(f"{where}: unknown kind {kind!r:.40}; known: {', '.join(KINDS)}")


def _check_entry(path: str, entry: Any, where: str) -> None:
    check_path(path, where)
    if path == MANIFEST:
        raise CheckpointError(f"{where} lists itself; publish the checkpoint again")
    if not isinstance(entry, dict) or set(entry) != {"size", "sha256"}:
        raise CheckpointError(f"{where}: '{path}' needs exactly size and sha256, has {entry!r:.80}")
    if not _is_count(entry["size"]):
        raise CheckpointError(f"{where}: '{path}' has size {entry['size']!r:.40}")
    if not isinstance(entry["sha256"], str) or not SHA256.fullmatch(entry["sha256"]):
        raise CheckpointError(f"{where}: '{path}' has sha256 {entry['sha256']!r:.80}")


def _check_spec(spec: dict[str, Any], where: str) -> None:
    for key in ("image_size", "state_size", "action_size", "chunk_length"):
        if key in spec and not (_is_count(spec[key]) and spec[key] > 0):
            raise CheckpointError(f"{where}: spec '{key}' is {spec[key]!r:.40}, expected > 0")
    cameras = spec.get("cameras", [])
    if not isinstance(cameras, list) or not all(isinstance(c, str) and c for c in cameras):
        raise CheckpointError(f"{where}: spec 'cameras' is {cameras!r:.80}, expected names")
    period = spec.get("period", 1.0)
    if isinstance(period, bool) or not isinstance(period, (int, float)) or not period > 0:
        raise CheckpointError(f"{where}: spec 'period' is {period!r:.40}, expected seconds > 0")


def _check_requires(requires: dict[str, Any], where: str) -> None:
    for kind, identifier in requires.items():
        _check_kind(kind, f"{where}: 'requires'")
        if not isinstance(identifier, str) or not IDENTIFIER.fullmatch(identifier):
            raise CheckpointError(f"{where}: requires {kind} {identifier!r:.80}, expected an id")


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0
