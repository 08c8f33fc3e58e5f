"""The checkpoint store: publish atomically, resolve verified, move `latest` back and forth.

Layout: `root/<kind>/<id>/{manifest.json, config.json, model.safetensors, ...}` and the file
`root/<kind>/latest`, which holds an id. A publisher writes beside in `root/.staging`, syncs, and
renames; so a reader, which takes no lock, sees a whole checkpoint or none, whatever happens to
the publisher and whenever.
"""

import datetime
import hashlib
import json
import os
import secrets
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from safedojo_ros.checkpoints.manifest import (
    IDENTIFIER,
    KINDS,
    MANIFEST,
    Manifest,
    check_safetensors,
    current_packages,
    list_files,
    open_regular,
    parse_manifest,
    read_manifest,
    verify,
)
from safedojo_ros.core.errors import CheckpointError

LATEST = "latest"
STAGING = ".staging"
STAGING_MAX_AGE = 3600.0
"""Seconds without a change after which a leftover in `.staging` is taken for abandoned."""
COPY_BYTES = 1024 * 1024


class CheckpointStore:
    """A directory of checkpoints. Reading needs no write access and creates nothing."""

    def __init__(self, root: Path, clock: Callable[[], float] = time.time) -> None:
        """clock: seconds since the epoch."""
        self.root = Path(root).expanduser()
        self._clock = clock

    # ---------------------------------------------------------------- reading

    def resolve(self, kind: str, name: str = LATEST) -> Path:
        """Directory of a checkpoint, every file of it verified.

        name: "latest", an id, or the path of a checkpoint inside this store. Raises
        `CheckpointError`.
        """
        path = self._path(kind, name)
        self._verified(kind, path)
        return path

    def show(self, kind: str, name: str = LATEST) -> Manifest:
        """The manifest of a checkpoint; its files are not read."""
        return self._manifest(kind, self._path(kind, name))

    def verify(self, kind: str, name: str = LATEST) -> Manifest:
        """Verify every file of a checkpoint; returns its manifest."""
        return self._verified(kind, self._path(kind, name))

    def list(self, kind: str | None = None) -> list[Manifest]:
        """Manifests of all checkpoints (of one kind), newest first; broken ones are left out.

        `broken` names those.
        """
        manifests = []
        for each, path in self._directories(kind):
            try:
                manifests.append(self._manifest(each, path))
            except CheckpointError:
                continue
        return sorted(manifests, key=lambda m: (m.created, m.id), reverse=True)

    def broken(self, kind: str | None = None) -> tuple[str, ...]:
        """One sentence for each entry of the store whose manifest cannot be read."""
        sentences = []
        for each, path in self._directories(kind):
            try:
                self._manifest(each, path)
            except CheckpointError as error:
                sentences.append(str(error))
        return tuple(sentences)

    def latest(self, kind: str) -> str | None:
        """The id that `latest` points to; None when nothing has been published."""
        self._check_kind(kind)
        path = self.root / kind / LATEST
        try:
            with open_regular(path) as file:
                text = file.read(256)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise CheckpointError(f"cannot read {path}: {error.strerror}") from None
        name = text.decode("ascii", "replace").strip()
        if not IDENTIFIER.fullmatch(name):
            raise CheckpointError(
                f"{path} holds {name!r:.60}, expected an id; "
                f"mend it with: safedojo checkpoint rollback {kind} ID"
            )
        return name

    # ---------------------------------------------------------------- writing

    def publish(
        self,
        kind: str,
        source_dir: Path,
        *,
        spec: dict[str, Any],
        normalisation: dict[str, Any] | None = None,
        parent: str | None = None,
        evaluation: dict[str, Any] | None = None,
        fidelity: dict[str, Any] | None = None,
        name: str | None = None,
        make_latest: bool = True,
    ) -> Manifest:
        """Copy `source_dir` into the store as a new checkpoint and point `latest` to it.

        A `manifest.json` in the source is not copied. name: a word that is appended to the id.
        Raises `CheckpointError`; nothing is published then, unless the message says so.
        """
        self._check_kind(kind)
        if name is not None and not IDENTIFIER.fullmatch(name):
            raise CheckpointError(f"name '{name}' may have letters, digits, '.', '_' and '-' only")
        source_dir = Path(source_dir)
        names = [n for n in list_files(source_dir) if n != MANIFEST]
        if not names:
            raise CheckpointError(f"{source_dir} holds no files to publish")
        now = datetime.datetime.fromtimestamp(self._clock(), datetime.UTC)
        try:
            self._clean_staging()
            staged = self._staging_directory()
        except OSError as error:
            raise CheckpointError(f"cannot write to {self.root}: {error.strerror}") from None
        try:
            files = {n: _copy(source_dir / n, staged / n) for n in names}
            content = hashlib.sha256(json.dumps(files, sort_keys=True).encode())
            content.update(staged.name.encode())
            identifier = f"{now:%Y%m%dT%H%M%SZ}-{content.hexdigest()[:8]}"
            manifest = Manifest(
                kind=kind,
                id=f"{identifier}-{name}" if name else identifier,
                files=files,
                spec=spec,
                normalisation=normalisation or {},
                evaluation=evaluation or {},
                fidelity=fidelity or {},
                parent=parent,
                created=now.isoformat(),
                revision=_revision(),
                packages=current_packages(),
            )
            text = manifest.to_json()
            manifest = parse_manifest(text, "the new manifest")
            _write(staged / MANIFEST, text.encode())
            _sync_tree(staged)
            shelf = self.root / kind
            _make_directory(shelf)
            target = shelf / manifest.id
            if target.exists():
                raise CheckpointError(f"{target} exists already; publish again")
            os.rename(staged, target)
        except OSError as error:
            what = f"{error.strerror} ({error.filename or self.root})"
            raise CheckpointError(f"nothing was published in {self.root}: {what}") from None
        finally:
            shutil.rmtree(staged, ignore_errors=True)
        try:
            _sync_directory(shelf)
        except OSError as error:
            raise CheckpointError(
                f"{manifest.id} is in the store but may not outlive a power cut "
                f"({error.strerror}); 'latest' was not moved"
            ) from None
        if make_latest:
            self.set_latest(kind, manifest.id)
        return manifest

    def set_latest(self, kind: str, name: str) -> Manifest:
        """Point `latest` to another checkpoint of the store (verified first)."""
        path = self._path(kind, name)
        manifest = self._verified(kind, path)
        pointer = self.root / kind / LATEST
        beside = self.root / STAGING / f"{LATEST}-{secrets.token_hex(8)}"
        try:
            _make_directory(beside.parent)
            _write(beside, f"{manifest.id}\n".encode())
            os.replace(beside, pointer)
            _sync_directory(pointer.parent)
        except OSError as error:
            beside.unlink(missing_ok=True)
            raise CheckpointError(
                f"{manifest.id} is in the store but 'latest' was not moved: {error.strerror}; "
                f"then run: safedojo checkpoint rollback {kind} {manifest.id}"
            ) from None
        return manifest

    # ---------------------------------------------------------------- inside

    def _path(self, kind: str, name: str) -> Path:
        self._check_kind(kind)
        shelf = self.root / kind
        if name == LATEST:
            found = self.latest(kind)
            if found is None:
                raise CheckpointError(
                    f"{shelf} has no latest checkpoint; publish one, or use --checkpoint released"
                )
            name = found
        elif "/" in name:
            given = Path(name) if Path(name).is_absolute() else self.root / name
            parent = Path(os.path.realpath(given.parent))
            if parent != Path(os.path.realpath(self.root)) / kind:
                raise CheckpointError(f"{name} is not inside {shelf}")
            name = given.name
        if not IDENTIFIER.fullmatch(name):
            raise CheckpointError(f"'{name:.80}' is not the id of a checkpoint")
        path = shelf / name
        for part in (shelf, path):
            if part.is_symlink():
                raise CheckpointError(f"{part} is a symbolic link; the store holds directories")
        if not path.is_dir():
            known = ", ".join(m.id for m in self.list(kind)[:3]) or "none"
            raise CheckpointError(
                f"there is no {kind} checkpoint '{name}' in {shelf}; has: {known}"
            )
        return path

    def _manifest(self, kind: str, path: Path) -> Manifest:
        manifest = read_manifest(path)
        if manifest.id != path.name:
            raise CheckpointError(f"{path} holds the manifest of '{manifest.id}'; remove it")
        if manifest.kind != kind:
            raise CheckpointError(f"{path} is of kind '{manifest.kind}', expected '{kind}'")
        return manifest

    def _verified(self, kind: str, path: Path) -> Manifest:
        return verify(path, self._manifest(kind, path))

    def _directories(self, kind: str | None) -> Iterator[tuple[str, Path]]:
        if kind is not None:
            self._check_kind(kind)
        for each in KINDS if kind is None else (kind,):
            shelf = self.root / each
            if not shelf.is_dir() or shelf.is_symlink():
                continue
            for path in sorted(shelf.iterdir()):
                if path.name != LATEST and not path.name.startswith((".", "__")):
                    yield each, path

    def _check_kind(self, kind: str) -> None:
        if kind not in KINDS:
            raise CheckpointError(f"unknown kind '{kind:.40}'; known: {', '.join(KINDS)}")

    def _staging_directory(self) -> Path:
        _make_directory(self.root / STAGING)
        staged = self.root / STAGING / secrets.token_hex(8)
        os.mkdir(staged)
        return staged

    def _clean_staging(self) -> None:
        staging = self.root / STAGING
        if not staging.is_dir():
            return
        for path in staging.iterdir():
            try:
                changed = max(p.lstat().st_mtime for p in (path, *path.rglob("*")))
                if self._clock() - changed < STAGING_MAX_AGE:
                    continue
                if path.is_dir() and not path.is_symlink():
                    shutil.rmtree(path, ignore_errors=True)
                else:
                    path.unlink(missing_ok=True)
            except FileNotFoundError:
                continue  # another publisher renamed or removed it meanwhile


