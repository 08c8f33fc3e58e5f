"""Is this chunk well-formed, within limits, recent and in order? Asked by gate and playback."""

from dataclasses import dataclass, field, replace

import numpy as np

from safedojo_ros.core.config import check_ranges
from safedojo_ros.core.errors import ChunkRejected
from safedojo_ros.core.types import CONTROL_PERIOD, ActionChunk
from safedojo_ros.core.units import SECOND
from safedojo_ros.robot.limits import ActionLimits

FUTURE_TOLERANCE = 0.01
"""Seconds that any stamp (image, chunk, measured pose, heartbeat) may lie ahead of the clock. Two
synchronised machines differ by less; and what is stamped ahead looks younger than it is, by a fifth
of a control period at most."""


@dataclass(frozen=True)
class FreshnessConfig:
    """What counts as fresh."""

    period: float = CONTROL_PERIOD
    """Seconds between two actions; a chunk with another period is rejected."""
    max_age: float = 0.5
    """Seconds from observation to arrival beyond which a chunk is stale."""
    restart_after: float = 0.5
    """Seconds without a fresh chunk after which a lower sequence is a restarted publisher."""
    frame: str = "base"
    """Frame of the translations; a chunk in another frame is rejected."""
    limits: ActionLimits = field(default_factory=ActionLimits)

    def __post_init__(self) -> None:
        check_ranges(self, period="(0, inf)", max_age="(0, inf)", restart_after="(0, inf)")


class ChunkFreshness:
    """Remembers the last sequence and observation of one stream of chunks.

    A restarted publisher counts from the beginning again. It is let in when no fresh chunk has
    come for `restart_after` and its observation is newer than every one seen; a replayed message
    never is, because its observation is not newer. When the clock goes back the observations seen
    lie in the future and are forgotten; from then on no lower sequence is let in before `forget`.
    """

    def __init__(self, config: FreshnessConfig | None = None, restarts: bool = True) -> None:
        """restarts: whether a restarted publisher is let in without `forget`."""
        self.config = config or FreshnessConfig()
        self._restarts = restarts
        self.last_sequence: int | None = None
        self.last_observed_at: int | None = None
        self._fresh_at: int | None = None
        self._checked_at: int | None = None
        self._went_back = False

    def check(self, chunk: ActionChunk, now_ns: int) -> int:
        """Return how many sequence numbers were skipped before `chunk` (0 = in order).

        Raises `ChunkRejected` for anything else that is wrong. A rejected chunk's number still
        counts as seen, so that its successor is not called a gap as well.
        """
        if self._checked_at is not None and now_ns < self._checked_at:
            self.last_observed_at, self._went_back = None, True
        self._checked_at = now_ns
        last = self.last_sequence
        restarted = (
            self._restarts
            and last is not None
            and chunk.sequence <= last
            and self._fresh_at is not None
            and not self._went_back
            and now_ns - self._fresh_at > self.config.restart_after * SECOND
            and self._newer(chunk)
        )
        if last is None or restarted or chunk.sequence > last:
            self.last_sequence = int(chunk.sequence)
        self.check_content(chunk)
        self._check_time(chunk, now_ns)
        if last is not None and not restarted and chunk.sequence <= last:
            hint = "; the clock went back: call safety/recover" if self._went_back else ""
            raise ChunkRejected(
                f"sequence {chunk.sequence} came after {last}: a replayed or reordered chunk{hint}"
            )
        if not self._newer(chunk):
            raise ChunkRejected(
                f"chunk {chunk.sequence} answers an observation that is not newer than the last "
                "one; is the camera frozen?"
            )
        self.last_observed_at = int(chunk.observed_at)
        self._fresh_at = now_ns
        return 0 if last is None or restarted else int(chunk.sequence) - last - 1

    def forget(self, last_sequence: int | None = None) -> None:
        """Start over, after a person has armed or recovered (the clock may have been set back).

        last_sequence: the newest one that others have seen; it and older ones stay replayed.
        """
        self.last_sequence, self.last_observed_at = last_sequence, None
        self._fresh_at = self._checked_at = None
        self._went_back = False

    def _newer(self, chunk: ActionChunk) -> bool:
        return self.last_observed_at is None or chunk.observed_at > self.last_observed_at

    def check_content(self, chunk: ActionChunk) -> None:
        """Raise `ChunkRejected` for what is wrong with `chunk` whenever it comes."""
        try:
            actions = np.asarray(chunk.actions, dtype=np.float64)
        except (TypeError, ValueError):
            raise ChunkRejected("the actions are not a table of numbers") from None
        replace(chunk, actions=actions).validate()
        config = self.config
        if abs(chunk.period - config.period) > 0.01 * config.period:
            raise ChunkRejected(f"period is {chunk.period:.4g} s, expected {config.period:.4g} s")
        if chunk.frame != config.frame:
            raise ChunkRejected(f"frame is '{chunk.frame}', expected '{config.frame}'")
        config.limits.check(chunk.actions)

    def _check_time(self, chunk: ActionChunk, now_ns: int) -> None:
        age = (now_ns - chunk.observed_at) / SECOND
        if age < -FUTURE_TOLERANCE:
            raise ChunkRejected(
                f"chunk {chunk.sequence} was observed {-age:.3f} s in the future; "
                "synchronise the clocks"
            )
        if age > self.config.max_age:
            raise ChunkRejected(
                f"chunk {chunk.sequence} was observed {age:.3f} s ago, the limit is "
                f"{self.config.max_age:g} s"
            )
