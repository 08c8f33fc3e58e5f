"""From demonstrations to a published policy, every stage in one command.

Stages: demonstrations, policy, the policy fine-tuned on those demonstrations that touch nothing
(all three left out with --base), rollouts of the first policy, held-out rollouts, autoencoder and
safety head, world model, success classifier, the head anew on imagined states, too, validation,
practice, evaluation, publication. Practice begins with the fine-tuned policy, and goes on imitating
the same demonstrations (practice.anchor). Each stage is what its own command does; a finished one
is never repeated, so the same command goes on after a kill. Intermediate checkpoints stay in
OUT/store.

Exit code 0: done; 3: a gate was not passed; 2: a fault; 130: interrupted, run it again to go on.
OUT/result.json says which id was published, or why none was; the last line, and result.json, how
long each stage took, over all calls.
"""

import argparse
import sys

from safedojo_ros.cli.options import add_options, add_recipe_options, from_options, recipe_of
from safedojo_ros.pipeline.interruption import Interrupted, interrupt_on_signal
from safedojo_ros.pipeline.runs import DONE, INTERRUPTED, NOT_PASSED
from safedojo_ros.pipeline.stages import PipelineRequest, run_pipeline


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add_options(parser, PipelineRequest)
    add_recipe_options(parser)


def run(args: argparse.Namespace) -> int:
    """Do what is left to do."""
    request = from_options(PipelineRequest, args)
    try:
        made = run_pipeline(recipe_of(args), request, interrupt_on_signal())
    except (Interrupted, KeyboardInterrupt):
        print(f"interrupted; the same command goes on in {args.out}", file=sys.stderr)
        return INTERRUPTED
    if not made.passed:
        print(f"not published: {made.reason}", file=sys.stderr)
        return NOT_PASSED
    return DONE