def released_store() -> CheckpointStore:
    """The checkpoints that ship in the package."""
    return CheckpointStore(Path(__file__).parent / "released")


def user_store() -> CheckpointStore:
    """The user's store: `SAFEDOJO_STORE`, or `~/.safedojo/checkpoints`."""
    return CheckpointStore(Path(os.environ.get("SAFEDOJO_STORE") or "~/.safedojo/checkpoints"))


def find_checkpoint(kind: str, name: str, store_root: Path | None = None) -> Path:
    """Verified directory of a checkpoint that a person names.

    name: "released" (ships in the package); "latest" (of the user's store, or released when that
    one is empty); an id in either store; or the path of a checkpoint directory anywhere, which is
    recognised by a "/" in it. Raises `CheckpointError`.
    """
    store = CheckpointStore(store_root) if store_root is not None else user_store()
    released = released_store()
    if name == "released":
        return released.resolve(kind)
    if name == LATEST:
        return (store if store.latest(kind) else released).resolve(kind)
    if "/" in name:
        path = Path(name).expanduser()
        manifest = verify(path)
        if manifest.kind != kind:
            raise CheckpointError(f"{path} is of kind '{manifest.kind}', expected '{kind}'")
        return path
    if not (store.root / kind / name).is_dir() and (released.root / kind / name).is_dir():
        return released.resolve(kind, name)
    return store.resolve(kind, name)


