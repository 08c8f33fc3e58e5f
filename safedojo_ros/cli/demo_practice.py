"""The practice loop as one demonstration: work and record, retrain, publish, swap, work again.

The robot never stops for it: while the trainer computes with the lowest priority, further episodes
are worked with the old policy, and the new one is taken over between two of its chunks.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.table import Table

from safedojo_ros.checkpoints.names import user_store
from safedojo_ros.cli.demo_run import LAST_WORDS, LEVELS, Demo
from safedojo_ros.core.errors import LEFT_OUT, ConfigError, SafeDojoError
from safedojo_ros.core.files import write_whole
from safedojo_ros.data.bags.retention import own_bags
from safedojo_ros.data.bags.writer import METADATA
from safedojo_ros.evaluation.statistics import Estimate, mcnemar_exact, wilson
from safedojo_ros.learning.presets import preset_names
from safedojo_ros.pipeline.process import least_priority

SWAP_TIME = 180.0
"""Seconds that loading, trying and swapping in the published policy may take."""

SETTLE_TIME = 5.0
"""Seconds for which the new policy must go on to run after the swap."""

NO_EVIDENCE = (
    "The preset 'smoke' proves the wiring only: it trains for seconds, "
    "and these figures are no evidence of a better policy."
)
MEASURES = (
    ("success", "success"),
    ("success without collision", "safe_success"),
    ("contact with the obstacle", "contact"),
    ("obstacle moved > 1 mm", "collision"),
)
NOT_PASSED = 3


class PracticeDemo(Demo):
    """`safedojo demo --practice`."""

    conversion: tuple[str, ...] = ()
    """Further options of bag-to-dataset."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        """Raises `ConfigError` for a preset that does not exist."""
        if arguments.preset not in preset_names():
            known = ", ".join(preset_names())
            raise ConfigError(f"unknown preset '{arguments.preset}'; choose {known}")
        super().__init__(arguments)
        name = datetime.now(UTC).strftime("%Y%m%dT%H%M%S")
        self._folder = arguments.practice_dir.absolute() / name
        self._bags = arguments.record or self._folder / "bags"
        self._recorded_in = self._bags.absolute()
        self._old_bags = set(own_bags(self._recorded_in))
        self._simulated = False  # whether the robot works on while it trains is to be seen
        self._before: list[dict[str, Any]] = []
        self._after: list[dict[str, Any]] = []
        self._practice: dict[str, Any] = {"preset": arguments.preset}
        self._not_passed = ""
        arguments.monitor, arguments.hold = True, False

    # ---------------------------------------------------------------- the nodes

    def _build(self, folder: Path) -> Any:
        from safedojo_ros.nodes.stack.processes import node_process
        from safedojo_ros.nodes.stack.registry import DEMO, TRAINER

        processes = super()._build(folder)
        files = [DEMO.parameters_file, self._file]
        processes.children.append(node_process(TRAINER, files))
        return processes

    def _write_parameters(self, folder: Path) -> Path:
        file = super()._write_parameters(folder)
        store = str(self._folder / "store")
        self._parameters["sim_node"]["episodes"] = 0  # the robot works on while it trains
        self._parameters["policy_node"] |= {"store": store, "follow": "latest"}
        self._parameters["safety_node"] |= {"store": store, "follow": "policy"}
        self._parameters["trainer_node"] = {
            "root": str(self._folder / "training"),
            "data_root": str(self._folder),
            "store": store,
        }
        self._save_parameters()
        return file

    # ---------------------------------------------------------------- the loop

    def _work(self) -> None:
        from safedojo_ros.nodes.stack.practice_client import PracticeClient

        self._client = PracticeClient(self._observer)
        count, options = self._arguments.episodes, self._arguments
        self._console.print(
            f"practice: {count} episodes at level {options.level}, the gate only reports; "
            f"all of it lies in {self._folder}\nROS_DOMAIN_ID={os.environ['ROS_DOMAIN_ID']}; "
            "starting the nodes ...",
            soft_wrap=True,
        )
        self._follow(lambda: len(self.outcomes) >= count)
        self._before = self.outcomes[:count]
        if self._interrupted:
            return
        data = self._convert()
        published = self._train(data)
        if published and self._swap(published):
            self._again(count)

    def _convert(self) -> str:
        """The whole bags so far as a data set; its path relative to the practice folder."""
        deadline = time.monotonic() + LAST_WORDS
        self._follow(lambda: time.monotonic() >= deadline)
        command = [sys.executable, "-P", "-m", "safedojo_ros.cli.main", "bag-to-dataset"]
        bags = [bag for bag in own_bags(self._recorded_in) if (bag / METADATA).is_file()]
        command += [str(bag) for bag in bags if bag not in self._old_bags]
        command += [*self.conversion, "--out", str(self._folder / "dataset")]
        with (self._folder / "bag_to_dataset.log").open("wb") as log:
            child = subprocess.Popen(
                command, stdout=log, stderr=log, preexec_fn=lambda: least_priority(False)
            )
            try:
                self._follow(lambda: child.poll() is not None)
            finally:
                if child.poll() is None:
                    child.terminate()
                    child.wait()
        text = (self._folder / "bag_to_dataset.log").read_bytes().decode(errors="replace")
        said = text.strip().splitlines()
        if child.returncode not in (0, LEFT_OUT) and not self._interrupted:
            raise SafeDojoError(f"bag-to-dataset: {said[-1] if said else 'no reason given'}")
        self._console.print(f"recorded: {said[-1]}", soft_wrap=True)
        return "dataset"

    def _train(self, data: str) -> str:
        """Train beside the working robot; the id of the published policy, or ""."""
        client, options = self._client, self._arguments
        self._follow(lambda: client.ready)
        if self._interrupted:
            return ""
        missed = self._observer.figures.missed_ticks
        began, said = time.monotonic(), ""
        client.send(options.preset, [data], options.policy, publish=True)

        def over() -> bool:
            nonlocal said
            feedback = client.feedback
            if feedback is not None and feedback.stage != said:
                said = feedback.stage
                self._console.print(f"trains: {said}", markup=False)
            return client.rejected or client.result is not None

        self._follow(over)
        if self._interrupted:
            client.cancel()
            return ""
        if client.rejected:
            raise SafeDojoError(f"the trainer rejected the goal; its log is in {self._folder}")
        assert client.result is not None
        self._practice |= {
            "training_seconds": round(time.monotonic() - began, 1),
            "missed_ticks_while_training": self._observer.figures.missed_ticks - missed,
            "episodes_while_training": len(self.outcomes) - len(self._before),
            "published": client.result.published,
            "reason": client.result.reason,
        }
        if not client.result.published:
            self._not_passed = f"nothing was published: {client.result.reason}"
            return ""
        self._console.print(f"published: {client.result.published} ({client.result.reason})")
        store, made = user_store(self._folder / "store"), str(client.result.published)
        if store.latest("policy") != made:
            store.set_latest("policy", made)  # of this demonstration's own store, whatever it shows
        return made

    def _swap(self, published: str) -> bool:
        """Wait until the policy node has taken it over by itself, while the arm moves."""
        client, began = self._client, time.monotonic()
        missed = self._observer.figures.missed_ticks
        self._follow(
            lambda: (
                client.running(published)
                or bool(client.refusal(published))
                or time.monotonic() - began > SWAP_TIME
            )
        )
        if self._interrupted:
            return False
        settled = time.monotonic() + SETTLE_TIME
        if client.running(published):
            self._follow(lambda: time.monotonic() >= settled or not client.running(published))
        if not client.running(published):
            why = client.refusal(published) or f"it said nothing for {SWAP_TIME:.0f} s"
            self._not_passed = f"the policy node does not run {published}: {why}"
            return False
        lost = self._observer.figures.missed_ticks - missed
        self._practice["missed_ticks_while_swapping"] = lost
        self._console.print(f"swapped in while moving, {lost} ticks missed")
        return True

    def _again(self, count: int) -> None:
        """The world begins anew with the first episode; the policy node stays as it is."""
        sim = self._processes.child("sim_node")
        self._processes.end_one(sim)
        self._parameters["sim_node"] |= {"episodes": count, "first_episode": 0}
        self._save_parameters()
        time.sleep(0.5)  # the old world's last words
        self._observer.episodes.clear()
        self.outcomes, self._moved = self._after, False
        self._console.print("the same episodes again, with the new policy:")
        self._processes.start_one(sim)
        self._follow(lambda: len(self._after) >= count)

    # ---------------------------------------------------------------- the end

    def _code(self) -> int:
        if self._not_passed:
            return NOT_PASSED
        return 0 if len(self._after) >= self._arguments.episodes else 1

    def _summarise(self) -> None:
        if self._not_passed:
            self._console.print(f"[yellow]{self._not_passed}[/]", soft_wrap=True)
        table = Table(title=f"level {self._arguments.level}, 95 % intervals (Wilson)")
        for heading in ("", "before", "after", "p"):
            table.add_column(heading)
        figures = compared(self._before, self._after)
        for label, key in MEASURES:
            row = figures[key]
            p = "" if row["p"] is None else f"{row['p']:.3f}"
            table.add_row(label, shown(row["before"]), shown(row["after"]), p)
        self._console.print(table)
        self._console.print("p: exact McNemar test on the same episodes", style="dim")
        if self._arguments.preset == "smoke":
            self._console.print(f"[bold yellow]{NO_EVIDENCE}[/]", soft_wrap=True)
        if self._arguments.json:
            document = {
                "date": datetime.now(UTC).isoformat(timespec="seconds"),
                "policy": self._arguments.policy,
                "level": LEVELS[self._arguments.level],
                "seed": self._arguments.seed,
                "evidence": self._arguments.preset != "smoke",
                "practice": self._practice | {"not_passed": self._not_passed},
                "figures": figures,
                "before": self._before,
                "after": self._after,
                "run": self.figures,
            }
            self._arguments.json.parent.mkdir(parents=True, exist_ok=True)
            write_whole(self._arguments.json, json.dumps(document, indent=1) + "\n")
            self._console.print(f"written: {self._arguments.json}")


def compared(before: list[dict[str, Any]], after: list[dict[str, Any]]) -> dict[str, Any]:
    """{measure: {before, after: [count, episodes], p: of the paired test or None}}."""
    figures: dict[str, Any] = {}
    for _, key in MEASURES:
        first, second = ([holds(o, key) for o in side] for side in (before, after))
        paired = bool(first) and len(first) == len(second)
        figures[key] = {
            "before": [sum(first), len(first)],
            "after": [sum(second), len(second)],
            "p": mcnemar_exact(first, second) if paired else None,
        }
    return figures


def holds(outcome: dict[str, Any], key: str) -> bool:
    """Whether a measure holds for one episode."""
    if key == "safe_success":
        return bool(outcome["success"] and not outcome["collision"])
    return bool(outcome[key])


def shown(counts: list[int]) -> str:
    """A count as rate with its interval."""
    count, total = counts
    if not total:
        return "not worked"
    rate: Estimate = wilson(count, total)
    return (
        f"{count} / {total} = {rate.value * 100:.0f} % ({rate.low * 100:.0f}–{rate.high * 100:.0f})"
    )
