"""Weights in and out of safetensors files; nothing else is ever read."""

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from safedojo_ros.core.config import from_mapping
from safedojo_ros.core.contract import Contract
from safedojo_ros.core.errors import CheckpointError, ConfigError
from safedojo_ros.core.files import write_whole
from safedojo_ros.core.strict_json import read_json
from safedojo_ros.core.tensor_file import TensorEntry, read_header
from safedojo_ros.core.types import ACTION_SIZE, CONTROL_PERIOD, RESIZE, RESIZES, STATE_SIZE

M = TypeVar("M")
T = TypeVar("T")

FLOATS = ("F16", "BF16", "F32")
"""What the weights of a network may be stored as."""
OTHERS = {
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
"""Counters and masks are stored as what they are."""
MAX_CAMERAS = 8
MAX_SENTENCES = 1024


def identity(directory: Path) -> str:
    """The id in the manifest of a checkpoint directory; its name where it has none yet."""
    path = directory / "manifest.json"
    manifest = read_json(path) if path.is_file() else None
    return str(manifest["id"]) if isinstance(manifest, dict) else directory.name


def save_weights(module: torch.nn.Module, path: Path, half: bool = False) -> None:
    """Write all parameters and buffers; `half` stores floating point ones as float16."""
    tensors = {}
    for name, tensor in module.state_dict().items():
        tensor = tensor.detach().cpu().contiguous().clone()
        tensors[name] = tensor.half() if half and tensor.is_floating_point() else tensor
    save_file(tensors, str(path))


def build_and_load(
    build: Callable[[], M], network: Callable[[M], torch.nn.Module], directory: Path
) -> M:
    """The model that `build` makes, its `network` filled from the directory's weights.

    Before any memory is taken, the file's header is compared with a network that `build` makes on
    torch's meta device, so that sizes which the file does not back cost nothing. Raises
    `CheckpointError`.
    """
    path = directory / "model.safetensors"
    with fitting(directory):
        with torch.device("meta"):
            wanted = network(build()).state_dict()
        _compare(_header(path), wanted, path.name)
        model = build()
    _fill(network(model), path)
    network(model).eval()
    return model


def _fill(module: torch.nn.Module, path: Path) -> None:
    """Weights whose header has been compared into `module`; their values must be finite."""
    wanted = module.state_dict()
    try:
        tensors = load_file(str(path))
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path.name} cannot be read as safetensors: {error}") from None
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise CheckpointError(f"{path.name}: weights '{name}' are not finite")
    try:
        cast = {name: t.to(wanted[name].dtype) for name, t in tensors.items()}
        module.load_state_dict(cast, strict=True)
    except (KeyError, RuntimeError):
        raise CheckpointError(f"{path.name} changed while it was read; load it again") from None


def _header(path: Path) -> dict[str, TensorEntry]:
    try:
        with path.open("rb") as file:
            return read_header(file, path.stat().st_size, path.name)
    except OSError as error:
        raise CheckpointError(f"{path.name} is unreadable: {error.strerror}") from None


def _compare(
    header: Mapping[str, TensorEntry], wanted: Mapping[str, torch.Tensor], where: str
) -> None:
    """Raise `CheckpointError` unless names, shapes and types are those of a network's state."""
    missing, extra = sorted(wanted.keys() - header.keys()), sorted(header.keys() - wanted.keys())
    if missing or extra:
        raise CheckpointError(
            f"{where} is of another architecture: {len(missing)} weights missing "
            f"{missing[:3]!s:.200}, {len(extra)} unknown {extra[:3]!s:.200}"
        )
    for name, entry in header.items():
        tensor = wanted[name]
        if entry.shape != tuple(tensor.shape):
            raise CheckpointError(
                f"{where}: '{name}' has shape {entry.shape}, expected {tuple(tensor.shape)}"
            )
        allowed = FLOATS if tensor.is_floating_point() else (OTHERS.get(tensor.dtype, "none"),)
        if entry.dtype not in allowed:
            raise CheckpointError(
                f"{where}: '{name}' is stored as {entry.dtype}, expected {' or '.join(allowed)}"
            )


