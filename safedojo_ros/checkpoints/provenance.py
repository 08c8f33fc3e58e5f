"""New manifests: what made a checkpoint, its packages here and the revision of the sources."""

import datetime
import functools
import hashlib
import importlib.metadata
import json
import secrets
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

from safedojo_ros.checkpoints.manifest import MANIFEST, Manifest, list_files
from safedojo_ros.core.files import write_whole

RECORDED_PACKAGES = ("safedojo_ros", "numpy", "torch", "transformers", "diffusers", "safetensors")
WATCHED_PACKAGES = ("torch", "transformers", "diffusers")
"""Packages whose other minor version is worth a warning when a checkpoint is loaded."""


def new_manifest(
    kind: str, files: dict[str, Any], now: datetime.datetime, name: str | None = None, **what: Any
) -> Manifest:
    """A manifest with an id that no other has; name: appended to it; what: `Manifest`'s fields."""
    content = hashlib.sha256(json.dumps(files, sort_keys=True).encode() + secrets.token_bytes(8))
    identifier = f"{now:%Y%m%dT%H%M%SZ}-{content.hexdigest()[:8]}"
    return Manifest(
        kind=kind,
        id=f"{identifier}-{name}" if name else identifier,
        files=files,
        created=now.isoformat(),
        revision=revision(),
        packages=current_packages(),
        **what,
    )


def seal(kind: str, directory: Path, **what: Any) -> Manifest:
    """Write the manifest of what lies in a directory, which is a checkpoint from then on."""
    (directory / MANIFEST).unlink(missing_ok=True)
    files = {}
    for name in list_files(directory):
        content = (directory / name).read_bytes()
        files[name] = {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    made = new_manifest(kind, files, datetime.datetime.now(datetime.UTC), **what)
    write_whole(directory / MANIFEST, made.to_json())
    return made


def made_here(preset: str = "") -> str:
    """For the caption of a report: the command that runs, the commit and the preset."""
    program, words = Path(sys.argv[0]).name, sys.argv[1:]
    command = shlex.join(["safedojo" if program == "main.py" else program, *words])
    made = f"{command}; commit {revision()[:12] or 'unknown'}"
    return f"{made}; preset {preset}" if preset else made


def current_packages() -> dict[str, str]:
    """{package: version} of what is installed here and shapes a checkpoint's behaviour."""
    versions = {}
    for name in RECORDED_PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def package_warnings(manifest: Manifest, installed: dict[str, str] | None = None) -> list[str]:
    """One sentence for each watched package with another minor version than the recorded one."""
    installed = current_packages() if installed is None else installed
    sentences = []
    for name in WATCHED_PACKAGES:
        recorded, here = manifest.packages.get(name), installed.get(name)
        if recorded and here and recorded.split(".")[:2] != here.split(".")[:2]:
            sentences.append(
                f"checkpoint {manifest.id} was made with {name} {recorded}, {here} is installed; "
                "its behaviour may differ"
            )
    return sentences


@functools.cache
def revision() -> str:
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