def _copy(source: Path, target: Path) -> dict[str, Any]:
    """Copy one file and sync it; returns its manifest entry, computed from what was written."""
    target.parent.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256()
    with open_regular(source) as reader, open(target, "xb") as writer:
        before = os.fstat(reader.fileno())
        if source.suffix == ".safetensors":
            check_safetensors(reader, before.st_size, str(source))
            reader.seek(0)
        while block := reader.read(COPY_BYTES):
            digest.update(block)
            writer.write(block)
        writer.flush()
        os.fsync(writer.fileno())
        size, after = writer.tell(), os.fstat(reader.fileno())
    if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
        raise CheckpointError(f"{source} changed while it was published; publish again")
    return {"size": size, "sha256": digest.hexdigest()}


def _write(path: Path, content: bytes) -> None:
    with open(path, "xb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _sync_tree(directory: Path) -> None:
    for current, _, _ in os.walk(directory, topdown=False):
        _sync_directory(Path(current))


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _make_directory(directory: Path) -> None:
    """Make a directory and its parents, each new name on disk before it is used."""
    if directory.is_dir():
        return
    _make_directory(directory.parent)
    directory.mkdir(exist_ok=True)
    _sync_directory(directory.parent)


def _revision() -> str:
    """Git revision of this package's sources, "" when they are not in a repository."""
    here = Path(__file__)
    try:
        git = ["git", "-C", str(here.parent)]
        options: dict[str, Any] = {"capture_output": True, "text": True, "timeout": 10}
        subprocess.run([*git, "ls-files", "--error-unmatch", here.name], check=True, **options)
        described = ["describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
        return subprocess.run([*git, *described], check=True, **options).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""
