"""Turn recorded bags into a data set of episodes, one step for each control tick, not interpolated.

Bags of the recorder and of `ros2 bag record` (MCAP or sqlite3), whole or truncated. Where images,
state or control ticks are missing for too long, or a clock jumps, the episode is split or dropped,
and a line names topic and time. Exit code 0: done; 4: done, but a bag was cut or damaged; 2: no
episode came of it.
"""

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console

from safedojo_ros.cli.bag_report import ALARMS, REPORT, calibrate, show, write_alarms
from safedojo_ros.cli.options import add_json, write_json
from safedojo_ros.core.contract import Topics, read_contract
from safedojo_ros.core.errors import LEFT_OUT, ConfigError, DatasetError
from safedojo_ros.core.files import write_whole
from safedojo_ros.data.bags.conversion import convert, leading_topic
from safedojo_ros.data.bags.episodes import ConversionConfig
from safedojo_ros.data.bags.free_motion import free_wrenches
from safedojo_ros.data.bags.reader import find_bags
from safedojo_ros.data.bags.takes import TARGET
from safedojo_ros.data.lerobot.writer import EpisodeWriter


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("bags", nargs="+", type=Path, metavar="BAG", help="bag, or folder of bags")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="the data set")
    parser.add_argument(
        "--contract",
        help="which topics are what: tabletop, franka_realsense or a YAML file (default: this "
        "package's own topics)",
    )
    parser.add_argument(
        "--cameras", help="names of camera/<name>/image_raw (default: agentview,wrist)"
    )
    parser.add_argument("--image-size", type=int, help="side of the images, pixels (default: 64)")
    parser.add_argument(
        "--max-gap", type=float, default=0.12, help="oldest image or state of a step (s)"
    )
    parser.add_argument("--min-steps", type=int, default=8, help="shorter pieces are dropped")
    parser.add_argument("--target-topic", help=f"where the arm's targets are (default: {TARGET})")
    parser.add_argument(
        "--namespace", help="of the robot's topics (default: that of the first target)"
    )
    add_json(parser.add_argument)
    parser.add_argument(
        "--free-motion",
        nargs="+",
        type=Path,
        metavar="BAG",
        help="bags of the task without any contact to avoid: contact is where the external wrench "
        "(topics.wrench of the contract) leaves what it is there",
    )
    parser.add_argument("--video", action="store_true", help="keep images as mp4")


def run(args: argparse.Namespace) -> int:
    """Convert; raises `DatasetError` when there is no episode."""
    config = config_of(args)
    if args.out.exists() and (not args.out.is_dir() or any(args.out.iterdir())):
        raise ConfigError(f"{args.out} is not empty; choose another --out")
    bags = find_bags(args.bags)
    if args.free_motion:
        topic = config.topics.wrench.strip("/")
        if not topic:
            raise ConfigError("--free-motion needs topics.wrench in the contract")
        wrenches = free_wrenches(find_bags(args.free_motion), topic)
        config = replace(config, free_motion=calibrate(wrenches))
    rate, namespace = round(1.0 / config.period), args.namespace and args.namespace.strip("/")
    how: dict[str, Any] = {"fps": rate, "video": args.video, "resize": config.resize}
    with EpisodeWriter(args.out, config.image_size, config.cameras, **how) as writer:
        report = convert(bags, writer, config, namespace)
    if args.free_motion:
        write_alarms(wrenches, args.out / ALARMS)
    write_whole(args.out / REPORT, json.dumps(report.as_json(), indent=1) + "\n")
    write_json(args.json, report.as_json())
    show(report, Console())
    if not report.episodes:
        reasons = report.misfits + [reason for take in report.takes for reason in take.dropped]
        what = "targets" if config.topics.target else "poses"
        why = reasons[0] if reasons else f"no {what} on '{leading_topic(config)}'"
        raise DatasetError(f"no episode came of {len(bags)} bags: {why}")
    print(f"{report.episodes} episodes, {report.steps} steps: {args.out}")
    return LEFT_OUT if report.broken else 0


def config_of(args: argparse.Namespace) -> ConversionConfig:
    """What the options say; raises `ConfigError` for those that a contract says otherwise."""
    limits = {"max_gap": args.max_gap, "min_steps": args.min_steps}
    given = {
        "--cameras": args.cameras,
        "--image-size": args.image_size,
        "--target-topic": args.target_topic,
    }
    twice = [name for name, value in given.items() if value is not None]
    if args.contract:
        if twice:
            raise ConfigError(f"{twice[0]} is what --contract says; leave it out")
        return ConversionConfig.of(read_contract(args.contract), **limits)
    names = "agentview,wrist" if args.cameras is None else args.cameras
    return ConversionConfig(
        cameras=tuple(name.strip() for name in names.split(",") if name.strip()),
        image_size=64 if args.image_size is None else args.image_size,
        topics=Topics(target=(args.target_topic or TARGET).strip("/")),
        **limits,
    )
