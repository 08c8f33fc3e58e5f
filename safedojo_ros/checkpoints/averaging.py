"""The mean of several checkpoints' weights, a model soup (arXiv 2203.05482).

Runs of practice that begin with one policy and differ in their seeds share what they learned, and
hardly any of their noise; the mean of their weights keeps the one and has less of the other.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load_file, save_file

from safedojo_ros.checkpoints.manifest import Manifest, verify
from safedojo_ros.core.errors import CheckpointError

WEIGHTS = ".safetensors"


def average(directories: Sequence[Path], target: Path) -> Manifest:
    """Write the mean into the empty directory `target`, in the first one's precision.

    directories: at least two checkpoints that differ in nothing but their weights. Returns the
    manifest of the first, whose spec and normalisation are the mean's. Raises `CheckpointError`
    that names what else differs.
    """
    if len(directories) < 2:
        raise CheckpointError("a mean takes at least two checkpoints")
    manifests = [verify(directory) for directory in directories]
    first = manifests[0]
    for manifest in manifests[1:]:
        for name in ("kind", "spec", "normalisation", "requires"):
            if getattr(manifest, name) != getattr(first, name):
                raise CheckpointError(f"{first.id} and {manifest.id} differ in their {name}")
        if manifest.files.keys() != first.files.keys():
            raise CheckpointError(f"{first.id} and {manifest.id} have other files")
    for path, entry in first.files.items():
        (target / path).parent.mkdir(parents=True, exist_ok=True)
        if path.endswith(WEIGHTS):
            _average_file([directory / path for directory in directories], target / path)
            continue
        for manifest in manifests[1:]:
            if manifest.files[path]["sha256"] != entry["sha256"]:
                raise CheckpointError(f"{first.id} and {manifest.id} differ in {path}")
        (target / path).write_bytes((directories[0] / path).read_bytes())
    return first


def _average_file(paths: Sequence[Path], target: Path) -> None:
    try:
        weights = [load_file(path) for path in paths]
        with safe_open(paths[0], framework="numpy") as file:
            metadata = file.metadata()
    except (SafetensorError, OSError, KeyError, TypeError) as error:
        raise CheckpointError(f"cannot read {paths[0].name}: {error}") from None
    shapes = [{name: tensor.shape for name, tensor in part.items()} for part in weights]
    if any(shape != shapes[0] for shape in shapes):
        raise CheckpointError(f"{paths[0].name} has other tensors in one of the checkpoints")
    mean = {}
    for name, tensor in weights[0].items():
        parts = [part[name] for part in weights]
        if np.issubdtype(tensor.dtype, np.floating):
            mean[name] = np.mean(parts, axis=0, dtype=np.float64).astype(tensor.dtype)
        elif all(np.array_equal(part, tensor) for part in parts):
            mean[name] = tensor
        else:
            raise CheckpointError(f"'{name}' in {paths[0].name} is no weight, and differs")
    save_file(mean, target, metadata=metadata)
