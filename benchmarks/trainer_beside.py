"""What a training beside the robot does to its control tick: one table, with and without.

`python benchmarks/trainer_beside.py` runs the demonstration's nodes in real time (20 Hz) on the
embedded world, with recorder and trainer, and measures stretches of `--seconds`, without and with
the trainer's pipeline at work, in turns, so that a drift of the machine does not count for one
side. Jitter is |interval − 50 ms| of the arm's control tick; a tick is missed when a period had
none. Several seconds after a training has begun or ended are left out.
"""

import argparse
import json
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from control_ticks import Ticks, busy_since, print_table, processor_time, tick_figures
from demo_stack import demo_stack, machine, stack_options, take_domain

from safedojo_ros.checkpoints.names import DEFAULT_POLICY
from safedojo_ros.msg import FrankaState, TrainingProgress
from safedojo_ros.nodes.stack.demo_observer import ObserverThread, RunFigures
from safedojo_ros.nodes.stack.practice_client import PracticeClient
from safedojo_ros.nodes.stack.registry import RECORDER, TRAINER

START_TIME = 600.0
SETTLE = 5.0
"""Seconds left out after each change."""


class Beside:
    """The running stack, and a trainer that can be set to work."""

    def __init__(self, options: argparse.Namespace, folder: Path) -> None:
        self._options, self._folder = options, folder
        further: dict[str, dict[str, object]] = {
            "recorder_node": {"root": str(folder / "bags")},
            "trainer_node": {
                "root": str(folder / "training"),
                "data_root": str(folder),
                "store": str(folder / "store"),
            },
        }
        self.stack = demo_stack(options, (RECORDER, TRAINER), further)
        self._thread = ObserverThread()
        self.observer = self._thread.node
        self.ticks = Ticks(self.observer)
        self.client = PracticeClient(self.observer)

    def start(self) -> None:
        """Wait until the arm moves and the trainer is there."""
        self.stack.start()
        arm = FrankaState.RUNNING
        self._until(lambda: self.observer.arm is not None and self.observer.arm.state == arm)
        self._until(lambda: self.client.ready)

    def train(self) -> None:
        """Set the trainer to work, and wait until its pipeline has begun."""
        self.client.send(self._options.preset, [], self._options.base, publish=False)
        self._until(lambda: self.client.rejected or bool(self.feedback()))
        if self.client.rejected:
            raise SystemExit("the trainer rejected the goal; --verbose shows why")

    def rest(self) -> None:
        """Take the goal back, and wait until the pipeline has ended."""
        self.client.cancel()
        self._until(lambda: self.client.result is not None)

    def feedback(self) -> str:
        """The stage that the pipeline is in, "" before the first."""
        return str(self.client.feedback.stage) if self.client.feedback is not None else ""

    def measure(self, training: bool) -> dict[str, Any]:
        """One stretch."""
        time.sleep(SETTLE)
        self.observer.figures = RunFigures()
        stages, busy_before = set(), processor_time()
        self.ticks.begin()
        end = time.monotonic() + self._options.seconds
        while time.monotonic() < end:
            time.sleep(0.2)
            stages.add(self.feedback())
            told = self.client.progress
            if training and (told is None or told.state != TrainingProgress.RUNNING):
                raise SystemExit(
                    "the training ended before the stretch did: choose a longer --preset "
                    f"or fewer --seconds ({told.reason if told is not None else ''})"
                )
        found = self.ticks.end() | {"stages": sorted(stages) if training else []}
        return found | {"processor_busy": busy_since(busy_before)}

    def close(self) -> None:
        """End everything."""
        self.client.cancel()
        self._thread.close()
        self.stack.stop()

    def _until(self, done: Callable[[], bool]) -> None:
        end = time.monotonic() + START_TIME
        while not done():
            if self.observer.faults or time.monotonic() > end:
                raise SystemExit(f"nothing happens: {self.observer.faults or 'no fault is told'}")
            time.sleep(0.1)


def together(stretches: list[dict[str, Any]]) -> dict[str, Any]:
    """One column of the table."""
    return tick_figures(stretches) | {
        "stages": sorted({stage for s in stretches for stage in s["stages"] if stage}),
    }


def main() -> int:
    """Print the table; 1 when a tick was missed beside the trainer."""
    parser = stack_options(__doc__)
    parser.add_argument("--seconds", type=float, default=60.0, help="of each stretch")
    parser.add_argument("--rounds", type=int, default=2, help="stretches of each kind")
    parser.add_argument("--preset", default="tiny", help="of the training")
    parser.add_argument("--base", default=DEFAULT_POLICY)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    lease = take_domain()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    columns: dict[str, list[dict[str, Any]]] = {"without": [], "with": []}
    with tempfile.TemporaryDirectory(prefix="safedojo_beside_") as folder:
        beside = Beside(options, Path(folder))
        try:
            beside.start()
            for _ in range(options.rounds):
                columns["without"].append(beside.measure(False))
                beside.train()
                columns["with"].append(beside.measure(True))
                beside.rest()
        finally:
            beside.close()
            lease.release()
    table = {name: together(stretches) for name, stretches in columns.items()}
    show(table, options)
    if options.json:
        options.json.write_text(json.dumps(table, indent=1) + "\n")
    return int(table["with"]["missed"] > 0)


def show(table: dict[str, dict[str, Any]], options: argparse.Namespace) -> None:
    """Print the table, with the machine and the date."""
    print(machine())
    print(
        f"{options.rounds} stretches of {options.seconds:.0f} s each; pipeline '{options.preset}', "
        f"stages seen: {', '.join(table['with']['stages'])}"
    )
    print_table({f"{name} trainer": column for name, column in table.items()})


if __name__ == "__main__":
    sys.exit(main())
