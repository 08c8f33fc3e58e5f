"""Checkpoints to and from the Hugging Face Hub: one repository holds one, at its root.

What comes from there is pinned to a commit, is safetensors and JSON only, and is verified like any
other directory before it enters the store.
"""

import os
import re
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from safedojo_ros.checkpoints.manifest import MANIFEST, Manifest, read_manifest
from safedojo_ros.checkpoints.store.store import CheckpointStore
from safedojo_ros.core.errors import CheckpointError, SafeDojoError

HUB_SUFFIXES = (".safetensors", ".json")
"""All that is ever sent or fetched."""

COMMIT = re.compile(r"[0-9a-f]{40}")
REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}")


class Hub(Protocol):
    """What is used of `huggingface_hub.HfApi`."""

    def create_repo(self, repo_id: str, *, private: bool, exist_ok: bool) -> Any:
        """Make a repository."""

    def upload_folder(
        self, *, repo_id: str, folder_path: str, allow_patterns: list[str], commit_message: str
    ) -> Any:
        """Send the files of a folder; the answer has the commit as `oid`."""

    def hf_hub_download(self, repo_id: str, filename: str, *, revision: str, local_dir: str) -> str:
        """Fetch one file below `local_dir`; returns its path."""


def connect() -> Hub:
    """The real one; its token comes from `hf auth login` or HF_TOKEN."""
    from huggingface_hub import HfApi

    return HfApi()


def push(
    store: CheckpointStore,
    kind: str,
    name: str,
    repository: str,
    private: bool = True,
    connect: Callable[[], Hub] = connect,
) -> str:
    """Send a verified checkpoint; returns the commit to pull it by. Raises `CheckpointError`."""
    _check_repository(repository)
    path = store.resolve(kind, name)
    manifest = read_manifest(path)
    _check_suffixes(manifest)
    with _reported(f"{repository} did not take {manifest.id}"):
        hub = connect()
        hub.create_repo(repository, private=private, exist_ok=True)
        commit = hub.upload_folder(
            repo_id=repository,
            folder_path=str(path),
            allow_patterns=[f"*{suffix}" for suffix in HUB_SUFFIXES],
            commit_message=f"{kind} {manifest.id}",
        )
        return str(commit.oid)


def pull(
    store: CheckpointStore,
    kind: str,
    repository: str,
    revision: str,
    make_latest: bool = False,
    connect: Callable[[], Hub] = connect,
) -> Manifest:
    """Fetch the checkpoint of one commit (40 hexadecimal digits) into the store, under its own id.

    Only the files that its manifest names are fetched. Raises `CheckpointError`; the store is as
    before then.
    """
    _check_repository(repository)
    if not COMMIT.fullmatch(revision):
        raise CheckpointError(
            f"revision '{revision:.60}' can move; name the commit (40 hexadecimal digits), which "
            "'safedojo checkpoint push' printed and the repository's history shows"
        )
    with tempfile.TemporaryDirectory(prefix="safedojo_pull_") as folder:
        download, directory = Path(folder) / "download", Path(folder) / "checkpoint"
        with _reported(f"{repository} at {revision[:12]} gives no checkpoint"):
            hub = connect()
            _fetch(hub, repository, revision, MANIFEST, download, directory)
            manifest = read_manifest(directory)
            _check_suffixes(manifest)
            for name in manifest.files:
                _fetch(hub, repository, revision, name, download, directory)
        return store.adopt(kind, directory, make_latest)


def _fetch(
    hub: Hub, repository: str, revision: str, name: str, download: Path, directory: Path
) -> None:
    """One file into `directory`; what the client keeps beside it stays in `download`."""
    fetched = Path(
        hub.hf_hub_download(repository, name, revision=revision, local_dir=str(download))
    )
    (directory / name).parent.mkdir(parents=True, exist_ok=True)
    os.replace(fetched, directory / name)


def _check_repository(repository: str) -> None:
    if not REPOSITORY.fullmatch(repository):
        raise CheckpointError(f"'{repository:.80}' is not a repository; write owner/name")


def _check_suffixes(manifest: Manifest) -> None:
    for name in manifest.files:
        if not name.endswith(HUB_SUFFIXES):
            raise CheckpointError(
                f"checkpoint {manifest.id} has '{name}'; only {' and '.join(HUB_SUFFIXES)} files "
                "go to and come from the hub"
            )


@contextmanager
def _reported(what: str) -> Iterator[None]:
    """Whatever the client raises (network, token, missing file) becomes a `CheckpointError`."""
    try:
        yield
    except SafeDojoError as error:
        raise CheckpointError(f"{what}: {error}") from None
    except Exception as error:
        first = (str(error).strip().splitlines() or [""])[0]
        raise CheckpointError(f"{what}: {type(error).__name__}: {first}") from None
