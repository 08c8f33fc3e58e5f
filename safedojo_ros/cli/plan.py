"""Say what training a preset takes before it runs: parameters, memory and time of each stage.

The real networks are made without numbers, and one gradient step of each is counted. Memory is
weights, AdamW's moments, the average of the weights, and gradients or what the forward pass keeps,
whichever is more; the program itself (about half a GB) and the data are not in it. Times are a
model: see docs/scaling.md. Exit code 3: a stage does not fit.
"""

import argparse

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from safedojo_ros.cli.options import (
    add_json,
    add_options,
    add_recipe_options,
    from_options,
    recipe_of,
    write_json,
)
from safedojo_ros.pipeline.plan import GB, Plan, StagePlan, plan

NOT_PASSED = 3
MB = 10**6


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add_options(parser, Plan)
    add_json(parser.add_argument)
    add_recipe_options(parser, threads=False)


def run(args: argparse.Namespace) -> int:
    """Print the plan; returns 3 where a stage does not fit. Raises `ConfigError`."""
    asked = from_options(Plan, args)
    device = asked.device()
    stages = plan(recipe_of(args), asked, device)
    console = Console()
    count = f"{asked.gpus} GPUs, each " if asked.gpus > 1 else ""
    console.print(table(stages, f"{args.preset} on {count}{device.name}"))
    for stage in stages:
        if not stage.fits:
            console.print(
                f"{stage.name}: a batch of {stage.batch} needs {stage.footprint.memory / GB:.1f} "
                f"GB of {device.memory / GB:.1f}; a batch of {stage.largest} would fit",
                soft_wrap=True,
            )
    write_json(args.json, [stage.to_json() for stage in stages])
    return 0 if all(stage.fits for stage in stages) else NOT_PASSED


def table(stages: list[StagePlan], title: str) -> Table:
    """A row for each stage, 80 columns wide."""
    made = Table(
        title=f"{title}; memory in MB", box=SIMPLE, padding=0, pad_edge=False, show_edge=False
    )
    made.add_column("stage", no_wrap=True)
    for column in ("param.", "weights", "grad.", "Adam", "kept", "total", "time"):
        made.add_column(column, justify="right", no_wrap=True)
    made.add_column("bound by", no_wrap=True)
    for stage in stages:
        counted = stage.footprint
        parts = (
            counted.weights + counted.average,
            counted.gradients,
            counted.optimiser,
            counted.activations + counted.workspace,
            counted.memory,
        )
        made.add_row(
            stage.name,
            f"{counted.parameters / 1e6:.1f} M",
            *(f"{part / MB:.0f}" for part in parts),
            duration(stage.seconds),
            stage.bound,
        )
    return made


def duration(seconds: float) -> str:
    """Hours, minutes or seconds."""
    if seconds >= 3600:
        return f"{seconds / 3600:.1f} h"
    return f"{seconds / 60:.0f} min" if seconds >= 60 else f"{seconds:.0f} s"
