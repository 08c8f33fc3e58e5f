"""Methods by training seeds, as resumable jobs, several at a time.

Each job trains with one method and seed and evaluates the result on held-out seeds, in
OUT/<method>-seed<k>. Methods: those of `safedojo practice`; safedojo-limit0.1 or safevla-limit0.1
(any number), with another limit of violations; <method>-gate, -detour and -cbf, the policy of
<method> behind the safety head's gate, the gate with detours or the CBF-QP filter; and without
training base, base-gate, base-detour, aegis (behind the CBF-QP filter) and aegis-oracle.

A job with an evaluation is done and is skipped; running a killed sweep again resumes it. `safedojo
report --sweep OUT` compares the methods. Exit code 3: some job was refused by a check or gate; 2:
some job failed; the others are done. 130: interrupted.
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
from safedojo_ros.pipeline.runs import INTERRUPTED
from safedojo_ros.pipeline.sweep import Sweep, run_sweep


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add_options(parser, Sweep)
    add_json(parser.add_argument)
    add_recipe_options(parser, threads=False)


def run(args: argparse.Namespace) -> int:
    """Run the jobs that are left; returns the largest exit code of a job."""
    interrupt_on_signal()
    try:
        codes = run_sweep(recipe_of(args, "practice"), from_options(Sweep, args))
    except Interrupted:
        print(f"interrupted; the same command resumes in {args.out}", file=sys.stderr)
        return INTERRUPTED
    write_json(args.json, codes)
    return max(codes.values(), default=0)
