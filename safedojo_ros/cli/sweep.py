"""Methods by training seeds, as resumable jobs, some at a time.

Each job trains with one method and seed and evaluates the outcome on held-out seeds, in
OUT/<method>-seed<k>. Methods: those of `safedojo practice`; safedojo-limit0.1 (any limit, safevla
too), another limit of violations; <method>-gate, -detour and -cbf, what <method> has learned behind
the safety head's gate, behind the gate with detours or behind the CBF-QP filter (aegis), which
train nothing anew; and without practice base, aegis, aegis-oracle, base-gate and base-detour.

What has an evaluation is done and is skipped; a killed sweep goes on when it is called again.
`safedojo report --sweep OUT` shows them beside each other. Exit code 3: some job was refused by a
check or gate; 2: some job failed; the others are done. 130: interrupted.
"""

import argparse
import sys

from safedojo_ros.cli.options import add_options, add_recipe_options, from_options, recipe_of
from safedojo_ros.pipeline.interruption import Interrupted, interrupt_on_signal
from safedojo_ros.pipeline.runs import INTERRUPTED
from safedojo_ros.pipeline.sweep import Sweep, run_sweep


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add_options(parser, Sweep)
    add_recipe_options(parser, threads=False)


def run(args: argparse.Namespace) -> int:
    """Run what is left; the worst exit code of a job."""
    interrupt_on_signal()
    try:
        codes = run_sweep(recipe_of(args, "practice"), from_options(Sweep, args))
    except Interrupted:
        print(f"interrupted; the same command goes on in {args.out}", file=sys.stderr)
        return INTERRUPTED
    return max(codes.values(), default=0)
