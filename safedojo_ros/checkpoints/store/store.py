"""The checkpoint store: publish atomically, resolve verified, move `latest` back and forth.

Layout: `root/<kind>/<id>/{manifest.json, config.json, model.safetensors, ...}` and the file
`root/<kind>/latest`, which holds an id. A publisher writes beside in `root/.staging`, syncs, and
renames; so a reader, which takes no lock, sees a whole checkpoint or none, whatever happens to
the publisher and whenever. Writers take turns, by a lock that ends with its holder, only while
they rename.
"""

import contextlib
import datetime
import os
import secrets
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from safedojo_ros.checkpoints.manifest import (
    IDENTIFIER,
    KINDS,
    MANIFEST,
    Manifest,
    list_files,
    open_regular,
    parse_manifest,
    read_manifest,
    verify,
)
from safedojo_ros.checkpoints.provenance import new_manifest
from safedojo_ros.checkpoints.store.durable import (
    clear_directory,
    copy_file,
    exclusive,
    make_directory,
    sync_tree,
    together,
    words_of,
)
from safedojo_ros.core.errors import CheckpointError
from safedojo_ros.core.files import expand_home, replacing, sync_directory, write_whole

LATEST = "latest"
STAGING = ".staging"
PUBLISHING, LOCK = ".publishing", ".lock"
"""Lock files: held together by all who use `.staging`, and alone by the one who renames."""
STAMP_LENGTH = len("20260131T235959Z")
"""An id begins with the second of its publication."""
Prove = Callable[[str, Path, dict[str, Any]], None]
"""(kind, directory, spec): raises `CheckpointError` where what lies there is not fit to be used."""
MAX_NAME = 512
"""Characters of an id, or of the path of a checkpoint."""
RESOLVE_ATTEMPTS = 20
"""How often `latest` may move on, and what it pointed to be pruned, under a reader."""


