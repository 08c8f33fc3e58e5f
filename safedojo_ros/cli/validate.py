"""How far a world model, its success classifier and safety head can be trusted.

Replays held-out episodes in imagination, compares each figure with its bar, and writes
fidelity.json, fidelity.html and details.json (for `safedojo checkpoint publish world_model
DIRECTORY --details`). A missed bar is one sentence on stderr, and exit code 3.
"""

import argparse
import sys

from safedojo_ros.cli.options import (
    add_json,
    add_options,
    add_recipe_options,
    from_options,
    recipe_of,
    write_json,
)
from safedojo_ros.pipeline.validate import REPORT, Validation, validate

MISSED = 3
"""Exit code where a bar is missed."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add_options(parser, Validation)
    add_json(parser.add_argument)
    add_recipe_options(parser)


def run(args: argparse.Namespace) -> int:
    """Make the report; returns 0, or 3 where a bar is missed."""
    made = validate(recipe_of(args, "validation"), from_options(Validation, args))
    write_json(args.json, args.out / REPORT)
    for verdict in made.missed:
        print(f"safedojo validate: bar missed: {verdict.sentence}", file=sys.stderr)
    return MISSED if made.missed else 0
