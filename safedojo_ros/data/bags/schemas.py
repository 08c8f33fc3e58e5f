"""Message definitions as bags carry them: whole texts, so that a bag is read where ROS is not."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from safedojo_ros.core.errors import DatasetError

PRIMITIVES = {"bool", "byte", "char", "float32", "float64", "string", "wstring"}
PRIMITIVES |= {f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)}
SEPARATOR = "=" * 80
TYPE_NAME = re.compile(r"(\w+)/msg/(\w+)")
FIELD = re.compile(r"^\s*([A-Za-z][\w/]*)(?:<=\d+)?(?:\[[^\]]*\])?\s+[a-z]\w*\s*(?:#|$|[^=\s])")


@dataclass(frozen=True)
class Schema:
    """name: "package/msg/Name"; text: the definition and those of every type inside it;
    digest: the type's hash (RIHS01), "" where it is not known."""

    name: str
    text: str
    digest: str = ""


@dataclass
class SchemaBook:
    """Looks definitions up in `shares`, folders that hold `<package>/msg/<Name>.msg`."""

    shares: Sequence[Path]
    _known: dict[str, Schema] = field(default_factory=dict)

    def schema(self, name: str) -> Schema:
        """The schema of "package/msg/Name"; raises `DatasetError` that names what is missing."""
        if name not in self._known:
            texts = {name: self._text(name, "")}
            waiting = list(inner_types(texts[name], name))
            while waiting:
                inner = waiting.pop(0)
                if inner not in texts:
                    texts[inner] = self._text(inner, name)
                    waiting += inner_types(texts[inner], inner)
            first, *others = texts.items()
            parts = [first[1]] + [f"{SEPARATOR}\nMSG: {short(n)}\n{t}" for n, t in others]
            self._known[name] = Schema(name, "\n".join(parts), self._digest(name))
        return self._known[name]

    def _file(self, name: str, suffix: str) -> Path | None:
        match = TYPE_NAME.fullmatch(name)
        if match is None:
            raise DatasetError(f"'{name}' is not a message type, expected package/msg/Name")
        package, word = match.groups()
        candidates = [share / package / "msg" / f"{word}{suffix}" for share in self.shares]
        return next((c for c in candidates if c.is_file()), None)

    def _text(self, name: str, of: str) -> str:
        file = self._file(name, ".msg")
        if file is None:
            places = ", ".join(str(share) for share in self.shares) or "no folder"
            inside = f" (inside {of})" if of else ""
            raise DatasetError(
                f"no definition of {name}{inside} in {places}; install or source its package"
            )
        return file.read_text(encoding="utf-8").rstrip() + "\n"

    def _digest(self, name: str) -> str:
        file = self._file(name, ".json")
        if file is None:
            return ""
        try:
            hashes = json.loads(file.read_bytes())["type_hashes"]
            return str(next(h["hash_string"] for h in hashes if h["type_name"] == name))
        except (ValueError, KeyError, StopIteration, TypeError):
            return ""


def inner_types(text: str, name: str) -> list[str]:
    """ "package/msg/Name" of every message type that the definition `text` of `name` uses."""
    package, found = name.split("/")[0], []
    for line in text.splitlines():
        match = FIELD.match(line)
        if match is None or match.group(1) in PRIMITIVES:
            continue
        parts = match.group(1).split("/")
        if parts == ["Header"]:
            parts = ["std_msgs", "Header"]
        full = f"{parts[0] if len(parts) > 1 else package}/msg/{parts[-1]}"
        if full not in found:
            found.append(full)
    return found


def short(name: str) -> str:
    """ "package/msg/Name" as "package/Name", the form inside a schema's text."""
    return name.replace("/msg/", "/")
