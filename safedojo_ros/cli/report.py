"""`safedojo report`: a comparison of methods, as JSON and as one self-contained page.

Reads the directories of `safedojo sweep`, <method>-seed<k>/ with evaluation.json and, if there are,
practice.json, metrics.jsonl and film.png; or single evaluations as METHOD=JSON.
"""

import argparse
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safedojo_ros.cli.options import add_json, write_json
from safedojo_ros.core.errors import ConfigError
from safedojo_ros.core.files import write_whole
from safedojo_ros.learning.rl.methods import ABLATIONS

if TYPE_CHECKING:
    from safedojo_ros.evaluation.compare.comparison import MethodRun
    from safedojo_ros.evaluation.compare.report import Film

RUN_NAME = re.compile(r"(?P<method>[A-Za-z0-9_+.-]+?)(-seed(?P<seed>\d+))?")
BEHIND = re.compile("-(gate|detour|cbf)-seed")
"""In the name of a run that evaluates the policy of another run."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--sweep", type=Path, nargs="+", default=[], help="directories of runs")
    parser.add_argument(
        "--evaluation", nargs="+", default=[], metavar="METHOD=JSON", help="single evaluations"
    )
    parser.add_argument(
        "--baseline",
        default="base",
        help="what methods are compared with",
    )
    parser.add_argument("--out", type=Path, required=True, help="directory of the report")
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    """Write OUT/comparison.json and OUT/comparison.html."""
    from safedojo_ros.evaluation.compare.comparison import compare
    from safedojo_ros.evaluation.compare.report import comparison_page

    runs = [r for directory in args.sweep for r in read_sweep(directory)]
    runs += [read_named(text) for text in args.evaluation]
    if not runs:
        raise ConfigError("nothing to report; give --sweep or --evaluation")
    comparison = compare(runs, args.baseline, ABLATIONS)
    args.out.mkdir(parents=True, exist_ok=True)
    write_whole(args.out / "comparison.json", json.dumps(comparison, indent=1) + "\n")
    write_json(args.json, comparison)
    films = [film for directory in args.sweep for film in read_films(directory)]
    write_whole(args.out / "comparison.html", comparison_page(comparison, films))
    for row in comparison["table"]:
        rates = ", ".join(f"{n.upper()} {100 * row[n]['value']:.1f}" for n in ("tsr", "car", "ssr"))
        print(f"{row['method']} level {row['level']} ({row['episodes']} episodes): {rates}")
    print(f"report in {args.out / 'comparison.html'}")
    return 0


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
        [json.loads(line) for line in metrics.open(encoding="utf-8")] if metrics.exists() else [],
        read_practice(directory.parent / BEHIND.sub("-seed", directory.name)),
    )


def read_practice(directory: Path) -> dict[str, Any]:
    """Contents of practice.json; empty without such a file."""
    path = directory / "practice.json"
    values: dict[str, Any] = json.loads(path.read_bytes()) if path.exists() else {}
    return values


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
