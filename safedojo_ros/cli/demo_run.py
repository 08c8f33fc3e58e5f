"""One run of the demonstration: its nodes as child processes, its episodes told and summed up."""

import argparse
import json
import os
import signal
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from rich.console import Console

from safedojo_ros.cli.demo_report import (
    LEVELS,
    document,
    table,
    tell_episode,
    totals,
    verdict,
)
from safedojo_ros.cli.demo_video import FilmRoll, write_video
from safedojo_ros.core.errors import SafeDojoError
from safedojo_ros.core.files import write_whole
from safedojo_ros.core.units import SECOND
from safedojo_ros.robot.gate.detour import DETOUR_RATIO

if TYPE_CHECKING:
    from safedojo_ros.nodes.stack.dds import DomainLease

MAX_RESTARTS = 5
"""How often one node is started again before the demonstration gives up."""

LAST_WORDS = 1.5
"""Seconds that the recorder is given for the end of the last episode."""

SLOW_TO_START = ("policy_node", "safety_node")
"""They import torch, and publish nothing by which a foreign arm is known: they start first."""

LISTENING = 1.0
"""Seconds for which a demonstration looks for a foreign arm before it starts its own."""

START_TIME = 180.0
"""Seconds that the nodes may take until the arm moves for the first time."""

EPISODE_TIME = 60.0
"""Seconds of the arm's own time without a finished episode, or of ours without a word of the arm,
after which something is stuck."""

QUIET = 10.0
"""Seconds without anything to tell, after which it is told what is waited for."""

MEASURED = 3.0
"""Seconds of motion by which the speed of the world is known."""

FULL_SPEED = 0.95
"""Of the world: what is slower than that is told."""

FCI_SPEED = 0.5
"""Of the world then: robot, client and models at once are too much for two cores in real time."""


