"""What made a checkpoint: the packages that are installed here, and the revision of the sources."""

import functools
import importlib.metadata
import subprocess
from pathlib import Path
from typing import Any

from safedojo_ros.checkpoints.manifest import Manifest

RECORDED_PACKAGES = ("safedojo_ros", "numpy", "torch", "transformers", "diffusers", "safetensors")
WATCHED_PACKAGES = ("torch", "transformers", "diffusers")
"""Packages whose other minor version is worth a warning when a checkpoint is loaded."""


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
