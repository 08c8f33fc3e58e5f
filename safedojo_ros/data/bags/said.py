"""What the world says in JSON on `sim/truth` and `sim/episode`, checked field by field."""

import json
from dataclasses import dataclass
from typing import Any

LARGEST = 2**62
"""Of a whole number; larger ones fit in no column of a data set."""
LONGEST = 1000
"""Characters of a name or sentence."""
FARTHEST = 100.0
"""Metres that an obstacle may have moved."""


@dataclass(frozen=True)
class Truth:
    """What the world knew after a step: contact, displacement of the obstacle (m), success."""

    contact: bool
    displacement: float
    success: bool
    running: bool
    task: str
    level: int


def truth_of(text: str) -> tuple[Truth, int | None]:
    """The truth, and its stamp (ns) where it has one; raises `ValueError`."""
    said = _fields(text)
    cost, displacement = (_number(said, name) for name in ("cost", "displacement"))
    truth = Truth(
        contact=cost > 0,
        displacement=displacement,
        success=_flag(said, "success"),
        running=said.get("phase", "running") == "running",
        task=word(said.get("task", "")),
        level=_whole(said, "level", -1),
    )
    return truth, _whole(said, "stamp") if "stamp" in said else None


def outcome_of(text: str) -> dict[str, Any]:
    """An episode's outcome: those of "stamp" (ns), "seed", "level", "task" and "success" that it
    says; raises `ValueError`."""
    said = _fields(text)
    found: dict[str, Any] = {n: _whole(said, n) for n in ("stamp", "seed", "level") if n in said}
    if "task" in said:
        found["task"] = word(said["task"])
    if "success" in said:
        found["success"] = _flag(said, "success")
    return found


def word(text: Any) -> str:
    """A name or sentence with single spaces, as UTF-8 can say it; raises `ValueError`."""
    if not isinstance(text, str) or len(text) > LONGEST:
        raise ValueError(f"{_shown(text)} is no text of at most {LONGEST} characters")
    return " ".join(text.encode(errors="replace").decode().split())


def _fields(text: str) -> dict[str, Any]:
    try:
        said = json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    if not isinstance(said, dict):
        raise ValueError(f"it says {_shown(said)}, expected an object")
    return said


def _whole(said: dict[str, Any], name: str, default: int = 0) -> int:
    value = said.get(name, default)
    if type(value) is not int or abs(value) >= LARGEST:
        raise ValueError(f"'{name}' is {_shown(value)}, expected a whole number")
    return value


def _number(said: dict[str, Any], name: str) -> float:
    value = said.get(name)
    if not isinstance(value, (int, float)) or not abs(value) <= FARTHEST:  # also no NaN
        raise ValueError(f"'{name}' is {_shown(value)}, expected a number to {FARTHEST}")
    return float(value)


def _flag(said: dict[str, Any], name: str) -> bool:
    value = said.get(name)
    if not isinstance(value, bool):
        raise ValueError(f"'{name}' is {_shown(value)}, expected true or false")
    return value


def _shown(value: Any) -> str:
    try:
        return f"{value!r:.80}"
    except ValueError:  # a number of thousands of digits
        return type(value).__name__