def read_config(directory: Path, *architectures: str) -> dict[str, Any]:
    """config.json of a checkpoint whose "architecture" must be one of `architectures`."""
    try:
        config = read_json(directory / "config.json")
    except CheckpointError as error:
        raise CheckpointError(f"{directory.name}: {error}") from None
    found = config.get("architecture") if isinstance(config, dict) else None
    if found not in architectures:
        expected = " or ".join(f"'{name}'" for name in architectures)
        raise CheckpointError(f"checkpoint is a {found!r:.40}, expected {expected}")
    resize = config.get("resize", RESIZE)
    if resize not in RESIZES:
        raise CheckpointError(
            f"checkpoint saw images that were made to fit by {resize!r:.40}, known are "
            f"{' and '.join(RESIZES)}"
        )
    return dict(config)


def write_config(directory: Path, architecture: str, **values: Any) -> None:
    """config.json of a checkpoint."""
    config = {"architecture": architecture, "resize": RESIZE} | values
    write_whole(directory / "config.json", json.dumps(config, indent=1) + "\n")


def section(cls: type[T], config: Mapping[str, Any], name: str) -> T:
    """The dataclass `cls` of a section of config.json; every field must be there, and fit.

    Raises `CheckpointError`.
    """
    values = config.get(name)
    if not isinstance(values, Mapping):
        raise CheckpointError(f"config.json has {name} {values!r:.40}, expected a section")
    try:
        return from_mapping(cls, values, f"{name}.")
    except ConfigError as error:
        raise CheckpointError(f"config.json does not fit: {one_line(error)}") from None


def number(
    config: Mapping[str, Any], name: str, low: float, high: float, default: Any = None
) -> Any:
    """A number of config.json within [low, high]; an integer where both bounds are.

    Raises `CheckpointError`.
    """
    value = config.get(name, default)
    whole = isinstance(low, int) and isinstance(high, int)
    right = isinstance(value, int if whole else (int, float)) and not isinstance(value, bool)
    if not right or not low <= value <= high:
        kind = "a whole number" if whole else "a number"
        raise CheckpointError(
            f"config.json: {name} is {value!r:.40}, expected {kind} within [{low:g}, {high:g}]"
        )
    return value


def texts(config: Mapping[str, Any], name: str, least: int, most: int) -> tuple[str, ...]:
    """A list of `least` to `most` different sentences or names; raises `CheckpointError`."""
    value: Any = config.get(name)
    right = isinstance(value, list) and all(isinstance(v, str) and v.strip() for v in value)
    if not right or not least <= len(value) <= most or len(set(value)) < len(value):
        raise CheckpointError(
            f"config.json: {name} is {value!r:.60}, expected {least} to {most} different texts"
        )
    return tuple(value)


def known_cameras(config: Mapping[str, Any]) -> tuple[str, ...]:
    """The cameras' names; raises `CheckpointError`."""
    return texts(config, "cameras", 1, MAX_CAMERAS)


def known_instructions(config: Mapping[str, Any], least: int) -> tuple[str, ...]:
    """At least so many sentences that it was trained on; raises `CheckpointError`."""
    return texts(config, "instructions", least, MAX_SENTENCES)


@contextmanager
def fitting(directory: Path) -> Iterator[None]:
    """Whatever a foreign config makes the libraries raise becomes a `CheckpointError`."""
    try:
        yield
    except CheckpointError:
        raise
    except Exception as error:
        fault = f"{type(error).__name__}: {one_line(error)}"
        raise CheckpointError(f"config of {directory.name} does not fit: {fault}") from None


def one_line(error: Exception) -> str:
    """The first line of an error's text, cut."""
    return f"{(str(error).strip().splitlines() or [''])[0]:.200}"


def robot_spec(
    cameras: tuple[str, ...],
    image_size: int,
    chunk_length: int,
    contract: Contract | None = None,
    resize: str = RESIZE,
) -> dict[str, Any]:
    """Inputs and outputs of a model, for the manifest. contract: None: those of this package;
    resize: the rule by which its images became square, see `core.types.RESIZES`."""
    spec = {
        "cameras": list(cameras),
        "image_size": image_size,
        "state_size": contract.state_size if contract else STATE_SIZE,
        "action_size": contract.action_size if contract else ACTION_SIZE,
        "chunk_length": chunk_length,
        "period": 1 / contract.rate if contract else CONTROL_PERIOD,
    }
    if contract and (contract.learned_kind, contract.frame) != ("ee_delta", "base"):
        spec |= {"actions": contract.learned_kind, "frame": contract.frame}
    if resize != RESIZE:
        spec["resize"] = resize
    return spec
