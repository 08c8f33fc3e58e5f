"""YAML files into dataclasses, with errors that name the line."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

import yaml

from safedojo_ros.core.config import from_mapping
from safedojo_ros.core.errors import ConfigError

T = TypeVar("T")
LARGEST = 1 << 20
"""Bytes of a file that is taken seriously."""


def read_yaml(cls: type[T], path: Path) -> T:
    """The dataclass `cls` that the file describes.

    Raises `ConfigError` with file and line for what is no YAML, an alias, a key twice, an unknown
    key, and a value of another type or out of range.
    """
    try:
        if path.stat().st_size > LARGEST:
            raise ConfigError(f"{path} is larger than {LARGEST} bytes")
        root = yaml.compose(path.read_text(encoding="utf-8"), _PlainLoader)
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        why = getattr(error, "problem", None) or " ".join(str(error).split())[:200]
        raise ConfigError(f"{path}{line}: not valid YAML: {why}") from None
    if not isinstance(root, yaml.MappingNode):
        raise ConfigError(f"{path}:1: expected `key: value` lines")
    lines = {"": 1}
    try:
        lines |= dict(_lines(root, ""))
        value: dict[str, Any] = _PlainLoader("").construct_document(root)
        return from_mapping(cls, value)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        at = mark.line + 1 if mark else 1
        raise ConfigError(f"{path}:{at}: {getattr(error, 'problem', error)}") from None
    except ConfigError as error:
        raise ConfigError(f"{path}:{lines.get(_nearest(error.key, lines), 1)}: {error}") from None


class _PlainLoader(yaml.SafeLoader):
    """Without aliases, whose few bytes can stand for gigabytes."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            mark = self.peek_event().start_mark
            raise yaml.composer.ComposerError(None, None, "an alias; write the value out", mark)
        return super().compose_node(parent, index)


def _lines(node: yaml.Node, where: str) -> Iterator[tuple[str, int]]:
    """Dotted key and line of everything below `node`."""
    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for name, value in node.value:
            key = f"{where}{name.value}"
            yield key, name.start_mark.line + 1
            if key in seen:
                raise yaml.MarkedYAMLError(None, None, f"'{key}' is there twice", name.start_mark)
            seen.add(key)
            yield from _lines(value, f"{key}.")
    elif isinstance(node, yaml.SequenceNode):
        for number, value in enumerate(node.value):
            key = f"{where.removesuffix('.')}[{number}]"
            yield key, value.start_mark.line + 1
            yield from _lines(value, f"{key}.")


def _nearest(key: str, lines: dict[str, int]) -> str:
    """`key`, or the section that it is in."""
    key = key.removesuffix(".")
    while key and key not in lines:
        key = key.rpartition(".")[0]
    return key
