"""When the next chunk must be asked for, so that it is there before the old one ends. No ROS."""

from collections import deque
from math import ceil

from safedojo_ros.core.units import SECOND

MARGIN_STEPS = 3
"""Steps between asking for a chunk and its latest use, for transport and gate."""

LATENCY_STEPS = 2
"""Control steps from an observation to the first action that answers it. In the demonstration, on
two cores of an AMD EPYC with nothing else to do, a chunk is there after 66 to 71 ms (median), which
is one or two steps, as the ticks lie between the images: the slower of both."""


def steps_ahead(computing: int, margin: int, length: int) -> int:
    """How many steps before the end of a chunk of `length` the next one is due.

    computing: steps that the policy takes; margin: steps for transport and gate.
    """
    return min(computing + margin, max(1, length - 1))


def steps_between(length: int, latency: int = LATENCY_STEPS) -> int:
    """Actions of a chunk of `length` between two inferences, where each comes `latency` steps late.

    One step of the latency at most is not the policy's.
    """
    return length - steps_ahead(max(1, latency - 1), MARGIN_STEPS, length)


class ChunkSchedule:
    """Knows the newest chunk and how long chunks take to compute.

    The next chunk is due as many steps before the end of the old one as computing took lately
    (the slowest of the last few), plus `margin_steps` for transport and gate.
    """

    def __init__(self, period: float, margin_steps: int = MARGIN_STEPS, memory: int = 10) -> None:
        """period: s between two actions; memory: how many computations count as lately."""
        self._period, self._margin = period, margin_steps
        self._latencies: deque[float] = deque(maxlen=memory)
        self._observed_at: int | None = None
        self._length = 0

    def asked(self, observed_at: int, length: int) -> None:
        """A chunk of `length` actions was asked for, from the observation of `observed_at` ns."""
        self._observed_at, self._length = observed_at, length

    def answered(self, seconds: float) -> None:
        """Computing it took `seconds`."""
        self._latencies.append(seconds)

    def restart(self) -> None:
        """Make a chunk due at once: the instruction or the policy changed."""
        self._observed_at = None

    def due(self, stamp: int) -> bool:
        """Whether an observation of `stamp` (ns) is the one to compute from."""
        if self._observed_at is None or stamp < self._observed_at:  # the clock went back
            return True
        steps = (stamp - self._observed_at) / (self._period * SECOND)
        return round(steps, 2) >= self._length - self.steps_ahead

    @property
    def steps_ahead(self) -> int:
        """How many steps before the end of a chunk the next one is due."""
        slowest = max(self._latencies, default=self._period)
        return steps_ahead(ceil(slowest / self._period), self._margin, self._length)
