"""Typed configuration: TOML presets into dataclasses, with errors that name the nearest key."""

import dataclasses
import difflib
import tomllib
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from safedojo_ros.core.errors import ConfigError

T = TypeVar("T")


def from_mapping(cls: type[T], mapping: Mapping[str, Any], where: str = "") -> T:
    """Build the dataclass `cls` from nested `mapping`; fields that it lacks keep their default.

    Raises `ConfigError` for an unknown key (naming the nearest known one), a missing key that has
    no default, or a value of another type. `where` prefixes the key in messages.
    """
    hints = typing.get_type_hints(cls)
    names = [f.name for f in dataclasses.fields(cls)]  # type: ignore[arg-type]
    values: dict[str, Any] = {}
    for key, value in mapping.items():
        if key not in names:
            near = difflib.get_close_matches(key, names, n=1)
            hint = f"; did you mean '{near[0]}'?" if near else f"; known: {', '.join(names)}"
            raise ConfigError(f"unknown key '{where}{key}' for {cls.__name__}{hint}")
        values[key] = _convert(hints[key], value, f"{where}{key}")
    try:
        return cls(**values)
    except TypeError as error:
        raise ConfigError(f"{cls.__name__} at '{where or '.'}': {error}") from None


def _convert(hint: Any, value: Any, key: str) -> Any:
    if dataclasses.is_dataclass(hint) and isinstance(value, Mapping):
        return from_mapping(hint, value, f"{key}.")  # type: ignore[arg-type]
    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        options = [a for a in typing.get_args(hint) if a is not type(None)]
        return None if value is None else _convert(options[0], value, key)
    if origin is tuple:
        if not isinstance(value, (list, tuple)):
            raise ConfigError(f"'{key}' is {value!r}, expected a list")
        item = typing.get_args(hint)[0]
        return tuple(_convert(item, v, key) for v in value)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    plain = hint if isinstance(hint, type) else object
    if not isinstance(value, plain) or (isinstance(value, bool) and plain is not bool):
        if plain is object:
            return value
        raise ConfigError(f"'{key}' is {value!r}, expected {plain.__name__}")
    return value


def read_toml(path: Path) -> dict[str, Any]:
    """Parse a TOML file; raises `ConfigError` that names the file and the line."""
    try:
        return tomllib.loads(path.read_text())
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path} is not valid TOML: {error}") from None


def with_overrides(mapping: dict[str, Any], overrides: list[str]) -> dict[str, Any]:
    """Apply `section.key=value` strings (TOML values) to a nested mapping, in a copy."""
    result = {k: dict(v) if isinstance(v, dict) else v for k, v in mapping.items()}
    for text in overrides:
        key, separator, value = text.partition("=")
        if not separator:
            raise ConfigError(f"override '{text}' has no '='; write section.key=value")
        *sections, leaf = key.strip().split(".")
        target = result
        for section in sections:
            target = target.setdefault(section, {})
        try:
            target[leaf] = tomllib.loads(f"v = {value}")["v"]
        except tomllib.TOMLDecodeError:
            target[leaf] = value.strip()
    return result
