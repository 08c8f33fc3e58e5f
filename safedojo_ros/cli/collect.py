"""Record episodes of scripted experts or of a policy, as a data set."""

import argparse

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from safedojo_ros.cli.options import add_options, from_options
from safedojo_ros.cli.tables import summary_table
from safedojo_ros.data.lerobot.reader import EpisodeReader
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
