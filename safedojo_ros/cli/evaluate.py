"""Measure TSR, CAR, SSR and ETS of a policy on held-out seeds, without ROS.

SafeLIBERO has 50 initial states for each task and level, which a seed numbers; nothing is held out.
"""

import argparse
from pathlib import Path

from rich.console import Console

from safedojo_ros.cli.options import add_options, from_options
from safedojo_ros.cli.tables import figures_table
from safedojo_ros.evaluation.protocol import EvaluationReport
from safedojo_ros.pipeline.evaluate import Evaluation, evaluate
from safedojo_ros.pipeline.filters import gate_sentence


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add_options(parser, Evaluation)
    parser.add_argument(
        "--against", type=Path, metavar="JSON", help="paired tests with an earlier evaluation"
    )


def run(args: argparse.Namespace) -> int:
    """Evaluate and print the table; raises `ConfigError` or `CheckpointError`."""
    console, report = Console(), evaluate(from_options(Evaluation, args))
    console.print(figures_table(report))
    if "gate" in report.settings:
        console.print(gate_sentence(report.settings["gate"]), soft_wrap=True)
    if args.json:
        console.print(f"written to {args.json}", soft_wrap=True)
    if args.against:
        for sentence in paired_sentences(report, args.against):
            console.print(sentence, soft_wrap=True)
    if args.film:
        console.print(f"film strip in {args.film}", soft_wrap=True)
    return 0


def paired_sentences(report: EvaluationReport, other: Path) -> list[str]:
    """How `report` differs from the evaluation in `other`, on the episodes that both have."""
    from safedojo_ros.evaluation.compare.comparison import paired_tests, read_evaluation

    sentences = []
    for rate, test in paired_tests(report.results, read_evaluation(other)[0]).items():
        difference = test["difference"]
        sentences.append(
            f"{rate.upper()} {100 * difference['value']:+.1f} points "
            f"({100 * difference['low']:+.1f} to {100 * difference['high']:+.1f}) against "
            f"{other.name} on {test['episodes']} common episodes, p = {test['p_value']:.3g}"
        )
    return sentences
