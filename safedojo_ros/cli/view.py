"""Look at a running stack: a page in the browser with cameras, arm, chunk, cost and gate.

It joins the ROS domain of this shell (ROS_DOMAIN_ID), publishes nothing that a node obeys, and
ends with Ctrl-C. The page is served to this machine alone.
"""

import argparse
from pathlib import Path

from safedojo_ros.cli.options import add_device
from safedojo_ros.core.errors import ConfigError


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        "--contract",
        default="tabletop",
        metavar="NAME",
        help="of the cell: a ready-made contract or a file.yaml (default tabletop)",
    )
    parser.add_argument("--success", metavar="NAME", help="show its P(success): a classifier")
    parser.add_argument(
        "--world-model", metavar="NAME", help="show what it imagined of a chunk beside what came"
    )
    parser.set_defaults(checkpoints={"success": "success", "world_model": "world_model"})
    add_device(parser.add_argument)
    parser.add_argument("--record", type=Path, metavar="FILE", help="keep it as .rrd, too")


def run(arguments: argparse.Namespace) -> int:
    """Show until SIGINT."""
    from safedojo_ros.nodes.stack.registry import VIEW, as_yaml
    from safedojo_ros.nodes.stack.viewers import missing_viewer

    missing = missing_viewer()
    if missing:
        raise ConfigError(f"there is no live view here: {missing}")
    if arguments.record is not None and arguments.record.suffix != ".rrd":
        raise ConfigError(f"--record is {arguments.record}, expected a name that ends in .rrd")
    from safedojo_ros.nodes import view_node

    settings: dict[str, object] = {
        "contract": arguments.contract,
        "browser": True,
        "device": arguments.device,
    }
    for name in ("success", "world_model"):
        if getattr(arguments, name) is not None:
            settings[name] = getattr(arguments, name)
    if arguments.record is not None:
        settings["record"] = str(arguments.record.absolute())
    words = ["--ros-args", "-r", f"__node:={VIEW.name}"]
    for name, value in settings.items():
        words += ["-p", f"{name}:={as_yaml(value)}"]
    return view_node.main(words)
