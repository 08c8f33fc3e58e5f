"""What the arm will execute anyway while the next chunk is computed. No ROS, injected time.

A policy that knows it plans on from there, instead of from where the arm has not stayed. It is told
from the gated chunks and from what the arm says of itself, on the robot as in evaluation. An arm
that stands executes nothing until the next chunk is there, so nothing is committed then.
"""

from collections import deque

import numpy as np

from safedojo_ros.core.types import ACTION_SIZE, ActionChunk
from safedojo_ros.core.units import SECOND
from safedojo_ros.robot.playback.schedule import LATENCY_STEPS


class CommittedActions:
    """Knows the newest gated chunk, and how late chunks come."""

    def __init__(self, period: float, memory: int = 10) -> None:
        """period: s between two actions; memory: of how many chunks the lateness counts."""
        self._period = round(period * SECOND)
        self._ages: deque[int] = deque(maxlen=memory)
        self._actions = np.zeros((0, ACTION_SIZE))
        self._first_at = self._heard_at = 0
        self._stands = True

    @property
    def latency(self) -> int:
        """Control steps from an observation to the first action of its chunk, as a rule."""
        if not self._ages:
            return LATENCY_STEPS
        return -(-sorted(self._ages)[len(self._ages) // 2] // self._period)

    def forwarded(self, chunk: ActionChunk, now_ns: int) -> None:
        """The gate has forwarded `chunk`. An arm that moves goes on with it where the old one would
        be, an arm that stands begins with its first action."""
        self._ages.append(now_ns - chunk.observed_at)
        stands = self._stands or self._index(now_ns) >= len(self._actions)
        half = self._period // 2  # of a moving arm's stamps, each a step after the other
        self._first_at = now_ns if stands else chunk.observed_at - half
        self._actions, self._heard_at = np.asarray(chunk.actions), now_ns

    def arm(self, moves: bool, stamp_ns: int) -> None:
        """The arm said at `stamp_ns` whether it follows a chunk."""
        self._stands = not moves
        if self._stands and stamp_ns > self._heard_at + self._period:
            self._actions = np.zeros((0, ACTION_SIZE))

    def after(self, stamp_ns: int, longest: int) -> np.ndarray:
        """(d, 7): what the arm executes after an observation of `stamp_ns`, until its chunk comes;
        none where it stands or the old chunk has come to its end.

        longest: most steps, the policy's `longest_delay`: a policy that is told of more than it was
        trained for does worse than one that is told of nothing.
        """
        first = max(0, self._index(stamp_ns))
        return self._actions[first : first + min(self.latency, longest)]

    def _index(self, now_ns: int) -> int:
        return (now_ns - self._first_at) // self._period
