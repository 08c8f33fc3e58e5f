"""`safedojo report`: a comparison of methods, as JSON and as one self-contained page.

Reads the directories of `safedojo sweep`, <method>-seed<k>/ with evaluation.json and, if there are,
practice.json, metrics.jsonl and film.png; or single evaluations as METHOD=JSON.
"""

import argparse
import json
from pathlib import Path

from safedojo_ros.checkpoints.provenance import made_here
from safedojo_ros.cli.options import add_json, write_json
from safedojo_ros.cli.sweep_runs import read_films, read_named, read_sweep
from safedojo_ros.core.errors import ConfigError
from safedojo_ros.core.files import write_whole
from safedojo_ros.learning.rl.methods import ABLATIONS


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
    add_json(parser.add_argument)


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
    write_whole(args.out / "comparison.html", comparison_page(comparison, films, made_here()))
    for row in comparison["table"]:
        rates = ", ".join(f"{n.upper()} {100 * row[n]['value']:.1f}" for n in ("tsr", "car", "ssr"))
        print(f"{row['method']} level {row['level']} ({row['episodes']} episodes): {rates}")
    print(f"report in {args.out / 'comparison.html'}")
    return 0
