"""What `safedojo report` reads: the directories of a sweep, and single evaluations."""

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safedojo_ros.core.errors import ConfigError

if TYPE_CHECKING:
    from safedojo_ros.evaluation.compare.comparison import MethodRun
    from safedojo_ros.evaluation.compare.report import Film

RUN_NAME = re.compile(r"(?P<method>[A-Za-z0-9_+.-]+?)(-seed(?P<seed>\d+))?")
BEHIND = re.compile("-(gate|detour|cbf)-seed")
"""In the name of a run that evaluates the policy of another run."""


def read_sweep(directory: Path) -> "list[MethodRun]":
    """Every finished run of a sweep; raises `ConfigError` where there is none."""
    runs = [read_run(path.parent) for path in sorted(directory.glob("*/evaluation.json"))]
    if not runs:
        raise ConfigError(f"{directory} holds no run with an evaluation.json")
    return runs


def read_run(directory: Path) -> "MethodRun":
    """One run of a sweep."""
    from safedojo_ros.evaluation.compare.comparison import MethodRun, read_evaluation

    name = RUN_NAME.fullmatch(directory.name)
    if name is None:
        raise ConfigError(f"{directory.name} is not named <method>-seed<number>")
    results, max_steps = read_evaluation(directory / "evaluation.json")
    metrics = directory / "metrics.jsonl"
    return MethodRun(
        name["method"],
        int(name["seed"] or 0),
        results,
        max_steps,
        read_practice(directory),
        read_lines(metrics) if metrics.exists() else [],
        read_practice(directory.parent / BEHIND.sub("-seed", directory.name)),
    )


def read_practice(directory: Path) -> dict[str, Any]:
    """Contents of practice.json; empty without such a file."""
    path = directory / "practice.json"
    return dict(read_values(path)) if path.exists() else {}


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The rows of a JSONL file; raises `ConfigError`."""
    try:
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    except ValueError as error:
        raise ConfigError(f"{path} is damaged ({error}); run that job again") from None


def read_values(path: Path) -> Any:
    """What a JSON file holds; raises `ConfigError`."""
    try:
        return json.loads(path.read_bytes())
    except ValueError as error:
        raise ConfigError(f"{path} is damaged ({error}); run that job again") from None


def read_films(directory: Path) -> "list[Film]":
    """The film strips of a sweep."""
    from safedojo_ros.evaluation.compare.report import Film

    return [Film(path.parent.name, path.read_bytes()) for path in directory.glob("*/film.png")]


def read_named(text: str) -> "MethodRun":
    """The run that METHOD=JSON names."""
    from safedojo_ros.evaluation.compare.comparison import MethodRun, read_evaluation

    method, equals, path = text.partition("=")
    if not (method and equals and path):
        raise ConfigError(f"'{text}' is not METHOD=JSON")
    results, max_steps = read_evaluation(Path(path))
    return MethodRun(method, 0, results, max_steps)
