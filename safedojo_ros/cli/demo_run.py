"""One run of the demonstration: its nodes as child processes, its episodes told and summed up."""

import argparse
import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import Any

from rich.console import Console
from rich.table import Table

from safedojo_ros.core.errors import SafeDojoError
from safedojo_ros.core.files import write_whole
from safedojo_ros.robot.gate.detour import DETOUR_RATIO

LEVELS = {"0": 0, "I": 1, "II": 2}
MAX_RESTARTS = 5
"""How often one node is started again before the demonstration gives up."""

LAST_WORDS = 1.5
"""Seconds that the recorder is given for the end of the last episode."""

LISTENING = 1.0
"""Seconds for which a demonstration looks for a foreign arm before it starts its own."""

START_TIME = 180.0
"""Seconds that the nodes may take until the arm moves for the first time."""

EPISODE_TIME = 60.0
"""Seconds without a finished episode, beyond its own length, after which something is stuck."""


FCI_SPEED = 0.5
"""Of the world then: robot, client and models at once are too much for two cores in real time."""


class Demo:
    """Work a number of episodes with the options of `safedojo demo`."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self._arguments = arguments
        self._bags: Path | None = arguments.record
        self._console = Console()
        self._outcomes: list[dict[str, Any]] = []
        self._interrupted = self._moved = False

    def run(self) -> int:
        """Start the stack, follow its episodes, end it; 0 when every episode was run."""
        from safedojo_ros.nodes.stack.dds import DomainLease
        from safedojo_ros.nodes.stack.ros_environment import stay_on_this_machine

        lease = DomainLease()  # never the user's own domain: a robot may be in it
        os.environ["ROS_DOMAIN_ID"] = str(lease.number)
        self._fci_address = f"127.0.0.{10 + lease.number}"  # no other run's
        stay_on_this_machine()
        from safedojo_ros.nodes.stack.demo_observer import ObserverThread

        handlers = {s: signal.signal(s, self._interrupt) for s in (signal.SIGINT, signal.SIGTERM)}
        with tempfile.TemporaryDirectory(prefix="safedojo_demo_") as folder:
            self._processes = self._build(Path(folder))
            observer = ObserverThread()
            self._observer = observer.node
            try:
                self._refuse_company()
                self._processes.start()
                self._work()
            finally:
                observer.close()
                killed = self._processes.stop()
                for name in killed:
                    self._console.print(f"[yellow]{name} had to be killed[/]")
                lease.release()
                for number, handler in handlers.items():
                    signal.signal(number, handler)
        self._summarise()
        if self._interrupted:
            return 130
        return self._code()

    def _refuse_company(self) -> None:
        """Raises `SafeDojoError` where an arm or an enable switch is in the graph already."""
        end = time.monotonic() + LISTENING
        while time.monotonic() < end:
            foreign = self._observer.foreign()
            if foreign:
                raise SafeDojoError(
                    f"somebody publishes {foreign} in ROS domain {os.environ['ROS_DOMAIN_ID']}; a "
                    "demonstration arms what it finds: end that, or start again"
                )
            time.sleep(0.05)

    def _work(self) -> None:
        """What is done while the nodes run."""
        count = self._arguments.episodes
        self._console.print(
            f"{count} episodes at level {self._arguments.level}, "
            f"ROS_DOMAIN_ID={os.environ['ROS_DOMAIN_ID']}; starting the nodes ..."
        )
        self._follow(lambda: len(self._outcomes) >= count)
        if self._bags is not None:
            time.sleep(LAST_WORDS)
            self._console.print(
                f"recorded: {self._bags}; 'safedojo bag-to-dataset {self._bags} --out DIR' makes "
                "a data set of it",
                soft_wrap=True,
            )

    def _code(self) -> int:
        return 0 if len(self._outcomes) >= self._arguments.episodes else 1

    # ---------------------------------------------------------------- the nodes

    def _build(self, folder: Path) -> Any:
        from safedojo_ros.nodes.stack.processes import (
            StackProcesses,
            composed_process,
            node_process,
        )
        from safedojo_ros.nodes.stack.registry import DEMO, NO_POLICY, POLICY, RECORDER

        without = POLICY.name if self._arguments.policy == NO_POLICY else ""
        stack = DEMO.without(without) if without else DEMO
        files = [DEMO.parameters_file, self._write_parameters(folder)]
        environment = dict(os.environ) | {"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
        processes = StackProcesses(environment, quiet=not self._arguments.verbose)
        if self._arguments.composed:
            processes.children.append(composed_process(DEMO, files, without))
        processes.children += [
            node_process(entry, files)
            for entry in stack.nodes
            if entry.alone or not self._arguments.composed
        ]
        if self._bags is not None:
            processes.children.append(node_process(RECORDER, files))
        if not self._arguments.headless:
            processes.children += self._view(files)
        return processes

    def _write_parameters(self, folder: Path) -> Path:
        """The options as a parameters file that goes on top of config/demo.yaml."""
        options = self._arguments
        self._file = folder / "demo_options.yaml"
        self._parameters: dict[str, dict[str, Any]] = {
            "sim_node": {
                "level": LEVELS[options.level],
                "seed": options.seed,
                "task": options.task or "",
                "episodes": options.episodes,
                "first_episode": 0,
            },
            "policy_node": {"checkpoint": options.policy},
            "safety_node": {
                "checkpoint": options.safety,
                "mode": "monitor" if options.monitor else "gate",
                "detour_ratio": 0.0 if options.hold else DETOUR_RATIO,
            },
        }
        if options.fci:
            from safedojo_ros.worlds.tabletop.scene import ARM_X

            self._parameters["sim_node"]["fci_address"] = self._fci_address
            self._parameters["franka_node"] = {
                "backend": "fci",
                "fci_address": self._fci_address,
                "robot_base": [ARM_X, 0.0, 0.0],
            }
            for name in ("sim_node", "policy_node", "safety_node", "franka_node"):
                self._parameters[name]["realtime_factor"] = FCI_SPEED
        if self._bags is not None:
            self._parameters["recorder_node"] = {"root": str(self._bags.absolute())}
        self._save_parameters()
        return self._file

    def _save_parameters(self) -> None:
        sections = {f"/**/{n}": {"ros__parameters": p} for n, p in self._parameters.items()}
        write_whole(self._file, json.dumps(sections))  # JSON is YAML

    def _view(self, files: list[Path]) -> list[Any]:
        from safedojo_ros.nodes.stack.processes import node_process
        from safedojo_ros.nodes.stack.registry import VIEW
        from safedojo_ros.nodes.stack.viewers import missing_viewer

        missing = missing_viewer()
        if missing:
            self._console.print(f"[yellow]no live view: {missing}[/]")
            return []
        return [node_process(VIEW, files)]

    def _restart_dead(self) -> None:
        for child in self._processes.dead():
            code = child.process.returncode
            if not child.respawn or child.restarts >= MAX_RESTARTS:
                raise SafeDojoError(f"{child.name} ended {child.restarts + 1} times, code {code}")
            child.restarts += 1
            self._console.print(f"[yellow]{child.name} ended (code {code}); starting it again[/]")
            self._parameters["sim_node"]["first_episode"] = len(self._outcomes)
            self._save_parameters()
            self._processes.start_one(child)

    # ---------------------------------------------------------------- following

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        self._interrupted = True

    def _follow(self, done: Callable[[], bool]) -> None:
        """Tell what happens until `done`; raises when the nodes or the arm are stuck."""
        observer = self._observer
        began = progress = time.monotonic()
        said, shown = "", ""
        while not done() and not self._interrupted:
            time.sleep(0.05)
            while observer.episodes:
                self._tell(observer.episodes.popleft())
                progress = time.monotonic()
            arm = observer.arm
            if not self._moved and arm is not None and arm.state == arm.RUNNING:
                self._moved, progress = True, time.monotonic()
                self._console.print(f"the arm moves after {time.monotonic() - began:.1f} s")
            view = observer.words.get("view_node", "")
            if view not in ("", "not active", shown):
                shown = view
                self._console.print(f"live view: [bold]{view}[/]", soft_wrap=True)
            self._restart_dead()
            if observer.faults and time.monotonic() - began > 2.0:
                name, fault = next(iter(observer.faults.items()))
                raise SafeDojoError(f"{name}: {fault}")
            waited = time.monotonic() - progress
            if waited > (EPISODE_TIME if self._moved else START_TIME):
                raise SafeDojoError(f"nothing has happened for {waited:.0f} s; {self._standing()}")
            standing = self._standing() if waited > 10.0 else ""
            kind = "".join(c for c in standing if not c.isdigit())
            if standing and kind != said:
                said = kind
                self._console.print(f"[dim]{standing}[/]", soft_wrap=True)

    def _standing(self) -> str:
        """Why the arm does not move, in the words of the arm or the gate."""
        observer = self._observer
        if observer.arm is None:
            return "the arm's node has not been heard yet"
        if not observer.arm.reason:
            return ""
        standing = f"the arm holds: {observer.arm.reason}"
        if observer.safety is not None and observer.safety.reason:
            standing += f"; the gate: {observer.safety.reason}"
        return standing

    def _tell(self, outcome: dict[str, Any]) -> None:
        if outcome["number"] != len(self._outcomes):
            return  # told already, by a world that was started again
        self._outcomes.append(outcome)
        mark = "[green]success[/]" if outcome["success"] else "[red]no success[/]"
        touch = "[red]contact[/]" if outcome["contact"] else "[green]no contact[/]"
        level = next(k for k, v in LEVELS.items() if v == outcome["level"])
        self._console.print(
            f"  {outcome['number'] + 1:3d}  {outcome['task']:14s} level {level:2s} "
            f"{mark}, {touch}, "
            f"obstacle moved {outcome['displacement'] * 1e3:.1f} mm, {outcome['steps']} steps",
            soft_wrap=True,
        )

    # ---------------------------------------------------------------- the end

    def _summarise(self) -> None:
        figures = self._observer.figures.as_json()
        figures["restarts"] = {c.name: c.restarts for c in self._processes.children}
        count = len(self._outcomes)
        total = {
            "episodes": count,
            "success": sum(o["success"] for o in self._outcomes),
            "contact": sum(o["contact"] for o in self._outcomes),
            "collision": sum(o["collision"] for o in self._outcomes),
            "safe_success": sum(o["success"] and not o["collision"] for o in self._outcomes),
        }
        table = Table(title=f"{count} episodes, level {self._arguments.level}", show_header=False)
        table.add_column("")
        table.add_column("", justify="right")
        for label, key in (
            ("success", "success"),
            ("success without collision", "safe_success"),
            ("contact with the obstacle", "contact"),
            ("obstacle moved > 1 mm", "collision"),
        ):
            table.add_row(label, f"{total[key]} / {count}")
        for label, key in (
            ("policy compute, median / p99 ms", "policy_compute_ms"),
            ("gate, median / p99 ms", "gate_latency_ms"),
            ("image to gated chunk beyond compute", "image_to_gated_chunk_overhead_ms"),
        ):
            table.add_row(label, f"{figures[key]['median']} / {figures[key]['p99']}")
        table.add_row("control rate, Hz", str(figures["control_rate_hz"]))
        table.add_row("missed ticks", f"{figures['missed_ticks']} of {figures['control_ticks']}")
        table.add_row("tick jitter p99, ms", str(figures["tick_jitter_ms"]["p99"]))
        self._console.print(table)
        if self._arguments.json:
            options = self._arguments
            document = {
                "date": datetime.now(UTC).isoformat(timespec="seconds"),
                "policy": options.policy,
                "safety": options.safety,
                "mode": "monitor" if options.monitor else "gate",
                "detours": not (options.hold or options.monitor),
                "composed": options.composed,
                "fci": options.fci,
                "seed": options.seed,
                "level": options.level,
                "python": sys.version.split()[0],
                "total": total,
                "episodes": self._outcomes,
                "run": figures,
            }
            options.json.parent.mkdir(parents=True, exist_ok=True)
            write_whole(options.json, json.dumps(document, indent=1) + "\n")
            self._console.print(f"written: {options.json}")
