"""Run the whole robot loop on the embedded world: camera, policy, gate and arm as ROS 2 nodes.

Every node is a process of its own, started from the same table as the launch files. Each episode's
outcome is printed; --json writes them with the run's timing and the nodes and topics seen alive.
"""

import argparse
from pathlib import Path

from safedojo_ros.checkpoints.names import DEFAULT_POLICY, SHIPPED, find_checkpoint, is_served
from safedojo_ros.cli.demo_run import LEVELS, Demo
from safedojo_ros.core.errors import ConfigError
from safedojo_ros.models.served.address import parse_address
from safedojo_ros.nodes.stack.registry import NO_POLICY
from safedojo_ros.robot.fci.client import import_franky
from safedojo_ros.worlds.tabletop.tasks import TASKS


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--headless", action="store_true", help="no live view")
    parser.add_argument("--episodes", type=int, default=10, help="how many (default 10)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the outcomes there")
    parser.add_argument("--level", choices=LEVELS, default="I", help="where the obstacle is")
    parser.add_argument("--task", choices=TASKS, help="one task only (default: they take turns)")
    parser.add_argument("--seed", type=int, default=0, help="offset into the evaluation seeds")
    parser.add_argument(
        "--fci",
        action="store_true",
        help="the arm is moved over the Franka Control Interface, as a real one is, at half its "
        "speed; 'safedojo fci-emulator' serves the same arm by itself",
    )
    parser.add_argument("--composed", action="store_true", help="all nodes in one process")
    for kind, name in (("policy", DEFAULT_POLICY), ("safety", SHIPPED)):
        others = ", openpi:ws://HOST:PORT, or none: a node of yours" if kind == "policy" else ""
        text = f"{kind} checkpoint{others} (default: {name})"
        parser.add_argument(f"--{kind}", default=name, metavar="NAME", help=text)
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
    if arguments.episodes < 1:
        raise ConfigError(f"--episodes is {arguments.episodes}, expected at least 1")
    if arguments.fci:
        import_franky()
    if is_served(arguments.policy) and not arguments.practice:
        parse_address(arguments.policy)
    elif arguments.policy != NO_POLICY or arguments.practice:
        find_checkpoint("policy", arguments.policy)
    find_checkpoint("safety", arguments.safety)
    if arguments.practice:
        from safedojo_ros.cli.demo_practice import PracticeDemo

        return PracticeDemo(arguments).run()
    return Demo(arguments).run()
