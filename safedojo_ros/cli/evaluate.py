"""`safedojo evaluate`: TSR, CAR, SSR and ETS of a policy on held-out seeds, without ROS.

SafeLIBERO has 50 initial states for each task and level, which a seed numbers; nothing is held out.
"""

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from safedojo_ros.cli.collect import chosen_levels, chosen_tasks
from safedojo_ros.cli.filters import (
    add_filter_options,
    filtered_policy,
    gate_figures,
    gate_sentence,
)
from safedojo_ros.core.errors import ConfigError
from safedojo_ros.evaluation.film import film_strip, write_picture
from safedojo_ros.evaluation.filters.gate import GatedPolicy
from safedojo_ros.evaluation.latency import LatePolicy
from safedojo_ros.evaluation.protocol import (
    LEVEL_NAMES,
    EvaluationReport,
    Figures,
    Trial,
    evaluate,
    evaluate_expert,
    make_trials,
    state_trials,
)
from safedojo_ros.evaluation.statistics import Estimate
from safedojo_ros.worlds.safelibero.library import SAFELIBERO_ROOT
from safedojo_ros.worlds.seeds import SPLITS, split_seeds
from safedojo_ros.worlds.tabletop.experts import Style
from safedojo_ros.worlds.tabletop.tasks import TASKS
from safedojo_ros.worlds.vector import VectorWorld
from safedojo_ros.worlds.world import WORLDS, known_tasks, step_limit

if TYPE_CHECKING:
    from safedojo_ros.models.policy import Policy

LABEL_WIDTH = 16
"""Longest name of a task, characters, that need not be broken in a table."""

EXPERTS = ("expert:direct", "expert:safe")


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    judged = parser.add_mutually_exclusive_group()
    judged.add_argument(
        "--checkpoint", default="latest", help="name, id or directory (default: latest)"
    )
    judged.add_argument("--policy", choices=EXPERTS, help="judge a scripted expert instead")
    parser.add_argument("--store", type=Path, help="root of the checkpoint store")
    parser.add_argument(
        "--world",
        choices=WORLDS,
        default="tabletop",
        help="the embedded one (default) or a suite of SafeLIBERO, whose scenes are the user's "
        f"own: {SAFELIBERO_ROOT} names their folder; 200 episodes at each level are its protocol",
    )
    parser.add_argument("--level", default="all", help="0, I, II, several by comma, or all")
    parser.add_argument(
        "--tasks", default="all", help=f"all, or of the world's; tabletop: {', '.join(TASKS)}"
    )
    parser.add_argument("--episodes", type=int, default=100, help="at each level, tasks in turn")
    parser.add_argument("--seed", type=int, default=0, help="first seed within the split")
    parser.add_argument("--split", choices=tuple(SPLITS), default="evaluation")
    add_filter_options(parser, oracle=True)
    parser.add_argument("--execute", type=int, help="actions of a chunk between two inferences")
    parser.add_argument(
        "--latency",
        type=int,
        default=0,
        metavar="STEPS",
        help="play chunks as the robot does, this many control steps late (default: the world "
        "waits)",
    )
    parser.add_argument(
        "--max-steps", type=int, help="control steps an episode (default: the world's, 150 to 550)"
    )
    parser.add_argument("--batch", type=int, default=8, help="worlds side by side")
    parser.add_argument("--json", type=Path, help="write the figures and every episode here")
    parser.add_argument(
        "--against", type=Path, metavar="JSON", help="paired tests with an earlier evaluation"
    )
    parser.add_argument(
        "--film", type=Path, metavar="PNG", help="draw the first episode as a film strip"
    )