class Demo:
    """Work a number of episodes with the options of `safedojo demo`."""

    def __init__(
        self,
        arguments: argparse.Namespace,
        lease: "DomainLease | None" = None,
        title: str = "",
    ) -> None:
        """lease: of the ROS domain, where others are in it, too; title: of the video."""
        self._arguments = self.options = arguments
        self._lease = lease
        self.film = FilmRoll(title or f"policy '{arguments.policy}'")
        self._bags: Path | None = arguments.record
        self._simulated = not (arguments.real_time or arguments.fci)
        self._console = Console()
        self.outcomes: list[dict[str, Any]] = []
        self.figures: dict[str, Any] = {}
        self.shown = ""
        """The address of the live view that was told, and opened."""
        self.speed_told = not self._simulated
        """Whether the speed of the world was told, if there is anything to tell."""
        self._interrupted = self._moved = False

    def run(self) -> int:
        """Start the stack, follow its episodes, end it; 0 when every episode was run."""
        from safedojo_ros.nodes.stack.dds import DomainLease
        from safedojo_ros.nodes.stack.ros_environment import stay_on_this_machine

        lease = self._lease or DomainLease()  # never the user's own: a robot may be in it
        os.environ["ROS_DOMAIN_ID"] = str(lease.number)
        self._fci_address = f"127.0.0.{10 + lease.number}"  # no other run's
        stay_on_this_machine()

        self._began = time.monotonic()
        handlers = {s: signal.signal(s, self._interrupt) for s in (signal.SIGINT, signal.SIGTERM)}
        with tempfile.TemporaryDirectory(prefix="safedojo_demo_") as folder:
            self._processes = self._build(Path(folder))
            observer = None
            try:
                self._processes.start(SLOW_TO_START)
                from safedojo_ros.nodes.stack.demo_observer import ObserverThread

                observer = ObserverThread(self._arguments.video is not None)
                self._observer = observer.node
                self._refuse_company()
                self._processes.start()
                self._work()
            finally:
                if observer is not None:
                    observer.close()
                killed = self._processes.stop()
                for name in killed:
                    self._console.print(f"[yellow]{name} had to be killed[/]")
                if self._lease is None:
                    lease.release()
                for number, handler in handlers.items():
                    signal.signal(number, handler)
        self.figures = self._observer.figures.as_json(self._simulated)
        self.figures["restarts"] = {c.name: c.restarts for c in self._processes.children}
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
        self._follow(lambda: len(self.outcomes) >= count)
        if self._bags is not None:
            time.sleep(LAST_WORDS)
            self._console.print(
                f"recorded: {self._bags}; 'safedojo bag-to-dataset {self._bags} --out DIR' makes "
                "a data set of it",
                soft_wrap=True,
            )

    def _code(self) -> int:
        return 0 if len(self.outcomes) >= self._arguments.episodes else 1

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
            processes.children += self.viewers(files)
        return processes

    def _write_parameters(self, folder: Path) -> Path:
        """The options as a parameters file that goes on top of config/demo.yaml."""
        from safedojo_ros.nodes.stack.registry import NO_POLICY, POLICY
        from safedojo_ros.nodes.stack.turn_order import members

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
            "policy_node": {"checkpoint": options.policy, "device": options.device},
            "safety_node": {
                "device": options.device,
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
        if options.policy == NO_POLICY:
            self._parameters["sim_node"]["members"] = members(POLICY.name)
        self._save_parameters()
        return self._file

    def _save_parameters(self) -> None:
        sections = {f"/**/{n}": {"ros__parameters": p} for n, p in self._parameters.items()}
        sections["/**"] = {"ros__parameters": {"use_sim_time": self._simulated}}
        write_whole(self._file, json.dumps(sections))  # JSON is YAML

    def viewers(self, files: list[Path]) -> list[Any]:
        """The live view as a child, where it can be had."""
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
            self._parameters["sim_node"]["first_episode"] = len(self.outcomes)
            self._save_parameters()
            self._processes.start_one(child)

    # ---------------------------------------------------------------- following

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        self._interrupted = True

    def _follow(self, done: Callable[[], bool]) -> None:
        """Tell what happens until `done`; raises when the nodes or the arm are stuck."""
        from safedojo_ros.nodes.stack.viewers import open_page

        observer = self._observer
        began = progress = time.monotonic()
        told_at, said = observer.arm_time, ""
        while not done() and not self._interrupted:
            time.sleep(0.05)
            while observer.episodes:
                self._tell(observer.episodes.popleft())
                progress, told_at = time.monotonic(), observer.arm_time
            arm = observer.arm
            if not self._moved and arm is not None and arm.state == arm.RUNNING:
                self._moved, progress = True, time.monotonic()
                told_at = observer.arm_time
                self._console.print(f"the arm moves after {time.monotonic() - self._began:.1f} s")
            if not self.speed_told and observer.figures.wall_seconds > MEASURED:
                self.speed_told = True
                self._tell_speed()
            view = observer.words.get("view_node", "")
            if view not in ("", "not active", self.shown):
                self.shown = view
                self._console.print(f"live view: [bold]{view}[/]", soft_wrap=True)
                open_page(view)
            self._restart_dead()
            if observer.faults and time.monotonic() - began > 2.0:
                name, fault = next(iter(observer.faults.items()))
                raise SafeDojoError(f"{name}: {fault}")
            waited = time.monotonic() - progress
            if self._moved:
                silent = time.monotonic() - observer.arm_heard_at
                waited = max(silent, (observer.arm_time - told_at) / SECOND)
            if waited > (EPISODE_TIME if self._moved else START_TIME):
                raise SafeDojoError(f"nothing has happened for {waited:.0f} s; {self._standing()}")
            standing = self._standing() if waited > QUIET else ""
            kind = "".join(c for c in standing.partition(": ")[0] if not c.isdigit())
            if standing and kind != said:
                said = kind
                self._console.print(f"[dim]{standing}[/]", soft_wrap=True)

    def _tell_speed(self) -> None:
        speed = self._observer.figures.world_speed
        if speed is not None and speed < FULL_SPEED:
            self._console.print(
                f"this machine computes {speed:.2f} s of the world in a second; the world waits "
                "for it",
                soft_wrap=True,
            )

    def _standing(self) -> str:
        """Why the arm does not move, in the words of the nodes, the arm or the gate."""
        from safedojo_ros.nodes.stack.registry import DEMO

        observer = self._observer
        names = [entry.name for entry in DEMO.nodes]
        starting = [n for n in names if observer.words.get(n, "not active") == "not active"]
        if starting:
            return f"waiting for these nodes: {', '.join(starting)}"
        if observer.arm is None:
            return "the arm's node has not been heard yet"
        if not observer.arm.reason:
            return ""
        standing = f"the arm holds: {observer.arm.reason}"
        if observer.safety is not None and observer.safety.reason:
            standing += f"; the gate: {observer.safety.reason}"
        return standing

    def _tell(self, outcome: dict[str, Any]) -> None:
        held, self._observer.held = self._observer.held, {}
        if outcome["number"] != len(self.outcomes):
            return  # told already, by a world that was started again
        self.outcomes.append(outcome)
        while self._observer.images:
            self.film.see(*self._observer.images.popleft())
        self.film.end(outcome)
        tell_episode(self._console, outcome, held)

    # ---------------------------------------------------------------- the end

    def _summarise(self) -> None:
        figures, options, total = self.figures, self._arguments, totals(self.outcomes)
        self._console.print(table(total, figures, options.level))
        if options.video is not None:
            write_video(options.video, [self.film])
            self._console.print(f"written: {options.video}")
        if options.json:
            options.json.parent.mkdir(parents=True, exist_ok=True)
            made = document(options, self.outcomes, figures)
            write_whole(options.json, json.dumps(made, indent=1) + "\n")
            self._console.print(f"written: {options.json}")
        self._console.print(verdict(total, options.episodes), soft_wrap=True, highlight=False)
