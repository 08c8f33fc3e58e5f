"""The table of subcommands and their parsers; a command's module is imported only when it runs."""

import importlib
from typing import NamedTuple

from safedojo_ros.cli.help import DojoParser, program, teach


class Command(NamedTuple):
    """A subcommand; `safedojo_ros/cli/<name>.py` offers `configure(parser)` and `run(args)`.

    The module of `some-name` is `some_name.py`. example: what follows the program's name; shown:
    the options of the short help, beside those that are needed; none: all.
    """

    name: str
    summary: str
    example: str
    shown: tuple[str, ...] = ()


COMMANDS = (
    Command(
        "demo",
        "run the whole robot loop on the embedded world",
        "demo --episodes 4 --video seen.mp4",
        ("--headless", "--episodes", "--json", "--level", "--task", "--policy", "--video",
         "--record", "--practice"),
    ),
    Command("view", "look at a running stack in the browser", "view --record monday.rrd"),
    Command(
        "collect",
        "record episodes of the scripted experts, or of a policy",
        "collect --out runs/demos --episodes 400 --style mixed --noise 0.015",
        ("--episodes", "--level", "--tasks", "--style", "--policy", "--noise", "--linger",
         "--only-successes", "--resume"),
    ),
    Command(
        "bag-to-dataset",
        "turn recorded bags into episodes to train on",
        "bag-to-dataset bags --out runs/robot",
    ),
    Command("review", "confirm or correct contact labels in the browser", "review runs/robot"),
    Command(
        "train",
        "train a policy, safety head, world model or success classifier",
        "train policy --data runs/demos --out runs/policy",
    ),
    Command(
        "practice",
        "train a policy to be safer, in imagination or in the simulator",
        "practice --data runs/rollouts --demonstrations runs/demos --out runs/practice",
        ("--method", "--base", "--data", "--demonstrations", "--preset", "--set",
         "--publish"),
    ),
    Command(
        "validate",
        "measure how far an imagined world can be believed",
        "validate --data runs/held --policy latest --out runs/fidelity",
        ("--data", "--policy", "--world-model", "--success", "--safety", "--preset", "--device"),
    ),
    Command(
        "imagine",
        "a video of a recorded episode beside its imagined one",
        "imagine --data runs/demos --episode 3 --out imagined.mp4",
    ),
    Command(
        "pipeline",
        "every stage in one command, up to a published policy",
        "pipeline --preset tiny --out runs/all --publish",
        ("--preset", "--set", "--data", "--base", "--method", "--device", "--publish"),
    ),
    Command("plan", "say what memory and time training takes", "plan --preset small --gpus 1"),
    Command(
        "evaluate",
        "measure success and safety of a checkpoint, with intervals",
        "evaluate --level II --episodes 200 --filter detour --json ii.json",
        ("--checkpoint", "--policy", "--level", "--tasks", "--episodes", "--filter", "--instant",
         "--json", "--against", "--workers"),
    ),
    Command(
        "sweep",
        "methods by training seeds, as resumable jobs",
        "sweep --methods base,safedojo --data runs/rollouts --out runs/sweep",
        ("--methods", "--seeds", "--data", "--base", "--episodes", "--level", "--parallel",
         "--preset"),
    ),
    Command(
        "report",
        "methods beside each other, with intervals and paired tests",
        "report --sweep runs/sweep --out runs/report",
    ),
    Command(
        "checkpoint", "list, show, publish and roll back checkpoints", "checkpoint list policy"
    ),
    Command(
        "fci-emulator",
        "the embedded arm on the network, for clients of a real Franka",
        "fci-emulator --address 127.0.0.10",
    ),
    Command(
        "doctor",
        "say what is present, missing or in a wrong version here",
        "doctor --robot 172.16.0.2",
    ),
)  # fmt: skip


def command_parser(command: Command) -> DojoParser:
    """The parser of one command; imports its module."""
    module = importlib.import_module(f"safedojo_ros.cli.{command.name.replace('-', '_')}")
    parser = DojoParser(
        prog=f"{program()} {command.name}", description=module.__doc__ or command.summary
    )
    parser.set_defaults(run=module.run)
    module.configure(parser)
    teach(parser, command.example, *command.shown)
    return parser
