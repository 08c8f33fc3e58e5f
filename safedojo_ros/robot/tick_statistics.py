"""How evenly a periodic task ran: jitter and missed periods. No ROS, no clock of its own."""

from collections import deque
from dataclasses import dataclass

import numpy as np

from safedojo_ros.core.units import SECOND


@dataclass(frozen=True)
class TickSummary:
    """ticks and missed since the start; jitter (s) = |interval − period| over the last ticks."""

    ticks: int
    missed: int
    jitter_p50: float
    jitter_p99: float


class TickStatistics:
    """Feed it the monotonic time of every tick.

    A period counts as missed when no tick fell into it: an interval of n periods (rounded) misses
    n − 1 of them.
    """

    def __init__(self, period: float, window: int = 1200) -> None:
        """period: s; window: over how many of the last ticks the jitter is taken."""
        self._period = period
        self._intervals: deque[float] = deque(maxlen=window)
        self._last: int | None = None
        self._ticks = self._missed = 0

    def tick(self, monotonic_ns: int) -> None:
        """Note one tick."""
        self._ticks += 1
        if self._last is not None:
            interval = (monotonic_ns - self._last) / SECOND
            self._intervals.append(interval)
            self._missed += max(0, round(interval / self._period) - 1)
        self._last = monotonic_ns

    def summary(self) -> TickSummary:
        """Jitter is 0 before the second tick."""
        if not self._intervals:
            return TickSummary(self._ticks, self._missed, 0.0, 0.0)
        jitter = np.abs(np.array(self._intervals) - self._period)
        median, tail = np.percentile(jitter, (50, 99))
        return TickSummary(self._ticks, self._missed, float(median), float(tail))
