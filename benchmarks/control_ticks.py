"""What the benchmarks of something beside the arm share: its control ticks, and their table."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from safedojo_ros.msg import FrankaState
from safedojo_ros.nodes.conversion import to_nanoseconds
from safedojo_ros.nodes.lifecycle import IN_ORDER

PERIOD_MS = 50.0
ROWS = (
    ("ticks", "ticks"),
    ("missed ticks", "missed"),
    ("jitter median, ms", "jitter_p50_ms"),
    ("jitter p99, ms", "jitter_p99_ms"),
    ("jitter max, ms", "jitter_max_ms"),
    ("rate, Hz", "rate_hz"),
    ("processors busy", "processor_busy"),
)


class Ticks:
    """Stamps of the control ticks while `listening`, and the counters of missed ones."""

    def __init__(self, observer: Any) -> None:
        self.listening = False
        self._stamps: list[int] = []
        self._missed: list[int] = []
        observer.create_subscription(FrankaState, "franka/state", self._on_state, IN_ORDER)

    def begin(self) -> None:
        """Start a stretch."""
        self._stamps, self._missed = [], []
        self.listening = True

    def end(self) -> dict[str, Any]:
        """The stretch's ticks, missed ones and intervals (ms)."""
        self.listening = False
        intervals = np.diff(np.array(self._stamps)) / 1e6
        missed = self._missed[-1] - self._missed[0] if self._missed else 0
        return {"ticks": len(self._stamps), "missed": missed, "intervals": intervals}

    def _on_state(self, message: FrankaState) -> None:
        if self.listening:
            self._stamps.append(to_nanoseconds(message.header.stamp))
            self._missed.append(int(message.missed_ticks))


def processor_time() -> tuple[float, float]:
    """(all, idle) time of all processors so far, in the kernel's units."""
    fields = [float(x) for x in Path("/proc/stat").read_text().splitlines()[0].split()[1:]]
    return sum(fields[:8]), fields[3] + fields[4]


def busy_since(before: tuple[float, float]) -> float:
    """Share of all processors' time that was used since `processor_time()` gave `before`."""
    every, idle = (now - then for now, then in zip(processor_time(), before, strict=True))
    return round(1.0 - idle / max(every, 1e-9), 3)


def tick_figures(stretches: list[dict[str, Any]]) -> dict[str, Any]:
    """One column of the table: stretches of one kind together."""
    intervals = np.concatenate([s["intervals"] for s in stretches])
    jitter = np.abs(intervals - PERIOD_MS)
    return {
        "ticks": sum(s["ticks"] for s in stretches),
        "missed": sum(s["missed"] for s in stretches),
        "jitter_p50_ms": round(float(np.percentile(jitter, 50)), 3),
        "jitter_p99_ms": round(float(np.percentile(jitter, 99)), 3),
        "jitter_max_ms": round(float(jitter.max()), 3),
        "rate_hz": round(1000.0 / float(intervals.mean()), 3),
        "processor_busy": round(float(np.mean([s["processor_busy"] for s in stretches])), 3),
    }


def print_table(columns: Mapping[str, Mapping[str, Any]]) -> None:
    """A row for each figure, a column for each kind of stretch."""
    print(f"{'control tick':22s}" + "".join(f" {name:>18s}" for name in columns))
    for label, key in ROWS:
        print(f"{label:22s}" + "".join(f" {column[key]:>18}" for column in columns.values()))
