"""Typed configuration: TOML presets into dataclasses, with errors that name the nearest key."""

import copy
import dataclasses
import difflib
import math
import re
import tomllib
import types
import typing
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from safedojo_ros.core.errors import ConfigError

T = TypeVar("T")


def from_mapping(cls: type[T], mapping: Mapping[str, Any], where: str = "") -> T:
    """Build the dataclass `cls` from nested `mapping`; fields that it lacks keep their default.

    Raises `ConfigError` for an unknown key (naming the nearest known one), a missing key that has
    no default, or a value of another type or out of range. `where` prefixes the key in messages.
    """
    hints = typing.get_type_hints(cls)
    names = [f.name for f in dataclasses.fields(cls)]  # type: ignore[arg-type]
    values: dict[str, Any] = {}
    for key, value in mapping.items():
        if key not in names:
            text = f"unknown setting '{where}{key}'{nearest(key, names)}"
            raise ConfigError(text, f"{where}{key}")
        values[key] = _convert(hints[key], value, f"{where}{key}")
    try:
        return cls(**values)
    except TypeError as error:
        raise ConfigError(f"{cls.__name__} at '{where or '.'}': {error}", where) from None
    except ConfigError as error:
        raise ConfigError(f"{where}{error}", f"{where}{error.key}") from None


def device_name(text: str, option: str = "device") -> str:
    """A device as torch names it, or "auto"; raises `ConfigError`. option: what it is called."""
    if not re.fullmatch(r"auto|cpu|cuda(:\d{1,2})?", text):
        raise ConfigError(f"{option} is '{text}', expected auto, cpu, cuda or cuda:N")
    return text


def nearest(name: str, known: Iterable[str]) -> str:
    """ "; did you mean 'x'?" for the end of a message, or all names where none is like `name`."""
    names = list(known)
    near = difflib.get_close_matches(name, names, n=1)
    return f"; did you mean '{near[0]}'?" if near else f"; known: {', '.join(names)}"


def check_ranges(config: Any, **ranges: str) -> None:
    """Raise `ConfigError` unless each named field lies in its interval, as "(0, 1]", "[1, inf)"."""
    for name, interval in ranges.items():
        value = getattr(config, name)
        low, high = (float(end) for end in interval[1:-1].split(","))
        above = value > low if interval[0] == "(" else value >= low
        below = value < high if interval[-1] == ")" else value <= high
        if not (above and below and not math.isnan(value)):
            raise ConfigError(f"{name} is {value}, expected within {interval}", name)


def _convert(hint: Any, value: Any, key: str) -> Any:
    if dataclasses.is_dataclass(hint):
        if not isinstance(value, Mapping):
            text = f"'{key}' is {value!r}, expected a section; set one of its keys"
            raise ConfigError(text, key)
        return from_mapping(hint, value, f"{key}.")  # type: ignore[arg-type]
    origin = typing.get_origin(hint)
    if origin is typing.Literal:
        options = typing.get_args(hint)
        if value not in options:
            text = f"'{key}' is {value!r}, expected {' or '.join(map(repr, options))}"
            raise ConfigError(text, key)
        return value
    if origin in (typing.Union, types.UnionType):
        kinds = [a for a in typing.get_args(hint) if a is not type(None)]
        return None if value is None else _convert(kinds[0], value, key)
    if origin is tuple:
        if not isinstance(value, (list, tuple)):
            raise ConfigError(f"'{key}' is {value!r}, expected a list", key)
        item = typing.get_args(hint)[0]
        return tuple(_convert(item, v, f"{key}[{i}]") for i, v in enumerate(value))
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    plain = hint if isinstance(hint, type) else object
    if not isinstance(value, plain) or (isinstance(value, bool) and plain is not bool):
        if plain is object:
            return value
        raise ConfigError(f"'{key}' is {value!r}, expected {plain.__name__}", key)
    return value


def read_toml(path: Path) -> dict[str, Any]:
    """Parse a TOML file; raises `ConfigError` that names the file and the line."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not valid TOML: {error}") from None


def with_overrides(mapping: dict[str, Any], overrides: Iterable[str]) -> dict[str, Any]:
    """Apply `section.key=value` strings (TOML values) to a nested mapping, in a copy."""
    result = copy.deepcopy(mapping)
    for text in overrides:
        key, separator, value = text.partition("=")
        if not separator:
            raise ConfigError(f"override '{text}' has no '='; write section.key=value")
        *sections, leaf = key.strip().split(".")
        target = result
        for section in sections:
            target = target.setdefault(section, {})
            if not isinstance(target, dict):
                raise ConfigError(f"override '{text}': '{section}' is a value, not a section")
        try:
            target[leaf] = tomllib.loads(f"v = {value}")["v"]
        except tomllib.TOMLDecodeError:
            target[leaf] = value.strip()
    return result