class CheckpointStore:
    """A directory of checkpoints. Reading needs no write access and creates nothing."""

    def __init__(
        self, root: Path, clock: Callable[[], float] = time.time, prove: Prove | None = None
    ) -> None:
        """clock: seconds since the epoch; prove: asked about everything that is to enter."""
        self.root = expand_home(root)
        self._clock, self._prove = clock, prove

    # ---------------------------------------------------------------- reading

    def resolve(self, kind: str, name: str = LATEST) -> Path:
        """Directory of a checkpoint, every file of it verified.

        name: "latest", an id, or the path of a checkpoint inside this store. Raises
        `CheckpointError`.
        """
        attempts = RESOLVE_ATTEMPTS
        while True:
            pointed = self.latest(kind) if name == LATEST else None
            try:
                path = self._path(kind, pointed or name)
                self._verified(kind, path)
                return path
            except CheckpointError:
                attempts -= 1
                if pointed is None or not attempts or self.latest(kind) == pointed:
                    raise

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
                if os.path.lexists(path):  # else it was pruned meanwhile
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
        requires: dict[str, str] | None = None,
        preset: str = "",
        name: str | None = None,
        make_latest: bool = True,
    ) -> Manifest:
        """Copy `source_dir` into the store as a new checkpoint and point `latest` to it.

        A `manifest.json` in the source is not copied. requires: {kind: id} of what must be used
        with it; preset: what it was trained by; name: a word that is appended to the id. Raises
        `CheckpointError`, also for what does not prove itself; nothing is published then, unless
        the message says so.
        """
        if name is not None and not IDENTIFIER.fullmatch(name):
            raise CheckpointError(f"name '{name}' may have letters, digits, '.', '_' and '-' only")

        def describe(files: dict[str, Any]) -> Manifest:
            return new_manifest(
                kind,
                files,
                self._next_instant(kind),
                name,
                spec=spec,
                normalisation=normalisation or {},
                evaluation=evaluation or {},
                fidelity=fidelity or {},
                parent=parent,
                requires=requires or {},
                preset=preset,
            )

        return self._put(kind, Path(source_dir), spec, describe, make_latest)

    def adopt(self, kind: str, directory: Path, make_latest: bool = False) -> Manifest:
        """Copy a checkpoint directory from elsewhere, verified, under its own id and manifest.

        One that is here already is verified and kept. Raises `CheckpointError`.
        """
        manifest = verify(directory)
        if manifest.kind != kind:
            raise CheckpointError(f"{directory} is of kind '{manifest.kind}', expected '{kind}'")
        if (self.root / kind / manifest.id).is_dir():
            if self.verify(kind, manifest.id) != manifest:
                raise CheckpointError(f"the store has another {kind} {manifest.id}; remove one")
            return self.set_latest(kind, manifest.id) if make_latest else manifest

        def describe(files: dict[str, Any]) -> Manifest:
            if files != manifest.files:
                raise CheckpointError(f"{directory} changed while it was copied; try again")
            return manifest

        return self._put(kind, Path(directory), manifest.spec, describe, make_latest)

    def set_latest(self, kind: str, name: str) -> Manifest:
        """Point `latest` to another checkpoint of the store (verified first)."""
        path = self._path(kind, name)
        manifest = self._verified(kind, path)
        with self.writing(f"'latest' of {kind} was not moved"):
            self._path(kind, manifest.id)  # it may have been pruned while it was verified
            self._point(kind, manifest.id)
        return manifest

    def roll_back(self, kind: str, name: str | None = None) -> Manifest:
        """Point `latest` to an older checkpoint, by default the one that was published before it.

        Raises `CheckpointError` where there is none.
        """
        if name is None:
            now, ids = self.latest(kind), [m.id for m in self.list(kind)]
            older = ids[ids.index(now) + 1 :] if now in ids else []
            if not older:
                raise CheckpointError(
                    f"there is no {kind} checkpoint older than {now}; name one: "
                    f"safedojo checkpoint rollback {kind} ID"
                )
            name = older[0]
        return self.set_latest(kind, name)

    @contextlib.contextmanager
    def writing(self, otherwise: str) -> Iterator[Path]:
        """The store's names are this writer's alone; yields the staging folder.

        What the disk refuses becomes a `CheckpointError` that begins with `otherwise`.
        """
        try:
            with self._staging() as staging, exclusive(self.root / LOCK):
                yield staging
        except OSError as error:
            raise CheckpointError(f"{otherwise}: {words_of(error)}") from None

    # ---------------------------------------------------------------- inside

    def _put(
        self,
        kind: str,
        source: Path,
        spec: dict[str, Any],
        describe: Callable[[dict[str, Any]], Manifest],
        make_latest: bool,
    ) -> Manifest:
        """Copy beside and prove; then, alone, write what `describe` makes, rename and point."""
        self._check_kind(kind)
        names = [n for n in list_files(source) if n != MANIFEST]
        if not names:
            raise CheckpointError(f"{source} holds no files to publish")
        otherwise, shelf = f"nothing was published in {self.root}", self.root / kind
        try:
            with self._staging() as staging:
                staged = staging / secrets.token_hex(8)
                try:
                    os.mkdir(staged)
                    files = {n: copy_file(source / n, staged / n) for n in names}
                    sync_tree(staged)
                    self._try(kind, staged, spec)
                    with exclusive(self.root / LOCK):
                        manifest = describe(files)
                        text = manifest.to_json()
                        manifest = parse_manifest(text, "the new manifest")
                        write_whole(staged / MANIFEST, text)
                        make_directory(shelf)
                        target = shelf / manifest.id
                        if target.exists():
                            raise CheckpointError(f"{target} exists already; publish again")
                        os.rename(staged, target)
                        otherwise = (
                            f"{manifest.id} is in the store but may not outlive a power cut; "
                            "'latest' was not moved"
                        )
                        sync_directory(shelf)
                        if make_latest:
                            otherwise = (
                                f"{manifest.id} is in the store but 'latest' may not point to it; "
                                f"then run: safedojo checkpoint rollback {kind} {manifest.id}"
                            )
                            self._point(kind, manifest.id)
                finally:
                    shutil.rmtree(staged, ignore_errors=True)
        except OSError as error:
            raise CheckpointError(f"{otherwise}: {words_of(error)}") from None
        return manifest

    def _try(self, kind: str, staged: Path, spec: dict[str, Any]) -> None:
        """Prove the staged copy, whose bytes are those that are published."""
        if self._prove is None:
            return
        try:
            self._prove(kind, staged, spec)
        except CheckpointError as error:
            raise CheckpointError(
                f"nothing was published in {self.root}: this {kind} is not fit to be used: {error}"
            ) from None

    def _point(self, kind: str, identifier: str) -> None:
        pointer = self.root / kind / LATEST
        beside = self.root / STAGING / f"{LATEST}-{secrets.token_hex(8)}"
        with replacing(pointer, beside) as partial:
            partial.write_bytes(f"{identifier}\n".encode())

    @contextlib.contextmanager
    def _staging(self) -> Iterator[Path]:
        """The staging folder while it is used; what dead writers left there is removed."""
        staging = self.root / STAGING
        try:
            make_directory(staging)
        except OSError as error:
            raise CheckpointError(f"cannot write to {self.root}: {words_of(error)}") from None
        with together(self.root / PUBLISHING, alone=lambda: clear_directory(staging)):
            yield staging

    def _next_instant(self, kind: str) -> datetime.datetime:
        """Now; if the clock was set back, just after the newest checkpoint, to keep the order."""
        now = datetime.datetime.fromtimestamp(self._clock(), datetime.UTC)
        names = sorted((path.name for _, path in self._directories(kind)), reverse=True)
        for name in names:
            if name[:STAMP_LENGTH] != names[0][:STAMP_LENGTH]:
                break
            with contextlib.suppress(CheckpointError, ValueError, TypeError, OverflowError):
                created = self._manifest(kind, self.root / kind / name).created
                before = datetime.datetime.fromisoformat(created)
                now = max(now, before + datetime.timedelta(microseconds=1))
        return now

    def _path(self, kind: str, name: str) -> Path:
        self._check_kind(kind)
        check_name(name)
        shelf = self.root / kind
        if name == LATEST:
            found = self.latest(kind)
            if found is None:
                raise CheckpointError(
                    f"{shelf} has no latest checkpoint; publish one, or name another"
                )
            name = found
        elif "/" in name:
            given = Path(name) if Path(name).is_absolute() else self.root / name
            parent = Path(os.path.realpath(given.parent))
            if parent != Path(os.path.realpath(self.root)) / kind:
                raise CheckpointError(f"{name} is not inside {shelf}")
            name = given.name
        if not IDENTIFIER.fullmatch(name):
            raise CheckpointError(f"{name!r:.80} is not the id of a checkpoint")
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


def check_name(name: str) -> None:
    """Raise `CheckpointError` for what no checkpoint is called and no file system takes."""
    if len(name) > MAX_NAME or not name.isprintable():
        raise CheckpointError(
            f"{name!r:.80} names no checkpoint: expected at most {MAX_NAME} printable characters"
        )
