"""JSON from elsewhere: bounded in size, depth, names and numbers before anything is made of it."""

import json
import math
from pathlib import Path
from typing import Any

from safedojo_ros.core.errors import CheckpointError

MAX_BYTES = 4 * 1024 * 1024
MAX_DEPTH = 24
"""Lists and objects inside each other."""
MAX_NAME = 256
"""Characters of a key."""
MAX_INTEGER = 2**63 - 1


def read_json(path: Path, limit: int = MAX_BYTES) -> Any:
    """The contents of a JSON file of at most `limit` bytes; raises `CheckpointError`."""
    try:
        with path.open("rb") as file:
            text = file.read(limit + 1)
    except OSError as error:
        raise CheckpointError(f"{path.name} is unreadable: {error.strerror}") from None
    return parse_json(text, path.name, limit)


def parse_json(text: str | bytes, where: str, limit: int = MAX_BYTES) -> Any:
    """What `text` says; raises `CheckpointError` that begins with `where`.

    Finite numbers only, integers of 64 bits, no key twice, nothing deeper than `MAX_DEPTH`.
    """
    if len(text) > limit:
        raise CheckpointError(f"{where} is larger than {limit} bytes; it is not ours")
    try:
        content = json.loads(
            text,
            parse_constant=_constant,
            parse_float=_float,
            parse_int=_integer,
            object_pairs_hook=_object,
        )
    except RecursionError:
        raise CheckpointError(f"{where} is nested deeper than {MAX_DEPTH} levels") from None
    except ValueError as error:
        raise CheckpointError(f"{where} is not valid JSON: {error}; publish it again") from None
    _check_depth(content, where)
    return content


def _check_depth(content: Any, where: str) -> None:
    level = [content]
    for _ in range(MAX_DEPTH):
        if any(isinstance(value, str) and not _is_text(value) for value in level):
            raise CheckpointError(f"{where} has a text that is not Unicode; publish it again")
        level = [
            inner
            for outer in level
            if isinstance(outer, (dict, list))
            for inner in (outer.values() if isinstance(outer, dict) else outer)
        ]
        if not level:
            return
    raise CheckpointError(f"{where} is nested deeper than {MAX_DEPTH} levels")


def _is_text(value: str) -> bool:
    """Whether it has no half of a surrogate pair, which JSON's escapes can make."""
    return value.isascii() or not any("\ud800" <= c <= "\udfff" for c in value)


def _constant(text: str) -> None:
    raise ValueError(f"{text} is not a finite number")


def _float(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text:.40} is not a finite number")
    return value


def _integer(text: str) -> int:
    if len(text) > 20 or abs(value := int(text)) > MAX_INTEGER:
        raise ValueError(f"the integer {text:.20}… has {len(text)} digits; 64 bits are the most")
    return value


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("a key appears twice")
    for name in result:
        if len(name) > MAX_NAME or not _is_text(name):
            raise ValueError(f"a key has {len(name)} characters, expected {MAX_NAME} or less")
    return result
