"""Weights in and out of safetensors files; nothing else is ever read."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from safedojo_ros.core.errors import CheckpointError
from safedojo_ros.core.files import write_whole
from safedojo_ros.core.types import ACTION_SIZE, CONTROL_PERIOD, STATE_SIZE


def save_weights(module: torch.nn.Module, path: Path, half: bool = False) -> None:
    """Write all parameters and buffers; `half` stores floating point ones as float16."""
    tensors = {}
    for name, tensor in module.state_dict().items():
        tensor = tensor.detach().cpu().contiguous().clone()
        tensors[name] = tensor.half() if half and tensor.is_floating_point() else tensor
    save_file(tensors, str(path))


def load_weights(module: torch.nn.Module, path: Path) -> None:
    """Fill `module` from `path`; raises `CheckpointError` unless names, shapes and values fit."""
    try:
        tensors = load_file(str(path))
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path.name} cannot be read as safetensors: {error}") from None
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise CheckpointError(f"{path.name}: weights '{name}' are not finite")
    wanted = module.state_dict()
    missing, extra = sorted(wanted.keys() - tensors.keys()), sorted(tensors.keys() - wanted.keys())
    if missing or extra:
        raise CheckpointError(
            f"{path.name} is of another architecture: {len(missing)} weights missing "
            f"{missing[:3]}, {len(extra)} unknown {extra[:3]}"
        )
    for name, tensor in tensors.items():
        if tensor.shape != wanted[name].shape:
            raise CheckpointError(
                f"{path.name}: '{name}' has shape {tuple(tensor.shape)}, "
                f"expected {tuple(wanted[name].shape)}"
            )
    cast = {name: t.to(wanted[name].dtype) for name, t in tensors.items()}
    module.load_state_dict(cast, strict=True)


def read_config(directory: Path, *architectures: str) -> dict[str, Any]:
    """config.json of a checkpoint whose "architecture" must be one of `architectures`."""
    path = directory / "config.json"
    try:
        config = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path.name} in {directory.name} is unreadable: {error}") from None
    found = config.get("architecture") if isinstance(config, dict) else None
    if found not in architectures:
        expected = " or ".join(f"'{name}'" for name in architectures)
        raise CheckpointError(f"checkpoint is a '{found}', expected {expected}")
    return config


def write_config(directory: Path, architecture: str, **values: Any) -> None:
    """config.json of a checkpoint."""
    config = {"architecture": architecture} | values
    write_whole(directory / "config.json", json.dumps(config, indent=1) + "\n")


@contextmanager
def fitting(directory: Path) -> Iterator[None]:
    """Whatever a foreign config makes the libraries raise becomes a `CheckpointError`."""
    try:
        yield
    except CheckpointError:
        raise
    except Exception as error:
        raise CheckpointError(f"config of {directory.name} does not fit: {error!r}") from None


def robot_spec(cameras: tuple[str, ...], image_size: int, chunk_length: int) -> dict[str, Any]:
    """Inputs and outputs of a model, for the manifest."""
    return {
        "cameras": list(cameras),
        "image_size": image_size,
        "state_size": STATE_SIZE,
        "action_size": ACTION_SIZE,
        "chunk_length": chunk_length,
        "period": CONTROL_PERIOD,
    }
