"""Run the whole robot loop on the embedded world: camera, policy, gate and arm as ROS 2 nodes.

Each scene is worked twice, by the policy `base`, whose gate only reports, and by `safe` behind the
gate, where no option asks for one of them. The world waits for the nodes, each a process of its
own, so that a slow machine does as well. --json writes every outcome and what was seen alive.
"""

import argparse
from pathlib import Path

from safedojo_ros.checkpoints.names import DEFAULT_POLICY, SHIPPED, find_checkpoint, is_served
from safedojo_ros.cli.demo_report import LEVELS
from safedojo_ros.cli.demo_run import Demo
from safedojo_ros.cli.demo_video import check_video_path
from safedojo_ros.cli.options import add_device, add_json
from safedojo_ros.core.errors import ConfigError
from safedojo_ros.models.served.address import parse_address
from safedojo_ros.nodes.stack.registry import NO_POLICY
from safedojo_ros.robot.fci.client import import_franky
from safedojo_ros.worlds.tabletop.tasks import TASKS

SINGLE = ("policy", "monitor", "hold", "record", "fci", "practice")
"""Options that are for one run alone."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--headless", action="store_true", help="no live view")
    parser.add_argument("--episodes", type=int, default=10, help="how many (default 10)")
    add_json(parser.add_argument)
    parser.add_argument(
        "--level",
        choices=LEVELS,
        default="II",
        help="obstacle: 0 none, I beside the target, II on the way (default)",
    )
    parser.add_argument("--task", choices=TASKS, help="one task only (default: they take turns)")
    parser.add_argument("--seed", type=int, default=0, help="offset into the evaluation seeds")
    parser.add_argument(
        "--fci",
        action="store_true",
        help="the arm is moved over the Franka Control Interface, as a real one is, at half its "
        "speed; 'safedojo fci-emulator' serves the same arm by itself",
    )
    parser.add_argument(
        "--real-time",
        action="store_true",
        help="the world does not wait for the nodes, as a robot does not (always with --fci)",
    )
    parser.add_argument("--composed", action="store_true", help="all nodes in one process")
    for kind, name in (("policy", DEFAULT_POLICY), ("safety", SHIPPED)):
        others = ", openpi:ws://HOST:PORT, or none: a node of yours" if kind == "policy" else ""
        text = f"{kind} checkpoint{others} (default: {name})"
        parser.add_argument(
            f"--{kind}", default=None if others else name, metavar="NAME", help=text
        )
    add_device(parser.add_argument)
    parser.add_argument(
        "--compare",
        action=argparse.BooleanOptionalAction,
        help="'base' and 'safe' in the same scenes (default, where no option asks for one run)",
    )
    parser.add_argument("--video", type=Path, metavar="FILE", help="what was seen, as .mp4")
    gate = parser.add_mutually_exclusive_group()
    gate.add_argument(
        "--monitor", action="store_true", help="the gate only reports, it holds nothing back"
    )
    gate.add_argument(
        "--hold",
        action="store_true",
        help="the gate holds a careless chunk, where it would lead it around if it can",
    )
    parser.add_argument(
        "--record", type=Path, metavar="DIR", help="keep a bag of each episode there"
    )
    parser.add_argument(
        "--practice",
        action="store_true",
        help="record, retrain, publish, swap while moving, and work the same episodes again; the "
        "gate only reports (needs 'safedojo pipeline')",
    )
    parser.add_argument(
        "--preset", default="smoke", help="of --practice: smoke (default), tiny ..."
    )
    parser.add_argument(
        "--practice-dir",
        type=Path,
        default=Path("runs/practice"),
        metavar="DIR",
        help="of --practice: bags, data set, training and store (default runs/practice)",
    )
    parser.add_argument("--verbose", action="store_true", help="show the nodes' own logs")


def run(arguments: argparse.Namespace) -> int:
    """Start the stack, follow its episodes, end it; 0 when every episode was run."""
    single = [f"--{name}" for name in SINGLE if getattr(arguments, name)]
    if arguments.compare and single:
        raise ConfigError(f"--compare works with its own policies and gates, not {single[0]}")
    if arguments.video is not None:
        check_video_path(arguments.video, arguments.practice)
    compare = arguments.compare is not False and not single
    arguments.policy = arguments.policy or DEFAULT_POLICY
    if arguments.fci:
        import_franky()
    if is_served(arguments.policy) and not arguments.practice:
        parse_address(arguments.policy)
    elif arguments.policy != NO_POLICY or arguments.practice:
        find_checkpoint("policy", arguments.policy)
    find_checkpoint("safety", arguments.safety)
    if compare:
        from safedojo_ros.cli.demo_compare import CompareDemo

        return CompareDemo(arguments).run()
    if arguments.practice:
        from safedojo_ros.cli.demo_practice import PracticeDemo

        return PracticeDemo(arguments).run()
    return Demo(arguments).run()
