"""What a manifest says beside its files, where a directory is published that holds only these."""

from pathlib import Path
from typing import Any

from safedojo_ros.checkpoints.manifest import MANIFEST, verify
from safedojo_ros.core.errors import CheckpointError
from safedojo_ros.core.strict_json import read_json

DETAILS = ("spec", "normalisation", "evaluation", "fidelity", "requires")


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
