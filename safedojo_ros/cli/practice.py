"""Make a policy safer by constrained GRPO in imagination, or by one of its baselines.

Methods: safedojo (constrained GRPO in imagination), wmpo (unconstrained, in imagination), safevla
(constrained PPO in the simulator), grpo and ppo (unconstrained, in the simulator), and two
ablations of safedojo: no-task (cost without reward) and fixed-multiplier. Exit code 0: done; 3: a
check or gate failed, or imagination and measurement differ too much; the last line says which.
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
from safedojo_ros.pipeline.interruption import stop_on_signal
from safedojo_ros.pipeline.practice import RESULT_FILE, PracticeRequest, practice
from safedojo_ros.pipeline.publication import PublicationRefused
from safedojo_ros.pipeline.runs import DONE, NOT_PASSED


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add_options(parser, PracticeRequest)
    add_json(parser.add_argument)
    add_recipe_options(parser)


def run(args: argparse.Namespace) -> int:
    """Train; writes OUT/practice.json, and the best policy into OUT/policies."""
    from safedojo_ros.learning.rl.practice import PracticeRefused

    try:
        made = practice(
            recipe_of(args, "practice"), from_options(PracticeRequest, args), stop_on_signal()
        )
    except PracticeRefused as refused:
        print(f"no practice: {refused}", file=sys.stderr)
        return NOT_PASSED
    except PublicationRefused as refused:
        print(refused, file=sys.stderr)
        return NOT_PASSED
    write_json(args.json, args.out / RESULT_FILE)
    return DONE if made.outcome.completed else NOT_PASSED
