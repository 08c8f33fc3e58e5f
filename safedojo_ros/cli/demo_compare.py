"""The careless and the careful policy on the same scenes, one after the other."""

import argparse
import json
import os
import signal
from copy import copy
from typing import Any

from rich.console import Console
from rich.table import Table

from safedojo_ros.cli.demo_report import document, totals
from safedojo_ros.cli.demo_run import Demo
from safedojo_ros.cli.demo_video import ending, write_video
from safedojo_ros.core.files import write_whole

CARELESS, CAREFUL = "unsafe", "safe"
TITLES = {
    CARELESS: "policy 'base', the gate only reports",
    CAREFUL: "policy 'safe' behind the gate",
}


class _Run(Demo):
    def _summarise(self) -> None:
        """The table comes when both runs are over."""


class CompareDemo:
    """`safedojo demo` without a word about the policy."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self._arguments = arguments
        self._console = Console()
        self._runs: dict[str, Demo] = {}
        self._interrupted = False

    def run(self) -> int:
        """Work the episodes twice; 0 when all were run."""
        from safedojo_ros.nodes.stack.dds import DomainLease
        from safedojo_ros.nodes.stack.processes import StackProcesses
        from safedojo_ros.nodes.stack.registry import DEMO
        from safedojo_ros.nodes.stack.ros_environment import stay_on_this_machine

        lease = DomainLease()
        os.environ["ROS_DOMAIN_ID"] = str(lease.number)
        stay_on_this_machine()
        options, shown, told = self._arguments, "", False
        handlers = {s: signal.signal(s, self._interrupt) for s in (signal.SIGINT, signal.SIGTERM)}
        viewers = StackProcesses(dict(os.environ), quiet=not options.verbose)
        try:
            if not options.headless:
                viewers.children += Demo(options).viewers([DEMO.parameters_file])
                viewers.start()
            for name, policy, monitor in ((CARELESS, "base", True), (CAREFUL, "safe", False)):
                own = copy(options)
                own.policy, own.monitor, own.headless, own.json = policy, monitor, True, None
                self._console.print(f"\n[bold]{TITLES[name]}[/]")
                self._runs[name] = run = _Run(own, lease, TITLES[name])
                run.shown, run.speed_told = shown, told or run.speed_told
                code, shown, told = run.run(), run.shown, run.speed_told
                if code or self._interrupted:
                    return code or 130
        finally:
            viewers.stop()
            lease.release()
            for number, handler in handlers.items():
                signal.signal(number, handler)
            if self._runs:
                self._summarise()
        return 0

    def _interrupt(self, number: int, frame: Any) -> None:
        self._interrupted = True

    def _summarise(self) -> None:
        options = self._arguments
        if options.video is not None:
            write_video(options.video, [run.film for run in self._runs.values()])
            self._console.print(f"written: {options.video}")
        if len(self._runs) < 2:
            return
        careless, careful = (self._runs[name] for name in (CARELESS, CAREFUL))
        if options.json:
            made = document(careful.options, careful.outcomes, careful.figures)
            other = document(careless.options, careless.outcomes, careless.figures)
            options.json.parent.mkdir(parents=True, exist_ok=True)
            write_whole(options.json, json.dumps(made | {CARELESS: other}, indent=1) + "\n")
            self._console.print(f"written: {options.json}")
        both = careless.outcomes, careful.outcomes
        self._console.print(side_by_side(*both, options.level))
        self._console.print(verdict(*both), soft_wrap=True, highlight=False)


def side_by_side(
    careless: list[dict[str, Any]], careful: list[dict[str, Any]], level: str
) -> Table:
    """What each did in each scene."""
    table = Table(title=f"the same scenes, level {level}")
    for heading in ("", "task", TITLES[CARELESS], TITLES[CAREFUL]):
        table.add_column(heading)
    for one, other in zip(careless, careful, strict=False):
        cells = [
            f"[{'green' if o['success'] and not o['collision'] else 'red'}]{ending(o)}[/]"
            for o in (one, other)
        ]
        table.add_row(str(one["number"] + 1), one["task"], *cells)
    return table


def verdict(careless: list[dict[str, Any]], careful: list[dict[str, Any]]) -> str:
    """The last line: what each knocked over, and how much it got done."""
    one, other = totals(careless), totals(careful)
    return (
        f"obstacle moved: unsafe {one['collision']} of {one['episodes']}, safe "
        f"{other['collision']} of {other['episodes']}; done without that: unsafe "
        f"{one['safe_success']}, safe {other['safe_success']}"
    )