def run(args: argparse.Namespace) -> int:
    """Evaluate and print the table; raises `ConfigError` or `CheckpointError`."""
    for name, least in (
        ("episodes", 1),
        ("batch", 1),
        ("max_steps", 1),
        ("execute", 1),
    ):
        value = getattr(args, name)
        if value is not None and value < least:
            raise ConfigError(f"--{name.replace('_', '-')} is {value}, expected at least {least}")
    if args.latency < 0:
        raise ConfigError(f"--latency is {args.latency}, expected 0 or more control steps")
    if args.film and args.filter == "cbf-oracle":
        raise ConfigError("--film plays the policy alone, without the oracle before its world")
    if args.filter in ("cbf", "cbf-oracle") and args.world != "tabletop":
        raise ConfigError(f"--filter {args.filter} knows the tabletop's obstacles only")
    max_steps = args.max_steps or step_limit(args.world)
    trials = chosen_trials(args)
    settings: dict[str, Any] = {
        "split": args.split,
        "first_seed": args.seed,
        "episodes": args.episodes,
    }
    policy = None if args.policy else _load(args)
    console = Console()
    columns = (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(TextColumn("evaluating"), *columns, console=console) as progress:
        bar = progress.add_task("", total=len(trials))
        common: dict[str, Any] = {
            "settings": settings,
            "progress": lambda result: progress.advance(bar),
        }
        if policy is None:
            style: Style = "safe" if args.policy == "expert:safe" else "direct"
            report = evaluate_expert(style, trials, world=args.world, max_steps=max_steps, **common)
        else:
            if args.filter:
                settings["filter"] = args.filter
                policy = filtered_policy(policy, args)
            # a head may see more than its policy
            seer = policy.safety if isinstance(policy, GatedPolicy) else policy
            cameras = tuple(policy.cameras)
            vector = VectorWorld(seer.image_size, max_steps, cameras, world=args.world)
            if args.filter == "cbf-oracle":
                from safedojo_ros.evaluation.filters.cbf import CbfWorld

                vector = cast("VectorWorld", CbfWorld(vector))
            played, execute = policy, args.execute
            if args.latency:
                late = LatePolicy(policy, args.latency, execute)
                played, execute = cast("Policy", late), late.execute
                settings["latency"] = args.latency
            report = evaluate(played, trials, vector, execute=execute, batch=args.batch, **common)
    console.print(figures_table(report))
    if isinstance(policy, GatedPolicy):
        gate = report.settings["gate"] = gate_figures(policy)
        console.print(gate_sentence(gate), soft_wrap=True)
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps(report.to_json(), indent=1) + "\n")
        console.print(f"written to {args.json}", soft_wrap=True)
    if args.against:
        for sentence in paired_sentences(report, args.against):
            console.print(sentence, soft_wrap=True)
    if args.film and policy is not None:
        args.film.parent.mkdir(parents=True, exist_ok=True)
        stage = VectorWorld(policy.image_size, max_steps, tuple(policy.cameras), world=args.world)
        strip = film_strip(policy, trials[0], stage, args.execute)
        write_picture(str(args.film), strip)
        console.print(f"film strip in {args.film}", soft_wrap=True)
    return 0


def chosen_trials(args: argparse.Namespace) -> list[Trial]:
    """What --world, --level, --tasks and the seeds ask for; raises `ConfigError`."""
    seeds = split_seeds(args.split, args.seed, args.episodes)
    levels = chosen_levels(args.level)
    if args.world == "tabletop":
        return make_trials(seeds, chosen_tasks(args.tasks), levels)
    tasks = {}
    for level in levels:
        known = known_tasks(args.world, level)
        if known:
            tasks[level] = chosen_tasks(args.tasks, known)
        elif args.level != "all":
            raise ConfigError(f"{args.world} has no Level {LEVEL_NAMES[level]}; it has I and II")
    return state_trials(seeds, tasks)


def _load(args: argparse.Namespace) -> "Policy":
    from safedojo_ros.checkpoints.names import find_checkpoint
    from safedojo_ros.models.loading import load_policy

    return load_policy(find_checkpoint("policy", args.checkpoint, args.store))


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


def figures_table(report: EvaluationReport) -> Table:
    """Cells, then levels, then everything; contact: steps an episode; moved: the obstacle, mm."""
    title = f"{report.policy} on {report.world}, 95 % intervals"
    table = Table(title=title, box=box.SIMPLE_HEAD, padding=0)
    table.add_column("task")
    table.add_column("level", no_wrap=True)
    for heading in ("n", "TSR %", "CAR %", "SSR %", "ETS", "contact", "moved"):
        table.add_column(heading, justify="right", no_wrap=True)
    labels = task_labels(sorted({task for task, _ in report.cells}))
    for (task, level), cell in report.cells.items():
        table.add_row(labels[task], LEVEL_NAMES[level], *_row(cell))
    table.add_section()
    for level, figures in report.levels.items():
        table.add_row("all", LEVEL_NAMES[level], *_row(figures))
    if len(report.levels) > 1:
        table.add_row("all", "all", *_row(report.overall))
    return table


def task_labels(tasks: list[str]) -> dict[str, str]:
    """What to call each task where there is little room: without the words that all begin and end
    with, and as words where that is still long.
    """
    parts = [task.split("_") for task in tasks]
    shortest = min(map(len, parts)) if len(parts) > 1 else 1
    begin, end = 0, 0
    while begin < shortest - 1 and len({part[begin] for part in parts}) == 1:
        begin += 1
    while end < shortest - 1 - begin and len({part[-1 - end] for part in parts}) == 1:
        end += 1
    labels = ["_".join(part[begin : len(part) - end]) for part in parts]
    words = [text if len(text) <= LABEL_WIDTH else text.replace("_", " ") for text in labels]
    return dict(zip(tasks, words, strict=True))


def _row(figures: Figures) -> list[str]:
    rates = [_percent(e) for e in (figures.tsr, figures.car, figures.ssr)]
    return [
        str(figures.episodes),
        *rates,
        f"{figures.ets.value:.0f}",
        f"{figures.contact_steps.value:.1f}",
        f"{1000 * figures.displacement.value:.1f}",
    ]


def _percent(rate: Estimate) -> str:
    return f"{100 * rate.value:.0f} {100 * rate.low:.0f}-{100 * rate.high:.0f}"
