"""Make a policy safer by constrained GRPO in imagination, or by one of its baselines.

Methods: safedojo (imagination, constrained), wmpo (imagination, unconstrained), safevla (simulator,
constrained PPO), grpo and ppo (simulator, unconstrained), and two ablations of safedojo, no-task
(cost alone drives) and fixed-multiplier. Exit code 0: done; 3: a check or gate failed, or
imagination and measurement parted, and what was said tells which.
"""

import argparse
import sys

from safedojo_ros.cli.options import add_options, add_recipe_options, from_options, recipe_of
from safedojo_ros.pipeline.interruption import stop_on_signal
from safedojo_ros.pipeline.practice import PracticeRequest, practice
from safedojo_ros.pipeline.runs import DONE, NOT_PASSED


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add_options(parser, PracticeRequest)
    add_recipe_options(parser)


def run(args: argparse.Namespace) -> int:
    """Train; the outcome lies in OUT/practice.json, the best policy in OUT/policies."""
    from safedojo_ros.learning.rl.practice import PracticeRefused

    try:
        made = practice(
            recipe_of(args, "practice"), from_options(PracticeRequest, args), stop_on_signal()
        )
    except PracticeRefused as refused:
        print(f"no practice: {refused}", file=sys.stderr)
        return NOT_PASSED
    return DONE if made.outcome.completed else NOT_PASSED
