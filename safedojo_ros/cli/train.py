"""Train a policy, safety head, world model or success classifier; each can be resumed."""

import argparse
from collections.abc import Callable
from typing import Any, NamedTuple

from safedojo_ros.cli.help import teach
from safedojo_ros.cli.options import add_options, add_recipe_options, from_options, recipe_of
from safedojo_ros.pipeline import training


class Stage(NamedTuple):
    """A stage; request: what `train` takes beside the recipe; reads: sections of the recipe."""

    request: type[training.Training]
    train: Callable[..., Any]
    reads: tuple[str, ...]
    summary: str


STAGES = {
    "policy": Stage(
        training.TrainPolicy, training.train_policy, ("policy",), "imitate recorded episodes"
    ),
    "safety": Stage(
        training.TrainSafety,
        training.train_safety,
        ("safety", "autoencoder"),
        "fit the frame autoencoder, then the safety head, to recorded contacts; with "
        "--world-model only the head, also to imagined states",
    ),
    "seen": Stage(
        training.TrainSeen,
        training.train_seen,
        ("safety",),
        "set by recorded episodes which images a trained safety head judges by",
    ),
    "world-model": Stage(
        training.TrainWorldModel,
        training.train_world_model,
        ("world_model",),
        "fit the video world model, over the autoencoder of a safety checkpoint",
    ),
    "success": Stage(
        training.TrainSuccess,
        training.train_success,
        ("success", "validation"),
        "fit the success classifier to recorded frames, and with --world-model to imagined ones",
    ),
}


SHOWN = ("--start", "--safety", "--world-model", "--policy", "--played", "--preset", "--set",
         "--device", "--resume", "--publish")  # fmt: skip
"""Options of the short help."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the stages and their options."""
    stages = parser.add_subparsers(dest="stage", required=True, metavar="STAGE")
    for name, stage in STAGES.items():
        options = stages.add_parser(name, help=stage.summary, description=stage.summary)
        add_options(options, stage.request)
        add_recipe_options(options)
        teach(options, f"train {name} --data runs/demos --out runs/{name}", *SHOWN)


def run(args: argparse.Namespace) -> int:
    """Train one stage; its checkpoint is written into OUT/checkpoint."""
    from safedojo_ros.learning import processes

    stage = STAGES[args.stage]
    say = (lambda sentence: None) if processes.number() else print
    stage.train(recipe_of(args, *stage.reads), from_options(stage.request, args), say)
    return 0
