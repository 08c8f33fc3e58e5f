"""What looking costs the arm's control loop: one table, without, with the view, with a browser.

`python benchmarks/viewing.py` runs the demonstration's nodes in real time (20 Hz) on the embedded
world and measures stretches of `--seconds` in turns, so that a drift of the machine does not count
for one side: nobody looks; the live view's node draws and serves; and a browser on the same machine
shows the page (`--browser`). Jitter is |interval − 50 ms| of the arm's control tick;
a tick is missed when a period had none. Some seconds after each change are left out.
"""

import contextlib
import json
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from control_ticks import Ticks, busy_since, print_table, processor_time, tick_figures
from demo_stack import demo_stack, machine, stack_options, take_domain

from safedojo_ros.msg import FrankaState
from safedojo_ros.nodes.stack.demo_observer import ObserverThread
from safedojo_ros.nodes.stack.processes import StackProcesses
from safedojo_ros.nodes.stack.registry import VIEW

sys.path.append(str(Path(__file__).resolve().parents[1] / "test"))
from browser import Browser

START_TIME = 300.0
SETTLE = 5.0
"""Seconds left out after each change."""
SIZE = (1280, 800)


class Viewing:
    """The running stack, which can be looked at."""

    def __init__(self, stack: StackProcesses) -> None:
        self._view, self._stack = stack.child(VIEW.name), stack
        self._thread = ObserverThread()
        self._heard = self._thread.node
        self._ticks = Ticks(self._heard)

    def start(self) -> None:
        """Everything but the view; wait until the arm moves."""
        for child in self._stack.children:
            if child is not self._view:
                self._stack.start_one(child)
        self._until(
            lambda: self._heard.arm is not None and self._heard.arm.state == FrankaState.RUNNING
        )

    def look(self) -> str:
        """Start the view; its page's address."""
        self._heard.words.pop(VIEW.name, None)
        self._stack.start_one(self._view)
        self._until(lambda: self._heard.words.get(VIEW.name, "").startswith("http"))
        return self._heard.words[VIEW.name]

    def rest(self) -> None:
        """End the view."""
        self._stack.end_one(self._view)

    def measure(self, seconds: float) -> dict[str, Any]:
        """One stretch."""
        time.sleep(SETTLE)
        before = processor_time()
        self._ticks.begin()
        time.sleep(seconds)
        return self._ticks.end() | {"processor_busy": busy_since(before)}

    def close(self) -> None:
        """End everything."""
        self._thread.close()
        self._stack.stop()

    def _until(self, done: Callable[[], bool]) -> None:
        end = time.monotonic() + START_TIME
        while not done():
            if self._heard.faults or time.monotonic() > end:
                raise SystemExit(f"nothing happens: {self._heard.faults or 'no fault is told'}")
            time.sleep(0.1)


def main() -> int:
    """Print the table; 1 when a tick was missed while the view was served."""
    parser = stack_options(__doc__)
    parser.add_argument("--seconds", type=float, default=20.0, help="of each stretch")
    parser.add_argument("--rounds", type=int, default=2, help="stretches of each kind")
    parser.add_argument(
        "--browser", action="store_true", help="also with the page open in headless Chromium"
    )
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    lease = take_domain()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    stretches: dict[str, list[dict[str, Any]]] = {"nobody looks": [], "view served": []}
    if options.browser:
        stretches["page in a browser"] = []
    viewing = Viewing(demo_stack(options, (VIEW,)))
    try:
        viewing.start()
        for _ in range(options.rounds):
            for name, found in stretches.items():
                with contextlib.ExitStack() as opened:
                    if name != "nobody looks":
                        page = viewing.look()
                        opened.callback(viewing.rest)
                    if name == "page in a browser":
                        opened.enter_context(Browser(page, SIZE)).picture()
                    found.append(viewing.measure(options.seconds))
    finally:
        viewing.close()
        lease.release()
    table = {name: tick_figures(found) for name, found in stretches.items()}
    print(machine())
    print(f"{options.rounds} stretches of {options.seconds:.0f} s of each kind, in turns")
    print_table(table)
    if options.json:
        options.json.write_text(json.dumps(table, indent=1) + "\n")
    return int(table["view served"]["missed"] > 0)


if __name__ == "__main__":
    sys.exit(main())
