"""Executes action chunks, one action a control tick, and holds when nothing is safe to execute.

Actions are deltas that follow the chunk's observation. While a policy computes, the arm goes on
with the old chunk; so a new chunk starts at the action whose number is the count of actions
executed since its observation. Ticks on which the arm held count for nothing: nothing moved, and
a chunk that comes late to a standing arm starts at its first action.

What was executed since then is not what the new chunk would have done, so the arm stands beside the
new chunk's path; the next steps lead it over. Without that every change of chunks leaves an error
that no one has seen yet, and grasps miss (docs/benchmarks.md).
"""

from collections import deque
from dataclasses import dataclass, field

import numpy as np

from safedojo_ros.core.bounds import ACTION_BOUND
from safedojo_ros.core.config import check_ranges
from safedojo_ros.core.errors import ChunkRejected, ConfigError
from safedojo_ros.core.types import ACTION_SIZE, ActionChunk
from safedojo_ros.core.units import SECOND
from safedojo_ros.robot.gate.freshness import ChunkFreshness, FreshnessConfig
from safedojo_ros.robot.gate.gate import SLOW_FACTOR
from safedojo_ros.robot.limits import ActionLimits

MEMORY = 256
"""How many executed actions are remembered; more than any chunk may be long."""


@dataclass(frozen=True)
class PlaybackConfig:
    """How chunks follow each other."""

    blend_steps: int = 1
    """Control steps that lead from where the old chunk has brought the arm to the new one's path;
    more where limits of a step ask for it. 0: the new chunk goes on from where the arm is."""
    actuation_delay: float = 0.0
    """Seconds from an executed action to the first image that shows its motion."""
    max_tick_gap: float = 0.25
    """Seconds between two ticks beyond which the control loop has stalled."""
    freshness: FreshnessConfig = field(default_factory=FreshnessConfig)

    def __post_init__(self) -> None:
        check_ranges(self, blend_steps="[0, inf)", actuation_delay="[0, inf)")
        if not self.max_tick_gap > self.freshness.period:
            raise ConfigError(
                f"max_tick_gap is {self.max_tick_gap} s, expected more than the control period"
            )


