"""The table of subcommands and their parsers; a command's module is imported only when it runs."""

import argparse
import importlib
from typing import NamedTuple


class Command(NamedTuple):
    """A subcommand; `safedojo_ros/cli/<name>.py` offers `configure(parser)` and `run(args)`.

    The module of `some-name` is `some_name.py`.
    """

    name: str
    summary: str


COMMANDS = (
    Command("demo", "run the whole robot loop on the embedded world"),
    Command("collect", "record episodes of the scripted experts, or of a policy"),
    Command("bag-to-dataset", "turn recorded bags into episodes to train on"),
    Command("train", "train a policy, safety head, world model or success classifier"),
    Command("practice", "train a policy to be safer, in imagination or in the simulator"),
    Command("validate", "measure how far an imagined world can be believed"),
    Command("imagine", "a video of a recorded episode beside its imagined one"),
    Command("pipeline", "every stage in one command: from demonstrations to a published policy"),
    Command("evaluate", "measure success and safety of a checkpoint, with intervals"),
    Command("sweep", "methods by training seeds, as resumable jobs"),
    Command("report", "methods beside each other, with intervals and paired tests"),
    Command("checkpoint", "list, show, publish and roll back checkpoints"),
    Command(
        "fci-emulator", "the embedded world's arm on the network, for clients of a real Franka"
    ),
    Command("doctor", "say what is present, missing or in a wrong version here"),
)


def command_parser(command: Command) -> argparse.ArgumentParser:
    """The parser of one command; imports its module."""
    module = importlib.import_module(f"safedojo_ros.cli.{command.name.replace('-', '_')}")
    parser = argparse.ArgumentParser(
        prog=f"safedojo {command.name}", description=module.__doc__ or command.summary
    )
    parser.set_defaults(run=module.run)
    module.configure(parser)
    return parser
