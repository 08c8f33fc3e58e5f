"""What a manifest says beside its files, where a directory is published that holds only these."""

from pathlib import Path
from typing import Any

from safedojo_ros.checkpoints.figures import is_report, recorded
from safedojo_ros.checkpoints.manifest import MANIFEST, verify
from safedojo_ros.core.errors import CheckpointError
from safedojo_ros.core.strict_json import read_json

MAX_REPORT = 64 * 1024 * 1024
"""Bytes of a report with every episode."""
DETAILS = ("spec", "normalisation", "evaluation", "fidelity", "requires", "preset")


def read_details(
    kind: str, directory: Path, file: Path | None
) -> tuple[dict[str, Any], str | None]:
    """The details and the parent's id: of the JSON `file`, or of the directory's own manifest.

    Raises `CheckpointError`.
    """
    if file is None:
        if not (directory / MANIFEST).is_file():
            raise CheckpointError(
                f"{directory} has no {MANIFEST}; give --details FILE with at least 'spec'"
            )
        manifest = verify(directory)
        if manifest.kind != kind:
            raise CheckpointError(f"{directory} is of kind '{manifest.kind}'")
        return {key: getattr(manifest, key) for key in DETAILS}, manifest.id
    content = read_json(file)
    if not isinstance(content, dict) or "spec" not in content or set(content) - set(DETAILS):
        raise CheckpointError(f"{file} needs 'spec' and may have {', '.join(DETAILS[1:])}")
    return content, None


def read_evaluation(file: Path, policy: str | None) -> dict[str, Any]:
    """What a manifest keeps of a file of `safedojo evaluate --json`: {world: report}.

    policy: the id that was to be evaluated; None: any. Raises `CheckpointError`.
    """
    report = read_json(file, MAX_REPORT)
    if not is_report(report):
        raise CheckpointError(f"{file} is no report of 'safedojo evaluate --json'")
    if policy is not None and report.get("policy") != policy:
        raise CheckpointError(f"{file} is about {report.get('policy')!r:.80}, expected {policy}")
    return {str(report.get("world", "tabletop")): recorded(report)}
