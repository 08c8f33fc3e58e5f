"""`safedojo imagine`: a film of a recorded episode above what the world model imagines.

The model sees the frames up to --start, then only the recorded actions and its own frames.
"""

import argparse
from pathlib import Path

from safedojo_ros.checkpoints.names import SHIPPED, find_checkpoint
from safedojo_ros.cli.options import add_device


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--checkpoint", default=SHIPPED, help="world model: name, id or directory")
    parser.set_defaults(checkpoints={"checkpoint": "world_model"})
    parser.add_argument("--data", type=Path, required=True, help="directory of episodes")
    parser.add_argument("--episode", type=int, default=0, help="number of the episode (default: 0)")
    parser.add_argument("--start", type=int, default=0, help="the last step it sees (default: 0)")
    parser.add_argument(
        "--chunks", type=int, default=5, help="chunks that it imagines (default: 5)"
    )
    parser.add_argument(
        "--seed",
        type=int,
        default=0,
        help="of the noise; another seed imagines another future (default: 0)",
    )
    parser.add_argument(
        "--out", type=Path, required=True, metavar="FILE", help="film .mp4 or .gif, or strip .png"
    )
    add_device(parser.add_argument)
    parser.add_argument("--store", type=Path, help="root of the store (default: the user's)")


def run(args: argparse.Namespace) -> int:
    """Imagine one episode and write it; raises `ConfigError`, `DatasetError`, `CheckpointError`."""
    from safedojo_ros.core.errors import ConfigError, DatasetError
    from safedojo_ros.data.lerobot.reader import EpisodeReader
    from safedojo_ros.fidelity.held_out import hold
    from safedojo_ros.fidelity.side_by_side import FORMATS, imagined_film, write_film
    from safedojo_ros.models.loading import load_world_model
    from safedojo_ros.models.threads import chosen_device

    if args.out.suffix.lower() not in FORMATS:
        raise ConfigError(f"--out is '{args.out}', expected a name in {', '.join(FORMATS)}")
    reader = EpisodeReader(args.data)
    if not 0 <= args.episode < len(reader):
        raise DatasetError(f"{args.data} has {len(reader)} episodes, no number {args.episode}")
    world = load_world_model(find_checkpoint("world_model", args.checkpoint, args.store))
    device = chosen_device(args.device)
    held = hold(reader.load_arrays([args.episode]), world.to(device), device)
    film = imagined_film(world, held, args.start, args.chunks, args.seed)
    write_film(args.out, film, world.size.stride)
    row = reader.rows[args.episode]
    print(
        f"{row.instruction}, level {row.level}, seed {row.seed}: {len(film)} frames in {args.out}"
    )
    return 0
