"""What goes over the wire: msgpack, with numpy arrays as openpi's client packs them.

An array is a map of `__ndarray__`, `data`, `dtype` and `shape`, a numpy scalar one of
`__npgeneric__`, `data` and `dtype`; all these keys are bytes. No pickle, no objects.
"""

import math
from typing import Any

import msgpack
import numpy as np

from safedojo_ros.core.errors import PolicyUnavailable

KINDS = "biufSU"
"""Kinds of numbers and texts that an array may hold; of others, bytes would become pointers."""


def pack(message: Any) -> bytes:
    """Maps, lists, texts, numbers and numpy arrays as bytes; `TypeError` for anything else."""
    packed: bytes = msgpack.packb(message, default=_packed)
    return packed


def unpack(data: bytes) -> Any:
    """Inverse of `pack`; arrays are read-only. Raises `PolicyUnavailable` for other bytes."""
    try:
        return msgpack.unpackb(data, object_hook=_unpacked)
    except Exception as error:  # msgpack's and numpy's own, of many kinds
        what = " ".join(str(error).split())[:100]
        raise PolicyUnavailable(
            f"{len(data)} bytes that are not msgpack as openpi's: {type(error).__name__}: {what}"
        ) from None


def _packed(value: Any) -> dict[bytes, Any]:
    if isinstance(value, np.ndarray) and value.dtype.kind in KINDS:
        return {
            b"__ndarray__": True,
            b"data": value.tobytes(),
            b"dtype": value.dtype.str,
            b"shape": value.shape,
        }
    if isinstance(value, np.generic) and value.dtype.kind in KINDS:
        return {b"__npgeneric__": True, b"data": value.item(), b"dtype": value.dtype.str}
    raise TypeError(f"a {type(value).__name__} cannot be sent")


def _unpacked(value: dict[Any, Any]) -> Any:
    if b"__ndarray__" in value:
        kind, shape = _kind(value[b"dtype"]), [int(side) for side in value[b"shape"]]
        data, wanted = value[b"data"], kind.itemsize * math.prod(shape)
        if min(shape, default=0) < 0 or len(data) != wanted:
            raise ValueError(f"an array {shape} of {kind} in {len(data)} bytes")
        return np.frombuffer(data, kind).reshape(shape)
    if b"__npgeneric__" in value:
        return _kind(value[b"dtype"]).type(value[b"data"])
    return value


def _kind(name: str) -> np.dtype[Any]:
    kind = np.dtype(name)
    if kind.kind not in KINDS:
        raise ValueError(f"an array of {kind}")
    return kind
