"""Writes the lock of this Python and machine: what pip chooses now, each with its hash.

    .venv/bin/python requirements/lock.py

`./dojo` installs from requirements/py<version>-<machine>.lock, where there is one, nothing else
than these very files; elsewhere the newest within the ranges of pyproject.toml. PyTorch is not in
it: `./dojo` chooses between its builds (see there), and pins its version.
"""

import json
import platform
import re
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
NOT_LOCKED = re.compile(r"torch|triton|nvidia-.*|cuda-.*", re.IGNORECASE)
"""PyTorch and what its builds for graphics cards bring."""


def wanted() -> list[str]:
    """Everything that `./dojo` installs, as pyproject.toml has it."""
    file = tomllib.loads((ROOT / "pyproject.toml").read_text())
    project, extras = file["project"], file["project"]["optional-dependencies"]
    build = file["build-system"]["requires"]
    build += file["tool"]["safedojo"]["interface-build-requires"]
    found = build + project["dependencies"]
    for extra in ("ros", "viewer", "franka", "scale", "dev"):
        found += extras[extra]
    return found


def lock_path(version: str = "", machine: str = "") -> Path:
    """Of a Python (default: this one, as "3.11") on a machine (default: this one)."""
    version = version or "{}.{}".format(*sys.version_info)
    return ROOT / f"requirements/py{version}-{machine or platform.machine()}.lock"


def main() -> None:
    """Ask pip what it would install, and write it down."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        command = [sys.executable, "-m", "pip", "install", "--dry-run", "--ignore-installed"]
        subprocess.run([*command, "--quiet", "--report", str(report), *wanted()], check=True)
        write(json.loads(report.read_bytes()), lock_path())


def write(report: dict, path: Path) -> None:
    """The lock file of a pip report, packages by name."""
    lines = []
    for item in report["install"]:
        name = re.sub(r"[-_.]+", "-", item["metadata"]["name"]).lower()
        if not NOT_LOCKED.fullmatch(name):
            digest = item["download_info"]["archive_info"]["hashes"]["sha256"]
            lines.append(f"{name}=={item['metadata']['version']} --hash=sha256:{digest}\n")
    head = "# Made by requirements/lock.py; do not edit.\n"
    path.write_text(head + "".join(sorted(lines)))


if __name__ == "__main__":
    main()
