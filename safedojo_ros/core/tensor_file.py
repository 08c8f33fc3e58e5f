"""The header of a safetensors file: names, types and shapes, known before any tensor is read."""

import math
from dataclasses import dataclass
from typing import Any, BinaryIO

from safedojo_ros.core.errors import CheckpointError
from safedojo_ros.core.strict_json import MAX_INTEGER, parse_json

MAX_HEADER_BYTES = 4 * 1024 * 1024
"""Room for 30,000 tensors; the format itself allows 100 MB."""
MAX_DIMENSIONS = 8
DTYPE_BYTES = {
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E4M3", "F8_E5M2"), 1),
    **dict.fromkeys(("U16", "I16", "F16", "BF16"), 2),
    **dict.fromkeys(("U32", "I32", "F32"), 4),
    **dict.fromkeys(("U64", "I64", "F64", "C64"), 8),
}


@dataclass(frozen=True)
class TensorEntry:
    """What the header says of one tensor. dtype: safetensors' name of it, as "F16"."""

    dtype: str
    shape: tuple[int, ...]


def read_header(file: BinaryIO, size: int, where: str) -> dict[str, TensorEntry]:
    """{name: entry} of a safetensors file of `size` bytes, opened at its beginning.

    Offsets must lie in the file, follow each other without hole or overlap, and fit dtype and
    shape; so all tensors together are as large as the file. Raises `CheckpointError` that names
    `where`.
    """

    def bad(what: str) -> CheckpointError:
        return CheckpointError(f"{where} is not a sound safetensors file: {what}; save it again")

    prefix = file.read(8)
    if len(prefix) < 8:
        raise bad(f"it has {size} bytes")
    length = int.from_bytes(prefix, "little")
    if length > min(size - 8, MAX_HEADER_BYTES):
        raise bad(f"its header claims {length} bytes, the file has {size}")
    text = file.read(length)
    try:
        header = parse_json(text, "its header", MAX_HEADER_BYTES)
    except CheckpointError as error:
        raise bad(str(error).removesuffix("; publish it again")) from None
    if not isinstance(header, dict):
        raise bad("its header is not an object")
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise bad("its metadata is not an object of texts")
    entries, spans = {}, []
    for name, entry in header.items():
        called = repr(name[:80])
        try:
            dtype, shape = entry["dtype"], entry["shape"]
            width = DTYPE_BYTES[dtype]
            begin, end = entry["data_offsets"]
        except (TypeError, KeyError, ValueError):
            raise bad(f"tensor {called} has no known dtype, shape or data_offsets") from None
        sound = isinstance(shape, list) and len(shape) <= MAX_DIMENSIONS
        if not sound or not all(_is_count(v) for v in [*shape, begin, end]):
            there = f"{begin!r:.40}, {end!r:.40}"
            raise bad(f"tensor {called} has shape {shape!r:.60} and offsets {there}")
        count = math.prod(shape)
        if count > MAX_INTEGER or end - begin != width * count:
            raise bad(f"tensor {called} of {dtype} {shape} has {end - begin} bytes")
        entries[name] = TensorEntry(dtype, tuple(shape))
        spans.append((begin, end, called))
    position = 0
    for begin, end, called in sorted(spans):
        if begin != position:
            raise bad(f"tensor {called} begins at {begin}, expected {position}")
        position = end
    if position != size - 8 - length:
        raise bad(f"its tensors end at {position} of {size - 8 - length} data bytes")
    return entries


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0