class ChunkPlayback:
    """`accept` chunks as they come, `tick` once a control period.

    A rejected chunk drops the one that is being executed: the arm holds at the next tick. After a
    hold only a chunk whose observation is newer than the hold's beginning is taken, so a plan that
    was made before it is never continued. A chunk that simply runs out also ends in holding, but
    the chunk that was computed meanwhile may follow.

    A skipped sequence number while a chunk is executed is a fault like any other: the chunk is
    rejected and the arm holds; while the arm holds anyway (the gate forwards nothing then), the gap
    is only counted in `skipped`.
    """

    def __init__(self, config: PlaybackConfig | None = None) -> None:
        self.config = config or PlaybackConfig()
        self.reason = "no chunk yet"
        self.skipped = 0
        self.rejected = 0
        self._freshness = ChunkFreshness(self.config.freshness, restarts=False)
        self._plan = np.zeros((0, ACTION_SIZE))
        self._next = 0
        self._checkpoint = ""
        self._gripper = 0.0
        self._held_since: int | None = None
        self._last_tick: int | None = None
        self._last_action_at: int | None = None
        self._executed: deque[tuple[int, np.ndarray]] = deque(maxlen=MEMORY)

    @property
    def remaining(self) -> int:
        """Actions still to be executed."""
        return len(self._plan) - self._next

    @property
    def executing(self) -> bool:
        """Whether the next tick has an action."""
        return self.remaining > 0

    @property
    def following(self) -> np.ndarray | None:
        """The action (7,) of the next tick, if no other chunk comes; None at a chunk's end."""
        return self._plan[self._next] if self.executing else None

    @property
    def last_sequence(self) -> int:
        """Sequence of the newest chunk seen, 0 before the first."""
        return self._freshness.last_sequence or 0

    @property
    def checkpoint(self) -> str:
        """Checkpoint id of the newest chunk that was taken."""
        return self._checkpoint

    def accept(self, chunk: ActionChunk, now_ns: int, slow: bool = False) -> int:
        """Take `chunk` over; returns the index of its first action that will be executed.

        slow: the gate says SLOW; what it has slowed stays within so much smaller limits, and takes
        effect as it is, without blending. Chunks of two checkpoints are never blended. Raises
        `ChunkRejected`, and then the arm holds.
        """
        try:
            start = self._start_of(chunk, now_ns)
            if slow:
                self._check_slow(chunk)
        except ChunkRejected as error:
            self.rejected += 1
            self.hold(now_ns, str(error))
            raise
        actions = np.array(chunk.actions, dtype=np.float64)
        if not slow and chunk.checkpoint == self._checkpoint:
            executed = [action for _, action in self._executed][len(self._executed) - start :]
            actions = joined(actions, np.array(executed), self.config.blend_steps)
        self._plan, self._next = actions[start:], 0
        self._checkpoint = chunk.checkpoint
        self._held_since = None
        self.reason = ""
        return start

    def tick(self, now_ns: int) -> np.ndarray | None:
        """The action (7,) of this control step, or None: hold (`reason` says why).

        A tick less than half a period after the last action (a timer that catches up) moves
        nothing, so that the arm is never driven faster than the chunk says.
        """
        if self.executing:
            stall = self.stalled(now_ns)
            if stall:
                self.hold(now_ns, stall)
        last, self._last_tick = self._last_tick, now_ns
        if last is not None and now_ns < last:  # stamps of before mean nothing any more
            self._executed.clear()
            self._last_action_at = None
        if not self.executing:
            return None
        half = self.config.freshness.period * SECOND / 2
        if self._last_action_at is not None and 0 <= now_ns - self._last_action_at < half:
            return np.array([0.0] * (ACTION_SIZE - 1) + [self._gripper])
        action = self._plan[self._next].copy()
        self._next += 1
        self._gripper = float(action[6])
        self._last_action_at = now_ns
        self._executed.append((now_ns, action))
        if not self.executing:
            self.reason = "the chunk ran out before the next one came"
        return action

    def stalled(self, now_ns: int) -> str:
        """Why the time since the last tick must not be, or ""."""
        if self._last_tick is None:
            return ""
        gap = (now_ns - self._last_tick) / SECOND
        if gap < 0:
            return f"the clock went back by {-gap:.3f} s"
        return f"the control loop stalled for {gap:.3f} s" if gap > self.config.max_tick_gap else ""

    def restart(self, now_ns: int, reason: str, last_sequence: int = 0) -> None:
        """Hold, and forget observations and what was executed: a person has armed the arm anew.

        last_sequence: the newest chunk that the gate has judged; it and older ones stay old.
        """
        self._freshness.forget(last_sequence)
        self._executed.clear()
        self._held_since = self._last_tick = self._last_action_at = None
        self.hold(now_ns, reason)

    def hold(self, now_ns: int, reason: str) -> None:
        """Drop the chunk. Repeated calls keep the beginning of the hold."""
        self._plan, self._next = np.zeros((0, ACTION_SIZE)), 0
        if self._held_since is None or now_ns < self._held_since:
            self._held_since = now_ns
        self.reason = reason

    def _check_slow(self, chunk: ActionChunk) -> None:
        limits = self.config.freshness.limits
        slowed = ActionLimits(limits.position * SLOW_FACTOR, limits.rotation * SLOW_FACTOR)
        try:
            slowed.check(chunk.actions)
        except ChunkRejected as error:
            raise ChunkRejected(f"the gate says SLOW, but {error}") from None

    def _start_of(self, chunk: ActionChunk, now_ns: int) -> int:
        skipped = self._freshness.check(chunk, now_ns)
        if skipped:
            self.skipped += skipped
            if self.executing:
                raise ChunkRejected(
                    f"{skipped} chunk(s) before sequence {chunk.sequence} were lost while the arm "
                    "was moving"
                )
        if self._held_since is not None and chunk.observed_at <= self._held_since:
            ago = (self._held_since - chunk.observed_at) / SECOND
            raise ChunkRejected(
                f"chunk {chunk.sequence} was observed {ago:.3f} s before the arm held; "
                f"waiting for a newer one (held because: {self.reason})"
            )
        shown_until = chunk.observed_at - round(self.config.actuation_delay * SECOND)
        start = sum(1 for stamp, _ in self._executed if stamp > shown_until)
        if start >= len(chunk):
            raise ChunkRejected(
                f"chunk {chunk.sequence} came too late: {start} actions were executed since its "
                f"observation, it has {len(chunk)}"
            )
        return start


def joined(actions: np.ndarray, executed: np.ndarray, blend_steps: int) -> np.ndarray:
    """`actions` (H, 7) after `executed` (n, 7) took the place of the first n, back on their path.

    The steps from n on make up for the difference, `blend_steps` of them where the limits of a
    step allow it. Rotations of a few steps are small enough to be added like translations.
    """
    start = len(executed)
    if start == 0 or blend_steps == 0:
        return actions
    apart = actions[:start, :6].sum(0) - executed[:, :6].sum(0)
    result = actions.copy()
    for number, move in enumerate(result[start:, :6]):
        share = apart / max(1, blend_steps - number)
        whole = np.clip(move + share, -ACTION_BOUND[:6], ACTION_BOUND[:6])
        apart -= whole - move
        move[:] = whole
    return result
