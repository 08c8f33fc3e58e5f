"""Train a policy, safety head, world model or success classifier; each can be resumed."""

import argparse

from safedojo_ros.cli.options import add_options, add_recipe_options, from_options, recipe_of
from safedojo_ros.pipeline.training import (
    TrainPolicy,
    TrainSafety,
    TrainSuccess,
    TrainWorldModel,
    train_policy,
    train_safety,
    train_success,
    train_world_model,
)

STAGES = {
    "policy": (TrainPolicy, train_policy, "imitate recorded episodes"),
    "safety": (
        TrainSafety,
        train_safety,
        "fit the frame autoencoder, then the safety head, to recorded contacts; with "
        "--world-model the head alone, to imagined states, too",
    ),
    "world-model": (
        TrainWorldModel,
        train_world_model,
        "fit the video world model, over the autoencoder of a safety checkpoint",
    ),
    "success": (
        TrainSuccess,
        train_success,
        "fit the success classifier to recorded frames, and to imagined ones beside them",
    ),
}

READS = {
    "policy": ("policy",),
    "safety": ("safety", "autoencoder"),
    "world-model": ("world_model",),
    "success": ("success", "validation"),
}
"""{stage: the sections of the recipe that it reads}."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the stages and their options."""
    stages = parser.add_subparsers(dest="stage", required=True, metavar="STAGE")
    for name, (task, _, text) in STAGES.items():
        options = stages.add_parser(name, help=text, description=text)
        add_options(options, task)
        add_recipe_options(options)


def run(args: argparse.Namespace) -> int:
    """Train one stage; its checkpoint lies in OUT/checkpoint."""
    task, train, _ = STAGES[args.stage]
    train(recipe_of(args, *READS[args.stage]), from_options(task, args))  # type: ignore[operator]
    return 0
