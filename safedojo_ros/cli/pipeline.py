"""From demonstrations to a published policy, every stage in one command.

Stages: demonstrations; the base policy; a safe policy, fine-tuned on the demonstrations without
contact (these three are left out with --base); rollouts of the base policy; held-out rollouts;
autoencoder and safety head; world model; success classifier; the safety head again, on imagined
states, too; validation; practice; evaluation; publication. Practice starts from the safe policy and
keeps imitating the demonstrations (settings: practice.anchor). A finished stage is never repeated:
the same command resumes a pipeline that was killed. Intermediate checkpoints stay in OUT/store.

Exit code 0: done; 3: a gate was not passed; 2: a fault; 130: interrupted, run it again to resume.
OUT/result.json says which id was published, or why none was. It and the last line of output say how
long each stage took.
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
from safedojo_ros.pipeline.interruption import Interrupted, interrupt_on_signal
from safedojo_ros.pipeline.ledger import RESULT_FILE
from safedojo_ros.pipeline.runs import DONE, INTERRUPTED, NOT_PASSED
from safedojo_ros.pipeline.stages import PipelineRequest, run_pipeline


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add_options(parser, PipelineRequest)
    add_json(parser.add_argument)
    add_recipe_options(parser)


def run(args: argparse.Namespace) -> int:
    """Run the stages that are left."""
    request = from_options(PipelineRequest, args)
    try:
        made = run_pipeline(recipe_of(args), request, interrupt_on_signal())
    except (Interrupted, KeyboardInterrupt):
        print(f"interrupted; the same command resumes in {args.out}", file=sys.stderr)
        return INTERRUPTED
    write_json(args.json, args.out / RESULT_FILE)
    if not made.passed:
        print(f"not published: {made.reason}", file=sys.stderr)
        return NOT_PASSED
    return DONE
