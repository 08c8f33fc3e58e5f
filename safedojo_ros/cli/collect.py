"""Record episodes of scripted experts or of a policy, as a data set."""

import argparse

from rich.console import Console, JustifyMethod
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from safedojo_ros.cli.options import add_options, from_options
from safedojo_ros.data.lerobot.reader import EpisodeReader, EpisodeRow
from safedojo_ros.pipeline.collect import Collection, collect


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add_options(parser, Collection)


def run(args: argparse.Namespace) -> int:
    """Record what is asked for; raises `ConfigError` or `DatasetError`."""
    console = Console()
    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[kept]} kept"))
    recording = TextColumn("recording")
    with Progress(recording, *columns, TimeRemainingColumn(), console=console) as progress:
        bar = progress.add_task("", total=args.episodes, kept=0)

        def show(played: int, kept: int, total: int) -> None:
            progress.update(bar, completed=played, total=total, kept=kept)

        made = collect(from_options(Collection, args), show)
    console.print(summary_table(EpisodeReader(made.data).rows))
    console.print(
        f"{made.episodes} episodes, {made.frames} steps in {made.data}; dropped {made.dropped}"
    )
    return 0


def summary_table(rows: list[EpisodeRow]) -> Table:
    """Counts of successes, collisions and contacts by source and level."""
    table = Table(title="episodes")
    for heading in ("source", "level", "episodes", "successes", "collisions", "contacts", "steps"):
        side: JustifyMethod = "left" if heading == "source" else "right"
        table.add_column(heading, justify=side, overflow="fold")
    for source, level in sorted({(r.source, r.level) for r in rows}):
        cell = [r for r in rows if (r.source, r.level) == (source, level)]
        table.add_row(
            source,
            str(level),
            str(len(cell)),
            str(sum(r.success for r in cell)),
            str(sum(r.collided for r in cell)),
            str(sum(r.contact_steps > 0 for r in cell)),
            f"{sum(r.length for r in cell) / len(cell):.0f}",
        )
    return table
