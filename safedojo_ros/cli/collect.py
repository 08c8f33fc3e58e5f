"""Record episodes of scripted experts or of a policy, as a data set."""

import argparse

from safedojo_ros.cli.options import add_options, from_options
from safedojo_ros.cli.tables import print_episodes
from safedojo_ros.data.lerobot.reader import EpisodeReader
from safedojo_ros.pipeline.collect import Collection, collect


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add_options(parser, Collection)


def run(args: argparse.Namespace) -> int:
    """Record what is asked for; raises `ConfigError` or `DatasetError`."""
    made = collect(from_options(Collection, args))
    print_episodes(EpisodeReader(made.data).rows)
    return 0
